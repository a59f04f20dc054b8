"""Takes sweeps from people: estimates their price, queues their runs together, retries, cancels and gathers them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from allocations.clock import MS_PER_SECOND
from allocations.db.idempotency import answered_once
from allocations.errors import InvalidInputError, NotFoundError, TransitionError
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.ledger.service import MICROCREDITS_PER_CREDIT
from allocations.runs.chains import SHOWN_MAX, require_awaited, waiting_sentence
from allocations.runs.models import RunState
from allocations.runs.notebook_parameters import parameters_of
from allocations.runs.provenance import again_record
from allocations.runs.service import Submission
from allocations.runs.submissions import require_max_seconds, require_retries
from allocations.runs.sweep_models import FAILED_STATES, Sweep, SweepEstimate, SweepResult, SweepView
from allocations.runs.sweep_rows import require_count, require_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.db.idempotency import IdempotencyKey
    from allocations.ids import IdFactory
    from allocations.leases.service import LeaseService
    from allocations.leases.store import LeaseStore
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy
    from allocations.runs.chains import ChainStore
    from allocations.runs.files import RunFiles
    from allocations.runs.models import Run
    from allocations.runs.service import RunService
    from allocations.runs.sweep_store import SweepStore

# By how many earlier runs the likely price is told.
EARLIER_RUNS_MAX = 100
RESULTS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSubmission(Submission):
    """What a person submits: what all runs have in common, as of a single run, and in `rows` the parameters of each.

    `at_once` None for no limit but the allocation's.
    """

    rows: Sequence[Mapping[str, Any]]
    at_once: int | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Which runs of a sweep are queued again (the failed; the cancelled too when asked), and what they may use then.

    `size` and `max_seconds` None for what each had.
    """

    size: str | None = None
    max_seconds: int | None = None
    include_cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepService:
    """The life of a sweep, each step in one transaction; its runs live theirs."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    ledger: Ledger
    leases: LeaseService
    lease_store: LeaseStore
    allocations: AllocationStore
    sweeps: SweepStore
    chains: ChainStore
    runs: RunService
    files: RunFiles

    @answered_once
    def submit(self, submission: SweepSubmission, idempotency: IdempotencyKey) -> SweepView:
        """Queue all runs of a sweep, or none; what could never be admitted is refused, as a single run is."""
        prepared = self.runs.prepare(submission)
        taken = parameters_of(submission.notebook)
        rows = require_rows(taken, submission.parameters, submission.rows, self.policy.runs.sweep_runs_max)
        if submission.at_once is not None and submission.at_once < 1:
            raise InvalidInputError("A sweep runs at least 1 at once.", "Give a larger number, or none for no limit.")
        with self.database.write() as connection:
            answer = idempotency.recall(connection)
            if answer is not None:
                return SweepView.model_validate_json(answer)
            self.runs.check_within(connection, prepared)
            run = self.runs.new_run(prepared)
            sweep = Sweep(
                id=self.new_id("s"),
                person=run.person,
                allocation_id=run.allocation_id,
                name=run.name,
                size=run.size,
                image=run.image,
                parameters=run.parameters,
                varied=json.dumps(rows.varied),
                rows=len(rows.parameters),
                at_once=submission.at_once,
                max_seconds=run.max_seconds,
                waiting_reason=None,
                submitted_at_ms=run.submitted_at_ms,
                cancelled_at_ms=None,
                retries=run.retries,
                source=run.source,
                environment=run.environment,
                output=run.output,
                waits_for=run.waits_for,
            )
            # The one file of all runs first: what is in the queue always has its notebook.
            self.files.write_input(sweep.id, prepared.content)
            self.sweeps.add(connection, sweep)
            self.chains.add(connection, sweep.id, submission.after)
            of_rows = (
                replace(run, id=self.new_id("r"), parameters=of_row, sweep_id=sweep.id, sweep_row=row)
                for row, of_row in enumerate(rows.parameters)
            )
            self.sweeps.add_runs(connection, of_rows)
            view = self._view(connection, sweep)
            idempotency.remember(connection, view.model_dump_json(), sweep.submitted_at_ms)
            return view

    def estimate(
        self,
        person: str,
        allocation: str,
        size: str,
        runs: int,
        *,
        name: str = "",
        max_seconds: int | None = None,
        retries: int = 0,
    ) -> SweepEstimate:
        """Say what a sweep would hold and likely cost, beside what is free; errors as of a submission."""
        rules = self.policy.runs
        require_count(runs, rules.sweep_runs_max)
        attempts = 1 + require_retries(retries, rules.retries_max)
        seconds = require_max_seconds(max_seconds, rules)
        request = LeaseRequest(allocation, person, LeaseKind.BATCH, size, None, "", seconds)
        with self.database.read() as connection:
            self.leases.check(connection, request)
            free = self._free(connection, allocation, person)
            known, charged, ran_ms = self.sweeps.earlier(connection, person, name, size, EARLIER_RUNS_MAX)
        prices = self.policy.prices_at(datetime.fromtimestamp(self.clock.now_ms() / MS_PER_SECOND, tz=UTC))
        each = prices.microcredits_per_second(self.policy.size(size)) * seconds
        likely = charged * runs // known if known else None
        most = each * runs * attempts
        return SweepEstimate(
            runs=runs,
            max_seconds=seconds,
            held_microcredits_each=each,
            held_microcredits=each * runs,
            most_microcredits=most,
            likely_from_runs=known,
            likely_seconds_each=ran_ms // known // MS_PER_SECOND if known else None,
            likely_microcredits=likely,
            free_microcredits=free,
            suffices=most <= free,
            at_once_max=min(runs, free // each),
            advice=_advice(each, most, likely, free),
        )

    @answered_once
    def retry(self, person: str, sweep_id: str, retry: Retry, idempotency: IdempotencyKey) -> SweepView:
        """Queue the failed runs of one's own sweep again, as new runs of their rows; TransitionError when none has."""
        rules = self.policy.runs
        states = FAILED_STATES | ({RunState.CANCELLED} if retry.include_cancelled else frozenset())
        max_seconds = None if retry.max_seconds is None else require_max_seconds(retry.max_seconds, rules)
        with self.database.write() as connection:
            answer = idempotency.recall(connection)
            if answer is not None:
                return SweepView.model_validate_json(answer)
            sweep = self._own(connection, person, sweep_id, lock=True)
            failed = self.sweeps.last_in(connection, sweep_id, states)
            if not failed:
                raise TransitionError("No run of this sweep has failed.", "Look at its results.")
            again = self._again(failed, retry.size, max_seconds)
            self.runs.secrets.require(connection, person, json.loads(sweep.environment or "[]"))
            if sweep.waits_for is not None:
                after = {one.id: one for one in self.chains.awaited(connection, [sweep_id])[sweep_id]}
                require_awaited(list(after), after, sweep.waits_for)
            for one in {(run.size, run.max_seconds): run for run in again}.values():
                request = LeaseRequest(
                    one.allocation_id, person, LeaseKind.BATCH, one.size, one.image, "", one.max_seconds
                )
                self.leases.check(connection, request)
            self.sweeps.retry(connection, failed, again)
            self.sweeps.change(connection, sweep_id, cancelled_at_ms=None, waiting_reason=None)
            view = self._view(connection, replace(sweep, cancelled_at_ms=None, waiting_reason=None))
            idempotency.remember(connection, view.model_dump_json(), self.clock.now_ms())
            return view

    def cancel(self, person: str, sweep_id: str) -> SweepView:
        """Cancel all of one's own sweep in one act: what waits at once, what runs as soon as it is stopped.

        Nothing of it is admitted from then on: who admits a run of it locks the sweep first, as this does.
        """
        with self.database.write() as connection:
            sweep = self._own(connection, person, sweep_id, lock=True)
            now_ms = self.clock.now_ms()
            if self.sweeps.cancel(connection, sweep_id, now_ms):
                changes: dict[str, Any] = {"cancelled_at_ms": now_ms, "waiting_reason": None}
                self.sweeps.change(connection, sweep_id, **changes)
                sweep = replace(sweep, **changes)
            return self._view(connection, sweep)

    def get(self, person: str, sweep_id: str) -> SweepView:
        """Return a sweep of one's own; NotFoundError for those of others too."""
        with self.database.read() as connection:
            return self._view(connection, self._own(connection, person, sweep_id))

    def list_of(self, person: str, limit: int = 20, before: str | None = None) -> list[SweepView]:
        """Return a person's sweeps, newest first, those older than `before`; NotFoundError when that is not theirs."""
        with self.database.read() as connection:
            mark = None if before is None else self._own(connection, person, before)
            return self._views(connection, self.sweeps.of_person(connection, person, limit, mark))

    def results(self, person: str, sweep_id: str, after_row: int, limit: int = RESULTS_MAX) -> list[SweepResult]:
        """Return rows of one's own sweep from after `after_row` on (-1: from the first), at most RESULTS_MAX."""
        with self.database.read() as connection:
            self._own(connection, person, sweep_id)
            return list(self.sweeps.results(connection, sweep_id, after_row, min(limit, RESULTS_MAX)))

    def results_at(self, person: str, sweep_id: str, rows: Sequence[int]) -> list[SweepResult]:
        """Return some rows of one's own sweep, in the order in which they are named."""
        with self.database.read() as connection:
            self._own(connection, person, sweep_id)
            found = {one.row: one for one in self.sweeps.results_at(connection, sweep_id, rows)}
        return [found[row] for row in rows if row in found]

    def all_results(self, person: str, sweep_id: str) -> Iterator[SweepResult]:
        """Return every row of one's own sweep, a page of them in memory at a time."""
        after = -1
        while page := self.results(person, sweep_id, after):
            yield from page
            after = page[-1].row

    # ------------------------------------------------------------------ inside

    def _again(self, failed: Sequence[Run], size_name: str | None, max_seconds: int | None) -> list[Run]:
        """Return a new run for each, as it was when it was submitted but for what is asked to change."""
        changes: dict[str, Any] = {
            "state": RunState.QUEUED,
            "waiting_reason": None,
            "cancel_requested": False,
            "attempt": 1,
            "executor": None,
            "lease_id": None,
            "cells_done": 0,
            "current_cell": None,
            "error": None,
            "submitted_at_ms": self.clock.now_ms(),
            "started_at_ms": None,
            "ended_at_ms": None,
            "recorded": None,
            "end_code": None,
            "retried": 0,
            "charged_before_microcredits": 0,
        }
        if max_seconds is not None:
            changes["max_seconds"] = max_seconds
        if size_name is not None:
            known = {size.name: size for size in self.policy.sizes}
            if size_name not in known:
                raise InvalidInputError(f"There is no size {size_name!r}.", f"Choose one of: {', '.join(known)}.")
            size = known[size_name]
            changes |= {"size": size.name, "cores": size.cores, "memory_gib": size.memory_gib}
            changes |= {"gpus": size.gpus, "gpu_type": size.gpu_type}
        return [replace(run, id=self.new_id("r"), provenance=again_record(run.provenance), **changes) for run in failed]

    def _free(self, connection: Connection, allocation: str, person: str) -> int:
        """Return what the person may still hold on the allocation, in microcredits."""
        path = list(self.allocations.with_ancestors(connection, [allocation]))
        free = self.ledger.available(connection, path)
        member = self.allocations.member(connection, allocation, person)
        if member is not None and member.microcredits_max is not None:
            held, charged = self.lease_store.spent_by(connection, [member])[allocation, person]
            free = min(free, member.microcredits_max - held - charged)
        return max(0, free)

    def _own(self, connection: Connection, person: str, sweep_id: str, *, lock: bool = False) -> Sweep:
        sweep = self.sweeps.get(connection, sweep_id, lock=lock)
        if sweep is None or sweep.person != person:
            raise NotFoundError(f"There is no sweep {sweep_id!r}.", "Look it up in the list of sweeps.")
        return sweep

    def _view(self, connection: Connection, sweep: Sweep) -> SweepView:
        return self._views(connection, [sweep])[0]

    def _views(self, connection: Connection, sweeps: Sequence[Sweep]) -> list[SweepView]:
        """Show sweeps with one look at all their runs."""
        ids = [sweep.id for sweep in sweeps]
        tallies, amounts = self.sweeps.tallies(connection, ids), self.sweeps.amounts(connection, ids)
        names = self.allocations.names(connection, {sweep.allocation_id for sweep in sweeps})
        awaited, waiting = self.chains.awaited(connection, ids), self.chains.waiting(connection, ids)
        views = []
        for sweep in sweeps:
            tally = tallies[sweep.id]
            view = SweepView.from_sweep(sweep, names.get(sweep.allocation_id, ""), tally, amounts[sweep.id])
            changes: dict[str, Any] = {"after": awaited[sweep.id], "followed_by": waiting[sweep.id][:SHOWN_MAX]}
            if sweep.waits_for is not None and tally.waiting:
                changes["waiting_reason"] = waiting_sentence(awaited[sweep.id], sweep.waits_for) or view.waiting_reason
            views.append(view.model_copy(update=changes))
        return views


def _advice(each: int, most: int, likely: int | None, free: int) -> str:
    """Say whether what is free suffices, and what happens when it does not."""
    if most <= free:
        return f"It suffices: together the runs cost at most {_credits(most)} credits, and {_credits(free)} are free."
    more = f"Together the runs could take {_credits(most)} credits, and {_credits(free)} are free."
    if likely is not None and likely <= free:
        return (
            f"{more} Likely they cost {_credits(likely)} credits in all: each holds its maximum only while it runs, "
            f"{free // each:,} at a time."
        )
    needs = "" if likely is None else f"Likely they cost {_credits(likely)} credits in all, which does not suffice. "
    return (
        f"{more} {needs}When the credits are used up, the rest waits. "
        "Shorten the maximum time, take fewer rows, or request more."
    )


def _credits(microcredits: int) -> str:
    return f"{Decimal(microcredits) / MICROCREDITS_PER_CREDIT:,.2f}"
