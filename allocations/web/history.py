"""An allocation's history: what was done to it, when, by whom, why and under which policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.lifecycle.authority import PLATFORM
from allocations.reports.audit import AUDIT_PAGE
from allocations.web.audit import ENTRY_ID_MAX
from allocations.web.awards import TITLES
from allocations.web.formats import to_credits, to_day_of_ms
from allocations.web.render import page
from allocations.web.session import page_needs

if TYPE_CHECKING:
    from allocations.reports.audit import AuditEntryView

router = APIRouter(prefix="/allocations/{allocation_id}/history")
STEPS = {
    "allocation.open": "Opened",
    "allocation.divide": "Opened as a share",
    "allocation.change_share": "Share changed",
    "allocation.move": "Budget moved",
    "allocation.instalment": "Instalment granted",
    "allocation.supplement": "Supplement granted",
    "allocation.award_renewal": "Renewal awarded",
    "allocation.renew": "Renewed",
    "allocation.extend": "Extended",
    "allocation.advance": "Moved on by the calendar",
    "allocation.suspend": "Suspended",
    "allocation.resume": "Resumed",
    "allocation.archive": "Archived",
    "allocation.close": "Closed",
    "allocation.close-share": "Closed",
    "member.invite": "Person invited",
    "member.answer": "Invitation answered",
    "member.revoke": "Invitation taken back",
    "member.change": "Member changed",
    "member.remove": "Member removed",
    "publication.link": "Publication linked",
    "publication.unlink": "Publication unlinked",
}
# Review is single-blind: these are done by whoever decides on a request.
DECIDED = frozenset(
    f"allocation.{action}" for action in ("open", "instalment", "supplement", "award_renewal", "renew", "extend")
)


@router.get("")
def show_history(
    request: Request,
    allocation_id: str,
    services: Wired,
    reader: Annotated[Identity, Depends(page_needs(Scope.READ))],
    before: Annotated[int | None, Query(ge=0, le=ENTRY_ID_MAX)] = None,
) -> Response:
    """Show a page of the history, newest first, to leads, managers and administrators."""
    allocation, entries = services.reports.history(reader.actor, allocation_id, before_id=before)
    return page(
        request,
        "history.html",
        allocation=allocation,
        entries=[
            (entry, STEPS.get(entry.action, entry.action), _who(entry, reader), to_words(entry)) for entry in entries
        ],
        older=entries[-1].id if len(entries) == AUDIT_PAGE else None,
        is_first=before is None,
    )


def to_words(entry: AuditEntryView) -> list[str]:
    """Return what an entry says of states, ends, amounts and people; never what the allocation is a part of."""
    details = entry.details
    words = []
    if details.get("before") and isinstance(details["before"], str) and details["before"] != details.get("after"):
        words.append(f"{details['before']} → {details.get('after')}")
    if "ends_at_ms" in details:
        words.append(f"ends on {to_day_of_ms(details['ends_at_ms'])}")
    if "begins_at_ms" in details:
        words.append(f"begins on {to_day_of_ms(details['begins_at_ms'])}")
    if "before_microcredits" in details:
        words.append(f"{to_credits(details['before_microcredits'])} → {to_credits(details['microcredits'])} credits")
    elif "microcredits" in details:
        words.append(f"{to_credits(details['microcredits'])} credits")
    award = details.get("award") or {}
    words += [
        f"{award[name]:,} {title.lower().replace('gpu', 'GPU')}" for name, title in TITLES.items() if award.get(name)
    ]
    words += [str(details[name]) for name in ("person", "role", "answer", "publication") if details.get(name)]
    return words


def _who(entry: AuditEntryView, reader: Identity) -> str:
    if entry.actor == PLATFORM:
        return "the platform"
    hidden = entry.action in DECIDED and entry.actor != reader.name and not reader.has(Scope.ADMIN)
    return "a reviewer" if hidden else entry.actor
