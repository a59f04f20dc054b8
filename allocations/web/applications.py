"""Requests as their applicants see them: the list, the form, each request's history, revision and withdrawal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError
from allocations.lifecycle.models import REQUEST_TRANSITIONS, Award, RequestAction, RequestKind, RequestState
from allocations.lifecycle.requests import PANEL_KINDS
from allocations.web.awards import TERM_KINDS, TITLES, asked_of, award_rows, fields_of, to_award, to_fields
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from allocations.factory import Services
    from allocations.policy.models import Tier
    from allocations.reports.requests import RequestView

router = APIRouter(prefix="/requests")
Reader = Annotated[Identity, Depends(page_needs(Scope.READ))]
Requester = Annotated[Identity, Depends(page_needs(Scope.REQUEST))]
RequesterForm = Annotated[Sent, Depends(form_needs(Scope.REQUEST))]
FIELDS = ("tier", "title", "justification", *TITLES)
# What the steps of a request's history are called; whoever took them is named beside.
STEPS = {
    "request.draft": "Written as a draft",
    "request.submit": "Submitted",
    "request.revise": "Changed",
    "request.withdraw": "Withdrawn",
    "request.review": "Reviewed",
    "request.request-revision": "Sent back for a revision",
    "request.approve": "Approved",
    "request.decline": "Declined",
}


_DECIDED = frozenset({RequestState.APPROVED, RequestState.DECLINED, RequestState.WITHDRAWN})


@router.get("")
def show_requests(request: Request, services: Wired, requester: Requester) -> Response:
    """Show a person's own requests."""
    return page(request, "requests.html", requests=services.reports.requests_of(requester.name))


@router.get("/new")
def show_form(request: Request, services: Wired, _requester: Requester, tier: str = "") -> Response:
    """Show the form, with a tier chosen when the address names one."""
    return _form(request, services, {"tier": tier, "key": new_key()})


@router.post("")
def send(request: Request, services: Wired, sent: RequesterForm) -> Response:
    """Submit a request, or keep it as a draft."""
    draft = sent.text("action") == "draft"
    values = {name: sent.text(name) for name in FIELDS}
    try:
        found = services.requests.submit(
            sent.identity.actor,
            tier=values["tier"],
            title=values["title"],
            justification=values["justification"],
            asked=to_award(sent, RequestKind.NEW),
            draft=draft,
            idempotency_key=sent.key() or None,
        )
    except AllocationsError as error:
        return _form(request, services, values | {"key": new_key()}, error)
    return see(request, f"/requests/{found.id}", "draft" if draft else "submitted")


@router.get("/{request_id}")
def show_request(request: Request, request_id: str, services: Wired, reader: Reader) -> Response:
    """Show a request to its applicant, or to a reviewer."""
    return show(request, services, reader, request_id)


@router.post("/{request_id}/revise")
def revise(request: Request, request_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Change a draft or a request that was sent back, and submit it when that button was pressed."""
    submit = sent.text("action") == "submit"

    def carry_out() -> None:
        asked = _revised(services, sent, request_id) if sent.text("has_amounts") else None
        services.requests.revise(sent.identity.actor, request_id, sent.text("title"), sent.text("justification"), asked)
        if submit:
            services.requests.act(sent.identity.actor, request_id, RequestAction.SUBMIT)

    return after(request, services, sent, request_id, carry_out, "submitted" if submit else "revised")


@router.post("/{request_id}/withdraw")
def withdraw(request: Request, request_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Withdraw one's own request."""

    def carry_out() -> None:
        services.requests.act(sent.identity.actor, request_id, RequestAction.WITHDRAW)

    return after(request, services, sent, request_id, carry_out, "withdrawn")


def after(
    request: Request,
    services: Services,
    sent: Sent,
    request_id: str,
    carry_out: Callable[[], None],
    done: str,
) -> Response:
    """Carry out a form and go on to the request, or show it again with the error and what was typed."""
    try:
        carry_out()
    except AllocationsError as error:
        return show(request, services, sent.identity, request_id, error, sent)
    return see(request, f"/requests/{request_id}", done)


def show(
    request: Request,
    services: Services,
    reader: Identity,
    request_id: str,
    error: AllocationsError | None = None,
    sent: Sent | None = None,
) -> Response:
    """Show a request. Its applicant reads what reviewers decide and why, but neither names, scores nor comments."""
    found = services.reports.request(reader.actor, request_id)
    is_applicant = reader.name == found.applicant
    actions = {action for action, change in REQUEST_TRANSITIONS.items() if found.state in change.sources}
    tier = services.policy.tier(found.tier)
    history = [
        entry
        for entry in reversed(services.reports.audit_log(subject=request_id))
        if not (is_applicant and entry.action == "request.review")
    ]
    own_review = next((review for review in found.reviews if review.reviewer == reader.name), None)
    in_review = reader.has(Scope.REVIEW) and not is_applicant and RequestAction.REVIEW in actions
    conflict = _conflict(services, reader, found) if in_review else ""
    may_review = in_review and not conflict
    before = None if found.state in _DECIDED else services.reports.award_beside(reader.actor, request_id)
    asked, form_fields = to_fields(found.asked), fields_of(RequestKind(found.kind))

    def typed(name: str, otherwise: str = "") -> str:
        """Return what was typed into a field of the form that failed."""
        return sent.text(name) if sent is not None and name in sent.fields else otherwise

    return page(
        request,
        "request.html",
        error=error,
        found=found,
        tier=tier,
        history=history,
        steps=STEPS,
        is_applicant=is_applicant,
        may_revise=is_applicant and RequestAction.SUBMIT in actions and reader.has(Scope.REQUEST),
        may_withdraw=is_applicant and RequestAction.WITHDRAW in actions and reader.has(Scope.REQUEST),
        may_review=may_review,
        conflict=conflict,
        needs_panel=needs_panel(found, tier),
        before=before,
        rows=award_rows(found, tier, before),
        reason=next((entry.why for entry in history if entry.action == "request.approve"), ""),
        asked_fields={} if found.kind == RequestKind.INSTALMENT else form_fields,
        asked_values={name: typed(name, value) for name, value in asked.items()},
        asks_for_a_term=found.kind in TERM_KINDS,
        own_review=own_review,
        scores=[review.score for review in found.reviews if review.score is not None and not review.conflict],
        typed=typed,
    )


def needs_panel(found: RequestView, tier: Tier) -> bool:
    """Say whether a panel decides on a request."""
    return tier.review == "panel" and found.kind in PANEL_KINDS


def _revised(services: Services, sent: Sent, request_id: str) -> Award:
    found = services.reports.request(sent.identity.actor, request_id)
    return to_award(sent, RequestKind(found.kind), asked_of(found))


def _conflict(services: Services, reader: Identity, found: RequestView) -> str:
    """Say which conflict of interest keeps a reviewer out; empty when none does."""
    if any(review.conflict and review.reviewer == reader.name for review in found.reviews):
        return "You declared a conflict of interest."
    if found.allocation in {one.id for one in services.reports.allocations_of(reader.name)}:
        return "You are a member of this allocation: that is a conflict of interest."
    return ""


def _form(
    request: Request, services: Services, values: Mapping[str, str], error: AllocationsError | None = None
) -> Response:
    tiers = [tier for tier in services.policy.tiers if tier.review != "none"]
    if values["tier"] not in {tier.name for tier in tiers}:
        values = {**values, "tier": tiers[0].name if tiers else ""}
    return page(
        request,
        "request_form.html",
        error=error,
        tiers=tiers,
        values=dict.fromkeys(FIELDS, "") | dict(values),
        asked_fields=fields_of(RequestKind.NEW),
    )
