"""The history of a request in words: what was done, and what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.lifecycle.models import Award, RequestState
from allocations.web.awards import award_in_words

if TYPE_CHECKING:
    from allocations.reports.audit import AuditEntryView

# What the steps of a request's history are called; whoever took them is named beside.
STEPS = {
    "request.draft": "Written as a draft",
    "request.submit": "Submitted",
    "request.revise": "Changed",
    "request.withdraw": "Withdrawn",
    "request.review": "Reviewed",
    "request.request-revision": "Sent back for a revision",
    "request.approve": "Approved",
    "request.decline": "Declined",
}
# What comes after a state, for those who read a request.
NEXT_STEPS = {
    RequestState.DRAFT: "Nobody else reads it until it is submitted.",
    RequestState.SUBMITTED: "A reviewer reads it next.",
    RequestState.IN_REVIEW: "The reviewers decide next.",
    RequestState.REVISION_REQUESTED: "It waits for its applicant.",
}


def step_in_words(entry: AuditEntryView) -> str:
    """Return what a step of the history changed, gave or scored; empty when its name says all."""
    details = entry.details
    if entry.action == "request.revise" and "asked" in details:
        return f"Asks for {award_in_words(Award.model_validate(details['asked']))}"
    if entry.action == "request.approve" and "awarded" in details:
        return f"Awarded: {award_in_words(Award.model_validate(details['awarded']))}"
    if entry.action == "request.review":
        score = details.get("score")
        return "Conflict of interest" if details.get("conflict") else f"Score {score} of 5" if score else ""
    return ""
