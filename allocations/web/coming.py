"""What comes next for a person: requests under way, the agreement that is due again, allocations that end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.api.identity import Scope
from allocations.lifecycle.models import MANAGING_ROLES, RUNNING_STATES, RequestState
from allocations.web.formats import days_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from allocations.api.identity import Identity
    from allocations.factory import Services
    from allocations.reports.allocations import AllocationView

# An end is told of so many days ahead; the nearest one always.
NEAR_DAYS = 60
UNDER_WAY = {
    RequestState.DRAFT: "A draft: nobody reads it until you submit it.",
    RequestState.SUBMITTED: "It waits for a reviewer. You are told what becomes of it.",
    RequestState.IN_REVIEW: "It is being reviewed. You are told what becomes of it.",
    RequestState.REVISION_REQUESTED: "The reviewers sent it back to you: change it and submit it again.",
}


@dataclass(frozen=True, slots=True)
class Coming:
    """Something that comes, or waits for the person: where it stands on the pages, what to do, and when."""

    title: str
    path: str
    text: str
    state: str | None = None
    at: str | None = None


def coming_up(services: Services, reader: Identity, allocations: Iterable[AllocationView]) -> list[Coming]:
    """Return what comes next: what waits for somebody first, then by date."""
    dated = [*_agreement(services, reader), *_ends(services, reader, allocations)]
    dated.sort(key=lambda one: one.at or "")
    return [*_requests(services, reader), *dated]


def _requests(services: Services, reader: Identity) -> Iterator[Coming]:
    if not reader.has(Scope.REQUEST):
        return
    for found in services.reports.requests_of(reader.name):
        if found.state in UNDER_WAY:
            yield Coming(
                found.title or "Request without a title",
                f"/requests/{found.id}",
                UNDER_WAY[found.state],
                state=found.state,
            )


def _agreement(services: Services, reader: Identity) -> Iterator[Coming]:
    agreement = services.offers.agreement(reader.name)
    until = agreement.accepted_until
    if until is not None and days_until(until, services.clock.now_ms()) < NEAR_DAYS:
        text = "You will be asked to accept it again then, before the next start."
        yield Coming(agreement.title, "/agreement", text, at=until)


def _ends(services: Services, reader: Identity, allocations: Iterable[AllocationView]) -> Iterator[Coming]:
    now_ms = services.clock.now_ms()
    running = [one for one in allocations if one.state in RUNNING_STATES and days_until(one.ends_at, now_ms) >= 0]
    for number, found in enumerate(sorted(running, key=lambda one: one.ends_at)):
        if number == 0 or days_until(found.ends_at, now_ms) < NEAR_DAYS:
            path, text = _at_end(services, reader, found)
            yield Coming("End of an allocation", path, f"“{found.name}” ends then. {text}", at=found.ends_at)


def _at_end(services: Services, reader: Identity, found: AllocationView) -> tuple[str, str]:
    """Return where to go on from, and what to do, when an allocation ends."""
    tier = services.policy.tier(found.tier)
    shown = f"/allocations/{found.id}"
    if tier.review == "none":
        return shown, "It gets another term when you accept the user agreement again."
    if found.parent is not None:
        return shown, "It ends with the allocation that it is a part of."
    if found.role in MANAGING_ROLES and reader.has(Scope.REQUEST):
        opens = f"in the last {tier.renewal_opens_days} days before its end"
        return f"{shown}/ask", f"Ask for its renewal if you go on needing it: it can be renewed {opens}."
    return shown, "Who leads or manages it can ask for its renewal. Save what you want to keep before then."
