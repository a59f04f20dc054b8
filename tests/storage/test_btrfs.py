"""Limits and accounts of a real btrfs: a write past the limit fails, more limit heals it, what counts is what is there.

The `btrfs` command is asked for the same, as somebody who reads the kernel's trees by other means.
"""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from allocations.storage.quotas.backends import Area, BackendError
from allocations.storage.quotas.btrfs import BtrfsSubvolumes
from allocations.storage.quotas.reconcile import reconcile
from tests.storage.file_systems import done_by, mounted, run
from tests.storage.making import killed_at_each_step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

MIB = 1 << 20
OWNER = (65534, 65534)
ANN, BOB = Area("s-ann", 1, "ann"), Area("s-bob", 2, "bob")
# What a tree's own leaves may take beside the files' data.
LEAVES = 256 << 10


@pytest.fixture
def homes() -> Iterator[Path]:
    with mounted("btrfs", 512) as mount:
        run("btrfs", "quota", "enable", mount)
        (mount / "homes").mkdir()
        yield mount / "homes"


@pytest.fixture
def backend(homes) -> BtrfsSubvolumes:
    made = BtrfsSubvolumes(str(homes), owner=OWNER)
    made.make(ANN)
    made.make(BOB)
    return made


def write(path: Path, mebibytes: int) -> int:
    """Write that much, to the disk, as the owner; return 0 or the error."""

    def do() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for _ in range(mebibytes):
            os.write(fd, os.urandom(MIB))
            os.fsync(fd)

    return done_by(OWNER, do)


def nest(path: Path) -> None:
    """Make a subvolume as its owner may."""
    made = subprocess.run(
        ["btrfs", "subvolume", "create", path], user=OWNER[0], group=OWNER[1], extra_groups=[], check=False
    )
    assert made.returncode == 0


def used(backend: BtrfsSubvolumes, area: Area) -> int:
    found = backend.usage([area])
    assert found.problems == {}
    return found.of[area.id].bytes


def du(path: Path) -> int:
    run("sync", "-f", path)
    return int(run("du", "-s", "-B1", path).split()[0])


def test_a_write_past_the_limit_fails_and_more_limit_heals_it(backend, homes):
    backend.apply(ANN, 20 * MIB)
    assert backend.limits([ANN, BOB]).of == {ANN.id: 20 * MIB, BOB.id: None}
    assert write(homes / "ann" / "a", 30) == errno.EDQUOT
    assert used(backend, ANN) <= 20 * MIB
    assert write(homes / "bob" / "b", 30) == 0
    backend.apply(ANN, 60 * MIB)
    assert write(homes / "ann" / "a", 30) == 0
    backend.apply(ANN, None)
    assert backend.limits([ANN]).of == {ANN.id: None}
    assert write(homes / "ann" / "c", 40) == 0


def test_a_limit_below_what_is_there_lets_files_be_removed(backend, homes):
    assert write(homes / "ann" / "a", 30) == 0
    backend.apply(ANN, 10 * MIB)
    assert write(homes / "ann" / "b", 1) == errno.EDQUOT
    assert done_by(OWNER, lambda: os.unlink(homes / "ann" / "a")) == 0
    backend.usage([ANN])
    assert write(homes / "ann" / "b", 1) == 0


def test_accounts_are_those_of_du_and_of_the_command(backend, homes):
    backend.apply(ANN, 100 * MIB)
    for name in ("x", "y"):
        assert write(homes / "ann" / name, 7) == 0
    os.link(homes / "ann" / "x", homes / "ann" / "again")
    os.truncate(homes / "ann" / "y", 1 << 40)
    assert write(homes / "bob" / "z", 3) == 0
    found = backend.usage([ANN, BOB]).of
    for area, name in ((ANN, "ann"), (BOB, "bob")):
        assert abs(found[area.id].bytes - du(homes / name)) <= LEAVES
    # Not as JSON: of groups with others in them, version 6.2 of the command makes none and aborts.
    lines = [line.split() for line in run("btrfs", "qgroup", "show", "-re", "--raw", "--sync", homes).splitlines()]
    told = {line[0]: (line[1], line[3]) for line in lines if line}
    subvolume, other = (run("btrfs", "inspect-internal", "rootid", homes / name).strip() for name in ("ann", "bob"))
    assert told[f"1/{subvolume}"] == (str(found[ANN.id].bytes), str(100 * MIB))
    assert told[f"0/{other}"] == (str(found[BOB.id].bytes), "none")


def test_subvolumes_that_the_owner_makes_are_taken_in(backend, homes):
    """They escape the limit until the next reconciliation, and not longer; they are counted at once."""
    backend.apply(ANN, 20 * MIB)
    nest(homes / "ann" / "stray")
    nest(homes / "ann" / "stray" / "deeper")
    assert write(homes / "ann" / "stray" / "deeper" / "a", 30) == 0
    assert used(backend, ANN) >= 30 * MIB
    assert used(backend, BOB) < MIB
    assert backend.limits([ANN]).of == {ANN.id: None}
    done = reconcile(backend, [ANN, BOB], {ANN.id: 20 * MIB, BOB.id: None})
    assert (done.applied, done.problems, done.in_force[ANN.id]) == ([ANN.id], {}, 20 * MIB)
    for place in ("a", "stray/b", "stray/deeper/c"):
        assert write(homes / "ann" / place, 1) == errno.EDQUOT
    assert 30 * MIB <= used(backend, ANN) <= 31 * MIB
    assert reconcile(backend, [ANN, BOB], {ANN.id: 20 * MIB, BOB.id: None}).applied == []


def test_snapshots_that_the_owner_makes_count_once_when_they_are_taken_in(backend, homes):
    """What they share is there once, and bound by the limit as soon as that is said to be in force."""
    backend.apply(ANN, 50 * MIB)
    nest(homes / "ann" / "stray")
    assert write(homes / "ann" / "stray" / "a", 20) == 0
    for name in ("one", "two"):
        subprocess.run(
            ["btrfs", "subvolume", "snapshot", homes / "ann" / "stray", homes / "ann" / name],
            check=True, user=OWNER[0], group=OWNER[1], extra_groups=[],
        )  # fmt: skip
    assert used(backend, ANN) >= 60 * MIB
    assert reconcile(backend, [ANN], {ANN.id: 50 * MIB}).problems == {}
    assert write(homes / "ann" / "b", 35) == errno.EDQUOT
    os.unlink(homes / "ann" / "b")
    assert 20 * MIB <= used(backend, ANN) <= 21 * MIB
    assert write(homes / "ann" / "b", 25) == 0


def test_names_that_would_mislead_a_reader_of_output_mislead_nobody(backend, homes):
    name = f'x\nID 5 gen 1 top level 5 path {BOB.place}\n", "referenced": "1'.replace("/", "_")
    nest(homes / "ann" / name)
    assert write(homes / "ann" / name / "a", 5) == 0
    found = backend.usage([ANN, BOB]).of
    assert found[ANN.id].bytes >= 5 * MIB
    assert found[BOB.id].bytes < MIB


def test_many_areas_are_read_at_once(homes):
    """More groups than come in one answer of the kernel."""
    backend = BtrfsSubvolumes(str(homes), owner=OWNER)
    areas = [Area(f"s-{number}", number, f"home {number}") for number in range(600)]
    done = reconcile(backend, areas, {area.id: (area.number + 1) * MIB for area in areas})
    assert (len(done.made), len(done.applied), done.problems) == (600, 600, {})
    assert backend.limits(areas).of == {area.id: (area.number + 1) * MIB for area in areas}
    assert len(backend.usage(areas).of) == 600
    assert reconcile(backend, areas, {area.id: (area.number + 1) * MIB for area in areas}).applied == []


def test_what_is_wrong_with_one_area_is_told_and_the_others_go_on(backend, homes):
    (homes / "folder").mkdir()
    os.symlink(homes / "bob", homes / "link")
    folder, link, gone = Area("s-1", 11, "folder"), Area("s-2", 12, "link"), Area("s-3", 13, "gone")
    out = Area("s-4", 14, "../homes")
    for found in (backend.usage([ANN, folder, link, gone, out]), backend.limits([ANN, folder, link, gone, out])):
        assert found.of.keys() == {ANN.id}
        assert found.problems.keys() == {folder.id, link.id, out.id}
        assert found.missing == {gone.id}
    for area in (folder, link, out):
        with pytest.raises((BackendError, OSError)):
            backend.apply(area, MIB)


def test_a_new_area_is_its_owners_alone_and_made_once(backend, homes):
    assert write(homes / "ann" / "a", 1) == 0
    backend.make(ANN)
    status = os.stat(homes / "ann")
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (*OWNER, 0o700)
    assert (homes / "ann" / "a").exists()


def test_a_subvolume_whose_making_was_broken_off_anywhere_is_made_the_next_time(homes):
    backend = BtrfsSubvolumes(str(homes), owner=OWNER)
    killed = 0
    for is_killed in killed_at_each_step(lambda: backend.make(ANN)):
        killed += is_killed
        done = reconcile(backend, [ANN], {ANN.id: MIB})
        assert (done.problems, done.in_force) == ({}, {ANN.id: MIB})
        status = os.stat(homes / "ann")
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (*OWNER, 0o700)
        if done.made:
            assert os.listdir(homes) == ["ann"]
        for name in os.listdir(homes):
            (homes / name).rmdir()
    assert killed > 3


def test_quotas_that_are_off_are_told():
    with mounted("btrfs", 256) as mount:
        backend = BtrfsSubvolumes(str(mount), owner=OWNER)
        backend.make(ANN)
        with pytest.raises(BackendError, match="quota enable"):
            backend.usage([ANN])
