"""The folder through which everything goes that is deleted: what is in it, nobody but we can exchange any more.

A name in somebody's folder may stand for something else by the time that it is removed. So an entry is first moved into
a folder that only we can enter, looked at there, and removed or put back. It is the area's own, hence on its file
system; it is held open, so that it does not matter where its name leads.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from allocations.errors import AllocationsError
from allocations.storage.tree.beneath import FOLDER, ElsewhereError, identity
from allocations.storage.tree.renaming import rename_over_nothing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.storage.tree.beneath import Root

TRASH = ".meridian-trash"
_MODE = stat.S_IRWXU


class TrashError(AllocationsError):
    """What should be the trash folder of an area is somebody else's."""

    code = "purge_trash"
    status = 409
    title = "There is no trash folder"


class NoRoomError(AllocationsError):
    """The file system is full, or the area's quota is, so that not even a name can be moved in it."""

    code = "purge_no_room"
    status = 409
    title = "There is no room to move files in"


class Trash:
    """The trash folder of an area; a context manager, whose end removes it where it is empty.

    On btrfs an area beyond its quota cannot even have a folder made, or a name moved, while it can have files removed.

    `waiting`: names of what an earlier run left in it, because it was killed or could not put it back.
    """

    def __init__(self, root: Root) -> None:
        """Make it, or find that of a run that was killed; raises TrashError, NoRoomError, OSError."""
        with suppress(FileExistsError), _room():
            os.mkdir(TRASH, _MODE, dir_fd=root.fd)
        try:
            self.fd = root.open_at(root.fd, TRASH, FOLDER)
        except (ElsewhereError, FileNotFoundError) as error:  # exchanged, or taken away just now
            raise _not_ours() from error
        self._root = root
        self.waiting: set[str] = set()
        try:
            status = os.fstat(self.fd)
            _check_ours(status, root)
            self._identity = identity(status)
            self.waiting.update(os.listdir(self.fd))
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> Self:
        """Return the trash itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove it, unless something had to be left in it."""
        with suppress(OSError):
            if identity(os.stat(TRASH, dir_fd=self._root.fd, follow_symlinks=False)) == self._identity:
                os.rmdir(TRASH, dir_fd=self._root.fd)
        os.close(self.fd)

    def take(self, folder: int, name: str, called: str) -> None:
        """Move in whatever a name in a folder stands for now; there is nothing in here that is `called` so.

        Raises NoRoomError, OSError.
        """
        with _room():
            os.rename(name, called, src_dir_fd=folder, dst_dir_fd=self.fd)

    def put_back(self, called: str, folder: int, name: str) -> None:
        """Move out again, over nothing that is there; raises OSError."""
        if rename_over_nothing(called, self.fd, name, folder):
            return
        # A link never replaces anything either; a folder cannot have one, and stays where it is.
        os.link(called, name, src_dir_fd=self.fd, dst_dir_fd=folder, follow_symlinks=False)
        os.unlink(called, dir_fd=self.fd)

    def status(self, called: str) -> os.stat_result:
        """Return what lstat says of something in it."""
        return os.stat(called, dir_fd=self.fd, follow_symlinks=False)

    def remove(self, called: str, *, is_folder: bool) -> None:
        """Remove something for good; raises OSError, also for a folder that is not empty."""
        if is_folder:
            os.rmdir(called, dir_fd=self.fd)
        else:
            os.unlink(called, dir_fd=self.fd)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoomError(
                f"No file can be moved to be removed: {error.strerror}.",
                "Raise the quota of the area as long as the purge lasts, or make some room, then go on.",
            ) from error
        raise


def _check_ours(status: os.stat_result, root: Root) -> None:
    # Others can rename our folders within theirs, and so put another of ours here: that is of another mode.
    mode = stat.S_IMODE(status.st_mode) & ~stat.S_ISGID
    if (status.st_uid, mode, status.st_dev) != (os.geteuid(), _MODE, root.identity.device):
        raise _not_ours()


def _not_ours() -> TrashError:
    return TrashError(f"{TRASH} is there, and is not ours.", "Move it away, then go on with the purge.")
