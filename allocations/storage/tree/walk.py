"""Walks a tree beneath its root: every entry once, in no order, in bounded memory, whatever its owner does meanwhile.

What vanishes while it is looked at is left out. What cannot be read, is a mount point or was put in another's place is
told to the visitor as a problem and passed over; the walk goes on.
"""

from __future__ import annotations

import os
import pickle
import stat
import tempfile
import time
from itertools import islice
from operator import attrgetter
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from allocations.storage.tree.beneath import Identity
from allocations.storage.tree.statuses import Looker, fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from allocations.storage.tree.beneath import Root
    from allocations.storage.tree.statuses import Statuses

# Entries that a visitor is given at once, so that a folder of millions is never held whole.
ENTRIES_AT_ONCE = 1_000
# Folders still to be visited that are held in memory, and how many go to a file together.
FOLDERS_HELD = 20_000
FOLDERS_SPILLED = 10_000

_TYPE_BITS = np.uint16(stat.S_IFMT(0o777_777))
_FOLDER = np.uint16(stat.S_IFDIR)
_NAME = attrgetter("name")


class Pending(NamedTuple):
    """A folder to be visited: its path beneath the root, and what was seen to be there."""

    path: str
    identity: Identity | None


class Visitor(Protocol):
    """What a walk tells; paths are relative to the root, `""` for the root itself."""

    def folder(self, path: str, status: os.stat_result) -> None:
        """Take note of a folder that is about to be read."""

    def entries(self, path: str, names: Sequence[str], statuses: Statuses) -> None:
        """Take note of some of the entries of a folder that are no folders: names, and a row for each of what lstat
        says, which is overwritten afterwards."""

    def problem(self, path: str, error: OSError) -> None:
        """Take note of something that was passed over."""


class Stack:
    """Folders to be visited, last in, first out; beyond a number the oldest wait in a file without a name."""

    def __init__(self, folders: Sequence[Pending] = ()) -> None:
        """Begin with some."""
        self._held = list(folders)
        self._file: IO[bytes] | None = None
        self._offsets: list[int] = []

    def __enter__(self) -> Self:
        """Return the stack itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        """Return how many are in memory; 0 only when there are none at all."""
        if not self._held and self._offsets:
            assert self._file is not None
            self._file.seek(self._offsets[-1])
            self._held = pickle.load(self._file)  # noqa: S301 (our own file, that has no name)
            self._file.seek(self._offsets.pop())
            self._file.truncate()
        return len(self._held)

    def push(self, folder: Pending) -> None:
        """Add one."""
        self._held.append(folder)
        if len(self._held) >= FOLDERS_HELD:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the stack)
            self._offsets.append(self._file.seek(0, os.SEEK_END))
            pickle.dump(self._held[:FOLDERS_SPILLED], self._file, pickle.HIGHEST_PROTOCOL)
            del self._held[:FOLDERS_SPILLED]

    def pop(self) -> Pending:
        """Take the newest; there must be one."""
        return self._held.pop()

    def give(self) -> list[Pending]:
        """Take the older half of those in memory, which are nearest to the root."""
        half = len(self._held) // 2
        given = self._held[:half]
        del self._held[:half]
        return given


class Pace:
    """Bounds the load on a file system: so many entries a second, over the whole of a walk."""

    def __init__(self, entries_per_second: float | None, sleep: Callable[[float], None] = time.sleep) -> None:
        """None: as fast as it goes."""
        self._seconds_each = 1 / entries_per_second if entries_per_second else 0.0
        self._sleep = sleep
        self._free_at: float | None = None

    def keep(self, entries: int) -> None:
        """Wait until so many more may be read."""
        if not self._seconds_each:
            return
        now = time.monotonic()
        # A pause of the walk itself is not made up for by haste.
        self._free_at = max(now, self._free_at or now) + entries * self._seconds_each
        if self._free_at > now:
            self._sleep(self._free_at - now)


class Walker:
    """Visits what lies beneath a root."""

    def __init__(
        self,
        root: Root,
        visitor: Visitor,
        *,
        pace: Pace | None = None,
        after_each: Callable[[Stack], None] = lambda _stack: None,
    ) -> None:
        """Tell the visitor; `after_each` folder the stack may be shared out."""
        self._root, self._visitor, self._pace, self._after_each = root, visitor, pace or Pace(None), after_each
        self._looker = Looker(ENTRIES_AT_ONCE)

    def walk(self, stack: Stack) -> None:
        """Visit the folders of a stack and all beneath them."""
        visitor, pace = self._visitor, self._pace
        while stack:
            path, expected = stack.pop()
            # Only what the tree refuses is passed over: what the visitor cannot do ends the walk.
            try:
                fd, status = self._root.open_and_look(path, expected)
            except FileNotFoundError:
                pass
            except OSError as error:
                visitor.problem(path, error)
            else:
                try:
                    visitor.folder(path, status)
                    pace.keep(1)
                    for names, statuses in self._read(fd, path, stack):
                        visitor.entries(path, names, statuses)
                        # Within a folder of millions, too.
                        pace.keep(len(names))
                finally:
                    os.close(fd)
            self._after_each(stack)

    def _read(self, fd: int, path: str, stack: Stack) -> Iterator[tuple[Sequence[str], Statuses]]:
        """Put folders onto the stack, and yield what else there is in parts."""
        prefix = f"{path}/" if path else ""
        for names in self._names(fd, path):
            statuses, failed = self._looker.look(fd, names)
            named = fields(statuses)
            folders = np.flatnonzero(named["mode"] & _TYPE_BITS == _FOLDER)
            if not len(folders) and not failed:
                yield names, statuses
                continue
            stays = np.ones(len(names), dtype=np.bool_)
            stays[folders] = False
            for number, error in failed:
                stays[number] = False
                if not isinstance(error, FileNotFoundError):
                    self._visitor.problem(prefix + names[number], error)
            wrong = {number for number, _error in failed}
            for number in folders.tolist():
                if number not in wrong:
                    status = named[number]
                    device = os.makedev(int(status["device_major"]), int(status["device_minor"]))
                    stack.push(Pending(prefix + names[number], Identity(device, int(status["inode"]))))
            rest = np.flatnonzero(stays)
            if len(rest):
                yield [names[number] for number in rest.tolist()], statuses[rest]

    def _names(self, fd: int, path: str) -> Iterator[list[str]]:
        """Yield the names in a folder in parts; where reading fails in between, those that came before."""
        at_once = self._looker.at_once
        names: list[str] = []
        try:
            with os.scandir(fd) as scan:
                while True:
                    # Filled one by one: an error leaves in it what was read.
                    names.extend(map(_NAME, islice(scan, at_once)))
                    if len(names) < at_once:
                        break
                    yield names
                    names = []
        except OSError as error:
            self._visitor.problem(path, error)
        if names:
            yield names
