"""Runs that are tried again: each attempt of a failing notebook is charged, one that the platform lost is not."""

from __future__ import annotations

import tempfile
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from allocations.errors import InvalidInputError
from allocations.ledger.audit import audit_ledger
from allocations.runs.models import Outcome, RunError, RunSource, RunSourceKind
from allocations.runs.service import Finish, Submission
from tests.allocations.conftest import Bench, make_bench
from tests.allocations.test_runs import CREDIT, NOTEBOOK, SMALL, finish, submit
from tests.fresh import fresh_sqlite
from tests.postgres import fresh_database

if TYPE_CHECKING:
    from allocations.runs.models import RunView

FAILED = RunError(cell=3, name="ValueError", message="No detector WFI19.")


def fail(bench: Bench, run: RunView, ran: int = 100, error: RunError = FAILED) -> RunView:
    bench.clock.pass_seconds(ran)
    return finish(bench, run, Outcome.FAILED, ran, error)


def test_a_failing_notebook_is_tried_as_often_as_was_asked_and_each_attempt_is_charged(bench: Bench) -> None:
    entry = bench.accept("ann")
    submit(bench, entry, retries=2, max_seconds=600)
    for attempt in (1, 2):
        [run] = bench.services.runs.claim("batch", 1)
        assert (run.attempt, run.charged_microcredits) == (attempt, SMALL * 100 * (attempt - 1))
        waiting = fail(bench, run)
        assert (waiting.state, waiting.retried, waiting.error) == ("queued", attempt, None)
        assert waiting.waiting_reason == (
            f"The notebook failed (ValueError in cell 3); it is tried again, retry {attempt} of 2."
        )
        assert (waiting.charged_microcredits, waiting.held_microcredits) == (SMALL * 100 * attempt, 0)
        late = bench.services.runs.finish(run.id, Finish(attempt, Outcome.FAILED, None, bench.clock.at_ms))
        assert late == waiting, "a report repeated late is of an earlier attempt"
    [last] = bench.services.runs.claim("batch", 1)
    ended = fail(bench, last)
    assert (ended.state, ended.attempt, ended.charged_microcredits) == ("failed", 3, SMALL * 300)
    assert ended.error == FAILED
    assert bench.services.reports.allocations_of("ann")[0].available_microcredits == 30 * CREDIT - SMALL * 300
    bench.assert_clean()


def test_a_retry_that_succeeds_costs_both(bench: Bench) -> None:
    submit(bench, bench.accept("ann"), retries=1, max_seconds=600)
    fail(bench, bench.services.runs.claim("batch", 1)[0])
    [run] = bench.services.runs.claim("batch", 1)
    bench.clock.pass_seconds(50)
    done = finish(bench, run, Outcome.SUCCEEDED, 50)
    assert (done.state, done.charged_microcredits) == ("succeeded", SMALL * 150)
    bench.assert_clean()


def test_losses_and_retries_do_not_use_each_other_up(bench: Bench) -> None:
    submit(bench, bench.accept("ann"), retries=1, max_seconds=600)
    attempts = bench.services.policy.runs.attempts
    for _ in range(attempts - 1):
        [run] = bench.services.runs.claim("batch", 1)
        assert finish(bench, run, Outcome.LOST, 10).state == "queued"
    assert fail(bench, bench.services.runs.claim("batch", 1)[0]).state == "queued"
    [run] = bench.services.runs.claim("batch", 1)
    lost = finish(bench, run, Outcome.LOST, 10)
    assert (lost.state, lost.retried, lost.charged_microcredits) == ("failed", 1, SMALL * 100)
    bench.assert_clean()


def test_a_retry_leaves_the_platform_all_of_its_attempts(bench: Bench) -> None:
    submit(bench, bench.accept("ann"), retries=2, max_seconds=600)
    for _ in range(2):
        assert fail(bench, bench.services.runs.claim("batch", 1)[0]).state == "queued"
    states = []
    for _ in range(bench.services.policy.runs.attempts):
        [run] = bench.services.runs.claim("batch", 1)
        states.append(finish(bench, run, Outcome.LOST, 10).state)
    assert states == ["queued"] * (len(states) - 1) + ["failed"]
    bench.assert_clean()


@pytest.mark.parametrize("name", ["MemoryError", "UnknownParameter", "NoSuchKernel", "InvalidNotebook"])
def test_what_would_come_again_for_certain_is_not_tried_again(bench: Bench, name: str) -> None:
    submit(bench, bench.accept("ann"), retries=3, max_seconds=600)
    [run] = bench.services.runs.claim("batch", 1)
    assert fail(bench, run, error=RunError(name=name, message="It said so.")).state == "failed"


@pytest.mark.parametrize(
    ("code", "name", "state"),
    [
        # A notebook's own exceptions may have any name: what the batch process says of the end counts.
        ("notebook_error", "UnknownParameter", "queued"),
        ("kernel_died", "KernelDied", "queued"),
        ("out_of_memory", "ArrayMemoryError", "failed"),
        ("secret_missing", "SecretMissing", "failed"),
        ("output_not_saved", "OutputNotSaved", "failed"),
        ("of a newer version", "MemoryError", "failed"),
    ],
)
def test_the_code_of_an_end_decides_whether_it_is_tried_again(bench: Bench, code: str, name: str, state: str) -> None:
    submit(bench, bench.accept("ann"), retries=3, max_seconds=600)
    [run] = bench.services.runs.claim("batch", 1)
    now_ms = bench.clock.at_ms
    error = RunError(name=name, message="It said so.")
    finish = Finish(run.attempt, Outcome.FAILED, now_ms, now_ms + 1000, error, code)
    assert bench.services.runs.finish(run.id, finish).state == state


@pytest.mark.parametrize("outcome", [Outcome.TIMED_OUT, Outcome.SUCCEEDED])
def test_only_a_failure_is_tried_again(bench: Bench, outcome: Outcome) -> None:
    submit(bench, bench.accept("ann"), retries=3, max_seconds=600)
    [run] = bench.services.runs.claim("batch", 1)
    bench.clock.pass_seconds(600)
    assert finish(bench, run, outcome, 600).state == outcome.value


def test_a_cancelled_run_is_not_tried_again(bench: Bench) -> None:
    submit(bench, bench.accept("ann"), retries=3, max_seconds=600)
    [run] = bench.services.runs.claim("batch", 1)
    bench.services.runs.cancel("ann", run.id)
    assert fail(bench, run).state == "failed"
    bench.assert_clean()


@pytest.mark.parametrize("retries", [-1, 6, 10**30])
def test_more_retries_than_the_policy_allows_are_refused(bench: Bench, retries: int) -> None:
    with pytest.raises(InvalidInputError, match="at most 5 times"):
        submit(bench, bench.accept("ann"), retries=retries)


def test_where_the_notebook_came_from_is_kept_without_credentials(bench: Bench) -> None:
    entry = bench.accept("ann")
    assert submit(bench, entry).source == RunSource(kind=RunSourceKind.UPLOAD)
    source = RunSource(
        kind=RunSourceKind.REPOSITORY,
        address="https://ann:token@example.org/a/b.git?key=1#x",
        revision="0123abc",
        path="n/a.ipynb",
    )
    run = submit(bench, entry, source=source)
    assert bench.services.runs.get("ann", run.id).source == source.model_copy(
        update={"address": "https://example.org/a/b.git"}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "ext::sh -c id"},
        {"address": "file:///etc"},
        {"address": "https://[x"},
        {"path": "a\0b"},
        {"path": ""},
        {"revision": None},
        {"revision": "\ud800"},
        {"path": "x" * 501},
    ],
)
def test_what_is_no_place_is_refused(bench: Bench, changes: dict[str, Any]) -> None:
    place = {"address": "https://example.org/a", "revision": "0123abc", "path": "a.ipynb"} | changes
    with pytest.raises(InvalidInputError):
        submit(bench, bench.accept("ann"), source=RunSource(kind=RunSourceKind.REPOSITORY, **place))


@dataclass
class Told:
    """What the oracle knows of a run."""

    retries: int
    state: str = "queued"
    failures: int = 0
    losses: int = 0
    charged_seconds: int = 0
    asked_to_end: bool = False
    began_at_ms: int | None = None


@dataclass
class Oracle:
    runs: dict[str, Told] = field(default_factory=dict)

    def in_state(self, *states: str) -> list[str]:
        return [run for run, told in self.runs.items() if told.state in states]


class RetryMachine(RuleBasedStateMachine):
    """Runs of one person, each with retries, that fail, are lost, time out and are cancelled in any order."""

    postgres: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        if self.postgres is None:
            url = fresh_sqlite(directory)
        else:
            url = self._stack.enter_context(fresh_database(self.postgres, f"t{uuid.uuid4().hex}", "migrated"))
        self.bench: Bench = make_bench(url, directory / "runs")
        self._stack.callback(self.bench.services.database.dispose)
        self.entry = self.bench.accept("ann")
        self.oracle = Oracle()

    def teardown(self) -> None:
        self._stack.close()

    @rule(retries=st.integers(0, 3))
    def submit(self, retries: int) -> None:
        self.bench.clock.at_ms += 1  # the queue's order is that of their times, not of their random ids
        submission = Submission("ann", self.entry, "small", "n.ipynb", NOTEBOOK, {}, max_seconds=600, retries=retries)
        self.oracle.runs[self.bench.services.runs.submit(submission, self.bench.key()).id] = Told(retries)

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        for run in self.bench.services.runs.claim("batch", limit):
            told = self.oracle.runs[run.id]
            assert told.state == "queued"
            told.state, told.began_at_ms = "admitted", None

    @precondition(lambda self: self.oracle.in_state("admitted", "running"))
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.oracle.in_state("admitted", "running")))
        told = self.oracle.runs[run]
        told.began_at_ms = told.began_at_ms or self.bench.clock.at_ms
        told.state = "running"
        self.bench.services.runs.progress(
            run,
            attempt=1 + told.failures + told.losses,
            started_at_ms=told.began_at_ms,
            cells_done=0,
            cells_total=2,
            current_cell=1,
        )

    @rule(seconds=st.integers(1, 200))
    def time_passes(self, seconds: int) -> None:
        self.bench.clock.pass_seconds(seconds)

    @precondition(lambda self: self.oracle.in_state("admitted", "running"))
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), certain=st.booleans())
    def end(self, data: st.DataObject, outcome: Outcome, certain: bool) -> None:
        run = data.draw(st.sampled_from(self.oracle.in_state("admitted", "running")))
        told, now_ms = self.oracle.runs[run], self.bench.clock.at_ms
        error = RunError(name="MemoryError" if certain else "ValueError", message="x")
        attempt = 1 + told.failures + told.losses
        ran = 0 if told.began_at_ms is None else min(600, (now_ms - told.began_at_ms) // 1000)
        report = Finish(attempt, outcome, told.began_at_ms, now_ms, error if outcome is Outcome.FAILED else None)
        for _ in range(2):  # an answer that gets lost is asked for again
            shown = self.bench.services.runs.finish(run, report)
        attempts = self.bench.services.policy.runs.attempts
        if outcome is Outcome.LOST:
            if told.asked_to_end:
                told.state = "cancelled"
            elif told.losses + 1 < attempts:
                told.state = "queued"
                told.losses += 1
            else:
                told.state = "failed"
        else:
            told.charged_seconds += ran
            again = outcome is Outcome.FAILED and not certain and not told.asked_to_end
            if again and told.failures < told.retries:
                told.state = "queued"
                told.failures += 1
            else:
                told.state = outcome.value
        assert shown.state == told.state

    @precondition(lambda self: self.oracle.in_state("queued", "admitted", "running"))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.oracle.in_state("queued", "admitted", "running")))
        told = self.oracle.runs[run]
        self.bench.services.runs.cancel("ann", run)
        told.asked_to_end = True
        if told.state == "queued":
            told.state = "cancelled"

    @invariant()
    def every_attempt_that_ran_is_charged_and_no_lost_one(self) -> None:
        for shown in self.bench.services.runs.list_of("ann", 1000):
            told = self.oracle.runs[shown.id]
            assert (shown.state, shown.retried) == (told.state, told.failures)
            assert shown.charged_microcredits == SMALL * told.charged_seconds
            assert shown.attempt == 1 + told.failures + told.losses
        used = sum(SMALL * told.charged_seconds for told in self.oracle.runs.values())
        held = sum(SMALL * 600 for _ in self.oracle.in_state("admitted", "running"))
        [balance] = self.bench.services.reports.allocations_of("ann")
        assert balance.available_microcredits == 30 * CREDIT - used - held

    @invariant()
    def the_audit_is_clean(self) -> None:
        with self.bench.services.database.read() as connection:
            assert audit_ledger(connection).violations == ()


_SETTINGS = settings(stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("examples", [8, pytest.param(80, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_retried_runs_are_charged_as_the_oracle_says(examples: int) -> None:
    run_state_machine_as_test(RetryMachine, settings=settings(_SETTINGS, max_examples=examples))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_retried_runs_are_charged_as_the_oracle_says_on_postgresql(postgres_server: str) -> None:
    class OnPostgres(RetryMachine):
        postgres = postgres_server

    run_state_machine_as_test(OnPostgres, settings=settings(_SETTINGS, max_examples=10, stateful_step_count=20))
