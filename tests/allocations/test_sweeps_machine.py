"""Sweeps against dictionaries: submitted, claimed by two executors, ended in every way, retried and cancelled.

The oracle keeps, by itself, each run's state and what it must be charged, and what belongs to which row. After every
step the service must say the same; nothing may run twice, nor more at once than a sweep, or the room, allows.
"""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from allocations.db.schema import runs as runs_table
from allocations.errors import AtOnceLimitError, TransitionError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, OverrideLimits, OverrideSubject
from allocations.runs.models import Outcome, RunFilter, RunState
from allocations.runs.service import Finish, Submission
from allocations.runs.sweeps import Retry, SweepSubmission
from tests.allocations.conftest import make_bench
from tests.allocations.machines import come_everywhere
from tests.allocations.test_runs import PARAMETRIC
from tests.fresh import fresh_sqlite
from tests.places import join
from tests.postgres import fresh_database

PEOPLE = ("ann", "bob")
SIZES = {"small": 1, "standard": 2, "large": 8}
RATES = {"small": 13, "standard": 34, "large": 104}  # microcredits a second: 9 a core, 1 a GiB
CORES, RESERVED = 12, 2
MAX_SECONDS = 600
ACTIVE = {RunState.ADMITTED, RunState.RUNNING}
FAILED = {RunState.FAILED, RunState.TIMED_OUT}
ENDS = {
    Outcome.SUCCEEDED: RunState.SUCCEEDED,
    Outcome.FAILED: RunState.FAILED,
    Outcome.TIMED_OUT: RunState.TIMED_OUT,
    Outcome.CANCELLED: RunState.CANCELLED,
}


@dataclass
class Known:
    """A run as the oracle knows it."""

    person: str
    size: str
    sweep: str | None = None
    row: int | None = None
    state: RunState = RunState.QUEUED
    attempt: int = 1
    asked_to_stop: bool = False
    began_ms: int | None = None
    charged: int = 0
    replaced: bool = False


@dataclass
class KnownSweep:
    """A sweep as the oracle knows it."""

    person: str
    at_once: int | None
    rows: int
    runs: list[str] = field(default_factory=list)


class SweepMachine(RuleBasedStateMachine):
    """All that people, executors and faults do to sweeps."""

    postgres: ClassVar[str | None] = None
    ran: ClassVar[Counter[str]] = Counter()

    @initialize()
    def open(self) -> None:
        self.closing = contextlib.ExitStack()
        folder = Path(self.closing.enter_context(tempfile.TemporaryDirectory()))
        url = fresh_sqlite(folder)
        if self.postgres is not None:
            made = fresh_database(self.postgres, f"t{uuid.uuid4().hex}", "migrated")
            url = self.closing.enter_context(made)
        self.bench = make_bench(url, folder / "runs")
        self.closing.callback(self.bench.services.database.dispose)
        self.root = self.bench.consortium("ann")
        self.bench.accept("bob")
        join(self.bench.services.members, Actor("ann"), self.root, "bob", MemberRole.MEMBER)
        self.bench.services.overrides.grant(
            Actor("admin", admin=True), OverrideSubject.ALLOCATION, self.root, OverrideLimits(cores=CORES), "small", 90
        )
        self.known: dict[str, Known] = {}
        self.sweeps: dict[str, KnownSweep] = {}
        self.servers: list[str] = []
        self.started: set[tuple[str, int]] = set()

    def teardown(self) -> None:
        if not hasattr(self, "closing"):
            return
        with self.closing:
            self.bench.assert_clean()

    # ------------------------------------------------------------------ people

    @rule(
        person=st.sampled_from(PEOPLE),
        size=st.sampled_from(("small", "small", "standard", "large")),
        rows=st.integers(1, 5),
        at_once=st.none() | st.integers(1, 3),
    )
    def submit(self, person: str, size: str, rows: int, at_once: int | None) -> None:
        made = self.bench.services.sweeps.submit(
            SweepSubmission(
                person,
                self.root,
                size,
                "n.ipynb",
                PARAMETRIC,
                {},
                rows=[{"x": number} for number in range(rows)],
                max_seconds=MAX_SECONDS,
                at_once=at_once,
            ),
            self.bench.key(),
        )
        self.sweeps[made.id] = KnownSweep(person, at_once, rows)
        self.learn(made.id, size)
        self.note("submit")

    @rule(person=st.sampled_from(PEOPLE), size=st.sampled_from(("small", "large")))
    def submit_single(self, person: str, size: str) -> None:
        submission = Submission(person, self.root, size, "n.ipynb", PARAMETRIC, {}, max_seconds=MAX_SECONDS)
        run = self.bench.services.runs.submit(submission, self.bench.key())
        self.known[run.id] = Known(person, size)

    @precondition(lambda self: self.sweeps)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sweep = data.draw(st.sampled_from(list(self.sweeps)))
        self.bench.services.sweeps.cancel(self.sweeps[sweep].person, sweep)
        for run in self.runs_of(sweep):
            self.stop(run)
        self.note("cancel")

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def cancel_one(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(list(self.known)))
        self.bench.services.runs.cancel(self.known[run_id].person, run_id)
        self.stop(self.known[run_id])

    @precondition(lambda self: self.sweeps)
    @rule(data=st.data(), include_cancelled=st.booleans(), size=st.none() | st.just("standard"))
    def retry(self, data: st.DataObject, include_cancelled: bool, size: str | None) -> None:
        sweep = data.draw(st.sampled_from(list(self.sweeps)))
        wanted = FAILED | ({RunState.CANCELLED} if include_cancelled else set())
        again = [run for run in self.runs_of(sweep) if not run.replaced and run.state in wanted]
        retry, person = Retry(size=size, include_cancelled=include_cancelled), self.sweeps[sweep].person
        if not again:
            with pytest.raises(TransitionError):
                self.bench.services.sweeps.retry(person, sweep, retry, self.bench.key())
            return
        self.bench.services.sweeps.retry(person, sweep, retry, self.bench.key())
        for run in again:
            run.replaced = True
        made = self.learn(sweep, size)
        assert sorted(run.row for run in made if run.row is not None) == sorted(run.row or 0 for run in again)
        self.note("retry")

    @rule(person=st.sampled_from(PEOPLE), size=st.sampled_from(("small", "standard")))
    def start_server(self, person: str, size: str) -> None:
        try:
            self.servers.append(self.bench.acquire(self.root, person, size, f"s{uuid.uuid4().hex[:8]}").id)
            self.note("server")
        except AtOnceLimitError as error:
            # Two at once for each, or the reserve is in use.
            is_full = self.batch_cores() + SIZES[size] + 2 * len(self.servers) > CORES
            if "servers at once" not in error.detail and not is_full:
                raise

    @precondition(lambda self: self.servers)
    @rule()
    def stop_server(self) -> None:
        self.bench.services.leases.settle(self.servers.pop(0))

    # ------------------------------------------------------------------ executors

    @rule(executor=st.sampled_from(("one", "two")), limit=st.integers(1, 6))
    def claim(self, executor: str, limit: int) -> None:
        for run in self.bench.services.runs.claim(executor, limit):
            known = self.known[run.id]
            assert known.state is RunState.QUEUED, "only what waits is admitted"
            assert not known.asked_to_stop, "nothing that was cancelled is admitted"
            assert (run.id, run.attempt) not in self.started, "no attempt runs twice"
            self.started.add((run.id, run.attempt))
            known.state = RunState.ADMITTED
            if run.sweep is not None:
                self.note("claim of a sweep")

    @precondition(lambda self: self.active())
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.active()))
        known = self.known[run_id]
        self.bench.services.runs.progress(
            run_id,
            attempt=known.attempt,
            started_at_ms=self.bench.clock.at_ms,
            cells_done=0,
            cells_total=2,
            current_cell=1,
        )
        known.began_ms = known.began_ms or self.bench.clock.at_ms
        known.state = RunState.RUNNING

    @precondition(lambda self: self.active())
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), late=st.booleans())
    def end(self, data: st.DataObject, outcome: Outcome, late: bool) -> None:
        """However it ended: a report that is repeated, or of an earlier attempt, changes nothing."""
        run_id = data.draw(st.sampled_from(self.active()))
        known = self.known[run_id]
        now_ms = self.bench.clock.at_ms
        report = Finish(known.attempt, outcome, known.began_ms, now_ms, recorded={"y": 1})
        self.bench.services.runs.finish(run_id, report)
        if late:
            self.bench.services.runs.finish(run_id, report)
        if outcome is not Outcome.LOST:
            known.state = ENDS[outcome]
            if known.began_ms is not None:
                seconds = -(-(now_ms - known.began_ms) // 1000)
                known.charged = RATES[known.size] * min(seconds, MAX_SECONDS)
        elif known.asked_to_stop:
            known.state = RunState.CANCELLED
        elif known.attempt < self.bench.services.policy.runs.attempts:
            known.state, known.attempt = RunState.QUEUED, known.attempt + 1
        else:
            known.state = RunState.FAILED
        known.began_ms = None
        self.note(f"end, {outcome}")

    @rule(seconds=st.integers(1, 120))
    def time_passes(self, seconds: int) -> None:
        self.bench.clock.pass_seconds(seconds)

    # ------------------------------------------------------------------ what holds

    @invariant()
    def every_run_is_as_the_oracle_says(self) -> None:
        if not hasattr(self, "known"):
            return
        services = self.bench.services
        with services.database.read() as connection:
            stored = {row.id: row for row in connection.execute(select(runs_table))}
            amounts = services.lease_store.amounts(connection, [one.lease_id for one in stored.values()])
        assert stored.keys() == self.known.keys()
        for run_id, known in self.known.items():
            row = stored[run_id]
            assert (row.state, row.attempt, row.retried_as is not None) == (known.state, known.attempt, known.replaced)
            assert amounts.get(row.lease_id, (0, 0))[1] == known.charged, run_id

    @invariant()
    def sweeps_add_up_and_keep_to_their_limit(self) -> None:
        if not hasattr(self, "known"):
            return
        for sweep_id, sweep in self.sweeps.items():
            seen = self.bench.services.sweeps.get(sweep.person, sweep_id)
            own = self.runs_of(sweep_id)
            last = [run for run in own if not run.replaced]
            assert sorted(run.row or 0 for run in last) == list(range(sweep.rows)), "one run counts for each row"
            assert {state: count for state, count in seen.counts.items() if count} == Counter(run.state for run in last)
            assert seen.charged_microcredits == sum(run.charged for run in own)
            active = sum(1 for run in own if run.state in ACTIVE)
            assert sweep.at_once is None or active <= sweep.at_once
            results = self.bench.services.sweeps.results(sweep.person, sweep_id, -1)
            assert [one.state for one in results] == [run.state for run in sorted(last, key=lambda run: run.row or 0)]

    @invariant()
    def batch_leaves_room_to_servers(self) -> None:
        if not hasattr(self, "known"):
            return
        sizes = [SIZES[run.size] for run in self.known.values() if run.state in ACTIVE]
        assert len(sizes) <= 1 or sum(sizes) <= CORES - RESERVED

    # ------------------------------------------------------------------ inside

    def learn(self, sweep: str, size: str | None) -> list[Known]:
        """Take the runs of a sweep that are new into the oracle."""
        person = self.sweeps[sweep].person
        made = []
        for run in self.bench.services.runs.list_of(person, 1000, RunFilter(sweep=sweep)):
            if run.id not in self.known:
                assert run.state is RunState.QUEUED
                assert size in {None, run.size}
                self.known[run.id] = Known(person, run.size, sweep, run.sweep_row)
                self.sweeps[sweep].runs.append(run.id)
                made.append(self.known[run.id])
        return made

    def stop(self, run: Known) -> None:
        if run.state is RunState.QUEUED:
            run.state, run.asked_to_stop = RunState.CANCELLED, True
        elif run.state in ACTIVE:
            run.asked_to_stop = True

    def runs_of(self, sweep: str) -> list[Known]:
        return [self.known[run_id] for run_id in self.sweeps[sweep].runs]

    def active(self) -> list[str]:
        return [run_id for run_id, run in self.known.items() if run.state in ACTIVE]

    def batch_cores(self) -> int:
        return sum(SIZES[run.size] for run in self.known.values() if run.state in ACTIVE)

    def note(self, verb: str) -> None:
        type(self).ran[verb] += 1


VERBS = {"submit", "cancel", "retry", "server", "claim of a sweep", *(f"end, {one}" for one in Outcome)}


def test_sweeps_agree_with_the_oracle() -> None:
    run_state_machine_as_test(
        SweepMachine,
        settings=settings(
            max_examples=4,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            database=None,
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sweeps_agree_with_the_oracle_in_every_way() -> None:
    class Longer(SweepMachine):
        ran: ClassVar[Counter[str]] = Counter()

    come_everywhere(Longer, Longer.ran, VERBS, 6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sweeps_agree_with_the_oracle_on_postgresql(postgres_server: str) -> None:
    class OnPostgres(SweepMachine):
        postgres = postgres_server
        ran: ClassVar[Counter[str]] = Counter()

    come_everywhere(OnPostgres, OnPostgres.ran, VERBS, 2)
