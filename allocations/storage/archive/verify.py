"""Reads an archive back, all of it: every object, every member, and that the manifest tells the same.

What is deleted afterwards is deleted on this word, so nothing is taken from the run that wrote it but archive.json.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from allocations.storage.archive.format import (
    MANIFEST,
    TYPES,
    Archive,
    Hashed,
    Line,
    Tally,
    decompressed,
    part_name,
    read_commit,
    read_lines,
)
from allocations.storage.archive.members import FILE, DamagedError, Member, Readable, read_data, read_member
from allocations.storage.archive.progress import Meter, Metered, untold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.storage.archive.progress import Progress
    from allocations.storage.archive.stores import Store


def verify(store: Store, progress: Progress = untold) -> Archive:
    """Read everything back; returns what archive.json says. Progress is told in bytes of parts.

    Raises DamagedError, which names the object; AbsentError where archive.json or a part is not there; StoreError.
    """
    archive = read_commit(store)
    lines = _Lines(manifest(store, archive))
    parts = [part_name(number) for number in range(archive.parts)]
    meter = Meter(progress, sum(archive.objects[name].bytes for name in parts))
    for number, name in enumerate(parts):
        with _named(name), _whole(store, name, archive) as stream:
            tar = _Counted(decompressed(Metered(stream, meter)))
            at = 0
            while (of := read_member(tar)) is not None:
                line = lines.next_member(number)
                if line.at != at:
                    raise DamagedError(f"{line.path!r} is not where the manifest tells")
                _compare(of, tar, line)
                at = tar.at
    lines.finish(archive)
    return archive


def check_member(of: Member | None, line: Line) -> Member:
    """Return a member as it was read; raises DamagedError where it is not what the manifest tells of it."""
    if of is None:
        raise DamagedError(f"{line.path!r} is not where the manifest tells")
    size = of.size if of.kind == FILE else line.size
    told = (of.path, TYPES[of.kind], size, of.mode, of.uid, of.gid, of.mtime_ns, of.atime_ns, of.link)
    if told != (
        line.path,
        line.type,
        line.size,
        line.mode,
        line.uid,
        line.gid,
        line.mtime_ns,
        line.atime_ns,
        line.link,
    ):
        raise DamagedError(f"{line.path!r} is not what the manifest tells")
    return of


def check_content(of: Member, sha256: str, line: Line) -> None:
    """Raise DamagedError where the content of a file, by its sha256 in hexadecimal, is not what was archived."""
    if of.kind == FILE and sha256 != line.sha256:
        raise DamagedError(f"the content of {line.path!r} is not what was archived")


def _compare(of: Member, tar: Readable, line: Line) -> None:
    check_member(of, line)
    digest = hashlib.sha256()
    for _offset, _piece in read_data(tar, of, digest):
        pass
    check_content(of, digest.hexdigest(), line)


class _Counted:
    """A stream that knows how many bytes were read of it."""

    def __init__(self, stream: Readable) -> None:
        self.at = 0
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        piece = self._stream.read(size)
        self.at += len(piece)
        return piece


class _Lines:
    """The lines of a manifest, in the order of the members that they tell of."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._tally = Tally()

    def next_member(self, part: int) -> Line:
        line = self._next()
        if line is None or line.part != part:
            raise DamagedError("the manifest tells of fewer members")
        return line

    def finish(self, archive: Archive) -> None:
        if self._next() is not None:
            raise DamagedError(f"{MANIFEST}: it tells of more members than there are")
        self._tally.check(archive)

    def _next(self) -> Line | None:
        for line in self._lines:
            self._tally.add(line)
            if not line.left:
                return line
        return None


def manifest(store: Store, archive: Archive) -> Iterator[Line]:
    """Yield what the manifest tells; raises DamagedError, at its end too where it is another one, and StoreError."""
    with _named(MANIFEST), _whole(store, MANIFEST, archive) as stream:
        yield from read_lines(decompressed(stream))


@contextmanager
def _whole(store: Store, name: str, archive: Archive) -> Iterator[Readable]:
    """Read an object; in the end it must be what archive.json says."""
    with store.read(name) as stream:
        hashed = Hashed(stream)
        yield hashed
        if hashed.finish() != archive.objects[name]:
            raise DamagedError("it is not what was written: its size or its sha256 differs")


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{name}: {error}") from error
