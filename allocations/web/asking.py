"""Asking for more of an allocation: a supplement, an extension or a renewal, beside what has been awarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError, InvalidInputError
from allocations.lifecycle.models import RequestKind
from allocations.web.applications import finish, is_kept
from allocations.web.awards import KINDS, at_once_of, defaults_of, fields_of, now_in_words, to_award
from allocations.web.drafts import is_kept_meanwhile, keep
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from allocations.lifecycle.models import Request as Asked

router = APIRouter(prefix="/allocations/{allocation_id}/ask")


@router.get("")
def show_forms(
    request: Request,
    allocation_id: str,
    services: Wired,
    reader: Annotated[Identity, Depends(page_needs(Scope.REQUEST))],
) -> Response:
    """Show what may be asked for now, and of the rest, why not."""
    return _show(request, services, reader, allocation_id)


@router.post("")
def send(
    request: Request,
    allocation_id: str,
    services: Wired,
    sent: Annotated[Sent, Depends(form_needs(Scope.REQUEST))],
) -> Response:
    """Submit one of the forms, or keep it as a draft."""
    actor, draft = sent.identity.actor, sent.text("action") == "draft"
    try:
        asking = services.reports.asking(actor, allocation_id)
        if sent.text("kind") not in asking.why_not:
            raise InvalidInputError("Nothing is chosen to ask for.", "Use one of the forms.")
        kind, why = RequestKind(sent.text("kind")), sent.text("justification")
        tier = services.policy.tier(asking.award.tier)

        def save() -> Asked:
            asked = to_award(sent, kind, at_once_of(tier, asking.award))
            return services.requests.save_draft(actor, sent.key(), kind, allocation_id, "", why, asked)

        def submit() -> Asked:
            asked, key = to_award(sent, kind, at_once_of(tier, asking.award)), sent.key() or None
            # A form sent twice is answered with its request, though that waits by now.
            return services.requests.ask(actor, allocation_id, kind, why, asked=asked, idempotency_key=key)

        if draft and is_kept_meanwhile(request):
            return keep(request, save)
        found = save() if draft else finish(services, sent, save, submit)
    except AllocationsError as error:
        return _show(request, services, sent.identity, allocation_id, error, sent)
    return see(request, f"/requests/{found.id}", "draft" if draft else "submitted")


def _show(
    request: Request,
    services: Wired,
    reader: Identity,
    allocation_id: str,
    error: AllocationsError | None = None,
    sent: Sent | None = None,
) -> Response:
    asking = services.reports.asking(reader.actor, allocation_id)
    forms, keys, new = [], {}, new_key()
    for kind, why_not in asking.why_not.items():
        values = defaults_of(kind, asking.award) | {"justification": ""}
        keys[kind] = f"{new}-{kind}"
        if sent is not None and sent.text("kind") == kind:
            # A form that was kept goes on being that draft; another one is a new request.
            keys[kind] = sent.key() if is_kept(services, sent) else keys[kind]
            values |= {name: sent.text(name) for name in values if name in sent.fields}
        forms.append((kind, KINDS[kind], why_not, fields_of(kind), values))
    tier = services.policy.tier(asking.award.tier)
    return page(
        request,
        "ask.html",
        error=error,
        award=asking.award,
        tier=tier,
        now=now_in_words(tier, asking.award),
        forms=forms,
        keys=keys,
    )
