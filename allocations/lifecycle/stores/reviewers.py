"""Stores who reviews requests; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from allocations.db.schema import reviewers

if TYPE_CHECKING:
    from sqlalchemy import Connection


class ReviewerStore:
    """People who were seen with the role of a reviewer, and when last."""

    def seen_at_ms(self, connection: Connection, person: str) -> int | None:
        """Return when a person was last seen as a reviewer, None when they are none."""
        query = select(reviewers.c.seen_at_ms).where(reviewers.c.person == person)
        return connection.execute(query).scalar_one_or_none()

    def put(self, connection: Connection, person: str, seen_at_ms: int) -> None:
        """Keep that a person was seen as a reviewer; of two who do so at once, the later stays."""
        values = {"person": person, "seen_at_ms": seen_at_ms}
        made = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(reviewers).values(values)
        connection.execute(made.on_conflict_do_update(index_elements=["person"], set_={"seen_at_ms": seen_at_ms}))

    def remove(self, connection: Connection, person: str) -> None:
        """Keep that a person is a reviewer no more."""
        connection.execute(delete(reviewers).where(reviewers.c.person == person))

    def since(self, connection: Connection, seen_after_ms: int) -> list[str]:
        """Return who was seen as a reviewer after a time."""
        query = select(reviewers.c.person).where(reviewers.c.seen_at_ms > seen_after_ms).order_by(reviewers.c.person)
        return [row.person for row in connection.execute(query)]
