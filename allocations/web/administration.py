"""The administrators' pages: every allocation, and what they may do to it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError, InvalidInputError
from allocations.lifecycle.models import ALLOCATION_TRANSITIONS, AllocationAction, AllocationState
from allocations.reports.allocations import ALLOCATIONS_PAGE
from allocations.web import audit, reports
from allocations.web.audit import ENTRY_ID_MAX
from allocations.web.ending import ending
from allocations.web.render import page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter(prefix="/admin")
Administrator = Annotated[Identity, Depends(page_needs(Scope.ADMIN))]
DONE_NOW = {
    AllocationAction.SUSPEND: "suspended",
    AllocationAction.RESUME: "resumed",
    AllocationAction.ARCHIVE: "archived",
    AllocationAction.CLOSE: "closed",
}
# The reports and the audit log are administrators' pages, too.
router.include_router(reports.router)
router.include_router(audit.router)


@router.get("/allocations")
def show_allocations(
    request: Request,
    services: Wired,
    _administrator: Administrator,
    find: str = "",
    start: Annotated[int, Query(ge=0, le=ENTRY_ID_MAX)] = 0,
) -> Response:
    """Show all allocations, or those whose name, id, tier or state contains what is looked for."""
    found, count = services.reports.find_allocations(find.replace("\0", "").strip(), start)
    return page(
        request,
        "allocations.html",
        allocations=found,
        count=count,
        find=find,
        start=start,
        size=ALLOCATIONS_PAGE,
    )


@router.get("/allocations/{allocation_id}")
def show_allocation(request: Request, allocation_id: str, services: Wired, administrator: Administrator) -> Response:
    """Show what an administrator may do to an allocation now, and what it ends."""
    return _allocation(request, services, administrator, allocation_id)


@router.post("/allocations/{allocation_id}/state")
def change_state(
    request: Request,
    allocation_id: str,
    services: Wired,
    sent: Annotated[Sent, Depends(form_needs(Scope.ADMIN))],
) -> Response:
    """Suspend, resume, archive or close an allocation, with the reason that the audit log keeps."""
    actor, action, why = sent.identity.actor, sent.text("action"), sent.text("why")
    part_of = services.reports.outline(actor, allocation_id).allocation.parent
    # A part is closed as its leads would close it: what it has not used is then given back.
    close = services.lifecycle.close if part_of is None else services.tree.close
    actions = {
        AllocationAction.SUSPEND: services.lifecycle.suspend,
        AllocationAction.RESUME: services.lifecycle.resume,
        AllocationAction.ARCHIVE: services.lifecycle.archive,
        AllocationAction.CLOSE: close,
    }
    try:
        if action not in actions:
            raise InvalidInputError("No action is chosen.", "Choose one of the buttons.")
        actions[AllocationAction(action)](actor, allocation_id, why)
    except AllocationsError as error:
        return _allocation(request, services, sent.identity, allocation_id, error, action, why)
    return see(request, f"/admin/allocations/{allocation_id}", DONE_NOW[AllocationAction(action)])


def _allocation(
    request: Request,
    services: Wired,
    administrator: Identity,
    allocation_id: str,
    error: AllocationsError | None = None,
    action: str = "",
    why: str = "",
) -> Response:
    detail = services.reports.outline(administrator.actor, allocation_id)
    state = AllocationState(detail.allocation.state)
    return page(
        request,
        "administered_allocation.html",
        error=error,
        found=detail.allocation,
        members=detail.members,
        actions=[one for one in DONE_NOW if state in ALLOCATION_TRANSITIONS[one].sources],
        ends=ending(services, administrator, detail),
        why=lambda of_action: why if of_action == action else "",
    )
