"""Admits, renews and ends leases: the only way in which anything comes to run, and in which it is charged.

Invariants kept here (numbers as in the design):

3. HOLD_ENDS_ONCE: a hold is settled (charged at most what it held), voided or expired, in the transaction that locks
   its lease; the stop reported by the hub and the expiry by the worker can meet, and the second finds it ended.
7. CHARGE_WITHIN_LIFETIME: whole seconds between start and end, rounded down, by the rate at admission.
8. SERVICE_CLOCK: times reported by others are taken only between the lease's acquisition and this clock's now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from allocations.clock import MS_PER_SECOND
from allocations.errors import (
    AllocationsError,
    LeaseEndedError,
    NotFoundError,
    TransitionError,
)
from allocations.leases.admission import Asked, new_hold
from allocations.leases.models import EndReason, Hold, Lease, LeaseKind, LeaseRequest, LeaseState
from allocations.leases.rules import may_run_until_ms
from allocations.leases.views import LeaseView
from allocations.ledger.models import Holding, Transaction, TransactionKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.db.idempotency import IdempotencyKey
    from allocations.ids import IdFactory
    from allocations.leases.admission import Admission
    from allocations.leases.queue import AdmissionQueue
    from allocations.leases.store import LeaseStore
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy

WORKER = "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseService:
    """Leases from their first second to their last."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    ledger: Ledger
    leases: LeaseStore
    allocations: AllocationStore
    admission: Admission
    queue: AdmissionQueue

    def acquire(self, request: LeaseRequest, key: IdempotencyKey) -> LeaseView:
        """Hold what is needed before anything is created.

        Raises the AllocationsError that says why not: agreement, membership, state, size, room, balance.
        """
        return self.submit(request, key).result()

    def submit(self, request: LeaseRequest, key: IdempotencyKey) -> Future[LeaseView]:
        """As `acquire`, without waiting: those that come together for one tree are decided in one transaction."""
        return self.queue.submit(Asked(request, key.caller, key))

    def acquire_within(self, connection: Connection, request: LeaseRequest, actor: str) -> LeaseView:
        """As `acquire`, as a part of the caller's transaction; a denial leaves it as it was."""
        answer = self.admission.decide(connection, [Asked(request, actor)])[0]
        if isinstance(answer, AllocationsError):
            raise answer
        return answer

    def check(self, connection: Connection, request: LeaseRequest) -> None:
        """Raise what admission would refuse for good: everything but what is running or held at the moment."""
        self.admission.require_admissible(connection, request)

    def start(self, lease_id: str, started_at_ms: int | None = None) -> LeaseView:
        """The server runs: charging starts. A repeated report changes nothing."""
        with self.database.write() as connection:
            return self._view(connection, self.start_within(connection, lease_id, started_at_ms))

    def start_within(self, connection: Connection, lease_id: str, started_at_ms: int | None) -> Lease:
        """As `start`, as a part of the caller's transaction."""
        lease = self._locked(connection, lease_id)
        if lease.state is not LeaseState.OPEN or lease.started_at_ms is not None:
            return lease
        now_ms = self._now_ms(lease)
        start_ms = self._within_lease(lease, started_at_ms, now_ms)
        held_seconds = max(hold.to_second for hold in self.leases.open_holds(connection, lease_id))
        changes: dict[str, Any] = {
            "started_at_ms": start_ms,
            "seen_at_ms": now_ms,
            "ends_at_ms": start_ms + held_seconds * MS_PER_SECOND,
        }
        if lease.kind is LeaseKind.BATCH:
            changes["latest_end_at_ms"] = changes["ends_at_ms"]
        self.leases.change(connection, lease_id, **changes)
        return replace(lease, **changes)

    def renew(self, lease_id: str, seen_at_ms: int | None = None) -> LeaseView:
        """Charge what an interactive server has used and hold ahead by one quantum, or as far as the balance goes.

        It is charged up to `seen_at_ms`, when it was last seen running (None: now), and held beyond. A lease
        that cannot be held the whole quantum ahead is marked `final`. LeaseEndedError when it has ended.
        """
        with self.database.write() as connection:
            lease = self._locked(connection, lease_id)
            if lease.state is not LeaseState.OPEN:
                raise LeaseEndedError(f"The lease {lease_id} has ended.", "Start a server anew.")
            if lease.kind is LeaseKind.INTERACTIVE:
                lease = self._renew(connection, lease, seen_at_ms)
            return self._view(connection, lease)

    def settle(self, lease_id: str, ended_at_ms: int | None = None) -> LeaseView:
        """It has stopped: charge to the second, free the rest. An ended lease stays as it is."""
        with self.database.write() as connection:
            lease = self.settle_within(connection, lease_id, ended_at_ms, EndReason.STOPPED)
            return self._view(connection, lease)

    def settle_within(self, connection: Connection, lease_id: str, ended_at_ms: int | None, reason: EndReason) -> Lease:
        """As `settle`, as a part of the caller's transaction."""
        lease = self._locked(connection, lease_id)
        if lease.state is not LeaseState.OPEN:
            return lease
        now_ms = self._now_ms(lease)
        end_ms = min(self._within_lease(lease, ended_at_ms, now_ms), lease.latest_end_at_ms)
        if lease.started_at_ms is None:
            # It stopped, so it ran; a start that was never reported is taken as the moment of the hold.
            lease = replace(lease, started_at_ms=lease.acquired_at_ms)
        return self._end(connection, lease, LeaseState.SETTLED, end_ms, reason, now_ms)

    def void(self, lease_id: str) -> LeaseView:
        """It never ran: free the hold, charge nothing. TransitionError when it did run."""
        with self.database.write() as connection:
            lease = self._locked(connection, lease_id)
            if lease.state is LeaseState.OPEN and lease.started_at_ms is not None:
                raise TransitionError("The lease's server has started, so it is settled, not voided.", "Settle it.")
            return self._view(connection, self.void_within(connection, lease_id, EndReason.NEVER_RAN))

    def void_within(self, connection: Connection, lease_id: str, reason: EndReason) -> Lease:
        """Free the open hold without a charge, as a part of the caller's transaction."""
        lease = self._locked(connection, lease_id)
        if lease.state is not LeaseState.OPEN:
            return lease
        now_ms = self._now_ms(lease)
        return self._end(connection, lease, LeaseState.VOIDED, now_ms, reason, now_ms)

    def expire(self, lease_id: str) -> LeaseView:
        """No stop was reported in time: charge to the lease's end; one that never started is voided."""
        with self.database.write() as connection:
            lease = self._locked(connection, lease_id)
            if lease.state is LeaseState.OPEN:
                now_ms = self._now_ms(lease)
                reason = EndReason.NO_STOP_REPORTED
                if lease.started_at_ms is None:
                    lease = self._end(connection, lease, LeaseState.VOIDED, now_ms, EndReason.NEVER_RAN, now_ms)
                else:
                    lease = self._end(connection, lease, LeaseState.EXPIRED, lease.ends_at_ms, reason, now_ms)
            return self._view(connection, lease)

    def end_departed(self) -> int:
        """Let the open leases of people who are no members any more end now; return how many.

        Their servers are then stopped like any at its end, and settled; nothing is charged beyond the stop.
        """
        now_ms = self.clock.now_ms()
        with self.database.write() as connection:
            return self.leases.end_departed(connection, now_ms)

    def get(self, lease_id: str) -> LeaseView:
        """Return a lease; NotFoundError when there is none."""
        with self.database.read() as connection:
            lease = self.leases.get(connection, lease_id)
            if lease is None:
                raise _no_lease(lease_id)
            return self._view(connection, lease)

    def views(self, connection: Connection, leases: Sequence[Lease]) -> list[LeaseView]:
        """Show leases with their names and amounts."""
        amounts = self.leases.amounts(connection, [lease.id for lease in leases])
        names: dict[str, str] = {}
        for lease in leases:
            if lease.allocation_id not in names:
                allocation = self.allocations.get(connection, lease.allocation_id)
                names[lease.allocation_id] = allocation.name if allocation else ""
        return [
            LeaseView.from_lease(lease, names[lease.allocation_id], *amounts.get(lease.id, (0, 0))) for lease in leases
        ]

    # ------------------------------------------------------------------ inside

    def _locked(self, connection: Connection, lease_id: str) -> Lease:
        lease = self.leases.get(connection, lease_id, lock=True)
        if lease is None:
            raise _no_lease(lease_id)
        return lease

    def _within_lease(self, lease: Lease, at_ms: int | None, now_ms: int) -> int:
        """Take a reported time only as far as it lies between the lease's acquisition and now."""
        if at_ms is None:
            return max(now_ms, lease.acquired_at_ms)
        return max(lease.acquired_at_ms, min(at_ms, now_ms))

    def _renew(self, connection: Connection, lease: Lease, seen_at_ms: int | None) -> Lease:
        now_ms = self._now_ms(lease)
        until_ms = self._may_run_until_ms(connection, lease)
        if now_ms >= until_ms:
            return self._mark(connection, lease, final=True)
        latest_end_at_ms = min(lease.latest_end_at_ms, until_ms)
        quantum = self.policy.leases.quantum_seconds
        if lease.started_at_ms is None:
            # Still being created: it keeps its hold, and nothing is charged before it runs.
            ends_at_ms = min(now_ms + quantum * MS_PER_SECOND, latest_end_at_ms)
            self.leases.change(connection, lease.id, ends_at_ms=ends_at_ms)
            return replace(lease, ends_at_ms=ends_at_ms)
        ran = lease.seconds_at(self._within_lease(lease, seen_at_ms, now_ms))
        wanted = lease.seconds_at(now_ms) + quantum
        last_second = (latest_end_at_ms - lease.started_at_ms) // MS_PER_SECOND
        extended = self._extend(connection, lease, ran, wanted_second=min(wanted, last_second), now_ms=now_ms)
        final = extended < wanted
        ends_at_ms = lease.started_at_ms + extended * MS_PER_SECOND
        changes: dict[str, Any] = {"ends_at_ms": ends_at_ms, "final": final, "moved_at_ms": now_ms}
        self.leases.change(connection, lease.id, **changes)
        return replace(lease, **changes)

    def _may_run_until_ms(self, connection: Connection, lease: Lease) -> int:
        """Return until when the lease may be renewed at most; 0 for somebody who is no member any more."""
        if self.allocations.member(connection, lease.allocation_id, lease.person) is None:
            return 0
        path = self.allocations.with_ancestors(connection, [lease.allocation_id])
        return may_run_until_ms(list(path.values()), self.policy.leases.allocation_end_grace_seconds)

    def _now_ms(self, lease: Lease) -> int:
        """Return this clock's now, but never before the journal last moved for the lease.

        Another process, or this one before it was started anew, may have had a clock that was ahead.
        """
        return max(self.clock.now_ms(), lease.moved_at_ms)

    def _extend(self, connection: Connection, lease: Lease, ran: int, *, wanted_second: int, now_ms: int) -> int:
        """End the open holds at `ran` seconds and hold on from there; return the second now held to.

        When the balance does not let the lease be held any longer than it is, nothing moves.
        """
        path = self.ledger.path(connection, lease.allocation_id)
        # Locked before they are read: what is available here cannot be taken by another until this commits.
        self.ledger.lock(connection, path)
        holds = self.leases.open_holds(connection, lease.id)
        held_to = min(hold.to_second for hold in holds)
        # A sighting older than the last renewal's ends nothing before it: those seconds are charged already.
        ran = max(ran, *(hold.from_second for hold in holds))
        begin = min(ran, held_to)
        reach = wanted_second
        for hold in holds:
            freed = hold.amount - hold.charge_at(ran)
            available = self.ledger.available(connection, path, hold.unit) + freed
            reach = min(reach, begin + max(available, 0) // hold.per_second)
        if reach <= held_to:
            return held_to
        transaction = self._transaction(lease, TransactionKind.RENEW, WORKER, now_ms)
        for hold in holds:
            self._finish_hold(connection, transaction, path, lease, hold, LeaseState.SETTLED, hold.charge_at(ran))
        fresh = [new_hold(lease, hold.sequence + 1, hold.unit, begin, reach) for hold in holds]
        self.ledger.hold(connection, [Holding(transaction, path, {hold.unit: hold.amount for hold in fresh})])
        self.leases.add_holds(connection, fresh)
        return reach

    def _end(
        self,
        connection: Connection,
        lease: Lease,
        state: LeaseState,
        end_ms: int,
        reason: EndReason,
        now_ms: int,
    ) -> Lease:
        if lease.started_at_ms is not None:
            end_ms = max(end_ms, lease.started_at_ms)
        ran = lease.seconds_at(end_ms)
        if state is LeaseState.SETTLED and lease.kind is LeaseKind.INTERACTIVE:
            # A renewal that came late left seconds uncovered: hold them now, as far as the balance goes.
            held_to = min(hold.to_second for hold in self.leases.open_holds(connection, lease.id))
            if ran > held_to:
                self._extend(connection, lease, ran, wanted_second=ran, now_ms=now_ms)
        path = self.ledger.path(connection, lease.allocation_id)
        kind = {
            LeaseState.SETTLED: TransactionKind.SETTLE,
            LeaseState.VOIDED: TransactionKind.VOID,
            LeaseState.EXPIRED: TransactionKind.EXPIRE,
        }[state]
        transaction = self._transaction(lease, kind, lease.person, now_ms)
        for hold in self.leases.open_holds(connection, lease.id):
            charged = 0 if state is LeaseState.VOIDED else hold.charge_at(ran)
            self._finish_hold(connection, transaction, path, lease, hold, state, charged)
            if state is LeaseState.SETTLED and ran < hold.from_second:
                self._refund(connection, lease, path, hold, ran, now_ms)
        self.leases.change(
            connection,
            lease.id,
            state=state,
            started_at_ms=lease.started_at_ms,
            ended_at_ms=end_ms,
            end_reason=reason,
            moved_at_ms=now_ms,
        )
        return replace(lease, state=state, ended_at_ms=end_ms, end_reason=reason)

    def _finish_hold(
        self,
        connection: Connection,
        transaction: Transaction,
        path: Sequence[str],
        lease: Lease,
        hold: Hold,
        state: LeaseState,
        charged: int,
    ) -> None:
        seconds = charged // hold.per_second
        self.ledger.end_hold(connection, transaction, path, hold.unit, hold.amount, charged, lease.quantities(seconds))
        self.leases.end_hold(connection, hold, state, charged)

    def _refund(
        self, connection: Connection, lease: Lease, path: Sequence[str], last: Hold, ran: int, now_ms: int
    ) -> None:
        """Give back what renewals charged beyond the end: the server had stopped before it was last believed to run."""
        transaction = self._transaction(lease, TransactionKind.REFUND, lease.person, now_ms)
        excess_seconds = last.from_second - ran
        self.ledger.refund(
            connection,
            transaction,
            path,
            last.unit,
            excess_seconds * last.per_second,
            lease.quantities(excess_seconds),
        )
        self.leases.lower_charges(connection, lease.id, last.unit, ran)

    def _mark(self, connection: Connection, lease: Lease, *, final: bool) -> Lease:
        if lease.final != final:
            self.leases.change(connection, lease.id, final=final)
        return replace(lease, final=final)

    def _transaction(self, lease: Lease, kind: TransactionKind, actor: str, now_ms: int) -> Transaction:
        return Transaction(
            id=self.new_id("tx"),
            at_ms=now_ms,
            kind=kind,
            actor=actor,
            policy_version=self.policy.version,
            lease_id=lease.id,
        )

    def _view(self, connection: Connection, lease: Lease) -> LeaseView:
        return self.views(connection, [lease])[0]


def _no_lease(lease_id: str) -> NotFoundError:
    return NotFoundError(f"There is no lease {lease_id!r}.", "Look the lease up in the list of leases.")
