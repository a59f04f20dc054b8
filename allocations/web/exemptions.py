"""The reviewers' page of exemptions: what people ask not to be purged, and the decisions on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.clock import MS_PER_DAY
from allocations.errors import AllocationsError, InvalidInputError
from allocations.web.forms import to_whole
from allocations.web.render import page, see
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from allocations.factory import Services

router = APIRouter(prefix="/review/exemptions")
FIELDS = ("days", "answer")


@router.get("")
def show_exemptions(
    request: Request, services: Wired, reviewer: Annotated[Identity, Depends(page_needs(Scope.REVIEW))]
) -> Response:
    """Show what waits for a decision."""
    return _show(request, services, reviewer)


@router.post("/{exemption_id}")
def decide(
    request: Request,
    exemption_id: str,
    services: Wired,
    sent: Annotated[Sent, Depends(form_needs(Scope.REVIEW))],
) -> Response:
    """Grant one for some days, or refuse it with a reason."""
    actor, decision = sent.identity.actor, sent.text("decision")
    try:
        if decision == "grant":
            services.exemptions.grant(actor, exemption_id, to_whole(sent.text("days"), "Days"), sent.text("answer"))
        elif decision == "refuse":
            services.exemptions.refuse(actor, exemption_id, sent.text("answer"))
        else:
            raise InvalidInputError("No decision is chosen.", "Use one of the two buttons.")
    except AllocationsError as error:
        typed = {name: sent.text(name) for name in FIELDS}
        return _show(request, services, sent.identity, error, exemption_id, typed)
    return see(request, "/review/exemptions", "exemption-granted" if decision == "grant" else "exemption-refused")


def _show(
    request: Request,
    services: Services,
    reviewer: Identity,
    error: AllocationsError | None = None,
    exemption_id: str = "",
    typed: dict[str, str] | None = None,
) -> Response:
    waiting = services.exemptions.waiting(reviewer.actor)
    now_ms = services.clock.now_ms()
    asked_days = {one.id: max(1, -((now_ms - one.until_ms) // MS_PER_DAY)) for one in waiting}
    return page(
        request,
        "exemptions.html",
        error=error,
        waiting=waiting,
        areas=services.storage_reports.shown({one.area_id for one in waiting}),
        values={
            one.id: (typed if one.id == exemption_id else None) or {"days": asked_days[one.id], "answer": ""}
            for one in waiting
        },
        days_max=services.policy.storage.purge.exempt_days_max,
    )
