"""The people of an allocation: leads, managers and members, who come by invitation and may leave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from allocations.clock import MS_PER_DAY
from allocations.errors import (
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    TransitionError,
)
from allocations.lifecycle.models import (
    Allocation,
    AllocationState,
    Invitation,
    InvitationState,
    Member,
    MemberRole,
)
from allocations.outbox import Notice, NoticeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.invitations import InvitationStore
    from allocations.policy.models import Policy

PERSON_LENGTH_MAX = 100
INVITATION_DAYS = 30
CAP_MAX = 1_000_000
MICROCREDITS_CAP_MAX = 10**15
_OVER = frozenset({AllocationState.ARCHIVED, AllocationState.CLOSED})
Cap = int | None | Literal["keep"]
"""What a member may run at once or spend: a number, None for as much as everybody, or as it is."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An invitation, and the allocation that it is a place in."""

    invitation: Invitation
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberService:
    """Who belongs to an allocation, and in which role.

    Every change of an allocation's people locks its balance first: two changes at the same time could otherwise each
    count on the lead, or take the place, that the other takes away.
    """

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    ledger: Ledger
    allocations: AllocationStore
    invitations: InvitationStore
    authority: Authority

    def invite(
        self,
        actor: Actor,
        allocation_id: str,
        person: str,
        role: MemberRole,
        *,
        servers_max: int | None = None,
        cores_max: int | None = None,
        gpus_max: int | None = None,
        microcredits_max: int | None = None,
    ) -> Invitation:
        """Offer a person a place for 30 days; while they have not answered, the same again is the same invitation.

        What it lets them run at once binds from the moment in which they accept.
        """
        person = require_person(person)
        caps = {
            "servers_max": servers_max,
            "cores_max": cores_max,
            "gpus_max": gpus_max,
            "microcredits_max": microcredits_max,
        }
        _require_caps(caps)
        with self.database.write() as connection:
            self.authority.managed(connection, actor, allocation_id)
            self.ledger.lock(connection, [allocation_id])
            allocation = self._living(connection, allocation_id)
            if self.allocations.member(connection, allocation_id, person) is not None:
                raise InvalidInputError(f"{person} is a member already.", "Change the role instead.")
            for pending in self.invitations.pending_on(connection, allocation_id, self.clock.now_ms()):
                if pending.person == person and pending.role is role and _caps_of(pending) == caps:
                    return pending
                if pending.person == person:
                    raise InvalidInputError(
                        f"{person} is invited as a {pending.role} and has not answered.",
                        "Revoke that invitation first.",
                    )
            self._require_place(connection, allocation, person)
            return self.offer(connection, actor, allocation, person, role, **caps)

    def offer(
        self,
        connection: Connection,
        actor: Actor,
        allocation: Allocation,
        person: str,
        role: MemberRole,
        **caps: int | None,
    ) -> Invitation:
        """Write an invitation and tell the person, as a part of the caller's transaction, which has checked it."""
        now_ms = self.clock.now_ms()
        self.invitations.expire(connection, allocation.id, now_ms)
        invitation = Invitation(
            id=self.new_id("i"),
            allocation_id=allocation.id,
            person=person,
            role=role,
            invited_by=actor.name,
            state=InvitationState.PENDING,
            created_at_ms=now_ms,
            ends_at_ms=now_ms + INVITATION_DAYS * MS_PER_DAY,
            **caps,
        )
        self.invitations.add(connection, invitation)
        set_caps = {name: cap for name, cap in caps.items() if cap is not None}
        self.authority.record(
            connection, actor.name, "member.invite", allocation.id, person=person, role=role, caps=set_caps
        )
        details = {"name": allocation.name, "role": role, "by": actor.name}
        self.authority.tell(connection, Notice(person, NoticeKind.INVITED, invitation.id, details=details))
        return invitation

    def answer(self, actor: Actor, invitation_id: str, accept: bool) -> Invitation:
        """Take or refuse a place; the invited person only, and in time."""
        with self.database.write() as connection:
            invitation = self._pending(connection, invitation_id, lambda found: found.person == actor.name)
            allocation = self.authority.find(connection, invitation.allocation_id)
            now_ms = self.clock.now_ms()
            if accept:
                self._living(connection, allocation.id)
                place = Member(allocation.id, actor.name, invitation.role, now_ms, **_caps_of(invitation))
                self.allocations.add_member(connection, place)
                self._relieve(connection, allocation, invitation)
            state = InvitationState.ACCEPTED if accept else InvitationState.REFUSED
            self.invitations.end(connection, invitation_id, state, now_ms)
            self.authority.record(
                connection, actor.name, "member.answer", allocation.id, role=invitation.role, answer=state
            )
            self.authority.tell(
                connection,
                Notice(
                    invitation.invited_by,
                    NoticeKind.INVITATION_ANSWERED,
                    invitation.id,
                    details={"name": allocation.name, "person": actor.name, "answer": state},
                ),
            )
            return replace(invitation, state=state, answered_at_ms=now_ms)

    def revoke(self, actor: Actor, invitation_id: str) -> Invitation:
        """Withdraw an invitation that has not been answered; leads and managers only."""
        with self.database.write() as connection:
            invitation = self._pending(
                connection,
                invitation_id,
                lambda found: self.authority.manages(connection, actor, found.allocation_id),
            )
            now_ms = self.clock.now_ms()
            self.invitations.end(connection, invitation_id, InvitationState.REVOKED, now_ms)
            self.authority.record(
                connection, actor.name, "member.revoke", invitation.allocation_id, person=invitation.person
            )
            return replace(invitation, state=InvitationState.REVOKED, answered_at_ms=now_ms)

    def invitations_of(self, person: str) -> list[Invitation]:
        """Return what waits for a person's answer, oldest first."""
        with self.database.read() as connection:
            return self.invitations.pending_of(connection, person, self.clock.now_ms())

    def offers_to(self, person: str) -> list[Offer]:
        """Return what waits for a person's answer and can be accepted, oldest first, with what it is a place in."""
        with self.database.read() as connection:
            pending = self.invitations.pending_of(connection, person, self.clock.now_ms())
            nodes = self.allocations.with_ancestors(connection, {one.allocation_id for one in pending})
            offers = [Offer(one, nodes[one.allocation_id]) for one in pending]
            return [offer for offer in offers if offer.allocation.state not in _OVER]

    def invitations_on(self, actor: Actor, allocation_id: str) -> list[Invitation]:
        """Return an allocation's invitations that wait for an answer, oldest first; leads and managers only."""
        with self.database.read() as connection:
            self.authority.managed(connection, actor, allocation_id)
            return self.invitations.pending_on(connection, allocation_id, self.clock.now_ms())

    def people_below(self, actor: Actor, allocation_id: str) -> list[str]:
        """Return who belongs to an allocation or a part of it, by name; leads and managers only."""
        with self.database.read() as connection:
            allocation = self.authority.managed(connection, actor, allocation_id)
            nodes = [node.id for node in self.allocations.subtree(connection, allocation)]
            return sorted({member.person for member in self.allocations.members(connection, nodes)})

    def change(
        self,
        actor: Actor,
        allocation_id: str,
        person: str,
        *,
        role: MemberRole | None = None,
        servers_max: Cap = "keep",
        cores_max: Cap = "keep",
        gpus_max: Cap = "keep",
        microcredits_max: Cap = "keep",
    ) -> Member:
        """Change a member's role, and what the member may run at once and spend; leads and managers only."""
        asked = {
            "servers_max": servers_max,
            "cores_max": cores_max,
            "gpus_max": gpus_max,
            "microcredits_max": microcredits_max,
        }
        caps: dict[str, int | None] = {name: cap for name, cap in asked.items() if cap != "keep"}
        _require_caps(caps)
        with self.database.write() as connection:
            self.authority.managed(connection, actor, allocation_id)
            self.ledger.lock(connection, [allocation_id])
            member = self._member(connection, allocation_id, person)
            changed = replace(member, role=role or member.role, **caps)  # type: ignore[arg-type]
            self._replace(connection, changed)
            self.authority.record(
                connection, actor.name, "member.change", allocation_id, person=person, role=changed.role, caps=caps
            )
            return changed

    def remove(self, actor: Actor, allocation_id: str, person: str) -> None:
        """Remove a person (who may be the actor) from an allocation and all below it, but never the last lead."""
        with self.database.write() as connection:
            allocation = self.authority.seen(connection, actor, allocation_id)
            if actor.name != person:
                self.authority.managed(connection, actor, allocation_id)
            subtree = self.authority.lock_subtree(connection, allocation)
            self._member(connection, allocation_id, person)
            left = []
            for node in subtree:
                member = self.allocations.member(connection, node.id, person)
                if member is not None:
                    if member.role is MemberRole.LEAD and node.state is not AllocationState.CLOSED:
                        self._require_another_lead(connection, node, person)
                    self.allocations.remove_member(connection, node.id, person)
                    left.append(node.id)
            now_ms = self.clock.now_ms()
            self.invitations.revoke_all(connection, [node.id for node in subtree], now_ms, person)
            for node_id in left:
                self.authority.record(connection, actor.name, "member.remove", node_id, person=person)
            details = {"name": allocation.name, "by": actor.name}
            self.authority.tell(
                connection, Notice(person, NoticeKind.MEMBER_REMOVED, allocation_id, str(now_ms), details)
            )

    # ------------------------------------------------------------------ inside

    def _living(self, connection: Connection, allocation_id: str) -> Allocation:
        allocation = self.authority.find(connection, allocation_id)
        if allocation.state in _OVER:
            raise TransitionError(f"“{allocation.name}” is {allocation.state}.", "Nobody joins it any more.")
        return allocation

    def _pending(
        self, connection: Connection, invitation_id: str, concerns: Callable[[Invitation], bool]
    ) -> Invitation:
        """Return an invitation that waits for an answer, its allocation locked.

        One that does not concern who asks is, word for word, one that is not there: NotFoundError. Of an answer and
        a revocation at the same time, the second waits for the lock and finds it no longer pending.
        """
        invitation = self.invitations.get(connection, invitation_id)
        if invitation is None or not concerns(invitation):
            raise NotFoundError(f"There is no invitation {invitation_id!r}.", "Ask for a new one.")
        self.ledger.lock(connection, [invitation.allocation_id])
        invitation = self.invitations.get(connection, invitation_id)
        assert invitation is not None, "invitations are never deleted"
        if invitation.state is not InvitationState.PENDING:
            raise TransitionError(f"The invitation was {invitation.state} already.", "Nothing was changed.")
        if invitation.ends_at_ms <= self.clock.now_ms():
            raise TransitionError("The invitation has expired.", "Ask for a new one.")
        return invitation

    def _member(self, connection: Connection, allocation_id: str, person: str) -> Member:
        member = self.allocations.member(connection, allocation_id, person)
        if member is None:
            raise InvalidInputError(f"{person} is not a member.", "Choose one of the members.")
        return member

    def _replace(self, connection: Connection, changed: Member) -> None:
        before = self._member(connection, changed.allocation_id, changed.person)
        if before.role is MemberRole.LEAD and changed.role is not MemberRole.LEAD:
            allocation = self.authority.find(connection, changed.allocation_id)
            self._require_another_lead(connection, allocation, changed.person)
        self.allocations.remove_member(connection, changed.allocation_id, changed.person)
        self.allocations.add_member(connection, changed)

    def _relieve(self, connection: Connection, allocation: Allocation, invitation: Invitation) -> None:
        """Let the one who divided step back for the lead invited then: the invitation is as old as the allocation."""
        stands_in = self.allocations.member(connection, allocation.id, invitation.invited_by)
        if (
            invitation.role is MemberRole.LEAD
            and allocation.parent_id is not None
            and invitation.created_at_ms == allocation.created_at_ms
            and stands_in is not None
        ):
            self.allocations.remove_member(connection, allocation.id, stands_in.person)

    def _require_place(self, connection: Connection, allocation: Allocation, person: str) -> None:
        """Refuse one more person than the tier has room for; those who are invited have their place."""
        tier = self.policy.tier(allocation.tier)
        people = {member.person for member in self.allocations.members(connection, [allocation.id])}
        invited = self.invitations.pending_on(connection, allocation.id, self.clock.now_ms())
        people |= {invitation.person for invitation in invited}
        if tier.people_max is not None and len(people - {person}) >= tier.people_max:
            raise NotAllowedError(
                f"The {tier.title} tier has room for {tier.people_max} people, and all places are taken.",
                "Remove a member or revoke an invitation first, or request a higher tier.",
            )

    def _require_another_lead(self, connection: Connection, allocation: Allocation, person: str) -> None:
        members = self.allocations.members(connection, [allocation.id])
        if not any(member.role is MemberRole.LEAD for member in members if member.person != person):
            raise NotAllowedError(
                f"“{allocation.name}” needs a lead, and {person} is the only one.", "Name another lead first."
            )


def require_person(person: str) -> str:
    """Return a user name, trimmed; InvalidInputError when it cannot be one."""
    cleaned = person.strip()
    if not 0 < len(cleaned) <= PERSON_LENGTH_MAX or not cleaned.isprintable():
        raise InvalidInputError("That is not a user name.", "Enter the name with which the person signs in.")
    return cleaned


def _caps_of(invitation: Invitation) -> dict[str, int | None]:
    return {
        "servers_max": invitation.servers_max,
        "cores_max": invitation.cores_max,
        "gpus_max": invitation.gpus_max,
        "microcredits_max": invitation.microcredits_max,
    }


def _require_caps(caps: Mapping[str, int | None]) -> None:
    for name, cap in caps.items():
        most = MICROCREDITS_CAP_MAX if name == "microcredits_max" else CAP_MAX
        if cap is not None and not 0 <= cap <= most:
            raise InvalidInputError(
                f"A cap lies between 0 and {most:,}.", "Enter a number within that, or nothing for no cap."
            )
