"""The parts of an allocation: dividing it, changing and moving their shares, closing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError, InvalidInputError, NotAllowedError, UnknownAllocationError
from allocations.lifecycle.models import AllocationState
from allocations.reports.allocations import AllocationOutline, AllocationView
from allocations.web.allocation import after
from allocations.web.ending import ending
from allocations.web.forms import to_microcredits, to_whole_or_none
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter(prefix="/allocations/{allocation_id}")
Requester = Annotated[Identity, Depends(page_needs(Scope.REQUEST))]
RequesterForm = Annotated[Sent, Depends(form_needs(Scope.REQUEST))]


@dataclass(frozen=True, slots=True)
class Part:
    """A sub-allocation, and what it is a part of, as who manages the latter sees them."""

    detail: AllocationOutline
    parent: AllocationView
    siblings: list[AllocationView]

    @property
    def found(self) -> AllocationView:
        """The part itself."""
        return self.detail.allocation


@router.post("/suballocations")
def divide(request: Request, allocation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Open a sub-allocation."""

    def carry_out() -> None:
        services.tree.divide(
            sent.identity.actor,
            allocation_id,
            name=sent.text("name"),
            microcredits=to_microcredits(sent.text("credits"), "Credits"),
            gpu_hours=to_whole_or_none(sent.text("gpu_hours"), "GPU-hours"),
            core_hours=to_whole_or_none(sent.text("core_hours"), "Core-hours"),
            guaranteed=sent.text("kind") != "capped",
            lead=sent.text("lead"),
            idempotency_key=sent.key() or None,
        )

    return after(request, services, sent, allocation_id, carry_out, "divide", "divided")


@router.post("/moves")
def move_between(request: Request, allocation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Move budget between two direct parts of this allocation."""

    def carry_out() -> None:
        source, target = sent.text("source"), sent.text("target")
        tree = services.reports.outline(sent.identity.actor, allocation_id).tree
        if source not in {node.id for node in tree if node.parent == allocation_id}:
            raise InvalidInputError("It is not said from which part.", "Choose one of the list.")
        amount = to_microcredits(sent.text("amount"), "Amount")
        services.tree.move(sent.identity.actor, source, target, amount, idempotency_key=sent.key() or None)

    return after(request, services, sent, allocation_id, carry_out, "move", "moved")


@router.get("/share")
def show_share(request: Request, allocation_id: str, services: Wired, requester: Requester) -> Response:
    """Show the forms that change a part's budget or close it, to who manages what it is a part of."""
    return _share_page(request, _part(services, requester, allocation_id))


@router.post("/share")
def change_share(request: Request, allocation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Set a part's limit."""
    part = _part(services, sent.identity, allocation_id)
    try:
        share = to_microcredits(sent.text("credits"), "Credits")
        services.tree.change_share(sent.identity.actor, allocation_id, share)
    except AllocationsError as error:
        return _share_page(request, part, error, credits=sent.text("credits"))
    return see(request, f"/allocations/{part.parent.id}", "share")


@router.post("/move")
def move(request: Request, allocation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Move budget from this part to one beside it."""
    part, target = _part(services, sent.identity, allocation_id), sent.text("target")
    try:
        if all(sibling.id != target for sibling in part.siblings):
            raise InvalidInputError("No other part is chosen.", "Choose one of the list.")
        amount = to_microcredits(sent.text("amount"), "Amount")
        services.tree.move(sent.identity.actor, allocation_id, target, amount, idempotency_key=sent.key() or None)
    except AllocationsError as error:
        return _share_page(request, part, error, amount=sent.text("amount"), target=target)
    return see(request, f"/allocations/{part.parent.id}", "moved")


@router.get("/close")
def show_closing(request: Request, allocation_id: str, services: Wired, requester: Requester) -> Response:
    """Say what ends when a part is closed, and ask."""
    return _closing_page(request, services, requester, _part(services, requester, allocation_id))


@router.post("/close")
def close(request: Request, allocation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Close a part and all below it."""
    part, why = _part(services, sent.identity, allocation_id), sent.text("why")
    try:
        services.tree.close(sent.identity.actor, allocation_id, why, idempotency_key=sent.key() or None)
    except AllocationsError as error:
        return _closing_page(request, services, sent.identity, part, error, why)
    return see(request, f"/allocations/{part.parent.id}", "closed")


def _part(services: Wired, identity: Identity, allocation_id: str) -> Part:
    """Return a part to who manages what it is a part of; of that, nobody else learns even the name.

    UnknownAllocationError for who does not belong to the part, NotAllowedError for who only does that.
    """
    detail = services.reports.outline(identity.actor, allocation_id)
    if detail.allocation.parent is None:
        raise NotAllowedError(
            f"“{detail.allocation.name}” is a whole allocation: its limit is awarded, not set.",
            "Request a supplement instead.",
        )
    may_not = NotAllowedError(
        f"Only leads and managers of what “{detail.allocation.name}” is a part of may do this.", "Ask one of them."
    )
    try:
        above = services.reports.outline(identity.actor, detail.allocation.parent)
    except UnknownAllocationError:
        raise may_not from None
    if not above.may_manage:
        raise may_not
    siblings = [
        node
        for node in above.tree
        if node.parent == above.allocation.id and node.id != allocation_id and node.state != AllocationState.CLOSED
    ]
    return Part(detail, above.allocation, siblings)


def _share_page(
    request: Request,
    part: Part,
    error: AllocationsError | None = None,
    **typed: str,
) -> Response:
    return page(request, "share.html", error=error, part=part, found=part.found, typed=typed, key=new_key())


def _closing_page(
    request: Request,
    services: Wired,
    identity: Identity,
    part: Part,
    error: AllocationsError | None = None,
    why: str = "",
) -> Response:
    return page(
        request,
        "close.html",
        error=error,
        part=part,
        found=part.found,
        ends=ending(services, identity, part.detail),
        why=why,
        key=new_key(),
    )
