"""What changes meanwhile is left and told; what was killed goes on; what is full says so."""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import signal
import socket
import sqlite3
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from allocations.storage.archive import write as writing
from allocations.storage.archive.format import COMMIT, MANIFEST, Archive, Line, part_name
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.restore import restore
from allocations.storage.archive.sources import Wanted
from allocations.storage.archive.stores import AbsentError, Folder, PresentError, StoreError
from allocations.storage.archive.verify import verify
from allocations.storage.archive.write import OtherPlanError, write
from allocations.storage.tree.beneath import Root
from tests.forked import exit_code_of
from tests.storage.archive.forge import forged, lines
from tests.storage.archive.trees import make_everything, want, wanted
from tests.storage.file_systems import unmount


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def store(tmp_path):
    return Folder(str(tmp_path / "archive"))


def archive(store, tree, plan=None, **limits):
    with Root(str(tree)) as root:
        return write(store, root, wanted(tree) if plan is None else plan, name="a", made_at="now", about={}, **limits)


def left(store):
    return {line.path: line.left for line in lines(store) if line.left}


def test_what_changed_since_it_was_planned_is_left(tree, store):
    for name in ("touched", "grown", "replaced", "gone", "became a link", "same"):
        (tree / name).write_text(name)
    plan = wanted(tree)
    os.utime(tree / "touched")
    (tree / "grown").write_text("grown more")
    (tree / "new").write_text("replaced")
    (tree / "new").rename(tree / "replaced")
    (tree / "gone").unlink()
    (tree / "became a link").unlink()
    (tree / "became a link").symlink_to("same")
    made = archive(store, tree, plan)
    changed = "it changed since it was planned"
    assert left(store) == {
        "touched": changed,
        "grown": changed,
        "replaced": changed,
        "became a link": changed,
        "gone": "it is gone",
    }
    assert (made.members, made.left) == (1, 5)
    assert verify(store) == made


def test_a_touch_that_sets_the_time_back_is_seen(tree, store):
    for name in "ab":
        (tree / name).write_text("one")
        os.utime(tree / name, ns=(5, 5))
    plan = wanted(tree)
    (tree / "a").write_text("two")
    os.utime(tree / "a", ns=(5, 5))
    archive(store, tree, plan)
    assert left(store) == {"a": "it changed since it was planned"}


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_what_changes_while_it_is_read_is_left(tree, store, monkeypatch, size):
    for name in "abc":
        (tree / name).write_bytes(os.urandom(size))
    plan = wanted(tree)
    read = os.pread

    def change(fd, length, offset):
        data = read(fd, length, offset)
        if os.readlink(f"/proc/self/fd/{fd}") == str(tree / "b"):
            with open(tree / "b", "r+b") as file:
                file.seek(size // 2)
                file.write(b"changed")
        return data

    monkeypatch.setattr(os, "pread", change)
    made = archive(store, tree, plan)
    monkeypatch.undo()
    assert left(store) == {"b": "it changed while it was read"}
    assert (made.members, made.total_bytes, made.parts) == (2, 2 * size, 1)
    assert verify(store) == made


def test_a_part_that_is_begun_anew_forgets_its_links(tree, store, monkeypatch):
    (tree / "a").write_text("linked")
    (tree / "b").write_bytes(os.urandom(3_000_000))
    os.link(tree / "a", tree / "c")
    plan = wanted(tree)
    read = os.pread

    def touch(fd, length, offset):
        if offset:
            os.utime(tree / "b")
        return read(fd, length, offset)

    monkeypatch.setattr(os, "pread", touch)
    archive(store, tree, plan)
    assert [(line.path, line.type, line.link) for line in lines(store)] == [
        ("a", "file", ""),
        ("b", "", ""),
        ("c", "link", "a"),
    ]


def test_links_to_what_a_killed_run_archived_are_links(tree, store, monkeypatch):
    """Even where the part that they are in is begun anew."""
    (tree / "a").write_text("linked")
    (tree / "b").write_bytes(os.urandom(3_000_000))
    os.link(tree / "a", tree / "c")
    plan = wanted(tree)
    archive(store, tree, plan, part_paths=1)
    for name in (COMMIT, MANIFEST, part_name(2), part_name(1)):
        os.unlink(Path(store._path, name))
    read = os.pread

    def touch(fd, length, offset):
        if offset and os.readlink(f"/proc/self/fd/{fd}") == str(tree / "b"):
            os.utime(tree / "b")
        return read(fd, length, offset)

    monkeypatch.setattr(os, "pread", touch)
    archive(store, tree, plan)
    assert [(line.path, line.type, line.link, line.part) for line in lines(store)] == [
        ("a", "file", "", 0),
        ("b", "", "", 0),
        ("c", "link", "a", 1),
    ]


def test_what_becomes_shorter_while_it_is_read_is_left(tree, store, monkeypatch):
    (tree / "a").write_bytes(os.urandom(3_000_000))
    plan = wanted(tree)
    read = os.pread

    def cut(fd, length, offset):
        if offset:
            os.truncate(tree / "a", 5)
        return read(fd, length, offset)

    monkeypatch.setattr(os, "pread", cut)
    assert archive(store, tree, plan).left == 1
    monkeypatch.undo()
    verify(store)


def deep(tree, levels):
    """A file in folders of long names, made part by part; yields its path."""
    fd = os.open(tree, os.O_RDONLY)
    parts = []
    for _ in range(levels):
        parts.append("x" * 250)
        os.mkdir(parts[-1], dir_fd=fd)
        below = os.open(parts[-1], os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    file = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
    os.write(file, b"deep")
    status = os.fstat(file)
    os.close(file)
    os.close(fd)
    path = "/".join([*parts, "file"])
    return Wanted(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@pytest.mark.parametrize(("levels", "left_over"), [(30, 0), (40, 1)])
def test_paths_beyond_what_the_kernel_takes_are_archived_those_made_to_fill_memory_are_left(
    tree, store, levels, left_over
):
    made = archive(store, tree, [deep(tree, levels)])
    assert made.left == left_over
    assert verify(store) == made
    if not left_over:
        with Root(str(tree)) as root:
            restored = restore(store, root, token="t", owner=(0, 0), into="back")
        assert restored.problems == []
        assert (restored.members, restored.bytes) == (1, 4)


def test_a_part_ends_before_its_list_fills_memory(tree, store, monkeypatch):
    monkeypatch.setattr(writing, "PART_LIST_BYTES", 1000)
    for number in range(20):
        (tree / str(number)).touch()
    made = archive(store, tree)
    assert 3 < made.parts < 10
    assert verify(store) == made


def swap(tree: str) -> None:
    """Swap a folder and a link to the outside, as fast as it goes."""
    exchange = ctypes.CDLL(None).renameat2
    while True:
        exchange(-100, f"{tree}/data".encode(), -100, f"{tree}/bait".encode(), 2)


@pytest.mark.slow
def test_nothing_outside_is_read_however_folders_are_swapped(tree, tmp_path):
    (tree / "data").mkdir()
    (tmp_path / "outside").mkdir()
    for number in range(500):
        (tree / "data" / str(number)).write_text("ours")
        (tmp_path / "outside" / str(number)).write_text("secret")
    (tree / "bait").symlink_to("../outside")
    # As if it had been planned when the link was in the folder's place, if planning were so careless.
    plan = [want(tmp_path, f"outside/{number}")._replace(path=f"data/{number}") for number in range(500)]
    plan += [want(tree, f"data/{number}") for number in range(500)]
    # One folder after the other, so that each is opened anew.
    plan = [one for pair in zip(plan, [want(tree, "data")] * 1000, strict=True) for one in pair]
    attacker = multiprocessing.get_context("fork").Process(target=swap, args=(str(tree),))
    attacker.start()
    read = 0
    try:
        for number in range(10):
            store = Folder(str(tmp_path / f"archive{number}"))
            archive(store, tree, plan)
            found = [line for line in lines(store) if line.type == "file"]
            read += len(found)
            assert {line.sha256 for line in found} <= {hashlib.sha256(b"ours").hexdigest()}
    finally:
        attacker.kill()
        attacker.join()
    assert read > 0


def test_sockets_are_left_and_told(tree, store):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "socket"))
        archive(store, tree)
    assert left(store) == {"socket": "sockets and devices cannot be archived"}


def test_reading_does_not_count_as_use(tree, store):
    (tree / "a").write_text("a")
    os.utime(tree / "a", ns=(5, 10**18))
    archive(store, tree)
    assert os.stat(tree / "a").st_atime_ns == 5


def test_nothing_outside_is_read_through_a_folder_that_became_a_link(tree, store, tmp_path):
    (tree / "in").mkdir()
    (tree / "in" / "a").write_text("ours")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text("secret")
    plan = [want(tree, "in/a"), want(tmp_path, "outside/a")._replace(path="in/a")]
    os.rename(tree / "in", tree / "was in")
    os.symlink("../outside", tree / "in")
    archive(store, tree, plan)
    assert set(left(store).values()) == {"something else is in its place"}
    assert [line.path for line in lines(store) if not line.left] == []


def test_links_across_parts_are_links(tree, store):
    (tree / "a").write_text("content")
    (tree / "b").write_text("other")
    os.link(tree / "a", tree / "c")
    archive(store, tree, part_paths=1)
    assert [(line.path, line.type, line.link, line.part) for line in lines(store)] == [
        ("a", "file", "", 0),
        ("b", "file", "", 1),
        ("c", "link", "a", 2),
    ]


def test_an_archive_that_is_finished_is_not_written_again(tree, store):
    (tree / "a").write_text("a")
    first = archive(store, tree)
    (tree / "b").write_text("b")
    assert archive(store, tree) == first


def test_another_plan_is_refused(tree, store):
    for name in "abc":
        (tree / name).write_text(name)
    archive(store, tree, part_paths=1)
    os.unlink(Path(store._path, COMMIT))
    with pytest.raises(OtherPlanError, match="begin again"):
        archive(store, tree, wanted(tree)[::-1])
    with pytest.raises(OtherPlanError, match="begin again"):
        archive(store, tree, wanted(tree)[:2])
    os.unlink(Path(store._path, part_name(2)))
    with pytest.raises(OtherPlanError, match="other parts"):
        archive(store, tree, wanted(tree)[:2])


def die_at(step: int, store: str, tree: str) -> None:
    """Archive, and kill ourselves at the n-th call of what changes the store."""
    calls = 0

    def counted(call):
        def do(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **kwargs)
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return do

    for name in ("write", "fsync", "link", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    setattr(tempfile, "mkstemp", counted(tempfile.mkstemp))  # noqa: B010 (in a process of its own)
    archive(Folder(store), Path(tree), part_paths=6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_step_it_goes_on_and_all_is_there(tree, tmp_path):
    make_everything(tree)
    whole = archive(Folder(str(tmp_path / "whole")), tree, part_paths=6)
    died = step = 0
    while True:
        step += 1
        path = tmp_path / f"archive{step}"
        code = exit_code_of(die_at, step, str(path), str(tree))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        died += 1
        store = Folder(str(path))
        was_finished = store.size(COMMIT) is not None
        if not was_finished:
            with pytest.raises(AbsentError):
                verify(store)
        made = archive(store, tree, part_paths=6)
        assert verify(store) == made
        # What a killed run left of an object goes with the next one.
        assert was_finished or sorted(os.listdir(path)) == sorted([*made.objects, COMMIT])
        assert (made.members, made.total_bytes, made.parts) == (whole.members, whole.total_bytes, whole.parts)
    assert died > 20
    assert whole.parts > 2


@pytest.fixture
def small_disk(tmp_path):
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", path], check=True)
    yield path
    unmount(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_disk_is_told_and_gone_on_from(tree, small_disk):
    for number in range(5):
        (tree / str(number)).write_bytes(os.urandom(800_000))
    store = Folder(str(small_disk / "archive"))
    with pytest.raises(StoreError, match="make room"):
        archive(store, tree, part_paths=1)
    assert sorted(os.listdir(small_disk / "archive")) == [part_name(0), part_name(1), part_name(2)]
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    made = archive(store, tree, part_paths=1)
    assert (made.members, made.parts) == (5, 5)
    assert verify(store) == made


@pytest.fixture
def no_room_for_temporary_files(monkeypatch):
    connect = sqlite3.connect

    def connect_small(path):
        opened = connect(path)
        opened.execute("PRAGMA max_page_count = 4")
        return opened

    monkeypatch.setattr(sqlite3, "connect", connect_small)
    return monkeypatch.undo


def test_no_room_for_temporary_files_is_told_and_gone_on_from(tree, store, tmp_path, no_room_for_temporary_files):
    for number in range(150):
        (tree / f"{number:03}").mkdir()
        (tree / f"{number:03}" / "a").write_text("a")
        os.link(tree / f"{number:03}" / "a", tree / f"{number:03}" / "b")
    with pytest.raises(StoreError, match="TMPDIR"):
        archive(store, tree, part_paths=100)
    assert store.size(COMMIT) is None
    make_room = no_room_for_temporary_files
    make_room()
    made = archive(store, tree, part_paths=100)
    assert verify(store) == made
    assert made.members == 450


def test_a_folder_never_overwrites(store):
    def put(data):
        with store.create("a") as sink:
            sink.write(data)
            sink.commit()

    def put_late():
        with store.create("b") as sink:
            Path(store._path, "b").write_bytes(b"theirs")
            sink.commit()

    put(b"first")
    for late in (lambda: put(b"second"), put_late):
        with pytest.raises(PresentError):
            late()
    assert Path(store._path, "a").read_bytes() == b"first"
    assert Path(store._path, "b").read_bytes() == b"theirs"
    assert sorted(os.listdir(store._path)) == ["a", "b"]


def test_damage_anywhere_is_found(tree, store):
    """A changed, a missing and an added byte in each object."""
    make_everything(tree)
    archive(store, tree, part_paths=8)
    for name in sorted(os.listdir(store._path)):
        path = Path(store._path, name)
        data = path.read_bytes()
        for at in range(0, len(data), max(1, len(data) // 7)):
            harms = [data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :], data[:at], data + b"\0"]
            for harmed in harms if name != COMMIT else harms[1:2]:
                path.write_bytes(harmed)
                with pytest.raises(DamagedError):
                    verify(store)
        path.write_bytes(data)
    verify(store)


def test_every_bit_of_archive_json_counts(tree, store):
    (tree / "a").write_text("a")
    archive(store, tree)
    whole = Path(store._path, COMMIT).read_bytes()
    for at in range(8 * len(whole.rstrip())):
        harmed = bytearray(whole)
        harmed[at // 8] ^= 1 << at % 8
        # Whitespace of another kind says the same.
        if harmed.split() != whole.split():
            with pytest.raises(DamagedError):
                Archive.from_json(bytes(harmed))


def test_a_manifest_that_tells_something_else_is_found(tree, store, tmp_path):
    """All sums may be right, and yet the manifest and the parts tell different things."""
    (tree / "a").write_text("a")
    (tree / "b").write_text("b")
    archive(store, tree)
    first, second = lines(store)
    for harm in (
        [first],
        [first, second, replace(second, path="c")],
        [replace(first, mode=0o777), second],
        [replace(first, sha256=second.sha256), second],
        [second, first],
        [replace(first, path="x"), second],
        [first, replace(second, part=1)],
        [first, replace(second, at=512)],
        [first, second, Line("c", left="it is gone")],
    ):
        told = forged(store, harm, tmp_path / "forged")
        with pytest.raises(DamagedError):
            verify(told)
    assert verify(forged(store, [first, second], tmp_path / "forged"))


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "", ".", "a//b", "a\0b"])
def test_paths_that_lead_out_are_refused(path):
    with pytest.raises(DamagedError):
        Line.from_json(Line(path, type="file").to_json())
    with pytest.raises(DamagedError):
        Line.from_json(Line("a", type="link", link=path).to_json())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"path": 5, "type": "file"}',
        b'{"path":"a","type":"disk"}',
        b'{"path":"a","type":"file","size":"1"}',
        b'{"path":"a","type":"file","size":true}',
        b'{"path":{"b64":"!"},"type":"file"}',
        b"[" * 100_000,
        b'{"path":"a","x":1}',
    ],
)
def test_lines_that_nobody_wrote_are_refused(text):
    with pytest.raises(DamagedError):
        Line.from_json(text)
