"""Folders of areas are there when they are their owners', whatever befalls who makes them; others stay as they are."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from allocations.storage.quotas.backends import Area, BackendError
from allocations.storage.quotas.reconcile import reconcile
from allocations.storage.quotas.scanned import ScannedFolders
from allocations.storage.tree import renaming
from tests.storage.making import killed_at_each_step

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
OWNER = (65534, 65534)
ANN = Area("s-ann", 7, "ann")


def told(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Owner, group and mode of everything in a folder."""
    found = {name: os.lstat(folder / name) for name in os.listdir(folder)}
    return {name: (one.st_uid, one.st_gid, one.st_mode & 0o777) for name, one in found.items()}


def test_a_folder_whose_making_was_broken_off_anywhere_is_made_the_next_time(tmp_path: Path) -> None:
    made = ScannedFolders(str(tmp_path), owner=OWNER)
    killed = 0
    for is_killed in killed_at_each_step(lambda: made.make(ANN)):
        killed += is_killed
        # What others see of it is whole.
        assert told(tmp_path).get("ann") in {None, (*OWNER, 0o700)}
        done = reconcile(made, [ANN], {ANN.id: None})
        assert (done.problems, done.in_force) == ({}, {ANN.id: None})
        if done.made:
            assert told(tmp_path) == {"ann": (*OWNER, 0o700)}
        for name in os.listdir(tmp_path):
            (tmp_path / name).rmdir()
    assert killed > 3


@pytest.mark.parametrize("has_noreplace", [True, False], ids=["", "as on NFS"])
def test_many_at_once_make_one_folder_and_leave_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_noreplace: bool
) -> None:
    if not has_noreplace:
        without_noreplace(monkeypatch)
    made = ScannedFolders(str(tmp_path), owner=OWNER)
    areas = [Area(f"s-{number}", number, f"home{number}") for number in range(100)]
    together = threading.Barrier(4)
    failures: list[BaseException] = []

    def make() -> None:
        together.wait()
        for area in areas:
            try:
                made.make(area)
            except BaseException as error:  # noqa: BLE001  # the test says what went wrong in the thread
                failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert told(tmp_path) == {area.place: (*OWNER, 0o700) for area in areas}


def without_noreplace(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        @staticmethod
        def renameat2(*_asked: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(renaming, "_libc", Old)


@pytest.mark.parametrize("has_noreplace", [True, False], ids=["", "as on NFS"])
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, has_noreplace: bool
) -> None:
    """It may have come while the folder was made."""
    if not has_noreplace:
        without_noreplace(monkeypatch)
    fchown = os.fchown

    def come(fd: int, *owner: int) -> None:
        fchown(fd, *owner)
        if kind == "folder":
            (tmp_path / "ann").mkdir(mode=0o755)
            (tmp_path / "ann" / "file").touch()
        elif kind == "file":
            (tmp_path / "ann").touch(mode=0o644)
        else:
            (tmp_path / "ann").symlink_to("elsewhere")

    monkeypatch.setattr(os, "fchown", come)
    made = ScannedFolders(str(tmp_path), owner=OWNER)
    made.make(ANN)
    before = told(tmp_path)
    assert before == {"ann": (0, 0, {"folder": 0o755, "file": 0o644, "link": 0o777}[kind])}
    made.make(ANN)
    assert told(tmp_path) == before


@pytest.mark.parametrize("kind", ["link", "file", "another's", "not empty"])
def test_what_stands_in_the_place_of_a_folder_that_is_being_made_is_told_and_left(tmp_path: Path, kind: str) -> None:
    homes, other = tmp_path / "homes", tmp_path / "other"
    homes.mkdir()
    other.mkdir()
    new = homes / ".meridian-new-7"
    if kind == "link":
        new.symlink_to(other)
    elif kind == "file":
        new.touch()
    else:
        new.mkdir()
        if kind == "not empty":
            (new / "file").touch()
        else:
            os.chown(new, 1234, 1234)
    before = told(homes), told(other)
    done = reconcile(ScannedFolders(str(homes), owner=OWNER), [ANN], {ANN.id: None})
    assert done.made == []
    assert done.in_force == {}
    assert ".meridian-new-7" in done.problems[ANN.id]
    with pytest.raises(BackendError, match="remove it"):
        ScannedFolders(str(homes), owner=OWNER).make(ANN)
    assert (told(homes), told(other)) == before
