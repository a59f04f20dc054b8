"""Nothing outside a root is opened, by whatever way a path leads there; what is inside is, however deep."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from allocations.storage.tree.beneath import FILE, FOLDER, ElsewhereError, Root, identity
from tests.storage.file_systems import unmount

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS = 120


@pytest.fixture(params=[True, False], ids=["openat2", "part by part"])
def root(request, tmp_path) -> Iterator[Root]:
    (tmp_path / "root" / "in" / "deeper").mkdir(parents=True)
    (tmp_path / "root" / "in" / "file").write_text("ours")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("theirs")
    with Root(str(tmp_path / "root"), has_openat2=request.param) as root:
        yield root


def read(root: Root, folder: str, name: str) -> bytes:
    with root.folder(folder) as fd:
        file = root.open_at(fd, name, FILE)
        with os.fdopen(file, "rb") as opened:
            return opened.read()


def test_folders_and_files_beneath_are_opened(root):
    assert read(root, "in", "file") == b"ours"
    with root.folder("in/deeper") as fd:
        assert identity(os.fstat(fd)) == identity(os.stat(f"{root.path}/in/deeper"))
    with root.folder("") as fd:
        assert identity(os.fstat(fd)) == root.identity


@pytest.mark.parametrize("target", ["../outside", "/", "in", "."])
def test_links_are_not_followed_wherever_they_lead(root, target):
    os.symlink(target, f"{root.path}/link")
    os.symlink("../../outside/secret", f"{root.path}/in/link")
    for path in ("link", "link/deeper", "in/link"):
        with pytest.raises(ElsewhereError), root.folder(path):
            pass
    with pytest.raises(ElsewhereError):
        read(root, "in", "link")


@pytest.mark.parametrize("path", ["..", "in/../..", "/etc", "in//../../outside", "in/deeper/../../../outside"])
def test_no_path_leads_out(root, path):
    with pytest.raises(ElsewhereError), root.folder(path):
        pass


def test_a_link_of_proc_is_not_followed(tmp_path):
    """`/proc/<pid>/fd/<n>` leads anywhere although it is no link of the file system's."""
    with Root(f"/proc/{os.getpid()}") as root, pytest.raises(ElsewhereError), root.folder("cwd"):
        pass


@pytest.mark.slow
def test_a_mount_point_is_not_entered(root):
    """Neither another folder bound there nor, which only its mount tells apart, itself."""
    for source in ("../outside", "in/deeper"):
        with (
            mounted(f"{root.path}/in/deeper", f"{root.path}/{source}"),
            pytest.raises(ElsewhereError),
            root.folder("in/deeper"),
        ):
            pass


def test_what_was_put_in_a_folders_place_is_not_taken_for_it(root):
    seen = identity(os.stat(f"{root.path}/in/deeper"))
    os.rename(f"{root.path}/in/deeper", f"{root.path}/in/moved")
    os.mkdir(f"{root.path}/in/deeper")
    with pytest.raises(ElsewhereError), root.folder("in/deeper", seen):
        pass
    with root.folder("in/moved", seen):
        pass


def test_what_is_not_there_or_no_folder_is_told_apart(root):
    with pytest.raises(FileNotFoundError), root.folder("in/none"):
        pass
    with pytest.raises(ElsewhereError), root.folder("in/file"):
        pass


def test_a_path_may_be_longer_than_the_kernel_takes_at_once(root):
    name = "ä" * 100
    fd = os.open(root.path, FOLDER)
    for _ in range(60):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, FOLDER, dir_fd=fd)
        os.close(fd)
        fd = below
    expected = identity(os.fstat(fd))
    os.close(fd)
    with root.folder("/".join([name] * 60), expected):
        pass


def test_a_fifo_does_not_hold_us_up(root):
    os.mkfifo(f"{root.path}/in/fifo")
    with root.folder("in") as fd:
        os.close(root.open_at(fd, "fifo", FILE))


def test_ten_thousand_rounds_against_somebody_who_swaps_a_folder_for_a_link(root):
    """Whatever is opened is one of the two folders that were inside, never what the link leads to."""
    inside = {identity(os.stat(f"{root.path}/in")), identity(os.stat(f"{root.path}/in/deeper"))}

    def swap() -> None:
        os.symlink("../outside", f"{root.path}/trap")
        while True:
            for one, other in (("in", "aside"), ("trap", "in"), ("in", "trap"), ("aside", "in")):
                os.rename(f"{root.path}/{one}", f"{root.path}/{other}")

    attacker = multiprocessing.get_context("fork").Process(target=swap, daemon=True)
    attacker.start()
    opened = refused = rounds = 0
    ends_at = time.monotonic() + PATIENCE_SECONDS
    try:
        # Both, however seldom one of the two is let work.
        while rounds < 10_000 or (min(opened, refused) <= 100 and time.monotonic() < ends_at):
            rounds += 1
            for path in ("in", "in/deeper"):
                try:
                    with root.folder(path) as fd:
                        assert identity(os.fstat(fd)) in inside
                        opened += 1
                except (ElsewhereError, FileNotFoundError):
                    refused += 1
    finally:
        attacker.kill()
        attacker.join()
    assert opened > 100
    assert refused > 100


@contextmanager
def mounted(on: str, source: str) -> Iterator[None]:
    """Bind a folder; in a user namespace it would not be seen by this process, so this needs root."""
    assert os.geteuid() == 0, "run this test as root: it mounts a folder"
    subprocess.run(["mount", "--bind", str(Path(source).resolve()), on], check=True)
    try:
        yield
    finally:
        unmount(Path(on))
