"""Only what was planned, archived and is unchanged since is removed; whatever else comes in its place stays."""

from __future__ import annotations

import errno
import os
import shutil
import tracemalloc
from dataclasses import replace

import pytest

from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.stores import Folder
from allocations.storage.archive.verify import verify
from allocations.storage.purge import delete as deleting
from allocations.storage.purge import looking
from allocations.storage.purge.archived import archived_lines
from allocations.storage.purge.delete import delete
from allocations.storage.purge.looking import CHANGED, GONE_ELSEWHERE
from allocations.storage.purge.trash import NoRoomError
from allocations.storage.tree.beneath import Root
from allocations.storage.tree.walk import Pace
from tests.storage.archive.trees import make_everything, told
from tests.storage.file_systems import mounted, run
from tests.storage.purging import archive, lines, made, planned, remove


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def store(tmp_path):
    return Folder(str(tmp_path / "archive"))


@pytest.mark.parametrize("has_openat2", [True, False])
def test_all_that_was_planned_and_archived_goes(tree, store, has_openat2):
    make_everything(tree)
    plan = planned(tree)
    archive(tree, store, plan)
    with Root(str(tree), has_openat2=has_openat2) as root:
        deleted = delete(root, plan, lines(store))
    folders = sum(one.type == "folder" for one in plan)
    assert (deleted.files, deleted.folders) == (len(plan) - folders, folders)
    assert deleted.bytes == sum(one.bytes for one in plan)
    assert (deleted.left, deleted.left_count, deleted.gone, deleted.unguarded) == ([], 0, 0, 0)
    assert os.listdir(tree) == []


def test_what_is_not_in_the_archive_stays(tree, store):
    plan = made(tree, store, "a", "b", "c")
    told_of = lines(store)
    left = [replace(line, left="it changed") if line.path == "b" else line for line in told_of if line.path != "c"]
    with Root(str(tree)) as root:
        deleted = delete(root, plan, left)
    assert sorted(os.listdir(tree)) == ["b", "c"]
    assert dict(deleted.left) == {"b": "it was not archived: it changed", "c": "it is not in the archive"}


@pytest.mark.parametrize(
    "other",
    [{"inode": 1}, {"size": 7}, {"mtime_ns": 7}, {"ctime_ns": 7}, {"type": "symlink", "link": "x"}],
    ids=["inode", "size", "mtime", "ctime", "type"],
)
def test_what_was_archived_in_another_state_stays(tree, store, other):
    plan = made(tree, store, "a")
    with Root(str(tree)) as root:
        deleted = delete(root, plan, [replace(line, **other) for line in lines(store)])
    assert deleted.left == [("a", "it was archived in another state")]
    assert (tree / "a").read_text() == "text of a"


def test_what_changed_since_it_was_archived_stays(tree, store, tmp_path):
    changes = ["touched", "touched back", "written", "chmod", "chown", "xattr", "replaced", "link", "fifo", "folder"]
    plan = made(tree, store, *changes, "gone", "moved/file", "same")
    times = (tree / "touched back").stat()
    (tmp_path / "outside").write_text("text of link")
    os.utime(tree / "touched")
    (tree / "touched back").write_text("text of touched bacK")
    os.utime(tree / "touched back", ns=(times.st_atime_ns, times.st_mtime_ns))
    with (tree / "written").open("a") as file:
        file.write("more")
    (tree / "chmod").chmod(0o600)
    os.chown(tree / "chown", os.geteuid(), 1234)
    os.setxattr(tree / "xattr", "user.note", b"new")
    (tree / "new").write_text("text of replaced")
    (tree / "new").rename(tree / "replaced")
    for name in ("link", "fifo", "folder"):
        (tree / name).unlink()
    os.link(tmp_path / "outside", tree / "link")
    os.mkfifo(tree / "fifo")
    (tree / "folder").mkdir()
    (tree / "gone").unlink()
    (tree / "moved").rename(tree / "elsewhere")
    before = told(tree)
    deleted = remove(tree, store, plan)
    elsewhere = {"replaced", "link", "fifo", "folder"}
    assert dict(deleted.left) == {name: GONE_ELSEWHERE if name in elsewhere else CHANGED for name in changes}
    assert (deleted.files, deleted.folders, deleted.gone) == (1, 0, 3)
    del before[b"same"]
    assert told(tree) == before


def test_a_folder_stays_where_something_new_is_in_it(tree, store):
    plan = made(tree, store, "a/file", "b/file", "c/file")
    (tree / "a" / "new").write_text("new")
    (tree / "c" / "file").unlink()
    (tree / "c").rmdir()
    (tree / "c").mkdir()  # mostly with the inode that has just become free
    deleted = remove(tree, store, plan)
    assert dict(deleted.left) == {"a": "it is not empty", "c": GONE_ELSEWHERE}
    assert set(told(tree)) == {b"a", b"a/new", b"c"}


def test_without_dates_of_birth_a_folder_goes_once_it_was_empty_for_long(tree, store, monkeypatch):
    (tree / "empty").mkdir()
    plan = made(tree, store, "folder/file")
    monkeypatch.setattr(looking, "born_ns", lambda _handle: None)
    deleted = remove(tree, store, plan)
    assert (deleted.files, deleted.folders, deleted.left) == (1, 1, [("folder", CHANGED)])
    shutil.rmtree(store._path)
    plan = planned(tree)
    archive(tree, Folder(store._path), plan)
    assert remove(tree, store, plan).folders == 1


def test_names_of_one_file_all_go_although_each_changes_its_ctime(tree, store, monkeypatch):
    (tree / "folder").mkdir()
    (tree / "a").write_text("linked")
    os.symlink("anywhere", tree / "link")
    for name in "bcd":
        os.link(tree / "a", tree / "folder" / name)
        os.link(tree / "link", tree / "folder" / f"link {name}", follow_symlinks=False)
    plan = planned(tree)
    archive(tree, store, plan)
    monkeypatch.setattr(looking, "check_content", None)  # not needed: we know the changes that are ours
    deleted = remove(tree, store, plan)
    assert (deleted.files, deleted.folders, deleted.left) == (8, 1, [])


@pytest.mark.parametrize("change", ["none", "content", "mode", "owner"])
def test_after_another_name_went_the_content_decides(tree, store, change):
    (tree / "a").write_text("linked")
    os.link(tree / "a", tree / "b")
    plan = planned(tree)
    archive(tree, store, plan)
    status = (tree / "a").stat()
    (tree / "b").unlink()
    if change == "content":
        (tree / "a").write_text("LINKED")
        os.utime(tree / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "mode":
        (tree / "a").chmod(0o600)
    elif change == "owner":
        os.chown(tree / "a", 1234, 1234)
    deleted = remove(tree, store, plan)
    assert deleted.gone == 1
    assert deleted.left == ([] if change == "none" else [("a", CHANGED)])
    assert (tree / "a").exists() == (change != "none")


def test_more_names_than_were_archived_are_no_reason_to_read(tree, store):
    plan = made(tree, store, "a")
    os.link(tree / "a", tree / "b")
    assert remove(tree, store, plan).left == [("a", CHANGED)]


def test_what_cannot_be_removed_is_told_and_the_rest_goes(tree, store):
    plan = made(tree, store, "a", "b", "c/d")
    run("chattr", "+i", tree / "b")
    run("chattr", "+a", tree / "c")
    try:
        deleted = remove(tree, store, plan)
    finally:
        run("chattr", "-i", tree / "b")
        run("chattr", "-a", tree / "c")
    why = f"it cannot be deleted: {os.strerror(errno.EPERM)}"
    assert {path for path, _why in deleted.left} >= {"b", "c/d"}
    assert dict(deleted.left)["b"] in (why, CHANGED)
    assert not (tree / "a").exists()


def test_when_asked_to_stop_nothing_more_is_removed(tree, store):
    plan = made(tree, store, *"abcdef")
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 3

    deleted = remove(tree, store, plan, stop=stop)
    assert (deleted.files, deleted.stopped, deleted.left_count) == (3, True, 0)
    assert len(os.listdir(tree)) == 3
    deleted = remove(tree, store, plan)
    assert (deleted.files, deleted.stopped, deleted.gone) == (3, False, 3)


def test_so_many_go_in_a_second_as_may(tree, store):
    plan = made(tree, store, *"abcde")
    (tree / "a").unlink()
    slept: list[float] = []
    remove(tree, store, plan, pace=Pace(10, slept.append))
    assert len(slept) == 4
    assert sum(slept) > 0.35


def test_what_is_told_is_bounded(tree, store, monkeypatch):
    monkeypatch.setattr(deleting, "LEFT_TOLD", 3)
    plan = made(tree, store, *"abcdef")
    for name in "abcdef":
        os.utime(tree / name)
    deleted = remove(tree, store, plan)
    assert (len(deleted.left), deleted.left_count) == (3, 6)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_plan(tree, store):
    [one] = made(tree, store, "a")
    [line] = lines(store)
    many = 20_000
    paths = (f"{number:020}" for number in range(many))
    plan = (replace(one, path=path) for path in paths)
    archived = (replace(line, path=f"{number:020}") for number in range(0, many, 2))
    tracemalloc.start()
    with Root(str(tree)) as root:
        deleted = delete(root, plan, archived)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (deleted.gone, deleted.left_count) == (many // 2, many // 2)
    assert peak < 2 << 20


def test_a_manifest_that_is_not_the_verified_one_deletes_nothing(tree, store, tmp_path):
    made(tree, store, "a")
    verified = verify(store)
    other = Folder(str(tmp_path / "other"))
    archive(tree, other, [])
    with pytest.raises(DamagedError, match="not what was verified"):
        next(archived_lines(other, verified))


@pytest.mark.slow
def test_an_area_beyond_its_quota_is_purged_once_there_is_room_to_move(tmp_path):
    """btrfs lets such an area have files removed, but neither a folder made nor a name moved."""
    with mounted("btrfs", 300) as mount:
        area = mount / "area"
        run("btrfs", "quota", "enable", mount)
        run("btrfs", "subvolume", "create", area)
        for number in range(4):
            (area / f"{number}").write_bytes(os.urandom(2 << 20))
        plan = planned(area)
        store = Folder(str(tmp_path / "archive"))
        archive(area, store, plan)
        run("btrfs", "filesystem", "sync", mount)
        group = f"0/{run('btrfs', 'inspect-internal', 'rootid', area).strip()}"
        run("btrfs", "qgroup", "limit", "4M", group, mount)
        before = told(area)
        with pytest.raises(NoRoomError):
            remove(area, store, plan)
        assert told(area) == before
        run("btrfs", "qgroup", "limit", "32M", group, mount)
        deleted = remove(area, store, plan)
        assert (deleted.files, deleted.left, deleted.unguarded) == (4, [], 0)
        assert os.listdir(area) == []
