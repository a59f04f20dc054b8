"""Stores who people are; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, insert, or_, select, update

from allocations.db.schema import people
from allocations.lifecycle.models import Person

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row


class PeopleStore:
    """People by name, and by what they are to the provider that they sign in at."""

    def named(self, connection: Connection, name: str) -> Person | None:
        """Return who has the name, or None."""
        return _to_person(connection.execute(select(people).where(people.c.name == name)).one_or_none())

    def identified(self, connection: Connection, issuer: str, subject: str) -> Person | None:
        """Return whom the provider means, or None."""
        query = select(people).where(people.c.issuer == issuer, people.c.subject == subject)
        return _to_person(connection.execute(query).one_or_none())

    def put(self, connection: Connection, person: Person, seen_at_ms: int) -> None:
        """Write a person over what is known of them; IntegrityError when the name is another's by now.

        The first time that the person was seen stays.
        """
        values = {field: getattr(person, field) for field in Person.__slots__}
        nobodys = people.c.issuer.is_(None)
        theirs = and_(people.c.issuer == person.issuer, people.c.subject == person.subject)
        written = update(people).where(people.c.name == person.name, or_(nobodys, theirs)).values(values)
        if connection.execute(written).rowcount == 0:
            connection.execute(insert(people).values(first_seen_at_ms=seen_at_ms, **values))


def _to_person(row: Row[Any] | None) -> Person | None:
    return row and Person(**{field: getattr(row, field) for field in Person.__slots__})
