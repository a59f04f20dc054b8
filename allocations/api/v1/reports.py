"""What administrators report: use, cost against budget, the audit log; as JSON and as files."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from allocations.api.v1.common import Administrator, Wired, to_ms
from allocations.errors import InvalidInputError
from allocations.lifecycle.stores.audit import AuditFilter
from allocations.reports.audit import AuditPage
from allocations.reports.exports import MEDIA_TYPES, FileFormat
from allocations.reports.platform import PlatformReport
from allocations.reports.platform_use import Period, UseBy, UseReport, UseStep

router = APIRouter(tags=["reports"])
TEXT_MAX = 200
Filter = Annotated[str | None, Query(max_length=TEXT_MAX)]


def period(
    first: Annotated[date, Query(description="The first day, by UTC")],
    last: Annotated[date, Query(description="The last day; with a day to come there is a forecast")],
) -> Period:
    """Return the period that is asked for."""
    return Period(first, last)


def audit_filter(
    person: Filter = None,
    action: Filter = None,
    subject: Annotated[str | None, Query(max_length=TEXT_MAX, description="The id of what it was done to")] = None,
    begin: Annotated[datetime | None, Query(description="From this time on")] = None,
    end: Annotated[datetime | None, Query(description="Before this time")] = None,
    words: Annotated[str, Query(max_length=TEXT_MAX, description="In reasons, details and subjects")] = "",
) -> AuditFilter:
    """Return what is looked for in the audit log."""
    if any("\0" in value for value in (person or "", action or "", subject or "", words)):
        raise InvalidInputError("A text holds a NUL, which no entry has.", "Leave it out.")
    return AuditFilter(
        actor=person, action=action, subject=subject, from_ms=to_ms(begin), to_ms=to_ms(end), words=words
    )


Asked = Annotated[Period, Depends(period)]
Wanted = Annotated[AuditFilter, Depends(audit_filter)]
By = Annotated[UseBy, Query(description="What the use is divided by")]
Step = Annotated[UseStep | None, Query(description="Days, weeks or months; as fits the period when left out")]


def _file(name: str, *formats: FileFormat) -> dict[int | str, dict[str, Any]]:
    """Describe a file that a route answers with."""
    examples = {
        FileFormat.CSV: "first_day,last_day,key,title,credits\r\n2027-01-01,2027-01-31,research,Research,1.3\r\n",
        FileFormat.JSON_LINES: '{"id": 7, "actor": "rev", "action": "request.approve"}\n',
        FileFormat.PARQUET: "PAR1…PAR1",
    }
    content = {
        MEDIA_TYPES[one].partition(";")[0]: {"schema": {"type": "string"}, "example": examples[one]} for one in formats
    }
    return {200: {"description": f"The file {name}", "content": content}}


@router.get("/reports/use")
def use(services: Wired, _caller: Administrator, asked: Asked, by: By = UseBy.TIER, step: Step = None) -> UseReport:
    """The use of a period by time and by tier, institution, country or allocation, with a forecast."""
    return services.platform_reports.use(asked, by, step)


@router.get(
    "/reports/use/file",
    response_class=StreamingResponse,
    responses=_file("of all groups, for each step", FileFormat.CSV, FileFormat.PARQUET),
)
def use_file(
    services: Wired,
    _caller: Administrator,
    asked: Asked,
    by: By = UseBy.TIER,
    step: Step = None,
    parquet: Annotated[bool, Query(description="As Parquet, where the installation writes that")] = False,  # a query
) -> StreamingResponse:
    """The same for every group, as CSV or Parquet."""
    written_as = FileFormat.PARQUET if parquet else FileFormat.CSV
    return download(services.platform_reports.use_file(asked, by, step, written_as), "meridian-use", written_as)


@router.get("/reports/tiers")
def tiers(services: Wired, _caller: Administrator) -> PlatformReport:
    """What every tier was granted, has spent and is forecast to spend, and its publications."""
    return services.platform_reports.tiers()


@router.get("/audit")
def audit_log(
    services: Wired,
    _caller: Administrator,
    wanted: Wanted,
    before: Annotated[int | None, Query(ge=0, lt=2**63, description="Continue after this entry")] = None,
) -> AuditPage:
    """The audit log, newest first; words are looked for in 20,000 entries at a time."""
    return services.platform_reports.audit_page(wanted, before)


@router.get(
    "/audit/file",
    response_class=StreamingResponse,
    responses=_file("of all entries", FileFormat.CSV, FileFormat.JSON_LINES),
)
def audit_file(
    services: Wired,
    _caller: Administrator,
    wanted: Wanted,
    lines: Annotated[bool, Query(description="As JSON lines rather than CSV")] = False,  # a query
) -> StreamingResponse:
    """All of the audit log that is wanted, as CSV or JSON lines."""
    written_as = FileFormat.JSON_LINES if lines else FileFormat.CSV
    return download(services.platform_reports.audit_file(wanted, written_as), "meridian-audit", written_as)


def download(parts: Any, name: str, written_as: FileFormat) -> StreamingResponse:
    """Answer with a file, as it is written."""
    headers = {"content-disposition": f'attachment; filename="{name}.{written_as}"'}
    return StreamingResponse(parts, media_type=MEDIA_TYPES[written_as], headers=headers)
