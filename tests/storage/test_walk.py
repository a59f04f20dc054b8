"""A walk sees every entry once, as lstat does, in bounded memory, with one process or several."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocations.storage.tree import walk as walking
from allocations.storage.tree.beneath import ElsewhereError, Root
from allocations.storage.tree.scan import ScanError, scan
from allocations.storage.tree.statuses import fields
from allocations.storage.tree.walk import Pace, Pending, Stack, Walker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allocations.storage.tree.statuses import Statuses


class Seen:
    """Notes everything."""

    def __init__(self, _number: int = 0) -> None:
        self.folders: Counter[str] = Counter()
        self.files: Counter[tuple[str, int, int]] = Counter()
        self.problems: list[tuple[str, int | None]] = []
        self.chunks: list[int] = []

    def folder(self, path: str, status: os.stat_result) -> None:
        assert stat.S_ISDIR(status.st_mode)
        self.folders[path] += 1

    def entries(self, path: str, names: Sequence[str], statuses: Statuses) -> None:
        self.chunks.append(len(names))
        for name, status in zip(names, fields(statuses), strict=True):
            self.note(path, name, int(status["inode"]), int(status["size"]))

    def note(self, path: str, name: str, inode: int, size: int) -> None:
        self.files[f"{path}/{name}".lstrip("/"), inode, size] += 1

    def problem(self, path: str, error: OSError) -> None:
        self.problems.append((path, error.errno))

    def result(self) -> Seen:
        return self


def seen(path: Path, processes: int = 1) -> Seen:
    whole = Seen()
    for part in scan(str(path), Seen, processes=processes):
        whole.folders += part.folders
        whole.files += part.files
        whole.problems += part.problems
        whole.chunks += part.chunks
    return whole


def there(path: Path) -> Seen:
    """The same by the plainest means."""
    whole = Seen()
    for folder, _folders, names in os.walk(path):
        relative = os.path.relpath(folder, path)
        relative = "" if relative == "." else relative
        whole.folders[relative] += 1
        linked = [name for name in _folders if Path(folder, name).is_symlink()]
        for name in names + linked:
            status = os.lstat(f"{folder}/{name}")
            whole.note(relative, name, status.st_ino, status.st_size)
    return whole


# Names as people and programs make them: any bytes but a slash and zero.
NAMES = (
    st.binary(min_size=1, max_size=12)
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b".."))
)
TREES = st.recursive(
    st.sampled_from(["file", "empty", "link", "fifo", "hard"]), lambda inner: st.dictionaries(NAMES, inner, max_size=5)
)


def make(path: bytes, tree: object) -> None:
    if isinstance(tree, dict):
        os.makedirs(path, exist_ok=True)
        for name, inner in tree.items():
            make(path + b"/" + name, inner)
    elif tree == "link":
        os.symlink(b"/", path)
    elif tree == "fifo":
        os.mkfifo(path)
    elif tree == "hard":
        Path(os.fsdecode(path)).touch()
        os.link(path, path + b"+") if len(path) < 4000 and not os.path.lexists(path + b"+") else None
    else:
        Path(os.fsdecode(path)).write_bytes(b"x" * (len(path) if tree == "file" else 0))


@settings(max_examples=60, deadline=None)
@given(tree=st.dictionaries(NAMES, TREES, max_size=5))
def test_every_entry_is_seen_once_as_it_is(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("tree")
    make(os.fsencode(root), tree)
    expected, found = there(root), seen(root)
    assert (found.folders, found.files, found.problems) == (expected.folders, expected.files, [])


def test_several_processes_see_together_what_one_sees(tmp_path):
    for folder in range(40):
        (tmp_path / f"{folder % 7}" / f"{folder}").mkdir(parents=True)
        for number in range(50):
            (tmp_path / f"{folder % 7}" / f"{folder}" / f"{number}").touch()
    alone, together = seen(tmp_path), seen(tmp_path, processes=3)
    assert (together.folders, together.files) == (alone.folders, alone.files)
    assert len(alone.files) == 2000


def test_a_folder_of_many_is_given_in_parts_and_many_folders_wait_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(walking, "FOLDERS_HELD", 40)
    monkeypatch.setattr(walking, "FOLDERS_SPILLED", 20)
    monkeypatch.setattr(walking, "ENTRIES_AT_ONCE", 100)
    for number in range(250):
        (tmp_path / f"file{number}").touch()
        (tmp_path / f"folder{number}" / "in").mkdir(parents=True)
    found = seen(tmp_path)
    assert max(found.chunks) <= 100
    assert sum(found.chunks) == len(found.files) == 250
    assert set(found.folders.values()) == {1}
    assert len(found.folders) == 501


def test_what_vanishes_or_changes_under_a_walk_does_not_end_it(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name / "in").mkdir(parents=True)
    (tmp_path / "outside").touch()

    class Meddler(Seen):
        def folder(self, path: str, status: os.stat_result) -> None:
            super().folder(path, status)
            if path.count("/") == 0 and path and not (tmp_path / "gone").exists():
                os.rename(tmp_path / path / "in", tmp_path / "gone")
                os.symlink("/etc", tmp_path / path / "in")
                others = [one for one in "abcd" if one not in self.folders]
                os.rename(tmp_path / others[0], tmp_path / "moved")
                os.mkdir(tmp_path / others[0])
                os.rename(tmp_path / others[1], tmp_path / "moved too")

    with Root(str(tmp_path)) as root, Stack([Pending("", root.identity)]) as stack:
        meddler = Meddler()
        Walker(root, meddler).walk(stack)
    assert [error for _path, error in meddler.problems] == [116]  # ESTALE: another folder in the place of one
    assert not any("etc" in path for path in meddler.folders)


def test_special_files_and_unreadable_folders_are_told_and_passed_over(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    with open(tmp_path / "sparse", "wb") as sparse:
        sparse.truncate(1 << 40)
    os.symlink("nowhere", tmp_path / "dangling")
    found = seen(tmp_path)
    assert {path for path, _inode, _size in found.files} == {"fifo", "socket", "sparse", "dangling"}


def test_a_root_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    os.symlink("real", tmp_path / "link")
    with pytest.raises(OSError, match="link"):
        scan(str(tmp_path / "link"), Seen)


def test_the_pace_bounds_entries_a_second(monkeypatch):
    slept: list[float] = []
    now = [100.0]
    monkeypatch.setattr("allocations.storage.tree.walk.time.monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(100, sleep)
    for _ in range(10):
        pace.keep(50)
    assert now[0] == pytest.approx(105.0)
    now[0] += 60
    pace.keep(50)
    assert slept[-1] == pytest.approx(0.5)  # a pause is not made up for


def test_the_pace_is_kept_within_a_folder_of_many(tmp_path, monkeypatch):
    monkeypatch.setattr(walking, "ENTRIES_AT_ONCE", 10)
    for number in range(35):
        (tmp_path / f"{number}").touch()
    kept: list[int] = []
    pace = Pace(None)
    monkeypatch.setattr(pace, "keep", kept.append)
    with Root(str(tmp_path)) as root, Stack([Pending("", root.identity)]) as stack:
        Walker(root, Seen(), pace=pace).walk(stack)
    assert kept == [1, 10, 10, 10, 5]


class Dies(Seen):
    """Is killed, as by a kernel without memory, when it has seen a little."""

    def entries(self, path: str, names: Sequence[str], statuses: Statuses) -> None:
        super().entries(path, names, statuses)
        os.kill(os.getpid(), signal.SIGKILL)


class Fails(Seen):
    """Cannot write what it has seen."""

    def entries(self, path: str, names: Sequence[str], statuses: Statuses) -> None:
        raise ElsewhereError(28, "No space left on device", path)


def test_a_scan_whose_process_dies_or_fails_says_so(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "file").touch()
    with pytest.raises(ScanError, match="scan again"):
        scan(str(tmp_path), Dies, processes=2)
    with pytest.raises(OSError, match="No space"):
        scan(str(tmp_path), Fails, processes=2)
