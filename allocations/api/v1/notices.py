"""Notices: what the caller was told, unread first."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from allocations.api.v1.common import Reader, Wired
from allocations.notify.inbox import CURSOR_PATTERN, PAGE
from allocations.notify.models import NoticeList, NoticeView

router = APIRouter(tags=["notices"])

PAGE_MAX = 200
ID_MAX = 2**63 - 1


@router.get("/notices")
def own_notices(
    services: Wired,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE,
    before: Annotated[
        str | None, Query(pattern=CURSOR_PATTERN, description="Continue after a page: its `next_before`")
    ] = None,
) -> NoticeList:
    """What the caller was told: the unread first, each part newest first."""
    return services.inbox.inbox(caller.name, before, limit)


@router.post("/notices/{notice_id}/read")
def mark_read(notice_id: Annotated[int, Path(ge=1, le=ID_MAX)], services: Wired, caller: Reader) -> NoticeView:
    """Keep that the caller has read a notice; the first time stays."""
    return services.inbox.mark_read(caller.name, notice_id)
