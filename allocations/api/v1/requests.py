"""Requests for a tier or for more of an allocation, and their review."""

from __future__ import annotations

from enum import StrEnum

from fastapi import APIRouter

from allocations.api.v1.awards import AmountsBody, AskedBody, AwardBody, Credits
from allocations.api.v1.common import Body, OptionalIdempotencyHeader, Reader, Requester, Reviewer, Wired, example
from allocations.leases.views import View
from allocations.lifecycle.models import RequestAction, RequestKind
from allocations.reports.requests import RequestView

router = APIRouter(tags=["requests"])


class RequestBody(AskedBody):
    """What is asked for; `credits` in whole credits, the tier's own when left out, and what is needed beside them."""

    model_config = example(tier="research", title="Dark stars", justification="We look for them in the first images.")

    tier: str
    title: str
    justification: str
    credits: int | None = None
    draft: bool = False


class MoreKind(StrEnum):
    """More of an allocation: more now, more days, or another term."""

    SUPPLEMENT = "supplement"
    EXTENSION = "extension"
    RENEWAL = "renewal"


class MoreBody(AskedBody):
    """What more of an allocation is asked for: `term_days` for an extension, a renewal's own when left out."""

    model_config = example(kind="supplement", justification="A second field was observed.", credits=200, gpu_hours=50)

    kind: MoreKind
    justification: str
    credits: Credits | None = None


class RevisionBody(Body):
    """The new text of a draft, or of a request that was sent back; with `asked`, all that is asked for is new too."""

    model_config = example(
        title="Dark stars", justification="We look for them in the first twelve images.", asked={"credits": 800}
    )

    title: str
    justification: str
    asked: AmountsBody | None = None


class ProgressBody(Body):
    """A short report, with which the next instalment is asked for."""

    model_config = example(report="Half of the fields are reduced; a paper is in preparation.")

    report: str


class ActBody(Body):
    """Why: needed to decline or to ask for a revision, kept in the audit log.

    An approval may carry an award, when what is given differs from what was asked.
    """

    model_config = example(why="A sound plan for a modest budget.", award={"credits": 100, "gpu_hours": 20})

    why: str = ""
    award: AwardBody | None = None


class ReviewBody(Body):
    """A reviewer's word; panels score from 1 to 5."""

    model_config = example(comment="Convincing, and well prepared.", score=4)

    comment: str
    score: int | None = None
    conflict: bool = False


class RequestList(View):
    """Requests."""

    requests: list[RequestView]


@router.post("/requests", status_code=201)
def submit(
    body: RequestBody, services: Wired, caller: Requester, idempotency_key: OptionalIdempotencyHeader = None
) -> RequestView:
    """Ask for an allocation of a tier."""
    request = services.requests.submit(
        caller.actor,
        tier=body.tier,
        title=body.title,
        justification=body.justification,
        credits=body.credits,
        draft=body.draft,
        asked=body.asked,
        idempotency_key=idempotency_key,
    )
    return services.reports.request(caller.actor, request.id)


@router.post("/allocations/{allocation_id}/requests", status_code=201)
def ask(
    allocation_id: str,
    body: MoreBody,
    services: Wired,
    caller: Requester,
    idempotency_key: OptionalIdempotencyHeader = None,
) -> RequestView:
    """Ask for more of an allocation: a supplement, an extension or a renewal; its leads and managers only."""
    request = services.requests.ask(
        caller.actor,
        allocation_id,
        RequestKind(body.kind),
        body.justification,
        body.credits,
        body.asked,
        idempotency_key,
    )
    return services.reports.request(caller.actor, request.id)


@router.post("/allocations/{allocation_id}/progress", status_code=201)
def report_progress(
    allocation_id: str,
    body: ProgressBody,
    services: Wired,
    caller: Requester,
    idempotency_key: OptionalIdempotencyHeader = None,
) -> RequestView:
    """Ask for the next instalment of an allocation."""
    request = services.requests.report_progress(caller.actor, allocation_id, body.report, idempotency_key)
    return services.reports.request(caller.actor, request.id)


@router.get("/requests")
def own_requests(services: Wired, caller: Reader) -> RequestList:
    """The caller's requests, newest first."""
    return RequestList(requests=services.reports.requests_of(caller.name))


@router.get("/requests/queue")
def queue(services: Wired, _caller: Reviewer) -> RequestList:
    """What waits for a reviewer, oldest first."""
    return RequestList(requests=services.reports.request_queue())


@router.get("/requests/{request_id}")
def get(request_id: str, services: Wired, caller: Reader) -> RequestView:
    """A request of the caller's own, or any for a reviewer."""
    return services.reports.request(caller.actor, request_id)


@router.patch("/requests/{request_id}")
def revise(request_id: str, body: RevisionBody, services: Wired, caller: Requester) -> RequestView:
    """Change a draft, or a request that was sent back for revision; the applicant only."""
    services.reports.request(caller.actor, request_id)  # as in `act`
    asked = None if body.asked is None else body.asked.amounts
    services.requests.revise(caller.actor, request_id, body.title, body.justification, asked)
    return services.reports.request(caller.actor, request_id)


@router.post("/requests/{request_id}/reviews", status_code=201)
def review(request_id: str, body: ReviewBody, services: Wired, caller: Reviewer) -> RequestView:
    """Comment on a request, score it, or declare a conflict of interest."""
    services.requests.review(caller.actor, request_id, comment=body.comment, score=body.score, conflict=body.conflict)
    return services.reports.request(caller.actor, request_id)


@router.post("/requests/{request_id}/{action}")
def act(request_id: str, action: RequestAction, body: ActBody, services: Wired, caller: Requester) -> RequestView:
    """Submit, withdraw, send back, approve or decline; the state and the person's part say what may be done."""
    services.reports.request(caller.actor, request_id)  # another's request looks like one that does not exist
    award = None if body.award is None else body.award.award
    services.requests.act(caller.actor, request_id, action, body.why, award)
    return services.reports.request(caller.actor, request_id)
