"""Decides requests for leases: many in one transaction, each by itself, in the order of their coming.

Invariants kept here (numbers as in the design):

1. WITHIN_LIMIT: the balances along every path are locked before they are read, root by root, from the root down; what
   is decided on cannot change until the transaction ends, and the ledger's conditional update checks it once more.
4. SAME_KEY_SAME_ANSWER: an acquisition's answer is kept beside its hold, in one transaction.

What is open on a tree may be counted once its root's balance is locked: every admission on the tree waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND, to_date
from allocations.db.idempotency import recall_all, remember_all, reused
from allocations.errors import (
    AgreementRequiredError,
    AllocationNotActiveError,
    AllocationsError,
    InvalidInputError,
    NotAMemberError,
    UnknownAllocationError,
    UnknownSizeError,
)
from allocations.leases.images import choose, is_custom, require_image
from allocations.leases.models import Hold, Lease, LeaseKind, LeaseState
from allocations.leases.rules import (
    InUse,
    effective_limits,
    may_run_until_ms,
    require_cap,
    require_not_suspended,
    require_room,
    require_room_beside_servers,
    require_size,
    require_usable,
)
from allocations.leases.views import LeaseView
from allocations.ledger.models import Account, Movement, Transaction, TransactionKind, Unit
from allocations.ledger.service import insufficient

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.idempotency import IdempotencyKey
    from allocations.ids import IdFactory
    from allocations.leases.images import ChosenImage
    from allocations.leases.models import LeaseRequest
    from allocations.leases.rules import Limits
    from allocations.leases.storage import AreaStandings, StorageLook
    from allocations.leases.store import LeaseStore
    from allocations.ledger.models import Balance
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.models import Allocation, Member, Override, Suspension
    from allocations.lifecycle.stores.agreements import AgreementStore
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.audit import AuditStore
    from allocations.lifecycle.stores.overrides import OverrideStore
    from allocations.lifecycle.stores.suspensions import SuspensionStore
    from allocations.policy.models import Policy, PriceList, Size

AGREEMENT_URL = "/services/allocations/agreement"
MS_PER_HOUR = 3_600_000
Answer = LeaseView | AllocationsError


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, who asks for it, and the key of its answer (None where the caller's transaction keeps its own)."""

    request: LeaseRequest
    actor: str
    key: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class _View:
    """What is read once for all requests: each decision looks here, and adds what it takes."""

    now_ms: int
    prices: PriceList
    nodes: Mapping[str, Allocation]
    members: Mapping[tuple[str, str], Member]
    accepted: Mapping[str, int]
    suspended: Mapping[str, Suspension]
    stored: AreaStandings
    overrides: Sequence[Override]
    balances: dict[tuple[str, Unit], Balance]
    spent: dict[tuple[str, str], tuple[int, int]]
    in_use: dict[str, dict[str | None, InUse]]
    in_trees: dict[str, InUse]

    def path(self, allocation: Allocation) -> list[Allocation]:
        """Return the nodes from the root down to the allocation."""
        path = [allocation]
        while (parent := path[-1].parent_id) is not None:
            path.append(self.nodes[parent])
        return path[::-1]


@dataclass(frozen=True, slots=True)
class _Admitted:
    """What is to be written."""

    leases: list[Lease] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    movements: list[Movement] = field(default_factory=list)
    answers: list[tuple[IdempotencyKey, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The one way in which anything is admitted."""

    clock: Clock
    new_id: IdFactory
    policy: Policy
    ledger: Ledger
    leases: LeaseStore
    allocations: AllocationStore
    agreements: AgreementStore
    overrides: OverrideStore
    suspensions: SuspensionStore
    storage: StorageLook
    audit: AuditStore
    runs_containers: bool

    def decide(self, connection: Connection, asked: Sequence[Asked]) -> list[Answer]:
        """Admit what can be admitted, write it, and return an answer to each: the lease, or the error that says why.

        A denial writes nothing and touches no other request.
        """
        view = self._look(connection, asked)
        # Looked up once the balances are locked: another process may have answered the same key until then.
        known = recall_all(connection, [one.key for one in asked if one.key])
        admitted = _Admitted()
        answers: list[Answer] = []
        for one in asked:
            try:
                answers.append(self._answer(view, one, known, admitted))
            except AllocationsError as error:
                answers.append(error)
        self.ledger.move(connection, admitted.movements)
        self.leases.add(connection, admitted.leases)
        self.leases.add_holds(connection, admitted.holds)
        self._record_own_images(connection, admitted.leases)
        remember_all(connection, admitted.answers, view.now_ms)
        return answers

    def require_admissible(self, connection: Connection, request: LeaseRequest) -> None:
        """Raise what admission would refuse for good: everything but what is running or held at the moment."""
        asked = Asked(request, request.person)
        view = self._look(connection, [asked], lock=False)
        path, limits, size, _chosen = self._require_right(view, request)
        self._require_time(view, path, request.max_seconds or 0)
        amount = view.prices.microcredits_per_second(size) * (request.max_seconds or 0)
        self.ledger.require_within_reach(connection, [node.id for node in path], amount)
        place = (request.allocation, request.person)
        _held, charged = view.spent.get(place, (0, 0))
        require_cap(view.members[place], charged, amount)
        require_room(limits, size, InUse(), InUse(), is_server=False)

    # ------------------------------------------------------------------ inside

    def _look(self, connection: Connection, asked: Sequence[Asked], *, lock: bool = True) -> _View:
        now_ms = self.clock.now_ms()
        people = sorted({one.request.person for one in asked})
        wanted = sorted({one.request.allocation for one in asked})
        # The lock comes before everything that is decided on: an allocation that is closed meanwhile is seen closed.
        balances = self.ledger.balances(connection, wanted, lock=lock)
        nodes = self.allocations.with_ancestors(connection, wanted)
        in_use = self.leases.in_use(connection, {node.root_id for node in nodes.values()}, people)
        members = self.allocations.members_among(connection, nodes, people)
        return _View(
            now_ms=now_ms,
            prices=self.policy.prices_at(datetime.fromtimestamp(now_ms / MS_PER_SECOND, tz=UTC)),
            nodes=nodes,
            members=members,
            spent=self.leases.spent_by(connection, members.values()),
            accepted=self.agreements.accepted_by(connection, people, self.policy.agreement.version),
            suspended=self.suspensions.in_force(connection, people),
            stored=self.storage.standings(connection, people, wanted, now_ms),
            overrides=self.overrides.in_force(connection, people, nodes, now_ms),
            balances=balances,
            in_use=in_use,
            in_trees={root: sum(on_tree.values(), InUse()) for root, on_tree in in_use.items()},
        )

    def _answer(
        self, view: _View, one: Asked, known: dict[tuple[str, str], tuple[str, str]], admitted: _Admitted
    ) -> Answer:
        if one.key is not None and one.key.name in known:
            request_hash, answer = known[one.key.name]
            if request_hash != one.key.request_hash:
                raise reused()
            return LeaseView.model_validate_json(answer)
        lease_view = self._admit(view, one, admitted)
        if one.key is not None:
            answer = lease_view.model_dump_json()
            admitted.answers.append((one.key, answer))
            # The same key may stand in this very batch again.
            known[one.key.name] = (one.key.request_hash, answer)
        return lease_view

    def _require_right(self, view: _View, request: LeaseRequest) -> tuple[list[Allocation], Limits, Size, ChosenImage]:
        """Return what the request speaks of, once the person has a right to it."""
        require_not_suspended(view.suspended.get(request.person))
        agreement, accepted_at_ms = self.policy.agreement, view.accepted.get(request.person)
        if not agreement.is_accepted(accepted_at_ms, view.now_ms):
            raise AgreementRequiredError(
                f"The user agreement {agreement.version} has not been accepted "
                + ("yet." if accepted_at_ms is None else f"for {agreement.valid_days} days."),
                "Read and accept it first.",
                AGREEMENT_URL,
            )
        allocation = view.nodes.get(request.allocation)
        # Whoever is not a member learns nothing: an allocation of others looks like one that does not exist.
        if allocation is None:
            raise UnknownAllocationError(
                f"There is no allocation {request.allocation!r}.", "Choose one of your own allocations."
            )
        member = view.members.get((allocation.id, request.person))
        if member is None:
            raise NotAMemberError(
                f"{request.person} is not a member of this allocation.", "Choose one of your own allocations."
            )
        path = view.path(allocation)
        for node in path:
            require_usable(node, view.now_ms)
        if not request.is_rescue:
            view.stored.require_unlocked(request.person, allocation.id)
        size = self.policy.rescue_size if request.is_rescue else self._size(view, request.size)
        limits = effective_limits(self.policy, path, member, view.overrides)
        if not request.is_rescue:
            require_size(limits, size)
        chosen = choose(self.policy, request.image, size)
        today = to_date(view.now_ms if request.chosen_at_ms is None else request.chosen_at_ms)
        tier = self.policy.tier(allocation.tier)
        require_image(self.policy, chosen, tier, size, today, runs_containers=self.runs_containers)
        return path, limits, size, chosen

    def _admit(self, view: _View, one: Asked, admitted: _Admitted) -> LeaseView:
        request = one.request
        path, limits, size, chosen = self._require_right(view, request)
        allocation = path[-1]
        rate = 0 if request.is_rescue else view.prices.microcredits_per_second(size)
        if request.kind is LeaseKind.BATCH:
            if request.max_seconds is None:
                raise InvalidInputError("A batch lease needs its maximum time.", "Send max_seconds.")
            self._require_time(view, path, request.max_seconds)
            seconds = latest_seconds = request.max_seconds
        elif request.is_rescue:
            seconds = latest_seconds = self.policy.leases.rescue_seconds
        else:
            latest_seconds = limits.longest_session_seconds
            seconds = min(self.policy.leases.quantum_seconds, latest_seconds)
        lease = Lease(
            id=self.new_id("lease"),
            allocation_id=allocation.id,
            root_id=allocation.root_id,
            person=request.person,
            kind=request.kind,
            size=size.name,
            image=chosen.recorded,
            server_name=request.server_name,
            cores=size.cores,
            memory_gib=size.memory_gib,
            gpus=size.gpus,
            gpu_type=size.gpu_type,
            microcredits_per_second=rate,
            idle_seconds=limits.idle_seconds,
            state=LeaseState.OPEN,
            final=seconds >= latest_seconds,
            acquired_at_ms=view.now_ms,
            started_at_ms=None,
            ends_at_ms=view.now_ms + seconds * MS_PER_SECOND,
            latest_end_at_ms=view.now_ms + latest_seconds * MS_PER_SECOND,
            seen_at_ms=None,
            missing_since_ms=None,
            ended_at_ms=None,
            end_reason=None,
            moved_at_ms=view.now_ms,
        )
        # The units that any node of the path is limited in and the lease uses.
        amounts = {
            unit: lease.per_second(unit) * seconds
            for unit in Unit
            if lease.per_second(unit) > 0 and any((node.id, unit) in view.balances for node in path)
            # It starts whatever is left: a balance that a full home has spent must not keep anybody from emptying it.
            if not request.is_rescue
        }
        transaction = Transaction(
            id=self.new_id("tx"),
            at_ms=view.now_ms,
            kind=TransactionKind.HOLD,
            actor=one.actor,
            policy_version=self.policy.version,
            lease_id=lease.id,
        )
        self._require_balance(view, path, amounts)
        place = (allocation.id, request.person)
        held, charged = view.spent.get(place, (0, 0))
        if not request.is_rescue:
            require_cap(view.members[place], held + charged, amounts.get(Unit.CREDITS, 0))
        on_tree = view.in_use.setdefault(allocation.root_id, {})
        own = on_tree.get(request.person, InUse())
        is_server = request.kind is LeaseKind.INTERACTIVE
        in_tree = view.in_trees.get(allocation.root_id, InUse())
        if request.is_rescue:
            # What others run is no reason: of one's own servers only there may be too many, which one can stop.
            require_room(limits, size, InUse(own.servers), InUse(), is_server=True)
        else:
            require_room(limits, size, own, in_tree, is_server=is_server)
            if not is_server:
                require_room_beside_servers(self.policy, limits, size, own, in_tree)
        # Decided: whoever comes after in this batch finds it taken.
        taken = InUse(int(is_server), size.cores, size.gpus, size.cores if is_server else 0)
        view.spent[place] = (held + amounts.get(Unit.CREDITS, 0), charged)
        on_tree[request.person] = own + taken
        view.in_trees[allocation.root_id] = in_tree + taken
        for node in path:
            for unit, amount in amounts.items():
                balance = view.balances.get((node.id, unit))
                if balance is not None:
                    view.balances[node.id, unit] = replace(balance, held=balance.held + amount)
        admitted.leases.append(lease)
        admitted.holds.extend(new_hold(lease, 1, unit, 0, seconds) for unit in amounts)
        ids = [node.id for node in path]
        admitted.movements.extend(
            Movement(transaction, ids, unit, Account.FREE, Account.HELD, amount) for unit, amount in amounts.items()
        )
        home = view.stored.homes.get(request.person)
        return LeaseView.from_lease(
            lease, allocation, chosen.reference, held=rate * seconds, charged=0, home_state=home.state if home else None
        )

    def _record_own_images(self, connection: Connection, leases: Sequence[Lease]) -> None:
        """Append to the audit log who starts what container image that is not the catalogue's."""
        for lease in leases:
            if is_custom(lease.image):
                self.audit.add(
                    connection,
                    at_ms=lease.acquired_at_ms,
                    actor=lease.person,
                    action="image.custom",
                    subject=lease.allocation_id,
                    policy_version=self.policy.version,
                    details={"image": lease.image, "lease": lease.id, "kind": lease.kind},
                )

    def _require_time(self, view: _View, path: Sequence[Allocation], seconds: int) -> None:
        """Raise AllocationNotActiveError when a run could outlast its allocation: it holds its whole maximum."""
        left_ms = may_run_until_ms(path, self.policy.leases.allocation_end_grace_seconds) - view.now_ms
        if seconds * MS_PER_SECOND > left_ms:
            raise AllocationNotActiveError(
                f"“{path[-1].name}” ends in {max(0, left_ms) / MS_PER_HOUR:.1f} hours; "
                f"this may take up to {seconds * MS_PER_SECOND / MS_PER_HOUR:.1f}.",
                "Choose a shorter maximum time, renew the allocation, or choose another.",
            )

    def _require_balance(self, view: _View, path: Sequence[Allocation], amounts: Mapping[Unit, int]) -> None:
        for node in path:
            for unit, amount in amounts.items():
                balance = view.balances.get((node.id, unit))
                if balance is not None and amount > balance.available:
                    raise insufficient(balance, amount, node.name, is_leaf=node is path[-1])

    def _size(self, view: _View, asked: str | Size) -> Size:
        if not isinstance(asked, str):
            if asked.gpu_type is not None and asked.gpu_type not in view.prices.microcredits_per_gpu_second:
                known = ", ".join(sorted(view.prices.microcredits_per_gpu_second))
                raise UnknownSizeError(f"There is no GPU of type {asked.gpu_type!r}.", f"Choose one of: {known}.")
            return asked
        try:
            return self.policy.size(asked)
        except KeyError:
            known = ", ".join(size.name for size in self.policy.sizes)
            raise UnknownSizeError(f"There is no size {asked!r}.", f"Choose one of: {known}.") from None


def new_hold(lease: Lease, sequence: int, unit: Unit, from_second: int, to_second: int) -> Hold:
    """Make a hold of a lease for the seconds [from_second, to_second)."""
    per_second = lease.per_second(unit)
    return Hold(lease.id, sequence, unit, per_second, from_second, to_second, per_second * (to_second - from_second))
