"""Gives people a place in an allocation the way they get one: they are asked, and they accept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.lifecycle.authority import Actor

if TYPE_CHECKING:
    from allocations.lifecycle.members import MemberService
    from allocations.lifecycle.models import MemberRole


def join(members: MemberService, lead: Actor, allocation: str, person: str, role: MemberRole) -> None:
    """Invite a person and accept as them."""
    invitation = members.invite(lead, allocation, person, role)
    members.answer(Actor(person), invitation.id, accept=True)
