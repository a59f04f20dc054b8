"""Opens what lies beneath a root, and nothing else, whatever the owner of the tree does meanwhile.

A path that is looked up twice may name two things, with a link or another file system put in its place in between. So
nothing is looked up by more than the kernel itself keeps within the root (openat2: no links, no `..`, no mount points),
and what was opened is known by its device and inode from then on. Paths are relative to the root, text as `os.fsdecode`
makes it, `""` for the root; they may be longer than the kernel takes at once (PATH_MAX).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

# openat2(2): its number on every architecture, and flags that the standard library does not have.
_OPENAT2 = 437
_BENEATH = 0x08 | 0x04 | 0x02 | 0x01  # RESOLVE_BENEATH, _NO_SYMLINKS, _NO_MAGICLINKS, _NO_XDEV
# Below PATH_MAX (4,096 bytes with the terminating zero).
_LONGEST_PATH = 4000
# An older kernel, or a sandbox that does not know the call.
_NO_OPENAT2 = {errno.ENOSYS, errno.EPERM}

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO put in a file's place does not hold us up.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW_BYTES = ctypes.sizeof(_How)


@cache
def _how(flags: int) -> object:
    """Return a reference to how to open: the kernel only reads it."""
    return ctypes.byref(_How(flags, 0, _BENEATH))


class Identity(NamedTuple):
    """What a file or folder is, whatever its name: numbers of device and inode."""

    device: int
    inode: int


class ElsewhereError(OSError):
    """What is at a path is not beneath the root, or not what was seen there: a link, a mount point, something else."""


def identity(status: os.stat_result) -> Identity:
    """Return what a status is of."""
    return Identity(status.st_dev, status.st_ino)


class Root:
    """An open folder, beneath which all else is opened; a context manager.

    `has_openat2` is False where the kernel does not have it: then each component is opened on its own, without
    following links, and its mount is compared.
    """

    def __init__(self, path: str, *, has_openat2: bool = True) -> None:
        """Open the folder at a path that only we and administrators can change; raises OSError."""
        self.path = path
        self.fd = os.open(path, FOLDER)
        self.identity = identity(os.fstat(self.fd))
        self._mount = _mount_of(self.fd)
        self._has_openat2 = has_openat2

    def __enter__(self) -> Self:
        """Return the root itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close it."""
        os.close(self.fd)

    @contextmanager
    def folder(self, path: str, expected: Identity | None = None) -> Iterator[int]:
        """Open a folder for as long as the block lasts; yields its descriptor, raises as `open_folder`."""
        fd = self.open_folder(path, expected)
        try:
            yield fd
        finally:
            os.close(fd)

    def open_folder(self, path: str, expected: Identity | None = None) -> int:
        """Open a folder, `""` for the root itself; returns a descriptor.

        Raises ElsewhereError where it is not beneath the root, or not the `expected` one, and OSError as os.open does.
        """
        return self.open_and_look(path, expected)[0]

    def open_and_look(self, path: str, expected: Identity | None = None) -> tuple[int, os.stat_result]:
        """Open a folder as `open_folder`; returns a descriptor, and what was seen to be there."""
        first, *others = _parts(path)
        fd = self.open_at(self.fd, first, FOLDER) if first else os.dup(self.fd)
        try:
            for part in others:
                below = self.open_at(fd, part, FOLDER)
                os.close(fd)
                fd = below
            status = os.fstat(fd)
            _check(status, self.identity.device, expected, path)
        except BaseException:
            os.close(fd)
            raise
        return fd, status

    def open_at(self, folder: int, path: str, flags: int) -> int:
        """Open a path, shorter than PATH_MAX, beneath a folder of this root; returns a descriptor, raises as that."""
        if self._has_openat2:
            how = _how(flags)
            for _ in range(100):
                fd = _libc.syscall(_OPENAT2, folder, os.fsencode(path), how, _HOW_BYTES)
                if fd >= 0:
                    return int(fd)
                code = ctypes.get_errno()
                if code in _NO_OPENAT2:
                    self._has_openat2 = False
                    break
                # EAGAIN: something was renamed meanwhile, so that the kernel could not be sure.
                if code not in (errno.EAGAIN, errno.EINTR):
                    raise _error(code, path)
            else:
                raise _error(errno.EAGAIN, path)
        return self._open_by_parts(folder, path, flags)

    def _open_by_parts(self, folder: int, path: str, flags: int) -> int:
        fd = os.dup(folder)
        parts = path.split("/")
        for number, part in enumerate(parts, 1):
            if part in ("", ".", ".."):
                os.close(fd)
                raise _error(errno.EXDEV, path)
            try:
                below = os.open(part, flags if number == len(parts) else FOLDER, dir_fd=fd)
            except OSError as error:
                raise _error(error.errno or errno.EIO, path) from error
            finally:
                os.close(fd)
            fd = below
            if _mount_of(fd) != self._mount:
                os.close(fd)
                raise _error(errno.EXDEV, path)
        return fd


def _parts(path: str) -> Iterator[str]:
    """Cut a path into pieces that the kernel takes, between two of its names each: at least one, if an empty one."""
    # A character takes four bytes at most.
    while len(path) > _LONGEST_PATH // 4 and len(os.fsencode(path)) > _LONGEST_PATH:
        # A name takes 255 bytes at most: there is a place to cut.
        cut = path.rfind("/", 0, _LONGEST_PATH // 4)
        if cut < 0:
            break
        yield path[:cut]
        path = path[cut + 1 :]
    yield path


def _check(status: os.stat_result, device: int, expected: Identity | None, path: str) -> None:
    # A subvolume of btrfs, which its owner may make, has a device of its own without being a mount.
    if status.st_dev != device or not stat.S_ISDIR(status.st_mode):
        raise _error(errno.EXDEV, path)
    if expected is not None and identity(status) != expected:
        raise _error(errno.ESTALE, path)


def _error(code: int, path: str) -> OSError:
    # ELOOP: a link. EXDEV: a mount point, or a way out. ENOTDIR: a link or a file where a folder was.
    kind = ElsewhereError if code in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR, errno.ESTALE) else OSError
    return kind(code, os.strerror(code), path)


def _mount_of(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))
