"""A purge takes what is old and was announced, with an archive behind it, and nothing else."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from allocations.clock import MS_PER_DAY
from allocations.errors import InvalidInputError, NotAllowedError, NotFoundError, TransitionError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Member, MemberRole
from allocations.lifecycle.stores.allocations import AllocationStore
from allocations.storage.models import StorageClass
from allocations.storage.purge.guarding import HaltError
from allocations.storage.purge.listing import write_list
from allocations.storage.purge.models import PurgeState, RunState
from allocations.storage.purge.spool import SPOOLS
from allocations.storage.tree.beneath import Root
from tests.storage.purge.worlds import ADMIN, ANN, DAY, World

if TYPE_CHECKING:
    from pathlib import Path

    from allocations.storage.purge.models import PurgeView

pytestmark = pytest.mark.slow

OLD = ("old/a.fits", "old/b.fits", "old/deep/c.fits", "d.txt")


@pytest.fixture
def planted(world: World) -> World:
    """Old files, and a young one."""
    world.plant(*OLD)
    world.plant("young.txt", days=3)
    return world


def noticed(world: World) -> str:
    """Begin a run and go on to its window; returns its id."""
    run = world.begin()
    world.work()
    assert world.purge(run).state is PurgeState.NOTICED
    return run.id


def test_what_is_old_goes_after_its_window_into_an_archive_and_its_owners_are_told(planted: World) -> None:
    run = planted.begin()
    planted.work()
    purge = planted.purge(run)
    assert (purge.state, purge.files, purge.folders) == (PurgeState.NOTICED, 4, 2)
    assert purge.window_ends_at_ms == planted.clock.now_ms() + 7 * MS_PER_DAY
    assert {one.path for one in purge.summary.paths} == {*OLD, "old", "old/deep"}
    assert planted.notices() == {"purge planned": 1}
    [listed] = planted.lists()
    text = (planted.area / ".meridian" / "purges" / listed).read_text()
    assert all(name in text for name in OLD)
    assert "young" not in text

    planted.window_passes()
    planted.work()
    purge = planted.purge(run)
    assert (purge.state, purge.deleted_files, purge.left_files) == (PurgeState.DONE, 4, 0)
    assert purge.deleted_bytes == purge.bytes
    assert planted.files() == {"young.txt"}
    assert not (planted.area / "old").exists()
    assert planted.archived() == set(OLD)
    assert planted.notices() == {"purge planned": 1, "purge reminder": 2, "purge done": 1}
    assert planted.bench.services.purges.run(ADMIN, run.id).run.state is RunState.DONE
    report = (planted.area / ".meridian" / "purges" / listed.replace(".txt", "-done.txt")).read_text()
    assert purge.archive_id is not None
    assert purge.archive_id in report
    states = ["planned", "noticed", "due", "archiving", "verified", "deleting", "done"]
    assert planted.audited(purge.id) == [f"purge.{state}" for state in states]
    assert planted.audited(run.id) == ["purge.run", "purge.run-done"]
    assert sorted(os.listdir(planted.path / "ours" / "plans")) == [SPOOLS, f"{purge.id}.jsonl.zst"]


def test_nothing_is_taken_before_the_end_that_was_told_nor_when_the_clock_leaps(planted: World) -> None:
    noticed(planted)
    planted.clock.pass_seconds(300 * DAY)
    planted.work()
    # Nobody was reminded while the clock leapt: that comes first, a day ahead.
    assert planted.notices() == {"purge planned": 1, "purge reminder": 1}
    assert planted.files() == {*OLD, "young.txt"}
    planted.clock.pass_seconds(-299 * DAY)
    planted.work()
    planted.clock.pass_seconds(5 * DAY)
    planted.work()
    assert planted.files() == {*OLD, "young.txt"}
    assert planted.notices() == {"purge planned": 1, "purge reminder": 1}
    planted.clock.pass_seconds(2 * DAY)
    planted.work()
    # The reminder went out when the clock was ahead, and told a later end: that holds.
    assert planted.files() == {*OLD, "young.txt"}
    planted.clock.pass_seconds(293 * DAY - 1)
    planted.work()
    assert planted.files() == {*OLD, "young.txt"}
    planted.clock.pass_seconds(1)
    planted.work()
    assert planted.files() == {"young.txt"}
    assert planted.notices() == {"purge planned": 1, "purge reminder": 1, "purge done": 1}


@pytest.mark.parametrize("state", [PurgeState.DUE, PurgeState.ARCHIVING, PurgeState.VERIFIED, PurgeState.DELETING])
def test_a_clock_that_goes_back_puts_off_what_was_due(planted: World, state: PurgeState) -> None:
    run = planted.begin()
    planted.work()
    planted.window_passes()
    while planted.purge(run).state is not state:
        planted.step()
    told_ms = planted.told_until_ms(planted.purge(run))
    planted.clock.pass_seconds(-3 * DAY)
    planted.work()
    assert (planted.purge(run).state, planted.files()) == (state, {*OLD, "young.txt"})
    planted.clock.at_ms = told_ms - 1
    planted.work()
    assert (planted.purge(run).state, planted.files()) == (state, {*OLD, "young.txt"})
    planted.clock.at_ms = told_ms
    planted.work()
    assert planted.files() == {"young.txt"}


def test_a_clock_that_goes_back_while_files_are_deleted_stops_it_at_the_next_batch(world: World) -> None:
    world.plant(*(f"n/{number:03}" for number in range(450)))
    run = world.begin()
    world.work()
    world.window_passes()
    while world.purge(run).state is not PurgeState.DELETING:
        world.step()

    def reached(point: str) -> None:
        if point == "batch begun" and len(world.files()) == 450:
            world.clock.pass_seconds(-3 * DAY)

    world.work(reached)
    assert (len(world.files()), world.purge(run).state) == (250, PurgeState.DELETING)
    world.clock.pass_seconds(3 * DAY)
    world.work()
    assert world.files() == set()
    assert world.purge(run).deleted_files == 450


def test_a_late_reminder_tells_the_end_that_holds(planted: World) -> None:
    run = planted.begin()
    planted.work()
    planted.clock.pass_seconds(5.5 * DAY)
    planted.work()
    told_ms = planted.told_until_ms(planted.purge(run))
    assert told_ms == planted.clock.now_ms() + 3 * MS_PER_DAY
    assert planted.purge(run).window_ends_at_ms == told_ms
    planted.clock.pass_seconds(2 * DAY)
    planted.work()
    planted.clock.pass_seconds(DAY - 1)
    planted.work()
    assert planted.files() == {*OLD, "young.txt"}
    assert planted.told_until_ms(planted.purge(run)) == told_ms
    planted.clock.pass_seconds(1)
    planted.work()
    assert planted.files() == {"young.txt"}


def test_the_last_reminder_is_out_for_its_days_though_nobody_looked_in_the_window(planted: World) -> None:
    noticed(planted)
    planted.clock.pass_seconds(8 * DAY)
    planted.work()
    planted.clock.pass_seconds(DAY - 1)
    planted.work()
    assert planted.files() == {*OLD, "young.txt"}
    planted.clock.pass_seconds(1)
    planted.work()
    assert planted.files() == {"young.txt"}


def test_what_was_used_since_is_left(planted: World) -> None:
    run = planted.begin()
    planted.work()
    (planted.area / "d.txt").write_bytes(b"used")
    os.utime(planted.area / "old" / "a.fits")
    planted.window_passes()
    planted.work()
    assert planted.files() == {"young.txt", "d.txt", "old/a.fits"}
    purge = planted.purge(run)
    assert (purge.state, purge.deleted_files, purge.left_files) == (PurgeState.DONE, 2, 2)
    [report] = [name for name in planted.lists() if name.endswith("-done.txt")]
    told = (planted.area / ".meridian" / "purges" / report).read_text().partition("left: ")
    assert "d.txt" not in told[0]
    assert "d.txt\tit was not archived: it changed since it was planned" in told[2]


def test_what_is_exempt_before_during_and_at_the_end_of_the_window_is_left(planted: World) -> None:
    planted.exempt("old/deep")
    run = planted.begin()
    planted.work()
    assert planted.purge(run).files == 3
    planted.exempt("d.txt")
    planted.window_passes()
    while planted.purge(run).state is not PurgeState.VERIFIED:
        planted.step()
    planted.exempt("old/a.fits")
    planted.work()
    assert planted.files() == {"young.txt", "old/deep/c.fits", "d.txt", "old/a.fits"}
    assert planted.archived() == {"old/a.fits", "old/b.fits"}
    assert planted.purge(run).left_files == 2


def test_an_exemption_that_comes_while_files_are_deleted_counts_from_the_next_batch(world: World) -> None:
    names = [f"n/{number:03}" for number in range(450)]
    world.plant(*names)
    run = world.begin()
    world.work()
    world.window_passes()
    batches = 0

    def reached(point: str) -> None:
        nonlocal batches
        batches += point == "batch begun"
        if point == "batch begun" and batches == 1:
            world.exempt()

    world.work(reached)
    purge = world.purge(run)
    assert (purge.deleted_files, purge.left_files) == (200, 250)
    assert len(world.files()) == 250


def test_what_its_owner_removes_is_not_counted_as_deleted(planted: World) -> None:
    run = planted.begin()
    planted.work()
    planted.window_passes()
    while planted.purge(run).state is not PurgeState.VERIFIED:
        planted.step()
    (planted.area / "d.txt").unlink()
    planted.work()
    purge = planted.purge(run)
    assert (purge.state, purge.deleted_files, purge.left_files) == (PurgeState.DONE, 3, 1)
    [report] = [name for name in planted.lists() if name.endswith("-done.txt")]
    removed, _title, left = (planted.area / ".meridian" / "purges" / report).read_text().partition("left: ")
    assert "d.txt" not in removed
    assert "d.txt\tit was gone already" in left


def test_the_window_never_begins_again(planted: World) -> None:
    run = planted.begin()
    planted.work()
    ends_at_ms = planted.purge(run).window_ends_at_ms
    with pytest.raises(TransitionError):
        planted.begin()
    planted.bench.services.purges.stop(ADMIN, run.id, "let me see")
    planted.clock.pass_seconds(DAY)
    planted.bench.services.purges.resume(ADMIN, run.id, "go on")
    planted.work()
    assert planted.purge(run).window_ends_at_ms == ends_at_ms


def test_beyond_the_ceiling_an_administrator_confirms_the_very_numbers(planted: World) -> None:
    planted.use_ceiling(3)
    run = planted.begin()
    planted.work()
    planted.window_passes()
    planted.work()
    view = planted.bench.services.purges.run(ADMIN, run.id)
    assert view.awaits
    assert planted.purge(run).state is PurgeState.DUE
    confirm = planted.bench.services.purges.confirm
    with pytest.raises(NotAllowedError):
        confirm(ANN, run.id, files=view.run.files, bytes_=view.run.bytes, why="mine")
    with pytest.raises(TransitionError):
        confirm(ADMIN, run.id, files=view.run.files + 1, bytes_=view.run.bytes, why="looked at it")
    planted.work()
    assert planted.files() == {*OLD, "young.txt"}
    confirm(ADMIN, run.id, files=view.run.files, bytes_=view.run.bytes, why="looked at it")
    planted.work()
    assert planted.files() == {"young.txt"}
    assert "purge.confirm" in planted.audited(run.id)


def test_the_ceiling_is_of_the_whole_run_and_nothing_goes_before_all_is_planned(planted: World, tmp_path: Path) -> None:
    (tmp_path / "bob").mkdir()
    bob = World(planted.bench, tmp_path / "bob", "bob")
    bob.plant("x", "y")
    arrivals = planted.path / "ours" / "arrivals" / bob.stored.id
    arrivals.write_bytes(b"damaged")
    planted.use_ceiling(5)
    run = planted.begin()
    planted.work()
    planted.window_passes()
    planted.work()
    states = {one.area_id: one.state for one in planted.bench.services.purges.run(ADMIN, run.id).purges}
    assert states == {planted.stored.id: PurgeState.DUE, bob.stored.id: PurgeState.PLANNING}
    os.rename(tmp_path / "bob" / "ours" / "arrivals" / bob.stored.id, arrivals)
    planted.clock.pass_seconds(301)
    planted.work()
    # Neither is beyond the ceiling for itself.
    view = planted.bench.services.purges.run(ADMIN, run.id)
    assert (view.run.files, view.awaits) == (6, True)
    assert {one.state for one in view.purges} == {PurgeState.DUE, PurgeState.NOTICED}


def test_a_dry_run_says_what_would_go_and_does_nothing(planted: World) -> None:
    later_ms = planted.clock.now_ms() + 30 * MS_PER_DAY
    with pytest.raises(InvalidInputError):
        planted.begin(as_of_ms=later_ms)
    run = planted.begin(as_of_ms=later_ms, dry_run=True)
    planted.work()
    purge = planted.purge(run)
    assert (purge.state, purge.files) == (PurgeState.PLANNED, 5)
    assert planted.bench.services.purges.run(ADMIN, run.id).run.state is RunState.DONE
    planted.window_passes()
    planted.work()
    assert planted.files() == {*OLD, "young.txt"}
    assert planted.notices() == {}
    assert planted.lists() == []
    with pytest.raises(NotFoundError):
        planted.bench.services.purges.purge(ANN, purge.id)
    planted.begin()  # it is in nobody's way


def test_a_dry_run_tells_nobody_while_it_still_plans_another_area(planted: World, tmp_path: Path) -> None:
    (tmp_path / "bob").mkdir()
    bob = World(planted.bench, tmp_path / "bob", "bob")
    (planted.path / "ours" / "arrivals" / bob.stored.id).write_bytes(b"damaged")
    run = planted.begin(dry_run=True)
    planted.work()
    assert planted.purge(run).state is PurgeState.PLANNED
    assert planted.bench.services.purges.run(ADMIN, run.id).run.state is RunState.OPEN
    assert planted.notices() == {}


def test_what_is_kept_of_a_purge_goes_when_its_area_is_planned_again(planted: World) -> None:
    plans = planted.path / "ours" / "plans"
    dry = planted.begin(dry_run=True)
    planted.work()
    assert sorted(os.listdir(plans)) == [SPOOLS, f"{planted.purge(dry).id}.jsonl.zst"]

    def ends(point: str) -> None:
        if point == "done":
            raise HaltError("the process is to stop")

    run = planted.begin()
    planted.work()
    planted.window_passes()
    planted.work(ends)
    assert planted.purge(run).state is PurgeState.DONE
    # It had no time to remove anything.
    assert len(os.listdir(plans)) == 5
    (plans / f"{planted.purge(run).id}.chosen.jsonl.zst.new").write_bytes(b"half written by who was killed")
    again = planted.begin()
    planted.work()
    assert sorted(os.listdir(plans)) == [SPOOLS, f"{planted.purge(again).id}.jsonl.zst"]


def test_as_of_a_day_before_less_is_old(planted: World) -> None:
    run = planted.begin(as_of_ms=planted.clock.now_ms() - 90 * MS_PER_DAY)
    planted.work()
    assert planted.purge(run).files == 0
    assert planted.purge(run).state is PurgeState.DONE
    assert planted.notices() == {}


@pytest.mark.parametrize("whole", [True, False])
def test_the_stop_switch_stops_between_two_batches_and_lets_go_on(world: World, whole: bool) -> None:
    world.plant(*(f"n/{number:03}" for number in range(450)))
    run = world.begin()
    world.work()
    world.window_passes()
    purges = world.bench.services.purges

    def reached(point: str) -> None:
        if point == "batch begun" and len(world.files()) == 450:
            purges.stop_all(ADMIN, "wait") if whole else purges.stop(ADMIN, run.id, "wait")

    world.work(reached)
    assert len(world.files()) == 250
    assert world.purge(run).state is PurgeState.DELETING
    world.clock.pass_seconds(DAY)
    world.work()
    assert len(world.files()) == 250
    purges.resume_all(ADMIN, "go on") if whole else purges.resume(ADMIN, run.id, "go on")
    world.work()
    assert world.files() == set()
    assert world.purge(run).deleted_files == 450


def test_while_all_is_stopped_nobody_is_reminded_and_nothing_becomes_due(planted: World) -> None:
    run = noticed(planted)
    planted.bench.services.purges.stop_all(ADMIN, "wait")
    planted.window_passes()
    planted.work()
    assert planted.notices() == {"purge planned": 1}
    planted.bench.services.purges.resume_all(ADMIN, "go on")
    planted.work()
    assert planted.notices() == {"purge planned": 1, "purge reminder": 1}
    assert planted.files() == {*OLD, "young.txt"}
    assert planted.bench.services.purges.run(ADMIN, run).run.state is RunState.OPEN


def test_a_cancelled_run_takes_nothing_and_the_next_begins_anew(planted: World) -> None:
    run = planted.begin()
    planted.work()
    planted.window_passes()
    while planted.purge(run).state is not PurgeState.VERIFIED:
        planted.step()
    planted.bench.services.purges.cancel(ADMIN, run.id, "a mistake")
    planted.work()
    assert planted.files() == {*OLD, "young.txt"}
    assert planted.purge(run).state is PurgeState.CANCELLED
    assert planted.bench.services.purges.run(ADMIN, run.id).run.state is RunState.CANCELLED
    assert planted.archived() == set()
    assert "purge.run-done" not in planted.audited(run.id)
    assert planted.notices()["purge called off"] == 1
    with pytest.raises(TransitionError):
        planted.bench.services.purges.resume(ADMIN, run.id, "why not")
    planted.begin()


def test_an_area_that_another_worker_has_is_passed_over(planted: World) -> None:
    planted.begin()
    runner = planted.bench.services.purge_runner
    view = runner.next_step("one", [StorageClass.SCRATCH])
    assert view is not None
    assert runner.next_step("two", [StorageClass.SCRATCH]) is None
    # The first slept past its lease.
    planted.clock.pass_seconds(1000)
    second = runner.next_step("two", [StorageClass.SCRATCH])
    assert second is not None
    assert runner.advance("one", view, planted.mount) is PurgeState.PLANNING
    assert runner.advance("two", second, planted.mount) is PurgeState.PLANNED


def test_who_lost_the_area_between_two_batches_removes_nothing_more(world: World) -> None:
    world.plant(*(f"n/{number:03}" for number in range(450)))
    run = world.begin()
    world.work()
    world.window_passes()
    runner = world.bench.services.purge_runner
    taken: list[PurgeView] = []

    def reached(point: str) -> None:
        if point == "batch begun" and not taken:
            world.clock.pass_seconds(1000)
            taken.extend(filter(None, [runner.next_step("two", [StorageClass.SCRATCH])]))

    world.step()
    while world.purge(run).state is not PurgeState.DELETING:
        world.step()
    assert world.step(reached) is PurgeState.DELETING
    assert len(world.files()) == 250
    assert runner.advance("two", taken[0], world.mount) is PurgeState.DONE
    assert world.files() == set()
    assert world.purge(run).deleted_files == 450


def test_a_step_that_was_taken_already_is_not_taken_again(planted: World) -> None:
    run = planted.begin()
    runner = planted.bench.services.purge_runner
    view = runner.next_step("one", [StorageClass.SCRATCH])
    assert view is not None
    assert runner.advance("one", view, planted.mount) is PurgeState.PLANNED
    # It slept before its step, and another took it; nobody has the area now.
    assert runner.advance("two", view, planted.mount) is PurgeState.PLANNED
    assert planted.bench.services.purges.run(ADMIN, run.id).run.files == 4
    assert planted.audited(view.purge.id) == ["purge.planned"]


def test_what_is_left_is_told_once_though_its_batch_was_broken_off(planted: World) -> None:
    run = planted.begin()
    planted.work()
    (planted.area / "d.txt").write_bytes(b"used")
    planted.window_passes()

    def ends(point: str) -> None:
        if point == "delete: ended":
            raise HaltError("the process is to stop")

    while planted.purge(run).state is not PurgeState.DELETING:
        planted.step()
    planted.step(ends)
    assert planted.purge(run).state is PurgeState.DELETING
    planted.work()
    assert planted.purge(run).deleted_files == 3
    [report] = [name for name in planted.lists() if name.endswith("-done.txt")]
    text = (planted.area / ".meridian" / "purges" / report).read_text()
    assert text.count("d.txt") == 1


def test_of_two_deletions_only_the_one_that_is_ahead_notes(world: World) -> None:
    world.plant(*(f"n/{number:03}" for number in range(450)))
    run = world.begin()
    world.work()
    world.window_passes()
    while world.purge(run).state is not PurgeState.DELETING:
        world.step()
    runner = world.bench.services.purge_runner
    batches: list[int] = []

    def second_is_broken_off(point: str) -> None:
        if point == "batch begun":
            batches.append(world.purge(run).deleted_files)
            if len(batches) == 2:
                raise KeyboardInterrupt

    def sleeps_at_its_first_batch(point: str) -> None:
        if point == "batch begun" and not batches:
            world.clock.pass_seconds(1000)
            second = runner.next_step("two", [StorageClass.SCRATCH])
            assert second is not None
            with pytest.raises(KeyboardInterrupt):
                runner.advance("two", second, world.mount, second_is_broken_off)

    # The second has let the area go: the first has it again, and finds that deletion is elsewhere.
    assert world.step(sleeps_at_its_first_batch) is PurgeState.DELETING
    purge = world.purge(run)
    assert (purge.position, purge.deleted_files, len(world.files())) == (400, 200, 250)
    world.work()
    purge = world.purge(run)
    assert (purge.state, purge.deleted_files, purge.left_files) == (PurgeState.DONE, 450, 0)


def test_a_plan_that_is_lost_or_changed_purges_nothing(planted: World) -> None:
    run = planted.begin()
    planted.work()
    path = planted.path / "ours" / "plans" / f"{planted.purge(run).id}.jsonl.zst"
    path.write_bytes(path.read_bytes() + b"\0")
    planted.window_passes()
    planted.work()
    assert planted.purge(run).state is PurgeState.FAILED
    assert planted.notices()["purge called off"] == 1
    assert planted.files() == {*OLD, "young.txt"}
    assert planted.bench.services.purges.run(ADMIN, run.id).run.state is RunState.DONE


def test_a_purge_that_breaks_off_while_it_deletes_says_what_is_gone_and_where_it_is(world: World) -> None:
    world.plant(*(f"n/{number:03}" for number in range(450)))
    run = world.begin()
    world.work()
    world.window_passes()
    while world.purge(run).state is not PurgeState.DELETING:
        world.step()

    def is_killed(point: str) -> None:
        if point == "delete: removed" and len(world.files()) == 220:
            raise HaltError("the process is to stop")

    world.step(is_killed)
    chosen = world.path / "ours" / "plans" / f"{world.purge(run).id}.chosen.jsonl.zst"
    chosen.unlink()
    world.work()
    assert (world.purge(run).state, len(world.files())) == (PurgeState.FAILED, 220)
    assert world.notices() == {"purge planned": 1, "purge reminder": 2, "purge broke off": 1}
    [told] = [one for one in world.bench.services.inbox.inbox("ann").notices if one.kind == "purge broke off"]
    assert told.title.startswith("The removal of 450 files of your scratch")
    assert told.title.endswith(" broke off halfway")
    # Of the batch that was under way nobody knows.
    assert "at least 200 of them are gone, the others stay" in told.text
    [archive] = world.bench.services.restores.archives_of(ANN, world.stored.id)
    assert archive.id == world.purge(run).archive_id
    assert len(world.archived()) == 450


def test_one_that_breaks_off_in_its_first_files_says_that_it_was_at_its_beginning(planted: World) -> None:
    run = planted.begin()
    planted.work()
    planted.window_passes()
    while planted.purge(run).state is not PurgeState.DELETING:
        planted.step()
    (planted.path / "ours" / "plans" / f"{planted.purge(run).id}.chosen.jsonl.zst").unlink()
    planted.work()
    assert planted.purge(run).state is PurgeState.FAILED
    assert planted.files() == {*OLD, "young.txt"}
    [told] = [one for one in planted.bench.services.inbox.inbox("ann").notices if one.kind == "purge called off"]
    assert "broke off at its very beginning" in told.text


def test_nothing_is_deleted_when_the_archive_was_changed_after_it_was_verified(planted: World) -> None:
    run = planted.begin()
    planted.work()
    planted.window_passes()
    while planted.purge(run).state is not PurgeState.VERIFIED:
        planted.step()
    place = planted.path / "archives" / str(planted.purge(run).archive_id)
    with (place / "part-00000.tar.zst").open("ab") as part:
        part.write(b"\0")
    planted.work()
    assert planted.purge(run).state is PurgeState.FAILED
    assert planted.files() == {*OLD, "young.txt"}


def test_an_archive_that_is_damaged_before_it_is_verified_is_begun_anew(planted: World) -> None:
    run = planted.begin()
    planted.work()
    planted.window_passes()
    damaged: list[Path] = []

    def reached(point: str) -> None:
        if point == "archive written" and not damaged:
            place = planted.path / "archives" / str(planted.purge(run).archive_id)
            damaged.append(place)
            part = place / "part-00000.tar.zst"
            part.write_bytes(part.read_bytes()[:-40] + bytes(40))

    planted.work(reached)
    assert planted.purge(run).state is PurgeState.ARCHIVING
    assert planted.purge(run).problem
    assert planted.files() == {*OLD, "young.txt"}
    planted.clock.pass_seconds(301)
    planted.work(reached)
    assert planted.purge(run).state is PurgeState.DONE
    assert planted.archived() == set(OLD)


def test_a_store_that_is_away_is_tried_again(planted: World) -> None:
    run = planted.begin()
    planted.work()
    planted.window_passes()
    (planted.path / "archives").write_text("not a folder")
    planted.work()
    purge = planted.purge(run)
    assert (purge.state, planted.files()) == (PurgeState.ARCHIVING, {*OLD, "young.txt"})
    assert purge.problem
    assert "archives" in purge.problem
    (planted.path / "archives").unlink()
    planted.work()
    assert planted.purge(run).state is PurgeState.ARCHIVING
    planted.clock.pass_seconds(301)
    planted.work()
    assert planted.purge(run).state is PurgeState.DONE


def test_an_area_that_is_not_there_fails_and_holds_nobody_up(planted: World) -> None:
    os.rename(planted.area, planted.path / "elsewhere")
    run = planted.begin()
    planted.work()
    assert planted.purge(run).state is PurgeState.FAILED
    assert planted.notices() == {}, "nobody was told that anything would go"
    assert planted.bench.services.purges.run(ADMIN, run.id).run.state is RunState.DONE


@pytest.mark.parametrize("at", [".meridian", ".meridian/purges"])
def test_a_list_is_never_written_outside_of_the_area(planted: World, tmp_path: Path, at: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (planted.area / at).parent.mkdir(exist_ok=True)
    os.symlink(outside, planted.area / at)
    run = planted.begin()
    planted.work()
    assert os.listdir(outside) == []
    purge = planted.purge(run)
    assert purge.state is PurgeState.NOTICED
    assert purge.problem
    assert planted.notices() == {"purge planned": 1}


def test_a_list_takes_the_place_of_a_link_and_not_of_what_it_leads_to(planted: World, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    run = planted.begin()
    lists = planted.area / ".meridian" / "purges"
    lists.mkdir(parents=True)
    name = f"2027-01-15-{planted.purge(run).id}.txt"
    os.symlink(victim, lists / name)
    os.symlink(victim, lists / f".{name}.new")
    planted.work()
    assert planted.lists() == [name]
    assert not (lists / name).is_symlink()
    assert victim.read_text() == "mine"


def test_a_link_that_is_put_in_the_place_of_a_list_at_once_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, area = tmp_path / "victim", tmp_path / "area"
    victim.write_text("mine")
    area.mkdir()
    unlink = os.unlink

    def attacked(path: str, *, dir_fd: int) -> None:
        with suppress(FileNotFoundError):
            unlink(path, dir_fd=dir_fd)
        os.symlink(victim, path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", attacked)
    with Root(str(area)) as root, pytest.raises(FileExistsError):
        write_list(root, "list.txt", ["theirs"])
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(("area_mode", "file_mode"), [(0o700, 0o600), (0o2770, 0o640), (0o755, 0o644)])
def test_whoever_may_read_the_area_may_read_the_list(planted: World, area_mode: int, file_mode: int) -> None:
    planted.area.chmod(area_mode)
    before = os.umask(0o077)
    try:
        planted.begin()
        planted.work()
    finally:
        os.umask(before)
    lists = planted.area / ".meridian" / "purges"
    assert [stat.S_IMODE(folder.stat().st_mode) & 0o777 for folder in (lists.parent, lists)] == [0o755, 0o755]
    [name] = planted.lists()
    assert stat.S_IMODE((lists / name).stat().st_mode) == file_mode
    assert (lists / name).stat().st_uid == planted.area.stat().st_uid


def test_what_a_list_says_of_hostile_names_is_one_line_each(world: World) -> None:
    world.plant("a\nb\tc", "back\\slash", os.fsdecode(b"\xff"))
    world.begin()
    world.work()
    [name] = world.lists()
    lines = (world.area / ".meridian" / "purges" / name).read_text().splitlines()
    assert {line.split("\t")[-1] for line in lines[6:]} == {"a\\nb\\tc", "back\\\\slash", "\\xff"}


def test_members_are_told_and_see_the_purge_and_others_know_of_none(planted: World) -> None:
    purges = planted.bench.services.purges
    bob = Member(planted.allocation, "bob", MemberRole.MEMBER, planted.clock.now_ms())
    with planted.bench.services.database.write() as connection:
        AllocationStore().add_member(connection, bob)
    noticed(planted)
    assert planted.notices("bob") == {"purge planned": 1}
    [view] = purges.of_area(Actor("bob"), planted.stored.id)
    assert view.purge.files == 4
    assert [one.purge.id for one in purges.under_way(Actor("bob"))] == [view.purge.id]
    assert purges.under_way(Actor("eve")) == []
    for asked in (
        lambda: purges.of_area(Actor("eve"), planted.stored.id),
        lambda: purges.purge(Actor("eve"), view.purge.id),
    ):
        with pytest.raises(NotFoundError):
            asked()
    for steer in (purges.stop, purges.resume, purges.cancel):
        with pytest.raises(NotAllowedError):
            steer(ANN, view.run.id, "no")
    for ask in (purges.runs, lambda actor: purges.run(actor, view.run.id), lambda actor: purges.stop_all(actor, "no")):
        with pytest.raises(NotAllowedError):
            ask(ANN)
