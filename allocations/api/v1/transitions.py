"""What administrators decide in an allocation's life; the calendar does the rest."""

from __future__ import annotations

from enum import StrEnum

from fastapi import APIRouter

from allocations.api.v1.common import Administrator, Body, Wired, example
from allocations.reports.allocations import AllocationDetail

# Its route takes any word behind an allocation's id: it stands behind all others.
router = APIRouter(tags=["allocations"])


class AdminTransition(StrEnum):
    """The transitions whose party is an administrator."""

    SUSPEND = "suspend"
    RESUME = "resume"
    ARCHIVE = "archive"
    CLOSE = "close"


class WhyBody(Body):
    """Why: kept in the audit log and told to leads and managers."""

    model_config = example(why="An unusual use of GPUs is being looked into.")

    why: str


@router.post("/allocations/{allocation_id}/{transition}")
def change_state(
    allocation_id: str, transition: AdminTransition, body: WhyBody, services: Wired, caller: Administrator
) -> AllocationDetail:
    """Suspend, resume, archive or close an allocation; archiving and closing take all below along."""
    is_part = services.reports.outline(caller.actor, allocation_id).allocation.parent is not None
    act = {
        AdminTransition.SUSPEND: services.lifecycle.suspend,
        AdminTransition.RESUME: services.lifecycle.resume,
        AdminTransition.ARCHIVE: services.lifecycle.archive,
        # A part that is closed gives back to the whole what it has not used.
        AdminTransition.CLOSE: services.tree.close if is_part else services.lifecycle.close,
    }[transition]
    act(caller.actor, allocation_id, body.why)
    return services.reports.allocation(caller.actor, allocation_id)
