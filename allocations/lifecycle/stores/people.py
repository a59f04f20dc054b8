"""Stores who people are; decides nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, insert, or_, select, true, update

from allocations.db.schema import people, suspensions
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
        values["roles"] = json.dumps(person.roles)
        nobodys = people.c.issuer.is_(None)
        theirs = and_(people.c.issuer == person.issuer, people.c.subject == person.subject)
        written = update(people).where(people.c.name == person.name, or_(nobodys, theirs)).values(values)
        if connection.execute(written).rowcount == 0:
            connection.execute(insert(people).values(first_seen_at_ms=seen_at_ms, **values))

    def first_seen_at_ms(self, connection: Connection, name: str) -> int | None:
        """Return when somebody was here first, None for who never was."""
        return connection.execute(select(people.c.first_seen_at_ms).where(people.c.name == name)).scalar_one_or_none()

    def found(
        self, connection: Connection, wanted: str, start: int, count_max: int, *, suspended: bool = False
    ) -> tuple[list[tuple[Person, int]], int]:
        """Return some of the people of whom something contains a text, by name, each with when they were first here.

        And how many these are. Case does not count; with `suspended`, only those who are suspended now.
        """
        columns = (people.c.name, people.c.full_name, people.c.email, people.c.institution, people.c.country)
        found = or_(*(column.icontains(wanted, autoescape=True) for column in columns)) if wanted else true()
        if suspended:
            held = select(suspensions.c.person).where(suspensions.c.lifted_at_ms.is_(None))
            found = and_(found, people.c.name.in_(held))
        number = connection.execute(select(func.count()).select_from(people).where(found)).scalar_one()
        rows = connection.execute(select(people).where(found).order_by(people.c.name).offset(start).limit(count_max))
        return [(_person(row), row.first_seen_at_ms) for row in rows], number


def _to_person(row: Row[Any] | None) -> Person | None:
    return None if row is None else _person(row)


def _person(row: Row[Any]) -> Person:
    fields = {field: getattr(row, field) for field in Person.__slots__}
    fields["roles"] = tuple(json.loads(row.roles)) if row.roles else ()
    return Person(**fields)
