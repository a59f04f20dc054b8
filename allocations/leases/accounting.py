"""Renews and ends leases: many of a tree in one transaction, each by itself, in the order given.

Invariants kept here (numbers as in the design):

1. WITHIN_LIMIT: the balances along every path are locked before anything is read, from the root down as in admission;
   what a renewal takes is taken from what the ones before it have left.
3. HOLD_ENDS_ONCE: a hold is settled (charged at most what it held), voided or expired, in the transaction that locks
   its lease; the stop reported by the hub and the expiry by the worker can meet, and the second finds it ended.
7. CHARGE_WITHIN_LIFETIME: whole seconds between start and end, rounded down, by the rate at admission.
   Where the worker guessed an end, the first report of the true one corrects the charge, by a new hold or a refund;
   the lease's reason tells guesses from reports, so that a second report finds nothing to correct.
8. SERVICE_CLOCK: times reported by others are taken only between the lease's acquisition and this clock's now.

Everybody who locks both locks balances first and leases, by their ids, after them; so none waits for one that waits for
it. Whoever only notes something of a lease (its start, a sighting) locks no balance, and several leases only as far as
they are free.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from allocations.clock import MS_PER_SECOND
from allocations.errors import AllocationsError, LeaseEndedError, NotFoundError, TransitionError
from allocations.leases.admission import new_hold
from allocations.leases.models import Ending, EndReason, Hold, Lease, LeaseKind, LeaseState, Renewal
from allocations.leases.rules import may_run_until_ms
from allocations.ledger.models import Account, Movement, Transaction, TransactionKind, Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.ids import IdFactory
    from allocations.leases.store import LeaseStore
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.models import Allocation, Member, Suspension
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.suspensions import SuspensionStore
    from allocations.policy.models import Policy

WORKER = "worker"
Outcome = Lease | AllocationsError
Wanted = TypeVar("Wanted", Renewal, Ending)
_ENDS = {
    LeaseState.SETTLED: TransactionKind.SETTLE,
    LeaseState.VOIDED: TransactionKind.VOID,
    LeaseState.EXPIRED: TransactionKind.EXPIRE,
}


@dataclass(frozen=True, slots=True)
class _Books:
    """What is read once, locked, for all leases, and what is to be written; each decision looks here and adds to it."""

    now_ms: int
    nodes: Mapping[str, Allocation]
    members: Mapping[tuple[str, str], Member]
    suspended: Mapping[str, Suspension]
    free: dict[tuple[str, Unit], int]
    left: dict[tuple[str, str], int]
    leases: dict[str, Lease]
    holds: dict[str, list[Hold]]
    charged_to: dict[str, list[tuple[Hold, int]]]
    paths: dict[str, list[Allocation]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    movements: list[Movement] = field(default_factory=list)
    ended: list[tuple[Hold, LeaseState, int]] = field(default_factory=list)
    added: list[Hold] = field(default_factory=list)
    lowered: list[tuple[str, Unit, int]] = field(default_factory=list)

    def lease(self, lease_id: str) -> Lease:
        """Return the lease; NotFoundError when there is none."""
        try:
            return self.leases[lease_id]
        except KeyError:
            raise no_lease(lease_id) from None

    def path(self, lease: Lease) -> list[Allocation]:
        """Return the nodes from the root down to the lease's allocation."""
        if lease.allocation_id not in self.paths:
            path = [self.nodes[lease.allocation_id]]
            while (parent := path[-1].parent_id) is not None:
                path.append(self.nodes[parent])
            self.paths[lease.allocation_id] = path[::-1]
        return self.paths[lease.allocation_id]

    def change(self, lease: Lease, **changes: Any) -> Lease:
        """Note what changes of a lease, and return it changed."""
        after = replace(lease, **changes)
        if after != self.leases[lease.id]:
            self.leases[lease.id] = after
            self.changed.add(lease.id)
        return after

    def available(self, lease: Lease, unit: Unit) -> int:
        """Return what a hold may take at most: the least that any node of the path has free."""
        return min(free for node in self.path(lease) if (free := self.free.get((node.id, unit))) is not None)

    def left_of_cap(self, lease: Lease, unit: Unit) -> int | None:
        """Return what the member may still spend of a unit by a lead's cap, None where there is none."""
        return self.left.get((lease.allocation_id, lease.person)) if unit is Unit.CREDITS else None

    def move(
        self,
        transaction: Transaction,
        lease: Lease,
        hold: Hold,
        source: Account,
        target: Account,
        amount: int,
        quantities: Mapping[str, int] | None = None,
    ) -> None:
        """Move an amount of a hold's unit at the lease's allocation, and count it at each on its path."""
        if amount == 0:
            return
        ids = [node.id for node in self.path(lease)]
        self.movements.append(Movement(transaction, ids, hold.unit, source, target, amount, quantities))
        freed = amount * ((target is Account.FREE) - (source is Account.FREE))
        for node in ids if freed else ():
            if (node, hold.unit) in self.free:
                self.free[node, hold.unit] += freed
        if freed and self.left_of_cap(lease, hold.unit) is not None:
            self.left[lease.allocation_id, lease.person] += freed

    def end_hold(self, transaction: Transaction, lease: Lease, hold: Hold, state: LeaseState, charged: int) -> None:
        """End a hold: post what is charged, free the rest."""
        assert 0 <= charged <= hold.amount, "a charge never exceeds its hold"
        quantities = lease.quantities(charged // hold.per_second)
        self.move(transaction, lease, hold, Account.HELD, Account.POSTED, charged, quantities)
        self.move(transaction, lease, hold, Account.HELD, Account.FREE, hold.amount - charged)
        self.ended.append((hold, state, charged))

    def add_hold(self, transaction: Transaction, lease: Lease, hold: Hold) -> None:
        """Take a hold."""
        self.move(transaction, lease, hold, Account.FREE, Account.HELD, hold.amount)
        self.added.append(hold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """The one way in which what runs is charged."""

    clock: Clock
    new_id: IdFactory
    policy: Policy
    ledger: Ledger
    leases: LeaseStore
    allocations: AllocationStore
    suspensions: SuspensionStore

    def renew(self, connection: Connection, renewals: Sequence[Renewal]) -> list[Outcome]:
        """Charge what interactive leases have used, and hold each ahead by one quantum or as far as the balance goes.

        Each answer is the lease or the error that says why not: LeaseEndedError, NotFoundError. What was written for
        one is written for all or none.
        """
        return self._each(connection, renewals, self._renewed)

    def end(self, connection: Connection, endings: Sequence[Ending]) -> list[Outcome]:
        """End leases; one that has ended stays as it is, unless the worker has guessed that and is told better.

        Answers as `renew`: NotFoundError, TransitionError.
        """
        return self._each(connection, endings, self._ended)

    # ------------------------------------------------------------------ inside

    def _each(
        self, connection: Connection, wanted: Sequence[Wanted], decide: Callable[[_Books, Wanted], Lease]
    ) -> list[Outcome]:
        books = self._open_books(connection, [one.lease_id for one in wanted])
        outcomes: list[Outcome] = []
        for one in wanted:
            try:
                outcomes.append(decide(books, one))
            except AllocationsError as error:
                outcomes.append(error)
        self.ledger.move(connection, books.movements)
        # Added first: where a lease is extended and then ended, its new hold has begun and ended here.
        self.leases.add_holds(connection, books.added)
        self.leases.end_holds(connection, books.ended)
        self.leases.save(connection, [books.leases[lease_id] for lease_id in sorted(books.changed)])
        for lease_id, unit, ran in books.lowered:
            self.leases.lower_charges(connection, lease_id, unit, ran)
        return outcomes

    def _open_books(self, connection: Connection, lease_ids: Sequence[str]) -> _Books:
        on = self.leases.allocations_of(connection, lease_ids)
        # The lock comes before everything that is decided on, as in admission.
        balances = self.ledger.balances(connection, on, lock=True)
        found = self.leases.locked_with_holds(connection, lease_ids)
        guessed = [lease.id for lease, _ in found.values() if lease.is_guessed]
        nodes = self.allocations.with_ancestors(connection, on)
        people = sorted({lease.person for lease, _ in found.values()})
        members = self.allocations.members_among(connection, on, people)
        spent = self.leases.spent_by(connection, members.values())
        return _Books(
            now_ms=self.clock.now_ms(),
            nodes=nodes,
            members=members,
            suspended=self.suspensions.in_force(connection, people),
            free={at: balance.available for at, balance in balances.items()},
            left={place: (members[place].microcredits_max or 0) - sum(of_it) for place, of_it in spent.items()},
            leases={lease.id: lease for lease, _ in found.values()},
            holds={lease.id: holds for lease, holds in found.values()},
            charged_to=self.leases.charged_to(connection, guessed),
        )

    def _renewed(self, books: _Books, renewal: Renewal) -> Lease:
        lease = books.lease(renewal.lease_id)
        if lease.state is not LeaseState.OPEN:
            raise LeaseEndedError(f"The lease {lease.id} has ended.", "Start a server anew.")
        if lease.kind is not LeaseKind.INTERACTIVE or lease.is_rescue:
            return lease
        now_ms = _now_ms(books, lease)
        until_ms = self._may_run_until_ms(books, lease)
        if now_ms >= until_ms:
            return books.change(lease, final=True)
        latest_end_at_ms = min(lease.latest_end_at_ms, until_ms)
        quantum = self.policy.leases.quantum_seconds
        if lease.started_at_ms is None:
            # Still being created: it keeps its hold, and nothing is charged before it runs.
            return books.change(lease, ends_at_ms=min(now_ms + quantum * MS_PER_SECOND, latest_end_at_ms))
        ran = lease.seconds_at(within_lease(lease, renewal.seen_at_ms, now_ms))
        wanted = lease.seconds_at(now_ms) + quantum
        last_second = (latest_end_at_ms - lease.started_at_ms) // MS_PER_SECOND
        extended = self._extend(books, lease, ran, wanted_second=min(wanted, last_second), now_ms=now_ms)
        return books.change(
            lease,
            ends_at_ms=lease.started_at_ms + extended * MS_PER_SECOND,
            final=extended < wanted,
            moved_at_ms=now_ms,
        )

    def _may_run_until_ms(self, books: _Books, lease: Lease) -> int:
        """Return until when the lease may be renewed at most; 0 for somebody who is no member any more."""
        if (lease.allocation_id, lease.person) not in books.members:
            return 0
        until_ms = may_run_until_ms(books.path(lease), self.policy.leases.allocation_end_grace_seconds)
        suspension = books.suspended.get(lease.person)
        return until_ms if suspension is None else min(until_ms, suspension.stops_at_ms)

    def _extend(self, books: _Books, lease: Lease, ran: int, *, wanted_second: int, now_ms: int) -> int:
        """End the open holds at `ran` seconds and hold on from there; return the second now held to.

        When the balance does not let the lease be held any longer than it is, nothing moves.
        """
        holds = books.holds[lease.id]
        held_to = min(hold.to_second for hold in holds)
        # A sighting older than the last renewal's ends nothing before it: those seconds are charged already.
        ran = max(ran, *(hold.from_second for hold in holds))
        begin = min(ran, held_to)
        reach = wanted_second
        for hold in holds:
            freed = hold.amount - hold.charge_at(ran)
            available = books.available(lease, hold.unit)
            left = books.left_of_cap(lease, hold.unit)
            available = (available if left is None else min(available, left)) + freed
            reach = min(reach, begin + max(available, 0) // hold.per_second)
        if reach <= held_to:
            return held_to
        transaction = self._transaction(lease, TransactionKind.RENEW, WORKER, now_ms)
        for hold in holds:
            books.end_hold(transaction, lease, hold, LeaseState.SETTLED, hold.charge_at(ran))
        fresh = [new_hold(lease, hold.sequence + 1, hold.unit, begin, reach) for hold in holds]
        for hold in fresh:
            books.add_hold(transaction, lease, hold)
        books.holds[lease.id] = fresh
        return reach

    def _ended(self, books: _Books, ending: Ending) -> Lease:
        lease = books.lease(ending.lease_id)
        if lease.state is not LeaseState.OPEN:
            return self._corrected(books, lease, ending) if lease.is_guessed else lease
        now_ms = _now_ms(books, lease)
        if lease.started_at_ms is None and ending.started_at_ms is not None:
            lease = started(lease, books.holds[lease.id], ending.started_at_ms, now_ms)
        state, reason = ending.state, ending.reason
        if lease.started_at_ms is None and ending.void_unstarted:
            state, reason = LeaseState.VOIDED, EndReason.NOT_SEEN
        if lease.started_at_ms is not None and ending.refuse_started:
            raise _has_started()
        match state:
            case LeaseState.VOIDED:
                end_ms = now_ms
            case LeaseState.EXPIRED:
                end_ms = lease.ends_at_ms
            case _:
                lease, end_ms = _stopped(lease, ending, now_ms)
        return self._end(books, lease, state, end_ms, reason, now_ms)

    def _corrected(self, books: _Books, lease: Lease, ending: Ending) -> Lease:
        """Put a report in the place of the worker's guess; whatever tells nothing new leaves the guess.

        The charge is for what ran, whatever has become of the allocation and of the person, as for a lease that is
        open: only the balance limits it, for its hold is gone.
        """
        now_ms = _now_ms(books, lease)
        if ending.state is LeaseState.VOIDED:
            if lease.started_at_ms is not None and ending.refuse_started:
                raise _has_started()
            return books.change(lease, end_reason=ending.reason) if lease.state is LeaseState.VOIDED else lease
        if ending.reason is not EndReason.STOPPED or ending.ended_at_ms is None:
            return lease
        if lease.started_at_ms is None and ending.started_at_ms is not None:
            holds = [hold for hold, _ in books.charged_to[lease.id]]
            lease = started(lease, holds, ending.started_at_ms, now_ms)
        lease, end_ms = _stopped(lease, ending, now_ms)
        end_ms = max(end_ms, lease.started_at_ms or 0)
        self._recharge(books, lease, lease.seconds_at(end_ms), now_ms)
        return books.change(
            lease, state=LeaseState.SETTLED, ended_at_ms=end_ms, end_reason=ending.reason, moved_at_ms=now_ms
        )

    def _recharge(self, books: _Books, lease: Lease, ran: int, now_ms: int) -> None:
        """Charge an ended lease for `ran` seconds instead of those that it was charged for.

        What is missing is held and charged at once, in all units for the same seconds, as far as the balances go.
        """
        reach = ran
        for last, charged_to in books.charged_to[lease.id]:
            available = max(books.available(lease, last.unit), 0)
            reach = min(reach, charged_to + available // last.per_second)
        transaction = self._transaction(lease, TransactionKind.SETTLE, lease.person, now_ms)
        for last, charged_to in books.charged_to[lease.id]:
            if reach > charged_to:
                hold = new_hold(lease, last.sequence + 1, last.unit, charged_to, reach)
                books.add_hold(transaction, lease, hold)
                books.end_hold(transaction, lease, hold, LeaseState.SETTLED, hold.amount)
            elif ran < charged_to:
                self._refund(books, lease, last, charged_to, ran, now_ms)

    def _end(
        self, books: _Books, lease: Lease, state: LeaseState, end_ms: int, reason: EndReason, now_ms: int
    ) -> Lease:
        if lease.started_at_ms is not None:
            end_ms = max(end_ms, lease.started_at_ms)
        ran = lease.seconds_at(end_ms)
        if state is LeaseState.SETTLED and lease.kind is LeaseKind.INTERACTIVE:
            # A renewal that came late left seconds uncovered: hold them now, as far as the balance goes.
            held_to = min((hold.to_second for hold in books.holds[lease.id]), default=ran)
            if ran > held_to:
                self._extend(books, lease, ran, wanted_second=ran, now_ms=now_ms)
        transaction = self._transaction(lease, _ENDS[state], lease.person, now_ms)
        for hold in books.holds[lease.id]:
            charged = 0 if state is LeaseState.VOIDED else hold.charge_at(ran)
            books.end_hold(transaction, lease, hold, state, charged)
            if state is LeaseState.SETTLED and ran < hold.from_second:
                self._refund(books, lease, hold, hold.from_second, ran, now_ms)
        # The end of one may be guessed and then reported among the same leases.
        books.charged_to[lease.id] = [
            (hold, 0 if state is LeaseState.VOIDED else min(ran, hold.to_second)) for hold in books.holds[lease.id]
        ]
        books.holds[lease.id] = []
        return books.change(lease, state=state, ended_at_ms=end_ms, end_reason=reason, moved_at_ms=now_ms)

    def _refund(self, books: _Books, lease: Lease, last: Hold, charged_to: int, ran: int, now_ms: int) -> None:
        """Give back what was charged beyond the end: the server had stopped before it was last believed to run."""
        transaction = self._transaction(lease, TransactionKind.REFUND, lease.person, now_ms)
        seconds = charged_to - ran
        quantities = lease.quantities(seconds)
        books.move(transaction, lease, last, Account.POSTED, Account.FREE, seconds * last.per_second, quantities)
        books.lowered.append((lease.id, last.unit, ran))

    def _transaction(self, lease: Lease, kind: TransactionKind, actor: str, now_ms: int) -> Transaction:
        return Transaction(
            id=self.new_id("tx"),
            at_ms=now_ms,
            kind=kind,
            actor=actor,
            policy_version=self.policy.version,
            lease_id=lease.id,
        )


def started(lease: Lease, holds: Sequence[Hold], started_at_ms: int | None, now_ms: int) -> Lease:
    """Return a lease as it is when its server has begun to run: what it holds counts from there.

    One that holds nothing ends when it ends.
    """
    start_ms = within_lease(lease, started_at_ms, now_ms)
    held_seconds = max((hold.to_second for hold in holds), default=None)
    ends_at_ms = lease.ends_at_ms if held_seconds is None else start_ms + held_seconds * MS_PER_SECOND
    return replace(
        lease,
        started_at_ms=start_ms,
        seen_at_ms=now_ms,
        ends_at_ms=ends_at_ms,
        latest_end_at_ms=ends_at_ms if lease.kind is LeaseKind.BATCH else lease.latest_end_at_ms,
    )


def _stopped(lease: Lease, ending: Ending, now_ms: int) -> tuple[Lease, int]:
    """Return a lease whose server has run, and when that stopped.

    It stopped, so it ran; a start that was never reported is taken as the moment of the hold.
    """
    end_ms = min(within_lease(lease, ending.ended_at_ms, now_ms), lease.latest_end_at_ms)
    return replace(lease, started_at_ms=lease.started_at_ms or lease.acquired_at_ms), end_ms


def _has_started() -> TransitionError:
    return TransitionError("The lease's server has started, so it is settled, not voided.", "Settle it.")


def within_lease(lease: Lease, at_ms: int | None, now_ms: int) -> int:
    """Take a reported time only as far as it lies between the lease's acquisition and now."""
    if at_ms is None:
        return max(now_ms, lease.acquired_at_ms)
    return max(lease.acquired_at_ms, min(at_ms, now_ms))


def no_lease(lease_id: str) -> NotFoundError:
    """Return the error of a lease that is not there."""
    return NotFoundError(f"There is no lease {lease_id!r}.", "Look the lease up in the list of leases.")


def _now_ms(books: _Books, lease: Lease) -> int:
    """Return this clock's now, but never before the journal last moved for the lease.

    Another process, or this one before it was started anew, may have had a clock that was ahead.
    """
    return max(books.now_ms, lease.moved_at_ms)
