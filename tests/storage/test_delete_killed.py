"""Killed at any of its points, a deletion goes on: what is in the trash is removed or put back, nothing is lost."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from allocations.storage.archive.stores import Folder
from allocations.storage.purge import delete as deleting
from allocations.storage.purge.delete import delete
from allocations.storage.purge.looking import CHANGED
from allocations.storage.purge.trash import TRASH
from allocations.storage.tree.beneath import Root
from tests.storage.archive.trees import told
from tests.storage.purging import archive, lines, planned, remove

pytestmark = pytest.mark.slow


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def store(tmp_path):
    return Folder(str(tmp_path / "archive"))


def killed(tree, store, plan, after):
    """Delete, and kill ourselves at the n-th point; return the point, or None where there are fewer."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        count = 0

        def reached(point):
            nonlocal count
            count += 1
            if count == after:
                os.write(write, point.encode())
                os.kill(os.getpid(), signal.SIGKILL)

        with suppress(BaseException):
            remove(tree, store, plan, reached=reached)
            os._exit(0)
        os._exit(1)
    os.close(write)
    ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with os.fdopen(read) as pipe:
        point = pipe.read()
    assert ended == (-signal.SIGKILL if point else 0)
    return point or None


def make_small(tree):
    (tree / "folder" / "empty").mkdir(parents=True)
    (tree / "file").write_text("file")
    (tree / "folder" / "a").write_text("linked")
    os.link(tree / "folder" / "a", tree / "folder" / "b")
    os.symlink("file", tree / "folder" / "link")
    os.mkfifo(tree / "fifo")
    with (tree / "sparse").open("wb") as file:
        file.seek(100_000)
        file.write(b"end")


def test_killed_at_any_point_it_goes_on(tmp_path):
    """Once at each point; all that was planned goes, and nothing is left in the trash."""
    points = set()
    number = 0
    while True:
        number += 1
        tree = tmp_path / f"tree {number}"
        tree.mkdir()
        make_small(tree)
        store = Folder(str(tmp_path / f"archive {number}"))
        plan = planned(tree)
        archive(tree, store, plan)
        point = killed(tree, store, plan, number)
        if point is None:
            break
        points.add(point)
        deleted = remove(tree, store, plan)
        assert (deleted.left, os.listdir(tree)) == ([], []), point
        assert deleted.files + deleted.folders + deleted.gone == len(plan)
    assert points == set(deleting.POINTS) - {"put back"}
    assert number > 30


def test_killed_at_every_point_one_after_the_other_it_ends(tmp_path, tree, store):
    """A run that is killed at its third point, again and again, still comes to an end."""
    make_small(tree)
    plan = planned(tree)
    archive(tree, store, plan)
    runs = 0
    while killed(tree, store, plan, 3 + runs % 2) is not None:
        runs += 1
        assert runs < 100
    assert runs > 5
    assert remove(tree, store, plan).left == []
    assert os.listdir(tree) == []


@pytest.mark.parametrize("change", ["not archived", "content", "mode", "stop"])
def test_what_a_killed_run_left_in_the_trash_is_put_back_where_it_may_not_go(tree, store, change):
    make_small(tree)
    plan = planned(tree)
    archive(tree, store, plan)
    number, one = 0, plan[-1]
    while one.type != "file":
        number += 1
        assert killed(tree, store, plan, number)
        for called in os.listdir(tree / TRASH):
            one = plan[int(called.partition("-")[0])]
    [called] = os.listdir(tree / TRASH)
    status = (tree / TRASH / called).stat()
    if change == "content":
        (tree / TRASH / called).write_bytes((tree / TRASH / called).read_bytes().swapcase())
        os.utime(tree / TRASH / called, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "mode":
        (tree / TRASH / called).chmod(0o600)
    there = len(told(tree))
    told_of = [line for line in lines(store) if change != "not archived" or line.path != one.path]
    with Root(str(tree)) as root:
        deleted = delete(root, plan, told_of, stop=lambda: True)
    if change == "stop":
        # What was moved is as good as removed; the rest stays.
        assert (deleted.files, deleted.left_count) == (1, 0)
        assert len(told(tree)) == there - 2
        return
    why = "it is not in the archive" if change == "not archived" else CHANGED
    assert deleted.left == [(one.path, why)]
    assert (tree / one.path).stat().st_ino == one.inode
    assert len(told(tree)) == there - 1
    assert not (tree / TRASH).exists()
