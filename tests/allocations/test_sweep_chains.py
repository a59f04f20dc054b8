"""Chains with sweeps: what waits for a whole sweep, and sweeps that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.errors import NotFoundError, TransitionError
from allocations.runs.models import Condition, Outcome, RunFilter, RunState
from allocations.runs.sweeps import Retry
from tests.allocations.test_runs import submit as submit_run
from tests.allocations.test_sweeps import claim, finish, submit

if TYPE_CHECKING:
    from allocations.runs.models import RunView
    from allocations.runs.sweep_models import SweepView
    from tests.allocations.conftest import Bench


def claimed(bench: Bench) -> list[str]:
    return [run.id for run in claim(bench)]


def seen(bench: Bench, run: RunView) -> RunView:
    return bench.services.runs.get(run.person, run.id)


def of_sweep(bench: Bench, sweep: SweepView) -> SweepView:
    return bench.services.sweeps.get("ann", sweep.id)


def test_a_run_begins_when_every_row_of_a_sweep_has_succeeded(bench: Bench) -> None:
    root = bench.consortium("ann")
    made = submit(bench, root, count=3)
    gather = submit_run(bench, root, name="gather.ipynb", after=[made.id, made.id])
    assert [(one.run, one.sweep, one.state) for one in gather.after] == [(None, made.id, RunState.QUEUED)]
    assert gather.waiting_reason == f"Waits until this sweep has succeeded: {made.id} (n.ipynb)."
    first, second, third = claim(bench)
    assert gather.id not in {first.id, second.id, third.id}
    bench.clock.pass_seconds(30)
    finish(bench, first)
    finish(bench, second, Outcome.FAILED)
    # As long as the sweep goes on, what failed can be queued again: nothing is lost yet.
    assert bench.services.chains.cancel_hopeless() == 0
    assert claimed(bench) == []
    bench.services.sweeps.retry("ann", made.id, Retry(), bench.key())
    finish(bench, third)
    assert bench.services.chains.cancel_hopeless() == 0
    [again] = claim(bench)
    assert again.sweep_row == 1
    assert [(one.run, one.sweep) for one in of_sweep(bench, made).followed_by] == [(gather.id, None)]
    bench.clock.pass_seconds(30)
    finish(bench, again)
    assert seen(bench, gather).waiting_reason is None
    assert claimed(bench) == [gather.id]
    bench.assert_clean()


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED])
def test_what_waits_for_the_success_of_a_sweep_is_cancelled_when_it_ended_otherwise(
    bench: Bench, outcome: Outcome
) -> None:
    root = bench.consortium("ann")
    made = submit(bench, root, count=2)
    strict = submit_run(bench, root, after=[made.id])
    following = submit(bench, root, count=3, after=[strict.id])
    last = submit_run(bench, root, after=[following.id], name="last.ipynb")
    anyway = submit_run(bench, root, after=[made.id], waits_for=Condition.ENDED, name="anyway.ipynb")
    first, second = claim(bench)
    bench.clock.pass_seconds(30)
    finish(bench, first, outcome)
    assert (bench.services.chains.cancel_hopeless(), claimed(bench)) == (0, [])
    finish(bench, second)
    assert bench.services.chains.cancel_hopeless() == 5
    assert bench.services.chains.cancel_hopeless() == 0
    cancelled = seen(bench, strict)
    assert (cancelled.state, cancelled.end_code, cancelled.charged_microcredits) == ("cancelled", "awaited_failed", 0)
    how = "was cancelled" if outcome is Outcome.CANCELLED else "failed"
    assert cancelled.error is not None
    assert cancelled.error.message.startswith(
        f"The sweep {made.id} (n.ipynb), for whose success this one waited, {how}"
    )
    whole = of_sweep(bench, following)
    assert (whole.state, whole.counts[RunState.CANCELLED]) == ("cancelled", 3)
    runs = bench.services.runs.list_of("ann", wanted=RunFilter(sweep=following.id))
    assert {run.end_code for run in runs} == {"awaited_failed"}
    assert seen(bench, last).state == "cancelled"
    assert claimed(bench) == [anyway.id]
    # Queued again they would wait for the same in vain.
    with pytest.raises(TransitionError, match="was cancelled"):
        bench.services.sweeps.retry("ann", following.id, Retry(include_cancelled=True), bench.key())
    bench.assert_clean()


def test_a_sweep_waits_as_a_whole_and_hides_no_other(bench: Bench) -> None:
    root = bench.consortium("ann")
    prepare = submit_run(bench, root, name="prepare.ipynb")
    waiting = submit(bench, root, count=2, after=[prepare.id])
    other = submit(bench, root, count=1)
    sentence = f"Waits until this run has succeeded: {prepare.id} (prepare.ipynb)."
    assert (waiting.waits_for, waiting.waiting_reason) == (Condition.SUCCEEDED, sentence)
    runs = bench.services.runs.list_of("ann", wanted=RunFilter(sweep=waiting.id))
    assert {(run.waiting_reason, run.after[0].run) for run in runs} == {(sentence, prepare.id)}
    begun = claim(bench)
    assert {run.sweep for run in begun} == {None, other.id}
    bench.clock.pass_seconds(30)
    for run in begun:
        finish(bench, run)
    assert {run.sweep for run in claim(bench)} == {waiting.id}
    bench.assert_clean()


def test_a_sweep_waits_for_a_sweep_however_it_ends_if_that_is_enough(bench: Bench) -> None:
    root = bench.consortium("ann")
    first = submit(bench, root, count=2)
    second = submit(bench, root, count=2, after=[first.id], waits_for=Condition.ENDED)
    one, other = claim(bench)
    bench.clock.pass_seconds(30)
    finish(bench, one, Outcome.FAILED)
    assert claimed(bench) == []
    finish(bench, other)
    assert bench.services.chains.cancel_hopeless() == 0
    assert {run.sweep for run in claim(bench)} == {second.id}


def test_a_run_of_a_sweep_that_was_queued_again_stays_what_it_became(bench: Bench) -> None:
    root = bench.consortium("ann")
    made = submit(bench, root, count=1)
    [run] = claim(bench)
    bench.clock.pass_seconds(30)
    finish(bench, run, Outcome.FAILED)
    bench.services.sweeps.retry("ann", made.id, Retry(), bench.key())
    with pytest.raises(TransitionError, match=f"The run {run.id}"):
        submit_run(bench, root, after=[run.id])
    assert submit_run(bench, root, after=[made.id]).state == "queued"


def test_sweeps_that_cannot_be_waited_for_are_refused(bench: Bench) -> None:
    root, others = bench.consortium("ann"), bench.consortium("bob")
    foreign = submit(bench, others, person="bob")
    mine = submit(bench, root)
    bench.services.sweeps.cancel("ann", mine.id)
    for unknown in (foreign.id, "s-0"):
        with pytest.raises(NotFoundError):
            submit(bench, root, after=[unknown])
    with pytest.raises(TransitionError, match=f"The sweep {mine.id}"):
        submit_run(bench, root, after=[mine.id])
    assert [one.id for one in bench.services.sweeps.list_of("ann")] == [mine.id]


def test_whoever_waits_for_a_large_sweep_is_found_along_its_index(bench: Bench) -> None:
    root = bench.consortium("ann")
    made = submit(bench, root, count=2000)
    waiting = [submit_run(bench, root, name=f"{number}.ipynb", after=[made.id]) for number in range(20)]
    assert len(claim(bench, 5)) == 5
    bench.services.sweeps.cancel("ann", made.id)
    assert bench.services.chains.cancel_hopeless() == 0, "five of it are still to end"
    for run in bench.services.runs.active_of("batch"):
        finish(bench, run, Outcome.CANCELLED, ran=None)
    assert bench.services.chains.cancel_hopeless() == len(waiting)
