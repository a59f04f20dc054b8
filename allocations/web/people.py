"""The people of an allocation: inviting and answering, a member's role and caps, removing and leaving."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError, InvalidInputError, NotAllowedError, NotFoundError
from allocations.lifecycle.models import MemberRole
from allocations.reports.allocations import AllocationOutline, MemberView
from allocations.web.allocation import after
from allocations.web.formats import to_exact_credits
from allocations.web.forms import to_microcredits, to_whole_or_none
from allocations.web.render import page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter()
Requester = Annotated[Identity, Depends(page_needs(Scope.REQUEST))]
RequesterForm = Annotated[Sent, Depends(form_needs(Scope.REQUEST))]
CAPS = {"servers_max": "Servers", "cores_max": "Cores", "gpus_max": "GPUs"}


@router.post("/allocations/{allocation_id}/invitations")
def invite(request: Request, allocation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Invite a person in a role, with what they may run at once."""

    def carry_out() -> None:
        actor, person = sent.identity.actor, sent.text("person")
        services.members.invite(actor, allocation_id, person, _role(sent), **_caps(sent))

    return after(request, services, sent, allocation_id, carry_out, "invite", "invited")


@router.post("/allocations/{allocation_id}/invitations/{invitation_id}/revoke")
def revoke(request: Request, allocation_id: str, invitation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Withdraw an invitation to this allocation."""

    def carry_out() -> None:
        pending = services.members.invitations_on(sent.identity.actor, allocation_id)
        if all(one.id != invitation_id for one in pending):
            raise NotFoundError("That invitation waits for no answer any more.", "Look at who is invited now.")
        services.members.revoke(sent.identity.actor, invitation_id)

    return after(request, services, sent, allocation_id, carry_out, "revoke", "revoked")


@router.post("/invitations/{invitation_id}/answer")
def answer(request: Request, invitation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Accept or decline an invitation; one for somebody else looks like one that does not exist."""
    accept = {"accept": True, "decline": False}.get(sent.text("answer"))
    if accept is None:
        raise InvalidInputError("No answer is chosen.", "Go back, and accept or decline.")
    if all(offer.invitation.id != invitation_id for offer in services.members.offers_to(sent.identity.name)):
        raise NotFoundError(
            "No such invitation waits for your answer: it was answered, revoked, or has expired.",
            "Ask for a new one.",
        )
    services.members.answer(sent.identity.actor, invitation_id, accept)
    return see(request, "/", "joined" if accept else "refused")


@router.get("/allocations/{allocation_id}/member")
def show_member(
    request: Request, allocation_id: str, services: Wired, requester: Requester, person: str = ""
) -> Response:
    """Show a member's place to who may change it."""
    return _member_page(request, services, requester, allocation_id, person)


@router.post("/allocations/{allocation_id}/member")
def change_member(request: Request, allocation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Change a member's role and caps."""
    person = sent.text("person")
    try:
        services.members.change(sent.identity.actor, allocation_id, person, role=_role(sent), **_caps(sent))
    except AllocationsError as error:
        return _member_page(request, services, sent.identity, allocation_id, person, error, sent)
    return see(request, f"/allocations/{allocation_id}", "member")


@router.post("/allocations/{allocation_id}/members/remove")
def remove_member(request: Request, allocation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Remove a member."""
    person = sent.text("person")
    try:
        _managed(services, sent.identity, allocation_id)
        services.members.remove(sent.identity.actor, allocation_id, person)
    except AllocationsError as error:
        return _member_page(request, services, sent.identity, allocation_id, person, error)
    is_oneself = person == sent.identity.name
    return see(request, *(("/", "left") if is_oneself else (f"/allocations/{allocation_id}", "removed")))


@router.get("/allocations/{allocation_id}/leave")
def show_leaving(request: Request, allocation_id: str, services: Wired, requester: Requester) -> Response:
    """Say what ends for a member who leaves, and ask."""
    return _leaving_page(request, services, requester, allocation_id)


@router.post("/allocations/{allocation_id}/leave")
def leave(request: Request, allocation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Leave an allocation."""
    try:
        services.members.remove(sent.identity.actor, allocation_id, sent.identity.name)
    except AllocationsError as error:
        return _leaving_page(request, services, sent.identity, allocation_id, error)
    return see(request, "/", "left")


def _role(sent: Sent) -> MemberRole:
    role = sent.text("role")
    if role not in set(MemberRole):
        raise InvalidInputError(f"There is no role {role!r}.", "Choose one of the list.")
    return MemberRole(role)


def _caps(sent: Sent) -> dict[str, int | None]:
    credits_max = sent.text("credits_max")
    return {name: to_whole_or_none(sent.text(name), title) for name, title in CAPS.items()} | {
        "microcredits_max": to_microcredits(credits_max, "Credits") if credits_max.strip() else None
    }


def _managed(services: Wired, identity: Identity, allocation_id: str) -> AllocationOutline:
    detail = services.reports.outline(identity.actor, allocation_id)
    if not detail.may_manage:
        raise NotAllowedError("Only leads and managers change the members.", "Ask one of them.")
    return detail


def _place(detail: AllocationOutline, person: str) -> MemberView:
    for member in detail.members:
        if member.person == person:
            return member
    raise NotFoundError("That person is not a member.", "Choose one of the members on the allocation's page.")


def _member_page(
    request: Request,
    services: Wired,
    identity: Identity,
    allocation_id: str,
    person: str,
    error: AllocationsError | None = None,
    sent: Sent | None = None,
) -> Response:
    detail = _managed(services, identity, allocation_id)
    member = _place(detail, person)
    typed = {name: getattr(member, name) for name in CAPS} | {"role": member.role, "credits_max": ""}
    if member.microcredits_max is not None:
        typed["credits_max"] = to_exact_credits(member.microcredits_max)
    if sent is not None:
        typed = {name: sent.text(name) for name in typed}
    return page(
        request,
        "member.html",
        error=error,
        found=detail.allocation,
        is_divided=len(detail.tree) > 1,
        member=member,
        typed={name: "" if value is None else value for name, value in typed.items()},
        roles=list(MemberRole),
        running=sum(lease.person == person for lease in detail.leases),
    )


def _leaving_page(
    request: Request,
    services: Wired,
    identity: Identity,
    allocation_id: str,
    error: AllocationsError | None = None,
) -> Response:
    detail = services.reports.outline(identity.actor, allocation_id)
    _place(detail, identity.name)
    return page(
        request,
        "leave.html",
        error=error,
        found=detail.allocation,
        is_divided=len(detail.tree) > 1,
        running=sum(lease.person == identity.name for lease in detail.leases),
    )
