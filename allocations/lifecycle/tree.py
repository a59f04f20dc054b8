"""Divides allocations into sub-allocations, and moves budget within the tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.db.idempotency import IdempotencyKey, answered_once
from allocations.errors import (
    InvalidInputError,
    NotAllowedError,
    TransitionError,
)
from allocations.ledger.models import TransactionKind, Unit
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

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.allocations import AllocationService
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy

NAME_LENGTH_MAX = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeService:
    """The sub-allocations of an allocation, guaranteed or capped, within the policy's overcommitment."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    ledger: Ledger
    allocations: AllocationStore
    lifecycle: AllocationService
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
        idempotency_key: str | None = None,
    ) -> str:
        """Open a sub-allocation with a limit of its own and return its id; its charges count at the parent too."""
        name = _require_name(name)
        lead = require_person(lead)
        body = {"parent": parent_id, "name": name, "microcredits": microcredits, "guaranteed": guaranteed, "lead": lead}
        key = IdempotencyKey.for_request(actor.name, idempotency_key, "divide", body) if idempotency_key else None
        with self.database.write() as connection:
            known = key.recall(connection) if key else None
            if known is not None:
                return known
            parent = self.authority.managed(connection, actor, parent_id)
            tier = self.policy.tier(parent.tier)
            if not tier.sub_allocations:
                raise NotAllowedError(
                    f"An allocation of the {tier.title} tier is not divided.",
                    "Propose a consortium allocation to divide one among its members.",
                )
            if parent.state not in USABLE_STATES:
                raise TransitionError(f"“{parent.name}” is {parent.state}.", "Renew it first.")
            self._require_share(connection, parent, None, microcredits, guaranteed=guaranteed)
            now_ms = self.clock.now_ms()
            child = Allocation(
                id=self.new_id("a"),
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
            self.ledger.open_account(connection, child.id, Unit.CREDITS)
            self.allocations.add_member(connection, Member(child.id, lead, MemberRole.LEAD, now_ms))
            self.lifecycle.change_limit(
                connection, child.id, microcredits, actor.name, TransactionKind.GRANT, "sub-allocation"
            )
            self.authority.record(
                connection,
                actor.name,
                "allocation.divide",
                child.id,
                name=name,
                parent=parent.name,
                lead=lead,
                microcredits=microcredits,
                guaranteed=guaranteed,
            )
            if key:
                key.remember(connection, child.id, now_ms)
            return child.id

    def change_share(self, actor: Actor, child_id: str, microcredits: int) -> None:
        """Set a sub-allocation's limit. Below what is used, it blocks new starts and rewrites nothing."""
        with self.database.write() as connection:
            child = self.authority.find(connection, child_id)
            if child.parent_id is None:
                raise NotAllowedError(
                    "The limit of a whole allocation is awarded, not set.", "Request a supplement instead."
                )
            parent = self.authority.managed(connection, actor, child.parent_id)
            before = self.ledger.balance(connection, child_id).limit
            self._require_share(connection, parent, child, microcredits, guaranteed=child.guaranteed)
            amount = microcredits - before
            self.lifecycle.change_limit(
                connection, child_id, amount, actor.name, TransactionKind.GRANT, "limit changed"
            )
            self.authority.record(
                connection,
                actor.name,
                "allocation.change_share",
                child_id,
                before_microcredits=before,
                microcredits=microcredits,
            )

    # ------------------------------------------------------------------ inside

    def _require_share(
        self,
        connection: Connection,
        parent: Allocation,
        child: Allocation | None,
        microcredits: int,
        *,
        guaranteed: bool,
    ) -> None:
        """Keep guaranteed children within the parent, and all of them within the policy's overcommitment.

        The parent's balance is locked first: two divisions at the same time would each count without the other.
        """
        if microcredits <= 0:
            raise InvalidInputError("A sub-allocation needs more than 0 credits.", "Enter a number above 0.")
        self.ledger.lock(connection, [parent.id])
        limit = self.ledger.balance(connection, parent.id).limit
        taken = {True: 0, False: 0}
        for sibling in self.allocations.children(connection, parent.id):
            if (child is None or sibling.id != child.id) and sibling.state is not AllocationState.CLOSED:
                taken[sibling.guaranteed] += self.ledger.balance(connection, sibling.id).limit
        taken[guaranteed] += microcredits
        ratio = self.policy.tier(parent.tier).overcommit_ratio_percent
        if taken[True] > limit:
            free = max(0, limit - taken[True] + (microcredits if guaranteed else 0))
            raise InvalidInputError(
                f"Guaranteed shares must stay within “{parent.name}”: "
                f"{free / MICROCREDITS_PER_CREDIT:,.2f} credits are left to guarantee.",
                "Enter less, lower another share, or make this one capped.",
            )
        if taken[True] + taken[False] > limit * ratio // 100:
            raise InvalidInputError(
                f"All shares together may come to {ratio} % of “{parent.name}” at most.",
                "Enter less or lower another share.",
            )


def _require_name(name: str) -> str:
    cleaned = " ".join(name.split())
    if not 0 < len(cleaned) <= NAME_LENGTH_MAX or not cleaned.isprintable():
        raise InvalidInputError(f"A name has 1 to {NAME_LENGTH_MAX} printable characters.", "Enter another name.")
    return cleaned
