"""The audit log: who did what to whom, looked through by filters and words, and taken away as a file."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.api.v1.reports import download
from allocations.clock import from_datetime
from allocations.errors import AllocationsError, InvalidInputError
from allocations.lifecycle.stores.audit import AuditFilter
from allocations.reports.audit import SEARCHED_AT_ONCE
from allocations.reports.exports import FileFormat
from allocations.web.render import page
from allocations.web.session import page_needs

router = APIRouter()
Administrator = Annotated[Identity, Depends(page_needs(Scope.ADMIN))]
ENTRY_ID_MAX = 2**63 - 1
FIELDS = ("person", "action", "subject", "first", "last", "words")


@router.get("/audit")
def show_audit(
    request: Request,
    services: Wired,
    _administrator: Administrator,
    before: Annotated[int | None, Query(ge=0, le=ENTRY_ID_MAX)] = None,
) -> Response:
    """Show the audit log, newest first: everything, or what is looked for."""
    typed = _typed(request)
    error: AllocationsError | None = None
    wanted = AuditFilter()
    try:
        wanted = _wanted(typed)
    except AllocationsError as wrong:
        error = wrong
    found = services.platform_reports.audit_page(wanted, before)
    return page(
        request,
        "audit.html",
        error=error,
        entries=found.entries,
        actions=services.platform_reports.audit_actions(),
        typed=typed,
        is_filtered=any(typed.values()),
        query=urlencode({name: value for name, value in typed.items() if value}),
        only=lambda **fields: urlencode(fields),
        older=found.next_before,
        is_first=before is None,
        searched=SEARCHED_AT_ONCE,
    )


@router.get("/audit/log.{ending}")
def download_audit(request: Request, services: Wired, _administrator: Administrator, ending: FileFormat) -> Response:
    """Download all entries that are looked for."""
    if ending is FileFormat.PARQUET:
        raise InvalidInputError("The audit log is not written as Parquet.", "Take the CSV or the JSON lines.")
    parts = services.platform_reports.audit_file(_wanted(_typed(request)), ending)
    return download(parts, "meridian-audit", ending)


def _typed(request: Request) -> dict[str, str]:
    """Return the filter's fields as they were typed. A NUL, which PostgreSQL refuses, is left out."""
    return {name: request.query_params.get(name, "").replace("\0", "").strip() for name in FIELDS}


def _wanted(typed: dict[str, str]) -> AuditFilter:
    """Return what the fields say; days are those of UTC, both included."""
    try:
        first, last = (date.fromisoformat(typed[name]) if typed[name] else None for name in ("first", "last"))
        to_ms = None if last is None else _begin_ms(last + timedelta(days=1))
    except (ValueError, OverflowError) as wrong:
        raise InvalidInputError("A day is none that there is.", "Write days as 2027-01-31.") from wrong
    return AuditFilter(
        actor=typed["person"],
        action=typed["action"],
        subject=typed["subject"],
        from_ms=None if first is None else _begin_ms(first),
        to_ms=to_ms,
        words=typed["words"],
    )


def _begin_ms(day: date) -> int:
    return from_datetime(datetime(day.year, day.month, day.day, tzinfo=UTC))
