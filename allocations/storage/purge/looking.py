"""Looks at an entry that is to be deleted: whether it is what was planned and archived, and that it stays so.

What was archived is known by device, inode, type, size and times. Where the file system has leases (local ones have,
network ones mostly not), nobody writes to a file while we look at it and remove it: a lease is refused as long as
anybody has the file open, or mapped into memory, for writing, and then lets nobody open it so before we let go.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from allocations.storage.archive import members
from allocations.storage.archive.members import UnfitError
from allocations.storage.tree.statuses import born_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.storage.archive.format import Line
    from allocations.storage.purge.planfile import Planned

_KINDS = {"file": stat.S_IFREG, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO, "folder": stat.S_IFDIR}
# How an archive may call what a plan calls so.
_ARCHIVED = {"file": ("file", "link"), "link": ("symlink",), "fifo": ("fifo",), "folder": ("folder",)}
# No leases here: the file system has none, or the account has not the right to them (CAP_LEASE).
_NO_LEASE = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EACCES, errno.EPERM}

GONE_ELSEWHERE = "something else is in its place"
CHANGED = "it changed since it was planned"
IN_USE = "a program has it open for writing"


class UnlikeError(Exception):
    """An entry is not what was planned and archived; the sentence says why it is left."""


def check_archived(one: Planned, line: Line | None) -> Line:
    """Return what the manifest tells of an entry; raises UnlikeError unless it is in the archive as it was planned."""
    if line is None:
        raise UnlikeError("it is not in the archive")
    if line.left:
        raise UnlikeError(f"it was not archived: {line.left}")
    size = one.size if one.type == "file" else 0
    if line.type not in _ARCHIVED[one.type] or (line.inode, line.size, line.mtime_ns, line.ctime_ns) != (
        one.inode,
        size,
        one.mtime_ns,
        one.ctime_ns,
    ):
        raise UnlikeError("it was archived in another state")
    return line


def check_same(status: os.stat_result, one: Planned, device: int) -> None:
    """Raise UnlikeError unless a status is of the entry that was planned, whatever its ctime.

    `device` is that of the area now: numbers of devices do not outlast a mount, and a plan has those of one only.
    """
    if (status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)) != (device, one.inode, _KINDS[one.type]):
        raise UnlikeError(GONE_ELSEWHERE)
    # Deleting what is in a folder changes all of these.
    if one.type != "folder" and (status.st_size, status.st_mtime_ns) != (one.size, one.mtime_ns):
        raise UnlikeError(CHANGED)


def check_folder(handle: int, one: Planned) -> None:
    """Raise UnlikeError unless a folder is the one that was planned, and not a younger one that has its inode now.

    What tells them apart is when they were made; where the file system does not know that, a folder whose mtime has
    changed stays, also where it was we who changed it: it is empty then, and old enough for some purge to come.
    """
    born = born_ns(handle)
    if born is None and os.fstat(handle).st_mtime_ns != one.mtime_ns:
        raise UnlikeError(CHANGED)
    if born is not None and born > one.ctime_ns:
        raise UnlikeError(GONE_ELSEWHERE)


def check_rights(now: os.stat_result, before: os.stat_result) -> None:
    """Raise UnlikeError where owner, group or mode have changed."""
    if (now.st_mode, now.st_uid, now.st_gid) != (before.st_mode, before.st_uid, before.st_gid):
        raise UnlikeError(CHANGED)


def check_touched(status: os.stat_result, one: Planned, line: Line, handle: int) -> None:
    """Raise UnlikeError where an entry of another ctime than planned is not what was archived.

    That of a folder changes with all that is removed from it, and that of a file with each of its names that goes:
    when somebody else removes it, or we did before we were killed. Then its content decides. `handle`: see
    `check_content`.
    """
    if one.type == "folder":
        return
    if status.st_nlink >= line.links:
        raise UnlikeError(CHANGED)
    check_content(status, one, line, handle)


def check_content(status: os.stat_result, one: Planned, line: Line, handle: int) -> None:
    """Raise UnlikeError unless an entry has the content, owner, group and mode that the manifest tells.

    `handle` is a regular file open for reading; what else there is, is opened by O_PATH.
    """
    if (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) != (line.mode, line.uid, line.gid):
        raise UnlikeError(CHANGED)
    if one.type == "file" and _stored_sha256(handle, status) != line.sha256:
        raise UnlikeError(CHANGED)
    if one.type == "link" and os.readlink("", dir_fd=handle) != line.link:
        raise UnlikeError(CHANGED)


def _stored_sha256(fd: int, status: os.stat_result) -> str:
    """Sum up a file as an archive does."""
    try:
        data = members.segments(fd, status.st_size)
        digest = hashlib.sha256(members.header(members.member("file", status), data)[1])
        for piece in members.content(fd, data):
            digest.update(piece)
    except UnfitError as error:
        raise UnlikeError(str(error)) from error
    return digest.hexdigest()


class Guard:
    """A lease on an open file; `is_held` is False where there are none."""

    def __init__(self, fd: int) -> None:
        """Take it; raises UnlikeError where somebody writes."""
        self.fd = fd
        self.is_held = True
        # We ask whether somebody waits; the signal that tells would by default end us, but for one that is ignored.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise UnlikeError(IN_USE) from error
            if error.errno not in _NO_LEASE:
                raise
            self.is_held = False

    def check(self) -> None:
        """Raise UnlikeError where somebody waits to open the file for writing, or has waited too long."""
        if self.is_held and fcntl.fcntl(self.fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            raise UnlikeError(IN_USE)


@contextmanager
def guarded(handle: int) -> Iterator[Guard]:
    """Open the regular file of a handle (O_PATH) and keep writers away as long as the block lasts.

    A file is opened by its handle, as only then it is certain to be none: opening a device may do things. Raises
    UnlikeError, OSError.
    """
    path = f"/proc/self/fd/{handle}"
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # only the owner and administrators may
        fd = os.open(path, flags)
    try:
        yield Guard(fd)
    finally:
        os.close(fd)
