"""Stores suspensions; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, insert, select, update

from allocations.db.schema import suspensions
from allocations.lifecycle.models import Suspension

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

_IN_FORCE = select(suspensions).where(
    suspensions.c.lifted_at_ms.is_(None), suspensions.c.person.in_(bindparam("people", expanding=True))
)


class SuspensionStore:
    """Who may start nothing, since when and why."""

    def add(self, connection: Connection, suspension: Suspension) -> None:
        """Insert a suspension; IntegrityError when the person has one in force."""
        connection.execute(
            insert(suspensions).values({name: getattr(suspension, name) for name in Suspension.__slots__})
        )

    def in_force(self, connection: Connection, people: Iterable[str]) -> dict[str, Suspension]:
        """Return the suspensions in force of people, by person."""
        rows = connection.execute(_IN_FORCE, {"people": list(people)})
        return {row.person: Suspension(**row._mapping) for row in rows}  # noqa: SLF001  # a row as a mapping

    def lift(self, connection: Connection, suspension_id: str, by: str, at_ms: int) -> bool:
        """End a suspension; False when it was lifted already."""
        lifted = connection.execute(
            update(suspensions)
            .where(suspensions.c.id == suspension_id, suspensions.c.lifted_at_ms.is_(None))
            .values(lifted_at_ms=at_ms, lifted_by=by)
        )
        return lifted.rowcount == 1
