"""Stores requests and reviews; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, insert, select, update

from allocations.db import schema
from allocations.lifecycle.models import (
    Award,
    Request,
    RequestKind,
    RequestState,
    Review,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row


def _request(row: Row[Any]) -> Request:
    fields = dict(row._mapping)  # noqa: SLF001  # as above
    fields["kind"] = RequestKind(fields["kind"])
    fields["state"] = RequestState(fields["state"])
    fields["asked"] = Award.model_validate_json(fields["asked"])
    fields["awarded"] = Award.model_validate_json(fields["awarded"]) if fields["awarded"] else None
    return Request(**fields)


class RequestStore:
    """Requests and their reviews."""

    def add(self, connection: Connection, request: Request) -> None:
        """Insert a request."""
        connection.execute(
            insert(schema.requests).values(
                id=request.id,
                kind=request.kind,
                applicant=request.applicant,
                tier=request.tier,
                title=request.title,
                justification=request.justification,
                credits=request.credits,
                asked=request.asked.model_dump_json(),
                awarded=request.awarded.model_dump_json() if request.awarded else None,
                state=request.state,
                allocation_id=request.allocation_id,
                created_at_ms=request.created_at_ms,
                updated_at_ms=request.updated_at_ms,
            )
        )

    def get(self, connection: Connection, request_id: str, *, lock: bool = False) -> Request | None:
        """Return the request, locked against other writers when asked, or None."""
        query = select(schema.requests).where(schema.requests.c.id == request_id)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        return _request(row) if row else None

    def change(self, connection: Connection, request_id: str, **values: object) -> None:
        """Set columns of a request."""
        connection.execute(update(schema.requests).where(schema.requests.c.id == request_id).values(**values))

    def of_applicant(self, connection: Connection, person: str) -> list[Request]:
        """Return a person's requests, newest first."""
        rows = connection.execute(
            select(schema.requests)
            .where(schema.requests.c.applicant == person)
            .order_by(schema.requests.c.created_at_ms.desc())
        )
        return [_request(row) for row in rows]

    def queue(self, connection: Connection) -> list[Request]:
        """Return the requests that wait for a reviewer, oldest first."""
        rows = connection.execute(
            select(schema.requests)
            .where(schema.requests.c.state.in_([RequestState.SUBMITTED, RequestState.IN_REVIEW]))
            .order_by(schema.requests.c.created_at_ms)
        )
        return [_request(row) for row in rows]

    def is_waiting(self, connection: Connection, allocation_id: str, kind: RequestKind) -> bool:
        """Say whether something of a kind is asked for on an allocation and not decided yet."""
        waiting = (RequestState.SUBMITTED, RequestState.IN_REVIEW, RequestState.REVISION_REQUESTED)
        found = select(schema.requests.c.id).where(
            schema.requests.c.allocation_id == allocation_id,
            schema.requests.c.kind == kind,
            schema.requests.c.state.in_(waiting),
        )
        return connection.execute(found).first() is not None

    def set_scores_aside(self, connection: Connection, request_id: str) -> dict[str, int]:
        """Take the scores off the reviews, whose comments and conflicts stay; return them by reviewer."""
        scored = {
            review.reviewer: review.score for review in self.reviews(connection, request_id) if review.score is not None
        }
        connection.execute(update(schema.reviews).where(schema.reviews.c.request_id == request_id).values(score=None))
        return scored

    def put_review(self, connection: Connection, review: Review) -> None:
        """Record a reviewer's word, in place of an earlier one."""
        connection.execute(
            delete(schema.reviews).where(
                and_(
                    schema.reviews.c.request_id == review.request_id,
                    schema.reviews.c.reviewer == review.reviewer,
                )
            )
        )
        connection.execute(
            insert(schema.reviews).values(
                request_id=review.request_id,
                reviewer=review.reviewer,
                score=review.score,
                conflict=review.conflict,
                comment=review.comment,
                at_ms=review.at_ms,
            )
        )

    def reviews(self, connection: Connection, request_id: str) -> list[Review]:
        """Return the reviews of a request, oldest first."""
        rows = connection.execute(
            select(schema.reviews).where(schema.reviews.c.request_id == request_id).order_by(schema.reviews.c.at_ms)
        )
        return [Review(row.request_id, row.reviewer, row.score, row.conflict, row.comment, row.at_ms) for row in rows]
