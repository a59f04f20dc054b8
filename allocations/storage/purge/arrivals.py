"""Remembers on which day each file of an area was first seen, so that a file unpacked with old dates is not old.

One sorted file an area: 64-bit keys of (inode, mtime in ns, size), and days since 1970 (UTC). A file that was changed
has another key, hence a later arrival: it stays for longer, never for shorter. Two files of one area fall on one key
with a probability of 3 in a million at 10 million files, and then still count as no older than their mtime says.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from allocations.errors import AllocationsError
from allocations.storage.tree.scan import CORES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

MAGIC = b"MRDARR01"
_HEADER = struct.Struct("<8sQI4x")
# Keys that each core sorts together when records are made anew, 8 bytes each.
KEYS_AT_ONCE = 125_000
# Keys that are looked up before the pages that were touched are let go.
LOOKED_UP_HELD = 50_000
_CHUNK_BYTES = 1 << 20


class ArrivalsError(AllocationsError):
    """The record of an area's arrivals is damaged."""

    code = "arrivals_damaged"
    status = 500
    title = "The record of arrivals is damaged"


def keys_of(inodes: NDArray[np.int64], mtimes_ns: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Mix numbers of inodes, times and sizes to one key each (the finalizer of SplitMix64, three times)."""
    key = _mix(inodes.astype(np.uint64))
    key = _mix(key ^ mtimes_ns.astype(np.uint64))
    return _mix(key ^ sizes.astype(np.uint64))


def _mix(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    key = (key + np.uint64(0x9E3779B97F4A7C15)) if key.size else key
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


class Arrivals:
    """The record of one area, open for reading; a path at which there is no file is an empty record."""

    def __init__(self, path: str) -> None:
        """Open and check; raises ArrivalsError."""
        self._keys: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._days: NDArray[np.uint32] = np.empty(0, dtype=np.uint32)
        self._map: mmap.mmap | None = None
        self._looked_up = 0
        try:
            with open(path, "rb") as file:
                count = _check(path, file.fileno())
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._keys = np.frombuffer(self._map, dtype="<u8", offset=_HEADER.size, count=count)
            self._days = np.frombuffer(self._map, dtype="<u4", offset=_HEADER.size + 8 * count, count=count)
        except FileNotFoundError:
            return

    def __len__(self) -> int:
        """Return how many files are known."""
        return len(self._keys)

    def days_of(self, keys: NDArray[np.uint64], unknown: int) -> NDArray[np.int64]:
        """Return for each key the day of arrival; `unknown` for those not seen before."""
        days = np.full(len(keys), unknown, dtype=np.int64)
        if len(self._keys):
            # Looked up in their order, neighbours are in the processor's cache.
            order = np.argsort(keys)
            keys = keys[order]
            at = np.searchsorted(self._keys, keys)
            at[at == len(self._keys)] = 0
            known = self._keys[at] == keys
            days[order[known]] = self._days[at[known]]
            self._looked_up += len(keys)
            if self._looked_up >= LOOKED_UP_HELD:
                self.release()
        return days

    def release(self) -> None:
        """Let go of the memory of what was looked up; it is read again where it is asked for again."""
        self._looked_up = 0
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def days_in(self, keys: NDArray[np.uint64], low: int, high: int, unknown: int) -> NDArray[np.uint32]:
        """Return for sorted keys from `low` on and below `high` what `days_of` does."""
        first = int(np.searchsorted(self._keys, np.uint64(low)))
        last = len(self._keys) if high >= 1 << 64 else int(np.searchsorted(self._keys, np.uint64(high)))
        old_keys, old_days = self._keys[first:last], self._days[first:last]
        days = np.full(len(keys), unknown, dtype="<u4")
        if len(old_keys):
            at = np.searchsorted(old_keys, keys)
            at[at == len(old_keys)] = 0
            known = old_keys[at] == keys
            days[known] = old_days[at[known]]
        return days


def _check(path: str, fd: int) -> int:
    """Return the number of keys of an open record; raises ArrivalsError unless it is whole."""
    header = os.read(fd, _HEADER.size)
    if len(header) == _HEADER.size:
        magic, count, checksum = _HEADER.unpack(header)
        if magic == MAGIC and os.fstat(fd).st_size == _HEADER.size + 12 * count:
            found = 0
            while chunk := os.read(fd, _CHUNK_BYTES):
                found = zlib.crc32(chunk, found)
            if found == checksum:
                return int(count)
    raise ArrivalsError(
        f"The record of arrivals {os.path.basename(path)!r} is damaged.",
        "Remove it: every file of the area then counts as arrived today.",
    )


def record(path: str, spools: Sequence[str], day: int) -> int:
    """Replace a record by the keys in files of unsorted 64-bit keys; those not known before arrived on `day`.

    Keys that are in no spool are forgotten: their files are gone or changed. Returns how many are known now.
    """
    before = Arrivals(path)

    def part(bounds: tuple[int, int]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        keys = _between(spools, *bounds)
        return keys, before.days_in(keys, *bounds, unknown=day)

    total = sum(os.path.getsize(spool) for spool in spools) // 8
    parts = max(1, -(-total // KEYS_AT_ONCE))
    bounds = list(pairwise(number * (1 << 64) // parts for number in range(parts + 1)))
    temporary = f"{path}.new"
    count = 0
    with _removed(temporary, f"{path}.days"):
        with (
            open(temporary, "wb") as file,
            open(f"{path}.days", "w+b") as days_file,
            # numpy lets other threads run while it sorts, compares and looks up.
            ThreadPoolExecutor(CORES) as pool,
        ):
            file.write(bytes(_HEADER.size))
            checksum = 0
            # Not more of them at once than are worked on: the rest would wait in memory.
            for first in range(0, parts, CORES):
                for keys, days in pool.map(part, bounds[first : first + CORES]):
                    raw = keys.astype("<u8").tobytes()
                    checksum = zlib.crc32(raw, checksum)
                    file.write(raw)
                    days_file.write(days.tobytes())
                    count += len(keys)
                before.release()
            days_file.seek(0)
            while chunk := days_file.read(_CHUNK_BYTES):
                checksum = zlib.crc32(chunk, checksum)
                file.write(chunk)
            file.seek(0)
            file.write(_HEADER.pack(MAGIC, count, checksum))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    _sync_folder(path)
    return count


@contextmanager
def _removed(*paths: str) -> Iterator[None]:
    """Remove files that are still there at the end, though the disk be full."""
    try:
        yield
    finally:
        for path in paths:
            with suppress(FileNotFoundError):
                os.unlink(path)


def _between(spools: Sequence[str], low: int, high: int) -> NDArray[np.uint64]:
    """Return the keys of all spools from `low` on and below `high`, sorted, each once."""
    found = [np.empty(0, dtype=np.uint64)]
    for spool in spools:
        with open(spool, "rb") as file:
            while len(part := np.fromfile(file, dtype=np.uint64, count=KEYS_AT_ONCE)):
                found.append(part[(part >= np.uint64(low)) & (part <= np.uint64(high - 1))])
    keys: NDArray[np.uint64] = np.concatenate(found)
    keys.sort()  # ten times faster than numpy.unique
    first = np.ones(len(keys), dtype=np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    once: NDArray[np.uint64] = keys[first]
    return once


def _sync_folder(path: str) -> None:
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
