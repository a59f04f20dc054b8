"""Stores who accepted which agreement; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, bindparam, delete, insert, select

from allocations.db import schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

_ACCEPTED = select(schema.agreements.c.accepted_at_ms).where(
    schema.agreements.c.person == bindparam("of_person"), schema.agreements.c.version == bindparam("of_version")
)


_ACCEPTED_BY = select(schema.agreements.c.person, schema.agreements.c.accepted_at_ms).where(
    schema.agreements.c.person.in_(bindparam("people", expanding=True)),
    schema.agreements.c.version == bindparam("of_version"),
)


class AgreementStore:
    """Who accepted which version of the user agreement, and when."""

    def accepted_at_ms(self, connection: Connection, person: str, version: str) -> int | None:
        """Return when the person accepted the version, or None."""
        return connection.execute(_ACCEPTED, {"of_person": person, "of_version": version}).scalar_one_or_none()

    def accepted_by(self, connection: Connection, people: Iterable[str], version: str) -> dict[str, int]:
        """Return when each of the people accepted the version, of those who did."""
        rows = connection.execute(_ACCEPTED_BY, {"people": list(people), "of_version": version})
        return {row.person: row.accepted_at_ms for row in rows}

    def put(self, connection: Connection, person: str, version: str, accepted_at_ms: int) -> None:
        """Record an acceptance, in place of an earlier one of the same version."""
        mine = and_(schema.agreements.c.person == person, schema.agreements.c.version == version)
        connection.execute(delete(schema.agreements).where(mine))
        connection.execute(
            insert(schema.agreements).values(person=person, version=version, accepted_at_ms=accepted_at_ms)
        )

    def see(self, connection: Connection, person: str, seen_at_ms: int) -> None:
        """Note that a person is here; the first time counts."""
        known = select(schema.people.c.name).where(schema.people.c.name == person)
        if connection.execute(known).first() is None:
            connection.execute(insert(schema.people).values(name=person, first_seen_at_ms=seen_at_ms))
