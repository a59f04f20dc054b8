"""Takes runs from people, gives them to the batch process when the ledger admits them, and settles how they end."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from allocations.db.idempotency import answered_once
from allocations.errors import (
    AllocationsError,
    AtOnceLimitError,
    InsufficientBalanceError,
    InvalidInputError,
    NotFoundError,
    StorageLockedError,
)
from allocations.leases.models import Ending, EndReason, LeaseKind, LeaseRequest, LeaseState
from allocations.runs.cells import EVENTS_BYTES_MAX, OUTLINE_BYTES_MAX, Cell, cells_of
from allocations.runs.ends import EndCode, known_code
from allocations.runs.files import EVENTS, INPUT, LOG, PROVENANCE, READ_BYTES_MAX
from allocations.runs.models import (
    ACTIVE_STATES,
    ENDED_STATES,
    EVERY_RUN,
    Outcome,
    Run,
    RunError,
    RunFilter,
    RunState,
    RunView,
)
from allocations.runs.places import keys_of, require_place
from allocations.runs.provenance import RECORD_BYTES_MAX, ended_record, submitted_record
from allocations.runs.secrets import require_names
from allocations.runs.submissions import require_file_name, require_notebook, require_parameters

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
    from allocations.runs.files import RunFiles
    from allocations.runs.secrets import SecretService
    from allocations.runs.store import RunStore

# How many kinds of queued runs one claim looks at: enough for fairness between allocations, bounded.
CLAIM_WINDOW = 500


@dataclass(frozen=True, slots=True)
class Submission:
    """What a person submits. `notebook` is the parsed .ipynb, `max_seconds` None for the policy's default.

    environment: the names of the person's secrets that the notebook gets. output: where what it makes is saved as well.
    replay_of: the run that this one repeats.
    """

    person: str
    allocation: str
    size: str
    name: str
    notebook: Mapping[str, Any]
    parameters: Mapping[str, Any]
    image: str | None = None
    max_seconds: int | None = None
    replay_of: str | None = None
    environment: Sequence[str] = ()
    output: str | None = None


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
    files: RunFiles
    secrets: SecretService

    @answered_once
    def submit(self, submission: Submission, idempotency: IdempotencyKey) -> RunView:
        """Queue a run; what could never be admitted is refused at once with the AllocationsError that says why."""
        rules = self.policy.runs
        content = require_notebook(submission.notebook, rules.notebook_max_bytes)
        parameters = require_parameters(submission.parameters)
        name = require_file_name(submission.name)
        environment, output = require_names(submission.environment), require_place(submission.output)
        max_seconds = submission.max_seconds or rules.default_max_seconds
        if not 0 < max_seconds <= rules.longest_seconds:
            raise InvalidInputError(
                f"The maximum time must lie between 1 second and {rules.longest_seconds // 3600} hours.",
                "Enter another maximum, or split the work into several runs.",
            )
        request = LeaseRequest(
            allocation=submission.allocation,
            person=submission.person,
            kind=LeaseKind.BATCH,
            size=submission.size,
            image=submission.image,
            server_name="",
            max_seconds=max_seconds,
        )
        with self.database.write() as connection:
            answer = idempotency.recall(connection)
            if answer is not None:
                return RunView.model_validate_json(answer)
            self.leases.check(connection, request)
            self.secrets.require(connection, submission.person, [*environment, *keys_of(output)[0]])
            size = self.policy.size(submission.size)
            run = Run(
                id=self.new_id("r"),
                person=submission.person,
                allocation_id=submission.allocation,
                name=name,
                size=submission.size,
                image=submission.image or self.policy.default_image.name,
                cores=size.cores,
                memory_gib=size.memory_gib,
                gpus=size.gpus,
                gpu_type=size.gpu_type,
                parameters=parameters,
                max_seconds=max_seconds,
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
                provenance=submitted_record(content),
                replay_of=submission.replay_of,
                environment=json.dumps(environment) if environment else None,
                output=output,
            )
            # The file first: a run in the queue always has its notebook; a file without a run harms nobody.
            self.files.write_input(run.id, content)
            self.runs.add(connection, run)
            view = self._view(connection, run)
            idempotency.remember(connection, view.model_dump_json(), run.submitted_at_ms)
            return view

    def claim(self, executor: str, limit: int) -> list[RunView]:
        """Admit up to `limit` queued runs for an executor, in fair order between allocations.

        The allocation with the fewest active runs comes first, its oldest run before its others. A run that must
        wait for room or balance stays queued and says so; one that can no longer be admitted fails with the reason.
        """
        admitted: list[Run] = []
        looked_at: set[str] = set()
        # A transaction for each: one that held the balances of several trees, in the order of their runs, could wait
        # for an admission that holds one of them and waits for another.
        while len(admitted) < limit:
            with self.database.write() as connection:
                run = self._next(connection, looked_at)
                if run is None:
                    break
                looked_at.add(run.id)
                taken = self._admit(connection, run, executor)
                if taken is not None:
                    admitted.append(taken)
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

        Lost runs are not charged, and queued again as often as the policy says.
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
            changes: dict[str, Any] = {
                "state": RunState(finish.outcome.value),
                "started_at_ms": lease.started_at_ms,
                "ended_at_ms": lease.ended_at_ms,
                "current_cell": None,
                "error": finish.error.model_dump_json() if finish.error else None,
            }
            changes["provenance"] = ended_record(run.provenance, said, finish.attempt, finish.image_id, finish.node)
            if finish.outcome is Outcome.FAILED:
                changes["end_code"] = known_code(finish.end_code, finish.error.name if finish.error else None)
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

        What they used until they stop is charged. One that is queued anew meanwhile, lost to a fault, is met by the
        next call: the person is among `people_with_runs` until all are cancelled.
        """
        with self.database.write() as connection:
            ended = self.runs.cancel_of(connection, person, self.clock.now_ms())
            if ended:
                self.authority.record(connection, actor, "person.end_runs", person, runs=ended)
            return ended

    def people_with_runs(self, after: str, limit: int) -> list[str]:
        """Return who has runs that wait or go on, by name, from after `after` on."""
        with self.database.read() as connection:
            return self.runs.people_with_runs(connection, after, limit)

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
        return self.files.read(self.get(person, run_id).id, name, bytes_max)

    def watch(self, person: str, run_id: str, log_bytes_max: int) -> RunWatch:
        """Return how a run of one's own does: its cells, and the last bytes of its log."""
        with self.database.read() as connection:
            run = self._found(connection, person, run_id)
            view = self._view(connection, run)
        notebook = self._start_of(run_id, INPUT, OUTLINE_BYTES_MAX)
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

    def _next(self, connection: Connection, looked_at: set[str]) -> Run | None:
        """Return the run whose turn it is, locked, apart from those that were looked at already."""
        waiting = [run for run in self.runs.queued(connection, CLAIM_WINDOW) if run.id not in looked_at]
        active = self.runs.active_by_allocation(connection)
        return min(
            waiting, key=lambda one: (active.get(one.allocation_id, 0), one.submitted_at_ms, one.id), default=None
        )

    def _admit(self, connection: Connection, run: Run, executor: str) -> Run | None:
        request = LeaseRequest(
            allocation=run.allocation_id,
            person=run.person,
            kind=LeaseKind.BATCH,
            size=run.size,
            image=run.image,
            server_name="",
            max_seconds=run.max_seconds,
        )
        try:
            lease = self.leases.acquire_within(connection, request, actor=executor)
        except AllocationsError as error:
            self._keep_waiting(connection, run, request, error)
            return None
        changes: dict[str, Any] = {
            "state": RunState.ADMITTED,
            "executor": executor,
            "lease_id": lease.id,
            "waiting_reason": None,
        }
        self.runs.change(connection, run.id, **changes)
        return replace(run, **changes)

    def _keep_waiting(self, connection: Connection, run: Run, request: LeaseRequest, error: AllocationsError) -> None:
        may_wait = isinstance(error, AtOnceLimitError | InsufficientBalanceError)
        if may_wait:
            try:
                self.leases.check(connection, request)
            except AllocationsError as final:
                error, may_wait = final, False
        # Until files are deleted: what was queued before a lock is not lost by it.
        if may_wait or isinstance(error, StorageLockedError):
            self.runs.explain_waiting(connection, run, error.detail)
            return
        refusal = RunError(name=error.title, message=f"{error.detail} {error.remedy}".strip())
        self.runs.change(
            connection,
            run.id,
            state=RunState.FAILED,
            waiting_reason=None,
            ended_at_ms=self.clock.now_ms(),
            error=refusal.model_dump_json(),
            end_code=EndCode.NOT_ADMITTED,
        )

    def _lose(self, connection: Connection, run: Run, finish: Finish) -> Run:
        assert run.lease_id is not None  # an active run has a lease
        lease = self.leases.end_within(connection, Ending(run.lease_id, LeaseState.VOIDED, EndReason.LOST))
        changes: dict[str, Any] = {"cells_done": 0, "current_cell": None, "started_at_ms": None}
        if run.cancel_requested:
            changes |= {"state": RunState.CANCELLED, "ended_at_ms": lease.ended_at_ms}
        elif run.attempt < self.policy.runs.attempts:
            changes |= {
                "state": RunState.QUEUED,
                "attempt": run.attempt + 1,
                "executor": None,
                "lease_id": None,
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
        return [
            RunView.from_run(run, names[run.allocation_id], amounts.get(run.lease_id or "", (0, 0))) for run in runs
        ]


def _is_current(run: Run, attempt: int) -> bool:
    """Say whether a report is of the attempt that is under way: one repeated late may be of an earlier one."""
    return run.state in ACTIVE_STATES and run.attempt == attempt


def _no_run(run_id: str) -> NotFoundError:
    return NotFoundError(f"There is no run {run_id!r}.", "Look it up in the list of runs.")
