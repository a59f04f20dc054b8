"""What is asked of a place where areas are kept: what they take, which limits are in force, and to set them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allocations.storage.tree.usage import FolderUse

Value = TypeVar("Value")


class BackendError(Exception):
    """A file system or bucket does not do what is asked of it; the message says what an administrator can do."""


@dataclass(frozen=True, slots=True)
class Area:
    """One tree, or prefix of a bucket: `place` is its name beneath the folder or bucket of its class.

    `number` is its own among all areas for ever; where a file system knows projects, it is the project's.
    """

    id: str
    number: int
    place: str


@dataclass(frozen=True, slots=True)
class Use:
    """What an area takes: bytes on the file system; `files` and the `largest` folders where the source knows them.

    `passed_over` counts what the source could not look into, so that there may be more.
    """

    bytes: int
    files: int | None = None
    largest: tuple[FolderUse, ...] = ()
    passed_over: int = 0


@dataclass(slots=True)
class Found(Generic[Value]):
    """Answers by the areas' ids: each is in one of the three. `problems` are sentences; `missing` is not made yet."""

    of: dict[str, Value] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)


class Backend(Protocol):
    """A place where areas of one class are kept.

    What fails for one area is among its answers' problems; BackendError or OSError, where it fails for all.
    """

    @property
    def enforces(self) -> bool:
        """Whether a write past a limit fails."""

    @property
    def grain_bytes(self) -> int:
        """What limits are multiples of."""

    def usage(self, areas: Sequence[Area]) -> Found[Use]:
        """Measure areas."""

    def limits(self, areas: Sequence[Area]) -> Found[int | None]:
        """Return the bytes that each may take at most; None: no limit binds the whole of it."""

    def apply(self, area: Area, limit_bytes: int | None) -> None:
        """Put a limit in force, or take it away; raises BackendError or OSError."""

    def make(self, area: Area) -> None:
        """Make an area, empty and without limit; one that is there stays as it is. Raises as `apply`."""


def name_of(area: Area) -> str:
    """Return the name of an area's folder; BackendError where it could lead elsewhere."""
    if area.place in ("", ".", "..") or "/" in area.place or "\0" in area.place:
        raise BackendError(f"{area.place!r} is not the name of a folder: correct the place of area {area.id}")
    return area.place


def in_grains(limit_bytes: int | None, grain_bytes: int) -> int | None:
    """Return a limit as a backend takes it: rounded down, but never to nothing, which some take for no limit."""
    return None if limit_bytes is None else max(grain_bytes, limit_bytes - limit_bytes % grain_bytes)


def sentence(error: Exception) -> str:
    """Say what failed."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
