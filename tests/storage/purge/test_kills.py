"""Killed at any point and gone on with: every file is in place or in a verified archive, and nothing is done twice."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from allocations.storage.purge import delete
from allocations.storage.purge.models import PurgeState
from allocations.storage.purge.run import POINTS
from tests.allocations.conftest import make_bench
from tests.fresh import fresh_sqlite
from tests.storage.purge.worlds import World

if TYPE_CHECKING:
    from pathlib import Path

FILES = [f"n/{number:03}" for number in range(230)]
LOCK_PASSES_SECONDS = 130
# In the first batch, at its end, and in the second.
TIMES = (1, 200, 215)
AT_FILES = [(f"delete: {point}", time) for point in ("checked", "moved", "compared", "removed") for time in TIMES]
AT = [*((point, 1) for point in POINTS), ("batch begun", 2), ("delete: begun", 1), ("delete: ended", 1), *AT_FILES]


@pytest.fixture
def plain_world(tmp_path: Path) -> World:
    """Ann's scratch, over SQLite."""
    return World(make_bench(fresh_sqlite(tmp_path), tmp_path / "runs"), tmp_path)


def test_the_points_are_those_that_a_purge_comes_by(plain_world: World) -> None:
    seen: list[str] = []
    plain_world.plant(*FILES[:3])
    plain_world.begin()
    plain_world.work(seen.append)
    plain_world.window_passes()
    plain_world.work(seen.append)
    ours = tuple(dict.fromkeys(point for point in seen if not point.startswith("delete: ")))
    assert ours == POINTS
    theirs = {point.removeprefix("delete: ") for point in seen if point.startswith("delete: ")}
    assert theirs == set(delete.POINTS) - {"put back"}


@pytest.mark.slow
@pytest.mark.parametrize(("point", "time"), AT)
def test_killed_at_a_point_it_goes_on(plain_world: World, point: str, time: int) -> None:
    check_kills(plain_world, [(point, time)])


@pytest.mark.slow
def test_killed_again_and_again_it_goes_on(world: World) -> None:
    kills = [
        ("plan written", 1),
        ("noticed", 1),
        ("chosen", 1),
        ("archive verified", 1),
        ("delete: moved", 3),
        ("delete: moved", 3),
        ("delete: removed", 210),
        ("batch begun", 1),
        ("delete: removed", 1),
        ("report written", 1),
    ]
    check_kills(world, kills)


def check_kills(world: World, kills: list[tuple[str, int]]) -> None:
    world.plant(*FILES)
    os.link(world.area / FILES[0], world.area / "n" / "linked")
    world.plant("young", days=2)
    names = {*FILES, "n/linked"}
    run = world.begin()
    killed = 0
    for point, time in kills:
        for _phase in ("before the window", "after it"):
            if world.killed_at(point, time):
                killed += 1
                in_trash = waiting(world)
                archived = world.archived()
                missing = names - world.files()
                assert missing <= archived
                assert len(in_trash) <= 1
                # Whoever takes over waits until the lock is nobody's.
                world.clock.pass_seconds(LOCK_PASSES_SECONDS)
                break
            world.window_passes()
    assert killed == len(kills)
    world.holder = "another"
    world.work()
    world.window_passes()
    world.work()
    assert world.files() == {"young"}
    assert not (world.area / "n").exists()
    assert waiting(world) == []
    assert world.archived() == names
    purge = world.purge(run)
    assert (purge.state, purge.files, purge.left_files) == (PurgeState.DONE, 231, 0)
    assert (purge.deleted_files, purge.deleted_bytes) == (231, purge.bytes)
    assert world.notices() == {"purge planned": 1, "purge reminder": 2, "purge done": 1}
    states = ["planned", "noticed", "due", "archiving", "verified", "deleting", "done"]
    assert world.audited(purge.id) == [f"purge.{state}" for state in states]
    [_listed, report] = sorted(world.lists(), key=len)
    text = (world.area / ".meridian" / "purges" / report).read_text()
    assert all(f"\t{name}\n" in text for name in names)
    assert text.count("\n") == len(names) + 1 + text.partition("removed: ")[0].count("\n") + 3


def waiting(world: World) -> list[str]:
    """What is in the trash."""
    trash = world.area / ".meridian-trash"
    return os.listdir(trash) if trash.exists() else []
