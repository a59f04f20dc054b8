"""Stores allocations and their members; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, func, insert, or_, select, update

from allocations.db import schema
from allocations.lifecycle.models import (
    Allocation,
    AllocationState,
    Award,
    Member,
    MemberRole,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Row

# Built once: making a statement costs more than running it.
_GET = select(schema.allocations).where(schema.allocations.c.id == bindparam("node"))
_UP = schema.paths_of(bindparam("nodes", expanding=True))
_WITH_ANCESTORS = select(schema.allocations).where(schema.allocations.c.id.in_(select(_UP.c.id)))
_MEMBERS_AMONG = select(schema.members).where(
    schema.members.c.allocation_id.in_(bindparam("nodes", expanding=True)),
    schema.members.c.person.in_(bindparam("people", expanding=True)),
)
_OF_PEOPLE = (
    select(schema.allocations, schema.members.c.person)
    .join(schema.members, schema.members.c.allocation_id == schema.allocations.c.id)
    .where(schema.members.c.person.in_(bindparam("people", expanding=True)))
    .order_by(schema.allocations.c.created_at_ms, schema.allocations.c.depth, schema.allocations.c.id)
)
_NAMES = select(schema.allocations.c.id, schema.allocations.c.name).where(
    schema.allocations.c.id.in_(bindparam("nodes", expanding=True))
)
_DOWN = schema.below_each_of(bindparam("tops", expanding=True))
_NAMES_BELOW = select(_DOWN.c.top, schema.allocations.c.id, schema.allocations.c.name).join(
    _DOWN, _DOWN.c.id == schema.allocations.c.id
)
_MEMBER = select(schema.members).where(
    schema.members.c.allocation_id == bindparam("node"), schema.members.c.person == bindparam("of_person")
)


def _allocation(row: Row[Any]) -> Allocation:
    return _to_allocation(dict(row._mapping))  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping


def _to_allocation(fields: dict[str, Any]) -> Allocation:
    fields["state"] = AllocationState(fields["state"])
    fields["award"] = Award.model_validate_json(fields["award"])
    fields["renewal"] = Award.model_validate_json(fields["renewal"]) if fields["renewal"] else None
    return Allocation(**fields)


def _member(row: Row[Any]) -> Member:
    fields = dict(row._mapping)  # noqa: SLF001  # as above
    fields["role"] = MemberRole(fields["role"])
    return Member(**fields)


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
                renewal=allocation.renewal.model_dump_json() if allocation.renewal else None,
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

    def with_ancestors(self, connection: Connection, allocation_ids: Iterable[str]) -> dict[str, Allocation]:
        """Return the allocations that exist and all above them, by id."""
        rows = connection.execute(_WITH_ANCESTORS, {"nodes": list(allocation_ids)})
        return {row.id: _allocation(row) for row in rows}

    def members_among(
        self, connection: Connection, allocation_ids: Iterable[str], people: Iterable[str]
    ) -> dict[tuple[str, str], Member]:
        """Return the places that people have in allocations, by (allocation, person)."""
        rows = connection.execute(_MEMBERS_AMONG, {"nodes": list(allocation_ids), "people": list(people)})
        return {(row.allocation_id, row.person): _member(row) for row in rows}

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

    def found(self, connection: Connection, wanted: str, start: int, count_max: int) -> tuple[list[Allocation], int]:
        """Return some of the allocations whose name, id, tier or state contains a text, oldest first, and their number.

        Case does not count; the others stay in the database.
        """
        columns = (
            schema.allocations.c.name,
            schema.allocations.c.id,
            schema.allocations.c.tier,
            schema.allocations.c.state,
        )
        contains = or_(*(column.icontains(wanted, autoescape=True) for column in columns))
        number = connection.execute(select(func.count()).select_from(schema.allocations).where(contains)).scalar_one()
        rows = connection.execute(
            select(schema.allocations)
            .where(contains)
            .order_by(schema.allocations.c.created_at_ms, schema.allocations.c.depth, schema.allocations.c.id)
            .offset(start)
            .limit(count_max)
        )
        return [_allocation(row) for row in rows], number

    def names(self, connection: Connection, allocation_ids: Iterable[str]) -> dict[str, str]:
        """Return the names of the allocations that exist, by id."""
        rows = connection.execute(_NAMES, {"nodes": list(allocation_ids)})
        return {row.id: row.name for row in rows}

    def names_below(self, connection: Connection, tops: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the names of allocations and of all below each, by the id of the former and their own."""
        found: dict[str, dict[str, str]] = {top: {} for top in tops}
        for top, node, name in connection.execute(_NAMES_BELOW, {"tops": list(found)}):
            found[top][node] = name
        return found

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

    def of_people(self, connection: Connection, people: Iterable[str]) -> dict[str, list[Allocation]]:
        """Return the allocations that people are members of, oldest first; nobody without any."""
        found: dict[str, list[Allocation]] = {}
        for row in connection.execute(_OF_PEOPLE, {"people": list(people)}):
            fields = dict(row._mapping)  # noqa: SLF001  # as above
            found.setdefault(fields.pop("person"), []).append(_to_allocation(fields))
        return found

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
            found.append((_to_allocation(fields), role))
        return found

    def add_member(self, connection: Connection, member: Member) -> None:
        """Insert a member."""
        connection.execute(
            insert(schema.members).values(
                allocation_id=member.allocation_id,
                person=member.person,
                role=member.role,
                joined_at_ms=member.joined_at_ms,
                servers_max=member.servers_max,
                cores_max=member.cores_max,
                gpus_max=member.gpus_max,
                microcredits_max=member.microcredits_max,
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
