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
from operator import attrgetter, itemgetter
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import zstandard

from allocations.clock import SECONDS_PER_DAY
from allocations.storage.purge.arrivals import keys_of
from allocations.storage.purge.emptied import FolderSpool
from allocations.storage.purge.planfile import ZSTD_LEVEL, Count, Sums, json_path
from allocations.storage.purge.rules import EXEMPT, KEPT, NS_PER_DAY
from allocations.storage.tree.usage import BLOCK_BYTES, PROBLEMS_TOLD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from allocations.storage.purge.arrivals import Arrivals
    from allocations.storage.purge.rules import AreaRules
    from allocations.storage.tree.walk import Entry

# Entries whose numbers are taken together: enough that numpy's calls cost little each, few enough for the processor's
# cache, in which the memory of those let go is used again.
ENTRIES_SIFTED = 200
ENTRIES_HELD = 1_000
SEEN_HELD = 10_000
FOLDERS_HELD = 1_000
# Files with several names are spread over so many files, each of which fits into memory.
LINK_FILES = 64
# Dates beyond these (in the year 2116) are as good as these.
_FARTHEST_NS = 1 << 62
_LOW_63 = (1 << 63) - 1
_KEY = tuple(map(attrgetter, ("st_ino", "st_mtime_ns", "st_size")))
_ATIME = (attrgetter("st_atime_ns"),)
_STATUS = itemgetter(1)
_LOOK = attrgetter(
    "st_mode", "st_dev", "st_ino", "st_nlink", "st_uid", "st_size", "st_blocks", "st_mtime_ns", "st_ctime_ns"
)
_TYPES = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo"}
_TYPE_BITS = stat.S_IFMT(0o777_777)
_WHY = ("modified", "read", "arrived")

Link = tuple[int, int, int, int, str, str]
# The number of an entry among those held, the last time that it was used, and why.
Candidate = tuple[int, int, str]


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
        self._newest_ns = max(rules.newest_ns, default=-_FARTHEST_NS)
        self._folder: _Folder | None = None
        self._folders: list[_Folder] = []
        self._fresh: list[Entry] = []  # those that nothing is known of yet
        self._columns: list[NDArray[np.int64]] = []  # what `_KEY` says of the others
        self._seen = 0  # how many others
        self._entries: list[Entry] = []  # those of them that may be old enough
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
        self._places.append((folder, self._seen + len(self._fresh)))

    def entries(self, path: str, entries: Sequence[Entry]) -> None:  # noqa: ARG002 (that of the folder begun)
        """Gather entries of the folder."""
        assert self._folder is not None
        self._folder.entries += len(entries)
        self._sums.seen_files += len(entries)
        self._fresh += entries
        if len(self._fresh) >= ENTRIES_SIFTED:
            self._sift()
            if len(self._entries) >= ENTRIES_HELD or self._seen >= SEEN_HELD:
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
        fresh = self._fresh
        columns = _columns(list(map(_STATUS, fresh)), _KEY)
        self._columns.append(columns)
        old = np.flatnonzero(columns[1] <= self._newest_ns)
        if len(old):
            self._entries += [fresh[number] for number in old.tolist()]
            self._numbers.append(old + self._seen)
        self._seen += len(fresh)
        fresh.clear()

    def _flush(self) -> None:
        """Look at what was gathered; folders are finished."""
        self._sift()
        of_folders = _columns([folder.status for folder in self._folders], _KEY)
        columns = np.concatenate([*self._columns, of_folders], axis=1)
        # All that was seen, young or old, is known from now on.
        keys = keys_of(*columns)
        # Not by numpy's `tofile`, which says nothing when the last of it finds no room.
        self._keys_file.write(keys.tobytes())
        mtimes = columns[1]
        self._sums.future += int(np.count_nonzero(mtimes > self._as_of_ns))
        if self._entries:
            self._look_at_entries(keys, mtimes)
        self._finish_folders(keys[self._seen :], mtimes[self._seen :])
        self._columns.clear()
        self._seen = 0
        self._entries.clear()
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
        numbers = np.concatenate(self._numbers)
        atimes = _columns(list(map(_STATUS, self._entries)), _ATIME)[0] if self._keeps_atime else None
        since, why = self._dates(keys[numbers], mtimes[numbers], atimes)
        old = np.flatnonzero(since <= self._newest_ns)
        if not len(old):
            return
        ends = [place for _folder, place in self._places[1:]] + [self._seen]
        cuts = np.searchsorted(numbers[old], ends).tolist()
        since, why = since[old], why[old]
        candidates = list(zip(old.tolist(), since.tolist(), _reasons(why, since), strict=True))
        lines: list[str] = []
        links: dict[int, list[Link]] = {}
        first = 0
        for (folder, _place), last in zip(self._places, cuts, strict=True):
            if first != last:
                self._look_at_folder(folder, candidates[first:last], lines, links)
                first = last
        if lines:
            self._lines_file.write(self._packer.compress("".join(lines).encode("ascii")))
        for number, found in links.items():
            with open(f"{self._spool}.links.{number}", "ab") as file:
                pickle.dump(found, file, pickle.HIGHEST_PROTOCOL)

    def _look_at_folder(
        self, folder: _Folder, candidates: list[Candidate], lines: list[str], links: dict[int, list[Link]]
    ) -> None:
        """Write down those of a folder's old entries that a rule holds for."""
        sums, sole = self._sums, folder.rules.sole
        if sole is not None and sole < 0:
            sums.old_kept += len(candidates) if sole == KEPT else 0
            sums.old_exempt += len(candidates) if sole == EXEMPT else 0
        elif sole is None or not self._take_alike(folder, sole, candidates, lines):
            self._take_each(folder, candidates, lines, links)

    def _take_alike(self, folder: _Folder, rule: int, candidates: list[Candidate], lines: list[str]) -> bool:
        """Write down a folder's old entries where all are files of one owner, with one name each, that one rule holds
        for, as most are; False where they are not."""
        numbers, sinces, reasons = zip(*candidates, strict=True)
        names, statuses = zip(*map(self._entries.__getitem__, numbers), strict=True)
        modes, devices, inodes, link_counts, uids, sizes, blocks, mtimes_ns, ctimes_ns = zip(
            *map(_LOOK, statuses), strict=True
        )
        if (
            set(map(_TYPES.get, map(_TYPE_BITS.__and__, modes))) != {"file"}
            or set(devices) != {self._device}
            or set(link_counts) != {1}
            or len(set(uids)) != 1
            or max(sinces) > self._rules.newest_ns[rule]
        ):
            return False
        begin = json_path(f"{folder.path}/" if folder.path else "")
        # No name holds a slash, which stands for itself in JSON.
        together = "/".join(names)
        if begin.startswith("{") or not together.isascii():
            return False
        begin = f'{{"path":{begin[:-1]}'
        kind = f'","type":"file","device":{self._device},"inode":'
        name, uid = self._rules.names[rule], uids[0]
        lines += [
            f'{begin}{path}{kind}{inode},"size":{size},"mtime_ns":{mtime_ns},"ctime_ns":{ctime_ns},"uid":{uid},'
            f'"rule":"{name}","why":"{why}","bytes":{taken * BLOCK_BYTES}}}\n'
            for path, inode, size, mtime_ns, ctime_ns, why, taken in zip(
                encode_basestring_ascii(together)[1:-1].split("/"),
                inodes,
                sizes,
                mtimes_ns,
                ctimes_ns,
                reasons,
                blocks,
                strict=True,
            )
        ]
        folder.planned += len(candidates)
        self._count(rule, uid, len(candidates), sum(blocks) * BLOCK_BYTES)
        return True

    def _take_each(
        self, folder: _Folder, candidates: list[Candidate], lines: list[str], links: dict[int, list[Link]]
    ) -> None:
        """Write down a folder's old entries that a rule holds for, whatever they are."""
        prefix = f"{folder.path}/" if folder.path else ""
        sums, entries, names, newest = self._sums, self._entries, self._rules.names, self._rules.newest_ns
        for number, since, why in candidates:
            name, status = entries[number]
            rule = folder.rules.rule_of(name, status.st_size)
            if rule < 0:
                sums.old_kept += rule == KEPT
                sums.old_exempt += rule == EXEMPT
                continue
            # A file that another file system is mounted over has a device of its own.
            if since > newest[rule] or status.st_dev != self._device:
                continue
            kind = _TYPES.get(status.st_mode & _TYPE_BITS)
            if kind is None:
                sums.unarchivable += 1
                continue
            folder.planned += 1
            freed = status.st_blocks * BLOCK_BYTES
            line = f'{{"path":{json_path(prefix + name)},{_line(kind, status, names[rule], why)}'
            if status.st_nlink == 1:
                lines.append(f"{line}{freed}}}\n")
            else:
                link = (status.st_ino, status.st_nlink, freed, status.st_uid, names[rule], line)
                links.setdefault(status.st_ino % LINK_FILES, []).append(link)
                freed = 0
            self._count(rule, status.st_uid, 1, freed)

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
                line = _line("folder", folder.status, names[rule], reason)
                rest = f"{line}{folder.status.st_blocks * BLOCK_BYTES}}}"
            self._folder_spool.add(folder.path, rest)


def _line(kind: str, status: os.stat_result, rule: str, why: str) -> str:
    """Return the line of an entry from behind its path up to the number of bytes that are freed."""
    return (
        f'"type":"{kind}","device":{status.st_dev},"inode":{status.st_ino},"size":{status.st_size},'
        f'"mtime_ns":{status.st_mtime_ns},"ctime_ns":{status.st_ctime_ns},"uid":{status.st_uid},"rule":"{rule}",'
        f'"why":"{why}","bytes":'
    )


def _reasons(why: NDArray[np.int64], since: NDArray[np.int64]) -> list[str]:
    """Say for each entry what its age counts from."""
    return list(map(_since, why.tolist(), (since // NS_PER_DAY).tolist()))


@cache
def _since(why: int, day: int) -> str:
    """Say what the age counts from: `modified 2026-01-31`. The margins of a day are taken off again."""
    day -= why != 0
    return f"{_WHY[why]} {datetime.fromtimestamp(day * SECONDS_PER_DAY, UTC):%Y-%m-%d}"


def _columns(statuses: list[os.stat_result], getters: Sequence[Callable[[Any], int]]) -> NDArray[np.int64]:
    """Return what each getter says of each status, a row for a getter."""
    columns = np.empty((len(getters), len(statuses)), dtype=np.int64)
    for column, getter in zip(columns, getters, strict=True):
        try:
            column[:] = np.fromiter(map(getter, statuses), dtype=np.int64, count=len(statuses))
        except OverflowError:
            # Inodes of 64 bits, and dates after the year 2262.
            clip = _low_bits if getter is _KEY[0] else _within_dates
            column[:] = [clip(getter(status)) for status in statuses]
    return columns


def _low_bits(inode: int) -> int:
    return inode & _LOW_63


def _within_dates(time_ns: int) -> int:
    return max(-_FARTHEST_NS, min(_FARTHEST_NS, time_ns))


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
