"""Trees of every kind of entry, and all that can be told of one, by the plainest means."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocations.storage.archive.sources import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

TIME_NS = 1_600_000_000_123_456_789


def make_everything(tree: Path) -> None:
    """A tree with every kind of entry, of odd names, owners, modes and times."""
    (tree / "data" / "deep").mkdir(parents=True)
    (tree / "data" / "empty folder").mkdir()
    (tree / "data" / "plain").write_bytes(b"text\n" * 1000)
    (tree / "data" / "nothing").touch()
    (tree / "data" / "large").write_bytes(os.urandom(3_000_001))
    with open(os.fsencode(tree) + b"/data/\xff\xfe not UTF-8\n", "wb") as file:
        file.write(b"odd")
    (tree / "data" / ("long" * 60)).write_bytes(b"a long name")
    (tree / "data" / "\N{GREEK SMALL LETTER ALPHA} Centauri").write_bytes(b"star")
    os.symlink("plain", tree / "data" / "link")
    os.symlink(b"/nowhere/\xff" + b"x" * 200, tree / "data" / "dangling")
    os.link(tree / "data" / "plain", tree / "data" / "deep" / "same")
    os.mkfifo(tree / "data" / "fifo")
    with open(tree / "data" / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(5_000_000)
        file.write(b"middle")
        file.truncate(9_000_000)
    with open(tree / "data" / "hole", "wb") as file:
        file.truncate(7_000_000)
    os.setxattr(tree / "data" / "plain", "user.note", b"\0\xff=\nvalue")
    os.setxattr(tree / "data" / "deep", os.fsdecode(b"user.%=\xff\n"), b"of a folder")
    age(tree)


def age(tree: Path) -> None:
    """Give everything owners, modes and times that nothing has by default."""
    for number, path in enumerate(sorted(everything(tree), reverse=True)):
        status = os.lstat(path)
        if os.geteuid() == 0:
            os.chown(path, 1000 + number, 2000 + number, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(path, (0o750 if stat.S_ISDIR(status.st_mode) else 0o640) | number % 8)
        # Some before 1970.
        times = (TIME_NS + number, TIME_NS - number * 123_456_789_123_456_789)
        os.utime(path, ns=times, follow_symlinks=False)


def everything(tree: Path) -> Iterator[bytes]:
    """All paths, the root's not."""
    for folder, folders, names in os.walk(os.fsencode(tree)):
        for name in folders + names:
            yield folder + b"/" + name


def wanted(tree: Path) -> list[Wanted]:
    """All of a tree, in order."""
    paths = sorted(everything(tree))
    return [want(tree, os.fsdecode(path[len(os.fsencode(tree)) + 1 :])) for path in paths]


def want(tree: Path, path: str) -> Wanted:
    """One of a tree, as it is now."""
    status = os.lstat(tree / path)
    return Wanted(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def told(tree: Path) -> dict[bytes, Any]:
    """All there is to a tree but inodes and times of change: to be compared."""
    first: dict[tuple[int, int], bytes] = {}
    found = {}
    root = os.fsencode(tree) + b"/"
    for path in sorted(everything(tree)):
        status = os.lstat(path)
        is_file, is_link = stat.S_ISREG(status.st_mode), stat.S_ISLNK(status.st_mode)
        name = path.removeprefix(root)
        found[name] = (
            oct(status.st_mode),
            (status.st_uid, status.st_gid),
            status.st_mtime_ns,
            status.st_size if is_file or is_link else None,
            first.setdefault((status.st_dev, status.st_ino), name) if is_file else None,
            Path(os.fsdecode(path)).read_bytes() if is_file else None,
            os.readlink(path) if is_link else None,
            {key: os.getxattr(path, key) for key in os.listxattr(path)}
            if is_file or stat.S_ISDIR(status.st_mode)
            else None,
            # A hole may be of one block less where it begins or ends within one.
            is_file and status.st_blocks * 512 + 4096 < status.st_size,
        )
    return found
