"""How far long work has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from allocations.storage.archive.members import Readable


class Progress(Protocol):
    """What is told now and then; whoever raises from it ends the work, which may be gone on with later."""

    def __call__(self, done_bytes: int, total_bytes: int, /) -> None:
        """Take note."""


def untold(_done_bytes: int, _total_bytes: int, /) -> None:
    """Tell nobody."""


class Meter:
    """Tells how many of so many bytes are done."""

    def __init__(self, progress: Progress, total_bytes: int) -> None:
        """Begin with none."""
        self._progress = progress
        self._total_bytes = total_bytes
        self._done_bytes = 0

    def tell(self, more_bytes: int) -> None:
        """Say that so many more than those added are done, until something else is said."""
        self._progress(self._done_bytes + more_bytes, self._total_bytes)

    def add(self, more_bytes: int) -> None:
        """Add what is done for good."""
        self._done_bytes += more_bytes
        self.tell(0)


class Metered:
    """A stream of which is told how far it was read."""

    def __init__(self, stream: Readable, meter: Meter) -> None:
        """Begin."""
        self._stream = stream
        self._meter = meter

    def read(self, size: int, /) -> bytes:
        """Read on."""
        piece = self._stream.read(size)
        self._meter.add(len(piece))
        return piece
