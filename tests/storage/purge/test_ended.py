"""What has ended is told, limited, archived whole, and kept as long as the policy says; what returns stays."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from allocations.errors import NotFoundError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.storage.archive.format import COMMIT
from allocations.storage.models import Owner, StorageClass
from allocations.storage.purge.models import (
    ArchiveKind,
    ArchiveState,
    PurgeState,
    Restore,
    RestoreState,
    RestoreTarget,
    RunKind,
)
from allocations.storage.purge.store import ArchiveStore
from tests.places import join
from tests.storage.purge.ends import ARCHIVE_AFTER_DAYS, DAY_MS, EndedWorld
from tests.storage.purge.worlds import ADMIN, DAY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.allocations.conftest import Bench

pytestmark = pytest.mark.slow
ALL = {"old/a.fits", "old/b.fits", ".ssh/id", "new.txt", "of the future"}
ROOM_BYTES = 64_000_000
HOUR = 3600


@pytest.fixture
def world(bench: Bench, tmp_path: Path) -> EndedWorld:
    """Ann's scratch with files of every age at the end of its term: those that rules take went before."""
    world = EndedWorld(bench, tmp_path)
    world.clock.pass_seconds(360 * DAY)
    world.plant("old/a.fits", "old/b.fits", ".ssh/id", days=1)
    world.clock.pass_seconds(5 * DAY - 1)
    world.look()
    assert world.end() is None
    world.plant("new.txt", days=0)
    far_ns = 9_000_000_000 * 10**9  # in the year 2255
    (world.area / "of the future").write_text("back from it")
    os.utime(world.area / "of the future", ns=(far_ns, far_ns))
    world.clock.pass_seconds(1)
    world.look()
    return world


def test_from_the_end_to_the_last_byte_of_the_archive(world: EndedWorld) -> None:
    ended_ms = world.clock.now_ms()
    archive_ms = ended_ms + ARCHIVE_AFTER_DAYS * DAY_MS
    assert world.told() == [("storage ended", archive_ms)]
    world.days_pass(82.9, step=82.9 / 83)
    assert [kind for kind, _ in world.told()] == ["storage ended", *["storage archived soon"] * 2]
    assert world.last_state() is None
    world.days_pass(7, step=0.1)
    assert world.files() == ALL
    assert world.last_state() is PurgeState.NOTICED
    assert all(at_ms is not None and at_ms >= archive_ms for _, at_ms in world.told()), "no end is put forward"
    world.days_pass(3, step=0.1)
    kinds = [kind for kind, _ in world.told()[3:]]
    assert kinds == ["purge planned", "purge reminder", "purge reminder", "purge done"]
    assert world.files() == set()
    assert sorted(path.name for path in world.area.iterdir()) == [".meridian"]
    assert world.archived() == ALL
    [archive] = world.archives()
    assert (archive.kind, archive.files) == (ArchiveKind.ENDED, len(ALL) + len(("old", ".ssh")))
    kept_days = (archive.keep_until_ms or 0) / DAY_MS - archive.created_at_ms / DAY_MS
    assert round(kept_days) == 1825
    assert world.told()[-1] == ("purge done", archive.keep_until_ms)

    # Nothing more happens, until the archive's time is over.
    world.days_pass(100, step=5)
    assert len(world.bench.services.purges.runs(ADMIN)) == 1
    world.clock.pass_seconds((1825 - 100 - 31) * DAY)
    world.days_pass(40, step=0.5)
    assert [kind for kind, _ in world.told()][-2:] == ["archive expires", "archive expires"]
    assert world.archives(ArchiveState.EXPIRED) != []
    assert world.bench.services.archive_remover.remove("agent", world.mount.places) == (1, [])
    assert not os.path.exists(archive.place)
    assert world.audited(archive.id) == ["archive.reminder", "archive.reminder", "archive.expire", "archive.remove"]
    assert world.audited(world.stored.id) == ["storage.end", "storage.end-reminder", "storage.end-reminder"]


@pytest.mark.parametrize(
    "state", [None, PurgeState.PLANNED, PurgeState.NOTICED, PurgeState.DUE, PurgeState.ARCHIVING, PurgeState.VERIFIED]
)
def test_who_returns_before_anything_is_deleted_has_everything_and_the_limits_are_back(
    world: EndedWorld, state: PurgeState | None
) -> None:
    world.measure(1_000)
    world.look()
    assert world.bench.services.ends.limits_bytes([world.fresh()]) == {world.stored.id: 1_000 + ROOM_BYTES}
    if state is not None:
        world.go_on_to(state)
    world.returns()
    assert world.end() is None
    assert world.bench.services.ends.limits_bytes([world.fresh()]) == {}
    assert world.told()[-1] == ("storage returned", None)
    world.days_pass(12, step=0.5)
    assert world.files() == ALL
    assert world.last_state() is (None if state is None else PurgeState.CANCELLED)
    # What was archived meanwhile is the same as what is there.
    assert world.archives() == []
    world.bench.services.archive_remover.remove("agent", world.mount.places)
    archives = world.path / "archives"
    assert not archives.exists() or list(archives.iterdir()) == []


def test_who_returns_while_files_are_deleted_keeps_those_that_are_there(world: EndedWorld) -> None:
    world.go_on_to(PurgeState.DELETING)

    class _Returned(BaseException):
        pass

    def reached(point: str) -> None:
        if point == "delete: removed":
            raise _Returned

    with pytest.raises(_Returned):
        world.work(reached)
    left = world.files()
    assert len(left) == len(ALL) - 1
    world.clock.pass_seconds(200)  # the lock of who was killed is over
    world.returns()
    world.days_pass(3, step=0.5)
    assert world.last_state() is PurgeState.DONE
    assert world.files() == left
    assert world.archived() == ALL
    assert len(world.archives()) == 1


def test_who_returns_after_it_restores_it_and_meanwhile_it_does_not_expire(world: EndedWorld) -> None:
    world.go_on_to(PurgeState.DONE)
    world.returns()
    [archive] = world.archives()
    asked = Restore("b", archive.id, "ann", 0, (), RestoreTarget.IN_PLACE, RestoreState.ASKED)
    with world.bench.services.database.write() as connection:
        ArchiveStore().ask(connection, asked)
    world.clock.pass_seconds(1790 * DAY)
    world.days_pass(100, step=5)
    assert [one.id for one in world.archives()] == [archive.id]
    assert os.path.exists(f"{archive.place}/{COMMIT}")


def test_it_ends_again_after_a_return_with_all_its_days(world: EndedWorld) -> None:
    world.go_on_to(PurgeState.NOTICED)
    world.returns()
    world.term_ends()
    archive_ms = world.clock.now_ms() + ARCHIVE_AFTER_DAYS * DAY_MS
    assert world.told()[-1] == ("storage ended", archive_ms)
    world.days_pass(89, step=0.5)
    # The rules of scratch took the old ones long ago, as they do while it is given.
    assert "new.txt" in world.files() or world.archived()
    world.days_pass(3, step=0.5)
    assert world.files() == set()
    assert world.archived() == ALL


def test_when_nobody_looked_for_years_owners_still_have_the_days_that_they_are_told(world: EndedWorld) -> None:
    world.clock.pass_seconds(2_000 * DAY)
    world.look()
    world.work()
    now_ms = world.clock.now_ms()
    assert world.told()[-1] == ("storage archived soon", now_ms + 14 * DAY_MS)
    world.days_pass(13.9, step=0.1)
    assert world.files() == ALL
    world.days_pass(1, step=0.1)
    assert world.files() == set()


def test_the_area_may_take_what_is_in_it_and_less_with_what_is_deleted(world: EndedWorld) -> None:
    ends = world.bench.services.ends
    assert ends.limits_bytes([world.fresh()]) == {}, "nobody knows what is in it"
    limits = []
    for used_bytes in (5_000_000, 9_000_000, 3_000_000, 7_000_000):
        world.measure(used_bytes)
        world.look()
        limits.append(ends.limits_bytes([world.fresh()])[world.stored.id] - ROOM_BYTES)
    assert limits == [5_000_000, 5_000_000, 3_000_000, 3_000_000]


def test_beyond_the_ceiling_a_person_confirms(world: EndedWorld) -> None:
    world.use_ceiling(len(ALL) - 1)
    world.days_pass(120, step=1)
    assert world.files() == ALL
    [run] = world.bench.services.purges.runs(ADMIN)
    assert run.kind is RunKind.ENDED
    world.bench.services.purges.confirm(ADMIN, run.id, files=run.files, bytes_=run.bytes, why="they left")
    world.work()
    assert world.files() == set()


def test_what_comes_due_on_a_day_is_in_one_run_and_what_comes_later_waits_for_the_next(world: EndedWorld) -> None:
    for hours, person in ((0, "bob"), (7, "carl")):
        world.clock.pass_seconds(hours * HOUR)
        other = EndedWorld(world.bench, world.path, owner=person)
        other.plant("b.txt", days=0)
        with world.bench.services.database.write() as connection:
            world.bench.services.lifecycle.allocations.change(
                connection, other.allocation, ends_at_ms=world.clock.now_ms()
            )
        world.look()
    world.days_pass(85, step=0.1)
    purges = world.bench.services.purges
    runs = [purges.run(ADMIN, run.id) for run in reversed(purges.runs(ADMIN))]
    assert [len(one.purges) for one in runs] == [2, 1]
    first, second = (one.run.created_at_ms // DAY_MS for one in runs)
    assert second == first + 1


def test_what_was_left_or_cancelled_is_tried_again_after_its_days_with_notice(world: EndedWorld) -> None:
    world.go_on_to(PurgeState.NOTICED)
    (world.area / "new.txt").write_text("not done yet")
    world.go_on_to(PurgeState.DONE)
    assert world.files() == {"new.txt"}
    done_ms = world.clock.now_ms()
    world.days_pass(36.9, step=0.1)
    assert world.files() == {"new.txt"}
    assert world.told()[-1][0] == "purge reminder"
    world.days_pass(1, step=0.1)
    assert world.files() == set()
    assert world.clock.now_ms() - done_ms >= 37 * DAY_MS
    runs = world.bench.services.purges.runs(ADMIN)
    assert len(runs) == 2


def test_what_an_administrator_cancels_comes_again_later(world: EndedWorld) -> None:
    world.go_on_to(PurgeState.NOTICED)
    [run] = world.bench.services.purges.runs(ADMIN)
    world.bench.services.purges.cancel(ADMIN, run.id, "they are on their way")
    world.days_pass(29, step=1)
    assert len(world.bench.services.purges.runs(ADMIN)) == 1
    world.days_pass(2, step=1)
    assert len(world.bench.services.purges.runs(ADMIN)) == 2
    assert world.files() == ALL


def test_what_is_exempt_stays(world: EndedWorld) -> None:
    world.go_on_to(PurgeState.NOTICED)
    world.exempt("old", days=100)
    world.go_on_to(PurgeState.DONE)
    assert world.files() == {"old/a.fits", "old/b.fits"}


def test_nothing_begins_while_everything_is_stopped(world: EndedWorld) -> None:
    world.bench.services.purges.stop_all(ADMIN, "wait")
    world.days_pass(100, step=2)
    assert world.bench.services.purges.runs(ADMIN) == []
    world.bench.services.purges.resume_all(ADMIN, "go on")
    world.look()
    assert len(world.bench.services.purges.runs(ADMIN)) == 1


def test_a_home_ends_with_the_last_allocation_of_its_person(world: EndedWorld) -> None:
    services = world.bench.services
    home = world.open_home("ann")
    world.look()
    assert services.ends.of_area(Actor("ann"), home.id) is not None, "her only allocation has ended"
    whole = world.bench.consortium("lead")
    world.look()
    join(services.members, Actor("lead"), whole, "ann", MemberRole.MEMBER)
    world.look()
    assert services.ends.of_area(Actor("ann"), home.id) is None
    assert world.end() is not None, "that of the allocation itself has ended still"
    services.members.remove(Actor("lead"), whole, "ann")
    world.look()
    end = services.ends.of_area(Actor("ann"), home.id)
    assert end is not None
    assert end.archive_at_ms == world.clock.now_ms() + ARCHIVE_AFTER_DAYS * DAY_MS


def test_what_is_suspended_has_not_ended_and_what_is_archived_early_has(bench: Bench, tmp_path: Path) -> None:
    world = EndedWorld(bench, tmp_path)
    bench.services.lifecycle.suspend(ADMIN, world.allocation, "a question")
    world.look()
    assert world.end() is None
    bench.services.lifecycle.resume(ADMIN, world.allocation, "answered")
    bench.services.lifecycle.archive(ADMIN, world.allocation, "they moved away")
    world.look()
    end = world.end()
    assert end is not None
    assert end.ended_at_ms == world.clock.now_ms()


def test_buckets_are_left_alone(world: EndedWorld) -> None:
    bucket = world.measures.open(StorageClass.OBJECT, Owner(allocation_id=world.allocation), "bucket")
    before = len(world.told())
    world.look()
    assert world.bench.services.ends.of_area(Actor("ann"), bucket.id) is None
    assert len(world.told()) == before


def test_a_stranger_learns_nothing(world: EndedWorld) -> None:
    with pytest.raises(NotFoundError):
        world.bench.services.ends.of_area(Actor("eve"), world.stored.id)
