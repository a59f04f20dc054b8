"""Evaluates the rules for the entries that one process of a scan sees; most of a plan's time is spent here.

Entries are gathered over folders and looked at together: numbers of each as columns first, by which what is too young
is let go; the record of arrivals next; and only what is left is compared with patterns and written down.
"""

from __future__ import annotations

import os
import pickle
import stat
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from json.encoder import encode_basestring_ascii
from operator import attrgetter
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
import zstandard

from allocations.clock import SECONDS_PER_DAY
from allocations.storage.purge.arrivals import keys_of
from allocations.storage.purge.emptied import FolderSpool
from allocations.storage.purge.planfile import ZSTD_LEVEL, Count, Sums, json_path
from allocations.storage.purge.rules import EXEMPT, KEPT, NS_PER_DAY
from allocations.storage.tree.statuses import FARTHEST_NS, exact_times_ns, fields, times_ns
from allocations.storage.tree.usage import BLOCK_BYTES, PROBLEMS_TOLD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from allocations.storage.purge.arrivals import Arrivals
    from allocations.storage.purge.rules import AreaRules
    from allocations.storage.tree.statuses import Statuses

# Entries whose numbers are taken together: enough that numpy's calls cost little each, few enough for the processor's
# cache.
ENTRIES_SIFTED = 1_000
ENTRIES_HELD = 1_000
SEEN_HELD = 10_000
FOLDERS_HELD = 1_000
# Files with several names are spread over so many files, each of which fits into memory.
LINK_FILES = 64
_NUMBERS = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns", "st_uid")
_TYPES = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo"}
_TYPE_BITS = stat.S_IFMT(0o777_777)
_WHY = ("modified", "read", "arrived")

Link = tuple[int, int, int, int, str, str]


class _Old(NamedTuple):
    """Entries that may be old enough, in columns."""

    names: Sequence[str]
    types: Sequence[int]
    links: Sequence[int]
    is_here: Sequence[bool]  # and not of a file system that is mounted over it
    inodes: Sequence[int]
    sizes: Sequence[int]
    mtimes_ns: Sequence[int]
    ctimes_ns: Sequence[int]
    uids: Sequence[int]
    blocks: Sequence[int]
    since_ns: Sequence[int]  # the last time that it was used
    whys: Sequence[str]  # and what that was

    def between(self, first: int, last: int) -> _Old:
        """Return some of them."""
        return _Old._make(column[first:last] for column in self)


@dataclass(frozen=True, slots=True)
class Part:
    """What one process has seen: sums, and files of lines (zstd), of keys (64 bits each), of links, of folders."""

    sums: Sums
    lines: str
    keys: str
    links: str
    folder_runs: list[str]


class _Folder:
    """A folder whose entries are being looked at."""

    __slots__ = ("entries", "path", "planned", "rules", "status")

    def __init__(self, area: AreaRules, path: str, status: os.stat_result) -> None:
        self.path = path
        self.status = status
        self.rules = area.folder(path)
        self.entries = self.planned = 0


class Evaluator:
    """Collects the candidates of a part of a tree; see `allocations.storage.tree.scan.Collector`."""

    def __init__(self, rules: AreaRules, spool: str, arrivals: Arrivals, today: int) -> None:
        """Write to files whose names begin with `spool`; `today` is the day on which what is new arrives."""
        self._rules, self._arrivals, self._today = rules, arrivals, today
        self._keeps_atime = rules.area_class.keeps_atime
        self._as_of_ns = rules.as_of_ms * 1_000_000
        # What is not older than this stays under every rule.
        self._newest_ns = max(rules.newest_ns, default=-FARTHEST_NS)
        self._folder: _Folder | None = None
        self._folders: list[_Folder] = []
        self._fresh_names: list[str] = []  # of those that nothing is known of yet
        self._fresh: list[Statuses] = []  # the same ones
        self._columns: list[NDArray[np.int64]] = []  # numbers of inodes, times and sizes of the others
        self._seen = 0  # how many others
        self._names: list[str] = []  # of those of them that may be old enough
        self._statuses: list[Statuses] = []  # the same ones
        self._numbers: list[NDArray[np.int64]] = []  # which of them all these are
        self._places: list[tuple[_Folder, int]] = []  # a folder, and how many of them all come before its own
        self._device = -1
        self._sums = Sums()
        self._spool = spool
        self._lines_file: IO[bytes] = open(f"{spool}.lines", "wb")  # noqa: SIM115 (closed with the result)
        self._packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self._keys_file: IO[bytes] = open(f"{spool}.keys", "wb")  # noqa: SIM115 (as above)
        self._folder_spool = FolderSpool(f"{spool}.folders")

    def folder(self, path: str, status: os.stat_result) -> None:
        """Begin with the entries of a folder."""
        if len(self._folders) >= FOLDERS_HELD:
            self._flush()
        self._device = status.st_dev
        self._folder = folder = _Folder(self._rules, path, status)
        self._folders.append(folder)
        self._places.append((folder, self._seen + len(self._fresh_names)))

    def entries(self, path: str, names: Sequence[str], statuses: Statuses) -> None:  # noqa: ARG002 (the folder begun)
        """Gather entries of the folder."""
        assert self._folder is not None
        self._folder.entries += len(names)
        self._sums.seen_files += len(names)
        self._fresh_names += names
        self._fresh.append(statuses.copy())
        if len(self._fresh_names) >= ENTRIES_SIFTED:
            self._sift()
            if len(self._names) >= ENTRIES_HELD or self._seen >= SEEN_HELD:
                # The folder goes on: it is finished with those that follow.
                current = self._folders.pop()
                self._flush()
                self._folders.append(current)
                self._places.append((current, 0))

    def problem(self, path: str, error: OSError) -> None:
        """Note what could not be looked at: it stays, and so do the folders above it."""
        self._folder_spool.add(path, None)
        self._sums.problem_count += 1
        if len(self._sums.problems) < PROBLEMS_TOLD:
            self._sums.problems.append((path, error.strerror or type(error).__name__))

    def result(self) -> Part:
        """Finish the files."""
        self._flush()
        self._folder_spool.close()
        self._lines_file.close()
        self._keys_file.close()
        return Part(
            self._sums,
            f"{self._spool}.lines",
            f"{self._spool}.keys",
            f"{self._spool}.links",
            self._folder_spool.runs,
        )

    def _sift(self) -> None:
        """Take the numbers of what is fresh, and let go of what is too young for every rule."""
        if not self._fresh:
            return
        names, statuses = self._fresh_names, np.concatenate(self._fresh)
        named = fields(statuses)
        columns = np.empty((3, len(names)), dtype=np.int64)
        columns[0], columns[1], columns[2] = named["inode"], times_ns(statuses, "mtime"), named["size"]
        self._columns.append(columns)
        old = np.flatnonzero(columns[1] <= self._newest_ns)
        if len(old):
            self._names += [names[number] for number in old.tolist()]
            self._statuses.append(statuses.take(old, axis=0))
            self._numbers.append(old + self._seen)
        self._seen += len(names)
        names.clear()
        self._fresh.clear()

    def _flush(self) -> None:
        """Look at what was gathered; folders are finished."""
        self._sift()
        columns = np.concatenate([*self._columns, _columns([folder.status for folder in self._folders])], axis=1)
        # All that was seen, young or old, is known from now on.
        keys = keys_of(*columns)
        # Not by numpy's `tofile`, which says nothing when the last of it finds no room.
        self._keys_file.write(keys.tobytes())
        mtimes = columns[1]
        self._sums.future += int(np.count_nonzero(mtimes > self._as_of_ns))
        if self._names:
            self._look_at_entries(keys, mtimes)
        self._finish_folders(keys[self._seen :], mtimes[self._seen :])
        self._columns.clear()
        self._seen = 0
        self._names.clear()
        self._statuses.clear()
        self._numbers.clear()
        self._places.clear()
        self._folders.clear()

    def _dates(
        self, keys: NDArray[np.uint64], mtimes: NDArray[np.int64], atimes: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for each entry the last time that it was used, and which of the times that is; what is too young for
        every rule by its own times is not looked up among the arrivals."""
        since = mtimes.copy()
        why = np.zeros(len(since), dtype=np.int64)
        if atimes is not None:
            # relatime notes a reading only when the last one noted is a day old.
            read = atimes + NS_PER_DAY
            why[read > since] = 1
            np.maximum(since, read, out=since)
        old = np.flatnonzero(since <= self._newest_ns)
        # The day of arrival is over before it counts: what came in its last hour is not taken for older.
        arrived = (self._arrivals.days_of(keys[old], self._today) + 1) * NS_PER_DAY
        since[old] = np.maximum(since[old], arrived)
        why[old[arrived == since[old]]] = 2
        return since, why

    def _look_at_entries(self, keys: NDArray[np.uint64], mtimes: NDArray[np.int64]) -> None:
        numbers, statuses = np.concatenate(self._numbers), np.concatenate(self._statuses)
        atimes = times_ns(statuses, "atime") if self._keeps_atime else None
        since, why = self._dates(keys[numbers], mtimes[numbers], atimes)
        old = np.flatnonzero(since <= self._newest_ns)
        if not len(old):
            return
        ends = [place for _folder, place in self._places[1:]] + [self._seen]
        cuts = np.searchsorted(numbers[old], ends).tolist()
        found = self._columns_of([self._names[number] for number in old.tolist()], statuses[old], since[old], why[old])
        lines: list[str] = []
        links: dict[int, list[Link]] = {}
        first = 0
        for (folder, _place), last in zip(self._places, cuts, strict=True):
            if first != last:
                self._look_at_folder(folder, found.between(first, last), lines, links)
                first = last
        if lines:
            self._lines_file.write(self._packer.compress("".join(lines).encode("ascii")))
        for number, linked in links.items():
            with open(f"{self._spool}.links.{number}", "ab") as file:
                pickle.dump(linked, file, pickle.HIGHEST_PROTOCOL)

    def _columns_of(
        self, names: Sequence[str], statuses: Statuses, since: NDArray[np.int64], why: NDArray[np.int64]
    ) -> _Old:
        named = fields(statuses)
        is_here = (named["device_major"] == os.major(self._device)) & (named["device_minor"] == os.minor(self._device))
        return _Old(
            names=names,
            types=(named["mode"] & _TYPE_BITS).tolist(),
            links=named["links"].tolist(),
            is_here=is_here.tolist(),
            inodes=named["inode"].tolist(),
            sizes=named["size"].tolist(),
            mtimes_ns=exact_times_ns(statuses, "mtime"),
            ctimes_ns=exact_times_ns(statuses, "ctime"),
            uids=named["uid"].tolist(),
            blocks=named["blocks"].tolist(),
            since_ns=since.tolist(),
            whys=_reasons(why, since),
        )

    def _look_at_folder(self, folder: _Folder, old: _Old, lines: list[str], links: dict[int, list[Link]]) -> None:
        """Write down those of a folder's old entries that a rule holds for."""
        sums, sole = self._sums, folder.rules.sole
        if sole is not None and sole < 0:
            sums.old_kept += len(old.names) if sole == KEPT else 0
            sums.old_exempt += len(old.names) if sole == EXEMPT else 0
        elif sole is None or not self._take_alike(folder, sole, old, lines):
            self._take_each(folder, old, lines, links)

    def _take_alike(self, folder: _Folder, rule: int, old: _Old, lines: list[str]) -> bool:
        """Write down a folder's old entries where all are files of one owner, with one name each, that one rule holds
        for, as most are; False where they are not."""
        if (
            set(old.types) != {stat.S_IFREG}
            or set(old.links) != {1}
            or not all(old.is_here)
            or len(set(old.uids)) != 1
            or max(old.since_ns) > self._rules.newest_ns[rule]
        ):
            return False
        begin = json_path(f"{folder.path}/" if folder.path else "")
        # No name holds a slash, which stands for itself in JSON.
        together = "/".join(old.names)
        if begin.startswith("{") or not together.isascii():
            return False
        begin = f'{{"path":{begin[:-1]}'
        kind = f'","type":"file","device":{self._device},"inode":'
        name, uid = self._rules.names[rule], old.uids[0]
        lines += [
            f'{begin}{path}{kind}{inode},"size":{size},"mtime_ns":{mtime_ns},"ctime_ns":{ctime_ns},"uid":{uid},'
            f'"rule":"{name}","why":"{why}","bytes":{taken * BLOCK_BYTES}}}\n'
            for path, inode, size, mtime_ns, ctime_ns, why, taken in zip(
                encode_basestring_ascii(together)[1:-1].split("/"),
                old.inodes,
                old.sizes,
                old.mtimes_ns,
                old.ctimes_ns,
                old.whys,
                old.blocks,
                strict=True,
            )
        ]
        folder.planned += len(old.names)
        self._count(rule, uid, len(old.names), sum(old.blocks) * BLOCK_BYTES)
        return True

    def _take_each(self, folder: _Folder, old: _Old, lines: list[str], links: dict[int, list[Link]]) -> None:
        """Write down a folder's old entries that a rule holds for, whatever they are."""
        prefix = f"{folder.path}/" if folder.path else ""
        sums, names, newest, device = self._sums, self._rules.names, self._rules.newest_ns, self._device
        for name, type_, link_count, is_here, inode, size, mtime_ns, ctime_ns, uid, blocks, since, why in zip(
            *old, strict=True
        ):
            rule = folder.rules.rule_of(name, size)
            if rule < 0:
                sums.old_kept += rule == KEPT
                sums.old_exempt += rule == EXEMPT
                continue
            if since > newest[rule] or not is_here:
                continue
            kind = _TYPES.get(type_)
            if kind is None:
                sums.unarchivable += 1
                continue
            folder.planned += 1
            freed = blocks * BLOCK_BYTES
            numbers = (device, inode, size, mtime_ns, ctime_ns, uid)
            line = f'{{"path":{json_path(prefix + name)},{_line(kind, numbers, names[rule], why)}'
            if link_count == 1:
                lines.append(f"{line}{freed}}}\n")
            else:
                link = (inode, link_count, freed, uid, names[rule], line)
                links.setdefault(inode % LINK_FILES, []).append(link)
                freed = 0
            self._count(rule, uid, 1, freed)

    def _count(self, rule: int, uid: int, entries: int, freed_bytes: int) -> None:
        found, name = Count(entries, freed_bytes), self._rules.names[rule]
        self._sums.files.add(found)
        self._sums.by_rule.setdefault(name, Count()).add(found)
        self._sums.by_uid.setdefault(uid, Count()).add(found)

    def _finish_folders(self, keys: NDArray[np.uint64], mtimes: NDArray[np.int64]) -> None:
        """Note each folder, and whether it may go with what is in it."""
        folders, names = self._folders, self._rules.names
        self._sums.seen_folders += len(folders)
        # Looking at folders, as we do, changes their atime.
        since, why = self._dates(keys, mtimes)
        for folder, folder_since, reason in zip(folders, since.tolist(), _reasons(why, since), strict=True):
            rule = folder.rules.itself
            rest = None
            if rule >= 0 and folder.planned == folder.entries and folder_since <= self._rules.newest_ns[rule]:
                line = _line("folder", _NUMBERS(folder.status), names[rule], reason)
                rest = f"{line}{folder.status.st_blocks * BLOCK_BYTES}}}"
            self._folder_spool.add(folder.path, rest)


def _line(kind: str, numbers: tuple[int, ...], rule: str, why: str) -> str:
    """Return the line of an entry from behind its path up to the number of bytes that are freed; for `numbers` see
    `_NUMBERS`."""
    device, inode, size, mtime_ns, ctime_ns, uid = numbers
    return (
        f'"type":"{kind}","device":{device},"inode":{inode},"size":{size},"mtime_ns":{mtime_ns},'
        f'"ctime_ns":{ctime_ns},"uid":{uid},"rule":"{rule}","why":"{why}","bytes":'
    )


def _reasons(why: NDArray[np.int64], since: NDArray[np.int64]) -> list[str]:
    """Say for each entry what its age counts from."""
    return list(map(_since, why.tolist(), (since // NS_PER_DAY).tolist()))


@cache
def _since(why: int, day: int) -> str:
    """Say what the age counts from: `modified 2026-01-31`. The margins of a day are taken off again."""
    day -= why != 0
    return f"{_WHY[why]} {datetime.fromtimestamp(day * SECONDS_PER_DAY, UTC):%Y-%m-%d}"


def _columns(statuses: list[os.stat_result]) -> NDArray[np.int64]:
    """Return numbers of inodes, times and sizes of folders, a row for each kind."""
    columns = np.empty((3, len(statuses)), dtype=np.int64)
    columns[0] = np.array([status.st_ino for status in statuses], dtype=np.uint64)
    columns[1] = [max(-FARTHEST_NS, min(FARTHEST_NS, status.st_mtime_ns)) for status in statuses]
    columns[2] = [status.st_size for status in statuses]
    return columns


def freed_by_links(spools: list[str]) -> Iterator[tuple[list[str], dict[int, int], dict[str, int]]]:
    """Yield lines of files with several names, some at a time, and the bytes that they free by uid and by rule.

    The last name that goes frees the bytes, if no name stays.
    """
    for number in range(LINK_FILES):
        paths = [f"{spool}.{number}" for spool in spools]
        names = Counter(link[0] for batch in _batches(paths) for link in batch)
        left = names.copy()
        for batch in _batches(paths):
            lines: list[str] = []
            by_uid, by_rule = Counter[int](), Counter[str]()
            for inode, links, size, uid, rule, line in batch:
                left[inode] -= 1
                freed = size if left[inode] == 0 and names[inode] == links else 0
                by_uid[uid] += freed
                by_rule[rule] += freed
                lines.append(f"{line}{freed}}}")
            yield lines, by_uid, by_rule


def _batches(paths: list[str]) -> Iterator[list[Link]]:
    for path in paths:
        if not os.path.exists(path):
            continue
        with open(path, "rb") as file:
            while True:
                try:
                    yield pickle.load(file)  # noqa: S301 (our own file, in a folder of ours)
                except EOFError:
                    break
