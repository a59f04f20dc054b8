"""Admits queued runs, whose turn it is first: between allocations, between people, between single runs and sweeps.

Locks are taken in one order: a sweep, then a run of it, then the balances of its tree. Whoever cancels a sweep takes
them in the same order, so that nothing of it is admitted meanwhile; and the runs of a sweep that are active are
counted while it is locked, so that two executors together admit no more of them than it allows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from allocations.errors import (
    AllocationsError,
    AtOnceLimitError,
    InsufficientBalanceError,
    MemberAtOnceLimitError,
    StorageLockedError,
)
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
    """What waits and what runs, as one claim found it and changed it since.

    `roots` are of the allocations, `taken` the (cores, GPUs) of sweeps' active runs by tree and person. Whoever is
    `kept_back` (a tree, or a person on it) has sweeps that leave what becomes free to a run before them.
    """

    heads: list[Run]
    active: Counter[tuple[str, str]]
    roots: dict[str, str]
    taken: dict[tuple[str, str], tuple[int, int]]
    kept_back: dict[tuple[str, str | None], Run] = field(default_factory=dict)

    def next(self) -> Run | None:
        """Take the head whose turn it is."""
        on_allocation: Counter[str] = Counter()
        for (allocation, _), count in self.active.items():
            on_allocation[allocation] += count
        head = min(
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
        if head is not None:
            self.heads.remove(head)
        return head

    def admit(self, run: Run, following: Run | None) -> None:
        """Note that a run was admitted, and which of its kind comes next."""
        self.active[run.allocation_id, run.person] += 1
        if run.sweep_id is not None:
            place = self.roots[run.allocation_id], run.person
            cores, gpus = self.taken.get(place, (0, 0))
            self.taken[place] = cores + run.cores, gpus + run.gpus
        if following is not None:
            self.heads.append(following)

    def keep_back(self, run: Run, error: AtOnceLimitError) -> None:
        """Let the sweeps after a run that found no room leave what they free to it, if that will be enough for it.

        Small runs would else take each core as it becomes free, and a larger one of somebody else, or of the same
        person, would wait until the last of them. Where others than sweeps are in its way, they need not wait too.
        """
        root = self.roots[run.allocation_id]
        person = run.person if isinstance(error, MemberAtOnceLimitError) else None
        cores, gpus = 0, 0
        for (on, of), (of_cores, of_gpus) in self.taken.items():
            if on == root and person in {None, of}:
                cores, gpus = cores + of_cores, gpus + of_gpus
        if cores >= run.cores and gpus >= run.gpus:
            self.kept_back.setdefault((root, person), run)

    def leaves_room_to(self, head: Run) -> Run | None:
        """Return the run to which one of a sweep leaves the room, if there is one."""
        if head.sweep_id is None:
            return None
        root = self.roots[head.allocation_id]
        return self.kept_back.get((root, None)) or self.kept_back.get((root, head.person))


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
            turns = _Turns(
                heads,
                Counter(self.queue.active(connection)),
                self.queue.roots(connection, [head.allocation_id for head in heads]),
                self.queue.taken_by_sweeps(connection),
            )
        admitted: list[Run] = []
        # A transaction for each: one that held the balances of several trees, in the order of their runs, could wait
        # for an admission that holds one of them and waits for another.
        while len(admitted) < limit and (head := turns.next()) is not None:
            with self.database.write() as connection:
                first = turns.leaves_room_to(head)
                if first is not None:
                    self._explain(connection, head, f"Leaves what comes free to a run that needs {_needs(first)}.")
                    continue
                taken = self._take(connection, head, executor)
                following = self.queue.first(connection, head) if isinstance(taken, Run) else None
            if isinstance(taken, Run):
                admitted.append(taken)
                turns.admit(taken, following)
            elif taken is not None:
                turns.keep_back(head, taken)
        return admitted

    def _take(self, connection: Connection, head: Run, executor: str) -> Run | AtOnceLimitError | None:
        """Admit the first run of a kind; the error when it has to wait for room, None when none may be admitted.

        None also when there is none any more: another executor was first.
        """
        if head.sweep_id is not None:
            at_once = self.sweeps.locked(connection, head.sweep_id).at_once
            if at_once is not None and self.queue.active_of(connection, head.sweep_id) >= at_once:
                self._explain(connection, head, f"The sweep runs {at_once} at once, as it was submitted.")
                return None
            self.sweeps.explain_waiting(connection, head.sweep_id, None)
        run = self.queue.first(connection, head, lock=True)
        return None if run is None else self._admit(connection, run, executor)

    def _admit(self, connection: Connection, run: Run, executor: str) -> Run | AtOnceLimitError | None:
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
            may_wait = self._keep_waiting(connection, run, request, error)
            return error if may_wait and isinstance(error, AtOnceLimitError) else None
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

    def _keep_waiting(self, connection: Connection, run: Run, request: LeaseRequest, error: AllocationsError) -> bool:
        """Say why a run waits, or end all that wait as it does where they would for good; return whether they wait."""
        may_wait = isinstance(error, AtOnceLimitError | InsufficientBalanceError)
        if may_wait:
            try:
                self.leases.check(connection, request)
            except AllocationsError as final:
                error, may_wait = final, False
        # Until files are deleted: what was queued before a lock is not lost by it.
        if may_wait or isinstance(error, StorageLockedError):
            self._explain(connection, run, error.detail)
            return True
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
        return False

    def _explain(self, connection: Connection, run: Run, reason: str) -> None:
        """Say why runs wait: of a sweep in one place, for the reason may change with every claim."""
        if run.sweep_id is not None:
            self.sweeps.explain_waiting(connection, run.sweep_id, reason)
        else:
            self.queue.explain_waiting(connection, run, reason)


def _needs(run: Run) -> str:
    return f"{run.cores} cores" + (f" and {run.gpus} GPUs" if run.gpus else "") + " together"
