"""Batch runs: queued, admitted by the ledger, settled however they end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from allocations.errors import (
    AgreementRequiredError,
    AllocationNotActiveError,
    InsufficientBalanceError,
    InvalidInputError,
    NotFoundError,
    SizeNotAllowedError,
)
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.runs import queue as run_queue
from allocations.runs.models import EVERY_RUN, Outcome, RunError, RunFilter, RunState
from allocations.runs.service import Finish, Submission
from tests.places import join

if TYPE_CHECKING:
    from pathlib import Path

    from allocations.runs.models import RunView
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
SMALL = 13
NOTEBOOK: dict[str, Any] = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [{"cell_type": "code", "source": "x = 1"}, {"cell_type": "markdown", "source": "# x"}],
}
# The same with a cell of parameters.
PARAMETRIC: dict[str, Any] = NOTEBOOK | {
    "cells": [
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "field = 'm31'\nx = 0\nn = 0"},
        *NOTEBOOK["cells"],
    ]
}


def submit(bench: Bench, allocation: str, person: str = "ann", **changes: Any) -> RunView:
    values: dict[str, Any] = {"size": "small", "name": "n.ipynb", "notebook": NOTEBOOK, "parameters": {}} | changes
    return bench.services.runs.submit(Submission(person=person, allocation=allocation, **values), bench.key())


def finish(bench: Bench, run: RunView, outcome: Outcome, ran: int | None, error: RunError | None = None) -> RunView:
    now = bench.clock.at_ms
    return bench.services.runs.finish(
        run.id, Finish(run.attempt, outcome, None if ran is None else now - ran * 1000, now, error)
    )


def test_a_run_holds_its_whole_maximum_and_is_charged_what_it_used(bench: Bench) -> None:
    entry = bench.accept("ann")
    queued = submit(bench, entry, max_seconds=1800)
    assert (queued.state, queued.held_microcredits, queued.cells_total) == ("queued", 0, 2)
    [run] = bench.services.runs.claim("batch", 5)
    assert (run.state, run.held_microcredits) == ("admitted", SMALL * 1800)
    bench.clock.pass_seconds(3)
    running = bench.services.runs.progress(
        run.id, attempt=1, started_at_ms=bench.clock.at_ms, cells_done=0, cells_total=2, current_cell=1
    )
    assert running.state == "running"
    bench.clock.pass_seconds(100.5)
    done = finish(bench, run, Outcome.SUCCEEDED, ran=100)
    assert (done.state, done.charged_microcredits, done.held_microcredits) == ("succeeded", SMALL * 100, 0)
    assert finish(bench, run, Outcome.FAILED, ran=50) == done
    bench.assert_clean()


def test_what_could_never_be_admitted_is_refused_at_submission(bench: Bench) -> None:
    entry = bench.accept("ann")
    with pytest.raises(SizeNotAllowedError):
        submit(bench, entry, size="xlarge")
    with pytest.raises(InsufficientBalanceError):
        submit(bench, _poor(bench, entry), max_seconds=172_800)
    with pytest.raises(AgreementRequiredError):
        submit(bench, entry, person="eve")
    for bad in (
        {"name": "script.py"},
        {"notebook": {"nbformat": 3, "worksheets": []}},
        {"parameters": {"not a name": 1}},
        {"parameters": {"a": {"b": [float("nan")]}}},
        {"parameters": {"a": float("inf")}},
        {"parameters": {"a": "\ud800"}},
        {"parameters": {"a": {"\ud800": 1}}},
        {"max_seconds": 10**9},
    ):
        with pytest.raises(InvalidInputError):
            submit(bench, entry, **bad)
    assert submit(bench, entry, name="../../etc/x.ipynb").name == "x.ipynb"
    assert len(bench.services.runs.list_of("ann")) == 1


def _poor(bench: Bench, allocation: str) -> str:
    with bench.services.database.write() as connection:
        bench.services.lifecycle.change_limit(
            connection, allocation, -29 * CREDIT, "t", TransactionKind.GRANT, "lowered"
        )
    return allocation


def test_a_run_waits_for_room_and_says_so(bench: Bench) -> None:
    entry = bench.accept("ann")
    bench.acquire(entry, size="standard")  # both cores of the entry tier
    run = submit(bench, entry)
    assert bench.services.runs.claim("batch", 5) == []
    waiting = bench.services.runs.get("ann", run.id)
    assert waiting.state == "queued"
    assert waiting.waiting_reason is not None
    assert "2 cores" in waiting.waiting_reason
    bench.assert_clean()


def test_an_allocation_with_many_runs_does_not_starve_another(bench: Bench) -> None:
    entry, other = bench.accept("ann"), bench.accept("bob")
    root = bench.consortium()
    join(bench.services.members, Actor("lead"), root, "ann", MemberRole.MEMBER)
    for _ in range(5):
        submit(bench, root)
        bench.clock.pass_seconds(1)
    submit(bench, other, person="bob")
    submit(bench, entry)
    claimed = [run.allocation for run in bench.services.runs.claim("batch", 3)]
    assert sorted(claimed) == sorted([root, other, entry])


def test_an_allocation_of_many_people_does_not_starve_that_of_one(bench: Bench) -> None:
    other, root = bench.accept("bob"), bench.consortium()
    for person in ("ann", "eve"):
        bench.accept(person)
        join(bench.services.members, Actor("lead"), root, person, MemberRole.MEMBER)
    for person in ("lead", "ann", "eve"):
        submit(bench, root, person)
        bench.clock.pass_seconds(1)
    submit(bench, other, "bob")
    # Nobody has a run yet; but once the first of the team has, its allocation has.
    assert sorted(run.allocation for run in bench.services.runs.claim("batch", 2)) == sorted([root, other])


def test_runs_that_must_wait_hide_no_later_ones_however_many_they_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_queue, "CLAIM_WINDOW", 2)
    entry, other = bench.accept("ann"), bench.accept("bob")
    bench.acquire(entry, size="standard")  # both cores of the entry tier
    stuck = []
    for _ in range(4):
        stuck.append(submit(bench, entry).id)
        bench.clock.pass_seconds(1)
    later = submit(bench, other, person="bob")
    assert [run.id for run in bench.services.runs.claim("batch", 5)] == [later.id]
    for run in stuck:
        waiting = bench.services.runs.get("ann", run)
        assert waiting.state == "queued"
        assert "2 cores" in (waiting.waiting_reason or "")
    bench.assert_clean()


def test_a_lost_run_is_free_and_queued_again_then_failed(bench: Bench) -> None:
    entry = bench.accept("ann")
    submit(bench, entry)
    [run] = bench.services.runs.claim("batch", 1)
    bench.services.runs.progress(
        run.id, attempt=1, started_at_ms=bench.clock.at_ms, cells_done=0, cells_total=2, current_cell=1
    )
    bench.clock.pass_seconds(60)
    assert (again := finish(bench, run, Outcome.LOST, ran=50)).state == "queued"
    assert again.attempt == 2
    [second] = bench.services.runs.claim("another", 1)
    late = finish(bench, run, Outcome.LOST, ran=50)
    assert (late.state, late.attempt) == ("admitted", 2), "a report repeated late is of the first attempt"
    failed = finish(bench, second, Outcome.LOST, ran=None)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "not charged" in failed.error.message
    assert bench.services.reports.allocations_of("ann")[0].available_microcredits == 30 * CREDIT
    bench.assert_clean()


def test_cancelling_settles_what_was_used(bench: Bench) -> None:
    entry = bench.accept("ann")
    queued = submit(bench, entry)
    assert bench.services.runs.cancel("ann", queued.id).state == "cancelled"
    submit(bench, entry)
    [run] = bench.services.runs.claim("batch", 1)
    with pytest.raises(NotFoundError):
        bench.services.runs.cancel("bob", run.id)
    assert bench.services.runs.cancel("ann", run.id).cancel_requested
    bench.clock.pass_seconds(40)
    cancelled = finish(bench, run, Outcome.CANCELLED, ran=40)
    assert (cancelled.state, cancelled.charged_microcredits) == ("cancelled", SMALL * 40)
    bench.assert_clean()


def test_a_run_nobody_reports_on_ends_with_its_lease(bench: Bench) -> None:
    entry = bench.accept("ann")
    submit(bench, entry, max_seconds=600)
    [run] = bench.services.runs.claim("batch", 1)
    bench.services.runs.progress(
        run.id, attempt=1, started_at_ms=bench.clock.at_ms, cells_done=0, cells_total=1, current_cell=1
    )
    bench.clock.pass_seconds(5000)
    assert run.lease is not None
    bench.services.leases.expire(run.lease)
    assert bench.services.runs.close_expired() == 1
    ended = bench.services.runs.get("ann", run.id)
    assert (ended.state, ended.charged_microcredits) == ("timed_out", SMALL * 600)
    bench.assert_clean()


def test_a_double_submission_queues_one_run(bench: Bench) -> None:
    entry = bench.accept("ann")
    key = bench.key({"a": 1}, "one")
    submission = Submission("ann", entry, "small", "n.ipynb", NOTEBOOK, {})
    assert bench.services.runs.submit(submission, key).id == bench.services.runs.submit(submission, key).id
    assert len(bench.services.runs.list_of("ann")) == 1


def test_the_list_is_looked_through_by_state_allocation_and_name_and_read_page_by_page(bench: Bench) -> None:
    entry, root = bench.accept("ann"), bench.consortium()
    join(bench.services.members, Actor("lead"), root, "ann", MemberRole.MEMBER)
    runs = bench.services.runs
    # The last two at one moment: their ids tell them apart.
    names = ["Flat_1.ipynb", "dark%.ipynb", "flat 2.ipynb", "other.ipynb"]
    found = []
    for number, name in enumerate(names):
        bench.clock.pass_seconds(min(number, 2) - max(0, number - 2))
        found.append(submit(bench, root if number == 1 else entry, name=name).id)
    submit(bench, root, person="lead")
    runs.cancel("ann", found[0])

    def ids(wanted: RunFilter, **place: Any) -> list[str]:
        return [run.id for run in runs.list_of("ann", wanted=wanted, **place)]

    every = ids(EVERY_RUN)
    assert sorted(every) == sorted(found)
    assert ids(RunFilter(frozenset({RunState.CANCELLED}))) == [found[0]]
    assert ids(RunFilter(allocation=root)) == [found[1]]
    assert set(ids(RunFilter(name="FLAT"))) == {found[0], found[2]}
    assert ids(RunFilter(name="%")) == [found[1]]
    assert ids(RunFilter(name="_")) == [found[0]]
    pages = [every[:1], *([run] for run in every[1:])]
    assert [ids(EVERY_RUN, limit=1)] + [ids(EVERY_RUN, limit=1, before=run) for run in every[:-1]] == pages
    assert ids(EVERY_RUN, before=every[-1]) == []
    with pytest.raises(NotFoundError):
        runs.list_of("lead", before=found[0])
    with pytest.raises(NotFoundError):
        runs.list_of("ann", before="r-nothing")
    assert [name for _, name in runs.allocations_of("ann")] == ["Deep fields", "Entry allocation of ann"]
    assert runs.allocations_of("eve") == []


def test_several_runs_are_cancelled_together_or_none(bench: Bench) -> None:
    entry, others = bench.accept("ann"), bench.accept("bob")
    runs = bench.services.runs
    active, waiting = submit(bench, entry), submit(bench, entry)
    runs.claim("batch", 1)
    foreign = submit(bench, others, person="bob")
    with pytest.raises(NotFoundError):
        runs.cancel_several("ann", [active.id, waiting.id, foreign.id])
    assert not any(run.cancel_requested for run in [*runs.list_of("ann"), *runs.list_of("bob")])
    cancelled = runs.cancel_several("ann", [active.id, waiting.id, waiting.id])
    assert {(run.state, run.cancel_requested) for run in cancelled} <= {("admitted", True), ("cancelled", True)}
    assert len(cancelled) == 2
    ended = runs.cancel_several("ann", [run.id for run in cancelled])
    assert ended == cancelled
    bench.assert_clean()


def test_a_runs_files_are_read_only_as_plain_files(bench: Bench, tmp_path: Path) -> None:
    entry = bench.accept("ann")
    run = submit(bench, entry)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    directory = tmp_path / "runs" / run.id
    with pytest.raises(NotFoundError):
        bench.services.runs.read_file("ann", run.id, "output.ipynb")
    (directory / "output.ipynb").symlink_to(secret)
    with pytest.raises(NotFoundError):
        bench.services.runs.read_file("ann", run.id, "output.ipynb")
    assert b"x = 1" in bench.services.runs.read_file("ann", run.id, "input.ipynb")
    with pytest.raises(NotFoundError):
        bench.services.runs.read_file("bob", run.id, "input.ipynb")
    for away in ("..", f"{run.id}/../..", str(tmp_path)):
        with pytest.raises(NotFoundError):
            bench.services.runs.files.read(away, "secret")


def test_runs_are_shown_after_their_size_is_no_longer_offered(bench: Bench) -> None:
    run = submit(bench, bench.accept("ann"))
    kept = tuple(size for size in bench.services.policy.sizes if size.name != "small")
    later = replace(bench.services.runs, policy=bench.services.policy.model_copy(update={"sizes": kept}))
    [shown] = later.list_of("ann")
    assert (shown.id, shown.resources.memory_gib) == (run.id, 4)


def test_the_runs_of_a_person_who_leaves_are_cancelled(bench: Bench) -> None:
    root = bench.consortium()
    bench.accept("ann")
    join(bench.services.members, Actor("lead"), root, "ann", MemberRole.MEMBER)
    first = submit(bench, root)
    bench.clock.pass_seconds(1)
    waiting = submit(bench, root)
    others = submit(bench, root, "lead")
    bench.services.runs.claim("batch", 1)
    bench.services.members.remove(Actor("lead"), root, "ann")
    assert bench.services.runs.cancel_departed() == 2
    assert bench.services.runs.cancel_departed() == 0
    assert bench.services.runs.get("ann", waiting.id).state == "cancelled"
    assert [run.cancel_requested for run in bench.services.runs.active_of("batch")] == [True]
    assert bench.services.runs.get("ann", first.id).state == "admitted"
    assert bench.services.runs.get("lead", others.id).state == "queued"


def test_a_run_that_could_outlast_its_allocation_is_refused(bench: Bench) -> None:
    entry = bench.accept("ann")
    bench.clock.pass_seconds(365 * 86_400 - 3600)
    with pytest.raises(AllocationNotActiveError, match=r"ends in 1\.2 hours"):
        submit(bench, entry, max_seconds=3600 + 901)
    submit(bench, entry, max_seconds=3600 + 900)


@pytest.mark.parametrize(
    ("reported", "name", "code"),
    [
        ("out_of_memory", "MemoryError", "out_of_memory"),
        ("kernel_died", "KernelDied", "kernel_died"),
        ("output_not_saved", "OutputNotSaved", "output_not_saved"),
        # A notebook's own exception may be called like one of the platform's ends.
        ("notebook_error", "Lost", "notebook_error"),
        # Of an older batch process, and of a newer one.
        (None, "MemoryError", "out_of_memory"),
        (None, "ValueError", "notebook_error"),
        ("struck_by_lightning", "ValueError", "notebook_error"),
    ],
)
def test_a_failure_keeps_the_code_that_was_reported(bench: Bench, reported: str | None, name: str, code: str) -> None:
    submit(bench, bench.accept("ann"))
    [run] = bench.services.runs.claim("batch", 1)
    error = RunError(cell=1, name=name, message="What it said.")
    now = bench.clock.at_ms
    ended = bench.services.runs.finish(run.id, Finish(1, Outcome.FAILED, now, now, error, reported))
    assert (ended.state, ended.end_code) == ("failed", code)
    assert ended.remedy
    assert bench.services.runs.get("ann", run.id) == ended


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(Outcome.SUCCEEDED, "succeeded"), (Outcome.TIMED_OUT, "timed_out"), (Outcome.CANCELLED, "cancelled")],
)
def test_other_ends_are_what_their_state_says(bench: Bench, outcome: Outcome, code: str) -> None:
    submit(bench, bench.accept("ann"))
    [run] = bench.services.runs.claim("batch", 1)
    assert (run.end_code, run.remedy) == (None, None)
    ended = finish(bench, run, outcome, ran=1)
    assert ended.end_code == code
    assert bool(ended.remedy) is (code != "succeeded")


def test_a_run_that_is_lost_for_good_says_why(bench: Bench) -> None:
    submit(bench, bench.accept("ann"))
    for attempt in range(1, bench.services.policy.runs.attempts + 1):
        [run] = bench.services.runs.claim("batch", 1)
        now = bench.clock.at_ms
        run = bench.services.runs.finish(run.id, Finish(attempt, Outcome.LOST, None, now, None, "node_lost"))
    assert (run.state, run.end_code, run.charged_microcredits) == ("failed", "node_lost", 0)


def test_a_run_that_is_refused_when_its_turn_comes_was_not_admitted(bench: Bench) -> None:
    entry = bench.accept("ann")
    run = submit(bench, entry)
    bench.services.lifecycle.suspend(Actor("admin", admin=True), entry, "A question.")
    assert bench.services.runs.claim("batch", 1) == []
    assert bench.services.runs.get("ann", run.id).end_code == "not_admitted"
