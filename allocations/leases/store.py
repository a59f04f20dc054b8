"""Stores leases and holds; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, case, exists, func, insert, select, tuple_, update

from allocations.db import schema
from allocations.leases.models import Hold, Lease, LeaseKind, LeaseState
from allocations.leases.rules import InUse
from allocations.ledger.models import Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Row

_OPEN = schema.leases.c.state == LeaseState.OPEN

# Built once: making a statement costs more than running it.
_C = schema.leases.c
_IN_USE = (
    select(
        _C.root_id,
        _C.person,
        func.sum(case((_C.kind == LeaseKind.INTERACTIVE, 1), else_=0)),
        func.sum(_C.cores),
        func.sum(_C.gpus),
    )
    .where(_C.root_id.in_(bindparam("roots", expanding=True)), _OPEN)
    .group_by(_C.root_id, _C.person)
)
_ADD, _ADD_HOLDS = insert(schema.leases), insert(schema.holds)
_GET = select(schema.leases).where(_C.id == bindparam("lease"))
_LOCK = _GET.with_for_update()
_H = schema.holds.c
_OPEN_HOLDS = select(schema.holds).where(_H.lease_id == bindparam("lease"), _H.state == LeaseState.OPEN)
_END_HOLD = (
    update(schema.holds)
    .where(
        _H.lease_id == bindparam("lease"),
        _H.sequence == bindparam("of_sequence"),
        _H.unit == bindparam("of_unit"),
        _H.state == LeaseState.OPEN,
    )
    .values(state=bindparam("to_state"), charged=bindparam("now_charged"))
)
_AMOUNTS = (
    select(_H.lease_id, func.sum(case((_H.state == LeaseState.OPEN, _H.amount), else_=0)), func.sum(_H.charged))
    .where(_H.lease_id.in_(bindparam("leases", expanding=True)), _H.unit == Unit.CREDITS)
    .group_by(_H.lease_id)
)
_IS_MEMBER = exists().where(schema.members.c.allocation_id == _C.allocation_id, schema.members.c.person == _C.person)
_END_DEPARTED = (
    update(schema.leases)
    .where(_OPEN, _C.ends_at_ms > bindparam("now_ms"), ~_IS_MEMBER)
    .values(ends_at_ms=bindparam("now_ms"), final=True)
)
_CHANGE = update(schema.leases).where(_C.id == bindparam("lease"))


def _lease(row: Row[Any]) -> Lease:
    fields = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
    fields["kind"] = LeaseKind(fields["kind"])
    fields["state"] = LeaseState(fields["state"])
    return Lease(**fields)


class LeaseStore:
    """Leases and the holds that tile them."""

    def add(self, connection: Connection, leases: Sequence[Lease]) -> None:
        """Insert leases."""
        if leases:
            connection.execute(_ADD, [{name: getattr(lease, name) for name in lease.__slots__} for lease in leases])

    def add_holds(self, connection: Connection, holds: Sequence[Hold]) -> None:
        """Insert open holds."""
        if holds:
            connection.execute(
                _ADD_HOLDS,
                [
                    {**{name: getattr(hold, name) for name in hold.__slots__}, "charged": 0, "state": LeaseState.OPEN}
                    for hold in holds
                ],
            )

    def get(self, connection: Connection, lease_id: str, *, lock: bool = False) -> Lease | None:
        """Return a lease, locked against other writers when asked, or None."""
        row = connection.execute(_LOCK if lock else _GET, {"lease": lease_id}).one_or_none()
        return _lease(row) if row else None

    def change(self, connection: Connection, lease_id: str, **values: object) -> None:
        """Set columns of a lease."""
        connection.execute(_CHANGE, {"lease": lease_id, **values})

    def end_departed(self, connection: Connection, now_ms: int) -> int:
        """Set the end of open leases to now where the person is not a member any more; return how many."""
        ended = connection.execute(_END_DEPARTED, {"now_ms": now_ms})
        return int(ended.rowcount)

    def mark_seen(self, connection: Connection, lease_ids: Iterable[str], at_ms: int) -> None:
        """Note that the servers of leases were seen running."""
        connection.execute(
            update(schema.leases)
            .where(schema.leases.c.id.in_(list(lease_ids)), _OPEN)
            .values(seen_at_ms=at_ms, missing_since_ms=None)
        )

    def open_holds(self, connection: Connection, lease_id: str) -> list[Hold]:
        """Return the holds of a lease that have not ended, one for each unit."""
        rows = connection.execute(_OPEN_HOLDS, {"lease": lease_id})
        return [
            Hold(
                row.lease_id,
                row.sequence,
                Unit(row.unit),
                row.per_second,
                row.from_second,
                row.to_second,
                row.amount,
            )
            for row in rows
        ]

    def end_hold(self, connection: Connection, hold: Hold, state: LeaseState, charged: int) -> None:
        """Mark a hold as ended, once: the row must still be open."""
        ended = connection.execute(
            _END_HOLD,
            {
                "lease": hold.lease_id,
                "of_sequence": hold.sequence,
                "of_unit": hold.unit,
                "to_state": state,
                "now_charged": charged,
            },
        )
        assert ended.rowcount == 1, "a hold ends once"

    def lower_charges(self, connection: Connection, lease_id: str, unit: Unit, ran: int) -> None:
        """Lower what the lease's holds were charged to what is due for `ran` seconds."""
        rows = connection.execute(
            select(schema.holds).where(
                schema.holds.c.lease_id == lease_id,
                schema.holds.c.unit == unit,
                schema.holds.c.from_second + schema.holds.c.charged // schema.holds.c.per_second > ran,
                schema.holds.c.charged > 0,
            )
        ).all()
        for row in rows:
            connection.execute(
                update(schema.holds)
                .where(
                    schema.holds.c.lease_id == lease_id,
                    schema.holds.c.unit == unit,
                    schema.holds.c.sequence == row.sequence,
                )
                .values(charged=row.per_second * max(0, ran - row.from_second))
            )

    def in_use(self, connection: Connection, root_ids: Iterable[str]) -> dict[str, dict[str, InUse]]:
        """Count what is open on trees of allocations, by root and person."""
        found: dict[str, dict[str, InUse]] = {}
        for root_id, person, servers, cores, gpus in connection.execute(_IN_USE, {"roots": list(root_ids)}):
            found.setdefault(root_id, {})[person] = InUse(int(servers), int(cores), int(gpus))
        return found

    def open_leases(
        self, connection: Connection, *, person: str | None = None, kind: LeaseKind | None = None
    ) -> list[Lease]:
        """Return open leases, oldest first."""
        query = select(schema.leases).where(_OPEN).order_by(schema.leases.c.acquired_at_ms)
        if person is not None:
            query = query.where(schema.leases.c.person == person)
        if kind is not None:
            query = query.where(schema.leases.c.kind == kind)
        return [_lease(row) for row in connection.execute(query)]

    def open_on(self, connection: Connection, allocation_ids: Iterable[str]) -> list[Lease]:
        """Return the open leases on allocations, oldest first."""
        query = (
            select(schema.leases)
            .where(_OPEN, schema.leases.c.allocation_id.in_(list(allocation_ids)))
            .order_by(schema.leases.c.acquired_at_ms)
        )
        return [_lease(row) for row in connection.execute(query)]

    def page_of_person(
        self,
        connection: Connection,
        person: str,
        limit: int,
        *,
        before: Lease | None = None,
        **filters: str | None,
    ) -> list[Lease]:
        """Return a person's leases, newest first, after `before`; filters are columns and the values they must have."""
        query = select(schema.leases).where(_C.person == person)
        for column, value in filters.items():
            if value is not None:
                query = query.where(_C[column] == value)
        if before is not None:
            query = query.where(tuple_(_C.acquired_at_ms, _C.id) < (before.acquired_at_ms, before.id))
        query = query.order_by(_C.acquired_at_ms.desc(), _C.id.desc()).limit(limit)
        return [_lease(row) for row in connection.execute(query)]

    def amounts(self, connection: Connection, lease_ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return (held now, charged so far) in microcredits by lease."""
        rows = connection.execute(_AMOUNTS, {"leases": list(lease_ids)})
        return {row[0]: (int(row[1]), int(row[2])) for row in rows}
