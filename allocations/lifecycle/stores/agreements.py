"""Stores who accepted which agreement; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, insert, select

from allocations.db import schema

if TYPE_CHECKING:
    from sqlalchemy import Connection

_ACCEPTED = select(schema.agreements.c.accepted_at_ms).where(
    schema.agreements.c.person == bindparam("of_person"), schema.agreements.c.version == bindparam("of_version")
)


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
