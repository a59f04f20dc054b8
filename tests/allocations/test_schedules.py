"""Schedules: each time is dealt with once, whatever becomes of it is noted, and its owner is told of refusals."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from allocations.errors import (
    IdempotencyConflictError,
    InvalidInputError,
    NotAMemberError,
    NotFoundError,
    SizeNotAllowedError,
    TransitionError,
)
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.runs import schedule_store
from allocations.runs.models import Outcome
from allocations.runs.schedule_models import ScheduleTerms
from tests.allocations.conftest import START_MS, make_bench
from tests.allocations.test_runs import PARAMETRIC, finish, submit
from tests.fresh import fresh_sqlite
from tests.places import join

if TYPE_CHECKING:
    from pathlib import Path

    from allocations.runs.schedule_models import ScheduleDetail, ScheduleView
    from tests.allocations.conftest import Bench

HOUR = 3600
DAY = 24 * HOUR
# START_MS is Friday 15 January 2027, 08:00 UTC.


def add(bench: Bench, allocation: str, person: str = "ann", key: str | None = None, **changes: Any) -> ScheduleDetail:
    values: dict[str, Any] = {
        "title": "Nightly",
        "size": "small",
        "name": "n.ipynb",
        "notebook": PARAMETRIC,
        "parameters": {"n": 1},
        "max_seconds": 600,
        "cron": "0 * * * *",
    }
    values |= changes
    return bench.services.schedules.add(
        person, ScheduleTerms(allocation=allocation, **values), bench.key({"cron": values["cron"]}, key)
    )


def at(seconds: int) -> str:
    return datetime.fromtimestamp(START_MS / 1000 + seconds, tz=UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def tick(bench: Bench, seconds: float = 0) -> int:
    bench.clock.pass_seconds(seconds)
    return bench.services.schedule_duty.submit_due()


def seen(bench: Bench, schedule: ScheduleView) -> ScheduleDetail:
    return bench.services.schedules.get("ann", schedule.id)


def outcomes(bench: Bench, schedule: ScheduleView) -> list[tuple[str, str]]:
    """What became of its times, the first one first."""
    return [(one.planned_at, one.outcome) for one in reversed(seen(bench, schedule).times)]


def end_all(bench: Bench) -> None:
    """Run whatever is queued."""
    while taken := bench.services.runs.claim("batch", 100):
        for run in taken:
            finish(bench, run, Outcome.SUCCEEDED, ran=1)


def notices(bench: Bench) -> list[tuple[str, str]]:
    found = bench.services.inbox.inbox("ann").notices
    return [(one.title, one.text) for one in reversed(found) if "schedule" in one.kind]


def test_a_schedule_submits_its_run_at_each_time_and_once(bench: Bench) -> None:
    schedule = add(bench, bench.accept("ann"), cron="0 */6 * * *", title=" Nightly ")
    assert (schedule.title, schedule.words) == ("Nightly", "At minute 0 past every sixth hour (UTC)")
    assert [one.at for one in schedule.coming] == [at(4 * HOUR + 6 * HOUR * number) for number in range(5)]
    assert schedule.coming[0].shown == "Friday 15 January 2027, 12:00 (UTC)"
    assert tick(bench, 4 * HOUR - 0.001) == 0
    assert tick(bench, 0.001) == 1
    assert tick(bench) == tick(bench, 60) == 0
    [run] = bench.services.runs.list_of("ann")
    assert (run.name, run.parameters, run.max_seconds, run.state) == ("n.ipynb", {"n": 1}, 600, "queued")
    assert b"x = 1" in bench.services.runs.read_file("ann", run.id, "input.ipynb")
    assert bench.services.schedules.of_run("ann", run.id) == (schedule.id, "Nightly")
    assert bench.services.schedules.of_run("bob", run.id) is None
    end_all(bench)
    after = seen(bench, schedule)
    assert [(one.run, one.run_state, one.outcome) for one in after.times] == [(run.id, "succeeded", "submitted")]
    assert after.next is not None
    assert after.next.at == at(10 * HOUR)
    [listed] = bench.services.schedules.list_of("ann")
    assert listed.last == after.times[0]
    bench.assert_clean()


@pytest.mark.parametrize(
    ("missed", "expected", "runs"),
    [
        ("skip", [(3, "missed")], 0),
        ("once", [(2, "missed"), (3, "submitted")], 1),
        ("all", [(1, "missed"), (2, "submitted"), (3, "submitted")], 2),
    ],
)
def test_times_at_which_the_platform_did_not_run(
    bench: Bench, missed: str, expected: list[tuple[int, str]], runs: int
) -> None:
    duty = bench.services.schedule_duty
    rules = duty.policy.runs.model_copy(update={"schedule_runs_max": 2})
    duty = replace(duty, policy=duty.policy.model_copy(update={"runs": rules}))
    schedule = add(bench, bench.accept("ann"), missed=missed)
    bench.clock.pass_seconds(3 * HOUR + 1800)
    duty.submit_due()
    assert outcomes(bench, schedule) == [(at(hour * HOUR), outcome) for hour, outcome in expected]
    queued = sorted(bench.services.runs.list_of("ann"), key=lambda run: len(run.after))
    assert len(queued) == runs
    # Those that are made up for come one after the other.
    assert [one.run for run in queued[1:] for one in run.after] == [run.id for run in queued[:-1]]
    end_all(bench)
    tick(bench, 1800)
    assert outcomes(bench, schedule)[-1] == (at(4 * HOUR), "submitted")


def test_a_time_that_is_late_or_overtaken_is_missed(bench: Bench) -> None:
    schedule = add(bench, bench.accept("ann"), cron="0,2 9 * * *")
    tick(bench, HOUR + 299)
    assert outcomes(bench, schedule) == [(at(HOUR), "missed"), (at(HOUR + 120), "submitted")]
    tick(bench, DAY)
    assert outcomes(bench, schedule)[2:] == [(at(DAY + HOUR), "missed"), (at(DAY + HOUR + 120), "skipped")]
    end_all(bench)
    tick(bench, DAY + 302)
    assert outcomes(bench, schedule)[4:] == [(at(2 * DAY + HOUR + 120), "missed")]
    [last, *_] = seen(bench, schedule).times
    assert last.detail == "The platform came too late to all times from Sunday 17 January 2027, 09:00 (UTC) on."


def test_a_run_that_has_not_ended_lets_the_next_be_skipped_or_wait(bench: Bench) -> None:
    entry = bench.accept("ann")
    skipping, queueing = add(bench, entry), add(bench, entry, overlap="queue")
    tick(bench, HOUR)
    tick(bench, HOUR)
    assert [outcome for _, outcome in outcomes(bench, skipping)] == ["submitted", "skipped"]
    assert [outcome for _, outcome in outcomes(bench, queueing)] == ["submitted", "submitted"]
    second, first = seen(bench, queueing).times
    [skipped, ran] = seen(bench, skipping).times
    assert skipped.detail == f"The run {ran.run} of an earlier time had not ended."
    assert second.run is not None
    waiting = bench.services.runs.get("ann", second.run)
    assert ([one.run for one in waiting.after], waiting.waits_for) == ([first.run], "ended")
    for _ in range(12):
        tick(bench, HOUR)
    states = [outcome for _, outcome in outcomes(bench, queueing)]
    assert states == ["submitted"] * 10 + ["skipped"] * 4
    assert seen(bench, queueing).times[0].detail == "10 runs of earlier times had not ended."


def test_a_refusal_is_noted_and_told_and_too_many_pause(bench: Bench) -> None:
    root = bench.consortium()
    bench.accept("ann")
    join(bench.services.members, Actor("lead"), root, "ann", MemberRole.MEMBER)
    schedule = add(bench, root)
    bench.services.members.remove(Actor("lead"), root, "ann")
    for number in range(1, 5):
        tick(bench, HOUR)
        refused = seen(bench, schedule)
        assert (refused.refusals, refused.state, len(notices(bench))) == (number, "active", number)
    assert refused.times[0].outcome == "refused"
    assert refused.times[0].detail is not None
    title, text = notices(bench)[0]
    assert title == "Your schedule “Nightly” could not submit its run"
    assert text.startswith("The schedule “Nightly” was to submit a run at 09:00 UTC on 2027-01-15. It was refused: ")
    assert refused.times[0].detail.split(".", maxsplit=1)[0] in text
    tick(bench, HOUR)
    paused = seen(bench, schedule)
    assert (paused.state, paused.next, len(notices(bench))) == ("paused", None, 5)
    assert paused.pause_reason is not None
    assert paused.pause_reason.startswith("It was refused 5 times in a row, the last time because: ")
    assert notices(bench)[-1][0] == "Your schedule “Nightly” is paused"
    assert tick(bench, DAY) == 0
    join(bench.services.members, Actor("lead"), root, "ann", MemberRole.MEMBER)
    resumed = bench.services.schedules.resume("ann", schedule.id)
    assert (resumed.state, resumed.refusals, resumed.pause_reason) == ("active", 0, None)
    tick(bench, HOUR)
    assert outcomes(bench, schedule)[-1][1] == "submitted", "what passed while it was paused is not made up for"
    assert len(outcomes(bench, schedule)) == 6


def test_no_balance_and_a_suspension_refuse_and_a_success_forgets_refusals(bench: Bench) -> None:
    entry = bench.accept("ann")
    schedule = add(bench, entry, max_seconds=172_800)
    with bench.services.database.write() as connection:
        bench.services.lifecycle.change_limit(connection, entry, -29_000_000, "t", TransactionKind.GRANT, "lowered")
    tick(bench, HOUR)
    assert "credit" in (seen(bench, schedule).times[0].detail or "")
    with bench.services.database.write() as connection:
        bench.services.lifecycle.change_limit(connection, entry, 29_000_000, "t", TransactionKind.GRANT, "raised")
    tick(bench, HOUR)
    assert (seen(bench, schedule).refusals, seen(bench, schedule).times[0].outcome) == (0, "submitted")
    end_all(bench)
    bench.services.suspensions.suspend(Actor("admin", admin=True), "ann", "Mining.", 600)
    tick(bench, HOUR)
    assert seen(bench, schedule).times[0].outcome == "refused"
    assert "The reason: Mining." in (seen(bench, schedule).times[0].detail or "")


def test_a_schedule_is_changed_paused_resumed_and_removed_by_its_owner_alone(bench: Bench) -> None:
    entry = bench.accept("ann")
    bench.accept("bob")
    schedule = add(bench, entry)
    service = bench.services.schedules
    for act in (service.get, service.pause, service.resume, service.remove):
        with pytest.raises(NotFoundError):
            act("bob", schedule.id)
    with pytest.raises(NotFoundError):
        service.edit("bob", schedule.id, {"title": "x"})
    edited = service.edit("ann", schedule.id, {"title": "Weekly", "parameters": {"n": 2}, "overlap": "queue"})
    assert (edited.title, edited.parameters, edited.next) == ("Weekly", {"n": 2}, schedule.next)
    moved = service.edit("ann", schedule.id, {"cron": "30 9 * * MON", "zone": "Europe/Berlin", "image": None})
    assert moved.next is not None
    assert moved.next.shown == "Monday 18 January 2027, 09:30 (CET, UTC+01:00)"
    assert service.pause("ann", schedule.id).next is None
    assert service.edit("ann", schedule.id, {"cron": "0 * * * *", "zone": "UTC"}).next is None
    assert len(service.get("ann", schedule.id).coming) == 5, "of one that is paused, those that would come"
    assert tick(bench, 5 * HOUR) == 0
    assert service.resume("ann", schedule.id).next is not None
    tick(bench, HOUR)
    [run] = bench.services.runs.list_of("ann")
    assert run.parameters == {"n": 2}
    service.remove("ann", schedule.id)
    assert service.list_of("ann") == []
    assert tick(bench, DAY) == 0
    assert bench.services.runs.get("ann", run.id).state == "queued"
    assert bench.services.schedules.of_run("ann", run.id) is None


def test_what_could_not_be_submitted_is_refused_at_once(bench: Bench) -> None:
    entry, others = bench.accept("ann"), bench.accept("bob")
    with pytest.raises(NotAMemberError):
        add(bench, others)
    with pytest.raises(SizeNotAllowedError):
        add(bench, entry, size="xlarge")
    for bad in (
        {"title": "  "},
        {"title": "a\nb"},
        {"title": "x" * 101},
        {"title": "\ud800"},
        {"cron": "61 * * * *"},
        {"cron": "0 0 30 2 *"},
        {"cron": "0 0 * 2 MON#5"},
        {"zone": "Mars/Olympus"},
        {"notebook": {"nbformat": 3}},
        {"name": "n.py"},
        {"max_seconds": 10**9},
    ):
        with pytest.raises(InvalidInputError):
            add(bench, entry, **bad)
    schedule = add(bench, entry, key="one")
    assert add(bench, entry, key="one") == schedule
    with pytest.raises(IdempotencyConflictError):
        add(bench, entry, key="one", cron="1 * * * *")
    with pytest.raises(NotAMemberError):
        bench.services.schedules.edit("ann", schedule.id, {"allocation": others})
    with pytest.raises(InvalidInputError):
        bench.services.schedules.preview("0 0 * 2 MON#5", "UTC")
    for _ in range(bench.services.policy.runs.schedules_max - 1):
        add(bench, entry)
    with pytest.raises(TransitionError, match="50 schedules"):
        add(bench, entry)


def test_the_schedules_of_an_account_that_has_ended_are_paused(bench: Bench) -> None:
    schedule = add(bench, bench.accept("ann"))
    assert bench.services.runs.people_with_runs("", 10) == ["ann"]
    bench.services.runs.end_of("ann", "hub")
    assert bench.services.runs.people_with_runs("", 10) == []
    assert tick(bench, DAY) == 0
    assert (seen(bench, schedule).state, seen(bench, schedule).pause_reason) == (
        "paused",
        "The account of its owner has ended.",
    )


def test_only_the_last_times_are_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule_store, "TIMES_KEPT", 3)
    schedule = add(bench, bench.accept("ann"))
    for _ in range(5):
        tick(bench, HOUR)
        end_all(bench)
    assert [planned for planned, _ in outcomes(bench, schedule)] == [at(hour * HOUR) for hour in (3, 4, 5)]
    assert len(bench.services.runs.list_of("ann")) == 5


@pytest.mark.slow
def test_a_night_schedule_runs_once_on_each_night_of_the_year(bench: Bench) -> None:
    """By the clock of Berlin, which is moved forward on 28 March and back on 31 October 2027."""
    entry = bench.accept("ann")
    night = add(bench, entry, cron="30 2 * * *", zone="Europe/Berlin", missed="once")
    for _ in range(86):
        tick(bench, DAY)
        end_all(bench)
    shown = [one.shown for one in seen(bench, night).times]
    assert "Sunday 28 March 2027, 03:00 (CEST, UTC+02:00)" in shown
    assert "Saturday 27 March 2027, 02:30 (CET, UTC+01:00)" in shown
    assert "Monday 29 March 2027, 02:30 (CEST, UTC+02:00)" in shown
    assert len(bench.services.runs.list_of("ann", 200)) == 86


def test_a_time_that_comes_again_because_the_clock_was_put_back_is_not_run_again(bench: Bench) -> None:
    schedule = add(bench, bench.accept("ann"))
    tick(bench, HOUR)
    end_all(bench)
    bench.clock.pass_seconds(-1800)
    bench.services.schedules.pause("ann", schedule.id)
    bench.services.schedules.resume("ann", schedule.id)
    assert tick(bench, 1800) == 1
    assert outcomes(bench, schedule) == [(at(HOUR), "submitted")]
    assert len(bench.services.runs.list_of("ann")) == 1
    tick(bench, HOUR)
    assert outcomes(bench, schedule)[1:] == [(at(2 * HOUR), "submitted")]


def test_what_its_owner_changes_while_a_worker_looks_counts(bench: Bench) -> None:
    schedule = add(bench, bench.accept("ann"))
    bench.clock.pass_seconds(HOUR)
    duty = bench.services.schedule_duty
    with bench.services.database.read() as connection:
        [due] = duty.schedules.due(connection, bench.clock.now_ms(), 1)
    bench.services.schedules.pause("ann", schedule.id)
    assert not duty._deal_with(due)
    assert bench.services.runs.list_of("ann") == []
    assert seen(bench, schedule).state == "paused"


def test_two_workers_at_once_submit_one_run_for_each_time(bench: Bench) -> None:
    entry = bench.accept("ann")
    schedules = [add(bench, entry, title=f"S{number}") for number in range(12)]
    bench.clock.pass_seconds(HOUR)
    together = threading.Barrier(3)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            together.wait()
            for _ in range(3):
                bench.services.schedule_duty.submit_due()
        except BaseException as error:  # noqa: BLE001  # the test says what went wrong in the thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(bench.services.runs.list_of("ann")) == len(schedules)
    assert {len(seen(bench, one).times) for one in schedules} == {1}


# It dies of a signal that counts the time that it works, however long it waits for a processor.
WORKER = """
import signal
import sys
from pathlib import Path
from tests.allocations.conftest import make_bench
bench = make_bench(sys.argv[1], Path(sys.argv[2]))
bench.clock.at_ms = int(sys.argv[3])
signal.setitimer(signal.ITIMER_PROF, float(sys.argv[4]))
while bench.services.schedule_duty.submit_due():
    pass
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_worker_that_is_killed_anywhere_submits_one_run_for_each_time(tmp_path: Path) -> None:
    url, store = fresh_sqlite(tmp_path), tmp_path / "runs"
    bench = make_bench(url, store)
    entry = bench.accept("ann")
    schedules = [add(bench, entry, title=f"S{number}", missed="all", overlap="queue") for number in range(40)]
    hours = 5
    now_ms = START_MS + hours * HOUR * 1000 + 1000
    chance = random.Random(5)
    killed = 0
    while True:
        lives_seconds = 0.01 + chance.random() * 0.2 if killed < 6 else 0
        arguments = [url, str(store), str(now_ms), str(lives_seconds)]
        worker = subprocess.run(
            [sys.executable, "-c", WORKER, *arguments], env={**os.environ, "PYTHONPATH": "."}, check=False
        )
        if worker.returncode == 0:
            break
        assert worker.returncode == -signal.SIGPROF
        killed += 1
    assert killed > 2
    bench.clock.at_ms = now_ms
    expected = [(at(hour * HOUR), "submitted") for hour in range(1, hours + 1)]
    assert all(outcomes(bench, schedule) == expected for schedule in schedules)
    assert len(bench.services.runs.list_of("ann", 1000)) == len(schedules) * hours
    bench.services.database.dispose()


def test_a_run_of_a_schedule_can_be_waited_for(bench: Bench) -> None:
    entry = bench.accept("ann")
    add(bench, entry)
    tick(bench, HOUR)
    [run] = bench.services.runs.list_of("ann")
    follower = submit(bench, entry, after=[run.id])
    end_all(bench)
    assert bench.services.runs.get("ann", follower.id).state == "succeeded"
