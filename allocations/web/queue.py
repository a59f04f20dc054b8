"""The reviewers' queue: what waits, found by filters, and decisions on several requests at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.clock import MS_PER_DAY
from allocations.errors import AllocationsError, InvalidInputError
from allocations.lifecycle.models import WAITING_STATES, RequestAction, RequestFilter, RequestKind, RequestState
from allocations.reports.requests import REQUESTS_PAGE
from allocations.web.awards import KINDS, needs_panel
from allocations.web.formats import to_ms
from allocations.web.render import page
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from collections.abc import Collection

    from allocations.factory import Services
    from allocations.reports.requests import QueueView

router = APIRouter(prefix="/review")
WAITING, ANY = "waiting", "any"
STATES = (
    {WAITING: WAITING_STATES}
    | {state.value: frozenset({state}) for state in RequestState if state is not RequestState.DRAFT}
    | {ANY: frozenset(RequestState) - {RequestState.DRAFT}}
)
AGES_DAYS = (7, 14, 30, 90)
TO_DO, REVIEWED = "to do", "reviewed"
MINE = {TO_DO: "none yet", REVIEWED: "written"}
# What is done to several at once, as it is said on the button, and of one that it was done to.
BULK = {
    RequestAction.APPROVE: ("Approve as asked", "approved"),
    RequestAction.REQUEST_REVISION: ("Ask for a revision", "sent back for a revision"),
    RequestAction.DECLINE: ("Decline", "declined"),
}
START_MAX = 1_000_000
TEXT_MAX = 200


@dataclass(frozen=True, slots=True)
class Choice:
    """What the filters above the queue are set to; what no filter offers counts as not set."""

    state: str = WAITING
    tier: str = ""
    kind: str = ""
    age: str = ""
    mine: str = ""
    find: str = ""
    start: Annotated[int, Query(ge=0, le=START_MAX)] = 0

    def query(self, start: int) -> str:
        """Return the address of the queue's page that begins with the `start`th request."""
        fields = {"state": self.state, "tier": self.tier, "kind": self.kind, "age": self.age, "mine": self.mine}
        fields |= {"find": self.find, "start": str(start or "")}
        return urlencode({name: value for name, value in fields.items() if value})

    def to_filter(self, reader: str, tiers: Collection[str], now_ms: int) -> RequestFilter:
        """Return the filter for who reads."""
        days = int(self.age) if self.age in map(str, AGES_DAYS) else None
        return RequestFilter(
            states=STATES.get(self.state, WAITING_STATES),
            tier=self.tier if self.tier in tiers else None,
            kind=RequestKind(self.kind) if self.kind in KINDS else None,
            created_until_ms=None if days is None else now_ms - days * MS_PER_DAY,
            to_be_reviewed_by=reader if self.mine == TO_DO else None,
            reviewed_by=reader if self.mine == REVIEWED else None,
            text=self.find.replace("\0", "").strip()[:TEXT_MAX],
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one of several requests: `error` says why nothing did."""

    request_id: str
    title: str
    error: AllocationsError | None


Chosen = Annotated[Choice, Depends()]


@router.get("")
def show_queue(
    request: Request,
    services: Wired,
    reviewer: Annotated[Identity, Depends(page_needs(Scope.REVIEW))],
    choice: Chosen,
) -> Response:
    """Show the requests that the filters let through; at first what waits, oldest first."""
    return _queue(request, services, reviewer, choice)


@router.post("/decide")
def decide(
    request: Request,
    services: Wired,
    sent: Annotated[Sent, Depends(form_needs(Scope.REVIEW))],
    choice: Chosen,
) -> Response:
    """Decide on several requests with one comment: each by itself, as if it were the only one."""
    decision, why, chosen = sent.text("decision"), sent.text("why"), sent.texts("request")
    try:
        if decision not in set(BULK):
            raise InvalidInputError("No decision is chosen.", "Approve, decline, or send them back.")
        if not chosen:
            raise InvalidInputError("No request is chosen.", "Tick those that you decide on.")
        action = RequestAction(decision)
        if action is not RequestAction.APPROVE and not why.strip():
            raise InvalidInputError("The applicants need to know why.", "Write a sentence of explanation.")
    except AllocationsError as error:
        return _queue(request, services, sent.identity, choice, error, sent)
    outcomes = [_decide(services, sent.identity, action, why, one) for one in chosen]
    return page(
        request,
        "review_outcomes.html",
        done_to=BULK[action][1],
        outcomes=outcomes,
        succeeded=sum(outcome.error is None for outcome in outcomes),
        query=choice.query(0),
    )


def _decide(services: Services, reviewer: Identity, action: RequestAction, why: str, chosen: str) -> Outcome:
    """Decide on one request, if it is as the reviewer saw it; `chosen` is its id and the time of its last change."""
    request_id, _, seen_at = chosen.partition("@")
    try:
        title = services.reports.request(reviewer.actor, request_id).title
    except AllocationsError as error:
        return Outcome(request_id, request_id, error)
    seen_at_ms = int(seen_at) if seen_at.isascii() and seen_at.isdigit() else 0
    try:
        services.requests.act(reviewer.actor, request_id, action, why, seen_at_ms=seen_at_ms)
    except AllocationsError as error:
        return Outcome(request_id, title, error)
    return Outcome(request_id, title, None)


def _queue(
    request: Request,
    services: Services,
    reviewer: Identity,
    choice: Choice,
    error: AllocationsError | None = None,
    sent: Sent | None = None,
) -> Response:
    tiers = {tier.name for tier in services.policy.tiers}
    wanted = choice.to_filter(reviewer.name, tiers, services.clock.now_ms())
    queue = services.reports.find_requests(reviewer.actor, wanted, choice.start)
    return page(
        request,
        "review.html",
        error=error,
        queue=queue,
        choice=choice,
        states=STATES,
        ages=AGES_DAYS,
        mine=MINE,
        size=REQUESTS_PAGE,
        decisions={action: words[0] for action, words in BULK.items()},
        boxes=_boxes(services, queue),
        ticked=sent.texts("request") if sent else [],
        why=sent.text("why") if sent else "",
        needs_panel=lambda found: needs_panel(found, services.policy.tier(found.tier)),
    )


def _boxes(services: Services, queue: QueueView) -> dict[str, str]:
    """Return what the box of each request sends that may be decided on now: its id and what the reviewer saw."""
    boxes = {}
    for found in queue.requests:
        tier = services.policy.tier(found.tier)
        scores = [review for review in found.reviews if review.score is not None and not review.conflict]
        lacks_scores = needs_panel(found, tier) and len(scores) < tier.panel_reviewers_min
        if found.state in WAITING_STATES and found.id not in queue.in_conflict and not lacks_scores:
            boxes[found.id] = f"{found.id}@{to_ms(found.updated_at)}"
    return boxes
