"""Asking for more of an allocation: a supplement, an extension or a renewal, beside what has been awarded."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError, InvalidInputError
from allocations.lifecycle.models import RequestKind
from allocations.web.awards import KINDS, defaults_of, fields_of, to_award
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs

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
    """Submit one of the forms."""
    actor = sent.identity.actor
    try:
        asking = services.reports.asking(actor, allocation_id)
        kind = sent.text("kind")
        if kind not in asking.why_not:
            raise InvalidInputError("Nothing is chosen to ask for.", "Use one of the forms.")
        # A form sent twice is answered with its request, though that waits by now.
        found = services.requests.ask(
            actor,
            allocation_id,
            RequestKind(kind),
            sent.text("justification"),
            asked=to_award(sent, RequestKind(kind)),
            idempotency_key=sent.key() or None,
        )
    except AllocationsError as error:
        return _show(request, services, sent.identity, allocation_id, error, sent)
    return see(request, f"/requests/{found.id}", "submitted")


def _show(
    request: Request,
    services: Wired,
    reader: Identity,
    allocation_id: str,
    error: AllocationsError | None = None,
    sent: Sent | None = None,
) -> Response:
    asking = services.reports.asking(reader.actor, allocation_id)
    forms = []
    for kind, why_not in asking.why_not.items():
        values = defaults_of(kind, asking.award) | {"justification": ""}
        if sent is not None and sent.text("kind") == kind:
            values |= {name: sent.text(name) for name in values if name in sent.fields}
        forms.append((kind, KINDS[kind], why_not, fields_of(kind), values))
    return page(
        request,
        "ask.html",
        error=error,
        award=asking.award,
        tier=services.policy.tier(asking.award.tier),
        forms=forms,
        key=new_key(),
    )
