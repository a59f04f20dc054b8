"""A disk that is full, of plans or of archives: the purge says so in words, takes nothing, and goes on when there is
room."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from allocations.storage.purge.models import PurgeState
from allocations.storage.purge.run import NO_ROOM
from allocations.storage.purge.spool import SPOOLS
from tests.storage.file_systems import full_disk

if TYPE_CHECKING:
    from allocations.storage.purge.models import Run
    from tests.storage.purge.worlds import World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
FILES = {f"n/{number:03}" for number in range(150)}
AGAIN_SECONDS = 301
PLENTY_KIB = 3_000


@pytest.fixture
def planted(world: World) -> World:
    """Old files that cannot be packed, and a young one."""
    for name in sorted(FILES):
        (world.area / name).parent.mkdir(exist_ok=True)
        (world.area / name).write_bytes(os.urandom(2_000))
    world.plant("last", days=100, content=os.urandom(2_000))
    for name in FILES:
        os.utime(world.area / name, ns=(os.stat(world.area / "last").st_mtime_ns,) * 2)
    world.arrive(100)
    world.plant("young", days=2)
    return world


def is_held_up(world: World, run: Run, state: PurgeState, problem: str) -> None:
    """It says so, again and again, and everything is where it was."""
    for _ in range(2):
        world.work()
        purge = world.purge(run)
        assert (purge.state, purge.problem) == (state, problem)
        assert world.files() == {*FILES, "last", "young"}
        world.clock.pass_seconds(AGAIN_SECONDS)


def goes_on(world: World, run: Run) -> None:
    """To its end, with everything in the archive that went."""
    world.work()
    purge = world.purge(run)
    assert (purge.state, purge.problem, purge.left_files) == (PurgeState.DONE, None, 0)
    assert world.files() == {"young"}
    assert world.archived() == {*FILES, "last"}


def test_no_room_for_plans_at_any_step(planted: World) -> None:
    plans = planted.path / "ours" / "plans"
    with full_disk(plans, left_kib=8) as leave:
        run = planted.begin()
        is_held_up(planted, run, PurgeState.PLANNING, NO_ROOM)
        assert planted.notices() == {}
        assert sorted(os.listdir(plans)) == [".ballast", SPOOLS]
        assert os.listdir(plans / SPOOLS) == ["lock"]
        leave(PLENTY_KIB)
        planted.work()
        assert planted.purge(run).state is PurgeState.NOTICED
        planted.window_passes()
        # Of what is chosen for the archive.
        leave(0)
        is_held_up(planted, run, PurgeState.ARCHIVING, NO_ROOM)
        leave(PLENTY_KIB)
        while planted.purge(run).state is not PurgeState.DELETING:
            planted.step()
        # Of what stays, for it is used: that is noted when the others of its batch are gone.
        (planted.area / "last").write_bytes(b"used")
        leave(0)
        planted.work()
        assert (planted.purge(run).state, planted.purge(run).problem) == (PurgeState.DELETING, NO_ROOM)
        assert planted.files() == {"last", "young"}
        assert planted.archived() == {*FILES, "last"}
        leave(PLENTY_KIB)
        planted.clock.pass_seconds(AGAIN_SECONDS)
        planted.work()
        purge = planted.purge(run)
        assert (purge.state, purge.problem) == (PurgeState.DONE, None)
        assert (purge.deleted_files, purge.left_files) == (len(FILES), 1)
        assert planted.files() == {"last", "young"}


def test_no_room_for_the_record_of_arrivals_leaves_it_as_it_was(planted: World) -> None:
    record = planted.path / "ours" / "arrivals" / planted.stored.id
    before = record.read_bytes()
    record.unlink()
    with full_disk(record.parent, left_kib=len(before) // 1024 + 8) as leave:
        record.write_bytes(before)
        leave(0)
        run = planted.begin()
        is_held_up(planted, run, PurgeState.PLANNING, NO_ROOM)
        assert record.read_bytes() == before
        assert sorted(os.listdir(record.parent)) == [".ballast", record.name]
        leave(PLENTY_KIB)
        planted.work()
        assert planted.purge(run).state is PurgeState.NOTICED


def test_no_room_for_archives(planted: World) -> None:
    archives = planted.path / "archives"
    archives.mkdir()
    with full_disk(archives, left_kib=100) as leave:
        run = planted.begin()
        planted.work()
        planted.window_passes()
        planted.work()
        purge = planted.purge(run)
        problem = (
            f"{archives}/{purge.archive_id}/part-00000.tar.zst: No space left on device: make room there, then go on:"
            " what is finished is kept"
        )
        is_held_up(planted, run, PurgeState.ARCHIVING, problem)
        assert planted.archived() == set()
        leave(PLENTY_KIB)
        goes_on(planted, run)
