"""Stores who accepted which agreement; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, insert, select

from allocations.db import schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

_ACCEPTED = select(schema.agreements.c.accepted_at_ms).where(
    schema.agreements.c.person == bindparam("of_person"), schema.agreements.c.version == bindparam("of_version")
)


_ACCEPTED_BY = select(schema.agreements.c.person).where(
    schema.agreements.c.person.in_(bindparam("people", expanding=True)),
    schema.agreements.c.version == bindparam("of_version"),
)


class AgreementStore:
    """Who accepted which version of the user agreement, and when."""

    def accepted_at_ms(self, connection: Connection, person: str, version: str) -> int | None:
        """Return when the person accepted the version, or None."""
        return connection.execute(_ACCEPTED, {"of_person": person, "of_version": version}).scalar_one_or_none()

    def accepted_by(self, connection: Connection, people: Iterable[str], version: str) -> frozenset[str]:
        """Return which of the people accepted the version."""
        rows = connection.execute(_ACCEPTED_BY, {"people": list(people), "of_version": version})
        return frozenset(rows.scalars())

    def add(self, connection: Connection, person: str, version: str, accepted_at_ms: int) -> None:
        """Record an acceptance."""
        connection.execute(
            insert(schema.agreements).values(person=person, version=version, accepted_at_ms=accepted_at_ms)
        )
