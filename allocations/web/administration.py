"""The administrators' pages: every allocation with suspension, and the audit log."""

from __future__ import annotations

import csv
import io
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError, InvalidInputError
from allocations.lifecycle.models import USABLE_STATES, AllocationState
from allocations.reports.audit import AUDIT_PAGE
from allocations.web.render import page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter(prefix="/admin")
Administrator = Annotated[Identity, Depends(page_needs(Scope.ADMIN))]
ALLOCATIONS_PAGE = 100
ENTRY_ID_MAX = 2**63 - 1
REPORT_COLUMNS = (
    "tier",
    "allocations",
    "usable",
    "granted_microcredits",
    "spent_microcredits",
    "held_microcredits",
    "publications",
)


@router.get("/allocations")
def show_allocations(
    request: Request,
    services: Wired,
    _administrator: Administrator,
    find: str = "",
    start: Annotated[int, Query(ge=0, le=ENTRY_ID_MAX)] = 0,
) -> Response:
    """Show all allocations, or those whose name, id, tier or state contains what is looked for."""
    return _allocations(request, services, find, start)


@router.post("/allocations/{allocation_id}/state")
def change_state(
    request: Request,
    allocation_id: str,
    services: Wired,
    sent: Annotated[Sent, Depends(form_needs(Scope.ADMIN))],
) -> Response:
    """Suspend or resume an allocation, with the reason that the audit log keeps."""
    actor, action, why = sent.identity.actor, sent.text("action"), sent.text("why")
    try:
        if action == "suspend":
            services.lifecycle.suspend(actor, allocation_id, why)
        elif action == "resume":
            services.lifecycle.resume(actor, allocation_id, why)
        else:
            raise InvalidInputError("No action is chosen.", "Suspend or resume the allocation.")
    except AllocationsError as error:
        return _allocations(request, services, allocation_id, 0, error, why)
    return see(request, "/admin/allocations", f"{action.removesuffix('e')}ed")


@router.get("/report")
def show_report(request: Request, services: Wired, _administrator: Administrator) -> Response:
    """Show the figures of every tier."""
    return page(request, "report.html", report=services.reports.platform())


@router.get("/report.csv")
def download_report(services: Wired, _administrator: Administrator) -> Response:
    """Download the same figures; the line of all tiers counts each publication once."""
    report = services.reports.platform()
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(REPORT_COLUMNS)
    writer.writerows([getattr(tier, column) for column in REPORT_COLUMNS] for tier in report.tiers)
    sums = (sum(getattr(tier, column) for tier in report.tiers) for column in REPORT_COLUMNS[1:-1])
    writer.writerow(["all", *sums, report.publications])
    headers = {"content-disposition": 'attachment; filename="meridian-report.csv"'}
    return Response(lines.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/audit")
def show_audit(
    request: Request,
    services: Wired,
    _administrator: Administrator,
    before: Annotated[int | None, Query(ge=0, le=ENTRY_ID_MAX)] = None,
    subject: str = "",
) -> Response:
    """Show the audit log, newest first, of everything or of one subject."""
    subject = subject.replace("\0", "").strip()
    entries = services.reports.audit_log(before_id=before, subject=subject or None)
    older = entries[-1].id if len(entries) == AUDIT_PAGE else None
    return page(request, "audit.html", entries=entries, subject=subject, older=older, is_first=before is None)


def _allocations(
    request: Request,
    services: Wired,
    find: str,
    start: int,
    error: AllocationsError | None = None,
    why: str = "",
) -> Response:
    wanted = find.strip().lower()
    found = [
        allocation
        for allocation in services.reports.all_allocations()
        if wanted in f"{allocation.name}\n{allocation.id}\n{allocation.tier_title}\n{allocation.state}".lower()
    ]
    return page(
        request,
        "allocations.html",
        error=error,
        allocations=found[start : start + ALLOCATIONS_PAGE],
        count=len(found),
        find=find,
        start=start,
        size=ALLOCATIONS_PAGE,
        usable_states=USABLE_STATES,
        suspended=AllocationState.SUSPENDED,
        why=why,
    )
