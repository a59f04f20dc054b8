"""Stores allocations, members, agreements, requests, reviews and the audit log; decides nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, delete, insert, select, update

from allocations.db import schema
from allocations.lifecycle.models import (
    Allocation,
    AllocationState,
    Award,
    Member,
    MemberRole,
    Request,
    RequestKind,
    RequestState,
    Review,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection, Row

# Built once: making a statement costs more than running it.
_GET = select(schema.allocations).where(schema.allocations.c.id == bindparam("node"))
_MEMBER = select(schema.members).where(
    schema.members.c.allocation_id == bindparam("node"), schema.members.c.person == bindparam("of_person")
)
_ACCEPTED = select(schema.agreements.c.accepted_at_ms).where(
    schema.agreements.c.person == bindparam("of_person"), schema.agreements.c.version == bindparam("of_version")
)


def _allocation(row: Row[Any]) -> Allocation:
    fields = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
    fields["state"] = AllocationState(fields["state"])
    fields["award"] = Award.model_validate_json(fields["award"])
    return Allocation(**fields)


def _member(row: Row[Any]) -> Member:
    return Member(row.allocation_id, row.person, MemberRole(row.role), row.joined_at_ms)


def _request(row: Row[Any]) -> Request:
    fields = dict(row._mapping)  # noqa: SLF001  # as above
    fields["kind"] = RequestKind(fields["kind"])
    fields["state"] = RequestState(fields["state"])
    return Request(**fields)


class AllocationStore:
    """Allocations and their members."""

    def add(self, connection: Connection, allocation: Allocation) -> None:
        """Insert an allocation."""
        connection.execute(
            insert(schema.allocations).values(
                id=allocation.id,
                parent_id=allocation.parent_id,
                root_id=allocation.root_id,
                depth=allocation.depth,
                name=allocation.name,
                tier=allocation.tier,
                state=allocation.state,
                guaranteed=allocation.guaranteed,
                award=allocation.award.model_dump_json(),
                starts_at_ms=allocation.starts_at_ms,
                ends_at_ms=allocation.ends_at_ms,
                refilled_at_ms=allocation.refilled_at_ms,
                policy_version=allocation.policy_version,
                created_at_ms=allocation.created_at_ms,
            )
        )

    def get(self, connection: Connection, allocation_id: str) -> Allocation | None:
        """Return the allocation, or None."""
        row = connection.execute(_GET, {"node": allocation_id}).one_or_none()
        return _allocation(row) if row else None

    def change(self, connection: Connection, allocation_id: str, **values: object) -> None:
        """Set columns of an allocation."""
        connection.execute(update(schema.allocations).where(schema.allocations.c.id == allocation_id).values(**values))

    def all(self, connection: Connection) -> list[Allocation]:
        """Return every allocation, trees together, parents first."""
        rows = connection.execute(
            select(schema.allocations).order_by(
                schema.allocations.c.created_at_ms, schema.allocations.c.depth, schema.allocations.c.id
            )
        )
        return [_allocation(row) for row in rows]

    def children(self, connection: Connection, allocation_id: str) -> list[Allocation]:
        """Return the direct sub-allocations, oldest first."""
        rows = connection.execute(
            select(schema.allocations)
            .where(schema.allocations.c.parent_id == allocation_id)
            .order_by(schema.allocations.c.created_at_ms, schema.allocations.c.id)
        )
        return [_allocation(row) for row in rows]

    def subtree(self, connection: Connection, allocation: Allocation) -> list[Allocation]:
        """Return the allocation and all below it, parents first."""
        tree = [
            _allocation(row)
            for row in connection.execute(
                select(schema.allocations)
                .where(schema.allocations.c.root_id == allocation.root_id)
                .order_by(schema.allocations.c.depth, schema.allocations.c.created_at_ms, schema.allocations.c.id)
            )
        ]
        inside = {allocation.id}
        kept = []
        for node in tree:
            if node.id == allocation.id or node.parent_id in inside:
                inside.add(node.id)
                kept.append(node)
        return kept

    def of_person(self, connection: Connection, person: str) -> list[tuple[Allocation, MemberRole]]:
        """Return the allocations that a person is a member of, oldest first, with the role there."""
        rows = connection.execute(
            select(schema.allocations, schema.members.c.role)
            .join(schema.members, schema.members.c.allocation_id == schema.allocations.c.id)
            .where(schema.members.c.person == person)
            .order_by(schema.allocations.c.created_at_ms, schema.allocations.c.depth, schema.allocations.c.id)
        )
        found = []
        for row in rows:
            fields = dict(row._mapping)  # noqa: SLF001  # as above
            role = MemberRole(fields.pop("role"))
            fields["state"] = AllocationState(fields["state"])
            fields["award"] = Award.model_validate_json(fields["award"])
            found.append((Allocation(**fields), role))
        return found

    def add_member(self, connection: Connection, member: Member) -> None:
        """Insert a member."""
        connection.execute(
            insert(schema.members).values(
                allocation_id=member.allocation_id,
                person=member.person,
                role=member.role,
                joined_at_ms=member.joined_at_ms,
            )
        )

    def remove_member(self, connection: Connection, allocation_id: str, person: str) -> None:
        """Delete a member."""
        connection.execute(
            delete(schema.members).where(
                schema.members.c.allocation_id == allocation_id, schema.members.c.person == person
            )
        )

    def member(self, connection: Connection, allocation_id: str, person: str) -> Member | None:
        """Return a person's place in an allocation, or None."""
        row = connection.execute(_MEMBER, {"node": allocation_id, "of_person": person}).one_or_none()
        return _member(row) if row else None

    def members(self, connection: Connection, allocation_ids: Iterable[str]) -> list[Member]:
        """Return the members of allocations, in the order of joining."""
        rows = connection.execute(
            select(schema.members)
            .where(schema.members.c.allocation_id.in_(list(allocation_ids)))
            .order_by(schema.members.c.joined_at_ms, schema.members.c.person)
        )
        return [_member(row) for row in rows]

    def roles_along(self, connection: Connection, path: Iterable[str], person: str) -> set[MemberRole]:
        """Return the roles that a person has anywhere along a path of allocations."""
        rows = connection.execute(
            select(schema.members.c.role).where(
                schema.members.c.allocation_id.in_(list(path)), schema.members.c.person == person
            )
        )
        return {MemberRole(row.role) for row in rows}


class AgreementStore:
    """Who accepted which version of the user agreement, and when."""

    def accepted_at_ms(self, connection: Connection, person: str, version: str) -> int | None:
        """Return when the person accepted the version, or None."""
        return connection.execute(_ACCEPTED, {"of_person": person, "of_version": version}).scalar_one_or_none()

    def add(self, connection: Connection, person: str, version: str, accepted_at_ms: int) -> None:
        """Record an acceptance."""
        connection.execute(
            insert(schema.agreements).values(person=person, version=version, accepted_at_ms=accepted_at_ms)
        )


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


class AuditStore:
    """The append-only record of who did what, when and why."""

    def add(
        self,
        connection: Connection,
        *,
        at_ms: int,
        actor: str,
        action: str,
        subject: str,
        policy_version: str,
        why: str = "",
        details: Mapping[str, object] | None = None,
    ) -> None:
        """Append an entry."""
        connection.execute(
            insert(schema.audit).values(
                at_ms=at_ms,
                actor=actor,
                action=action,
                subject=subject,
                why=why,
                details=json.dumps(details or {}, sort_keys=True),
                policy_version=policy_version,
            )
        )

    def entries(
        self, connection: Connection, *, limit: int, before_id: int | None = None, subject: str | None = None
    ) -> list[Row[Any]]:
        """Return entries, newest first: at most `limit`, older than `before_id` when given."""
        query = select(schema.audit).order_by(schema.audit.c.id.desc()).limit(limit)
        if before_id is not None:
            query = query.where(schema.audit.c.id < before_id)
        if subject is not None:
            query = query.where(schema.audit.c.subject == subject)
        return list(connection.execute(query))
