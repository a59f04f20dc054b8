"""Takes runs from people, gives them to the batch process when the ledger admits them, and settles how they end."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from allocations.db.idempotency import answered_once
from allocations.errors import (
    NotFoundError,
)
from allocations.leases.images import choose
from allocations.leases.models import Ending, EndReason, LeaseKind, LeaseRequest, LeaseState
from allocations.runs.cells import EVENTS_BYTES_MAX, OUTLINE_BYTES_MAX, Cell, cells_of
from allocations.runs.chains import SHOWN_MAX, require_awaited, require_few, waiting_sentence
from allocations.runs.ends import known_code
from allocations.runs.files import EVENTS, INPUT, LOG, PROVENANCE, READ_BYTES_MAX
from allocations.runs.models import (
    ACTIVE_STATES,
    ENDED_STATES,
    EVERY_RUN,
    Condition,
    Outcome,
    Run,
    RunError,
    RunFilter,
    RunSource,
    RunState,
    RunView,
)
from allocations.runs.notebook_parameters import fitting, parameters_of
from allocations.runs.places import keys_of, require_place
from allocations.runs.provenance import RECORD_BYTES_MAX, ended_record, submitted_record
from allocations.runs.retries import is_repeated, is_retried, queued_again, retry
from allocations.runs.secrets import require_names
from allocations.runs.submissions import (
    require_file_name,
    require_max_seconds,
    require_notebook,
    require_parameters,
    require_retries,
    require_source,
    to_recorded,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.db.idempotency import IdempotencyKey
    from allocations.ids import IdFactory
    from allocations.leases.service import LeaseService
    from allocations.leases.store import LeaseStore
    from allocations.leases.views import LeaseView
    from allocations.lifecycle.authority import Authority
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy
    from allocations.runs.chains import ChainStore
    from allocations.runs.files import RunFiles
    from allocations.runs.queue import RunQueue
    from allocations.runs.schedule_store import ScheduleStore
    from allocations.runs.secrets import SecretService
    from allocations.runs.store import RunStore
    from allocations.runs.sweep_store import SweepStore

ACCOUNT_ENDED = "The account of its owner has ended."


@dataclass(frozen=True, slots=True)
class Submission:
    """What a person submits. `notebook` is the parsed .ipynb, `max_seconds` None for the policy's default.

    `after` names runs and sweeps of the same person that it waits for, `waits_for` what they must have come to;
    `replay_of` the run that this one repeats.
    `retries`: how often it is tried again when the notebook fails, each attempt charged; `environment`: the names of
    the person's secrets that the notebook gets; `output`: where what it makes is saved as well.
    """

    person: str
    allocation: str
    size: str
    name: str
    notebook: Mapping[str, Any]
    parameters: Mapping[str, Any]
    image: str | None = None
    max_seconds: int | None = None
    after: Sequence[str] = ()
    waits_for: Condition = Condition.SUCCEEDED
    replay_of: str | None = None
    retries: int = 0
    source: RunSource | None = None
    environment: Sequence[str] = ()
    output: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission of which all is known to be well formed: the notebook's bytes, the parameters as JSON."""

    submission: Submission
    name: str
    content: bytes
    parameters: str
    max_seconds: int
    retries: int
    source: str | None
    environment: str | None
    output: str | None


@dataclass(frozen=True, slots=True)
class Finish:
    """What the batch process reports of the end of an attempt of a run; image_id and node where its place says them."""

    attempt: int
    outcome: Outcome
    started_at_ms: int | None
    ended_at_ms: int
    error: RunError | None = None
    end_code: str | None = None
    image_id: str | None = None
    node: str | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunWatch:
    """A run as whoever watches it sees it: its cells, the last bytes of its log and how many come before them."""

    run: RunView
    cells: list[Cell]
    log: bytes
    log_left_out_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunService:
    """The life of a run, each step in one transaction with its lease."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    leases: LeaseService
    lease_store: LeaseStore
    allocations: AllocationStore
    authority: Authority
    runs: RunStore
    chains: ChainStore
    sweeps: SweepStore
    queue: RunQueue
    schedules: ScheduleStore
    files: RunFiles
    secrets: SecretService

    @answered_once
    def submit(self, submission: Submission, idempotency: IdempotencyKey) -> RunView:
        """Queue a run; what could never be admitted is refused at once with the AllocationsError that says why."""
        prepared = self.prepare(submission)
        with self.database.write() as connection:
            answer = idempotency.recall(connection)
            if answer is not None:
                return RunView.model_validate_json(answer)
            run = self.submit_within(connection, prepared)
            view = self._view(connection, run)
            idempotency.remember(connection, view.model_dump_json(), run.submitted_at_ms)
            return view

    def prepare(self, submission: Submission) -> Prepared:
        """Check what asks for no transaction: the notebook, the parameters, the name and the maximum time."""
        rules = self.policy.runs
        max_seconds = require_max_seconds(submission.max_seconds, rules)
        content = require_notebook(submission.notebook, rules.notebook_max_bytes)
        require_parameters(submission.parameters)
        parameters = require_parameters(fitting(parameters_of(submission.notebook), submission.parameters))
        name = require_file_name(submission.name)
        retries = require_retries(submission.retries, rules.retries_max)
        source = require_source(submission.source)
        names = require_names(submission.environment)
        environment = json.dumps(names) if names else None
        output = require_place(submission.output)
        return Prepared(submission, name, content, parameters, max_seconds, retries, source, environment, output)

    def check_within(self, connection: Connection, prepared: Prepared) -> None:
        """Raise the AllocationsError for which a submission would be refused now."""
        submission = prepared.submission
        request = LeaseRequest(
            allocation=submission.allocation,
            person=submission.person,
            kind=LeaseKind.BATCH,
            size=submission.size,
            image=submission.image,
            server_name="",
            max_seconds=prepared.max_seconds,
        )
        self.leases.check(connection, request)
        names = [*submission.environment, *keys_of(prepared.output)[0]]
        self.secrets.require(connection, submission.person, names)
        after = require_few(submission.after)
        require_awaited(after, self.chains.of_person(connection, submission.person, after), submission.waits_for)

    def submit_within(self, connection: Connection, prepared: Prepared) -> Run:
        """Queue a run in the caller's transaction; an AllocationsError leaves nothing written in it."""
        self.check_within(connection, prepared)
        run = self.new_run(prepared)
        # The file first: a run in the queue always has its notebook; a file without a run harms nobody.
        self.files.write_input(run.id, prepared.content)
        self.runs.add(connection, run)
        self.chains.add(connection, run.id, prepared.submission.after)
        return run

    def new_run(self, prepared: Prepared) -> Run:
        """Return a queued run, of an id of its own, of what was submitted."""
        submission = prepared.submission
        size = self.policy.size(submission.size)
        # Named with its version: what the record says stays true when another version is recommended.
        image = choose(self.policy, submission.image, size)
        return Run(
            id=self.new_id("r"),
            person=submission.person,
            allocation_id=submission.allocation,
            name=prepared.name,
            size=submission.size,
            image=image.recorded,
            cores=size.cores,
            memory_gib=size.memory_gib,
            gpus=size.gpus,
            gpu_type=size.gpu_type,
            parameters=prepared.parameters,
            max_seconds=prepared.max_seconds,
            state=RunState.QUEUED,
            waiting_reason=None,
            cancel_requested=False,
            attempt=1,
            executor=None,
            lease_id=None,
            cells_done=0,
            cells_total=len(submission.notebook["cells"]),
            current_cell=None,
            error=None,
            submitted_at_ms=self.clock.now_ms(),
            started_at_ms=None,
            ended_at_ms=None,
            waits_for=submission.waits_for if submission.after else None,
            provenance=submitted_record(prepared.content),
            replay_of=submission.replay_of,
            retries=prepared.retries,
            source=prepared.source,
            environment=prepared.environment,
            output=prepared.output,
        )

    def claim(self, executor: str, limit: int) -> list[RunView]:
        """Admit up to `limit` queued runs for an executor, in the queue's fair order."""
        admitted = self.queue.claim(executor, limit)
        with self.database.read() as connection:
            return self._views(connection, admitted)

    def progress(
        self,
        run_id: str,
        *,
        attempt: int,
        started_at_ms: int | None,
        cells_done: int,
        cells_total: int,
        current_cell: int | None,
    ) -> RunView:
        """Note how far a run is; the first report starts its charge."""
        with self.database.write() as connection:
            run = self._locked(connection, run_id)
            if not _is_current(run, attempt) or run.lease_id is None:
                return self._view(connection, run)
            lease = self.leases.start_within(connection, run.lease_id, started_at_ms)
            changes: dict[str, Any] = {
                "state": RunState.RUNNING,
                "started_at_ms": lease.started_at_ms,
                "cells_done": cells_done,
                "cells_total": cells_total,
                "current_cell": current_cell,
            }
            self.runs.change(connection, run_id, **changes)
            return self._view(connection, replace(run, **changes))

    def finish(self, run_id: str, finish: Finish) -> RunView:
        """End a run and its lease together. Reported again, it changes nothing.

        Lost runs are not charged, and queued again as often as the policy says. One whose notebook failed is charged
        for the attempt, and queued again as often as was asked for when it was submitted.
        """
        said = self._start_of(run_id, PROVENANCE, RECORD_BYTES_MAX)
        with self.database.write() as connection:
            run = self._locked(connection, run_id)
            if not _is_current(run, finish.attempt) or run.lease_id is None:
                return self._view(connection, run)
            if finish.outcome is Outcome.LOST:
                return self._view(connection, self._lose(connection, run, finish))
            if finish.started_at_ms is None:
                # Ended before the notebook began: nothing ran that could be charged.
                ending = Ending(run.lease_id, LeaseState.VOIDED, EndReason.NEVER_RAN)
            else:
                ending = Ending(
                    run.lease_id, LeaseState.SETTLED, EndReason.STOPPED, finish.ended_at_ms, finish.started_at_ms
                )
            lease = self.leases.end_within(connection, ending)
            failed_by = known_code(finish.end_code, finish.error.name if finish.error else None)
            if is_retried(run, finish.outcome, failed_by):
                _, charged = self.lease_store.amounts(connection, [lease.id])[lease.id]
                changes = retry(run, charged, finish.error)
            else:
                changes = {
                    "state": RunState(finish.outcome.value),
                    "started_at_ms": lease.started_at_ms,
                    "ended_at_ms": lease.ended_at_ms,
                    "current_cell": None,
                    "error": finish.error.model_dump_json() if finish.error else None,
                    "recorded": to_recorded(finish.recorded),
                    "provenance": ended_record(run.provenance, said, finish.attempt, finish.image_id, finish.node),
                }
                if finish.outcome is Outcome.FAILED:
                    changes["end_code"] = failed_by
            self.runs.change(connection, run_id, **changes)
            return self._view(connection, replace(run, **changes))

    def cancel(self, person: str, run_id: str) -> RunView:
        """Cancel a run of one's own: at once while it waits, otherwise as soon as the batch process stops it."""
        with self.database.write() as connection:
            return self._view(connection, self._cancel(connection, person, run_id))

    def cancel_several(self, person: str, run_ids: Collection[str]) -> list[RunView]:
        """Cancel runs of one's own together, or none when one of them is not; those that have ended stay as they are.

        Two such calls lock the runs in one order, that of their ids, so that neither waits for the other for good.
        """
        with self.database.write() as connection:
            return self._views(
                connection, [self._cancel(connection, person, run_id) for run_id in sorted(set(run_ids))]
            )

    def close_expired(self) -> int:
        """End the runs whose lease has ended without them, when nobody reported in time; return how many."""
        closed = 0
        with self.database.read() as connection:
            active = self.runs.active(connection)
        for seen in active:
            with self.database.write() as connection:
                run = self._locked(connection, seen.id)
                lease = self.lease_store.get(connection, run.lease_id) if run.lease_id else None
                if run.state not in ACTIVE_STATES or lease is None or lease.state is LeaseState.OPEN:
                    continue
                self.runs.change(
                    connection,
                    run.id,
                    state=RunState.TIMED_OUT,
                    ended_at_ms=lease.ended_at_ms,
                    current_cell=None,
                    error=RunError(
                        name="TimedOut", message="The run did not end within its maximum time."
                    ).model_dump_json(),
                )
                closed += 1
        return closed

    def cancel_departed(self) -> int:
        """Cancel the runs of people who are no members of the allocation any more; return how many."""
        with self.database.write() as connection:
            return self.runs.cancel_departed(connection, self.clock.now_ms())

    def end_of(self, person: str, actor: str) -> int:
        """Cancel whatever a person, whose account has ended, has in the queue or running; return how many runs.

        Their schedules are paused: none submits for them any more. What they used until they stop is charged. One that
        is queued anew meanwhile, lost to a fault, is met by the next call: the person is among `people_with_runs` until
        all are cancelled.
        """
        with self.database.write() as connection:
            paused = self.schedules.pause_of(connection, person, ACCOUNT_ENDED)
            ended = self.runs.cancel_of(connection, person, self.clock.now_ms())
            if ended or paused:
                self.authority.record(connection, actor, "person.end_runs", person, runs=ended, schedules=paused)
            return ended

    def people_with_runs(self, after: str, limit: int) -> list[str]:
        """Return who has runs that wait or go on, or a schedule that submits some, by name, from after `after` on."""
        with self.database.read() as connection:
            with_runs = self.runs.people_with_runs(connection, after, limit)
            with_schedules = self.schedules.people_with_active(connection, after, limit)
        return sorted({*with_runs, *with_schedules})[:limit]

    def cancel_suspended(self) -> int:
        """Cancel what suspended people have in the queue; return how many runs."""
        with self.database.write() as connection:
            return self.runs.cancel_suspended(connection, self.clock.now_ms())

    def cancel_cut_short(self) -> int:
        """Ask for the stop of runs whose allocation was stopped, now that their lease has ended; return how many."""
        with self.database.write() as connection:
            return self.runs.cancel_cut_short(connection, self.clock.now_ms())

    def get(self, person: str, run_id: str) -> RunView:
        """Return a run of one's own; NotFoundError for those of others too."""
        with self.database.read() as connection:
            return self._view(connection, self._found(connection, person, run_id))

    def list_of(
        self, person: str, limit: int = 100, wanted: RunFilter = EVERY_RUN, before: str | None = None
    ) -> list[RunView]:
        """Return a person's runs, newest first, those older than `before` when it is given.

        NotFoundError when `before` is no run of the person's.
        """
        with self.database.read() as connection:
            mark = None if before is None else self._found(connection, person, before)
            return self._views(connection, self.runs.of_person(connection, person, limit, wanted, mark))

    def allocations_of(self, person: str) -> list[tuple[str, str]]:
        """Return ids and names of the allocations that a person's runs were submitted on, by name."""
        with self.database.read() as connection:
            return self.runs.allocations_of(connection, person)

    def active_of(self, executor: str) -> list[RunView]:
        """Return the runs that an executor is responsible for."""
        with self.database.read() as connection:
            return self._views(connection, self.runs.active(connection, executor))

    def lease_of(self, run_id: str) -> LeaseView:
        """Return the lease under which a run was admitted; NotFoundError for one that waits."""
        with self.database.read() as connection:
            run = self.runs.get(connection, run_id)
            lease = self.lease_store.get(connection, run.lease_id) if run and run.lease_id else None
            if lease is None:
                raise _no_run(run_id)
            return self.leases.views(connection, [lease])[0]

    def read_file(self, person: str, run_id: str, name: str, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """Return a file of one's own run; InvalidInputError when it is larger than `bytes_max`."""
        run = self.get(person, run_id)
        return self.files.read(_holder(run.id, run.sweep, name), name, bytes_max)

    def watch(self, person: str, run_id: str, log_bytes_max: int) -> RunWatch:
        """Return how a run of one's own does: its cells, and the last bytes of its log."""
        with self.database.read() as connection:
            run = self._found(connection, person, run_id)
            view = self._view(connection, run)
        notebook = self._start_of(_holder(run_id, run.sweep_id, INPUT), INPUT, OUTLINE_BYTES_MAX)
        events = self._start_of(run_id, EVENTS, EVENTS_BYTES_MAX)
        log, left_out = b"", 0
        with suppress(NotFoundError):  # there is none before it begins
            log, left_out = self.files.read_end(run_id, LOG, log_bytes_max)
        return RunWatch(view, cells_of(run, notebook, events, self.clock.now_ms()), log, left_out)

    # ------------------------------------------------------------------ inside

    def _start_of(self, run_id: str, name: str, bytes_max: int) -> bytes:
        try:
            return self.files.read_start(run_id, name, bytes_max)
        except NotFoundError:
            return b""

    def _cancel(self, connection: Connection, person: str, run_id: str) -> Run:
        run = self._own(self._locked(connection, run_id), person)
        if run.state in ENDED_STATES:
            return run
        changes: dict[str, Any] = {"cancel_requested": True}
        if run.state is RunState.QUEUED:
            changes |= {"state": RunState.CANCELLED, "ended_at_ms": self.clock.now_ms(), "waiting_reason": None}
        self.runs.change(connection, run_id, **changes)
        return replace(run, **changes)

    def _lose(self, connection: Connection, run: Run, finish: Finish) -> Run:
        assert run.lease_id is not None  # an active run has a lease
        lease = self.leases.end_within(connection, Ending(run.lease_id, LeaseState.VOIDED, EndReason.LOST))
        changes: dict[str, Any] = {"cells_done": 0, "current_cell": None, "started_at_ms": None}
        if run.cancel_requested:
            changes |= {"state": RunState.CANCELLED, "ended_at_ms": lease.ended_at_ms}
        elif is_repeated(run, self.policy.runs.attempts):
            changes |= queued_again(run) | {
                "waiting_reason": "Lost to a fault of the platform; queued again without a charge.",
            }
        else:
            error = finish.error or RunError(
                name="Lost", message="The run was lost to a fault of the platform and was not charged."
            )
            changes |= {
                "state": RunState.FAILED,
                "ended_at_ms": lease.ended_at_ms,
                "error": error.model_dump_json(),
                "end_code": known_code(finish.end_code, "Lost"),
            }
        self.runs.change(connection, run.id, **changes)
        return replace(run, **changes)

    def _locked(self, connection: Connection, run_id: str) -> Run:
        run = self.runs.get(connection, run_id, lock=True)
        if run is None:
            raise _no_run(run_id)
        return run

    def _found(self, connection: Connection, person: str, run_id: str) -> Run:
        run = self.runs.get(connection, run_id)
        if run is None:
            raise _no_run(run_id)
        return self._own(run, person)

    def _own(self, run: Run, person: str) -> Run:
        if run.person != person:
            raise _no_run(run.id)
        return run

    def _view(self, connection: Connection, run: Run) -> RunView:
        return self._views(connection, [run])[0]

    def _views(self, connection: Connection, runs: Sequence[Run]) -> list[RunView]:
        """Show runs with one look at all their leases."""
        amounts = self.lease_store.amounts(connection, [run.lease_id for run in runs if run.lease_id])
        names = {}
        for allocation_id in {run.allocation_id for run in runs}:
            allocation = self.allocations.get(connection, allocation_id)
            names[allocation_id] = allocation.name if allocation else ""
        # A run of a sweep waits as the sweep does.
        awaited = self.chains.awaited(connection, {run.sweep_id or run.id for run in runs})
        waiting = self.chains.waiting(connection, {run.id for run in runs})
        queued = {run.sweep_id for run in runs if run.sweep_id and run.state is RunState.QUEUED}
        reasons = self.sweeps.waiting_reasons(connection, queued) if queued else {}
        views = []
        for run in runs:
            reason = reasons.get(run.sweep_id or "") if run.state is RunState.QUEUED else None
            view = RunView.from_run(run, names[run.allocation_id], amounts.get(run.lease_id or "", (0, 0)), reason)
            after = awaited[run.sweep_id or run.id]
            changes: dict[str, Any] = {"after": after, "followed_by": waiting[run.id][:SHOWN_MAX]}
            if run.state is RunState.QUEUED and run.waits_for is not None:
                changes["waiting_reason"] = waiting_sentence(after, run.waits_for) or view.waiting_reason
            views.append(view.model_copy(update=changes))
        return views


def _is_current(run: Run, attempt: int) -> bool:
    """Say whether a report is of the attempt that is under way: one repeated late may be of an earlier one."""
    return run.state in ACTIVE_STATES and run.attempt == attempt


def _holder(run_id: str, sweep_id: str | None, name: str) -> str:
    """Return whose directory a file of a run lies in: a sweep keeps the one notebook of its runs."""
    return sweep_id if sweep_id is not None and name == INPUT else run_id


def _no_run(run_id: str) -> NotFoundError:
    return NotFoundError(f"There is no run {run_id!r}.", "Look it up in the list of runs.")
