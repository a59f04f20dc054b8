"""What the closing or archiving of an allocation ends, for those who are asked whether they mean it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.lifecycle.models import AllocationState

if TYPE_CHECKING:
    from allocations.api.identity import Identity
    from allocations.factory import Services
    from allocations.reports.allocations import AllocationOutline, AllocationView


@dataclass(frozen=True, slots=True)
class Ending:
    """What ends with an allocation: its open parts, the people's place to work, what runs, what is free."""

    parts: list[AllocationView]
    people: list[str]
    running: int
    free_microcredits: int


def ending(services: Services, identity: Identity, detail: AllocationOutline) -> Ending:
    """Return what ends with an allocation that the person manages."""
    found = detail.allocation
    return Ending(
        parts=[node for node in detail.tree if node.id != found.id and node.state != AllocationState.CLOSED],
        people=services.members.people_below(identity.actor, found.id),
        running=len(detail.leases),
        free_microcredits=max(0, found.limit_microcredits - found.posted_microcredits - found.held_microcredits),
    )
