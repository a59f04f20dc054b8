"""Admits, renews and ends leases: the only way in which anything comes to run, and in which it is charged.

Invariants kept here (numbers as in the design):

3. HOLD_ENDS_ONCE: a hold is settled (charged at most what it held), voided or expired, in the transaction that locks
   its lease; the stop reported by the hub and the expiry by the worker can meet, and the second finds it ended.
4. SAME_KEY_SAME_ANSWER: an acquisition's answer is kept beside its hold, in one transaction.
7. CHARGE_WITHIN_LIFETIME: whole seconds between start and end, rounded down, by the rate at admission.
8. SERVICE_CLOCK: times reported by others are taken only between the lease's acquisition and this clock's now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select

from allocations.clock import MS_PER_SECOND
from allocations.db.idempotency import answered_once
from allocations.db.schema import balances
from allocations.errors import (
    AgreementRequiredError,
    AllocationNotActiveError,
    InvalidInputError,
    LeaseEndedError,
    NotAMemberError,
    NotFoundError,
    TransitionError,
    UnknownAllocationError,
    UnknownImageError,
    UnknownSizeError,
)
from allocations.leases.models import EndReason, Hold, Lease, LeaseKind, LeaseRequest, LeaseState
from allocations.leases.rules import InUse, Limits, limits_of, require_room, require_size, require_usable
from allocations.leases.views import LeaseView
from allocations.ledger.models import Transaction, TransactionKind, Unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.db.idempotency import IdempotencyKey
    from allocations.ids import IdFactory
    from allocations.leases.store import LeaseStore
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.models import Allocation
    from allocations.lifecycle.stores.agreements import AgreementStore
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Image, Policy, Size

_UNITS = select(balances.c.unit).where(balances.c.allocation_id.in_(bindparam("path", expanding=True))).distinct()
AGREEMENT_URL = "/services/allocations/agreement"
WORKER = "worker"


@dataclass(frozen=True, slots=True)
class _Admission:
    """Everything that admission decided on."""

    allocation: Allocation
    limits: Limits
    size: Size
    image: Image
    path: Sequence[str]


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
    agreements: AgreementStore

    @answered_once
    def acquire(self, request: LeaseRequest, idempotency: IdempotencyKey) -> LeaseView:
        """Hold what is needed before anything is created.

        Raises the AllocationsError that says why not: agreement, membership, state, size, room, balance.
        """
        with self.database.write() as connection:
            answer = idempotency.recall(connection)
            if answer is not None:
                return LeaseView.model_validate_json(answer)
            view = self.acquire_within(connection, request, actor=idempotency.caller)
            idempotency.remember(connection, view.model_dump_json(), self.clock.now_ms())
            return view

    def acquire_within(self, connection: Connection, request: LeaseRequest, actor: str) -> LeaseView:
        """As `acquire`, as a part of the caller's transaction (which must be rolled back on an error)."""
        now_ms = self.clock.now_ms()
        admission = self._admit(connection, request, now_ms)
        size, limits = admission.size, admission.limits
        rate = self.policy.prices_at(_moment(now_ms)).microcredits_per_second(size)
        if request.kind is LeaseKind.BATCH:
            if request.max_seconds is None:
                raise InvalidInputError("A batch lease needs its maximum time.", "Send max_seconds.")
            seconds = latest_seconds = request.max_seconds
        else:
            latest_seconds = limits.longest_session_seconds
            seconds = min(self.policy.leases.quantum_seconds, latest_seconds)
        lease = Lease(
            id=self.new_id("lease"),
            allocation_id=admission.allocation.id,
            root_id=admission.allocation.root_id,
            person=request.person,
            kind=request.kind,
            size=size.name,
            image=admission.image.name,
            server_name=request.server_name,
            cores=size.cores,
            memory_gib=size.memory_gib,
            gpus=size.gpus,
            gpu_type=size.gpu_type,
            microcredits_per_second=rate,
            idle_seconds=limits.idle_seconds,
            state=LeaseState.OPEN,
            final=seconds >= latest_seconds,
            acquired_at_ms=now_ms,
            started_at_ms=None,
            ends_at_ms=now_ms + seconds * MS_PER_SECOND,
            latest_end_at_ms=now_ms + latest_seconds * MS_PER_SECOND,
            seen_at_ms=None,
            missing_since_ms=None,
            ended_at_ms=None,
            end_reason=None,
            moved_at_ms=now_ms,
        )
        transaction = self._transaction(lease, TransactionKind.HOLD, actor, now_ms)
        holds = [
            _hold(lease, sequence=1, unit=unit, from_second=0, to_second=seconds)
            for unit in self._units(connection, admission.path, lease)
        ]
        # The balance rows, locked from the root down, come first: whoever holds the root's row may count what is
        # open on its tree, because every other admission on the tree waits for that row.
        self.ledger.hold(connection, transaction, admission.path, {hold.unit: hold.amount for hold in holds})
        in_use = self.leases.in_use(connection, lease.root_id, request.person)
        require_room(limits, size, in_use, is_server=request.kind is LeaseKind.INTERACTIVE)
        self.leases.add(connection, lease)
        self.leases.add_holds(connection, holds)
        return LeaseView.from_lease(lease, admission.allocation.name, held=rate * seconds, charged=0)

    def check(self, connection: Connection, request: LeaseRequest) -> None:
        """Raise what admission would refuse for good: everything but what is running or held at the moment."""
        admission = self._admit(connection, request, self.clock.now_ms())
        rate = self.policy.prices_at(_moment(self.clock.now_ms())).microcredits_per_second(admission.size)
        self.ledger.require_within_reach(connection, admission.path, rate * (request.max_seconds or 0))
        require_room(admission.limits, admission.size, InUse(0, 0, 0), is_server=False)

    def start(self, lease_id: str, started_at_ms: int | None = None) -> LeaseView:
        """The server runs: charging starts. A repeated report changes nothing."""
        with self.database.write() as connection:
            return self._view(connection, self.start_within(connection, lease_id, started_at_ms))

    def start_within(self, connection: Connection, lease_id: str, started_at_ms: int | None) -> Lease:
        """As `start`, as a part of the caller's transaction."""
        lease = self._locked(connection, lease_id)
        if lease.state is not LeaseState.OPEN or lease.started_at_ms is not None:
            return lease
        now_ms = self.clock.now_ms()
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
        now_ms = self.clock.now_ms()
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
        now_ms = self.clock.now_ms()
        return self._end(connection, lease, LeaseState.VOIDED, now_ms, reason, now_ms)

    def expire(self, lease_id: str) -> LeaseView:
        """No stop was reported in time: charge to the lease's end; one that never started is voided."""
        with self.database.write() as connection:
            lease = self._locked(connection, lease_id)
            if lease.state is LeaseState.OPEN:
                now_ms = self.clock.now_ms()
                reason = EndReason.NO_STOP_REPORTED
                if lease.started_at_ms is None:
                    lease = self._end(connection, lease, LeaseState.VOIDED, now_ms, EndReason.NEVER_RAN, now_ms)
                else:
                    lease = self._end(connection, lease, LeaseState.EXPIRED, lease.ends_at_ms, reason, now_ms)
            return self._view(connection, lease)

    def get(self, lease_id: str) -> LeaseView:
        """Return a lease; NotFoundError when there is none."""
        with self.database.read() as connection:
            lease = self.leases.get(connection, lease_id)
            if lease is None:
                raise _no_lease(lease_id)
            return self._view(connection, lease)

    def list_of(self, person: str, limit: int = 100) -> list[LeaseView]:
        """Return a person's leases, newest first."""
        with self.database.read() as connection:
            return self.views(connection, self.leases.of_person(connection, person, limit))

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

    def _admit(self, connection: Connection, request: LeaseRequest, now_ms: int) -> _Admission:
        agreement = self.policy.agreement
        accepted_at_ms = self.agreements.accepted_at_ms(connection, request.person, agreement.version)
        if not agreement.is_accepted(accepted_at_ms, now_ms):
            raise AgreementRequiredError(
                f"The user agreement {agreement.version} has not been accepted "
                + ("yet." if accepted_at_ms is None else f"for {agreement.valid_days} days."),
                "Read and accept it first.",
                AGREEMENT_URL,
            )
        allocation = self.allocations.get(connection, request.allocation)
        # Whoever is not a member learns nothing: an allocation of others looks like one that does not exist.
        if allocation is None:
            raise UnknownAllocationError(
                f"There is no allocation {request.allocation!r}.", "Choose one of your own allocations."
            )
        if self.allocations.member(connection, allocation.id, request.person) is None:
            raise NotAMemberError(
                f"{request.person} is not a member of this allocation.", "Choose one of your own allocations."
            )
        path = self.ledger.path(connection, allocation.id)
        root = allocation
        for node_id in path:
            node = self.allocations.get(connection, node_id) if node_id != allocation.id else allocation
            assert node is not None  # a path consists of rows that exist
            require_usable(node, now_ms)
            if node.parent_id is None:
                root = node
        size, image = self._size(request.size), self._image(request.image)
        limits = limits_of(self.policy, root)
        require_size(limits, size)
        return _Admission(allocation, limits, size, image, path)

    def _size(self, name: str) -> Size:
        try:
            return self.policy.size(name)
        except KeyError:
            known = ", ".join(size.name for size in self.policy.sizes)
            raise UnknownSizeError(f"There is no size {name!r}.", f"Choose one of: {known}.") from None

    def _image(self, name: str | None) -> Image:
        if name is None:
            return self.policy.default_image
        try:
            return self.policy.image(name)
        except KeyError:
            known = ", ".join(image.name for image in self.policy.images)
            raise UnknownImageError(f"There is no image {name!r}.", f"Choose one of: {known}.") from None

    def _units(self, connection: Connection, path: Sequence[str], lease: Lease) -> list[Unit]:
        """Return the units to hold: those that any node of the path is limited in and the lease uses."""
        limited = connection.execute(_UNITS, {"path": list(path)}).scalars()
        return sorted(unit for unit in map(Unit, limited) if lease.per_second(unit) > 0)

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
        now_ms = self.clock.now_ms()
        if not self._may_go_on(connection, lease, now_ms):
            return self._mark(connection, lease, final=True)
        quantum = self.policy.leases.quantum_seconds
        if lease.started_at_ms is None:
            # Still being created: it keeps its hold, and nothing is charged before it runs.
            ends_at_ms = min(now_ms + quantum * MS_PER_SECOND, lease.latest_end_at_ms)
            self.leases.change(connection, lease.id, ends_at_ms=ends_at_ms)
            return replace(lease, ends_at_ms=ends_at_ms)
        ran = lease.seconds_at(self._within_lease(lease, seen_at_ms, now_ms))
        wanted = lease.seconds_at(now_ms) + quantum
        last_second = (lease.latest_end_at_ms - lease.started_at_ms) // MS_PER_SECOND
        extended = self._extend(connection, lease, ran, wanted_second=min(wanted, last_second), now_ms=now_ms)
        final = extended < wanted
        ends_at_ms = lease.started_at_ms + extended * MS_PER_SECOND
        self.leases.change(connection, lease.id, ends_at_ms=ends_at_ms, final=final)
        return replace(lease, ends_at_ms=ends_at_ms, final=final)

    def _may_go_on(self, connection: Connection, lease: Lease, now_ms: int) -> bool:
        """Say whether the person is still a member and every allocation above may still be spent."""
        if self.allocations.member(connection, lease.allocation_id, lease.person) is None:
            return False
        try:
            for node_id in self.ledger.path(connection, lease.allocation_id):
                node = self.allocations.get(connection, node_id)
                assert node is not None  # a path consists of rows that exist
                require_usable(node, now_ms)
        except AllocationNotActiveError:
            return False
        return True

    def _extend(self, connection: Connection, lease: Lease, ran: int, *, wanted_second: int, now_ms: int) -> int:
        """End the open holds at `ran` seconds and hold on from there; return the second now held to.

        When the balance does not let the lease be held any longer than it is, nothing moves.
        """
        path = self.ledger.path(connection, lease.allocation_id)
        # Locked before they are read: what is available here cannot be taken by another until this commits.
        self.ledger.lock(connection, path)
        holds = self.leases.open_holds(connection, lease.id)
        held_to = min(hold.to_second for hold in holds)
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
        fresh = [_hold(lease, hold.sequence + 1, hold.unit, from_second=begin, to_second=reach) for hold in holds]
        self.ledger.hold(connection, transaction, path, {hold.unit: hold.amount for hold in fresh})
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


def _hold(lease: Lease, sequence: int, unit: Unit, from_second: int, to_second: int) -> Hold:
    per_second = lease.per_second(unit)
    return Hold(lease.id, sequence, unit, per_second, from_second, to_second, per_second * (to_second - from_second))


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC)


def _no_lease(lease_id: str) -> NotFoundError:
    return NotFoundError(f"There is no lease {lease_id!r}.", "Look the lease up in the list of leases.")
