"""Real file systems in files of the test's own, mounted by a loop device."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUSY_SECONDS = 60


def run(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def done_by(owner: tuple[int, int], act: Callable[[], object]) -> int:
    """Do something as an account (user, group) without other rights; return 0 or the number of the error."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(owner[1])
            os.setuid(owner[0])
            act()
            code = 0
        except OSError as error:
            code = error.errno or 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def unmount(mount: Path) -> None:
    """Unmount; what a process that was just killed has open there may still be being closed."""
    ends_at = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            run("umount", mount)
        except subprocess.CalledProcessError as error:
            if "busy" not in error.stderr or time.monotonic() > ends_at:
                raise
            time.sleep(0.2)
        else:
            return


@contextmanager
def mounted(kind: str, mebibytes: int, options: str = "loop") -> Iterator[Path]:
    """Make a file system of a kind and mount it where everybody may go, as long as the block lasts."""
    assert os.geteuid() == 0, "run this test as root: it mounts a file system"
    directory = Path(mkdtemp(prefix="meridian-", dir="/tmp"))
    directory.chmod(0o755)
    image, mount = directory / f"{kind}.img", directory / kind
    with image.open("wb") as opened:
        opened.truncate(mebibytes << 20)
    run(f"mkfs.{kind}", "-q", image)
    mount.mkdir()
    run("mount", "-t", kind, "-o", options, image, mount)
    try:
        yield mount
    finally:
        unmount(mount)
        shutil.rmtree(directory)


@contextmanager
def full_disk(at: Path, left_kib: int) -> Iterator[Callable[[int], None]]:
    """Mount a disk of 4 MiB at a folder that there is, with so much room; yields what leaves another room there."""
    assert os.geteuid() == 0, "run this test as root: it mounts a file system"
    run("mount", "-t", "tmpfs", "-o", "size=4m", "none", at)

    def leave(kib: int) -> None:
        ballast = at / ".ballast"
        ballast.unlink(missing_ok=True)
        free = os.statvfs(at)
        fd = os.open(ballast, os.O_WRONLY | os.O_CREAT)
        if (taken := free.f_bavail * free.f_frsize - (kib << 10)) > 0:
            os.posix_fallocate(fd, 0, taken)
        os.close(fd)

    try:
        leave(left_kib)
        yield leave
    finally:
        # Even though a test that failed has a file open there.
        run("umount", "--lazy", at)
