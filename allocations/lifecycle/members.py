"""The people of an allocation: leads, managers and members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import (
    InvalidInputError,
    NotAllowedError,
)
from allocations.lifecycle.models import (
    Member,
    MemberRole,
)

if TYPE_CHECKING:
    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy

PERSON_LENGTH_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberService:
    """Who belongs to an allocation, and in which role."""

    database: Database
    clock: Clock
    policy: Policy
    allocations: AllocationStore
    authority: Authority

    def add(self, actor: Actor, allocation_id: str, person: str, role: MemberRole) -> None:
        """Add a person, or change the role of one who is a member already."""
        person = require_person(person)
        with self.database.write() as connection:
            allocation = self.authority.managed(connection, actor, allocation_id)
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
            self.authority.record(connection, actor.name, "member.add", allocation_id, person=person, role=role)

    def remove(self, actor: Actor, allocation_id: str, person: str) -> None:
        """Remove a person; a lead only while another is left."""
        with self.database.write() as connection:
            self.authority.managed(connection, actor, allocation_id)
            present = {member.person: member.role for member in self.allocations.members(connection, [allocation_id])}
            if person not in present:
                raise InvalidInputError(f"{person} is not a member.", "Choose one of the members.")
            if present[person] is MemberRole.LEAD:
                self._require_another_lead(present, person)
            self.allocations.remove_member(connection, allocation_id, person)
            self.authority.record(connection, actor.name, "member.remove", allocation_id, person=person)

    # ------------------------------------------------------------------ inside

    def _require_another_lead(self, present: dict[str, MemberRole], person: str) -> None:
        if not any(role is MemberRole.LEAD for name, role in present.items() if name != person):
            raise NotAllowedError("An allocation needs a lead.", "Name another lead first.")


def require_person(person: str) -> str:
    """Return a user name, trimmed; InvalidInputError when it cannot be one."""
    cleaned = person.strip()
    if not 0 < len(cleaned) <= PERSON_LENGTH_MAX or not cleaned.isprintable():
        raise InvalidInputError("That is not a user name.", "Enter the name with which the person signs in.")
    return cleaned
