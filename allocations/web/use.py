"""What was spent of an allocation, by member and part, over its whole time; that, its people and charges as CSV."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import NotAllowedError
from allocations.reports.use import LATEST_DAYS, By
from allocations.web.figures import use_of
from allocations.web.render import page
from allocations.web.session import page_needs
from allocations.web.tables import csv_file

router = APIRouter(prefix="/allocations/{allocation_id}")
Reader = Annotated[Identity, Depends(page_needs(Scope.READ))]
MEMBER_COLUMNS = ("person", "role", "joined_at", "servers_max", "cores_max", "gpus_max", "microcredits_max")
USE_COLUMNS = (
    "person",
    "allocation",
    "allocation_name",
    "microcredits",
    "core_seconds",
    "gpu_seconds",
    "last_day",
    "storage_microcredits",
)
QUANTITIES = ("seconds", "core_seconds", "gib_seconds", "gpu_seconds", "byte_days")
CHARGE_COLUMNS = (
    "at",
    "kind",
    "allocation",
    "allocation_name",
    "person",
    "lease",
    "lease_kind",
    "size",
    "microcredits",
)


@router.get("/use")
def show_use(request: Request, allocation_id: str, services: Wired, reader: Reader, by: str = "") -> Response:
    """Show leads and managers what was spent by whom, or by which part, as a picture and a table."""
    told_apart = By.PART if by == By.PART else By.MEMBER
    use = services.reports.use(reader.actor, allocation_id, told_apart)
    return page(
        request,
        "use.html",
        found=use.allocation,
        is_divided=use.is_divided,
        by=told_apart,
        use=use,
        picture=use_of(use),
        projected_end=use.projected_end,
        latest_days=LATEST_DAYS,
    )


@router.get("/members.csv")
def download_members(allocation_id: str, services: Wired, reader: Reader) -> Response:
    """Download the members with their roles and caps; leads and managers only."""
    detail = services.reports.outline(reader.actor, allocation_id)
    if not detail.may_manage:
        raise NotAllowedError("Only leads and managers download the members.", "Ask one of them.")
    rows = ([getattr(member, column) for column in MEMBER_COLUMNS] for member in detail.members)
    return csv_file(f"{allocation_id}-members", MEMBER_COLUMNS, rows)


@router.get("/use.csv")
def download_use(allocation_id: str, services: Wired, reader: Reader) -> Response:
    """Download what each member has used on each part; leads and managers only."""
    used = services.reports.use_by_both(reader.actor, allocation_id)
    return csv_file(f"{allocation_id}-use", USE_COLUMNS, ([getattr(one, name) for name in USE_COLUMNS] for one in used))


@router.get("/charges.csv")
def download_charges(allocation_id: str, services: Wired, reader: Reader) -> Response:
    """Download every charge: members their own, leads and managers everybody's."""
    charges = services.reports.all_charges(reader.actor, allocation_id)
    rows = (
        [
            *(getattr(one, name) for name in CHARGE_COLUMNS[:-1]),
            one.amount,
            *(one.quantities.get(name, 0) for name in QUANTITIES),
            one.storage,
        ]
        for one in charges
    )
    return csv_file(f"{allocation_id}-charges", (*CHARGE_COLUMNS, *QUANTITIES, "storage"), rows)
