"""Opens allocations, releases their budget, and moves them through their life by the calendar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY
from allocations.errors import (
    TransitionError,
)
from allocations.ledger.models import Transaction, TransactionKind, Unit
from allocations.ledger.service import MICROCREDITS_PER_CREDIT
from allocations.lifecycle.authority import PLATFORM, Actor, Authority
from allocations.lifecycle.models import (
    USABLE_STATES,
    Allocation,
    AllocationState,
    Award,
    Member,
    MemberRole,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationService:
    """Allocations from opening to closing. Every change is audited."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    ledger: Ledger
    allocations: AllocationStore
    authority: Authority

    def open(
        self,
        connection: Connection,
        tier: Tier,
        name: str,
        *,
        lead: str,
        actor: str,
        credits: int | None = None,  # noqa: A002  # the unit's name
        why: str = "",
    ) -> Allocation:
        """Open an allocation of a tier with its first instalment; `credits` (whole) in place of the tier's budget."""
        now_ms = self.clock.now_ms()
        allocation_id = self.new_id("a")
        allocation = Allocation(
            id=allocation_id,
            parent_id=None,
            root_id=allocation_id,
            depth=0,
            name=name,
            tier=tier.name,
            state=AllocationState.ACTIVE,
            guaranteed=True,
            award=Award(),
            starts_at_ms=now_ms,
            ends_at_ms=now_ms + tier.term_days * MS_PER_DAY,
            refilled_at_ms=now_ms if tier.budget.refill else None,
            policy_version=self.policy.version,
            created_at_ms=now_ms,
        )
        self.allocations.add(connection, allocation)
        self.ledger.open_account(connection, allocation.id, Unit.CREDITS)
        self.allocations.add_member(connection, Member(allocation.id, lead, MemberRole.LEAD, now_ms))
        granted = _share(tier, credits, released=0)
        self.change_limit(connection, allocation.id, granted, actor, TransactionKind.GRANT, "first instalment")
        self.authority.record(
            connection,
            actor,
            "allocation.open",
            allocation.id,
            why,
            name=name,
            tier=tier.name,
            lead=lead,
            microcredits=granted,
        )
        return allocation

    def release_instalment(self, connection: Connection, allocation_id: str, actor: str, why: str) -> None:
        """Grant the next instalment; TransitionError when all are granted."""
        allocation = self.authority.find(connection, allocation_id)
        tier = self.policy.tier(allocation.tier)
        released = allocation.award.instalments_released
        if released >= len(tier.budget.instalments):
            raise TransitionError("Every instalment of this allocation has been granted.", "Request more instead.")
        amount = _share(tier, None, released=released)
        self.change_limit(connection, allocation_id, amount, actor, TransactionKind.GRANT, f"instalment {released + 1}")
        award = allocation.award.model_copy(update={"instalments_released": released + 1})
        self.allocations.change(connection, allocation_id, award=award.model_dump_json())
        self.authority.record(connection, actor, "allocation.instalment", allocation_id, why, microcredits=amount)

    def suspend(self, actor: Actor, allocation_id: str, why: str) -> None:
        """Stop an allocation from being spent until it is resumed; administrators only."""
        self._set_state(actor, allocation_id, USABLE_STATES, AllocationState.SUSPENDED, "allocation.suspend", why)

    def resume(self, actor: Actor, allocation_id: str, why: str) -> None:
        """Let a suspended allocation be spent again; administrators only."""
        self._set_state(
            actor,
            allocation_id,
            frozenset({AllocationState.SUSPENDED}),
            AllocationState.ACTIVE,
            "allocation.resume",
            why,
        )

    def advance(self) -> int:
        """Move every allocation on by the calendar, refill what is refilled daily; return how many changed."""
        changed = 0
        with self.database.read() as connection:
            everything = self.allocations.all(connection)
        now_ms = self.clock.now_ms()
        for seen in everything:
            if not self._is_due(seen, now_ms):
                continue
            with self.database.write() as connection:
                allocation = self.authority.find(connection, seen.id)
                changed += self._advance_state(connection, allocation, now_ms)
                changed += self._refill(connection, allocation, now_ms)
        return changed

    def change_limit(
        self,
        connection: Connection,
        allocation_id: str,
        amount: int,
        actor: str,
        kind: TransactionKind,
        memo: str,
        unit: Unit = Unit.CREDITS,
    ) -> None:
        """Raise or lower an allocation's limit in a unit, as a part of the caller's transaction."""
        transaction = Transaction(
            id=self.new_id("tx"),
            at_ms=self.clock.now_ms(),
            kind=kind,
            actor=actor,
            policy_version=self.policy.version,
            memo=memo,
        )
        self.ledger.change_limit(connection, transaction, allocation_id, unit, amount)

    def state_at(self, allocation: Allocation, now_ms: int) -> AllocationState:
        """Return the state that the calendar gives; suspended and closed are decided by people, not by it."""
        if allocation.state in {AllocationState.SUSPENDED, AllocationState.CLOSED}:
            return allocation.state
        tier = self.policy.tier(allocation.tier)
        past_end_ms = now_ms - allocation.ends_at_ms
        if now_ms < allocation.starts_at_ms:
            return AllocationState.PENDING
        if past_end_ms < -tier.renewal_opens_days * MS_PER_DAY:
            return AllocationState.ACTIVE
        if past_end_ms < 0:
            return AllocationState.EXPIRING
        if past_end_ms < tier.archive_after_days * MS_PER_DAY:
            return AllocationState.GRACE
        return AllocationState.ARCHIVED

    # ------------------------------------------------------------------ inside

    def _set_state(
        self,
        actor: Actor,
        allocation_id: str,
        sources: frozenset[AllocationState],
        target: AllocationState,
        action: str,
        why: str,
    ) -> None:
        self.authority.require_admin(actor, why)
        with self.database.write() as connection:
            allocation = self.authority.find(connection, allocation_id)
            if allocation.state not in sources:
                raise TransitionError(f"“{allocation.name}” is {allocation.state}.", "Nothing was changed.")
            self.allocations.change(connection, allocation_id, state=target)
            self.authority.record(connection, actor.name, action, allocation_id, why)

    def _is_due(self, allocation: Allocation, now_ms: int) -> bool:
        refill_due = (
            allocation.refilled_at_ms is not None
            and allocation.state in USABLE_STATES
            and now_ms - allocation.refilled_at_ms >= MS_PER_DAY
        )
        return refill_due or self.state_at(allocation, now_ms) is not allocation.state

    def _advance_state(self, connection: Connection, allocation: Allocation, now_ms: int) -> int:
        state = self.state_at(allocation, now_ms)
        if state is allocation.state:
            return 0
        self.allocations.change(connection, allocation.id, state=state)
        self.authority.record(
            connection, PLATFORM, "allocation.advance", allocation.id, before=allocation.state, after=state
        )
        return 1

    def _refill(self, connection: Connection, allocation: Allocation, now_ms: int) -> int:
        """Add what whole days since the last refill bring; days that were missed are made up for, none counts twice."""
        refill = self.policy.tier(allocation.tier).budget.refill
        if refill is None or allocation.refilled_at_ms is None or allocation.state not in USABLE_STATES:
            return 0
        days = (now_ms - allocation.refilled_at_ms) // MS_PER_DAY
        if days < 1:
            return 0
        self.ledger.lock(connection, [allocation.id])
        available = self.ledger.balance(connection, allocation.id).available
        room = refill.cap_credits * MICROCREDITS_PER_CREDIT - available
        amount = max(0, min(days * refill.credits_per_day * MICROCREDITS_PER_CREDIT, room))
        self.change_limit(connection, allocation.id, amount, PLATFORM, TransactionKind.REFILL, f"{days} d")
        refilled_at_ms = allocation.refilled_at_ms + days * MS_PER_DAY
        self.allocations.change(connection, allocation.id, refilled_at_ms=refilled_at_ms)
        return int(amount > 0)


def _share(tier: Tier, credits: int | None, released: int) -> int:  # noqa: A002  # the unit's name
    """Return the next instalment in microcredits; an award that differs from the tier's is released in proportion."""
    whole = tier.budget.credits
    part = tier.budget.instalments[released]
    awarded = whole if credits is None else credits
    return awarded * MICROCREDITS_PER_CREDIT * part // whole
