"""What a tree takes is counted as `du` counts it."""

from __future__ import annotations

import os
import subprocess
import tracemalloc

import numpy as np
import pytest

from allocations.storage.tree import usage
from allocations.storage.tree.usage import FolderUse, measure


def du(path, *options: str) -> int:
    return int(subprocess.run(["du", "-s", "-B1", *options, path], capture_output=True, check=True).stdout.split()[0])


@pytest.mark.parametrize("processes", [1, 2])
def test_bytes_are_those_of_du_with_links_once_and_holes_left_out(tmp_path, processes):
    for folder in range(5):
        (tmp_path / f"{folder}" / "deep").mkdir(parents=True)
        for number in range(20):
            (tmp_path / f"{folder}" / "deep" / f"{number}").write_bytes(b"x" * (1000 * number))
        os.link(tmp_path / f"{folder}" / "deep" / "19", tmp_path / f"{folder}" / "again")
        os.link(tmp_path / "0" / "deep" / "18", tmp_path / f"{folder}" / "shared")
    with open(tmp_path / "sparse", "wb") as sparse:
        sparse.truncate(1 << 40)
    os.symlink("nowhere", tmp_path / "link")
    found = measure(str(tmp_path), processes=processes)
    assert found.bytes == du(tmp_path)
    assert found.apparent_bytes == 5 * sum(1000 * number for number in range(20)) + (1 << 40) + len("nowhere")
    assert (found.files, found.folders, found.problem_count) == (112, 11, 0)


def test_the_largest_folders_are_told_with_what_is_beneath_them(tmp_path):
    for path, size in {"a/b/c/d": 50_000, "a/b": 20_000, "e": 100_000, "e/f": 10_000}.items():
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / "file").write_bytes(b"x" * size)
    largest = measure(str(tmp_path), processes=1).largest
    assert [one.path for one in largest] == ["e", "a", "a/b", "a/b/c", "e/f"]
    assert largest[1] == FolderUse("a", du(tmp_path / "a"), 2)


def test_very_many_folders_are_not_all_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "FOLDERS_COUNTED", 10)
    for number in range(60):
        (tmp_path / f"{number}").mkdir()
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "file").write_bytes(b"x" * 1_000_000)
    found = measure(str(tmp_path), processes=1)
    assert found.largest[0].path == "big"
    assert len(found.largest) <= 10
    assert found.bytes == du(tmp_path)


@pytest.mark.parametrize("compared", [1, 7, 1000])
def test_files_with_several_names_count_once_in_however_many_passes(tmp_path, monkeypatch, compared):
    """Names of one file in one pass and in several folders; more passes than files, too."""
    monkeypatch.setattr(usage, "LINKS_COMPARED", compared)
    monkeypatch.setattr(usage, "LINKS_HELD", 3)
    for folder in range(4):
        (tmp_path / f"{folder}").mkdir()
    for number in range(25):
        (tmp_path / "0" / f"{number}").write_bytes(b"x" * 5000 * number)
        for folder in range(1, 1 + number % 4):
            os.link(tmp_path / "0" / f"{number}", tmp_path / f"{folder}" / f"{number}")
    found = measure(str(tmp_path), processes=2)
    assert found.bytes == du(tmp_path)
    assert found.apparent_bytes == sum(5000 * number for number in range(25))


def test_memory_does_not_grow_with_the_names_of_files(tmp_path):
    """Four million of them, two of each file, in steps as file systems number inodes."""
    spool = tmp_path / "links"
    inodes = np.arange(1, 2_000_001, dtype=np.uint64) * np.uint64(64)
    with spool.open("wb") as out:
        for _ in range(2):
            np.stack([inodes, np.full_like(inodes, 3), np.ones_like(inodes)], axis=1).tofile(out)
    del inodes
    tracemalloc.start()
    assert usage._each_once([str(spool)]) == (3 * 2_000_000, 2_000_000)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Of a pass: a million names of 24 bytes, twice while they are put together, and their sorted inodes with places.
    assert peak < 100 << 20
