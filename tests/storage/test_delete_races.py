"""Whatever is put in the place of what is being deleted stays, and so does what somebody begins to write to."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from allocations.storage.archive.stores import Folder
from allocations.storage.purge.looking import CHANGED, GONE_ELSEWHERE, IN_USE
from allocations.storage.purge.trash import TRASH, TrashError
from allocations.storage.rights import FILES, keep_only
from allocations.storage.tree import renaming
from tests.storage.file_systems import done_by
from tests.storage.purging import archive, at, made, planned, remove

PATIENCE_SECONDS = 120
# Numbers of openat(2): of x86, of ARM and others.
OPENAT = ("257", "56")


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def store(tmp_path):
    return Folder(str(tmp_path / "archive"))


def test_a_file_that_a_program_may_write_to_stays(tree, store):
    plan = made(tree, store, "open", "appended", "mapped", "read", "kept", text="x" * 5000)
    with (
        (tree / "open").open("r+") as first,
        (tree / "appended").open("a") as second,
        (tree / "read").open() as reader,
        (tree / "mapped").open("r+b") as mapped_file,
    ):
        mapping = mmap.mmap(mapped_file.fileno(), 0)
        mapped_file.close()
        deleted = remove(tree, store, plan)
        assert dict(deleted.left) == dict.fromkeys(["open", "appended", "mapped"], IN_USE)
        first.write("new")
        second.write("new")
        mapping[:3] = b"new"
        mapping.close()
        assert reader.read() == "x" * 5000 + " of read"
    assert (tree / "open").read_text().startswith("newx")
    assert (tree / "appended").read_text().endswith("new")
    assert (tree / "mapped").read_text().startswith("newx")
    assert sorted(os.listdir(tree)) == ["appended", "mapped", "open"]


def waits_to_append(thread):
    """Say whether a thread sleeps in the call that opens a file to append to it."""
    told = Path(f"/proc/self/task/{thread.native_id}")
    number, *arguments = (told / "syscall").read_text().split()
    state = (told / "stat").read_text().rpartition(")")[2].split()[0]
    return state == "S" and number in OPENAT and bool(int(arguments[2], 16) & os.O_APPEND)


def test_a_program_that_opens_a_file_while_it_is_in_the_trash_gets_it_back(tree, store):
    """By another name of it, or because it had found it before it was moved; it waits until we have let go."""
    (tree / "file").write_text("text of file")
    os.link(tree / "file", tree / "other name")
    plan = [one for one in planned(tree) if one.path == "file"]
    archive(tree, store, plan)

    def write():
        with (tree / "other name").open("a") as file:
            file.write(" and more")

    writer = threading.Thread(target=write)

    def begin():
        writer.start()
        # It is asleep in the kernel as soon as it has asked; we hear of that by our lease.
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while not waits_to_append(writer):
            assert time.monotonic() < ends_at
            time.sleep(0.01)

    deleted = remove(tree, store, plan, reached=at("moved", begin))
    writer.join()
    assert deleted.left == [("file", IN_USE)]
    assert (tree / "file").read_text() == "text of file and more"


def test_without_leases_files_go_and_are_counted(tree, store, monkeypatch):
    plan = made(tree, store, "a", "b/c")
    call = fcntl.fcntl

    def refuse(fd, what, argument=0):
        if what == fcntl.F_SETLEASE:
            raise OSError(errno.EINVAL, "no leases here")
        return call(fd, what, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    deleted = remove(tree, store, plan)
    assert (deleted.files, deleted.folders, deleted.unguarded, deleted.left_count) == (2, 1, 2, 0)


@pytest.mark.parametrize(("rights", "unguarded"), [(FILES, 0), (FILES - {"LEASE"}, 1)])
def test_the_rights_of_the_process_that_purges_are_enough(tree, store, rights, unguarded):
    """In a folder and of a file of somebody else; without one of them it goes all the same, and is counted."""
    (tree / "folder").mkdir()
    (tree / "folder" / "file").write_text("text")
    for path in ("folder/file", "folder", "."):
        os.chown(tree / path, 1234, 1234)
        (tree / path).chmod(0o700)
    plan = planned(tree)
    archive(tree, store, plan)

    def act():
        keep_only(rights)
        deleted = remove(tree, store, plan)
        assert (deleted.files, deleted.folders, deleted.left, deleted.unguarded) == (1, 1, [], unguarded)

    assert done_by((0, 0), act) == 0
    assert os.listdir(tree) == []


def as_file(path, outside):
    path.write_text("new")


def as_link(path, outside):
    path.symlink_to(outside / "canary")


def as_folder(path, outside):
    path.mkdir()
    (path / "in it").write_text("new")


def as_fifo(path, outside):
    os.mkfifo(path)


def as_hard_link(path, outside):
    os.link(outside / "canary", path)


def as_socket(path, outside):
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(path.parent)
        listener.bind(path.name)


def as_device(path, outside):
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


OTHERS = [as_file, as_link, as_folder, as_fifo, as_hard_link, as_socket, as_device]


@pytest.fixture
def outside(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "canary").write_text("canary")
    return tmp_path / "outside"


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("other", OTHERS)
def test_what_is_put_in_its_place_after_the_look_is_put_back(tree, store, outside, kind, other, monkeypatch):
    if kind == "file":
        plan = made(tree, store, "x")
    else:
        (tree / "x").mkdir()
        plan = made(tree, store)
    monkeypatch.chdir(tree)

    def swap():
        (tree / "x").rename(outside / "x")
        other(tree / "x", outside)
        put.append(os.lstat(tree / "x"))

    put: list[os.stat_result] = []
    deleted = remove(tree, store, plan, reached=at("checked", swap))
    assert deleted.left == [("x", GONE_ELSEWHERE)]
    assert (deleted.files, deleted.folders) == (0, 0)
    now = os.lstat(tree / "x")
    assert (now.st_ino, now.st_mode) == (put[0].st_ino, put[0].st_mode)
    assert os.listdir(tree) == ["x"]
    assert (outside / "x").exists()
    assert (outside / "canary").read_text() == "canary"
    if other is as_folder:
        assert (tree / "x" / "in it").read_text() == "new"


@pytest.mark.parametrize("how", ["chmod", "touched", "folder moved out", "folder exchanged", "above moved out"])
def test_what_changes_between_the_look_and_the_move_is_put_back(tree, store, outside, how):
    plan = made(tree, store, "above/folder/file", "above/folder/next")

    def change():
        if how == "chmod":
            (tree / "above/folder/next").chmod(0o640)
        elif how == "touched":
            os.utime(tree / "above/folder/next")
        elif how == "above moved out":
            (tree / "above").rename(outside / "above")
        else:
            (tree / "above/folder").rename(outside / "folder")
            if how == "folder exchanged":
                (tree / "above/folder").mkdir()
                (tree / "above/folder/file").write_text("new")

    assert plan[0].path == "above/folder/next"
    deleted = remove(tree, store, plan, reached=at("checked", change))
    left = dict(deleted.left)
    if how in ("chmod", "touched"):
        assert left.pop("above/folder/next") == CHANGED
        assert (tree / "above/folder/next").read_text() == "text of above/folder/next"
        assert set(left) == {"above/folder", "above"}
        return
    assert left["above/folder/next"] == "its folder was moved"
    where = outside / "above/folder" if how == "above moved out" else outside / "folder"
    assert sorted(os.listdir(where)) == ["file", "next"]
    assert deleted.files == 0
    if how == "folder exchanged":
        assert left["above/folder/file"] == GONE_ELSEWHERE
        assert (tree / "above/folder/file").read_text() == "new"


def test_what_cannot_be_put_back_stays_in_the_trash_and_is_told(tree, store):
    plan = made(tree, store, "file")

    def reached(point):
        if point == "checked":
            (tree / "new").write_text("new")
            (tree / "new").rename(tree / "file")
        if point == "moved":
            (tree / "file").write_text("newest")

    deleted = remove(tree, store, plan, reached=reached)
    called = f"{TRASH}/0-{plan[0].inode}"
    assert deleted.left == [
        ("file", f"{GONE_ELSEWHERE}; it is now {called}, as it cannot be put back: {os.strerror(errno.EEXIST)}")
    ]
    assert (tree / "file").read_text() == "newest"
    assert (tree / called).read_text() == "new"
    # Done again, it is put back as soon as it can be.
    (tree / "file").unlink()
    assert remove(tree, store, plan).left == [("file", GONE_ELSEWHERE)]
    assert (tree / "file").read_text() == "new"
    assert os.listdir(tree) == ["file"]


@pytest.mark.parametrize("other", [as_file, as_link, as_fifo])
def test_a_trash_folder_that_is_not_ours_is_refused(tree, store, outside, other):
    plan = made(tree, store, "a")
    other(tree / TRASH, outside)
    with pytest.raises(TrashError):
        remove(tree, store, plan)
    (tree / TRASH).unlink()
    for mode, uid in ((0o755, os.geteuid()), (0o1700, os.geteuid()), (0o700, 1234)):
        (tree / TRASH).mkdir()
        (tree / TRASH).chmod(mode)
        os.chown(tree / TRASH, uid, -1)
        with pytest.raises(TrashError):
            remove(tree, store, plan)
        (tree / TRASH).rmdir()
    assert (tree / "a").exists()


def test_the_trash_is_ours_alone_and_is_looked_up_only_once(tree, store):
    plan = made(tree, store, "a", "b")
    modes = []

    def look():
        modes.append(stat.S_IMODE((tree / TRASH).stat().st_mode))
        (tree / TRASH).rename(tree / "renamed")
        (tree / TRASH).mkdir()
        (tree / TRASH / "decoy").write_text("decoy")

    deleted = remove(tree, store, plan, reached=at("moved", look))
    assert modes == [0o700]
    assert (deleted.files, deleted.left) == (2, [])
    assert os.listdir(tree / TRASH) == ["decoy"]
    assert os.listdir(tree / "renamed") == []


def test_what_another_purge_left_in_the_trash_is_told_and_left(tree, store):
    plan = made(tree, store, "a", "b")
    (tree / TRASH).mkdir(mode=0o700)
    for name in ("0-1", "unknown"):
        (tree / TRASH / name).write_text(name)
    deleted = remove(tree, store, plan)
    why = "it is in the trash, and this plan does not know it"
    assert deleted.left == [(f"{TRASH}/0-1", why), (f"{TRASH}/unknown", why)]
    assert deleted.files == 2
    assert sorted(os.listdir(tree / TRASH)) == ["0-1", "unknown"]
    # A plan that was made meanwhile may name them; they are not put through the trash again.
    shutil.rmtree(store._path)
    plan = planned(tree)
    archive(tree, Folder(store._path), plan)
    assert remove(tree, store, plan).files == 0
    assert sorted(os.listdir(tree / TRASH)) == ["0-1", "unknown"]


def test_where_a_file_system_cannot_rename_over_nothing_a_link_does(tree, store, monkeypatch):
    class Old:
        @staticmethod
        def renameat2(*_asked):
            return -1

    plan = made(tree, store, "file", "there")
    monkeypatch.setattr(renaming, "_libc", Old)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EINVAL)

    def touch():
        os.utime(tree / "file")
        os.utime(tree / "there")

    deleted = remove(tree, store, plan, reached=at("checked", touch))
    assert dict(deleted.left) == {"file": CHANGED, "there": CHANGED}
    assert sorted(os.listdir(tree)) == ["file", "there"]
