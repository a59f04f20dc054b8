"""Makes the folder of an area so that it is there only when it is its owner's, whenever who makes it is killed.

It is made under a name of its own beside, given away, and only then called as it should be. What was broken off is
taken up by the next who makes the same area; what was called so meanwhile stays as it is.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from allocations.storage.quotas.backends import BackendError, name_of
from allocations.storage.tree.beneath import FOLDER
from allocations.storage.tree.renaming import rename_over_nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    from allocations.storage.quotas.backends import Area

# No area is called so; the rest is the area's number.
_NEW = ".meridian-new-"
# Unlike those of the areas in it, this folder's name may be a link: it is the administrator's.
_CONTAINER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def mkdir_private(folder: int, name: str) -> None:
    """Make a folder that its owner alone may enter; raises FileExistsError, OSError."""
    os.mkdir(name, 0o700, dir_fd=folder)


def make_folder(
    path: str,
    area: Area,
    owner: tuple[int, int],
    make: Callable[[int, str], None] = mkdir_private,
    prepare: Callable[[int], None] = lambda _fd: None,
) -> None:
    """Make an area's folder in the one at a path; what is there stays as it is.

    `make` is given the open folder and a name, and makes it, or raises FileExistsError; `prepare` is given the new one,
    open and not yet its owner's. Raises BackendError, OSError.
    """
    name, new = name_of(area), f"{_NEW}{area.number}"
    folder = os.open(path, _CONTAINER)
    try:
        if _is_there(folder, name):
            return
        with suppress(FileExistsError):
            make(folder, new)
        try:
            _give(folder, new, owner, prepare)
            _call(folder, new, name)
        except (BackendError, OSError):
            # Another who makes it at the same time has been faster: it is no longer called as new.
            if not _is_there(folder, name):
                raise
            with suppress(OSError):
                os.rmdir(new, dir_fd=folder)
    finally:
        os.close(folder)


def _give(folder: int, new: str, owner: tuple[int, int], prepare: Callable[[int], None]) -> None:
    try:
        fd = os.open(new, FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise _not_ours(new) from None
        raise
    try:
        status = os.fstat(fd)
        if status.st_uid not in {os.geteuid(), owner[0]} or os.listdir(fd):
            raise _not_ours(new)
        prepare(fd)
        os.fchown(fd, *owner)
    finally:
        os.close(fd)


def _call(folder: int, new: str, name: str) -> None:
    if not rename_over_nothing(new, folder, name, folder):
        # Over an empty folder alone, that somebody made in this moment.
        if _is_there(folder, name):
            raise FileExistsError(name)
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _not_ours(new: str) -> BackendError:
    return BackendError(f"{new} is there, and is no empty folder of ours: remove it")
