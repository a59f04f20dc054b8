"""Sweeps: many runs submitted, bounded, retried, cancelled and gathered as one."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, text

from allocations.db.schema import runs as runs_table
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
from allocations.runs.models import Outcome, RunError, RunFilter, RunState
from allocations.runs.notebook_parameters import parameters_of
from allocations.runs.queue_store import RunQueueStore
from allocations.runs.service import Finish
from allocations.runs.sweep_rows import expand, require_rows
from allocations.runs.sweeps import Retry, SweepSubmission
from tests.allocations.test_runs import PARAMETRIC, SMALL
from tests.allocations.test_runs import submit as submit_run
from tests.places import join

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from allocations.runs.models import RunView
    from allocations.runs.sweep_models import SweepView
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000


def submit(bench: Bench, allocation: str, count: int = 3, person: str = "ann", **changes: Any) -> SweepView:
    values: dict[str, Any] = {
        "size": "small",
        "name": "n.ipynb",
        "notebook": PARAMETRIC,
        "parameters": {"field": "m31"},
        "rows": [{"x": number} for number in range(count)],
    } | changes
    return bench.services.sweeps.submit(SweepSubmission(person=person, allocation=allocation, **values), bench.key())


def claim(bench: Bench, limit: int = 100) -> list[RunView]:
    return bench.services.runs.claim("batch", limit)


def finish(
    bench: Bench,
    run: RunView,
    outcome: Outcome = Outcome.SUCCEEDED,
    ran: int | None = 10,
    recorded: Mapping[str, Any] | None = None,
) -> RunView:
    now = bench.clock.at_ms
    error = RunError(cell=1, name="ValueError", message="bad") if outcome is Outcome.FAILED else None
    started = None if ran is None else now - ran * 1000
    return bench.services.runs.finish(
        run.id, Finish(run.attempt, outcome, started, now, error, recorded=recorded or {})
    )


def test_a_sweep_is_queued_together_runs_so_many_at_once_and_adds_up(bench: Bench, tmp_path: Path) -> None:
    root = bench.consortium("ann")
    made = submit(bench, root, count=5, at_once=2, max_seconds=600)
    assert (made.rows, made.state, made.counts[RunState.QUEUED], made.varied) == (5, "queued", 5, ["x"])
    first = claim(bench)
    assert [run.parameters for run in first] == [{"field": "m31", "x": 0}, {"field": "m31", "x": 1}]
    assert claim(bench) == []
    waiting = bench.services.runs.list_of("ann", wanted=RunFilter(sweep=made.id))
    assert {run.waiting_reason for run in waiting if run.state == "queued"} == {
        "The sweep runs 2 at once, as it was submitted."
    }
    bench.clock.pass_seconds(20)
    for run in first:
        bench.services.runs.progress(
            run.id, attempt=1, started_at_ms=bench.clock.at_ms - 15_000, cells_done=0, cells_total=2, current_cell=1
        )
    finish(bench, first[0], recorded={"completeness": 0.9})
    [third] = claim(bench)
    seen = bench.services.sweeps.get("ann", made.id)
    assert (seen.state, seen.ended, seen.held_microcredits) == ("running", 1, 2 * SMALL * 600)
    assert seen.seconds_left is not None
    for run in (first[1], third):
        bench.clock.pass_seconds(10)
        finish(bench, run)
    for run in claim(bench):
        bench.clock.pass_seconds(10)
        finish(bench, run, recorded={"completeness": 1, "curve": [1, 2]})
    done = bench.services.sweeps.get("ann", made.id)
    assert (done.state, done.ended, done.failed, done.held_microcredits) == ("succeeded", 5, 0, 0)
    results = bench.services.sweeps.results("ann", made.id, -1)
    assert [one.row for one in results] == list(range(5))
    assert results[0].recorded == {"completeness": 0.9}
    assert results[4].recorded == {"completeness": 1, "curve": [1, 2]}
    assert sum(one.charged_microcredits for one in results) == done.charged_microcredits > 0
    assert [one.row for one in bench.services.sweeps.results("ann", made.id, 1, 2)] == [2, 3]
    assert list(bench.services.sweeps.all_results("ann", made.id)) == results
    assert [path.parent.name for path in (tmp_path / "runs").rglob("input.ipynb")] == [made.id], "the notebook is once"
    bench.assert_clean()


def test_only_the_failed_are_retried_and_what_they_cost_stays_counted(bench: Bench) -> None:
    root = bench.consortium("ann")
    made = submit(bench, root, count=4, max_seconds=600)
    with pytest.raises(TransitionError):
        bench.services.sweeps.retry("ann", made.id, Retry(), bench.key())
    good, bad, slow, lost = claim(bench)
    bench.clock.pass_seconds(30)
    finish(bench, good)
    finish(bench, bad, Outcome.FAILED)
    finish(bench, slow, Outcome.TIMED_OUT, ran=20)
    finish(bench, lost, Outcome.LOST)
    failed = bench.services.sweeps.get("ann", made.id)
    assert (failed.failed, failed.counts[RunState.QUEUED], failed.state) == (2, 1, "running")
    key = bench.key()
    again = bench.services.sweeps.retry("ann", made.id, Retry(size="standard", max_seconds=1200), key)
    assert bench.services.sweeps.retry("ann", made.id, Retry(size="standard", max_seconds=1200), key) == again
    assert (again.failed, again.ended, again.counts[RunState.QUEUED]) == (0, 1, 3)
    second = claim(bench) + claim(bench)
    assert sorted((run.sweep_row or 0, run.size, run.max_seconds) for run in second) == [
        (1, "standard", 1200),
        (2, "standard", 1200),
        (3, "small", 600),
    ]
    bench.clock.pass_seconds(30)
    for run in second:
        finish(bench, run)
    done = bench.services.sweeps.get("ann", made.id)
    assert (done.state, done.counts[RunState.SUCCEEDED]) == ("succeeded", 4)
    results = {one.row: one for one in bench.services.sweeps.results("ann", made.id, -1)}
    assert [results[row].charged_microcredits_before for row in range(4)] == [0, SMALL * 10, SMALL * 20, 0]
    total = sum(one.charged_microcredits + one.charged_microcredits_before for one in results.values())
    assert done.charged_microcredits == total
    bench.assert_clean()


def test_a_sweep_is_cancelled_in_one_act(bench: Bench) -> None:
    root = bench.consortium("ann")
    made, other = submit(bench, root, count=6, at_once=2), submit(bench, root, count=2)
    claimed = claim(bench)
    active = [run for run in claimed if run.sweep == made.id]
    assert len(active) == 2
    cancelled = bench.services.sweeps.cancel("ann", made.id)
    assert (cancelled.counts[RunState.CANCELLED], cancelled.counts[RunState.ADMITTED]) == (4, 2)
    assert cancelled.cancelled_at is not None
    assert bench.services.sweeps.cancel("ann", made.id) == cancelled
    assert {run.id for run in claim(bench)} == set()
    assert all(run.cancel_requested for run in bench.services.runs.active_of("batch") if run.sweep == made.id)
    # One that was lost meanwhile is not queued again, and one that ended well has.
    bench.clock.pass_seconds(30)
    finish(bench, active[0], Outcome.LOST)
    finish(bench, active[1])
    assert bench.services.sweeps.get("ann", made.id).counts[RunState.SUCCEEDED] == 1
    assert bench.services.sweeps.get("ann", made.id).state == "cancelled"
    assert bench.services.sweeps.get("ann", other.id).cancelled_at is None
    with pytest.raises(TransitionError):
        bench.services.sweeps.retry("ann", made.id, Retry(), bench.key())
    again = bench.services.sweeps.retry("ann", made.id, Retry(include_cancelled=True), bench.key())
    assert (again.counts[RunState.QUEUED], again.cancelled_at) == (5, None)
    bench.assert_clean()


def test_what_a_sweep_must_be_is_said_before_anything_is_queued(bench: Bench) -> None:
    root = bench.consortium("ann")
    bench.accept("bob")
    bads: tuple[dict[str, Any], ...] = (
        {"rows": []},
        {"rows": [{"x": 1}, {"not a name": 1}]},
        {"rows": [{"x": float("nan")}]},
        {"rows": [{"x": "y" * 20_000}]},
        {"rows": [{"x": 1}] * 10_001},
        {"rows": [{f"x{number}": 1 for number in range(101)}]},
        {"name": "n.py"},
        {"at_once": 0},
        {"max_seconds": 10**9},
        {"notebook": {}},
    )
    for bad in bads:
        with pytest.raises(InvalidInputError):
            submit(bench, root, **bad)
    with pytest.raises(InvalidInputError, match="Row 2"):
        submit(bench, root, rows=[{"x": 1}, {"1": 1}])
    with pytest.raises(SizeNotAllowedError):
        submit(bench, bench.services.reports.allocations_of("bob")[0].id, person="bob", size="xlarge")
    with pytest.raises(NotAMemberError):
        submit(bench, root, person="bob")
    assert bench.services.sweeps.list_of("ann") == []
    assert bench.services.runs.list_of("ann", wanted=RunFilter(sweep="s-0")) == []


def test_a_sweep_is_its_persons_alone(bench: Bench) -> None:
    root = bench.consortium("ann")
    join(bench.services.members, Actor("ann"), root, "bob", MemberRole.MEMBER)
    made = submit(bench, root)
    sweeps = bench.services.sweeps
    for act in (
        lambda: sweeps.get("bob", made.id),
        lambda: sweeps.cancel("bob", made.id),
        lambda: sweeps.results("bob", made.id, -1),
        lambda: sweeps.retry("bob", made.id, Retry(), bench.key()),
        lambda: sweeps.list_of("bob", before=made.id),
        lambda: sweeps.get("ann", "s-0"),
    ):
        with pytest.raises(NotFoundError):
            act()
    assert [one.id for one in sweeps.list_of("ann")] == [made.id]


def test_lists_of_runs_are_of_single_ones_and_of_sweeps_by_pages(bench: Bench) -> None:
    root = bench.consortium("ann")
    made = []
    for _ in range(3):
        made.append(submit(bench, root).id)
        bench.clock.pass_seconds(1)
    single = submit_run(bench, root)
    assert [run.id for run in bench.services.runs.list_of("ann")] == [single.id]
    newest = bench.services.sweeps.list_of("ann", limit=2)
    assert [one.id for one in newest] == made[:0:-1]
    assert [one.id for one in bench.services.sweeps.list_of("ann", before=newest[-1].id)] == made[:1]


def test_a_repeated_submission_is_one_sweep(bench: Bench) -> None:
    root = bench.consortium("ann")
    submission = SweepSubmission("ann", root, "small", "n.ipynb", PARAMETRIC, {}, rows=[{"x": 1}, {"x": 2}])
    key = bench.key({"a": 1}, "one")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: bench.services.sweeps.submit(submission, key).id, range(4)))
    assert len(set(made)) == 1
    assert len(bench.services.sweeps.list_of("ann")) == 1
    with pytest.raises(IdempotencyConflictError):
        bench.services.sweeps.submit(submission, bench.key({"a": 2}, "one"))


def test_an_estimate_says_what_is_held_what_is_likely_and_whether_it_suffices(bench: Bench) -> None:
    entry = bench.accept("ann")
    estimate = bench.services.sweeps.estimate("ann", entry, "small", 1000, name="n.ipynb", max_seconds=3600)
    assert (estimate.held_microcredits, estimate.free_microcredits) == (1000 * 3600 * SMALL, 30 * CREDIT)
    assert not estimate.suffices
    assert estimate.likely_microcredits is None
    assert estimate.at_once_max == 30 * CREDIT // (3600 * SMALL)
    assert "the rest waits" in estimate.advice
    for ran in (100, 200):
        run = submit_run(bench, entry)
        claim(bench)
        bench.clock.pass_seconds(300)
        finish(bench, bench.services.runs.get("ann", run.id), ran=ran)
    likely = bench.services.sweeps.estimate("ann", entry, "small", 1000, name="n.ipynb", max_seconds=3600)
    assert (likely.likely_from_runs, likely.likely_seconds_each) == (2, 150)
    assert likely.likely_microcredits == 1000 * 150 * SMALL
    assert "Likely they cost 1.95 credits" in likely.advice
    assert bench.services.sweeps.estimate("ann", entry, "small", 3, max_seconds=60).suffices
    assert bench.services.sweeps.estimate("ann", entry, "small", 3, name="other.ipynb").likely_microcredits is None
    with pytest.raises(InvalidInputError):
        bench.services.sweeps.estimate("ann", entry, "small", 0)
    bench.accept("bob")
    with pytest.raises(NotAMemberError):
        bench.services.sweeps.estimate("bob", entry, "small", 1)


def test_an_estimate_counts_what_a_member_may_spend_still(bench: Bench) -> None:
    root = bench.consortium("ann")
    bench.accept("bob")
    join(bench.services.members, Actor("ann"), root, "bob", MemberRole.MEMBER)
    bench.services.members.change(Actor("ann"), root, "bob", microcredits_max=SMALL * 600 * 3)
    submit_run(bench, root, "bob", max_seconds=600)
    claim(bench)
    estimate = bench.services.sweeps.estimate("bob", root, "small", 3, max_seconds=600)
    assert (estimate.free_microcredits, estimate.at_once_max, estimate.suffices) == (SMALL * 600 * 2, 2, False)
    assert bench.services.sweeps.estimate("ann", root, "small", 3, max_seconds=600).suffices


def test_a_sweep_that_can_no_longer_be_admitted_fails_as_a_whole(bench: Bench) -> None:
    root = bench.consortium("ann")
    made = submit(bench, root, count=50, max_seconds=3600)
    with bench.services.database.write() as connection:
        bench.services.lifecycle.change_limit(
            connection, root, -4000 * CREDIT + 10, "t", TransactionKind.GRANT, "lowered"
        )
    assert claim(bench, 1) == []
    failed = bench.services.sweeps.get("ann", made.id)
    assert (failed.state, failed.failed, failed.charged_microcredits) == ("failed", 50, 0)
    assert "credits left" in (bench.services.sweeps.results("ann", made.id, -1)[49].error or "")
    bench.assert_clean()


def test_what_a_notebook_recorded_is_bounded_and_never_keeps_a_run_from_ending(bench: Bench) -> None:
    entry = bench.accept("ann")
    submit_run(bench, entry)
    [run] = claim(bench)
    bench.clock.pass_seconds(30)
    recorded = {
        "good": [1.5, None, "é"],
        "": 1,
        "n" * 101: 1,
        "big": "x" * 20_000,
        "nan": float("nan"),
        "half": "\ud800",
        "after": True,
    }
    assert finish(bench, run, recorded=recorded).recorded == {"good": [1.5, None, "é"], "after": True}
    assert finish(bench, run, recorded={"later": 1}).recorded == {"good": [1.5, None, "é"], "after": True}


def test_a_grid_gives_every_combination() -> None:
    assert list(expand({"a": [1, 2], "b": ["x"]}, 10)) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]
    bads: tuple[dict[str, list[int]], ...] = ({}, {"a": []}, {"a": [1] * 100, "b": [1] * 101})
    for bad in bads:
        with pytest.raises(InvalidInputError):
            expand(bad, 10_000)
    taken = parameters_of(PARAMETRIC)
    assert require_rows(taken, {"n": 1, "x": 0}, [{"x": 5.0}, {"field": "a"}], 9).parameters == [
        '{"n": 1, "x": 5}',
        '{"n": 1, "x": 0, "field": "a"}',
    ]
    for row in ({"z": 1}, {"x": "five"}):
        with pytest.raises(InvalidInputError, match=r"^Row 2: "):
            require_rows(taken, {}, [{"x": 1}, row], 9)


def test_two_executors_together_keep_to_what_a_sweep_runs_at_once(bench: Bench) -> None:
    root = bench.consortium("ann")
    made = submit(bench, root, count=40, at_once=7)
    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(lambda number: bench.services.runs.claim(f"batch-{number}", 10), range(4)))
    taken = [run.id for some in claims for run in some]
    assert len(taken) == len(set(taken)) == 7
    assert bench.services.sweeps.get("ann", made.id).counts[RunState.ADMITTED] == 7
    bench.assert_clean()


def test_a_cancellation_beside_claims_and_losses_leaves_nothing_that_runs_unasked(bench: Bench) -> None:
    root = bench.consortium("ann")
    made = submit(bench, root, count=60)
    first = claim(bench, 10)

    def act(number: int) -> None:
        if number == 0:
            bench.services.sweeps.cancel("ann", made.id)
        elif number < 4:
            bench.services.runs.claim(f"batch-{number}", 10)
        else:
            finish(bench, first[number - 4], Outcome.LOST, ran=None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(act, [4, 1, 5, 0, 2, 6, 3, 7, 8, 9]))
    seen = bench.services.sweeps.get("ann", made.id)
    assert seen.counts[RunState.QUEUED] == 0
    assert claim(bench) == []
    active = [run for number in ("", "-1", "-2", "-3") for run in bench.services.runs.active_of(f"batch{number}")]
    assert active
    assert all(run.cancel_requested for run in active)
    bench.assert_clean()


@pytest.mark.slow
def test_ten_thousand_runs_are_queued_in_bounded_memory_and_claimed_without_reading_them(bench: Bench) -> None:
    root = bench.consortium("ann")
    rows = [{"x": number, "field": "WFI07"} for number in range(10_000)]
    tracemalloc.start()
    made = submit(bench, root, rows=rows)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 60_000_000
    assert made.counts[RunState.QUEUED] == 10_000
    with bench.services.database.read() as connection:
        [head] = RunQueueStore().heads(connection, 500)
        assert head.sweep_row == 0
        assert connection.execute(select(func.count()).select_from(runs_table)).scalar_one() == 10_000
    assert [run.sweep_row for run in claim(bench, 5)] == [0, 1, 2, 3, 4]
    assert bench.services.sweeps.cancel("ann", made.id).counts[RunState.CANCELLED] == 9_995


def test_the_queue_is_read_along_its_index(bench: Bench) -> None:
    root = bench.consortium("ann")
    submit(bench, root, count=3000)
    from allocations.runs import queue_store  # noqa: PLC0415  # the statement is its own affair but for this test

    with bench.services.database.write() as connection:
        if not bench.services.database.is_sqlite:
            connection.execute(text("ANALYZE runs"))
        query = queue_store._FIRSTS_OF_SWEEPS.compile(
            dialect=connection.dialect, compile_kwargs={"literal_binds": True}
        )
        explain = "EXPLAIN QUERY PLAN " if bench.services.database.is_sqlite else "EXPLAIN "
        plan = "\n".join(str(row) for row in connection.exec_driver_sql(explain + str(query).replace("%", "%%")))
    assert "ix_runs_queue" in plan, plan
    assert "SCAN runs" not in plan, plan
    assert "Seq Scan" not in plan, plan
