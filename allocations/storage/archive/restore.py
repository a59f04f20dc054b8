"""Brings files back out of an archive: one, a folder, or everything; see `target` for how they are put in place.

Neither the tree nor the archive is trusted: what is damaged or in the way is told, and the rest is restored. A restore
that was killed is done again with the same token, and passes over what is there as it should be.
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from allocations.storage.archive import members
from allocations.storage.archive.format import (
    FRAME_BYTES,
    MANIFEST,
    Line,
    Tally,
    check_path,
    decompressed,
    part_name,
    read_commit,
    read_lines,
    read_list,
)
from allocations.storage.archive.members import DamagedError, Member, read_data, read_exactly, read_member
from allocations.storage.archive.progress import Meter, untold
from allocations.storage.archive.scratch import raising, scratch_database
from allocations.storage.archive.selection import Selection
from allocations.storage.archive.stores import AbsentError
from allocations.storage.archive.target import AlreadyThereError, InTheWayError, LinkError, Target
from allocations.storage.archive.verify import check_content, check_member, manifest

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from allocations.storage.archive.format import Archive
    from allocations.storage.archive.members import Readable
    from allocations.storage.archive.progress import Progress
    from allocations.storage.archive.stores import Store
    from allocations.storage.tree.beneath import Root

PROBLEMS_TOLD = 100
_FULL = (errno.ENOSPC, errno.EDQUOT)


class NoRoomError(Exception):
    """The file system is full, or its owner's quota is, or there is no room for temporary files."""


@dataclass
class Restored:
    """What a restore did: members put in place and their bytes, those that were there already, and what was not
    restored: (path, sentence), the first PROBLEMS_TOLD of them."""

    members: int = 0
    bytes: int = 0
    there: int = 0
    there_bytes: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    problem_count: int = 0

    def tell(self, path: str, why: str) -> None:
        """Take note of a problem."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_TOLD:
            self.problems.append((path, why))


def restore(
    store: Store,
    root: Root,
    *,
    token: str,
    owner: tuple[int, int],
    into: str = "",
    paths: Sequence[str] | None = None,
    progress: Progress = untold,
) -> Restored:
    """Bring back the `paths` (all: None), files or folders, into a folder beneath the root, `""` for where they were.

    `token` is the same when a restore is done again; `owner` (uid, gid) has the folders that the archive does not tell
    of. Progress is told in bytes of files, as `ls` shows them. Raises DamagedError where the manifest is damaged,
    StoreError, NoRoomError, and InTheWayError where the staging folder is somebody else's or something else is where
    all is to be put `into`; all else is told in what is returned.
    """
    if into:
        check_path(into)
    archive = read_commit(store)
    selection = Selection(paths)
    meter = Meter(progress, _survey(store, archive, selection))
    with (
        raising(NoRoomError),
        Target(root, token=token, owner=owner, into=into) as target,
        _Tars(store, archive) as tars,
    ):
        run = _Run(store, target, tars, meter, f"{into}/" if into else "")
        run.all_of(selection)
        for path, why in target.finish():
            run.restored.tell(path, why)
    for path in selection.missing():
        run.restored.tell(path, "it is not in the archive")
    return run.restored


def _survey(store: Store, archive: Archive, selection: Selection) -> int:
    """Read all of the manifest before anything is made, as it may lie; returns the bytes of what is selected."""
    tally = Tally()
    selected = 0
    try:
        for line in manifest(store, archive):
            tally.add(line)
            if not line.left and not line.above and selection.has(line.path):
                selected += line.size
        tally.check(archive)
    except DamagedError as error:
        raise DamagedError(f"{error}: restore from another copy of the archive") from error
    return selected


class _Run:
    """Restores lines of a manifest, one after the other."""

    def __init__(self, store: Store, target: Target, tars: _Tars, meter: Meter, prefix: str) -> None:
        self.restored = Restored()
        self._store = store
        self._target = target
        self._tars = tars
        self._meter = meter
        self._prefix = prefix

    def all_of(self, selection: Selection) -> None:
        """Restore what is selected, then hard links to what is not, or was in the way, as files of their own."""
        with closing(scratch_database()) as later:
            later.execute("CREATE TABLE links (number INTEGER PRIMARY KEY, target, path, line)")
            later.execute("CREATE INDEX of_target ON links (target)")
            for line in self._lines():
                if not selection.has(line.path):
                    if line.type != "folder" or not selection.is_on_the_way(line.path):
                        continue
                    line = replace(line, above=True)  # noqa: PLW2901
                if line.left:
                    self.restored.tell(line.path, f"it was not archived: {line.left}")
                    continue
                if self._one(line):
                    self._meter.add(0 if line.above else line.size)
                else:
                    later.execute(
                        "INSERT INTO links (target, path, line) VALUES (?, ?, ?)",
                        (os.fsencode(line.link), os.fsencode(line.path), line.to_json()),
                    )
            if later.execute("SELECT 1 FROM links").fetchone():
                self._links_of_their_own(later)

    def _links_of_their_own(self, later: sqlite3.Connection) -> None:
        for line in self._lines():
            if line.type == "file":
                raw = os.fsencode(line.path)
                links = later.execute(
                    "SELECT path, line FROM links WHERE target = ? ORDER BY number", (raw,)
                ).fetchall()
                first = None
                for path, text in links:
                    if first is None:
                        first = os.fsdecode(path)
                        self._one(line, first)
                    elif not self._one(Line.from_json(text), target=first):
                        self.restored.tell(os.fsdecode(path), "what it is another name of could not be restored")
                    self._meter.add(line.size)
                later.execute("DELETE FROM links WHERE target = ?", (raw,))
        for (path,) in later.execute("SELECT path FROM links"):
            self.restored.tell(os.fsdecode(path), "what it is another name of is not in the archive")

    def _one(self, line: Line, path: str | None = None, *, target: str | None = None) -> bool:
        """Restore a line at its path or another; False for a link whose target is not there."""
        at = self._prefix + (path or line.path)
        try:
            try:
                self._put(line, at, target)
            except DamagedError:
                # What was damaged on its way is whole when it is read once more.
                self._put(line, at, target)
        except AlreadyThereError:
            # Folders that are only on the way are told of in each part.
            self.restored.there += not line.above
            self.restored.there_bytes += line.size
        except LinkError:
            return False
        except (InTheWayError, DamagedError, AbsentError) as error:
            self.restored.tell(at, str(error))
        except OSError as error:
            if error.errno in _FULL:
                raise NoRoomError(f"There is no room for {at!r}: make some, then restore again") from error
            self.restored.tell(at, error.strerror or str(error))
        else:
            self.restored.members += not line.above
            self.restored.bytes += line.size
        return True

    def _put(self, line: Line, at: str, target: str | None) -> None:
        of, data = self._tars.member(line)
        if of.kind == members.FOLDER:
            self._target.put_folder(of, at)
        elif of.kind == members.LINK:
            self._target.put_link(of, at, self._prefix + (target or line.link), line.size)
        else:
            self._target.put(of, at, self._told(data))

    def _told(self, data: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        for offset, piece in data:
            yield offset, piece
            self._meter.tell(offset + len(piece))

    def _lines(self) -> Iterator[Line]:
        with self._store.read(MANIFEST) as stream:
            yield from read_lines(decompressed(stream))


class _Tars:
    """Reads members out of parts, mostly in the order in which they are there; a context manager."""

    def __init__(self, store: Store, archive: Archive) -> None:
        self._store = store
        self._archive = archive
        self._part = -1
        self._frames: list[int] = []
        self._stack = ExitStack()
        self._stream: Readable | None = None
        self._at = 0

    def __enter__(self) -> _Tars:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def member(self, line: Line) -> tuple[Member, Iterator[tuple[int, bytes]]]:
        """Return a member and its data, of which none need be read; raises DamagedError, StoreError."""
        if line.part != self._part:
            self._begin_part(line.part)
        if self._stream is None or not self._at <= line.at <= self._at + FRAME_BYTES:
            self._open(line.at)
        try:
            self._skip(line.at - self._at)
            of = check_member(read_member(self), line)
        except DamagedError:
            self._close()
            raise
        return of, self._data(of, line)

    def read(self, size: int, /) -> bytes:
        """Read on in the tar."""
        assert self._stream is not None
        piece = self._stream.read(size)
        self._at += len(piece)
        return piece

    def _data(self, of: Member, line: Line) -> Iterator[tuple[int, bytes]]:
        digest = hashlib.sha256()
        try:
            yield from read_data(self, of, digest)
            check_content(of, digest.hexdigest(), line)
        except DamagedError:
            # Frames are apart: what comes next may well be whole.
            self._close()
            raise

    def _begin_part(self, number: int) -> None:
        self._close()
        name = part_name(number)
        if name not in self._archive.objects:
            raise DamagedError("the manifest tells of a part that there is not")
        self._frames = read_list(self._store, name, self._archive.objects[name].bytes).frames
        self._part = number

    def _open(self, at: int) -> None:
        self._close()
        frame = at // FRAME_BYTES
        if not 0 <= frame < len(self._frames):
            raise DamagedError("it is not where the manifest tells")
        start, end = sum(self._frames[:frame]), sum(self._frames)
        self._stream = decompressed(self._stack.enter_context(self._store.read(part_name(self._part), start, end)))
        self._at = frame * FRAME_BYTES

    def _skip(self, size: int) -> None:
        while size:
            size -= len(read_exactly(self, min(size, members.PIECE_BYTES)))

    def _close(self) -> None:
        self._stack.close()
        self._stream = None
