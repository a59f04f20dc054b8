"""The people of allocations: they are invited, answer, change roles, leave and are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.db.schema import notices
from allocations.errors import (
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    TransitionError,
    UnknownAllocationError,
)
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.outbox import NoticeKind

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
DAY = 86_400
ANN, BOB, LEAD, ADMIN = Actor("ann"), Actor("bob"), Actor("lead"), Actor("admin", admin=True)


def join(bench: Bench, allocation: str, person: str, role: MemberRole = MemberRole.MEMBER) -> None:
    invitation = bench.services.members.invite(LEAD, allocation, person, role)
    bench.services.members.answer(Actor(person), invitation.id, accept=True)


def roles(bench: Bench, allocation: str) -> dict[str, str]:
    with bench.services.database.read() as connection:
        members = bench.services.members.allocations.members(connection, [allocation])
    return {member.person: member.role.value for member in members}


def told(bench: Bench, kind: NoticeKind) -> list[str]:
    with bench.services.database.read() as connection:
        return list(connection.execute(select(notices.c.person).where(notices.c.kind == kind)).scalars())


def test_people_join_by_accepting_an_invitation(bench: Bench) -> None:
    root = bench.consortium()
    members = bench.services.members
    with pytest.raises(UnknownAllocationError):
        members.invite(ANN, root, "ann", MemberRole.MEMBER)
    invitation = members.invite(LEAD, root, " ann ", MemberRole.MANAGER)
    assert members.invite(LEAD, root, "ann", MemberRole.MANAGER) == invitation
    with pytest.raises(InvalidInputError, match="is invited as"):
        members.invite(LEAD, root, "ann", MemberRole.MEMBER)
    assert members.invitations_of("ann") == members.invitations_on(LEAD, root) == [invitation]
    with pytest.raises(NotFoundError):
        members.answer(BOB, invitation.id, accept=True)
    assert roles(bench, root) == {"lead": "lead"}
    members.answer(ANN, invitation.id, accept=True)
    assert roles(bench, root) == {"lead": "lead", "ann": "manager"}
    assert members.invitations_of("ann") == []
    with pytest.raises(TransitionError, match="accepted already"):
        members.answer(ANN, invitation.id, accept=True)
    with pytest.raises(InvalidInputError, match="member already"):
        members.invite(LEAD, root, "ann", MemberRole.MEMBER)
    with pytest.raises(NotFoundError):
        members.answer(ANN, "i-none", accept=True)
    assert (told(bench, NoticeKind.INVITED), told(bench, NoticeKind.INVITATION_ANSWERED)) == (["ann"], ["lead"])


def test_an_invitation_is_refused_revoked_or_expires(bench: Bench) -> None:
    root = bench.consortium()
    members = bench.services.members
    refused = members.invite(LEAD, root, "ann", MemberRole.MEMBER)
    members.answer(ANN, refused.id, accept=False)
    revoked = members.invite(LEAD, root, "ann", MemberRole.MEMBER)
    with pytest.raises(NotFoundError):
        members.revoke(ANN, revoked.id)
    members.revoke(LEAD, revoked.id)
    with pytest.raises(TransitionError, match="revoked"):
        members.answer(ANN, revoked.id, accept=True)
    expired = members.invite(LEAD, root, "ann", MemberRole.MEMBER)
    bench.clock.pass_seconds(30 * DAY)
    with pytest.raises(TransitionError, match="expired"):
        members.answer(ANN, expired.id, accept=True)
    assert members.invitations_of("ann") == []
    assert members.invite(LEAD, root, "ann", MemberRole.MEMBER).id != expired.id
    assert roles(bench, root) == {"lead": "lead"}


def test_a_pending_invitation_takes_a_place(bench: Bench) -> None:
    with bench.services.database.write() as connection:
        tier = bench.services.policy.tier("research")
        research = bench.services.lifecycle.open(connection, tier, "Dark stars", lead="lead", actor="t").id
    members = bench.services.members
    invited = [members.invite(LEAD, research, f"p{n}", MemberRole.MEMBER) for n in range(10)]
    with pytest.raises(NotAllowedError, match="room for 11"):
        members.invite(LEAD, research, "ann", MemberRole.MEMBER)
    members.revoke(LEAD, invited[0].id)
    join(bench, research, "ann")


def test_roles_and_caps_are_changed_by_managers(bench: Bench) -> None:
    root = bench.consortium()
    join(bench, root, "ann")
    members = bench.services.members
    with pytest.raises(NotAllowedError):
        members.change(ANN, root, "ann", cores_max=None)
    capped = members.change(LEAD, root, "ann", cores_max=8, gpus_max=0)
    assert (capped.servers_max, capped.cores_max, capped.gpus_max, capped.role) == (None, 8, 0, MemberRole.MEMBER)
    promoted = members.change(LEAD, root, "ann", role=MemberRole.LEAD, cores_max=None)
    assert (promoted.cores_max, promoted.gpus_max, promoted.joined_at_ms) == (None, 0, capped.joined_at_ms)
    members.change(ANN, root, "lead", role=MemberRole.MEMBER)
    with pytest.raises(NotAllowedError, match="needs a lead"):
        members.change(ANN, root, "ann", role=MemberRole.MANAGER)
    with pytest.raises(InvalidInputError):
        members.change(ANN, root, "lead", servers_max=-1)
    with pytest.raises(InvalidInputError, match="not a member"):
        members.change(ANN, root, "bob", servers_max=1)


def test_who_leaves_leaves_all_below_and_no_allocation_loses_its_lead(bench: Bench) -> None:
    root = bench.consortium()
    for person in ("ann", "bob"):
        join(bench, root, person)
    tree, members = bench.services.tree, bench.services.members
    child = tree.divide(LEAD, root, name="Group", microcredits=CREDIT, guaranteed=True, lead="ann")
    assert roles(bench, child) == {"ann": "lead"}
    with pytest.raises(NotAllowedError, match="“Group” needs a lead"):
        members.remove(ANN, root, "ann")
    with pytest.raises(NotAllowedError):
        members.remove(BOB, root, "ann")
    join(bench, child, "bob", MemberRole.LEAD)
    members.remove(ANN, root, "ann")
    assert (roles(bench, root), roles(bench, child)) == ({"lead": "lead", "bob": "member"}, {"bob": "lead"})
    assert told(bench, NoticeKind.MEMBER_REMOVED) == ["ann"]
    with pytest.raises(NotAllowedError, match="needs a lead"):
        members.remove(LEAD, root, "lead")


def test_a_lead_from_outside_is_invited_and_relieves_the_one_who_divided(bench: Bench) -> None:
    root = bench.consortium()
    child = bench.services.tree.divide(LEAD, root, name="G", microcredits=CREDIT, guaranteed=True, lead="eve")
    assert roles(bench, child) == {"lead": "lead"}
    invitation = bench.services.members.invitations_of("eve")[0]
    bench.services.members.answer(Actor("eve"), invitation.id, accept=True)
    assert roles(bench, child) == {"eve": "lead"}


def test_a_closed_allocation_is_not_joined(bench: Bench) -> None:
    root = bench.consortium()
    child = bench.services.tree.divide(LEAD, root, name="G", microcredits=CREDIT, guaranteed=True, lead="lead")
    invitation = bench.services.members.invite(LEAD, child, "ann", MemberRole.MEMBER)
    bench.services.tree.close(LEAD, child, "over")
    with pytest.raises(TransitionError):
        bench.services.members.answer(ANN, invitation.id, accept=True)
    with pytest.raises(TransitionError, match="closed"):
        bench.services.members.invite(LEAD, child, "bob", MemberRole.MEMBER)


def test_who_is_removed_cannot_come_back_by_an_older_invitation(bench: Bench) -> None:
    root = bench.consortium()
    join(bench, root, "ann")
    child = bench.services.tree.divide(LEAD, root, name="G", microcredits=CREDIT, guaranteed=True, lead="lead")
    invitation = bench.services.members.invite(LEAD, child, "ann", MemberRole.MEMBER)
    bench.services.members.remove(LEAD, root, "ann")
    with pytest.raises(TransitionError, match="revoked"):
        bench.services.members.answer(ANN, invitation.id, accept=True)


def test_an_invitation_carries_caps_that_bind_from_its_acceptance(bench: Bench) -> None:
    root = bench.consortium()
    members = bench.services.members
    invitation = members.invite(LEAD, root, "ann", MemberRole.MEMBER, servers_max=1, gpus_max=0)
    with pytest.raises(InvalidInputError, match="is invited as"):
        members.invite(LEAD, root, "ann", MemberRole.MEMBER, servers_max=2)
    with pytest.raises(InvalidInputError, match="A cap lies between"):
        members.invite(LEAD, root, "bob", MemberRole.MEMBER, cores_max=2**31)
    (offer,) = members.offers_to("ann")
    assert (offer.invitation, offer.allocation.id) == (invitation, root)
    members.answer(ANN, invitation.id, accept=True)
    with bench.services.database.read() as connection:
        (place,) = [one for one in members.allocations.members(connection, [root]) if one.person == "ann"]
    assert (place.servers_max, place.cores_max, place.gpus_max) == (1, None, 0)
