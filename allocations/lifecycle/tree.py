"""Divides allocations into sub-allocations, moves budget within the tree, and closes parts of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allocations.db.idempotency import IdempotencyKey, answered_once
from allocations.errors import (
    InsufficientBalanceError,
    InvalidInputError,
    NotAllowedError,
    TransitionError,
)
from allocations.ledger.models import Transaction, TransactionKind, Unit
from allocations.ledger.service import MICROCREDITS_PER_CREDIT
from allocations.lifecycle.members import require_person
from allocations.lifecycle.models import (
    USABLE_STATES,
    Allocation,
    AllocationState,
    Award,
    Member,
    MemberRole,
)
from allocations.outbox import Notice, NoticeKind

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.ledger.models import Balance
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.members import MemberService
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.invitations import InvitationStore
    from allocations.policy.models import Policy

NAME_LENGTH_MAX = 80
LEVELS_MAX = 4
"""A whole allocation and three levels below it: what a consortium, its groups and their projects need."""
SECONDS_PER_HOUR = 3600
_NAMES = {Unit.CREDITS: "credits", Unit.CORE_SECONDS: "core-hours", Unit.GPU_SECONDS: "GPU-hours"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeService:
    """The sub-allocations of an allocation, guaranteed or capped, within the policy's overcommitment."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    ledger: Ledger
    allocations: AllocationStore
    invitations: InvitationStore
    members: MemberService
    authority: Authority

    @answered_once
    def divide(
        self,
        actor: Actor,
        parent_id: str,
        *,
        name: str,
        microcredits: int,
        guaranteed: bool,
        lead: str,
        gpu_hours: int | None = None,
        core_hours: int | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Open a sub-allocation with a limit of its own and return its id; its charges count at the parent too.

        `gpu_hours` and `core_hours`, where given, limit it in those units as well.
        """
        name = _require_name(name)
        lead = require_person(lead)
        limits = _limits(microcredits, gpu_hours, core_hours)
        body = {"parent": parent_id, "name": name, "limits": limits, "guaranteed": guaranteed, "lead": lead}
        key = IdempotencyKey.for_request(actor.name, idempotency_key, "divide", body) if idempotency_key else None
        with self.database.write() as connection:
            known = key.recall(connection) if key else None
            if known is not None:
                return known
            self.authority.managed(connection, actor, parent_id)
            self.ledger.lock(connection, [parent_id])
            parent = self.authority.find(connection, parent_id)
            tier = self.policy.tier(parent.tier)
            if not tier.sub_allocations:
                raise NotAllowedError(
                    f"An allocation of the {tier.title} tier is not divided.",
                    "Propose a consortium allocation to divide one among its members.",
                )
            if parent.state not in USABLE_STATES:
                raise TransitionError(f"“{parent.name}” is {parent.state}.", "Renew it first.")
            if parent.depth + 1 >= LEVELS_MAX:
                raise NotAllowedError(
                    f"“{parent.name}” is on the lowest of {LEVELS_MAX} levels and is not divided further.",
                    "Divide an allocation above it.",
                )
            child_id = self.new_id("a")
            for unit, amount in limits.items():
                self._require_room(connection, parent, unit, {child_id: (amount, guaranteed)})
            now_ms = self.clock.now_ms()
            child = Allocation(
                id=child_id,
                parent_id=parent.id,
                root_id=parent.root_id,
                depth=parent.depth + 1,
                name=name,
                tier=parent.tier,
                state=AllocationState.ACTIVE,
                guaranteed=guaranteed,
                award=Award(),
                starts_at_ms=now_ms,
                ends_at_ms=parent.ends_at_ms,
                refilled_at_ms=None,
                policy_version=self.policy.version,
                created_at_ms=now_ms,
            )
            self.allocations.add(connection, child)
            granted = self._transaction(actor, TransactionKind.GRANT, "sub-allocation")
            for unit, amount in limits.items():
                self.ledger.open_account(connection, granted, child.id, unit)
                self.ledger.change_limit(connection, granted, child.id, unit, amount)
            self._appoint(connection, actor, child, lead)
            self.authority.record(
                connection,
                actor.name,
                "allocation.divide",
                child.id,
                name=name,
                parent=parent.name,
                lead=lead,
                microcredits=microcredits,
                gpu_hours=gpu_hours,
                core_hours=core_hours,
                guaranteed=guaranteed,
            )
            if key:
                key.remember(connection, child.id, now_ms)
            return child.id

    def change_share(self, actor: Actor, child_id: str, microcredits: int) -> None:
        """Set a sub-allocation's limit. Below what is used, it blocks new starts and rewrites nothing."""
        _require_amount(microcredits)
        with self.database.write() as connection:
            _, parent = self.authority.managed_part(connection, actor, child_id)
            self.ledger.lock(connection, [parent.id, child_id])
            child = self._open(connection, child_id)
            before = self.ledger.balance(connection, child_id).limit
            if microcredits > before:
                share = {child_id: (microcredits, child.guaranteed)}
                self._require_room(connection, parent, Unit.CREDITS, share)
            else:
                self._require_shares_within(connection, child, Unit.CREDITS, microcredits)
            changed = self._transaction(actor, TransactionKind.GRANT, "limit changed")
            self.ledger.change_limit(connection, changed, child_id, Unit.CREDITS, microcredits - before)
            self.authority.record(
                connection,
                actor.name,
                "allocation.change_share",
                child_id,
                before_microcredits=before,
                microcredits=microcredits,
            )

    @answered_once
    def move(
        self, actor: Actor, source_id: str, target_id: str, microcredits: int, idempotency_key: str | None = None
    ) -> None:
        """Move budget from one sub-allocation to its sibling, at most what the source has free.

        InsufficientBalanceError when it has less; InvalidInputError when a share promised to somebody would break.
        """
        _require_amount(microcredits)
        body = {"source": source_id, "target": target_id, "microcredits": microcredits}
        key = IdempotencyKey.for_request(actor.name, idempotency_key, "move", body) if idempotency_key else None
        with self.database.write() as connection:
            if key and key.recall(connection) is not None:
                return
            _, parent = self.authority.managed_part(connection, actor, source_id)
            siblings = {child.id for child in self.allocations.children(connection, parent.id)}
            if target_id not in siblings - {source_id}:
                raise InvalidInputError(
                    f"Budget moves between two different parts of “{parent.name}”.", "Choose another part of it."
                )
            # The parent first, then the siblings in order of id: two moves in opposite directions take turns.
            self.ledger.lock(connection, [parent.id, *sorted((source_id, target_id))])
            source, target = self._open(connection, source_id), self._open(connection, target_id)
            before = {node: self.ledger.balance(connection, node) for node in (source_id, target_id)}
            if microcredits > before[source_id].available:
                free = _amount(max(0, before[source_id].available), Unit.CREDITS)
                raise InsufficientBalanceError(
                    f"“{source.name}” has {free} free; {_amount(microcredits, Unit.CREDITS)} were to be moved.",
                    "Move less, or wait until what runs there has ended.",
                )
            lowered, raised = before[source_id].limit - microcredits, before[target_id].limit + microcredits
            self._require_shares_within(connection, source, Unit.CREDITS, lowered)
            if target.guaranteed and not source.guaranteed:
                shares = {source_id: (lowered, False), target_id: (raised, True)}
                self._require_room(connection, parent, Unit.CREDITS, shares)
            moved = self._transaction(actor, TransactionKind.MOVE, f"{source_id} to {target_id}")
            self.ledger.change_limit(connection, moved, source_id, Unit.CREDITS, -microcredits)
            self.ledger.change_limit(connection, moved, target_id, Unit.CREDITS, microcredits)
            for node in (source_id, target_id):
                self.authority.record(
                    connection,
                    actor.name,
                    "allocation.move",
                    node,
                    source=source_id,
                    target=target_id,
                    microcredits=microcredits,
                )
            if key:
                key.remember(connection, "moved", self.clock.now_ms())

    @answered_once
    def close(self, actor: Actor, child_id: str, why: str, idempotency_key: str | None = None) -> None:
        """Close a sub-allocation and all below it, for good: what is not used is the parent's to give again.

        What runs there keeps what it holds and is not renewed beyond it.
        """
        if not why.strip():
            raise InvalidInputError("A reason is needed.", "Say why: it is kept in the audit log.")
        body = {"child": child_id, "why": why}
        key = IdempotencyKey.for_request(actor.name, idempotency_key, "close", body) if idempotency_key else None
        with self.database.write() as connection:
            if key and key.recall(connection) is not None:
                return
            child, parent = self.authority.managed_part(connection, actor, child_id)
            self.ledger.lock(connection, [parent.id])
            subtree = self.authority.lock_subtree(connection, child)
            self._open(connection, child_id)
            closed = self._transaction(actor, TransactionKind.CLOSE, "closed")
            told: dict[str, Notice] = {}
            for node in subtree:
                if node.state is AllocationState.CLOSED:
                    continue
                freed = self._free_what_is_unused(connection, closed, node.id)
                self.allocations.change(connection, node.id, state=AllocationState.CLOSED)
                self.authority.record(
                    connection, actor.name, "allocation.close", node.id, why, closed_with=child_id, freed=freed
                )
                for member in self.allocations.members(connection, [node.id]):
                    details = {"name": node.name, "by": actor.name, "why": why}
                    told.setdefault(member.person, Notice(member.person, NoticeKind.CLOSED, node.id, details=details))
            self.invitations.revoke_all(connection, [node.id for node in subtree], self.clock.now_ms())
            self.authority.tell(connection, *told.values())
            if key:
                key.remember(connection, "closed", self.clock.now_ms())

    # ------------------------------------------------------------------ inside

    def _appoint(self, connection: Connection, actor: Actor, child: Allocation, lead: str) -> None:
        """Make a person the lead who belongs here already; invite anybody else and let the actor lead until then."""
        above = self.ledger.path(connection, child.id)[:-1]
        belongs = lead == actor.name or bool(self.allocations.roles_along(connection, above, lead))
        at_once = lead if belongs else actor.name
        self.allocations.add_member(connection, Member(child.id, at_once, MemberRole.LEAD, child.created_at_ms))
        if not belongs:
            self.members.offer(connection, actor, child, lead, MemberRole.LEAD)

    def _open(self, connection: Connection, allocation_id: str) -> Allocation:
        """Return the allocation as it is now that its balance is locked; TransitionError when it is closed."""
        allocation = self.authority.find(connection, allocation_id)
        if allocation.state is AllocationState.CLOSED:
            raise TransitionError(f"“{allocation.name}” is closed.", "Divide the allocation above it anew.")
        return allocation

    def _free_what_is_unused(
        self, connection: Connection, transaction: Transaction, allocation_id: str
    ) -> dict[Unit, int]:
        freed = {}
        for unit in Unit:
            balance = self._balance(connection, allocation_id, unit)
            if balance is not None and balance.available > 0:
                self.ledger.change_limit(connection, transaction, allocation_id, unit, -balance.available)
                freed[unit] = balance.available
        return freed

    def _balance(self, connection: Connection, allocation_id: str, unit: Unit) -> Balance | None:
        try:
            return self.ledger.balance(connection, allocation_id, unit)
        except KeyError:
            return None

    def _transaction(self, actor: Actor, kind: TransactionKind, memo: str) -> Transaction:
        return Transaction(
            id=self.new_id("tx"),
            at_ms=self.clock.now_ms(),
            kind=kind,
            actor=actor.name,
            policy_version=self.policy.version,
            memo=memo,
        )

    def _require_room(
        self,
        connection: Connection,
        parent: Allocation,
        unit: Unit,
        changed: Mapping[str, tuple[int, bool]],
    ) -> None:
        """Refuse limits of children (by id: the limit, and whether guaranteed) with which the shares would not fit.

        The caller has locked the parent's balance: two divisions at the same time would each count without the other.
        """
        balance = self._balance(connection, parent.id, unit)
        if balance is None:
            return
        shares = self._shares(connection, parent.id, unit, changed)
        left = max(0, balance.limit - shares.guaranteed - shares.gone)
        for amount, guaranteed in changed.values():
            shares = shares.plus(amount, guaranteed=guaranteed)
        self._require_fit(parent, unit, balance.limit, shares, f"{_amount(left, unit)} are left to guarantee")

    def _require_shares_within(self, connection: Connection, node: Allocation, unit: Unit, limit: int) -> None:
        """Refuse to lower an allocation's limit under what it has promised to its open parts."""
        shares = self._shares(connection, node.id, unit, ())
        if shares.guaranteed or shares.capped:
            promised = _amount(shares.guaranteed + shares.gone, unit)
            self._require_fit(node, unit, limit, shares, f"{promised} are guaranteed or used below it")

    def _shares(self, connection: Connection, parent_id: str, unit: Unit, without: Collection[str]) -> Shares:
        """Sum what a parent's children may use; of closed ones what they have used, which nobody can use again."""
        shares = Shares()
        for child in self.allocations.children(connection, parent_id):
            balance = self._balance(connection, child.id, unit)
            if child.id in without or balance is None:
                continue
            if child.state is AllocationState.CLOSED:
                shares = replace(shares, gone=shares.gone + balance.posted + balance.held)
            else:
                shares = shares.plus(balance.limit, guaranteed=child.guaranteed)
        return shares

    def _require_fit(self, parent: Allocation, unit: Unit, limit: int, shares: Shares, because: str) -> None:
        """Keep guaranteed shares within the parent, and all of them within the policy's overcommitment.

        What closed children used counts in both: it is no longer there to be promised.
        """
        if shares.guaranteed and shares.guaranteed + shares.gone > limit:
            raise InvalidInputError(
                f"Guaranteed shares must stay within “{parent.name}”: {because}.",
                "Enter less, lower another share, or make this one capped.",
            )
        ratio = self.policy.tier(parent.tier).overcommit_ratio_percent
        if shares.guaranteed + shares.capped + shares.gone > limit * ratio // 100:
            raise InvalidInputError(
                f"All shares together, in {_NAMES[unit]}, may come to {ratio} % of “{parent.name}” at most.",
                "Enter less or lower another share.",
            )


@dataclass(frozen=True, slots=True)
class Shares:
    """What children may use of a unit: guaranteed, capped, and what closed ones have used."""

    guaranteed: int = 0
    capped: int = 0
    gone: int = 0

    def plus(self, amount: int, *, guaranteed: bool) -> Shares:
        """Return the shares with one more."""
        if guaranteed:
            return replace(self, guaranteed=self.guaranteed + amount)
        return replace(self, capped=self.capped + amount)


def _limits(microcredits: int, gpu_hours: int | None, core_hours: int | None) -> dict[Unit, int]:
    _require_amount(microcredits)
    hours = {Unit.GPU_SECONDS: gpu_hours, Unit.CORE_SECONDS: core_hours}
    limits = {Unit.CREDITS: microcredits}
    for unit, limit in hours.items():
        if limit is not None and limit < 0:
            raise InvalidInputError("A limit in hours is 0 or more.", "Enter 0 or more, or nothing for no limit.")
        if limit is not None:
            limits[unit] = limit * SECONDS_PER_HOUR
    return limits


def _amount(amount: int, unit: Unit) -> str:
    whole = MICROCREDITS_PER_CREDIT if unit is Unit.CREDITS else SECONDS_PER_HOUR
    return f"{amount / whole:,.2f} {_NAMES[unit]}"


def _require_amount(microcredits: int) -> None:
    if microcredits <= 0:
        raise InvalidInputError("An amount of credits is more than 0.", "Enter a number above 0.")


def _require_name(name: str) -> str:
    cleaned = " ".join(name.split())
    if not 0 < len(cleaned) <= NAME_LENGTH_MAX or not cleaned.isprintable():
        raise InvalidInputError(f"A name has 1 to {NAME_LENGTH_MAX} printable characters.", "Enter another name.")
    return cleaned
