"""What is shown of requests and their reviews."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.clock import to_rfc3339
from allocations.leases.views import View
from allocations.lifecycle.models import RequestState
from allocations.policy.models import AtOnce, Shape  # pydantic reads them at run time
from allocations.reports.allocations import AllocationView

if TYPE_CHECKING:
    from collections.abc import Iterable

    from allocations.lifecycle.models import Award, Request, Review

REQUESTS_PAGE = 25
BESIDE_MAX = 10


class AwardView(View):
    """What is asked for or awarded; `credits` in whole credits, what is None is as the tier says."""

    credits: int | None
    gpu_hours: int | None
    core_hours: int | None
    largest: list[Shape] | None
    at_once: AtOnce | None
    term_days: int | None
    renewable: bool

    @classmethod
    def from_award(cls, award: Award) -> AwardView:
        """Show an award."""
        return cls(
            credits=award.credits,
            gpu_hours=award.gpu_hours,
            core_hours=award.core_hours,
            largest=None if award.largest is None else list(award.largest),
            at_once=award.at_once,
            term_days=award.term_days,
            renewable=award.renewable,
        )


class ReviewView(View):
    """A reviewer's word."""

    reviewer: str
    score: int | None
    conflict: bool
    comment: str
    at: str

    @classmethod
    def from_review(cls, review: Review) -> ReviewView:
        """Show a review."""
        return cls(
            reviewer=review.reviewer,
            score=review.score,
            conflict=review.conflict,
            comment=review.comment,
            at=to_rfc3339(review.at_ms),
        )


class RequestView(View):
    """A request with its reviews; `awarded` is what was given when it was approved."""

    id: str
    kind: str
    applicant: str
    tier: str
    title: str
    justification: str
    credits: int
    state: RequestState
    allocation: str | None
    created_at: str
    updated_at: str
    asked: AwardView
    awarded: AwardView | None
    reviews: list[ReviewView]

    @classmethod
    def from_request(cls, request: Request, reviews: Iterable[Review]) -> RequestView:
        """Show a request."""
        return cls(
            id=request.id,
            kind=request.kind,
            applicant=request.applicant,
            tier=request.tier,
            title=request.title,
            justification=request.justification,
            credits=request.credits,
            state=request.state,
            allocation=request.allocation_id,
            created_at=to_rfc3339(request.created_at_ms),
            updated_at=to_rfc3339(request.updated_at_ms),
            asked=AwardView.from_award(request.asked.model_copy(update={"credits": request.credits or None})),
            awarded=None if request.awarded is None else AwardView.from_award(request.awarded),
            reviews=[ReviewView.from_review(review) for review in reviews],
        )


class QueueView(View):
    """A page of requests, how many there are in all, and on which of those shown somebody must not decide."""

    requests: list[RequestView]
    number: int
    in_conflict: set[str]


class RequesterView(View):
    """Who asks: their latest other requests and those on the same allocation, and the allocations that they are in.

    `in_conflict`: whether the reader must leave the review to others.
    """

    requests: list[RequestView]
    allocations: list[AllocationView]
    in_conflict: bool
