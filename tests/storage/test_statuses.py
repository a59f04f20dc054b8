"""What is seen of many entries together is what lstat says of each."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocations.storage.tree import statuses
from allocations.storage.tree.statuses import (
    FARTHEST_NS,
    ROW_WORDS,
    Looker,
    born_ns,
    exact_times_ns,
    fields,
    times_ns,
)
from allocations.storage.tree.usage import measure

if TYPE_CHECKING:
    from pathlib import Path


def look(folder: Path, names: list[str], at_once: int = 100):
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return Looker(at_once).look(fd, names)
    finally:
        os.close(fd)


def test_each_row_is_what_lstat_says(tmp_path):
    (tmp_path / "filled").write_bytes(b"light" * 1_000)
    os.link(tmp_path / "filled", tmp_path / "again")
    os.utime(tmp_path / "filled", ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    (tmp_path / "before 1970").touch()
    os.utime(tmp_path / "before 1970", ns=(-1_500_000_001, -1))
    (tmp_path / "folder").mkdir(mode=0o750)
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "sparse", "wb") as sparse:
        sparse.truncate(1 << 40)
    os.mknod(tmp_path / os.fsdecode(b"\xff\n"), stat.S_IFREG | 0o600)
    names = sorted(os.listdir(tmp_path))
    rows, failed = look(tmp_path, names)
    assert failed == []
    named = fields(rows)
    expected = [os.lstat(tmp_path / name) for name in names]
    for field in ("mode", "uid", "size", "blocks"):
        assert named[field].tolist() == [getattr(status, f"st_{field}") for status in expected]
    assert named["links"].tolist() == [status.st_nlink for status in expected]
    assert named["inode"].tolist() == [status.st_ino for status in expected]
    devices = [os.makedev(*pair) for pair in named[["device_major", "device_minor"]].tolist()]
    assert devices == [status.st_dev for status in expected]
    for time in ("atime", "mtime", "ctime"):
        in_ns = [getattr(status, f"st_{time}_ns") for status in expected]
        assert exact_times_ns(rows, time) == times_ns(rows, time).tolist() == in_ns


def test_what_cannot_be_looked_at_is_told_and_does_not_hide_the_others(tmp_path):
    (tmp_path / "one").touch()
    (tmp_path / "two").touch()
    rows, failed = look(tmp_path, ["gone", "one", "x" * 300, "two"])
    assert [(number, type(error), error.filename) for number, error in failed] == [
        (0, FileNotFoundError, "gone"),
        (2, OSError, "x" * 300),
    ]
    assert failed[1][1].strerror == "File name too long"
    inodes = fields(rows)["inode"]
    assert [inodes[1], inodes[3]] == [os.stat(tmp_path / "one").st_ino, os.stat(tmp_path / "two").st_ino]


def test_an_empty_folder_has_no_rows(tmp_path):
    rows, failed = look(tmp_path, [])
    assert (len(fields(rows)), failed) == (0, [])
    assert exact_times_ns(rows, "mtime") == times_ns(rows, "mtime").tolist() == []


@given(st.lists(st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 999_999_999)), max_size=5))
def test_dates_that_no_number_of_nanoseconds_reaches_are_as_far_as_can_be(dates):
    rows = np.zeros((len(dates), ROW_WORDS), dtype=np.uint64)
    named = fields(rows)
    named["mtime"], named["mtime_ns"] = [date for date, _ns in dates], [ns for _date, ns in dates]
    exact = [seconds * 1_000_000_000 + ns for seconds, ns in dates]
    assert exact_times_ns(rows, "mtime") == exact
    # To a second at the ends of what can be told.
    near = [max(-FARTHEST_NS, min(FARTHEST_NS, date)) for date in exact]
    assert times_ns(rows, "mtime").tolist() == pytest.approx(near, abs=1_000_000_000)
    inside = [abs(date) < FARTHEST_NS - 1_000_000_000 for date in exact]
    assert [one for one, is_inside in zip(times_ns(rows, "mtime").tolist(), inside, strict=True) if is_inside] == [
        one for one, is_inside in zip(exact, inside, strict=True) if is_inside
    ]


def test_where_the_call_is_refused_nothing_is_taken_for_empty(tmp_path, monkeypatch):
    def refused(*_arguments: object) -> int:
        ctypes.set_errno(errno.EPERM)
        return -1

    (tmp_path / "file").touch()
    monkeypatch.setattr(statuses, "_statx", refused)
    with pytest.raises(PermissionError, match="is refused here"):
        measure(str(tmp_path))


def test_a_folder_is_born_when_it_was_made(tmp_path):
    (tmp_path / "folder").mkdir()
    fd = os.open(tmp_path / "folder", os.O_PATH | os.O_DIRECTORY)
    try:
        born = born_ns(fd)
    finally:
        os.close(fd)
    # Not every file system tells.
    assert born is None or born == os.stat(tmp_path / "folder").st_ctime_ns
