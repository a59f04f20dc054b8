"""Stores requests and reviews; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, exists, func, insert, or_, select, update

from allocations.db import schema
from allocations.lifecycle.models import (
    WAITING_STATES,
    Award,
    Request,
    RequestFilter,
    RequestKind,
    RequestState,
    Review,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Connection, Row


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
            .where(schema.requests.c.state.in_(sorted(WAITING_STATES)))
            .order_by(schema.requests.c.created_at_ms)
        )
        return [_request(row) for row in rows]

    def found(
        self, connection: Connection, wanted: RequestFilter, start: int, count_max: int
    ) -> tuple[list[Request], int]:
        """Return some of the requests that a filter lets through, and how many there are.

        What waits comes oldest first; where others are among them, the latest change first.
        """
        conditions = _conditions(wanted)
        number = connection.execute(select(func.count()).select_from(schema.requests).where(*conditions)).scalar_one()
        waiting = wanted.states <= WAITING_STATES
        order = schema.requests.c.created_at_ms if waiting else schema.requests.c.updated_at_ms.desc()
        rows = connection.execute(
            select(schema.requests)
            .where(*conditions)
            .order_by(order, schema.requests.c.id)
            .offset(start)
            .limit(count_max)
        )
        return [_request(row) for row in rows], number

    def beside(self, connection: Connection, request: Request, count_max: int) -> list[Request]:
        """Return the latest other requests of the applicant and on the same allocation, without drafts."""
        columns = schema.requests.c
        same = columns.applicant == request.applicant
        if request.allocation_id is not None:
            same = or_(same, columns.allocation_id == request.allocation_id)
        rows = connection.execute(
            select(schema.requests)
            .where(same, columns.id != request.id, columns.state != RequestState.DRAFT)
            .order_by(columns.updated_at_ms.desc(), columns.id)
            .limit(count_max)
        )
        return [_request(row) for row in rows]

    def in_conflict(self, connection: Connection, request_ids: Collection[str], person: str) -> set[str]:
        """Return which of the requests a person belongs to: by a declared conflict, or as a member of the tree."""
        declared = select(schema.reviews.c.request_id).where(
            schema.reviews.c.request_id.in_(list(request_ids)),
            schema.reviews.c.reviewer == person,
            schema.reviews.c.conflict,
        )
        # More is asked for on whole allocations only: all nodes of the tree have the allocation as their root.
        belongs = (
            select(schema.requests.c.id)
            .join(schema.allocations, schema.allocations.c.root_id == schema.requests.c.allocation_id)
            .join(schema.members, schema.members.c.allocation_id == schema.allocations.c.id)
            .where(schema.requests.c.id.in_(list(request_ids)), schema.members.c.person == person)
        )
        return {row[0] for row in connection.execute(declared.union(belongs))}

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
        return self.reviews_of(connection, [request_id])[request_id]

    def reviews_of(self, connection: Connection, request_ids: Collection[str]) -> dict[str, list[Review]]:
        """Return the reviews of requests by their id, each list oldest first."""
        found: dict[str, list[Review]] = {request_id: [] for request_id in request_ids}
        rows = connection.execute(
            select(schema.reviews)
            .where(schema.reviews.c.request_id.in_(list(request_ids)))
            .order_by(schema.reviews.c.at_ms)
        )
        for row in rows:
            found[row.request_id].append(Review(**row._mapping))  # noqa: SLF001  # as above
        return found


def _conditions(wanted: RequestFilter) -> list[ColumnElement[bool]]:
    columns, reviews = schema.requests.c, schema.reviews.c
    conditions: list[ColumnElement[bool]] = [columns.state.in_(sorted(wanted.states))]
    if wanted.tier is not None:
        conditions.append(columns.tier == wanted.tier)
    if wanted.kind is not None:
        conditions.append(columns.kind == wanted.kind)
    if wanted.created_until_ms is not None:
        conditions.append(columns.created_at_ms <= wanted.created_until_ms)
    if wanted.reviewed_by is not None:
        conditions.append(exists().where(reviews.request_id == columns.id, reviews.reviewer == wanted.reviewed_by))
    if wanted.to_be_reviewed_by is not None:
        person = wanted.to_be_reviewed_by
        conditions.append(columns.applicant != person)
        conditions.append(~exists().where(reviews.request_id == columns.id, reviews.reviewer == person))
    if wanted.text:
        searched = (columns.title, columns.applicant, columns.id)
        conditions.append(or_(*(column.icontains(wanted.text, autoescape=True) for column in searched)))
    return conditions
