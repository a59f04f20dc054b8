"""Whoever owns the tree that files come back to, or whoever could write the archive, gains nothing by it."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import random
import shutil
import stat
from array import array
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from allocations.storage.archive import members
from allocations.storage.archive.format import COMMIT
from allocations.storage.archive.members import DamagedError, Member
from allocations.storage.archive.restore import restore
from allocations.storage.archive.stores import Folder
from allocations.storage.archive.target import STAGING, InTheWayError, Target
from allocations.storage.archive.verify import verify
from allocations.storage.archive.write import write
from allocations.storage.tree.beneath import Root
from tests.storage.archive.forge import forged, lines
from tests.storage.archive.trees import told, wanted
from tests.storage.file_systems import done_by

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root restores owners")
ATTACKER, OTHER = 1000, 2000


@pytest.fixture
def tree(tmp_path):
    """An area of the attacker's with a folder of somebody else's in it, which the attacker cannot enter."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, owner, mode in (("mine", ATTACKER, 0o755), ("secret", OTHER, 0o700)):
        (tree / name).mkdir()
        (tree / name / "file").write_text(name)
        os.chown(tree / name / "file", owner, owner)
        os.chown(tree / name, owner, owner)
        (tree / name).chmod(mode)
    os.chown(tree, ATTACKER, ATTACKER)
    return tree


@pytest.fixture
def store(tmp_path):
    return Folder(str(tmp_path / "archive"))


def archive(store, tree, **limits):
    with Root(str(tree)) as root:
        return write(store, root, wanted(tree), name="a", made_at="now", about={}, **limits)


def bring(store, tree, **how):
    with Root(str(tree)) as root:
        return restore(store, root, token="t", owner=(ATTACKER, ATTACKER), **how)


def exchange(one, other):
    assert ctypes.CDLL(None).renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0


def emptied(tree):
    for name in os.listdir(tree):
        shutil.rmtree(tree / name)


def assert_secret_is_kept(tree):
    (secret,) = (path for path in tree.rglob("file") if path.read_text() == "secret")
    status = secret.parent.stat()
    assert (status.st_uid in (0, OTHER), stat.S_IMODE(status.st_mode) & 0o77) == (True, 0)


@pytest.mark.parametrize("is_killed", [False, True])
def test_folders_that_are_exchanged_while_they_are_ours_are_given_to_nobody_else(tree, store, monkeypatch, is_killed):
    archive(store, tree)
    before = told(tree)
    emptied(tree)
    finish = Target.finish

    def finish_late(target):
        exchange(tree / "mine", tree / "secret")
        assert not is_killed
        yield from finish(target)

    monkeypatch.setattr(Target, "finish", finish_late)
    if is_killed:
        with pytest.raises(AssertionError):
            bring(store, tree)
        monkeypatch.undo()
    # The mode of a folder that is not finished tells that nobody but us is in it.
    restored = bring(store, tree)
    assert {path for path, _why in restored.problems} >= {"mine", "secret"}
    assert all("give it its name back" in why for _path, why in restored.problems)
    assert_secret_is_kept(tree)
    monkeypatch.undo()
    exchange(tree / "mine", tree / "secret")
    assert bring(store, tree).problems == []
    assert told(tree) == before


def test_a_folder_that_is_ours_never_gets_the_rights_that_another_part_tells_for_its_name(tree, store, monkeypatch):
    """The folders above a file are told of in each part: they may have been exchanged in between."""
    archive(store, tree, part_paths=1)
    emptied(tree)
    put = Target.put
    seen = []

    def exchange_and_put(target, of, path, data):
        put(target, of, path, data)
        if path == "secret/file":
            exchange(tree / "mine", tree / "secret")
            # As a later part would tell of it.
            fd = os.open(tree / "mine", os.O_RDONLY | os.O_DIRECTORY)
            with pytest.raises(InTheWayError):
                target._is_to_finish(fd, "mine", ATTACKER)
            os.close(fd)
            seen.append(path)

    monkeypatch.setattr(Target, "put", exchange_and_put)
    bring(store, tree)
    assert seen == ["secret/file"]
    assert_secret_is_kept(tree)


def test_the_staging_folder_is_not_taken_for_a_folder_of_the_archive(tree, store, monkeypatch):
    archive(store, tree)
    emptied(tree)
    put = Target.put

    def rename_and_put(target, of, path, data):
        put(target, of, path, data)
        if path == "mine/file":
            (tree / (STAGING + "t")).rename(tree / "secret")

    monkeypatch.setattr(Target, "put", rename_and_put)
    bring(store, tree)
    status = (tree / "secret").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o700)


@pytest.mark.parametrize("is_late", [False, True])
def test_nothing_is_put_into_a_folder_of_somebody_else(tree, store, monkeypatch, is_late):
    """Whoever may make a folder of the same name must not get what all may read, but for the folder that it was in."""
    archive(store, tree)
    emptied(tree)

    def make():
        (tree / "secret").mkdir()
        os.chown(tree / "secret", ATTACKER, ATTACKER)

    put = Target.put

    def make_and_put(target, of, path, data):
        if path == "secret/file":
            (tree / "secret").rename(tree / "moved")
            make()
        put(target, of, path, data)

    if is_late:
        monkeypatch.setattr(Target, "put", make_and_put)
    else:
        make()
    restored = bring(store, tree)
    assert {"secret/file"} <= {path for path, _why in restored.problems} <= {"secret", "secret/file"}
    assert [path.parent.name for path in tree.rglob("file")] == ["mine"]


def test_a_link_where_everything_is_to_be_put_is_refused(tree, store, tmp_path):
    archive(store, tree)
    (tmp_path / "outside").mkdir()
    (tree / "restored").symlink_to(tmp_path / "outside")
    with pytest.raises(InTheWayError):
        bring(store, tree, into="restored/a")
    assert os.listdir(tmp_path / "outside") == []
    assert not [name for name in os.listdir(tree) if name.startswith(STAGING) and os.listdir(tree / name)]


def test_two_restores_share_the_folder_that_they_are_put_into(tree, store):
    """One that has no room and waits does not keep another out."""
    archive(store, tree)

    def fail(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(store, tree, into="restored/one", progress=fail)
    with Root(str(tree)) as root:
        other = restore(store, root, token="u", owner=(ATTACKER, ATTACKER), into="restored/two")
    assert other.problems == []
    assert (tree / "restored").stat().st_uid == ATTACKER
    assert bring(store, tree, into="restored/one").problems == []
    assert told(tree / "restored" / "one") == told(tree / "restored" / "two")


LIES = {
    "a size": lambda line: replace(line, size=1 << 50) if line.type == "file" else line,
    "less than nothing": lambda line: replace(line, size=-1) if line.type == "file" else line,
    "a part that is not there": lambda line: replace(line, part=7),
    "a place in the part": lambda line: replace(line, at=1 << 40),
    "another owner": lambda line: replace(line, uid=0) if line.type == "file" else line,
    "a program that runs as its owner": lambda line: replace(line, mode=0o4755) if line.type == "file" else line,
    "a device": lambda line: replace(line, type="device") if line.type == "file" else line,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_manifest_that_lies_restores_nothing_of_what_it_lies_about(tree, store, tmp_path, lie):
    archive(store, tree)
    emptied(tree)
    lying = forged(store, [lie(line) for line in lines(store)], tmp_path / "forged")
    with pytest.raises(DamagedError):
        verify(lying)
    try:
        restored = bring(lying, tree)
    except DamagedError:
        assert os.listdir(tree) == []
    else:
        assert {"mine/file", "secret/file"} <= {path for path, _why in restored.problems}
        assert list(tree.rglob("file")) == []


@pytest.mark.parametrize("lie", [{"members": 5}, {"total_bytes": 11}, {"left": 1}])
def test_an_archive_json_that_tells_of_other_files_is_refused_before_anything_is_made(tree, store, lie):
    made = archive(store, tree)
    emptied(tree)
    Path(store._path, COMMIT).write_bytes(replace(made, **lie).to_json())
    with pytest.raises(DamagedError, match="more or fewer"):
        verify(store)
    with pytest.raises(DamagedError, match="more or fewer"):
        bring(store, tree)
    assert os.listdir(tree) == []


@pytest.mark.parametrize("told_bytes", [1 << 40, 6, 0])
def test_a_member_that_is_longer_than_the_manifest_tells_is_not_restored(tree, store, tmp_path, told_bytes):
    """A kilobyte of a part may hold a gigabyte of a file: no more of it is written than was told to be there."""
    archive(store, tree)
    emptied(tree)
    (of,) = (line for line in lines(store) if line.path == "mine/file")
    of = replace(of, at=0, size=told_bytes if told_bytes == 0 else of.size)
    real = Member(of.path, members.FILE, of.mode, of.uid, of.gid, of.mtime_ns, of.atime_ns, size=told_bytes)
    header = members.header(real, array("q", (0, told_bytes)))[0]
    lying = forged(store, [of], tmp_path / "forged", tar=header + bytes(64 << 20))
    with pytest.raises(DamagedError):
        verify(lying)
    restored = bring(lying, tree)
    assert [path for path, _why in restored.problems] == ["mine/file"]
    assert list(tree.rglob("file")) == []
    assert not [name for name in os.listdir(tree) if name.startswith(STAGING)]


def attack(tree):
    """As the owner of the area: exchange, rename and link whatever is there, as fast as it goes."""
    os.chdir(tree)
    os.setgroups([])
    os.setgid(ATTACKER)
    os.setuid(ATTACKER)
    chance = random.Random(1)
    rename = ctypes.CDLL(None).renameat2
    while True:
        names = [os.fsencode(name) for name in os.listdir(".")]
        one, other = chance.choice([*names, b"bait"]), chance.choice([*names, b"mine", b"secret", b"restored"])
        with suppress(OSError):
            os.symlink("../outside", "bait")
        with suppress(OSError):
            os.mkdir(chance.choice(("mine", "secret")), 0o777)
        # 2: exchange the two; 0: put the one in the other's place.
        rename(-100, one, -100, other, chance.choice((2, 2, 0)))


@pytest.mark.slow
@pytest.mark.parametrize("into", ["", "restored/a"])
def test_an_owner_who_moves_everything_about_gets_nothing_of_others(tree, store, tmp_path, into):
    archive(store, tree, part_paths=1)
    whole = told(tree)
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "file").write_text("root's")
    (outside / "file").chmod(0o600)
    before = told(outside), outside.stat()
    attacker = multiprocessing.get_context("fork").Process(target=attack, args=(str(tree),))
    attacker.start()
    restored = 0
    try:
        for _round in range(60):
            with suppress(InTheWayError, OSError):
                restored += bring(store, tree, into=into).members
            after = outside.stat()
            assert told(outside) == before[0]
            assert (after.st_uid, after.st_mode, after.st_mtime_ns) == (0, before[1].st_mode, before[1].st_mtime_ns)
            assert secrets_that_are_open(tree) == []
            for name in os.listdir(tree):
                if name.startswith((STAGING, "bait")) or restored % 3:
                    continue
                shutil.rmtree(tree / name, ignore_errors=True)
    finally:
        is_alive = attacker.is_alive()
        attacker.kill()
        attacker.join()
    assert is_alive
    assert restored > 0
    for name in os.listdir(tree):
        if (tree / name).is_symlink():
            (tree / name).unlink()
        else:
            shutil.rmtree(tree / name)
    assert bring(store, tree, into=into).problems == []
    assert told(tree / into) == whole


def read_secret(root, path):
    """Raise OSError where it is not to be read, or something else is there by now."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK, dir_fd=root), "rb") as file:
        if file.read() != b"secret":
            raise FileNotFoundError(errno.ENOENT, path)


def secrets_that_are_open(tree):
    """What the attacker can read of somebody else's, in a tree that changes meanwhile."""
    found = []
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    for folder, _folders, names, fd in os.fwalk(".", dir_fd=root):
        for name in names:
            with suppress(OSError):
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
                is_secret = os.read(file, 10) == b"secret"
                os.close(file)
                path = f"{folder}/{name}"
                if is_secret and done_by((ATTACKER, ATTACKER), partial(read_secret, root, path)) == 0:
                    found.append(path)
    os.close(root)
    return found
