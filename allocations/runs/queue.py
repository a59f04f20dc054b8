"""Admits queued runs, whose turn it is first: between allocations, between people, between single runs and sweeps.

Locks are taken in one order: a sweep, then a run of it, then the balances of its tree. Whoever cancels a sweep takes
them in the same order, so that nothing of it is admitted meanwhile; and the runs of a sweep that are active are
counted while it is locked, so that two executors together admit no more of them than it allows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from allocations.errors import AllocationsError, AtOnceLimitError, InsufficientBalanceError, StorageLockedError
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.runs.ends import EndCode
from allocations.runs.models import Run, RunError, RunState

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.service import LeaseService
    from allocations.runs.queue_store import RunQueueStore
    from allocations.runs.store import RunStore
    from allocations.runs.sweep_store import SweepStore

# How many kinds of queued runs one claim looks at: enough for fairness between allocations, bounded.
CLAIM_WINDOW = 500


@dataclass(slots=True)
class _Turns:
    """What waits and what runs, as one claim found it and changed it since."""

    heads: list[Run]
    active: Counter[tuple[str, str]]

    def next(self) -> Run | None:
        """Return the head whose turn it is."""
        on_allocation: Counter[str] = Counter()
        for (allocation, _), count in self.active.items():
            on_allocation[allocation] += count
        return min(
            self.heads,
            key=lambda one: (
                on_allocation[one.allocation_id],
                self.active[one.allocation_id, one.person],
                one.sweep_id is not None,
                one.submitted_at_ms,
                one.sweep_row or 0,
                one.id,
            ),
            default=None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQueue:
    """The order in which queued runs are admitted, each in a transaction with its lease."""

    database: Database
    clock: Clock
    leases: LeaseService
    runs: RunStore
    queue: RunQueueStore
    sweeps: SweepStore

    def claim(self, executor: str, limit: int) -> list[Run]:
        """Admit up to `limit` queued runs for an executor, in fair order.

        The allocation with the fewest active runs comes first; of its people the one with the fewest; of their runs
        the single ones before those of sweeps, the oldest first. A run that must wait for room or balance stays queued
        and says so; one that can no longer be admitted fails with the reason, and with it all that wait as it does.
        """
        with self.database.read() as connection:
            heads = self.queue.heads(connection, CLAIM_WINDOW)
            turns = _Turns(heads, Counter(self.queue.active(connection)))
        admitted: list[Run] = []
        # A transaction for each: one that held the balances of several trees, in the order of their runs, could wait
        # for an admission that holds one of them and waits for another.
        while len(admitted) < limit and (head := turns.next()) is not None:
            turns.heads.remove(head)
            with self.database.write() as connection:
                taken = self._take(connection, head, executor)
                following = self.queue.first(connection, head) if taken else None
            if taken is not None:
                admitted.append(taken)
                turns.active[taken.allocation_id, taken.person] += 1
            if following is not None:
                turns.heads.append(following)
        return admitted

    def _take(self, connection: Connection, head: Run, executor: str) -> Run | None:
        """Admit the first run of a kind; None when there is none any more, or none may be admitted now."""
        if head.sweep_id is not None:
            at_once = self.sweeps.locked(connection, head.sweep_id).at_once
            if at_once is not None and self.queue.active_of(connection, head.sweep_id) >= at_once:
                self._explain(connection, head, f"The sweep runs {at_once} at once, as it was submitted.")
                return None
            self.sweeps.explain_waiting(connection, head.sweep_id, None)
        run = self.queue.first(connection, head, lock=True)
        return None if run is None else self._admit(connection, run, executor)

    def _admit(self, connection: Connection, run: Run, executor: str) -> Run | None:
        request = LeaseRequest(
            allocation=run.allocation_id,
            person=run.person,
            kind=LeaseKind.BATCH,
            size=run.size,
            image=run.image,
            server_name="",
            max_seconds=run.max_seconds,
            chosen_at_ms=run.submitted_at_ms,
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
            # Where only the image was named, the version that it came to.
            "image": lease.image,
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
            self._explain(connection, run, error.detail)
            return
        refusal = RunError(name=error.title, message=f"{error.detail} {error.remedy}".strip())
        self.queue.refuse(
            connection,
            run,
            state=RunState.FAILED,
            waiting_reason=None,
            ended_at_ms=self.clock.now_ms(),
            error=refusal.model_dump_json(),
            end_code=EndCode.NOT_ADMITTED,
        )

    def _explain(self, connection: Connection, run: Run, reason: str) -> None:
        """Say why runs wait: of a sweep in one place, for the reason may change with every claim."""
        if run.sweep_id is not None:
            self.sweeps.explain_waiting(connection, run.sweep_id, reason)
        else:
            self.queue.explain_waiting(connection, run, reason)
