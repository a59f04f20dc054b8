"""What was archived comes back bit by bit, metadata included: over nothing, and never out of the tree."""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import tempfile
from array import array
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocations.storage.archive import members, target
from allocations.storage.archive.format import FRAME_BYTES, read_list
from allocations.storage.archive.members import DamagedError, Member
from allocations.storage.archive.restore import NoRoomError, restore
from allocations.storage.archive.stores import Folder
from allocations.storage.archive.target import InTheWayError
from allocations.storage.archive.verify import verify
from allocations.storage.archive.write import write
from allocations.storage.tree.beneath import Root
from tests.forked import exit_code_of
from tests.storage.archive.forge import forged, lines
from tests.storage.archive.trees import age, make_everything, told, wanted
from tests.storage.file_systems import unmount

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root restores owners")
OWNER = (os.geteuid(), os.getegid())


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    make_everything(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def store(tmp_path):
    return Folder(str(tmp_path / "archive"))


def archive(store, tree, **limits):
    with Root(str(tree)) as root:
        return write(store, root, wanted(tree), name="a", made_at="now", about={}, **limits)


def bring(store, tree, **how):
    with Root(str(tree)) as root:
        return restore(store, root, token="t", owner=OWNER, **how)


@pytest.mark.parametrize("paths_a_part", [1, 3, 1000])
def test_everything_comes_back_as_it_was(tree, store, paths_a_part):
    before = told(tree)
    made = archive(store, tree, part_paths=paths_a_part)
    assert verify(store) == made
    shutil.rmtree(tree / "data")
    restored = bring(store, tree)
    assert (restored.problems, restored.there, restored.members) == ([], 0, made.members)
    assert told(tree) == before
    assert os.listdir(tree) == ["data"]


def test_it_comes_back_into_a_folder_of_its_own_whose_owner_is_told(tree, store):
    before = told(tree)
    archive(store, tree)
    with Root(str(tree)) as root:
        restored = restore(store, root, token="t", owner=(4000, 5000), into="restored/2026")
    assert restored.problems == []
    assert told(tree / "restored" / "2026") == before
    assert {path: entry for path, entry in told(tree).items() if not path.startswith(b"restored")} == before
    for folder in ("restored", "restored/2026"):
        status = os.stat(tree / folder)
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (4000, 5000, 0o700)


def test_one_file_comes_back_with_the_folders_that_it_is_in(tree, store):
    before = told(tree)
    archive(store, tree)
    shutil.rmtree(tree / "data")
    restored = bring(store, tree, paths=["data/sparse"])
    assert restored.problems == []
    assert told(tree) == {path: before[path] for path in (b"data", b"data/sparse")}


def test_a_folder_comes_back_and_links_to_what_is_elsewhere_are_files(tree, store):
    before = told(tree)
    archive(store, tree)
    shutil.rmtree(tree / "data")
    restored = bring(store, tree, paths=["data/plain", "data/empty folder", "data/nothing at all"])
    assert restored.problems == [("data/nothing at all", "it is not in the archive")]
    first = before[b"data/plain"]
    # Which name of a file was archived first does not matter to whoever asks for the other.
    assert told(tree)[b"data/plain"] == (*first[:4], b"data/plain", *first[5:])
    assert set(told(tree)) == {b"data", b"data/plain", b"data/empty folder"}


def test_several_links_to_what_is_elsewhere_stay_one_file(tree, store):
    (tree / "x").mkdir()
    for name in "bc":
        os.link(tree / "data" / "deep" / "same", tree / "x" / name)
    archive(store, tree)
    shutil.rmtree(tree)
    tree.mkdir()
    assert bring(store, tree, paths=["x"]).problems == []
    assert os.path.samefile(tree / "x" / "b", tree / "x" / "c")
    assert (tree / "x" / "b").read_bytes() == b"text\n" * 1000


def test_nothing_that_is_there_is_overwritten(tree, store):
    archive(store, tree)
    told_of = (tree / "data").stat()
    shutil.rmtree(tree / "data")
    (tree / "data").mkdir()
    os.chown(tree / "data", told_of.st_uid, told_of.st_gid)
    (tree / "data" / "plain").write_text("new")
    (tree / "data" / "deep").write_text("a file now")
    (tree / "data" / "large").mkdir()
    (tree / "data" / "fifo").symlink_to("plain")
    (tree / "data" / "link").symlink_to("large")
    (tree / "data" / "empty folder").symlink_to("/tmp")
    names = ["plain", "deep", "large", "fifo", "link", "empty folder"]
    before = {name.encode(): told(tree)[b"data/" + name.encode()] for name in names}
    mode = (tree / "data").stat().st_mode
    restored = bring(store, tree)
    after = told(tree)
    assert {name: after[b"data/" + name] for name in before} == before
    assert {path for path, _why in restored.problems} == {f"data/{name}" for name in names} | {"data/deep/same"}
    assert (tree / "data").stat().st_mode == mode
    assert (tree / "data" / "nothing").exists()


def test_what_comes_there_after_the_look_is_not_overwritten_either(tree, store, monkeypatch):
    archive(store, tree)
    names = [name for name in os.listdir(tree / "data") if not (tree / "data" / name).is_dir()]
    for name in names:
        (tree / "data" / name).unlink()
        (tree / "data" / name).write_text("new")
    monkeypatch.setattr(target, "_check_free", lambda *_asked: None)
    restored = bring(store, tree)
    assert len(restored.problems) == len(names) + 1
    assert {(tree / "data" / name).read_text() for name in names} == {"new"}


def test_done_again_it_finds_everything_there(tree, store):
    before = told(tree)
    made = archive(store, tree)
    shutil.rmtree(tree / "data")
    bring(store, tree)
    again = bring(store, tree)
    assert (again.members, again.there, again.problems) == (0, made.members, [])
    assert told(tree) == before


def die_at(step: int, store: str, tree: str) -> None:
    """Restore, and kill ourselves before the n-th call of what changes the tree."""
    calls = 0

    def counted(call):
        def do(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return do

    for name in (
        "mkdir",
        "link",
        "unlink",
        "rmdir",
        "pwrite",
        "fchown",
        "fchmod",
        "utime",
        "symlink",
        "mkfifo",
        "chown",
    ):
        setattr(os, name, counted(getattr(os, name)))
    bring(Folder(store), Path(tree), into="restored/here")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_step_it_is_done_again_and_all_is_right(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    make_everything(tree)
    store = Folder(str(tmp_path / "archive"))
    archive(store, tree)
    whole = told(tree)
    shutil.rmtree(tree / "data")
    step = 0
    while True:
        step += 1
        code = exit_code_of(die_at, step, store._path, str(tree))
        # Whatever is there by its name is complete, but for folders that are not finished.
        for path, entry in told(tree).items():
            name = path.removeprefix(b"restored/here/")
            if name in whole and not stat.S_ISDIR(int(entry[0], 8)):
                assert entry[:4] + entry[5:] == whole[name][:4] + whole[name][5:]
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert bring(store, tree, into="restored/here").problems == []
        assert told(tree / "restored" / "here") == whole
        assert os.listdir(tree) == ["restored"]
        assert stat.S_IMODE(os.stat(tree / "restored").st_mode) == 0o700
        shutil.rmtree(tree / "restored")
    assert step > 40


def test_damage_costs_only_what_it_touches(tree, store):
    """Frames are apart: a part that is damaged in its middle gives back what is before and behind."""
    for number in range(12):
        (tree / f"file {number:02}").write_bytes(os.urandom(2 << 20))
    archive(store, tree)
    part = Path(store._path, "part-00000.tar.zst")
    data = bytearray(part.read_bytes())
    frames = read_list(store, part.name, len(data)).frames
    harmed = len(frames) // 2
    data[sum(frames[:harmed]) + 1000] ^= 1
    part.write_bytes(data)
    told_of = lines(store)
    ends = [line.at - 1 for line in told_of[1:]] + [sum(frames)]
    touched = {
        line.path
        for line, end in zip(told_of, ends, strict=True)
        if line.at // FRAME_BYTES <= harmed <= end // FRAME_BYTES
    }
    before = told(tree)
    shutil.rmtree(tree)
    tree.mkdir()
    restored = bring(store, tree)
    assert set() < {path for path, _why in restored.problems} <= touched
    assert len(touched) < 5
    after = told(tree)
    assert len(after) == len(before) - restored.problem_count
    assert all(before[path] == entry for path, entry in after.items())


def test_an_archive_that_lies_about_content_restores_none_of_it(tree, store, tmp_path):
    archive(store, tree)
    made = lines(store)
    harmed = [replace(line, sha256="0" * 64) if line.path == "data/large" else line for line in made]
    shutil.rmtree(tree / "data")
    restored = bring(forged(store, harmed, tmp_path / "forged"), tree)
    assert [path for path, _why in restored.problems] == ["data/large"]
    assert not (tree / "data" / "large").exists()


def test_a_staging_folder_of_somebody_else_is_refused(tree, store):
    archive(store, tree)
    (tree / ".meridian-restoring-t").mkdir()
    with pytest.raises(InTheWayError, match="remove it"):
        bring(store, tree)


def test_files_do_not_run_under_the_name_of_others(tree, store):
    for number, name in enumerate(("own", "other")):
        (tree / name).write_text("#!")
        os.chown(tree / name, 1000 + number, 1000)
        os.chmod(tree / name, 0o6755)
    archive(store, tree)
    for name in ("own", "other"):
        (tree / name).unlink()
    with Root(str(tree)) as root:
        restore(store, root, token="t", owner=(1000, 1000))
    assert stat.S_IMODE(os.stat(tree / "own").st_mode) == 0o6755
    assert stat.S_IMODE(os.stat(tree / "other").st_mode) == 0o755


def test_attributes_that_give_rights_are_not_restored():
    of = Member("a", members.FILE, 0o755, 0, 0, 0, 0, xattrs=(("security.capability", b"all"),))
    with pytest.raises(DamagedError):
        members.read_member(io.BytesIO(members.header(of, array("q"))[0]))


def test_a_full_disk_is_told_and_gone_on_from(tree, store, tmp_path):
    for number in range(5):
        (tree / str(number)).write_bytes(os.urandom(800_000))
    shutil.rmtree(tree / "data")
    archive(store, tree)
    before = told(tree)
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], check=True)
    try:
        with pytest.raises(NoRoomError, match="make some"):
            bring(store, disk)
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        assert bring(store, disk).problems == []
        assert told(disk) == before
    finally:
        unmount(disk)


def test_no_room_for_temporary_files_is_told_and_gone_on_from(tree, store, monkeypatch):
    for number in range(150):
        (tree / f"{number:03}").mkdir()
    archive(store, tree)
    before = told(tree)
    shutil.rmtree(tree)
    tree.mkdir()
    connect = sqlite3.connect

    def connect_small(path):
        opened = connect(path)
        opened.execute("PRAGMA max_page_count = 5")
        return opened

    monkeypatch.setattr(sqlite3, "connect", connect_small)
    with pytest.raises(NoRoomError, match="TMPDIR"):
        bring(store, tree)
    monkeypatch.undo()
    assert bring(store, tree).problems == []
    assert told(tree) == before


def attack(tree: str) -> None:
    """Swap a folder and a link to the outside, as fast as it goes."""
    os.symlink("../outside", f"{tree}/bait")
    exchange = ctypes.CDLL(None).renameat2
    while True:
        exchange(-100, f"{tree}/data".encode(), -100, f"{tree}/bait".encode(), 2)


@pytest.mark.slow
def test_nothing_is_put_outside_however_folders_are_swapped(tmp_path):
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    tree.mkdir()
    outside.mkdir()
    (tree / "data").mkdir()
    for number in range(300):
        (tree / "data" / str(number)).write_text(str(number))
    store = Folder(str(tmp_path / "archive"))
    archive(store, tree)
    attacker = multiprocessing.get_context("fork").Process(target=attack, args=(str(tree),))
    attacker.start()
    put = 0
    try:
        for _round in range(20):
            for folder in ("data", "bait"):
                if not (tree / folder).is_symlink():
                    for name in os.listdir(tree / folder):
                        with suppress(OSError):
                            os.unlink(tree / folder / name)
            restored = bring(store, tree)
            put += restored.members
    finally:
        attacker.kill()
        attacker.join()
    assert os.listdir(outside) == []
    assert put > 0


HOSTILE = ["../outside/x", "/tmp/x", "data/../../outside/x"]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths_are_refused(tree, store, tmp_path, path):
    archive(store, tree)
    harmed = [replace(line, path=path) if line.path == "data/plain" else line for line in lines(store)]
    with pytest.raises(DamagedError):
        bring(forged(store, harmed, tmp_path / "forged"), tree)
    assert not (tmp_path / "outside").exists()


def test_a_link_in_the_archive_is_not_followed_by_what_comes_after(tree, tmp_path):
    """The archive may hold a link and then a file beneath it."""
    (tmp_path / "outside").mkdir()
    shutil.rmtree(tree / "data")
    (tree / "a").mkdir()
    (tree / "a" / "x").write_text("x")
    store = Folder(str(tmp_path / "archive"))
    archive(store, tree)
    shutil.rmtree(tree / "a")
    os.symlink("../outside", tree / "a")
    restored = bring(store, tree)
    assert {path for path, _why in restored.problems} == {"a", "a/x"}
    assert os.listdir(tmp_path / "outside") == []


NAMES = (
    st.binary(min_size=1, max_size=8)
    .map(lambda name: os.fsdecode(name.replace(b"/", b"_").replace(b"\0", b"_")))
    .filter(lambda name: name not in (".", ".."))
)
CONTENTS = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=2000), st.lists(st.integers(1, 200_000), max_size=4)),
    st.tuples(st.just("symlink"), NAMES),
    st.tuples(st.just("link"), st.integers(0, 20)),
    st.tuples(st.just("fifo")),
)
TREES = st.recursive(
    st.dictionaries(NAMES, CONTENTS, max_size=5),
    lambda below: st.dictionaries(NAMES, CONTENTS | below, max_size=5),
    max_leaves=20,
)


def build(folder: str, tree, files: list[str]) -> None:
    for name, what in tree.items():
        path = f"{folder}/{name}"
        if isinstance(what, dict):
            os.mkdir(path)
            build(path, what, files)
        elif what[0] == "symlink":
            os.symlink(what[1], path)
        elif what[0] == "fifo":
            os.mkfifo(path)
        elif what[0] == "link" and files:
            os.link(files[what[1] % len(files)], path)
        else:
            with open(path, "wb") as file:
                for hole in what[2] if what[0] == "file" else ():
                    file.write(what[1])
                    file.seek(hole, os.SEEK_CUR)
                file.truncate()
            files.append(path)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(TREES, st.integers(1, 10), st.booleans())
def test_any_tree_comes_back_as_it_was(tree, part_paths, is_elsewhere):
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "tree")
        path.mkdir()
        build(str(path), tree, [])
        age(path)
        before = told(path)
        store = Folder(f"{scratch}/archive")
        made = archive(store, path, part_paths=part_paths)
        assert verify(store) == made
        if not is_elsewhere:
            shutil.rmtree(path)
            path.mkdir()
        into = "back" if is_elsewhere else ""
        assert bring(store, path, into=into).problems == []
        assert told(path / into) == before
