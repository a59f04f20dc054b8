"""The publications that came of a person's allocations: listed, linked by DOI or bibcode, unlinked."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError, InvalidInputError
from allocations.web.render import page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter(prefix="/publications")
RequesterForm = Annotated[Sent, Depends(form_needs(Scope.REQUEST))]
FIELDS = ("identifier", "title")


@router.get("")
def show_publications(
    request: Request,
    services: Wired,
    reader: Annotated[Identity, Depends(page_needs(Scope.READ))],
    allocation: str = "",
) -> Response:
    """Show the publications of all one's allocations, or of a single one with all below it."""
    return _show(request, services, reader, allocation)


@router.post("")
def link(request: Request, services: Wired, sent: RequesterForm) -> Response:
    """Link a publication to the allocations that are chosen."""
    actor = sent.identity.actor
    chosen = list(dict.fromkeys(one for one in sent.fields.getlist("allocation") if isinstance(one, str)))
    try:
        if not chosen:
            raise InvalidInputError("No allocation is chosen.", "Choose those that the publication came of.")
        services.publications.add_to(actor, chosen, sent.text("identifier"), sent.text("title"))
    except AllocationsError as error:
        return _show(request, services, sent.identity, "", error, sent, chosen)
    return see(request, "/publications", "linked")


@router.post("/unlink")
def unlink(request: Request, services: Wired, sent: RequesterForm) -> Response:
    """Take the link of a publication to an allocation away."""
    actor, allocation_id = sent.identity.actor, sent.text("allocation")
    try:
        services.publications.unlink(actor, allocation_id, sent.text("publication"))
    except AllocationsError as error:
        return _show(request, services, sent.identity, "", error)
    return see(request, "/publications", "unlinked")


def _show(
    request: Request,
    services: Wired,
    reader: Identity,
    allocation_id: str,
    error: AllocationsError | None = None,
    sent: Sent | None = None,
    chosen: list[str] | None = None,
) -> Response:
    own = services.reports.allocations_of(reader.name)
    only = services.reports.outline(reader.actor, allocation_id).allocation if allocation_id else None
    if only is not None and only.id not in {one.id for one in own}:
        own = [only, *own]
    return page(
        request,
        "publications.html",
        error=error,
        publications=services.reports.publications(reader.actor, allocation_id or None),
        only=only,
        choices=own,
        chosen=chosen if chosen is not None else [allocation_id],
        values={name: sent.text(name) if sent is not None else "" for name in FIELDS},
        may_link=reader.has(Scope.REQUEST),
    )
