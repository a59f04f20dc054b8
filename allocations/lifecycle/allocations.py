"""Opens allocations, releases their budget, and moves them through their life by the calendar."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY
from allocations.errors import InvalidInputError, NotAllowedError, TransitionError
from allocations.ledger.models import Transaction, TransactionKind, Unit
from allocations.ledger.service import MICROCREDITS_PER_CREDIT
from allocations.lifecycle.authority import PLATFORM, Actor, Authority
from allocations.lifecycle.models import (
    ALLOCATION_TRANSITIONS,
    MANAGING_ROLES,
    MORE_IN_STATES,
    USABLE_STATES,
    Allocation,
    AllocationAction,
    AllocationParty,
    AllocationState,
    Award,
    Member,
    MemberRole,
    RequestKind,
)
from allocations.outbox import Notice, NoticeKind

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy, Tier

SECONDS_PER_HOUR = 3600
RENEWAL_STATES = frozenset({AllocationState.EXPIRING, AllocationState.GRACE})
_INSTEAD = {
    AllocationState.GRACE: "Ask for a renewal or an extension instead.",
    AllocationState.SUSPENDED: "Ask again when an administrator has resumed it.",
}
_NOTICE_OF = {
    AllocationState.GRACE: NoticeKind.ENDED,
    AllocationState.ARCHIVED: NoticeKind.ARCHIVED,
    AllocationState.CLOSED: NoticeKind.CLOSED,
    AllocationState.SUSPENDED: NoticeKind.SUSPENDED,
}


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
        award: Award | None = None,
        why: str = "",
    ) -> Allocation:
        """Open an allocation of a tier, or of an award that differs from it, with its first instalment.

        `credits` (whole) alone is short for an award of as many.
        """
        now_ms = self.clock.now_ms()
        award = award or Award(credits=credits)
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
            award=award,
            starts_at_ms=now_ms,
            ends_at_ms=now_ms + (award.term_days or tier.term_days) * MS_PER_DAY,
            refilled_at_ms=now_ms if tier.budget.refill else None,
            policy_version=self.policy.version,
            created_at_ms=now_ms,
        )
        self.allocations.add(connection, allocation)
        opened = self._transaction(actor, TransactionKind.GRANT, "opened")
        self.ledger.open_account(connection, opened, allocation.id, Unit.CREDITS)
        self.allocations.add_member(connection, Member(allocation.id, lead, MemberRole.LEAD, now_ms))
        granted = _share(tier, award.credits, released=0)
        self.change_limit(connection, allocation.id, granted, actor, TransactionKind.GRANT, "first instalment")
        for unit, hours, _ in _hours(award):
            if hours is not None:
                self._raise_hours(connection, allocation.id, unit, hours, actor, TransactionKind.GRANT, "award")
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
        """Grant the next instalment; TransitionError when all are granted, or when the term is over."""
        self.ledger.lock(connection, [allocation_id])
        allocation = self.authority.find(connection, allocation_id)
        self.require_open_to(allocation, RequestKind.INSTALMENT)
        tier = self.policy.tier(allocation.tier)
        released = allocation.award.instalments_released
        if released >= len(tier.budget.instalments):
            raise TransitionError("Every instalment of this allocation has been granted.", "Request more instead.")
        amount = _share(tier, allocation.award.credits, released=released)
        self.change_limit(connection, allocation_id, amount, actor, TransactionKind.GRANT, f"instalment {released + 1}")
        award = allocation.award.model_copy(update={"instalments_released": released + 1})
        self.allocations.change(connection, allocation_id, award=award.model_dump_json())
        self.authority.record(connection, actor, "allocation.instalment", allocation_id, why, microcredits=amount)

    def supplement(self, connection: Connection, allocation_id: str, award: Award, actor: str, why: str) -> None:
        """Raise the limits of a running term by an award, and its largest sizes and what runs at once where it says.

        The credits stay out of the award of the term, so that its later instalments are what they were.
        """
        allocation = self._locked(connection, allocation_id)
        self.require_open_to(allocation, RequestKind.SUPPLEMENT)
        before = allocation.award
        if award.credits:
            amount = award.credits * MICROCREDITS_PER_CREDIT
            self.change_limit(connection, allocation_id, amount, actor, TransactionKind.GRANT, "supplement")
        for unit, hours, _ in _hours(award):
            if hours:
                self._raise_hours(connection, allocation_id, unit, hours, actor, TransactionKind.GRANT, "supplement")
        changes = {name: hours + (getattr(before, name) or 0) for _, hours, name in _hours(award) if hours is not None}
        after = before.model_copy(
            update=changes | {"largest": award.largest or before.largest, "at_once": award.at_once or before.at_once}
        )
        self.allocations.change(connection, allocation_id, award=after.model_dump_json())
        self.authority.record(
            connection,
            actor,
            "allocation.supplement",
            allocation_id,
            why,
            award=award.model_dump(mode="json", exclude_defaults=True),
            before=before.model_dump(mode="json", exclude_defaults=True),
            after=after.model_dump(mode="json", exclude_defaults=True),
        )

    def extend(self, connection: Connection, allocation_id: str, days: int, actor: str, why: str) -> None:
        """Let an allocation, and all below it, end some days later."""
        allocation = self._locked(connection, allocation_id)
        self.require_open_to(allocation, RequestKind.EXTENSION)
        self._end_at(
            connection,
            allocation,
            allocation.ends_at_ms + days * MS_PER_DAY,
            actor,
            AllocationAction.EXTEND,
            why,
        )

    def renew(self, connection: Connection, allocation_id: str, award: Award, actor: str, why: str) -> None:
        """Award another term: it begins at the end of this one, or at once when that has passed.

        TransitionError outside the time for renewals, or when another term has been awarded already.
        """
        allocation = self._locked(connection, allocation_id)
        self.require_renewable(allocation)
        if allocation.renewal is not None:
            raise TransitionError(
                f"“{allocation.name}” has been renewed already.", "Its next term begins when this one ends."
            )
        now_ms = self.clock.now_ms()
        if now_ms >= allocation.ends_at_ms:
            self._begin_term(connection, allocation, award, now_ms, actor, why)
        else:
            self.allocations.change(connection, allocation_id, renewal=award.model_dump_json())
            self.authority.record(
                connection,
                actor,
                "allocation.award_renewal",
                allocation_id,
                why,
                award=award.model_dump(mode="json", exclude_defaults=True),
                begins_at_ms=allocation.ends_at_ms,
            )

    def require_open_to(self, allocation: Allocation, kind: RequestKind) -> None:
        """Raise TransitionError where nothing of a kind can be granted now: what is over gets nothing more."""
        if kind is RequestKind.RENEWAL:
            self.require_renewable(allocation)
            return
        state = self.state_at(allocation, self.clock.now_ms())
        if state not in MORE_IN_STATES[kind]:
            raise TransitionError(
                f"“{allocation.name}” is {state}: it gets no {kind}.",
                _INSTEAD.get(state, "Request a new allocation instead."),
            )

    def require_renewable(self, allocation: Allocation) -> None:
        """Raise NotAllowedError for an award that is not renewed, TransitionError outside the time for renewals."""
        if not allocation.award.renewable:
            raise NotAllowedError(
                f"“{allocation.name}” was awarded once: it is not renewed.", "Request a new allocation instead."
            )
        state = self.state_at(allocation, self.clock.now_ms())
        if state not in RENEWAL_STATES:
            days = self.policy.tier(allocation.tier).renewal_opens_days
            raise TransitionError(
                f"“{allocation.name}” is {state}: it is renewed from {days} days before its end until it is archived.",
                "Ask again then." if state in USABLE_STATES else "Request a new allocation instead.",
            )

    def prolong_entry(self, connection: Connection, allocation_id: str, actor: str) -> bool:
        """Give an entry allocation that is expiring or has ended a term from now; say whether it needed one."""
        allocation = self._locked(connection, allocation_id)
        now_ms = self.clock.now_ms()
        if self.state_at(allocation, now_ms) not in RENEWAL_STATES | {AllocationState.ARCHIVED}:
            return False
        ends_at_ms = now_ms + self.policy.tier(allocation.tier).term_days * MS_PER_DAY
        self._end_at(connection, allocation, ends_at_ms, actor, AllocationAction.RENEW, "agreement accepted again")
        return True

    def suspend(self, actor: Actor, allocation_id: str, why: str) -> None:
        """Stop an allocation from being spent until it is resumed; administrators only."""
        self._act(actor, allocation_id, AllocationAction.SUSPEND, why)

    def resume(self, actor: Actor, allocation_id: str, why: str) -> None:
        """Put a suspended allocation where it would be by the calendar; administrators only."""
        self._act(actor, allocation_id, AllocationAction.RESUME, why)

    def archive(self, actor: Actor, allocation_id: str, why: str) -> None:
        """Archive an allocation, and all below it, before its time; administrators only."""
        self._act(actor, allocation_id, AllocationAction.ARCHIVE, why)

    def close(self, actor: Actor, allocation_id: str, why: str) -> None:
        """Close an allocation, and all below it, for good; for a sub-allocation, who manages its parent may do so."""
        with self.database.read() as connection:
            is_whole = self.authority.seen(connection, actor, allocation_id).parent_id is None
        self._act(actor, allocation_id, AllocationAction.CLOSE if is_whole else AllocationAction.CLOSE_SHARE, why)

    def advance(self) -> int:
        """Move every allocation on by the calendar, begin renewals, refill daily; return how many changed."""
        changed = 0
        with self.database.read() as connection:
            everything = self.allocations.all(connection)
        now_ms = self.clock.now_ms()
        for seen in everything:
            if not self._is_due(seen, now_ms):
                continue
            with self.database.write() as connection:
                allocation = self._locked(connection, seen.id)
                # Only the one who has the lock of the root finds the renewal still there: it begins once.
                if allocation.renewal is not None and _renewal_is_due(allocation, now_ms):
                    begins_at_ms = allocation.ends_at_ms
                    self._begin_term(connection, allocation, allocation.renewal, begins_at_ms, PLATFORM, "")
                    allocation = self.authority.find(connection, seen.id)
                    changed += 1
                changed += self._advance_state(connection, allocation, now_ms)
                changed += self._refill(connection, self.authority.find(connection, seen.id), now_ms)
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
        transaction = self._transaction(actor, kind, memo)
        self.ledger.change_limit(connection, transaction, allocation_id, unit, amount)

    def state_at(self, allocation: Allocation, now_ms: int) -> AllocationState:
        """Return the state that the calendar gives.

        Suspended and closed are decided by people, not by it; what is archived it only closes.
        """
        if allocation.state in {AllocationState.SUSPENDED, AllocationState.CLOSED}:
            return allocation.state
        state = self._by_calendar(allocation, now_ms)
        if allocation.state is AllocationState.ARCHIVED and state is not AllocationState.CLOSED:
            return AllocationState.ARCHIVED
        return state

    # ------------------------------------------------------------------ inside

    def _transaction(self, actor: str, kind: TransactionKind, memo: str) -> Transaction:
        return Transaction(
            id=self.new_id("tx"),
            at_ms=self.clock.now_ms(),
            kind=kind,
            actor=actor,
            policy_version=self.policy.version,
            memo=memo,
        )

    def _by_calendar(self, allocation: Allocation, now_ms: int) -> AllocationState:
        """Return the state by the dates alone."""
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
        if tier.close_after_days is None or past_end_ms < tier.close_after_days * MS_PER_DAY:
            return AllocationState.ARCHIVED
        return AllocationState.CLOSED

    def _locked(self, connection: Connection, allocation_id: str) -> Allocation:
        """Return the allocation with its tree locked: of two decisions on one tree, the second sees the first's."""
        root_id = self.authority.find(connection, allocation_id).root_id
        self.ledger.lock(connection, [root_id])
        return self.authority.find(connection, allocation_id)

    def _act(self, actor: Actor, allocation_id: str, action: AllocationAction, why: str) -> None:
        """Do what a person decided; archiving and closing take all below along."""
        transition = ALLOCATION_TRANSITIONS[action]
        if transition.party is AllocationParty.ADMIN:
            self.authority.require_admin(actor, why)
        with self.database.write() as connection:
            allocation = self._locked(connection, allocation_id)
            if transition.party is AllocationParty.MANAGER:
                self.authority.managed_part(connection, actor, allocation_id)
                if not why.strip():
                    raise InvalidInputError("A reason is needed.", "Say why: it is kept in the audit log.")
            if allocation.state not in transition.sources:
                raise TransitionError(f"“{allocation.name}” is {allocation.state}.", "Nothing was changed.")
            now_ms = self.clock.now_ms()
            if transition.target in {AllocationState.ARCHIVED, AllocationState.CLOSED}:
                nodes = self.allocations.subtree(connection, allocation)
            else:
                nodes = [allocation]
            for node in nodes:
                if node.state in transition.sources:
                    target = transition.target or self._by_calendar(node, now_ms)
                    self._move(connection, node, target, actor.name, action, why)

    def _move(
        self,
        connection: Connection,
        allocation: Allocation,
        target: AllocationState,
        actor: str,
        action: AllocationAction,
        why: str = "",
    ) -> None:
        """Change a state, keep who and why, and tell who leads and manages."""
        self.allocations.change(connection, allocation.id, state=target)
        self.authority.record(
            connection, actor, f"allocation.{action}", allocation.id, why, before=allocation.state, after=target
        )
        kind = NoticeKind.RESUMED if action is AllocationAction.RESUME else _NOTICE_OF.get(target)
        if kind is not None:
            self._tell(connection, allocation, kind, allocation.ends_at_ms, why)

    def _tell(
        self, connection: Connection, allocation: Allocation, kind: NoticeKind, ends_at_ms: int, why: str
    ) -> None:
        leading = [
            member.person
            for member in self.allocations.members(connection, [allocation.id])
            if member.role in MANAGING_ROLES
        ]
        # The end tells the notices of one term from those of the next; what people do may happen twice in a term.
        by_people = kind in {NoticeKind.SUSPENDED, NoticeKind.RESUMED}
        threshold = str(self.clock.now_ms() if by_people else ends_at_ms)
        details: dict[str, str | int] = {"name": allocation.name, "ends_at_ms": ends_at_ms, "why": why}
        self.authority.tell(
            connection, *(Notice(person, kind, allocation.id, threshold, details) for person in leading)
        )

    def _end_at(
        self,
        connection: Connection,
        allocation: Allocation,
        ends_at_ms: int,
        actor: str,
        action: AllocationAction,
        why: str,
    ) -> None:
        """Let an allocation and all below it end at another time, and be in the state that this gives."""
        now_ms = self.clock.now_ms()
        for node in self.allocations.subtree(connection, allocation):
            if node.state not in ALLOCATION_TRANSITIONS[AllocationAction.RENEW].sources:
                continue
            moved = replace(node, ends_at_ms=ends_at_ms)
            suspended = node.state is AllocationState.SUSPENDED
            state = node.state if suspended else self._by_calendar(moved, now_ms)
            self.allocations.change(connection, node.id, ends_at_ms=ends_at_ms, state=state)
            self.authority.record(
                connection,
                actor,
                f"allocation.{action}",
                node.id,
                why,
                before=node.state,
                after=state,
                before_ends_at_ms=node.ends_at_ms,
                ends_at_ms=ends_at_ms,
            )
            self._tell(connection, node, NoticeKind.RENEWED, ends_at_ms, why)

    def _begin_term(
        self, connection: Connection, allocation: Allocation, award: Award, begins_at_ms: int, actor: str, why: str
    ) -> None:
        """Let what is unspent lapse, grant the new term's first instalment, and move the end of the tree.

        What is posted or held stays within the limit: leases that run across the end are charged to the new term.
        """
        tier = self.policy.tier(allocation.tier)
        self._lapse(connection, allocation.id, Unit.CREDITS, actor)
        granted = _share(tier, award.credits, released=0)
        self.change_limit(connection, allocation.id, granted, actor, TransactionKind.RENEWAL, "first instalment")
        for unit, hours, _ in _hours(award):
            if self._is_limited(connection, allocation.id, unit):
                self._lapse(connection, allocation.id, unit, actor)
            if hours is not None:
                self._raise_hours(connection, allocation.id, unit, hours, actor, TransactionKind.RENEWAL, "new term")
        self.allocations.change(
            connection,
            allocation.id,
            renewal=None,
            award=award.model_copy(update={"instalments_released": 1}).model_dump_json(),
            policy_version=self.policy.version,
        )
        ends_at_ms = begins_at_ms + (award.term_days or tier.term_days) * MS_PER_DAY
        self._end_at(connection, allocation, ends_at_ms, actor, AllocationAction.RENEW, why)

    def _lapse(self, connection: Connection, allocation_id: str, unit: Unit, actor: str) -> None:
        balance = self.ledger.balance(connection, allocation_id, unit)
        unspent = max(0, balance.available)
        self.change_limit(
            connection, allocation_id, -unspent, actor, TransactionKind.LAPSE, "unspent at the end of the term", unit
        )

    def _is_limited(self, connection: Connection, allocation_id: str, unit: Unit) -> bool:
        try:
            self.ledger.balance(connection, allocation_id, unit)
        except KeyError:
            return False
        return True

    def _raise_hours(
        self,
        connection: Connection,
        allocation_id: str,
        unit: Unit,
        hours: int,
        actor: str,
        kind: TransactionKind,
        memo: str,
    ) -> None:
        if not self._is_limited(connection, allocation_id, unit):
            opened = self._transaction(actor, kind, "used before it was limited")
            self.ledger.open_account(connection, opened, allocation_id, unit)
        self.change_limit(connection, allocation_id, hours * SECONDS_PER_HOUR, actor, kind, memo, unit)

    def _is_due(self, allocation: Allocation, now_ms: int) -> bool:
        refill_due = (
            allocation.refilled_at_ms is not None
            and allocation.state in USABLE_STATES
            and now_ms - allocation.refilled_at_ms >= MS_PER_DAY
        )
        return (
            refill_due
            or _renewal_is_due(allocation, now_ms)
            or self.state_at(allocation, now_ms) is not allocation.state
        )

    def _advance_state(self, connection: Connection, allocation: Allocation, now_ms: int) -> int:
        state = self.state_at(allocation, now_ms)
        if state is allocation.state:
            return 0
        self._move(connection, allocation, state, PLATFORM, AllocationAction.ADVANCE)
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


def _renewal_is_due(allocation: Allocation, now_ms: int) -> bool:
    return (
        allocation.renewal is not None
        and allocation.state is not AllocationState.CLOSED
        and now_ms >= allocation.ends_at_ms
    )


def _hours(award: Award) -> tuple[tuple[Unit, int | None, str], ...]:
    """Return the units beside credits, with what is awarded of each in hours and the name that it has there."""
    return (
        (Unit.GPU_SECONDS, award.gpu_hours, "gpu_hours"),
        (Unit.CORE_SECONDS, award.core_hours, "core_hours"),
    )


def _share(tier: Tier, credits: int | None, released: int) -> int:  # noqa: A002  # the unit's name
    """Return the next instalment in microcredits; an award that differs from the tier's is released in proportion."""
    whole = tier.budget.credits
    part = tier.budget.instalments[released]
    awarded = whole if credits is None else credits
    return awarded * MICROCREDITS_PER_CREDIT * part // whole
