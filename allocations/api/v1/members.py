"""The people of an allocation: invited, changed, removed; and each person's own invitations."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from allocations.api.v1.common import Body, Reader, Requester, Wired, example
from allocations.clock import to_rfc3339
from allocations.factory import Services
from allocations.leases.views import View
from allocations.lifecycle.models import Invitation, InvitationState, MemberRole
from allocations.reports.allocations import MemberView

router = APIRouter(tags=["members"])
MicrocreditsCap = Annotated[
    int | None,
    Field(ge=0, lt=2**63, description="what the member may spend on it in all; null and left out as of caps"),
]
Cap = Annotated[int | None, Field(ge=0, lt=2**31, description="null for as much as everybody, left out to keep")]


class InviteBody(Body):
    """A person, the role that is offered, and what it lets the person run at once."""

    model_config = example(person="bob", role="manager", cores_max=64)

    person: str
    role: MemberRole = MemberRole.MEMBER
    servers_max: Cap = None
    cores_max: Cap = None
    gpus_max: Cap = None
    microcredits_max: MicrocreditsCap = None


class MemberChangeBody(Body):
    """A member's new role, and what the member may run at once; what is left out stays."""

    model_config = example(role="member", cores_max=64, gpus_max=None)

    role: MemberRole | None = None
    servers_max: Cap = None
    cores_max: Cap = None
    gpus_max: Cap = None
    microcredits_max: MicrocreditsCap = None


class InvitationAnswer(StrEnum):
    """What may be done to an invitation: the first two by the invited person, the last by who may invite."""

    ACCEPT = "accept"
    DECLINE = "decline"
    REVOKE = "revoke"


class InvitationView(View):
    """A place in an allocation that is offered to a person until `ends_at`."""

    id: str
    allocation: str
    allocation_name: str
    person: str
    role: MemberRole
    invited_by: str
    state: InvitationState
    created_at: str
    ends_at: str
    answered_at: str | None


class InvitationList(View):
    """Invitations that wait for an answer, oldest first."""

    invitations: list[InvitationView]


@router.post("/allocations/{allocation_id}/members", status_code=201)
@router.post("/allocations/{allocation_id}/invitations", status_code=201)
def invite(allocation_id: str, body: InviteBody, services: Wired, caller: Requester) -> InvitationView:
    """Invite a person, who becomes a member by accepting; leads and managers only."""
    invitation = services.members.invite(
        caller.actor,
        allocation_id,
        body.person,
        body.role,
        servers_max=body.servers_max,
        cores_max=body.cores_max,
        gpus_max=body.gpus_max,
        microcredits_max=body.microcredits_max,
    )
    return _view(services, invitation)


@router.get("/allocations/{allocation_id}/invitations")
def invitations_on(allocation_id: str, services: Wired, caller: Reader) -> InvitationList:
    """What waits for an answer, oldest first; leads and managers only."""
    return _list(services, services.members.invitations_on(caller.actor, allocation_id))


@router.patch("/allocations/{allocation_id}/members/{person}")
def change_member(
    allocation_id: str, person: str, body: MemberChangeBody, services: Wired, caller: Requester
) -> MemberView:
    """Change a member's role, and what the member may run at once; leads and managers only."""
    caps: dict[str, Any] = body.model_dump(include=body.model_fields_set - {"role"})
    return MemberView.from_member(services.members.change(caller.actor, allocation_id, person, role=body.role, **caps))


@router.delete("/allocations/{allocation_id}/members/{person}", status_code=204)
def remove_member(allocation_id: str, person: str, services: Wired, caller: Requester) -> None:
    """Remove a person from an allocation and all below it: leads and managers anybody, everybody themselves."""
    services.members.remove(caller.actor, allocation_id, person)


@router.get("/invitations")
def own_invitations(services: Wired, caller: Reader) -> InvitationList:
    """What waits for the caller's answer, oldest first."""
    return _list(services, services.members.invitations_of(caller.name))


@router.post("/invitations/{invitation_id}/{answer}")
def answer_invitation(
    invitation_id: str, answer: InvitationAnswer, services: Wired, caller: Requester
) -> InvitationView:
    """Accept or decline an invitation of the caller's own, or revoke one as a lead or manager."""
    if answer is InvitationAnswer.REVOKE:
        return _view(services, services.members.revoke(caller.actor, invitation_id))
    accept = answer is InvitationAnswer.ACCEPT
    return _view(services, services.members.answer(caller.actor, invitation_id, accept=accept))


def _view(services: Services, invitation: Invitation) -> InvitationView:
    return _list(services, [invitation]).invitations[0]


def _list(services: Services, invitations: list[Invitation]) -> InvitationList:
    names = services.reports.names({invitation.allocation_id for invitation in invitations})
    return InvitationList(
        invitations=[
            InvitationView(
                id=one.id,
                allocation=one.allocation_id,
                allocation_name=names[one.allocation_id],
                person=one.person,
                role=one.role,
                invited_by=one.invited_by,
                state=one.state,
                created_at=to_rfc3339(one.created_at_ms),
                ends_at=to_rfc3339(one.ends_at_ms),
                answered_at=None if one.answered_at_ms is None else to_rfc3339(one.answered_at_ms),
            )
            for one in invitations
        ]
    )
