"""The reviewers' part of a request: their reviews, and their decisions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Scope
from allocations.api.v1.common import Wired
from allocations.errors import InvalidInputError
from allocations.lifecycle.models import Award, RequestAction, RequestKind
from allocations.web import queue
from allocations.web.applications import after, award_sent
from allocations.web.awards import asked_of
from allocations.web.forms import to_whole
from allocations.web.session import Sent, form_needs

router = APIRouter()
router.include_router(queue.router)
ReviewerForm = Annotated[Sent, Depends(form_needs(Scope.REVIEW))]
DECISIONS = {
    RequestAction.APPROVE: "approved",
    RequestAction.DECLINE: "declined",
    RequestAction.REQUEST_REVISION: "revision",
}


@router.post("/requests/{request_id}/review")
def review(request: Request, request_id: str, services: Wired, sent: ReviewerForm) -> Response:
    """Record a comment, a score or a conflict of interest."""

    def carry_out() -> None:
        score = sent.text("score")
        services.requests.review(
            sent.identity.actor,
            request_id,
            comment=sent.text("comment"),
            score=to_whole(score, "Score") if score else None,
            conflict=bool(sent.text("conflict")),
        )

    return after(request, services, sent, request_id, carry_out, "reviewed")


@router.post("/requests/{request_id}/decide")
def decide(request: Request, request_id: str, services: Wired, sent: ReviewerForm) -> Response:
    """Approve, decline, or send back for a revision."""
    decision = sent.text("decision")

    def carry_out() -> None:
        if decision not in set(DECISIONS):
            raise InvalidInputError("No decision is chosen.", "Approve, decline, or send it back.")
        award = _award(services, sent, request_id) if decision == RequestAction.APPROVE else None
        services.requests.act(sent.identity.actor, request_id, RequestAction(decision), sent.text("why"), award)

    done = DECISIONS[RequestAction(decision)] if decision in set(DECISIONS) else ""
    return after(request, services, sent, request_id, carry_out, done)


def _award(services: Wired, sent: Sent, request_id: str) -> Award | None:
    """Return the award that the form says; None when it is what was asked for."""
    found = services.reports.request(sent.identity.actor, request_id)
    if found.kind == RequestKind.INSTALMENT:
        return None
    award = award_sent(services, sent, found)
    return None if award == asked_of(found) else award
