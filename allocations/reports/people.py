"""What administrators see of people: who they are, and whether they are suspended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.clock import to_rfc3339
from allocations.leases.views import View

if TYPE_CHECKING:
    from allocations.lifecycle.models import Person, Suspension

PEOPLE_PAGE = 50


class SuspensionView(View):
    """A suspension in force: by whom, why, and when what the person runs is stopped."""

    reason: str
    author: str
    created_at: str
    stops_at: str

    @classmethod
    def from_suspension(cls, suspension: Suspension) -> SuspensionView:
        """Show a suspension."""
        return cls(
            reason=suspension.reason,
            author=suspension.author,
            created_at=to_rfc3339(suspension.created_at_ms),
            stops_at=to_rfc3339(suspension.stops_at_ms),
        )


class PersonReport(View):
    """A person as the provider and the hub told of them at their last sign-in; None for what was not told."""

    name: str
    full_name: str | None
    email: str | None
    institution: str | None
    country: str | None
    issuer: str | None
    roles: list[str]
    first_seen_at: str
    suspension: SuspensionView | None

    @classmethod
    def from_person(cls, person: Person, first_seen_at_ms: int, suspension: Suspension | None) -> PersonReport:
        """Show a person."""
        return cls(
            name=person.name,
            full_name=person.full_name,
            email=person.email,
            institution=person.institution,
            country=person.country,
            issuer=person.issuer,
            roles=list(person.roles),
            first_seen_at=to_rfc3339(first_seen_at_ms),
            suspension=suspension and SuspensionView.from_suspension(suspension),
        )
