"""Writes lists for an area's owner into the area itself: what is going to be purged, and what became of it.

The folder is in the owner's hands, who may put anything in its place: it is opened beneath the root, the file is a new
one of ours that nobody else can have linked anywhere before it is theirs, and it gets its name when it is whole.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from allocations.storage.purge.models import Purge, Run
    from allocations.storage.tree.beneath import Root

LISTS = ".meridian/purges"
# What people are told where their area did not take the list.
NO_PLACE = "the page of your storage"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_BY_OTHERS = 0o044
_CHUNK_BYTES = 1 << 20


def list_name(run: Run, purge: Purge, *, is_report: bool = False) -> str:
    """Return what the list of a purge is called, or the report after it: the same whenever it is asked."""
    day = datetime.fromtimestamp(run.created_at_ms // MS_PER_SECOND, UTC).date()
    return f"{day}-{purge.id}{'-done' if is_report else ''}.txt"


def list_place(run: Run, purge: Purge, *, is_report: bool = False) -> str:
    """Return where people find the list: its path in the area, unless the area did not take it."""
    return f"{LISTS}/{list_name(run, purge, is_report=is_report)}" if purge.problem is None else NO_PLACE


def write_list(root: Root, name: str, lines: Iterable[str]) -> None:
    """Write lines into a file in the lists' folder, in place of one of that name; raises OSError.

    Whoever may read the area may read it; it belongs to whom the area belongs to.
    """
    at = ""
    for part in LISTS.split("/"):
        with root.folder(at) as fd, suppress(FileExistsError):
            os.mkdir(part, 0o700, dir_fd=fd)
        at = f"{at}/{part}".lstrip("/")
        with root.folder(at) as fd:
            _let_read(fd)
    area = os.fstat(root.fd)
    unfinished = f".{name}.new"
    with root.folder(at) as folder:
        with suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=folder)
        fd = os.open(unfinished, _NEW, 0o600, dir_fd=folder)
        try:
            _write(fd, lines)
            os.fchmod(fd, 0o600 | (area.st_mode & _READ_BY_OTHERS))
            # A worker that is no administrator of the machine keeps it, and its group.
            with suppress(PermissionError):
                os.fchown(fd, area.st_uid, area.st_gid)
            os.fsync(fd)
            os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished, dir_fd=folder)
            raise
        finally:
            os.close(fd)


def shown(path: str) -> str:
    r"""Return a path on one line, whatever is in it: `\xff` for a byte that is no text, `\n`, and `\\` for itself."""
    text = os.fsencode(path.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def _let_read(folder: int) -> None:
    """Let everybody who may enter the area read a folder that we have just made.

    What is in its place by now may be another of ours that nobody is to enter, the trash: that is not empty when it
    matters, and refused afterwards.
    """
    status = os.fstat(folder)
    ours = (status.st_uid, stat.S_IMODE(status.st_mode) & ~stat.S_ISGID) == (os.geteuid(), stat.S_IRWXU)
    if ours and not os.listdir(folder):
        os.fchmod(folder, 0o755)


def _write(fd: int, lines: Iterable[str]) -> None:
    with open(fd, "w", encoding="utf-8", buffering=_CHUNK_BYTES, closefd=False) as file:
        for line in lines:
            file.write(line)
            file.write("\n")
