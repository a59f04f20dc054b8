"""Looks at many entries of a folder together: what statx(2) says of each is a row of one array.

os.stat makes objects of all that it is told of an entry, which takes longer than asking the kernel; from columns of an
array numpy takes what is wanted of thousands at once.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    # One row of `ROW_WORDS` for each entry: as words they are copied at once, and not field by field.
    Statuses = NDArray[np.uint64]

# struct statx, of which `device` is in two halves.
_FIELDS = {
    "links": ("u4", 16),
    "uid": ("u4", 20),
    "mode": ("u2", 28),
    "inode": ("u8", 32),
    "size": ("u8", 40),
    "blocks": ("u8", 48),
    "atime": ("i8", 64),
    "atime_ns": ("u4", 72),
    "btime": ("i8", 80),
    "btime_ns": ("u4", 88),
    "ctime": ("i8", 96),
    "ctime_ns": ("u4", 104),
    "mtime": ("i8", 112),
    "mtime_ns": ("u4", 120),
    "device_major": ("u4", 136),
    "device_minor": ("u4", 140),
}
ROW_BYTES = 256
ROW_WORDS = ROW_BYTES // 8
FIELDS = np.dtype(
    {
        "names": list(_FIELDS),
        "formats": [kind for kind, _offset in _FIELDS.values()],
        "offsets": [offset for _kind, offset in _FIELDS.values()],
        "itemsize": ROW_BYTES,
    }
)
NS_PER_SECOND = 1_000_000_000
# In nanoseconds no more than this fits into 64 bits: dates before 1824 and after 2116 are as good as these.
FARTHEST_NS = 1 << 62
_FARTHEST = FARTHEST_NS // NS_PER_SECOND

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
# AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT: as lstat does.
_AS_LSTAT = 0x100 | 0x800
_BASIC_STATS = 0x7FF
_BTIME = 0x800

_statx = ctypes.CDLL(None, use_errno=True).statx


def fields(statuses: Statuses) -> NDArray[np.void]:
    """Return the same rows with columns called as in `FIELDS`; times are in seconds, and nanoseconds beside."""
    named: NDArray[np.void] = statuses.view(FIELDS)[:, 0]
    return named


def times_ns(statuses: Statuses, time: str) -> NDArray[np.int64]:
    """Return `mtime` or another of each row in nanoseconds since 1970; those beyond the farthest, as about that."""
    named = fields(statuses)
    whole: NDArray[np.int64] = np.clip(named[time], -_FARTHEST, _FARTHEST) * NS_PER_SECOND + named[f"{time}_ns"]
    return whole


def exact_times_ns(statuses: Statuses, time: str) -> list[int]:
    """Return `mtime` or another of each row in nanoseconds since 1970, however far away."""
    named = fields(statuses)
    seconds, nanoseconds = named[time], named[f"{time}_ns"]
    if len(seconds) and seconds.min() > -_FARTHEST and seconds.max() < _FARTHEST:
        return cast("list[int]", (seconds * NS_PER_SECOND + nanoseconds).tolist())
    pairs = zip(seconds.tolist(), nanoseconds.tolist(), strict=True)
    return [second * NS_PER_SECOND + rest for second, rest in pairs]


class Looker:
    """Looks at entries; what it saw is overwritten when it looks again."""

    def __init__(self, entries: int) -> None:
        """Make room for so many at once; raises OSError where the call is refused."""
        self.at_once = entries
        self._statuses: Statuses = np.zeros((entries, ROW_WORDS), dtype=np.uint64)
        first = self._statuses.ctypes.data
        # Made once: that takes as long as a call.
        self._rows = [ctypes.c_void_p(first + ROW_BYTES * row) for row in range(entries)]
        # A sandbox that does not know it would make each single entry one that cannot be looked at.
        if _statx(_AT_FDCWD, b"/", 0, _BASIC_STATS, self._rows[0]):
            code = ctypes.get_errno()
            raise OSError(code, f"statx(2), by which trees are looked at, is refused here: {os.strerror(code)}")

    def look(self, folder: int, names: Sequence[str]) -> tuple[Statuses, list[tuple[int, OSError]]]:
        """Look at entries of an open folder, links themselves; returns a row for each, and numbers and errors of those
        that could not be looked at, whose rows are nothing."""
        # No name has a zero in it.
        paths = os.fsencode("\0".join(names)).split(b"\0") if names else []
        failed = [
            number
            for number, (path, row) in enumerate(zip(paths, self._rows))  # noqa: B905 (more rows than paths)
            if _statx(folder, path, _AS_LSTAT, _BASIC_STATS, row)
        ]
        # Once more, for what was wrong is known only just after; a second look may also succeed.
        errors = []
        for number in failed:
            if _statx(folder, paths[number], _AS_LSTAT, _BASIC_STATS, self._rows[number]):
                code = ctypes.get_errno()
                errors.append((number, OSError(code, os.strerror(code), names[number])))
        return self._statuses[: len(names)], errors


def born_ns(handle: int) -> int | None:
    """Return when what is open was made, None where the file system does not tell."""
    status = np.zeros((1, ROW_WORDS), dtype=np.uint64)
    if _statx(handle, b"", _AT_EMPTY_PATH, _BTIME, ctypes.c_void_p(status.ctypes.data)):
        return None
    mask = status.view(np.uint32)[0, 0]
    (named,) = fields(status)
    return int(named["btime"]) * NS_PER_SECOND + int(named["btime_ns"]) if mask & _BTIME else None
