"""Writes the parts of an archive: what is compressed by several threads comes out in order, in frames of equal size."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import zstandard

from allocations.storage.archive.format import FRAME_BYTES, Stored, footer

if TYPE_CHECKING:
    from concurrent.futures import Future

    from allocations.storage.archive.stores import Sink

LEVEL = 3


class Compressors:
    """Threads that compress; a context manager. A frame does not depend on which of them made it."""

    def __init__(self, threads: int) -> None:
        """Start as many as are needed."""
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compress")

    def __enter__(self) -> Self:
        """Return the compressors themselves."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Wait until they have ended."""
        self._pool.shutdown(cancel_futures=True)

    def compress(self, data: bytes) -> Future[bytes]:
        """Begin to make a frame."""
        return self._pool.submit(_frame, data)


def _frame(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(LEVEL, write_checksum=True).compress(data)


class PartWriter:
    """Writes one part into an object; holds a few frames. `at`: how many bytes of tar there are so far."""

    def __init__(self, sink: Sink, compressors: Compressors) -> None:
        """Begin with nothing."""
        self.at = 0
        self._sink = sink
        self._compressors = compressors
        self._held = bytearray()
        self._waiting: deque[Future[bytes]] = deque()
        self._frames: list[int] = []
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        """Add bytes of tar; raises StoreError."""
        self._held += data
        self.at += len(data)
        while len(self._held) >= FRAME_BYTES:
            self._begin_frame(FRAME_BYTES)

    def finish(self, lines: list[bytes]) -> Stored:
        """Write what is held, and the part's list; returns what the object is, which is still to be committed."""
        self._begin_frame(len(self._held))
        while self._waiting:
            self._end_frame()
        self._put(footer(self._frames, lines))
        return Stored(self._bytes, self._hash.hexdigest())

    def _begin_frame(self, size: int) -> None:
        self._waiting.append(self._compressors.compress(bytes(memoryview(self._held)[:size])))
        del self._held[:size]
        if len(self._waiting) > self._compressors.threads:
            self._end_frame()

    def _end_frame(self) -> None:
        frame = self._waiting.popleft().result()
        self._frames.append(len(frame))
        self._put(frame)

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        self._bytes += len(data)
        self._sink.write(data)
