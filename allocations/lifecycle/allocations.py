"""Opens allocations, divides them, manages their members, and moves them through their life by the calendar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY
from allocations.db.idempotency import IdempotencyKey, answered_once
from allocations.errors import (
    InvalidInputError,
    NotAllowedError,
    TransitionError,
    UnknownAllocationError,
)
from allocations.ledger.models import Transaction, TransactionKind, Unit
from allocations.ledger.service import MICROCREDITS_PER_CREDIT
from allocations.lifecycle.models import (
    MANAGING_ROLES,
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
    from allocations.lifecycle.stores.agreements import AgreementStore
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.audit import AuditStore
    from allocations.policy.models import Policy, Tier

NAME_LENGTH_MAX = 80
PERSON_LENGTH_MAX = 100
PLATFORM = "platform"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and what the platform lets them be."""

    name: str
    reviewer: bool = False
    admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationService:
    """Allocations from opening to closing. Every change is audited."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    ledger: Ledger
    allocations: AllocationStore
    agreements: AgreementStore
    audit: AuditStore

    @answered_once
    def accept_agreement(self, person: str, version: str) -> None:
        """Record that a person accepts the agreement in force; the first time, open the entry allocation.

        InvalidInputError when the version is not the one in force (it changed while the page was open).
        """
        in_force = self.policy.agreement.version
        if version != in_force:
            raise InvalidInputError(
                f"The agreement in force is {in_force}, not {version}.", "Read the current one and accept it."
            )
        with self.database.write() as connection:
            if self.agreements.accepted_at_ms(connection, person, version) is not None:
                return
            self.agreements.add(connection, person, version, self.clock.now_ms())
            self.record(connection, person, "agreement.accept", f"agreement {version}")
            entry = self.policy.entry_tier
            if not any(found.tier == entry.name for found, _ in self.allocations.of_person(connection, person)):
                self.open(connection, entry, f"{entry.title} allocation of {person}", lead=person, actor=PLATFORM)

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
        self._grant(connection, allocation.id, granted, actor, TransactionKind.GRANT, "first instalment")
        self.record(
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
        allocation = self._get(connection, allocation_id)
        tier = self.policy.tier(allocation.tier)
        released = allocation.award.instalments_released
        if released >= len(tier.budget.instalments):
            raise TransitionError("Every instalment of this allocation has been granted.", "Request more instead.")
        amount = _share(tier, None, released=released)
        self._grant(connection, allocation_id, amount, actor, TransactionKind.GRANT, f"instalment {released + 1}")
        award = allocation.award.model_copy(update={"instalments_released": released + 1})
        self.allocations.change(connection, allocation_id, award=award.model_dump_json())
        self.record(connection, actor, "allocation.instalment", allocation_id, why, microcredits=amount)

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
        lead = _require_person(lead)
        body = {"parent": parent_id, "name": name, "microcredits": microcredits, "guaranteed": guaranteed, "lead": lead}
        key = IdempotencyKey.for_request(actor.name, idempotency_key, "divide", body) if idempotency_key else None
        with self.database.write() as connection:
            known = key.recall(connection) if key else None
            if known is not None:
                return known
            parent = self._require_manager(connection, actor, parent_id)
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
            self._grant(connection, child.id, microcredits, actor.name, TransactionKind.GRANT, "sub-allocation")
            self.record(
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
            child = self._get(connection, child_id)
            if child.parent_id is None:
                raise NotAllowedError(
                    "The limit of a whole allocation is awarded, not set.", "Request a supplement instead."
                )
            parent = self._require_manager(connection, actor, child.parent_id)
            before = self.ledger.balance(connection, child_id).limit
            self._require_share(connection, parent, child, microcredits, guaranteed=child.guaranteed)
            amount = microcredits - before
            self._grant(connection, child_id, amount, actor.name, TransactionKind.GRANT, "limit changed")
            self.record(
                connection,
                actor.name,
                "allocation.change_share",
                child_id,
                before_microcredits=before,
                microcredits=microcredits,
            )

    def add_member(self, actor: Actor, allocation_id: str, person: str, role: MemberRole) -> None:
        """Add a person, or change the role of one who is a member already."""
        person = _require_person(person)
        with self.database.write() as connection:
            allocation = self._require_manager(connection, actor, allocation_id)
            tier = self.policy.tier(allocation.tier)
            members = self.allocations.members(connection, [allocation_id])
            present = {member.person: member.role for member in members}
            if present.get(person) is MemberRole.LEAD and role is not MemberRole.LEAD:
                self._require_another_lead(present, person)
            if person not in present and tier.people_max is not None and len(present) >= tier.people_max:
                raise NotAllowedError(
                    f"The {tier.title} tier has room for {tier.people_max} people, and all places are taken.",
                    "Remove a member first, or request a higher tier.",
                )
            if person in present:
                self.allocations.remove_member(connection, allocation_id, person)
            self.allocations.add_member(connection, Member(allocation_id, person, role, self.clock.now_ms()))
            self.record(connection, actor.name, "member.add", allocation_id, person=person, role=role)

    def remove_member(self, actor: Actor, allocation_id: str, person: str) -> None:
        """Remove a person; a lead only while another is left."""
        with self.database.write() as connection:
            self._require_manager(connection, actor, allocation_id)
            present = {member.person: member.role for member in self.allocations.members(connection, [allocation_id])}
            if person not in present:
                raise InvalidInputError(f"{person} is not a member.", "Choose one of the members.")
            if present[person] is MemberRole.LEAD:
                self._require_another_lead(present, person)
            self.allocations.remove_member(connection, allocation_id, person)
            self.record(connection, actor.name, "member.remove", allocation_id, person=person)

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
                allocation = self._get(connection, seen.id)
                changed += self._advance_state(connection, allocation, now_ms)
                changed += self._refill(connection, allocation, now_ms)
        return changed

    def record(
        self,
        connection: Connection,
        actor: str,
        action: str,
        subject: str,
        why: str = "",
        **details: object,
    ) -> None:
        """Append to the audit log, in the transaction of what is done."""
        self.audit.add(
            connection,
            at_ms=self.clock.now_ms(),
            actor=actor,
            action=action,
            subject=subject,
            why=why,
            details=details,
            policy_version=self.policy.version,
        )

    # ------------------------------------------------------------------ inside

    def _get(self, connection: Connection, allocation_id: str) -> Allocation:
        allocation = self.allocations.get(connection, allocation_id)
        if allocation is None:
            raise UnknownAllocationError(
                f"There is no allocation {allocation_id!r}.", "Choose one from the list of allocations."
            )
        return allocation

    def _require_manager(self, connection: Connection, actor: Actor, allocation_id: str) -> Allocation:
        allocation = self._get(connection, allocation_id)
        path = self.ledger.path(connection, allocation_id)
        if actor.admin or self.allocations.roles_along(connection, path, actor.name) & MANAGING_ROLES:
            return allocation
        raise NotAllowedError(f"Only leads and managers of “{allocation.name}” may do this.", "Ask one of them.")

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

    def _require_another_lead(self, present: dict[str, MemberRole], person: str) -> None:
        if not any(role is MemberRole.LEAD for name, role in present.items() if name != person):
            raise NotAllowedError("An allocation needs a lead.", "Name another lead first.")

    def _set_state(
        self,
        actor: Actor,
        allocation_id: str,
        sources: frozenset[AllocationState],
        target: AllocationState,
        action: str,
        why: str,
    ) -> None:
        if not actor.admin:
            raise NotAllowedError("Only administrators may do this.", "Write to them.")
        if not why.strip():
            raise InvalidInputError("A reason is needed.", "Say why: it is kept in the audit log.")
        with self.database.write() as connection:
            allocation = self._get(connection, allocation_id)
            if allocation.state not in sources:
                raise TransitionError(f"“{allocation.name}” is {allocation.state}.", "Nothing was changed.")
            self.allocations.change(connection, allocation_id, state=target)
            self.record(connection, actor.name, action, allocation_id, why)

    def _grant(
        self,
        connection: Connection,
        allocation_id: str,
        microcredits: int,
        actor: str,
        kind: TransactionKind,
        memo: str,
    ) -> None:
        transaction = Transaction(
            id=self.new_id("tx"),
            at_ms=self.clock.now_ms(),
            kind=kind,
            actor=actor,
            policy_version=self.policy.version,
            memo=memo,
        )
        self.ledger.change_limit(connection, transaction, allocation_id, Unit.CREDITS, microcredits)

    def _is_due(self, allocation: Allocation, now_ms: int) -> bool:
        refill_due = (
            allocation.refilled_at_ms is not None
            and allocation.state in USABLE_STATES
            and now_ms - allocation.refilled_at_ms >= MS_PER_DAY
        )
        return refill_due or self.state_at(allocation, now_ms) is not allocation.state

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

    def _advance_state(self, connection: Connection, allocation: Allocation, now_ms: int) -> int:
        state = self.state_at(allocation, now_ms)
        if state is allocation.state:
            return 0
        self.allocations.change(connection, allocation.id, state=state)
        self.record(connection, PLATFORM, "allocation.advance", allocation.id, before=allocation.state, after=state)
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
        self._grant(connection, allocation.id, amount, PLATFORM, TransactionKind.REFILL, f"{days} d")
        refilled_at_ms = allocation.refilled_at_ms + days * MS_PER_DAY
        self.allocations.change(connection, allocation.id, refilled_at_ms=refilled_at_ms)
        return int(amount > 0)


def _share(tier: Tier, credits: int | None, released: int) -> int:  # noqa: A002  # the unit's name
    """Return the next instalment in microcredits; an award that differs from the tier's is released in proportion."""
    whole = tier.budget.credits
    part = tier.budget.instalments[released]
    awarded = whole if credits is None else credits
    return awarded * MICROCREDITS_PER_CREDIT * part // whole


def _require_name(name: str) -> str:
    cleaned = " ".join(name.split())
    if not 0 < len(cleaned) <= NAME_LENGTH_MAX or not cleaned.isprintable():
        raise InvalidInputError(f"A name has 1 to {NAME_LENGTH_MAX} printable characters.", "Enter another name.")
    return cleaned


def _require_person(person: str) -> str:
    cleaned = person.strip()
    if not 0 < len(cleaned) <= PERSON_LENGTH_MAX or not cleaned.isprintable():
        raise InvalidInputError("That is not a user name.", "Enter the name with which the person signs in.")
    return cleaned
