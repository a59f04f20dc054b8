"""A purge takes a tree of every kind of entry away, but for what cannot be archived, and a restore brings it back."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING, Any

import pytest

from allocations.storage.archive.members import segments
from allocations.storage.archive.restore import restore
from allocations.storage.archive.stores import Folder
from allocations.storage.archive.verify import verify
from allocations.storage.archive.write import write
from allocations.storage.purge.archived import archived_lines, to_wanted
from allocations.storage.purge.delete import delete
from allocations.storage.purge.plan import plan
from allocations.storage.purge.planfile import PlanReader
from allocations.storage.tree.beneath import FILE, FOLDER, Root
from tests.storage.archive.trees import make_everything
from tests.storage.test_plan import MUCH_LATER_MS, NOW_MS, rules_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
MANY = 3_000
DEEP = ["d" * 200] * 30  # beyond PATH_MAX, which is 4,096 bytes
BLOCK_BYTES = 4096
STAYS = {b"with a socket", b"with a socket/socket", b"with a socket/device"}


def all_told(fd: int, prefix: bytes = b"", first: dict[int, bytes] | None = None) -> dict[bytes, Any]:
    """All there is to the entries of a folder, paths of any length, read by the plainest means."""
    found: dict[bytes, Any] = {}
    first = {} if first is None else first
    for name in sorted(os.fsencode(name) for name in os.listdir(fd)):
        path = prefix + name
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        of_all = (oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)
        if stat.S_ISDIR(status.st_mode):
            below = os.open(name, FOLDER, dir_fd=fd)
            found[path] = (*of_all, attributes(below))
            found |= all_told(below, path + b"/", first)
            os.close(below)
        elif stat.S_ISREG(status.st_mode):
            file = os.open(name, FILE | os.O_NOATIME, dir_fd=fd)
            same = first.setdefault(status.st_ino, path)
            found[path] = (*of_all, status.st_atime_ns, status.st_size, same, attributes(file), content(file, status))
            os.close(file)
        elif stat.S_ISLNK(status.st_mode):
            found[path] = (*of_all, os.readlink(name, dir_fd=fd))
        else:
            found[path] = of_all
    return found


def attributes(fd: int) -> dict[str, bytes]:
    return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}


def content(fd: int, status: os.stat_result) -> dict[int, str]:
    """The sums of all blocks that are not of zeros, by their place, and whether there are holes."""
    found = {-1: str(status.st_blocks * 512 < status.st_size)}
    data = segments(fd, status.st_size)
    for start, length in zip(data[::2], data[1::2], strict=True):
        for at in range(start - start % BLOCK_BYTES, start + length, BLOCK_BYTES):
            block = os.pread(fd, BLOCK_BYTES, at)
            if block.strip(b"\0"):
                found[at] = hashlib.sha256(block).hexdigest()
    return found


def make_what_else_there_is(tree: Path) -> None:
    """What is not in `make_everything`."""
    (tree / "with a socket").mkdir()
    (tree / "with a socket" / "file").write_text("goes")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tree / "with a socket" / "socket"))
    os.mknod(tree / "with a socket" / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (tree / "many").mkdir()
    for number in range(MANY):
        (tree / "many" / f"{number}").write_text(f"{number}" * (number % 7))
    with (tree / "huge").open("wb") as file:
        for at in (0, 1 << 33, (1 << 40) - 5):
            file.seek(at)
            file.write(b"data\n")
    (tree / "unreadable").mkdir()
    (tree / "unreadable" / "file").write_text("for nobody")
    (tree / "unreadable" / "file").chmod(0)
    (tree / "unreadable").chmod(0)
    (tree / "new\nline" / "empty").mkdir(parents=True)
    (tree / "new\nline" / "\n").write_text("\n")
    for one, other in (("fifo", "another fifo"), ("link", "another link")):
        os.link(tree / "data" / one, tree / "data" / other, follow_symlinks=False)
    (tree / "shared").write_text("by a list of who may")
    entries = ((1, 6, -1), (2, 4, 1234), (4, 4, -1), (16, 6, -1), (32, 0, -1))  # owner, a user, group, mask, others
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(tree / "shared", "system.posix_acl_access", acl)
    fd = os.open(tree, FOLDER)
    for name in DEEP:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, FOLDER, dir_fd=fd)
        os.close(fd)
        fd = below
    bottom = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.write(bottom, b"deep")
    os.close(bottom)
    os.close(fd)


def test_all_that_goes_comes_back_as_it_was(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    tree.mkdir()
    monkeypatch.chdir(tmp_path)
    make_everything(tree)
    make_what_else_there_is(tree)
    store = Folder(str(tmp_path / "archive"))
    path = str(tmp_path / "plan")
    rules = rules_of({"age_days": 30}, as_of_ms=MUCH_LATER_MS)
    with Root(str(tree)) as root:
        before = all_told(root.fd)
        sums, _digest = plan(
            str(tree), rules, path, arrivals=str(tmp_path / "none"), now_ms=NOW_MS, dry_run=True, processes=2
        )
        assert sums.unarchivable == 2
        assert sums.files.entries + sums.folders.entries == len(before) - len(STAYS)
        write(store, root, to_wanted(root, PlanReader(path)), name="a", made_at="now", about={}, part_paths=1_000)
        verified = verify(store)
        assert (verified.members, verified.left) == (len(before) - len(STAYS), 0)
        deleted = delete(root, PlanReader(path), archived_lines(store, verified))
        assert (deleted.files, deleted.folders) == (sums.files.entries, sums.folders.entries)
        assert (deleted.left, deleted.gone, deleted.unguarded) == ([], 0, 0)
        assert set(all_told(root.fd)) == STAYS
        restored = restore(store, root, token="t", owner=(0, 0))
        assert restored.problems == []
        after = all_told(root.fd)
    assert set(after) == set(before)
    # A folder that stayed was changed by what went out of it and came back.
    assert after.pop(b"with a socket")[:3] == before.pop(b"with a socket")[:3]
    assert [path for path in before if after[path] != before[path]] == []
    assert after == before
