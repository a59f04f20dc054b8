"""What the kernel is asked about btrfs: its trees of subvolumes and of quota groups, by number and never by name.

Names of subvolumes are their makers': in the output of a command they could say anything. The structures and numbers
are those of the kernel's <linux/btrfs.h> and <linux/btrfs_tree.h>. All of it needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allocations.storage.quotas.backends import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

# What the inode of a subvolume's own folder has for a number.
SUBVOLUME_INODE = 256
_ROOT_TREE, _QUOTA_TREE = 1, 8
_LAST_KIND = 0xFF
_ROOT_BACKREF, _STATUS, _INFO, _LIMIT, _RELATION = 144, 240, 242, 244, 246
_INCONSISTENT = 0x2 | 0x4  # a rescan is under way, or needed
_MAX_REFERENCED = 1
_ALL = (1 << 64) - 1
_LEVEL_SHIFT = 48

_KEY = struct.Struct("=7Q4I4Q")  # tree, objectids, offsets, transactions, types, number of items, unused
_HEADER = struct.Struct("=3Q2I")  # transaction, objectid, offset, type, length
_BUFFER_BYTES = 1 << 16
_NAME_BYTES = 4088


def _call(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | 0x94 << 8 | number


_NONE, _WRITE, _READ, _BOTH = range(4)
_SYNC = _call(_NONE, 8, 0)
_CREATE_SUBVOLUME = _call(_WRITE, 14, 8 + _NAME_BYTES)
_SEARCH = _call(_BOTH, 17, _KEY.size + 8)
_LOOKUP = _call(_BOTH, 18, 4096)
_ASSIGN = _call(_WRITE, 41, 24)
_CREATE_GROUP = _call(_WRITE, 42, 16)
_SET_LIMIT = _call(_READ, 43, 48)
_RESCAN = _call(_WRITE, 44, 64)
_WAIT_FOR_RESCAN = _call(_NONE, 46, 0)


@dataclass(slots=True)
class Groups:
    """The quota groups of a file system: bytes that each takes, its limit where it has one, who is in it."""

    bytes: dict[int, int] = field(default_factory=dict)
    limits: dict[int, int] = field(default_factory=dict)
    members: dict[int, set[int]] = field(default_factory=dict)
    is_consistent: bool = False


def group_of(subvolume: int) -> int:
    """Return the group (of level 1) that holds a subvolume and all that were made within it."""
    return 1 << _LEVEL_SHIFT | subvolume


def subvolume_of(fd: int) -> int:
    """Return the number of the subvolume whose own folder is open; BackendError where it is another folder."""
    if os.fstat(fd).st_ino != SUBVOLUME_INODE:
        raise BackendError("this is a folder and not a subvolume: move its content into one")
    asked = bytearray(struct.pack("=QQ", 0, SUBVOLUME_INODE).ljust(4096, b"\0"))
    fcntl.ioctl(fd, _LOOKUP, asked)
    return int(struct.unpack_from("=Q", asked)[0])


def containers(fd: int) -> dict[int, int]:
    """Return, for each subvolume of the file system, the one that it lies in."""
    return {
        child: parent for kind, child, parent, _data in _search(fd, _ROOT_TREE, _ROOT_BACKREF) if kind == _ROOT_BACKREF
    }


def groups(fd: int) -> Groups:
    """Read all quota groups as they were at the last `commit`; BackendError where quotas are off."""
    found = Groups()
    try:
        for kind, first, second, data in _search(fd, _QUOTA_TREE, _STATUS):
            if kind == _STATUS:
                found.is_consistent = not struct.unpack_from("=3Q", data)[2] & _INCONSISTENT
            elif kind == _INFO:
                found.bytes[second] = struct.unpack_from("=2Q", data)[1]
            elif kind == _LIMIT:
                flags, referenced = struct.unpack_from("=2Q", data)
                if flags & _MAX_REFERENCED and referenced != _ALL:
                    found.limits[second] = referenced
            elif kind == _RELATION and first < second:
                found.members.setdefault(second, set()).add(first)
    except FileNotFoundError:
        raise BackendError("quotas are off on this file system: run `btrfs quota enable` on it") from None
    return found


def commit(fd: int) -> None:
    """Write what is held in memory, so that it is counted."""
    fcntl.ioctl(fd, _SYNC)


def make_subvolume(folder: int, name: str) -> None:
    """Make a subvolume in a folder; raises FileExistsError."""
    fcntl.ioctl(folder, _CREATE_SUBVOLUME, bytearray(struct.pack(f"=q{_NAME_BYTES}s", 0, os.fsencode(name))))


def make_group(fd: int, group: int) -> None:
    """Make a group that is not there yet."""
    fcntl.ioctl(fd, _CREATE_GROUP, struct.pack("=2Q", 1, group))


def put_into(fd: int, member: int, group: int) -> bool:
    """Put a group into one above it; return whether all must be counted anew before the sums are right."""
    # Passed as one that may change, so that the kernel's answer comes back and not the buffer.
    return bool(fcntl.ioctl(fd, _ASSIGN, bytearray(struct.pack("=3Q", 1, member, group))) > 0)


def set_limit(fd: int, group: int, limit_bytes: int | None) -> None:
    """Set or take away the limit of a group."""
    limit = _ALL if limit_bytes is None else limit_bytes
    fcntl.ioctl(fd, _SET_LIMIT, struct.pack("=6Q", group, _MAX_REFERENCED, limit, 0, 0, 0))


def count_anew(fd: int) -> None:
    """Let the kernel count everything, or wait until it has."""
    try:
        fcntl.ioctl(fd, _RESCAN, bytes(64))
    except OSError as error:
        if error.errno != errno.EINPROGRESS:
            raise
    fcntl.ioctl(fd, _WAIT_FOR_RESCAN)


def _search(fd: int, tree: int, least_kind: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (type, objectid, offset, data) of a tree's items in their order, from objectid 0 and the type given on."""
    objectid, kind, offset = 0, least_kind, 0
    while True:
        key = _KEY.pack(tree, objectid, _ALL, offset, _ALL, 0, _ALL, kind, _LAST_KIND, 0xFFFFFFFF, 0, 0, 0, 0, 0)
        answer = bytearray(key + struct.pack("=Q", _BUFFER_BYTES) + bytes(_BUFFER_BYTES))
        fcntl.ioctl(fd, _SEARCH, answer)
        count, at = _KEY.unpack_from(answer)[9], _KEY.size + 8
        if count == 0:
            return
        for _ in range(count):
            _transaction, objectid, offset, kind, length = _HEADER.unpack_from(answer, at)
            at += _HEADER.size
            yield kind, objectid, offset, bytes(answer[at : at + length])
            at += length
        # The next key in the order of objectid, type, offset.
        if offset < _ALL:
            offset += 1
        elif kind < _LAST_KIND:
            kind, offset = kind + 1, 0
        else:
            objectid, kind, offset = objectid + 1, 0, 0
