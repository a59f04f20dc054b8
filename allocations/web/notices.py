"""What a person was told: the unread first, with the way to what each notice is about."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.api.v1.notices import ID_MAX
from allocations.notify.inbox import CURSOR_PATTERN
from allocations.notify.places import place_of
from allocations.web.render import page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter(prefix="/notices")
Reading = Annotated[Sent, Depends(form_needs(Scope.READ))]
NoticeId = Annotated[int, Path(ge=1, le=ID_MAX)]


@router.get("")
def show_notices(
    request: Request,
    services: Wired,
    reader: Annotated[Identity, Depends(page_needs(Scope.READ))],
    before: Annotated[str | None, Query(pattern=CURSOR_PATTERN)] = None,
) -> Response:
    """Show a page of a person's notices."""
    return page(
        request, "notices.html", inbox=services.inbox.inbox(reader.name, before), place_of=place_of, before=before
    )


@router.post("/{notice_id}/read")
def mark_read(notice_id: NoticeId, request: Request, services: Wired, sent: Reading) -> Response:
    """Mark a notice as read."""
    services.inbox.mark_read(sent.identity.name, notice_id)
    return see(request, "/notices", "read")


@router.post("/{notice_id}/read-all")
def mark_all_read(notice_id: NoticeId, request: Request, services: Wired, sent: Reading) -> Response:
    """Mark everything up to the newest notice on the page as read."""
    services.inbox.mark_all_read(sent.identity.name, notice_id)
    return see(request, "/notices", "read")
