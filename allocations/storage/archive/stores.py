"""Where archives are kept: objects that are written once, whole or not at all. A folder is one kind of place."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from allocations.storage.archive.members import Readable


class StoreError(Exception):
    """A store does not do what it is asked; the sentence says what to do. What was being done may be done again."""


class AbsentError(StoreError):
    """There is no such object."""


class PresentError(StoreError):
    """There is such an object already, and none is ever overwritten."""


class Sink(Protocol):
    """An object that is being written."""

    def write(self, data: bytes, /) -> None:
        """Add bytes; raises StoreError."""

    def commit(self) -> None:
        """Make the object be there, for good; raises PresentError where there is one of its name, and StoreError."""


class Store(Protocol):
    """The objects of one archive, by name."""

    def create(self, name: str, /) -> AbstractContextManager[Sink]:
        """Begin an object; left without a commit, nothing is there. Raises PresentError, StoreError."""

    def read(self, name: str, start: int = 0, end: int | None = None, /) -> AbstractContextManager[Readable]:
        """Read an object from a byte to (not with) another; raises AbsentError, StoreError, reading too."""

    def size(self, name: str, /) -> int | None:
        """Return the bytes of an object; None where there is none. Raises StoreError."""

    def names(self) -> list[str]:
        """Return the names of all objects that are there; raises StoreError."""

    def remove(self, name: str, /) -> None:
        """Remove an object for good; one that is not there stays so. Raises StoreError."""

    def clear(self) -> None:
        """Remove what those left who were killed while they wrote, and the place itself if nothing is in it.

        Nobody may write there meanwhile. Raises StoreError.
        """


_UNFINISHED = ".unfinished-"


class Folder:
    """Keeps an archive in a folder, which only administrators can change, on any file system with hard links."""

    def __init__(self, path: str) -> None:
        """Look at nothing yet; the folder is made with its first object."""
        self._path = path

    @contextmanager
    def create(self, name: str) -> Iterator[_FileSink]:
        """See `Store`."""
        path = f"{self._path}/{name}"
        if os.path.lexists(path):
            raise PresentError(f"{path} is there already, and is not overwritten")
        with _explained(self._path):
            os.makedirs(self._path, mode=0o700, exist_ok=True)
            # Of one who was killed. One who was not would fail at its commit: nothing would be lost.
            for other in os.listdir(self._path):
                if other.startswith(_UNFINISHED):
                    os.unlink(f"{self._path}/{other}")
            fd, unfinished = tempfile.mkstemp(prefix=_UNFINISHED, dir=self._path)
        try:
            yield _FileSink(fd, unfinished, path)
        finally:
            os.close(fd)
            with suppress(FileNotFoundError):
                os.unlink(unfinished)

    @contextmanager
    def read(self, name: str, start: int = 0, end: int | None = None) -> Iterator[_FileSource]:
        """See `Store`."""
        path = f"{self._path}/{name}"
        with _explained(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield _FileSource(fd, path, start, end)
        finally:
            os.close(fd)

    def size(self, name: str) -> int | None:
        """See `Store`."""
        with suppress(AbsentError), _explained(f"{self._path}/{name}"):
            return os.stat(f"{self._path}/{name}").st_size
        return None

    def names(self) -> list[str]:
        """See `Store`."""
        with suppress(AbsentError), _explained(self._path):
            return sorted(name for name in os.listdir(self._path) if not name.startswith(_UNFINISHED))
        return []

    def remove(self, name: str) -> None:
        """See `Store`."""
        with suppress(AbsentError), _explained(f"{self._path}/{name}"):
            os.unlink(f"{self._path}/{name}")

    def clear(self) -> None:
        """See `Store`."""
        with suppress(AbsentError), _explained(self._path):
            names = os.listdir(self._path)
            for name in names:
                if name.startswith(_UNFINISHED):
                    os.unlink(f"{self._path}/{name}")
            if all(name.startswith(_UNFINISHED) for name in names):
                os.rmdir(self._path)


class _FileSink:
    def __init__(self, fd: int, unfinished: str, path: str) -> None:
        self._fd = fd
        self._unfinished = unfinished
        self._path = path

    def write(self, data: bytes, /) -> None:
        left = memoryview(data)
        with _explained(self._path):
            while left:
                left = left[os.write(self._fd, left) :]

    def commit(self) -> None:
        with _explained(self._path):
            os.fsync(self._fd)
            # Unlike a rename, this never replaces what is there.
            os.link(self._unfinished, self._path)
            folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


class _FileSource:
    def __init__(self, fd: int, path: str, start: int, end: int | None) -> None:
        self._fd = fd
        self._path = path
        self._at = start
        self._end = end

    def read(self, size: int, /) -> bytes:
        if self._end is not None:
            size = min(size, self._end - self._at)
        with _explained(self._path):
            data = os.pread(self._fd, max(size, 0), self._at)
        self._at += len(data)
        return data


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Tell an operating system's error as a store's, with what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise AbsentError(f"{path} is not there") from error
    except FileExistsError as error:
        raise PresentError(f"{path} is there already, and is not overwritten") from error
    except OSError as error:
        remedy = "see to it, then go on"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room there, then go on: what is finished is kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "let the account that runs this write there, then go on"
        raise StoreError(f"{path}: {error.strerror}: {remedy}") from error
