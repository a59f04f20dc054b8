"""The administrators' reports: use by time and by group with a forecast, cost against budget; as pages and files."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.api.v1.reports import download
from allocations.errors import AllocationsError, InvalidInputError
from allocations.reports.exports import FileFormat, to_csv, writes_parquet
from allocations.reports.platform_use import Period, UseBy, UseStep
from allocations.web.charts import ColumnChart, percent_of
from allocations.web.render import page
from allocations.web.session import page_needs

if TYPE_CHECKING:
    from allocations.factory import Services

router = APIRouter()
Administrator = Annotated[Identity, Depends(page_needs(Scope.ADMIN))]
DAYS_AT_FIRST = 30
TIER_COLUMNS = (
    "tier",
    "allocations",
    "usable",
    "granted_microcredits",
    "spent_microcredits",
    "held_microcredits",
    "forecast_microcredits",
    "running_out",
    "publications",
)


@router.get("/report")
def show_report(
    request: Request,
    services: Wired,
    _administrator: Administrator,
    first: str = "",
    last: str = "",
    by: str = UseBy.TIER,
    step: str = "",
) -> Response:
    """Show the use of a period, the 30 days up to today when none is chosen, and every tier's cost and budget."""
    today = services.platform_reports.today
    error: AllocationsError | None = None
    asked, group, width = _first_shown(today), UseBy.TIER, None
    try:
        asked, group, width = _asked(services, first, last, by, step)
    except AllocationsError as wrong:
        error = wrong
    use = services.platform_reports.use(asked, group, width)
    chosen = {"first": asked.first.isoformat(), "last": asked.last.isoformat(), "by": str(group), "step": str(use.step)}
    return page(
        request,
        "report.html",
        error=error,
        use=use,
        chart=ColumnChart.of(use.steps),
        percent_of=percent_of,
        periods=_periods(today, str(group)),
        chosen=chosen if error is None else chosen | {"first": first, "last": last},
        query=urlencode(chosen),
        groups=list(UseBy),
        widths=list(UseStep),
        today=today,
        parquet=writes_parquet(),
        report=services.platform_reports.tiers(),
    )


@router.get("/report/use.{ending}")
def download_use(
    services: Wired,
    _administrator: Administrator,
    ending: FileFormat,
    first: str = "",
    last: str = "",
    by: str = UseBy.TIER,
    step: str = "",
) -> Response:
    """Download the use of every group in each step of a period."""
    asked, group, width = _asked(services, first, last, by, step)
    if ending is FileFormat.JSON_LINES:
        raise InvalidInputError("The use is not written as JSON lines.", "Take the CSV, or ask the API for JSON.")
    return download(services.platform_reports.use_file(asked, group, width, ending), "meridian-use", ending)


@router.get("/report.csv")
def download_tiers(services: Wired, _administrator: Administrator) -> Response:
    """Download every tier's cost and budget; the line of all tiers counts each publication once."""
    report = services.platform_reports.tiers()
    rows = [tier.model_dump(include=set(TIER_COLUMNS)) for tier in report.tiers]
    sums = {column: sum(row[column] for row in rows) for column in TIER_COLUMNS[1:-1]}
    lines = to_csv(TIER_COLUMNS, [*rows, {"tier": "all", **sums, "publications": report.publications}])
    return download(lines, "meridian-report", FileFormat.CSV)


def _asked(services: Services, first: str, last: str, by: str, step: str) -> tuple[Period, UseBy, UseStep | None]:
    """Return what a form or an address asks for; what it leaves out is as the page shows it at first."""
    shown = _first_shown(services.platform_reports.today)
    try:
        asked = Period(
            date.fromisoformat(first) if first else shown.first, date.fromisoformat(last) if last else shown.last
        )
        return asked, UseBy(by), UseStep(step) if step else None
    except ValueError as wrong:
        raise InvalidInputError(
            "The period or its division is none that there is.", "Write days as 2027-01-31, and choose from the lists."
        ) from wrong


def _first_shown(today: date) -> Period:
    return Period(today - timedelta(days=DAYS_AT_FIRST - 1), today)


def _periods(today: date, by: str) -> list[tuple[str, str]]:
    """Return links to the periods that are mostly asked for: their names and addresses."""
    month, year = today.replace(day=1), today.replace(month=1, day=1)
    following = (month + timedelta(days=31)).replace(day=1)
    before = month - timedelta(days=1)
    named = {
        "Last 30 days": _first_shown(today),
        "This month": Period(month, following - timedelta(days=1)),
        "Last month": Period(before.replace(day=1), before),
        "This year": Period(year, date(today.year, 12, 31)),
        "Last year": Period(date(today.year - 1, 1, 1), year - timedelta(days=1)),
    }
    return [
        (name, urlencode({"first": one.first.isoformat(), "last": one.last.isoformat(), "by": by}))
        for name, one in named.items()
    ]
