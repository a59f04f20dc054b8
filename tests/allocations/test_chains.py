"""Chains: a run that waits for others begins when they have come to what it waits for, and never otherwise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from allocations.db.idempotency import IdempotencyKey
from allocations.errors import InvalidInputError, NotFoundError, TransitionError
from allocations.runs.chains import AWAITED_MAX
from allocations.runs.models import ENDED_STATES, Condition, Outcome, RunState, RunView
from allocations.runs.service import Submission
from tests.allocations.conftest import make_bench
from tests.allocations.machines import come_everywhere
from tests.allocations.test_runs import NOTEBOOK, finish, submit
from tests.fresh import fresh_sqlite

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

ENDS = {
    Outcome.FAILED: "failed",
    Outcome.CANCELLED: "was cancelled",
    Outcome.TIMED_OUT: "reached its maximum time",
}


def claimed(bench: Bench) -> list[str]:
    return [run.id for run in bench.services.runs.claim("batch", 10)]


def get(bench: Bench, run: RunView) -> RunView:
    return bench.services.runs.get(run.person, run.id)


def test_a_run_begins_when_those_it_waits_for_have_succeeded(bench: Bench) -> None:
    root = bench.consortium("ann")
    first = submit(bench, root)
    bench.clock.pass_seconds(1)
    second = submit(bench, root, name="b.ipynb")
    last = submit(bench, root, name="c.ipynb", after=[first.id, second.id, first.id])
    assert last.waits_for is Condition.SUCCEEDED
    assert {one.run for one in last.after} == {first.id, second.id}
    assert last.waiting_reason is not None
    assert last.waiting_reason.startswith("Waits until these runs have succeeded: ")
    assert claimed(bench) == [first.id, second.id]
    finish(bench, get(bench, first), Outcome.SUCCEEDED, ran=1)
    waiting = get(bench, last)
    assert waiting.waiting_reason == f"Waits until this run has succeeded: {second.id} (b.ipynb)."
    assert claimed(bench) == []
    finish(bench, get(bench, second), Outcome.SUCCEEDED, ran=1)
    assert get(bench, last).waiting_reason is None
    assert claimed(bench) == [last.id]
    assert [one.run for one in get(bench, first).followed_by] == [last.id]
    assert bench.services.chains.cancel_hopeless() == 0
    bench.assert_clean()


@pytest.mark.parametrize("outcome", list(ENDS))
def test_a_run_that_waits_in_vain_is_cancelled_with_all_that_wait_for_it(bench: Bench, outcome: Outcome) -> None:
    entry = bench.accept("ann")
    first = submit(bench, entry)
    second = submit(bench, entry, name="b.ipynb", after=[first.id])
    third = submit(bench, entry, name="c.ipynb", after=[second.id])
    anyway = submit(bench, entry, name="d.ipynb", after=[second.id], waits_for=Condition.ENDED)
    assert claimed(bench) == [first.id]
    finish(bench, get(bench, first), outcome, ran=1)
    assert claimed(bench) == []
    assert bench.services.chains.cancel_hopeless() == 2
    assert bench.services.chains.cancel_hopeless() == 0
    for run, awaited, why in ((second, first, ENDS[outcome]), (third, second, "was cancelled")):
        seen = get(bench, run)
        assert (seen.state, seen.charged_microcredits, seen.started_at) == ("cancelled", 0, None)
        assert seen.error is not None
        assert seen.error.message.startswith(
            f"The run {awaited.id} ({awaited.name}), for whose success this one waited, {why}."
        )
    assert claimed(bench) == [anyway.id]
    bench.assert_clean()


def test_cancelling_an_awaited_run_that_waits_itself_ends_the_chain(bench: Bench) -> None:
    entry = bench.accept("ann")
    first = submit(bench, entry)
    second = submit(bench, entry, after=[first.id])
    third = submit(bench, entry, after=[second.id])
    bench.services.runs.cancel("ann", second.id)
    assert bench.services.chains.cancel_hopeless() == 1
    assert get(bench, third).state == "cancelled"
    assert get(bench, first).state == "queued"


def test_a_run_that_is_lost_and_queued_again_keeps_its_followers_waiting(bench: Bench) -> None:
    entry = bench.accept("ann")
    first = submit(bench, entry)
    second = submit(bench, entry, after=[first.id], waits_for=Condition.ENDED)
    claimed(bench)
    finish(bench, get(bench, first), Outcome.LOST, ran=None)
    assert bench.services.chains.cancel_hopeless() == 0
    assert claimed(bench) == [first.id]
    finish(bench, get(bench, first), Outcome.SUCCEEDED, ran=1)
    assert claimed(bench) == [second.id]


def test_what_cannot_be_waited_for_is_refused(bench: Bench) -> None:
    entry, others = bench.accept("ann"), bench.accept("bob")
    foreign = submit(bench, others, person="bob")
    cancelled = submit(bench, entry)
    bench.services.runs.cancel("ann", cancelled.id)
    for unknown in (foreign.id, "r-0", ""):
        with pytest.raises(NotFoundError):
            submit(bench, entry, after=[unknown])
    with pytest.raises(TransitionError, match="was cancelled"):
        submit(bench, entry, after=[cancelled.id])
    with pytest.raises(InvalidInputError):
        submit(bench, entry, after=[f"r-{number}" for number in range(AWAITED_MAX + 1)])
    assert [run.id for run in bench.services.runs.list_of("ann")] == [cancelled.id]
    begun = submit(bench, entry, after=[cancelled.id], waits_for=Condition.ENDED)
    assert begun.id in claimed(bench)


def test_those_that_wait_for_runs_hide_none_of_their_kind_and_keep_their_own_reason(bench: Bench) -> None:
    entry = bench.accept("ann")
    bench.acquire(entry, size="standard")  # both cores of the entry tier
    first = submit(bench, entry)
    second = submit(bench, entry, after=[first.id])
    third = submit(bench, entry)
    assert claimed(bench) == []
    assert "2 cores" in (get(bench, first).waiting_reason or "")
    assert "2 cores" in (get(bench, third).waiting_reason or "")
    assert "succeeded" in (get(bench, second).waiting_reason or "")


@dataclass
class Expected:
    """What the rules say of a run."""

    after: tuple[str, ...]
    condition: Condition
    state: RunState = RunState.QUEUED
    attempt: int = 1
    lost: int = 0


@dataclass
class Oracle:
    """The rules of chains over plain values, written once more."""

    runs: dict[str, Expected] = field(default_factory=dict)

    def is_ready(self, run: Expected) -> bool:
        wanted = {RunState.SUCCEEDED} if run.condition is Condition.SUCCEEDED else ENDED_STATES
        return all(self.runs[one].state in wanted for one in run.after)

    def is_hopeless(self, run: Expected) -> bool:
        failed = ENDED_STATES - {RunState.SUCCEEDED}
        return run.condition is Condition.SUCCEEDED and any(self.runs[one].state in failed for one in run.after)

    def cancel_hopeless(self) -> int:
        cancelled = 0
        for run in self.runs.values():  # in the order of submission: whatever is waited for comes first
            if run.state is RunState.QUEUED and self.is_hopeless(run):
                run.state, cancelled = RunState.CANCELLED, cancelled + 1
        return cancelled

    def of(self, *states: RunState) -> list[str]:
        return [run_id for run_id, run in self.runs.items() if run.state in states]


RAN: Counter[str] = Counter()
VERBS = {"submitted", "refused", "claimed", "finished", "lost", "cancelled", "cancelled in vain", "drained"}


class ChainMachine(RuleBasedStateMachine):
    """Any order of submissions, claims, ends and cancellations, against the oracle."""

    @initialize()
    def begin(self) -> None:
        self.directory = TemporaryDirectory()
        path = Path(self.directory.name)
        self.bench = make_bench(fresh_sqlite(path), path / "runs")
        self.entry = self.bench.accept("ann")
        self.oracle = Oracle()

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.drain()
            self.bench.assert_clean()
            self.bench.services.database.dispose()
            self.directory.cleanup()

    @rule(data=st.data(), condition=st.sampled_from(Condition))
    def submit(self, data: Any, condition: Condition) -> None:
        there = list(self.oracle.runs)
        after = tuple(data.draw(st.lists(st.sampled_from(there), max_size=3, unique=True))) if there else ()
        self.bench.clock.pass_seconds(1)
        run = Expected(after, condition)
        submission = Submission(
            "ann", self.entry, "small", "n.ipynb", NOTEBOOK, {}, max_seconds=60, after=after, waits_for=condition
        )
        key = IdempotencyKey.for_request("ann", f"k{len(there)}-{RAN['submitted'] + RAN['refused']}", "run", {})
        if self.oracle.is_hopeless(run):
            RAN["refused"] += 1
            with pytest.raises(TransitionError):
                self.bench.services.runs.submit(submission, key)
            return
        RAN["submitted"] += 1
        self.oracle.runs[self.bench.services.runs.submit(submission, key).id] = run

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        active = len(self.oracle.of(RunState.ADMITTED))
        ready = [run_id for run_id in self.oracle.of(RunState.QUEUED) if self.oracle.is_ready(self.oracle.runs[run_id])]
        taken = [run.id for run in self.bench.services.runs.claim("batch", limit)]
        # The entry tier has room for two cores at once, of which batch leaves one to servers; those that are ready
        # come in the order of submission.
        assert taken == ready[: min(limit, 1 - active)]
        for run_id in taken:
            RAN["claimed"] += 1
            self.oracle.runs[run_id].state = RunState.ADMITTED

    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def finish(self, data: Any, outcome: Outcome) -> None:
        active = self.oracle.of(RunState.ADMITTED)
        if not active:
            return
        run_id = data.draw(st.sampled_from(active))
        run = self.oracle.runs[run_id]
        finish(self.bench, self.bench.services.runs.get("ann", run_id), outcome, ran=None)
        if outcome is Outcome.LOST:
            RAN["lost"] += 1
            run.lost += 1
            run.state = RunState.QUEUED if run.lost < 2 else RunState.FAILED
        else:
            RAN["finished"] += 1
            run.state = RunState(outcome.value)

    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        if queued := self.oracle.of(RunState.QUEUED):
            run_id = data.draw(st.sampled_from(queued))
            RAN["cancelled"] += 1
            assert self.bench.services.runs.cancel("ann", run_id).state == "cancelled"
            self.oracle.runs[run_id].state = RunState.CANCELLED

    @rule()
    def cancel_hopeless(self) -> None:
        expected = self.oracle.cancel_hopeless()
        assert self.bench.services.chains.cancel_hopeless() == expected
        RAN["cancelled in vain"] += expected

    @rule()
    def drain(self) -> None:
        """Whatever waits comes to an end when everything that is taken does: nothing is stuck."""
        while self.oracle.of(RunState.QUEUED, RunState.ADMITTED):
            before = len(self.oracle.of(*ENDED_STATES))
            self.cancel_hopeless()
            self.claim(3)
            for run_id in self.oracle.of(RunState.ADMITTED):
                finish(self.bench, self.bench.services.runs.get("ann", run_id), Outcome.SUCCEEDED, ran=None)
                self.oracle.runs[run_id].state = RunState.SUCCEEDED
            assert len(self.oracle.of(*ENDED_STATES)) > before
        RAN["drained"] += 1

    @invariant()
    def every_run_is_as_the_rules_say(self) -> None:
        if hasattr(self, "bench"):
            seen = {run.id: run.state for run in self.bench.services.runs.list_of("ann", 1000)}
            assert seen == {run_id: run.state for run_id, run in self.oracle.runs.items()}


def test_chains_keep_their_rules_in_any_order() -> None:
    RAN.clear()
    come_everywhere(ChainMachine, RAN, VERBS, rounds=1)
