"""Deletes what was planned and stands in a verified archive, of trees that their owners may change meanwhile.

Every entry is opened beneath the root, compared with the plan and with the manifest, moved into the trash folder,
compared once more there, and only then removed; what differs is put back where it was, over nothing. So nothing is
removed that is not, itself and unchanged, what was archived:

- A file that was written, touched or given other rights since it was archived has another size, mtime or ctime. Writing
  through a mapping sets them at the first store after the page was last written out (on tmpfs never: keep no areas
  there); a file that is old enough to be planned was written out long ago.
- A file that anybody has open or mapped for writing is left, and nobody gets it open for writing between our look and
  its end, where the file system has leases and the account the right to them (CAP_LEASE). Elsewhere a program that
  opened it before and writes after our last look writes to a file without a name, as with any `rm`; `unguarded` counts.
- A program that has it open for reading reads on.
- Moving a folder out of the root while an entry of it is being moved into the trash does not take the entry along: it
  is put back into the folder, wherever that is.

Killed at any point, the same call is to be done again with the same plan and archive: what is in the trash is then
removed if its content is what was archived, and put back otherwise.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Self

from allocations.storage.purge.looking import (
    GONE_ELSEWHERE,
    Guard,
    UnlikeError,
    check_archived,
    check_content,
    check_folder,
    check_rights,
    check_same,
    check_touched,
    guarded,
)
from allocations.storage.purge.trash import TRASH, Trash
from allocations.storage.tree.beneath import FOLDER, ElsewhereError, identity
from allocations.storage.tree.walk import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from allocations.storage.archive.format import Line
    from allocations.storage.purge.planfile import Planned
    from allocations.storage.tree.beneath import Root

LEFT_TOLD = 1_000
# What `told` hears of an entry that was not there any more.
GONE = "it was gone already"
# What `reached` is told, in the order in which an entry comes by.
POINTS = ("begun", "checked", "moved", "compared", "removed", "put back", "ended")
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS_TO_SEE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass
class Deleted:
    """What was deleted: files (all that is no folder), folders, and the bytes that the plan told of them.

    `gone`: entries that were not there any more, removed by their owner or by the same purge before it was killed;
    `left`: (path, sentence), the first LEFT_TOLD of `left_count`; `unguarded`: files deleted without a lease;
    `stopped`: whether there was more to do.
    """

    files: int = 0
    folders: int = 0
    bytes: int = 0
    gone: int = 0
    left: list[tuple[str, str]] = field(default_factory=list)
    left_count: int = 0
    unguarded: int = 0
    stopped: bool = False

    def leave(self, path: str, why: str) -> None:
        """Take note of an entry that is left."""
        self.left_count += 1
        if len(self.left) < LEFT_TOLD:
            self.left.append((path, why))


def delete(
    root: Root,
    planned: Iterable[Planned],
    archived: Iterable[Line],
    *,
    pace: Pace | None = None,
    first: int = 0,
    keeps: Callable[[Planned], str | None] = lambda _one: None,
    told: Callable[[Planned, str | None], None] = lambda _one, _why: None,
    stop: Callable[[], bool] = lambda: False,
    reached: Callable[[str], None] = lambda _point: None,
) -> Deleted:
    """Delete the planned entries of an area that stand in a verified archive; all others are left, and told.

    `planned` is in the order of the plan's file, `archived` in that of the archive's manifest, which was written in the
    order of the plan (see `archived_lines`); both are read once, side by side. An entry of the plan that is not told of
    at its place in the manifest is left. `pace` bounds the entries that are removed in a second. `stop` is asked before
    each: then nothing more is removed, but what a killed run left in the trash is settled. `reached` hears each of the
    POINTS as it comes. Nobody else may delete in this area meanwhile.

    The first so many entries are passed over: a run that was killed had done with them. `keeps` is asked of each of the
    others why it stays, None where it does not. `told` hears what became of it: None where it was deleted, GONE where
    it was not there, or why it is left.

    Raises TrashError; NoRoomError where the area's quota, or the disk, is so full that nothing can be moved: raise the
    quota meanwhile, then call this again; OSError where we ourselves are out of files or memory; and what reading the
    two raises.
    """
    pace = pace or Pace(None)
    with Trash(root) as trash, _Run(root, trash, keeps, told, reached) as run:
        reached("begun")
        for number, (one, line) in islice(enumerate(_side_by_side(planned, archived)), first, None):
            run.deleted.stopped = run.deleted.stopped or stop()
            # What it is called in the trash: the same when this is done again, and for no other entry of any plan.
            called = f"{number}-{one.inode}"
            if called in trash.waiting:
                trash.waiting.remove(called)
                run.settle(one, line, called)
            elif not run.deleted.stopped:
                if run.take(one, line, called):
                    pace.keep(1)
            elif not trash.waiting:
                break
        for called in sorted(trash.waiting):
            run.deleted.leave(f"{TRASH}/{called}", "it is in the trash, and this plan does not know it")
    reached("ended")
    return run.deleted


def _side_by_side(planned: Iterable[Planned], archived: Iterable[Line]) -> Iterator[tuple[Planned, Line | None]]:
    """Yield each entry of a plan with what the manifest tells of it, None where that is nothing."""
    lines = (line for line in archived if not line.above)
    line = next(lines, None)
    for one in planned:
        if line is not None and line.path == one.path:
            yield one, line
            line = next(lines, None)
        else:
            yield one, None


class _Run:
    """Deletes entry by entry; a context manager. `deleted` is what was done so far."""

    def __init__(
        self,
        root: Root,
        trash: Trash,
        keeps: Callable[[Planned], str | None],
        told: Callable[[Planned, str | None], None],
        reached: Callable[[str], None],
    ) -> None:
        self.deleted = Deleted()
        self._root = root
        self._trash = trash
        self._keeps = keeps
        self._told = told
        self._reached = reached
        self._path: str | None = None
        self._folder = -1
        self._moved: str | None = None  # what the entry at hand is called in the trash, as long as it is there
        self._is_removed = False
        # ctimes of files of which names are left, as we have changed them. An empty name: a file without a name.
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE changed (inode PRIMARY KEY, ctime_ns)")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._close()
        self._db.close()

    def take(self, one: Planned, line: Line | None, called: str) -> bool:
        """Delete an entry, or tell why not; returns whether it was removed."""
        self._moved = None
        self._is_removed = False
        try:
            _check_not_trash(one)
            self._check_not_kept(one)
            self._take(one, check_archived(one, line), called)
        except UnlikeError as unlike:
            self._leave(one, str(unlike))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._moved is None:
                self.deleted.gone += 1
                self._told(one, GONE)
            else:
                self._leave(one, _why(error))
            if error.errno in _OURS_TO_SEE:
                raise
        return self._is_removed

    def settle(self, one: Planned, line: Line | None, called: str) -> None:
        """Remove what a killed run left in the trash, if it is what was planned and archived, or put it back."""
        self._moved = called
        try:
            self._check_not_kept(one)
            self._settle(one, check_archived(one, line), called)
        except UnlikeError as unlike:
            self._leave(one, str(unlike))
        except OSError as error:
            self._leave(one, _why(error))
            if error.errno in _OURS_TO_SEE:
                raise

    def _take(self, one: Planned, line: Line, called: str) -> None:
        folder, _slash, name = one.path.rpartition("/")
        parent = self._open(folder)
        with ExitStack() as stack:
            handle = self._root.open_at(parent, name, _HANDLE)
            stack.callback(os.close, handle)
            device = self._root.identity.device
            check_same(os.fstat(handle), one, device)
            guard = stack.enter_context(guarded(handle)) if one.type == "file" else None
            # From here on nobody writes to it: what it is now, it stays.
            check_same(status := os.fstat(handle), one, device)
            if status.st_ctime_ns != one.ctime_ns and status.st_ctime_ns != self._ctime_of_ours(status):
                check_touched(status, one, line, guard.fd if guard else handle)
            if one.type == "folder":
                check_folder(handle, one)
                _check_empty(handle)
            self._reached("checked")
            self._trash.take(parent, name, called)
            self._moved = called
            self._reached("moved")
            # Between our look and the move, something else may have been put there, or its folder been moved away.
            found = self._trash.status(called)
            check_same(found, one, device)
            check_rights(found, status)
            self._check_beneath(folder, parent)
            self._remove(one, called, guard, handle)

    def _settle(self, one: Planned, line: Line, called: str) -> None:
        with ExitStack() as stack:
            handle = self._root.open_at(self._trash.fd, called, _HANDLE)
            stack.callback(os.close, handle)
            check_same(os.fstat(handle), one, self._root.identity.device)
            guard = stack.enter_context(guarded(handle)) if one.type == "file" else None
            # Its ctime tells that it was moved, and nothing any more of what came before.
            if one.type == "folder":
                check_folder(handle, one)
            else:
                check_content(os.fstat(handle), one, line, guard.fd if guard else handle)
            self._remove(one, called, guard, handle)

    def _remove(self, one: Planned, called: str, guard: Guard | None, handle: int) -> None:
        """Remove what is in the trash, for good."""
        if guard is not None:
            guard.check()
        self._reached("compared")
        self._trash.remove(called, is_folder=one.type == "folder")
        self._moved = None
        self._is_removed = True
        self._reached("removed")
        if one.type == "folder":
            self.deleted.folders += 1
        else:
            self.deleted.files += 1
            self.deleted.unguarded += guard is not None and not guard.is_held
            self._note_ctime(os.fstat(handle))
        self.deleted.bytes += one.bytes
        self._told(one, None)

    def _leave(self, one: Planned, why: str) -> None:
        """Take note of what is left; what is in the trash is put back where it was."""
        if self._moved is not None:
            folder, _slash, name = one.path.rpartition("/")
            try:
                self._trash.put_back(self._moved, self._open(folder), name)
                self._reached("put back")
            except OSError as error:
                why += f"; it is now {TRASH}/{self._moved}, as it cannot be put back: {error.strerror}"
            # It may not be where it was any more.
            self._close()
        self.deleted.leave(one.path, why)
        self._told(one, why)

    def _check_not_kept(self, one: Planned) -> None:
        if (why := self._keeps(one)) is not None:
            raise UnlikeError(why)

    def _open(self, path: str) -> int:
        if self._path != path:
            self._close()
            self._folder = self._root.open_folder(path)
            self._path = path
        return self._folder

    def _close(self) -> None:
        if self._path is not None:
            os.close(self._folder)
            self._path = None

    def _check_beneath(self, path: str, folder: int) -> None:
        """Raise UnlikeError unless an open folder is still at its path beneath the root."""
        try:
            with self._root.folder(path, identity(os.fstat(folder))):
                return
        except (ElsewhereError, FileNotFoundError) as error:
            raise UnlikeError("its folder was moved") from error

    def _ctime_of_ours(self, status: os.stat_result) -> int | None:
        row = self._db.execute("SELECT ctime_ns FROM changed WHERE inode = ?", (str(status.st_ino),)).fetchone()
        return row[0] if row else None

    def _note_ctime(self, status: os.stat_result) -> None:
        """A file's ctime changes when a name of it goes: note it for its other names."""
        if status.st_nlink:
            self._db.execute("INSERT OR REPLACE INTO changed VALUES (?, ?)", (str(status.st_ino), status.st_ctime_ns))


def _why(error: OSError) -> str:
    if isinstance(error, ElsewhereError):
        return GONE_ELSEWHERE
    return f"it cannot be deleted: {error.strerror}"


def _check_not_trash(one: Planned) -> None:
    if one.path.split("/", 1)[0] == TRASH:
        raise UnlikeError("a purge before could not put it back")


def _check_empty(handle: int) -> None:
    """Raise UnlikeError where a folder has something in it."""
    fd = os.open(".", FOLDER, dir_fd=handle)
    try:
        with os.scandir(fd) as scan:
            if next(scan, None) is not None:
                raise UnlikeError("it is not empty")
    finally:
        os.close(fd)
