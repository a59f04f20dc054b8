"""Opens the files to be archived beneath their root, and says whether they are, and stay, what was planned."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from allocations.storage.archive.members import Member, UnfitError, attributes, member, segments
from allocations.storage.tree.beneath import FILE, FOLDER, ElsewhereError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.storage.tree.beneath import Root

# Each of the folders of a path is told with its own path: a longer one, as may be made by hand, would fill memory.
PATH_BYTES = 8_192
CHANGED = "it changed while it was read"


class Wanted(NamedTuple):
    """A file to be archived, a path beneath the root, and what it was when that was decided: size in bytes, times in
    nanoseconds."""

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Source(NamedTuple):
    """A file as it was when it was opened; `data`: its segments; `fd`: of a regular file or a folder."""

    member: Member
    status: os.stat_result
    data: array[int]
    fd: int | None

    def check(self) -> None:
        """Raise UnfitError where an open file is no longer what it was."""
        if self.fd is not None and _seen(os.fstat(self.fd)) != _seen(self.status):
            raise UnfitError(CHANGED)


class Reader:
    """Opens files beneath a root; a context manager. Keeps the folder of the last one open."""

    def __init__(self, root: Root) -> None:
        """Begin."""
        self._root = root
        self._path: str | None = None
        self._fd = -1

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the folder."""
        self._close()

    @contextmanager
    def open(self, wanted: Wanted) -> Iterator[Source]:
        """Open what is wanted for as long as the block lasts; raises UnfitError, which says why it is left."""
        if len(os.fsencode(wanted.path)) > PATH_BYTES:
            raise UnfitError(f"its path is longer than {PATH_BYTES:,} bytes")
        with _told():
            folder, _slash, name = wanted.path.rpartition("/")
            at = self._folder(folder)
            status = os.stat(name, dir_fd=at, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                source = self._special(wanted.path, name, at, status)
            else:
                flags = FOLDER if stat.S_ISDIR(status.st_mode) else FILE
                source = _opened(wanted.path, _quietly(self._root, at, name, flags))
        try:
            if _seen(source.status) != (wanted.device, wanted.inode, wanted.size, wanted.mtime_ns, wanted.ctime_ns):
                raise UnfitError("it changed since it was planned")
            yield source
        finally:
            if source.fd is not None:
                os.close(source.fd)

    @contextmanager
    def above(self, path: str) -> Iterator[Source]:
        """Open a folder that something wanted is in, as it is now; raises UnfitError."""
        with _told():
            source = _opened(path, self._root.open_folder(path))
        try:
            yield source
        finally:
            assert source.fd is not None
            os.close(source.fd)

    def _special(self, path: str, name: str, at: int, status: os.stat_result) -> Source:
        link = ""
        if stat.S_ISLNK(status.st_mode):
            link = os.readlink(name, dir_fd=at)
            if _seen(os.stat(name, dir_fd=at, follow_symlinks=False)) != _seen(status):
                raise UnfitError(CHANGED)
        return Source(member(path, status, link=link), status, array("q"), None)

    def _folder(self, path: str) -> int:
        if self._path != path:
            self._close()
            self._fd = self._root.open_folder(path)
            self._path = path
        return self._fd

    def _close(self) -> None:
        if self._path is not None:
            os.close(self._fd)
            self._path = None


def _opened(path: str, fd: int) -> Source:
    try:
        status = os.fstat(fd)
        of = member(path, status, xattrs=attributes(fd))
        data = segments(fd, status.st_size) if stat.S_ISREG(status.st_mode) else array("q")
    except BaseException:
        os.close(fd)
        raise
    return Source(of, status, data, fd)


def _quietly(root: Root, at: int, name: str, flags: int) -> int:
    """Open without setting the time of the last access, which tells whether anybody needs the file."""
    try:
        return root.open_at(at, name, flags | os.O_NOATIME)
    except PermissionError:  # only the owner and administrators may
        return root.open_at(at, name, flags)


def _seen(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def _told() -> Iterator[None]:
    """Say why a file is left."""
    try:
        yield
    except FileNotFoundError as error:
        raise UnfitError("it is gone") from error
    except ElsewhereError as error:
        raise UnfitError("something else is in its place") from error
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise UnfitError(f"it cannot be read: {error.strerror}") from error
