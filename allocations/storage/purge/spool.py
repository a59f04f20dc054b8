"""Folders for what is spooled while plans are made: gone with the plan, or after who made it was killed.

Who makes a plan shares a lock, which the processes of its scan inherit and keep though it be killed. What is left is
removed by who has the lock alone: then nobody writes there, and who comes meanwhile waits until it is gone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SPOOLS = ".spools"


@contextmanager
def spool(folder: str) -> Iterator[str]:
    """Yield the path of an empty folder on the file system of another, which is removed at the end; raises OSError."""
    spools = f"{folder}/{SPOOLS}"
    os.makedirs(spools, mode=0o700, exist_ok=True)
    with _locked(spools, fcntl.LOCK_SH), tempfile.TemporaryDirectory(dir=spools) as path:
        yield path


def remove_left(folder: str) -> int:
    """Remove what was left by those who were killed; returns how many folders, none while somebody makes a plan.

    Raises OSError.
    """
    spools = f"{folder}/{SPOOLS}"
    if not os.path.isdir(spools):
        return 0
    try:
        with _locked(spools, fcntl.LOCK_EX | fcntl.LOCK_NB):
            left = [entry.path for entry in os.scandir(spools) if entry.is_dir(follow_symlinks=False)]
            for path in left:
                shutil.rmtree(path)
            return len(left)
    except BlockingIOError:
        return 0


@contextmanager
def _locked(spools: str, how: int) -> Iterator[None]:
    # Open for writing: NFS asks for that of who wants a lock alone.
    fd = os.open(f"{spools}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, how)
        try:
            yield
        finally:
            # Not by closing alone: a process that another thread began meanwhile has inherited it.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)
