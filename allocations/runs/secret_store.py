"""Stores people's secrets as they were sealed; decides nothing, and opens none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from allocations.db.schema import secrets

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection, Row


class SecretStore:
    """Secrets by person and name."""

    def of_person(self, connection: Connection, person: str) -> list[Row[Any]]:
        """Return name and times of a person's secrets, by name."""
        columns = (secrets.c.name, secrets.c.created_at_ms, secrets.c.changed_at_ms, secrets.c.used_at_ms)
        return list(connection.execute(select(*columns).where(secrets.c.person == person).order_by(secrets.c.name)))

    def sealed(self, connection: Connection, person: str, names: Collection[str]) -> dict[str, str]:
        """Return those of the named secrets that the person has, sealed, by name."""
        rows = connection.execute(
            select(secrets.c.name, secrets.c.value).where(secrets.c.person == person, secrets.c.name.in_(names))
        )
        return {row.name: row.value for row in rows}

    def count(self, connection: Connection, person: str) -> int:
        """Count a person's secrets."""
        found = connection.execute(select(func.count()).where(secrets.c.person == person)).scalar_one()
        return int(found)

    def put(self, connection: Connection, person: str, name: str, sealed: str, now_ms: int) -> bool:
        """Keep a secret, in the place of one of the same name; say whether it is new."""
        where = (secrets.c.person == person, secrets.c.name == name)
        changed = connection.execute(update(secrets).where(*where).values(value=sealed, changed_at_ms=now_ms))
        if changed.rowcount:
            return False
        values = {"person": person, "name": name, "value": sealed, "created_at_ms": now_ms, "changed_at_ms": now_ms}
        connection.execute(insert(secrets).values(**values))
        return True

    def mark_used(self, connection: Connection, person: str, names: Collection[str], now_ms: int) -> None:
        """Note when secrets were last given to a run."""
        connection.execute(
            update(secrets).where(secrets.c.person == person, secrets.c.name.in_(names)).values(used_at_ms=now_ms)
        )

    def remove(self, connection: Connection, person: str, name: str) -> bool:
        """Remove a secret; say whether it was there."""
        gone = connection.execute(delete(secrets).where(secrets.c.person == person, secrets.c.name == name))
        return bool(gone.rowcount)
