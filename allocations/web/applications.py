"""Requests as their applicants see them: the list, the form, each request's history, revision and withdrawal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError
from allocations.lifecycle.asked import FIELDS_OF
from allocations.lifecycle.models import REQUEST_TRANSITIONS, Award, RequestAction, RequestKind, RequestState
from allocations.web.awards import (
    FIELD_NAMES,
    TERM_KINDS,
    asked_of,
    at_once_of,
    award_rows,
    fields_of,
    needs_panel,
    now_in_words,
    to_award,
    to_fields,
)
from allocations.web.drafts import is_kept_meanwhile, keep
from allocations.web.forms import FormSentBeforeError
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs
from allocations.web.steps import NEXT_STEPS, STEPS, step_in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from allocations.factory import Services
    from allocations.lifecycle.models import Request as Asked
    from allocations.reports.requests import RequesterView, RequestView

router = APIRouter(prefix="/requests")
Reader = Annotated[Identity, Depends(page_needs(Scope.READ))]
Requester = Annotated[Identity, Depends(page_needs(Scope.REQUEST))]
RequesterForm = Annotated[Sent, Depends(form_needs(Scope.REQUEST))]
FIELDS = ("tier", "title", "justification", *FIELD_NAMES)
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
    actor, tier, title, justification = sent.identity.actor, values["tier"], values["title"], values["justification"]

    def save() -> Asked:
        asked = _asked(services, sent)
        return services.requests.save_draft(actor, sent.key(), RequestKind.NEW, tier, title, justification, asked)

    def submit() -> Asked:
        asked, key = _asked(services, sent), sent.key() or None
        return services.requests.submit(
            actor, tier=tier, title=title, justification=justification, asked=asked, idempotency_key=key
        )

    if draft and is_kept_meanwhile(request):
        return keep(request, save)
    try:
        found = save() if draft else finish(services, sent, save, submit)
    except AllocationsError as error:
        # A form that was kept goes on being that draft; another one is a new request.
        key = sent.key() if is_kept(services, sent) else new_key()
        return _form(request, services, values | {"key": key}, error)
    return see(request, f"/requests/{found.id}", "draft" if draft else "submitted")


@router.get("/{request_id}")
def show_request(request: Request, request_id: str, services: Wired, reader: Reader) -> Response:
    """Show a request to its applicant, or to a reviewer."""
    return show(request, services, reader, request_id)


@router.post("/{request_id}/revise")
def revise(request: Request, request_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Change a draft or a request that was sent back, and submit it when that button was pressed."""
    submit = sent.text("action") == "submit"

    def save() -> Asked:
        asked = _revised(services, sent, request_id) if sent.text("has_amounts") else None
        title, justification, tier = sent.text("title"), sent.text("justification"), sent.text("tier") or None
        return services.requests.revise(sent.identity.actor, request_id, title, justification, asked, tier)

    if not submit and is_kept_meanwhile(request):
        return keep(request, save)

    def carry_out() -> None:
        save()
        if submit:
            services.requests.act(sent.identity.actor, request_id, RequestAction.SUBMIT)

    return after(request, services, sent, request_id, carry_out, "submitted" if submit else "revised")


@router.post("/{request_id}/withdraw")
def withdraw(request: Request, request_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Withdraw one's own request."""

    def carry_out() -> None:
        services.requests.act(sent.identity.actor, request_id, RequestAction.WITHDRAW)

    return after(request, services, sent, request_id, carry_out, "withdrawn")


def finish(services: Services, sent: Sent, save: Callable[[], Asked], submit: Callable[[], Asked]) -> Asked:
    """Submit what a form holds: as the draft that it was kept as, if it was, or as a new request.

    A form that is sent again is answered with its request; FormSentBeforeError when it holds something else by now.
    """
    actor = sent.identity.actor
    draft = services.requests.draft_of(actor, sent.key())
    if draft is None:
        return submit()
    if draft.state is RequestState.DRAFT:
        return services.requests.act(actor, save().id, RequestAction.SUBMIT)
    title = " ".join(sent.text("title").split()) or draft.title
    if (draft.title, draft.justification) != (title, sent.text("justification").strip()):
        raise FormSentBeforeError
    return draft


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
    reviews = reader.has(Scope.REVIEW) and not is_applicant
    requester = services.reports.requester(reader.actor, request_id) if reviews else None
    in_review = requester is not None and RequestAction.REVIEW in actions
    conflict = _conflict(reader, found, requester) if in_review else ""
    may_review = in_review and not conflict
    may_change_tier = is_applicant and found.state is RequestState.DRAFT and found.kind == RequestKind.NEW
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
        history=[(entry, STEPS.get(entry.action, entry.action), step_in_words(entry)) for entry in history],
        is_applicant=is_applicant,
        may_revise=is_applicant and RequestAction.SUBMIT in actions and reader.has(Scope.REQUEST),
        may_withdraw=is_applicant and RequestAction.WITHDRAW in actions and reader.has(Scope.REQUEST),
        may_review=may_review,
        conflict=conflict,
        needs_panel=needs_panel(found, tier),
        before=before,
        rows=award_rows(found, tier, before),
        asked_back=next((entry.why for entry in history[::-1] if entry.action == "request.request-revision"), ""),
        reason=next((entry.why for entry in history if entry.action == "request.approve"), ""),
        asked_fields={} if found.kind == RequestKind.INSTALMENT else form_fields,
        asked_values={name: typed(name, value) for name, value in asked.items()},
        has_sizes="largest" in FIELDS_OF[RequestKind(found.kind)],
        now=now_in_words(tier, before),
        requester=requester,
        next_step=NEXT_STEPS.get(found.state, ""),
        tiers=[one for one in services.policy.tiers if one.review != "none"] if may_change_tier else [],
        asks_for_a_term=found.kind in TERM_KINDS,
        own_review=own_review,
        scores=[review.score for review in found.reviews if review.score is not None and not review.conflict],
        typed=typed,
    )


def _revised(services: Services, sent: Sent, request_id: str) -> Award:
    found = services.reports.request(sent.identity.actor, request_id)
    return award_sent(services, sent, found)


def award_sent(services: Services, sent: Sent, found: RequestView) -> Award:
    """Return the award that a form on a request says; what it does not have is as it was asked for."""
    before = services.reports.award_beside(sent.identity.actor, found.id)
    return to_award(
        sent, RequestKind(found.kind), at_once_of(services.policy.tier(found.tier), before), asked_of(found)
    )


def _asked(services: Services, sent: Sent) -> Award:
    tiers = services.policy.tiers
    chosen = next((tier for tier in tiers if tier.name == sent.text("tier")), tiers[0])
    return to_award(sent, RequestKind.NEW, at_once_of(chosen))


def is_kept(services: Services, sent: Sent) -> bool:
    """Say whether a form that is sent is kept as a draft."""
    draft = services.requests.draft_of(sent.identity.actor, sent.key())
    return draft is not None and draft.state is RequestState.DRAFT


def _conflict(reader: Identity, found: RequestView, requester: RequesterView | None) -> str:
    """Say which conflict of interest keeps a reviewer out; empty when none does."""
    if requester is None or not requester.in_conflict:
        return ""
    if any(review.conflict and review.reviewer == reader.name for review in found.reviews):
        return "You declared a conflict of interest."
    return "You are a member of this allocation: that is a conflict of interest."


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
        now=now_in_words(next(tier for tier in tiers if tier.name == values["tier"])),
    )
