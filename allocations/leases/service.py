"""Admits, renews and ends leases: the only way in which anything comes to run, and in which it is charged."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy.exc import OperationalError

from allocations.clock import MS_PER_SECOND
from allocations.db.idempotency import answered_once
from allocations.errors import AllocationsError
from allocations.leases.accounting import no_lease, started
from allocations.leases.admission import Asked
from allocations.leases.models import Ending, EndReason, Lease, LeaseKind, LeaseRequest, LeaseState, Renewal
from allocations.leases.views import LeaseView, OpenLeaseView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.db.idempotency import IdempotencyKey
    from allocations.leases.accounting import Accounting, Outcome
    from allocations.leases.admission import Admission
    from allocations.leases.queue import LeaseQueue
    from allocations.leases.showing import LeaseViews
    from allocations.leases.store import LeaseStore

log = logging.getLogger(__name__)

# How many leases one transaction renews or ends: an admission on their tree waits for it.
BATCH_MAX = 200
# How many trees are accounted for side by side, each over a connection of its own.
TREES_AT_ONCE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseService:
    """Leases from their first second to their last."""

    database: Database
    clock: Clock
    leases: LeaseStore
    shown: LeaseViews
    admission: Admission
    accounting: Accounting
    queue: LeaseQueue

    def acquire(self, request: LeaseRequest, key: IdempotencyKey) -> LeaseView:
        """Hold what is needed before anything is created.

        Raises the AllocationsError that says why not: agreement, membership, state, size, room, balance.
        """
        return self.submit(request, key).result()

    def submit(self, request: LeaseRequest, key: IdempotencyKey) -> Future[LeaseView]:
        """As `acquire`, without waiting: those that come together are decided in one transaction."""
        return self.queue.admit(Asked(request, key.caller, key))

    def acquire_within(self, connection: Connection, request: LeaseRequest, actor: str) -> LeaseView:
        """As `acquire`, as a part of the caller's transaction; a denial leaves it as it was."""
        answer = self.admission.decide(connection, [Asked(request, actor)])[0]
        if isinstance(answer, AllocationsError):
            raise answer
        return answer

    def check(self, connection: Connection, request: LeaseRequest) -> None:
        """Raise what admission would refuse for good: everything but what is running or held at the moment."""
        self.admission.require_admissible(connection, request)

    def start(self, lease_id: str, started_at_ms: int | None = None, key: IdempotencyKey | None = None) -> LeaseView:
        """The server runs: charging starts. A repeated report changes nothing.

        Where the worker has voided the lease meanwhile, the start is noted and counts when the end is reported.
        """
        return self._answered(key, lambda connection: self.start_within(connection, lease_id, started_at_ms))

    def start_within(self, connection: Connection, lease_id: str, started_at_ms: int | None) -> Lease:
        """As `start`, as a part of the caller's transaction."""
        lease = self.leases.get(connection, lease_id, lock=True)
        if lease is None:
            raise no_lease(lease_id)
        if lease.started_at_ms is not None or not (lease.state is LeaseState.OPEN or lease.is_guessed):
            return lease
        now_ms = max(self.clock.now_ms(), lease.moved_at_ms)
        if lease.state is LeaseState.OPEN:
            running = started(lease, self.leases.open_holds(connection, lease_id), started_at_ms, now_ms)
        else:
            # Voided, for nobody knew: remembered until its end is reported, and so far it ran for no time.
            holds = [hold for hold, _ in self.leases.charged_to(connection, [lease_id])[lease_id]]
            running = started(lease, holds, started_at_ms, now_ms)
            running = replace(running, ended_at_ms=max(lease.ended_at_ms or 0, running.started_at_ms or 0))
        self.leases.save(connection, [running])
        return running

    def renew(self, lease_id: str, seen_at_ms: int | None = None, key: IdempotencyKey | None = None) -> LeaseView:
        """Charge what an interactive server has used and hold ahead by one quantum, or as far as the balance goes.

        It is charged up to `seen_at_ms`, when it was last seen running (None: now), and held beyond. A lease
        that cannot be held the whole quantum ahead is marked `final`. LeaseEndedError when it has ended.
        """
        renewal = Renewal(lease_id, seen_at_ms)
        return self._answered(key, lambda connection: _only(self.accounting.renew(connection, [renewal])))

    def settle(self, lease_id: str, ended_at_ms: int | None = None, key: IdempotencyKey | None = None) -> LeaseView:
        """It has stopped: charge to the second, free the rest. An ended lease stays as it is.

        One whose end the worker had to guess is corrected by the first report that says when it stopped.
        """
        return self._end(Ending(lease_id, LeaseState.SETTLED, EndReason.STOPPED, ended_at_ms), key)

    def void(self, lease_id: str, key: IdempotencyKey | None = None) -> LeaseView:
        """It never ran: free the hold, charge nothing. TransitionError when it did run.

        Also when the worker has settled the lease by a guess: it was reported to have started, which this takes back
        without saying what is true instead. An ended lease stays as it is otherwise.
        """
        return self._end(Ending(lease_id, LeaseState.VOIDED, EndReason.NEVER_RAN, refuse_started=True), key)

    def expire(self, lease_id: str) -> LeaseView:
        """No stop was reported in time: charge to the lease's end; one that never started is voided."""
        return self._end(_expiry(lease_id), None)

    def end_within(self, connection: Connection, ending: Ending) -> Lease:
        """End a lease as a part of the caller's transaction."""
        return _only(self.accounting.end(connection, [ending]))

    def renew_many(self, due: Sequence[Lease]) -> dict[str, Lease]:
        """As `renew`, each charged up to when it was last seen; return the leases as they are then, by id.

        Those of a tree are decided together. One that fails, or has ended meanwhile, is left out.
        """
        return self._in_batches(
            due,
            lambda connection, some: self.accounting.renew(
                connection, [Renewal(lease.id, lease.seen_at_ms or lease.started_at_ms) for lease in some]
            ),
        )

    def expire_many(self, overdue: Sequence[Lease]) -> dict[str, Lease]:
        """As `expire`, otherwise as `renew_many`."""
        return self._in_batches(
            overdue, lambda connection, some: self.accounting.end(connection, [_expiry(lease.id) for lease in some])
        )

    def end_gone(self, gone: Sequence[Lease]) -> dict[str, Lease]:
        """Settle leases whose servers are gone, each when it was last seen; otherwise as `renew_many`.

        One that never started is voided.
        """
        return self._in_batches(
            gone,
            lambda connection, some: self.accounting.end(
                connection,
                [
                    Ending(
                        lease.id,
                        LeaseState.SETTLED,
                        EndReason.GONE,
                        ended_at_ms=lease.seen_at_ms or lease.started_at_ms,
                        void_unstarted=True,
                    )
                    for lease in some
                ],
            ),
        )

    def end_departed(self) -> int:
        """Let the open leases of people who are no members any more end now; return how many.

        Their servers are then stopped like any at its end, and settled; nothing is charged beyond the stop.
        """
        now_ms = self.clock.now_ms()
        with self.database.write() as connection:
            return self.leases.end_departed(connection, now_ms)

    def end_suspended(self) -> int:
        """Let the open leases of suspended people end when their suspension says so; return how many."""
        now_ms = self.clock.now_ms()
        with self.database.write() as connection:
            return self.leases.end_suspended(connection, now_ms)

    def end_stopped(self, grace_seconds: int) -> int:
        """Let open leases on suspended, archived and closed allocations end within the grace; return how many.

        An interactive lease is not renewed and ends by itself; a batch lease holds its whole maximum and would not.
        """
        by_ms = self.clock.now_ms() + grace_seconds * MS_PER_SECOND
        with self.database.write() as connection:
            return self.leases.end_stopped(connection, by_ms)

    def get(self, lease_id: str) -> LeaseView:
        """Return a lease; NotFoundError when there is none."""
        with self.database.read() as connection:
            lease = self.leases.get(connection, lease_id)
            if lease is None:
                raise no_lease(lease_id)
            return self.views(connection, [lease])[0]

    def open_page(self, limit: int, *, after_id: str = "", kind: LeaseKind | None = None) -> list[OpenLeaseView]:
        """Return up to `limit` open leases by their ids, from after `after_id` on."""
        with self.database.read() as connection:
            leases = self.leases.open_page(connection, limit, after_id=after_id, kind=kind)
        return [OpenLeaseView.from_lease(lease, replaced_at_ms) for lease, replaced_at_ms in leases]

    def views(self, connection: Connection, leases: Sequence[Lease]) -> list[LeaseView]:
        """Show leases with their names and amounts."""
        return self.shown.of(connection, leases)

    # ------------------------------------------------------------------ inside

    def _end(self, ending: Ending, key: IdempotencyKey | None) -> LeaseView:
        if key is None:
            return self.queue.end(ending).result()
        return self._answered(key, lambda connection: self.end_within(connection, ending))

    @answered_once
    def _answered(self, key: IdempotencyKey | None, act: Callable[[Connection], Lease]) -> LeaseView:
        """Act in one transaction and show the lease; a key that was answered before is answered the same."""
        with self.database.write() as connection:
            known = key.recall(connection) if key else None
            if known is not None:
                return LeaseView.model_validate(json.loads(known)[0])
            view = self.views(connection, [act(connection)])[0]
            if key:
                # In a list: an answer that is a lease itself is of the one key under which that lease was made.
                key.remember(connection, f"[{view.model_dump_json()}]", self.clock.now_ms())
            return view

    def _in_batches(
        self, leases: Sequence[Lease], act: Callable[[Connection, Sequence[Lease]], Sequence[Outcome]]
    ) -> dict[str, Lease]:
        """Act on the leases of each tree in transactions of at most BATCH_MAX, in their order.

        Killed between two, what is committed stays and the rest is due again. Two workers that meet wait for each
        other's locks, and the second finds what the first has done.
        """
        by_root: dict[str, list[Lease]] = {}
        for lease in leases:
            by_root.setdefault(lease.root_id, []).append(lease)

        def on_tree(of_root: Sequence[Lease]) -> list[Lease]:
            batches = (of_root[begin : begin + BATCH_MAX] for begin in range(0, len(of_root), BATCH_MAX))
            return [outcome for batch in batches for outcome in self._batch(batch, act)]

        # While the database writes for one tree, the next one's is put together; SQLite has one writer.
        with ThreadPoolExecutor(1 if self.database.is_sqlite else TREES_AT_ONCE, "trees") as pool:
            return {outcome.id: outcome for outcomes in pool.map(on_tree, by_root.values()) for outcome in outcomes}

    def _batch(
        self, leases: Sequence[Lease], act: Callable[[Connection, Sequence[Lease]], Sequence[Outcome]]
    ) -> list[Lease]:
        """Act on leases in one transaction; where that fails as a whole, on each in its own."""
        try:
            with self.database.write() as connection:
                outcomes = act(connection, leases)
        except OperationalError:
            # The database is away, or chose this transaction to end a deadlock: not for what it was to write.
            raise
        except Exception:
            if len(leases) > 1:
                return [done for lease in leases for done in self._batch([lease], act)]
            log.exception("a lease could not be accounted for", extra={"lease": leases[0].id})
            return []
        return [outcome for outcome in outcomes if isinstance(outcome, Lease)]


def _expiry(lease_id: str) -> Ending:
    return Ending(lease_id, LeaseState.EXPIRED, EndReason.NO_STOP_REPORTED, void_unstarted=True)


def _only(outcomes: Sequence[Outcome]) -> Lease:
    """Return the one outcome, or raise it."""
    (outcome,) = outcomes
    if isinstance(outcome, AllocationsError):
        raise outcome
    return outcome
