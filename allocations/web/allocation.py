"""An allocation's page: its parts, members, what runs and charges, and the forms of its leads and managers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError
from allocations.ledger.models import Unit
from allocations.lifecycle.models import MANAGING_ROLES, USABLE_STATES, AllocationState, MemberRole
from allocations.web.burning import Chart, Outlook
from allocations.web.figures import tree_of, usage_of
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter(prefix="/allocations/{allocation_id}")
LATEST_DAYS = 14
OVER_STATES = frozenset({AllocationState.ARCHIVED, AllocationState.CLOSED})
Reader = Annotated[Identity, Depends(page_needs(Scope.READ))]
RequesterForm = Annotated[Sent, Depends(form_needs(Scope.REQUEST))]


@router.get("")
def show_allocation(request: Request, allocation_id: str, services: Wired, reader: Reader) -> Response:
    """Show an allocation to its people: members see their own runs and charges, leads and managers everybody's."""
    return _show(request, services, reader, allocation_id)


@router.post("/progress")
def report_progress(request: Request, allocation_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Ask for the next instalment with a short report."""

    def carry_out() -> None:
        services.requests.report_progress(sent.identity.actor, allocation_id, sent.text("report"), sent.key() or None)

    return after(request, services, sent, allocation_id, carry_out, "report", "reported")


def after(
    request: Request,
    services: Wired,
    sent: Sent,
    allocation_id: str,
    carry_out: Callable[[], None],
    form: str,
    done: str,
) -> Response:
    """Carry out a form and go on to the allocation, or show it again with the error and what was typed."""
    try:
        carry_out()
    except AllocationsError as error:
        return _show(request, services, sent.identity, allocation_id, error, form, sent)
    return see(request, f"/allocations/{allocation_id}", done)


def _show(
    request: Request,
    services: Wired,
    reader: Identity,
    allocation_id: str,
    error: AllocationsError | None = None,
    form: str = "",
    sent: Sent | None = None,
) -> Response:
    detail = services.reports.allocation(reader.actor, allocation_id)
    found = detail.allocation
    tier = services.policy.tier(found.tier)
    now_ms = services.clock.now_ms()
    usages = usage_of(detail.charges)
    may_change = detail.may_manage and reader.has(Scope.REQUEST)
    is_open = may_change and found.state not in OVER_STATES

    def typed(of_form: str, field: str, otherwise: str = "") -> str:
        """Return what was typed into a field of the form that failed."""
        return sent.text(field) if sent is not None and of_form == form else otherwise

    movable = [
        node for node in detail.tree if may_change and node.parent == found.id and node.state != AllocationState.CLOSED
    ]
    return page(
        request,
        "allocation.html",
        error=error,
        detail=detail,
        found=found,
        tier=tier,
        top=tree_of(detail.tree),
        outlook=Outlook.of(detail.burn_down, found, now_ms),
        chart=Chart.whole(detail.burn_down, found, now_ms),
        latest_days=detail.burn_down.days[: -LATEST_DAYS - 1 : -1],
        hours=[balance for balance in detail.balances if balance.unit is not Unit.CREDITS],
        usages=usages,
        may_see_parent=found.parent is not None and services.reports.may_see(reader.actor, found.parent),
        may_change=may_change,
        movable=movable,
        draggable={node.id for node in movable} if len(movable) > 1 else frozenset(),
        may_divide=may_change and tier.sub_allocations and found.state in USABLE_STATES,
        may_report=(
            found.role in MANAGING_ROLES
            and reader.has(Scope.REQUEST)
            and found.parent is None
            and found.state in USABLE_STATES
            and found.instalments_released < found.instalments
        ),
        invitations=services.members.invitations_on(reader.actor, allocation_id) if is_open else [],
        may_invite=is_open and tier.people_max != 1,
        may_leave=found.role is not None and reader.has(Scope.REQUEST),
        roles=list(MemberRole),
        typed=typed,
        key=new_key(),
    )
