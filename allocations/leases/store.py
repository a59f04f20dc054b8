"""Stores leases and holds; decides nothing."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, and_, bindparam, case, exists, func, literal_column, select, tuple_, update

from allocations.db import schema
from allocations.db.bulk import BulkInsert, BulkUpdate
from allocations.leases.models import Hold, Lease, LeaseKind, LeaseState
from allocations.leases.rules import InUse
from allocations.ledger.models import Unit
from allocations.lifecycle.models import RUNNING_STATES
from allocations.policy.models import RESCUE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Row

    from allocations.lifecycle.models import Member

_OPEN = schema.leases.c.state == LeaseState.OPEN
# In the order of the fields, so that a row needs no names to become a lease: the worker reads thousands.
_LEASE_NAMES = [one.name for one in fields(Lease)]
_LEASES = select(*(schema.leases.c[name] for name in _LEASE_NAMES))
_LEASE_FIELDS = len(_LEASE_NAMES)
_KIND, _STATE = _LEASE_NAMES.index("kind"), _LEASE_NAMES.index("state")
_KINDS, _STATES = ({str(one): one for one in kind} for kind in (LeaseKind, LeaseState))

# Built once: making a statement costs more than running it.
_C = schema.leases.c
# Others than the people who are asked about count together: a hot tree has thousands.
_WHO = case((_C.person.in_(bindparam("people", expanding=True)), _C.person)).label("who")
_IN_USE = (
    select(
        _C.root_id,
        _WHO,
        func.sum(case((_C.kind == LeaseKind.INTERACTIVE, 1), else_=0)),
        func.sum(_C.cores),
        func.sum(_C.gpus),
        func.sum(case((_C.kind == LeaseKind.INTERACTIVE, _C.cores), else_=0)),
    )
    .where(_C.root_id.in_(bindparam("roots", expanding=True)), _OPEN)
    .group_by(_C.root_id, _WHO)
)
_ADD, _ADD_HOLDS = BulkInsert(schema.leases), BulkInsert(schema.holds)
_GET = _LEASES.where(_C.id == bindparam("lease"))
_LOCK = _GET.with_for_update()
_H = schema.holds.c
_OPEN_HOLDS = select(schema.holds).where(_H.lease_id == bindparam("lease"), _H.state == LeaseState.OPEN)
_ALLOCATIONS = select(_C.allocation_id).distinct().where(_C.id.in_(bindparam("leases", expanding=True)))
_LOCK_WITH_HOLDS = (
    _LEASES.add_columns(_H.sequence, _H.unit, _H.per_second, _H.from_second, _H.to_second, _H.amount)
    .outerjoin(schema.holds, and_(_H.lease_id == _C.id, _H.state == LeaseState.OPEN))
    .where(_C.id.in_(bindparam("leases", expanding=True)))
    .order_by(_C.id, _H.unit)
    .with_for_update(of=schema.leases)
)
_LATER = schema.holds.alias("later").c
_IS_LAST = ~exists().where(_LATER.lease_id == _H.lease_id, _LATER.unit == _H.unit, _LATER.sequence > _H.sequence)
_ALL = schema.holds.alias("all_of_unit").c
_CHARGED = select(func.sum(_ALL.charged)).where(_ALL.lease_id == _H.lease_id, _ALL.unit == _H.unit).scalar_subquery()
_LAST_HOLDS = (
    select(schema.holds, _CHARGED.label("charged_in_all"))
    .where(_H.lease_id.in_(bindparam("leases", expanding=True)), _IS_LAST)
    .order_by(_H.lease_id, _H.unit)
)
_END_HOLDS = BulkUpdate(
    schema.holds, ["lease_id", "sequence", "unit"], ["state", "charged"], _H.state == literal_column("'open'")
)
# What accounting changes of a lease that it has locked.
_MOVED = (
    "state",
    "final",
    "started_at_ms",
    "ends_at_ms",
    "latest_end_at_ms",
    "seen_at_ms",
    "ended_at_ms",
    "end_reason",
    "moved_at_ms",
)
_SAVE = BulkUpdate(schema.leases, ["id"], _MOVED)
_AMOUNTS = (
    select(_H.lease_id, func.sum(case((_H.state == LeaseState.OPEN, _H.amount), else_=0)), func.sum(_H.charged))
    .where(_H.lease_id.in_(bindparam("leases", expanding=True)), _H.unit == Unit.CREDITS)
    .group_by(_H.lease_id)
)
# A rescue server is never renewed, which its owner is told as it is started.
_LAST_QUANTA = _LEASES.where(_OPEN, _C.final, _C.kind == LeaseKind.INTERACTIVE, _C.size != RESCUE).order_by(_C.id)
# By person and allocation: held now, and charged in all. A person has few leases beside all that an allocation has.
_SPENT = (
    select(
        _C.allocation_id,
        _C.person,
        func.sum(case((_H.state == LeaseState.OPEN, _H.amount), else_=0)),
        func.sum(_H.charged),
    )
    .join(schema.holds, _H.lease_id == _C.id)
    .where(
        _C.person.in_(bindparam("people", expanding=True)),
        _C.allocation_id.in_(bindparam("nodes", expanding=True)),
        _H.unit == Unit.CREDITS,
    )
    .group_by(_C.allocation_id, _C.person)
)
_NEXT = schema.leases.alias("next").c
_REPLACED_AT = (
    select(func.min(_NEXT.acquired_at_ms))
    .where(
        _NEXT.person == _C.person,
        _NEXT.acquired_at_ms > _C.acquired_at_ms,
        _NEXT.server_name == _C.server_name,
        _NEXT.kind == _C.kind,
    )
    .scalar_subquery()
)
_IS_MEMBER = exists().where(schema.members.c.allocation_id == _C.allocation_id, schema.members.c.person == _C.person)
# Those that another transaction has locked are left to the next look: waiting for several, in whatever order they
# are found, could be waiting for one that waits for this.
_DEPARTED = (
    select(_C.id).where(_OPEN, _C.ends_at_ms > bindparam("now_ms"), ~_IS_MEMBER).with_for_update(skip_locked=True)
)
_END_DEPARTED = update(schema.leases).where(_C.id.in_(_DEPARTED)).values(ends_at_ms=bindparam("now_ms"), final=True)
_STOPPED = schema.subtrees_of(schema.allocations.c.state.not_in(RUNNING_STATES))
_RUNNING_ON_STOPPED = (
    select(_C.id)
    .where(_OPEN, _C.ends_at_ms > bindparam("by_ms"), _C.allocation_id.in_(select(_STOPPED.c.id)))
    .with_for_update(skip_locked=True)
)
_END_STOPPED = (
    update(schema.leases).where(_C.id.in_(_RUNNING_ON_STOPPED)).values(ends_at_ms=bindparam("by_ms"), final=True)
)
_S = schema.suspensions.c
# A worker that was away stops late, but no lease ends before now: what has run is charged.
_NOW = bindparam("now_ms", type_=BigInteger)
_STOPS = select(case((_S.stops_at_ms > _NOW, _S.stops_at_ms), else_=_NOW))
_STOPS_AT = _STOPS.where(_S.person == _C.person, _S.lifted_at_ms.is_(None)).scalar_subquery()
_OF_SUSPENDED = (
    select(_C.id)
    .where(
        _OPEN,
        _C.person.in_(select(_S.person).where(_S.lifted_at_ms.is_(None))),
        _C.ends_at_ms > _STOPS_AT,
    )
    .with_for_update(skip_locked=True)
)
_END_SUSPENDED = update(schema.leases).where(_C.id.in_(_OF_SUSPENDED)).values(ends_at_ms=_STOPS_AT, final=True)
_FREE_AMONG = (
    select(_C.id).where(_C.id.in_(bindparam("leases", expanding=True)), _OPEN).with_for_update(skip_locked=True)
)
_NOTE = update(schema.leases).where(_C.id.in_(_FREE_AMONG))
_SEEN = _NOTE.values(seen_at_ms=bindparam("at_ms"), missing_since_ms=None)
_MISSING = _NOTE.values(missing_since_ms=bindparam("at_ms"))
_UNTIL = bindparam("until_ms", type_=BigInteger)
_EXTEND = (
    update(schema.leases)
    .where(_C.id == bindparam("lease"), _OPEN)
    .values(
        kept_at_ms=bindparam("at_ms"),
        # A longer session that was promised stays promised.
        latest_end_at_ms=case((_C.latest_end_at_ms < _UNTIL, _UNTIL), else_=_C.latest_end_at_ms),
    )
)


def _lease(row: Sequence[Any]) -> Lease:
    """Make a lease of a row that begins with its columns."""
    values = list(row[:_LEASE_FIELDS])
    values[_KIND] = _KINDS[values[_KIND]]
    values[_STATE] = _STATES[values[_STATE]]
    return Lease(*values)


def _hold(row: Row[Any]) -> Hold:
    unit = Unit(row.unit)
    return Hold(row.lease_id, row.sequence, unit, row.per_second, row.from_second, row.to_second, row.amount)


class LeaseStore:
    """Leases and the holds that tile them."""

    def add(self, connection: Connection, leases: Sequence[Lease]) -> None:
        """Insert leases."""
        _ADD.run(connection, [_stored(lease) for lease in leases])

    def add_holds(self, connection: Connection, holds: Sequence[Hold]) -> None:
        """Insert open holds."""
        _ADD_HOLDS.run(connection, [{**_stored(hold), "charged": 0, "state": LeaseState.OPEN} for hold in holds])

    def get(self, connection: Connection, lease_id: str, *, lock: bool = False) -> Lease | None:
        """Return a lease, locked against other writers when asked, or None."""
        row = connection.execute(_LOCK if lock else _GET, {"lease": lease_id}).one_or_none()
        return _lease(row) if row else None

    def allocations_of(self, connection: Connection, lease_ids: Iterable[str]) -> list[str]:
        """Return the allocations that leases are on, which never change."""
        return list(connection.execute(_ALLOCATIONS, {"leases": list(lease_ids)}).scalars())

    def locked_with_holds(
        self, connection: Connection, lease_ids: Iterable[str]
    ) -> dict[str, tuple[Lease, list[Hold]]]:
        """Return leases, locked in the order of their ids, each with its open holds: one for each unit."""
        found: dict[str, tuple[Lease, list[Hold]]] = {}
        for row in connection.execute(_LOCK_WITH_HOLDS, {"leases": list(lease_ids)}).all():
            lease_id = row[0]
            if lease_id not in found:
                found[lease_id] = (_lease(row), [])
            sequence, unit, *rest = row[_LEASE_FIELDS:]
            if sequence is not None:
                found[lease_id][1].append(Hold(lease_id, sequence, Unit(unit), *rest))
        return found

    def save(self, connection: Connection, leases: Iterable[Lease]) -> None:
        """Write what has changed of leases that are locked."""
        _SAVE.run(connection, [{"id": lease.id, **{name: getattr(lease, name) for name in _MOVED}} for lease in leases])

    def end_departed(self, connection: Connection, now_ms: int) -> int:
        """Set the end of open leases to now where the person is not a member any more; return how many."""
        ended = connection.execute(_END_DEPARTED, {"now_ms": now_ms})
        return int(ended.rowcount)

    def end_stopped(self, connection: Connection, by_ms: int) -> int:
        """Set the end of open leases that end later, on allocations that are stopped here or above; return how many."""
        ended = connection.execute(_END_STOPPED, {"by_ms": by_ms})
        return int(ended.rowcount)

    def end_suspended(self, connection: Connection, now_ms: int) -> int:
        """Set the end of suspended people's open leases to when these stop; return how many ended later."""
        ended = connection.execute(_END_SUSPENDED, {"now_ms": now_ms})
        return int(ended.rowcount)

    def mark_seen(self, connection: Connection, lease_ids: Iterable[str], at_ms: int) -> None:
        """Note that the servers of open leases were seen running."""
        connection.execute(_SEEN, {"leases": list(lease_ids), "at_ms": at_ms})

    def mark_missing(self, connection: Connection, lease_ids: Iterable[str], since_ms: int | None) -> None:
        """Note since when the servers of open leases are missing, None for not."""
        connection.execute(_MISSING, {"leases": list(lease_ids), "at_ms": since_ms})

    def extend(self, connection: Connection, lease_id: str, kept_at_ms: int, latest_end_at_ms: int) -> bool:
        """Note that a server is wanted, and let it last until `latest_end_at_ms` at least; False when it has ended."""
        values = {"lease": lease_id, "at_ms": kept_at_ms, "until_ms": latest_end_at_ms}
        extended = connection.execute(_EXTEND, values)
        return extended.rowcount == 1

    def open_holds(self, connection: Connection, lease_id: str) -> list[Hold]:
        """Return the holds of a lease that have not ended, one for each unit."""
        rows = connection.execute(_OPEN_HOLDS, {"lease": lease_id})
        return [_hold(row) for row in rows]

    def charged_to(self, connection: Connection, lease_ids: Sequence[str]) -> dict[str, list[tuple[Hold, int]]]:
        """Return the last hold of each unit of leases that have ended, and up to which second that unit is charged.

        Holds tile what was charged from the first second on.
        """
        found: dict[str, list[tuple[Hold, int]]] = {lease_id: [] for lease_id in lease_ids}
        for row in connection.execute(_LAST_HOLDS, {"leases": list(lease_ids)}) if lease_ids else ():
            found[row.lease_id].append((_hold(row), int(row.charged_in_all) // row.per_second))
        return found

    def end_holds(self, connection: Connection, ended: Sequence[tuple[Hold, LeaseState, int]]) -> None:
        """Mark holds as ended, each once, with the state and the charge: their rows must still be open."""
        rows = [
            {
                "lease_id": hold.lease_id,
                "sequence": hold.sequence,
                "unit": hold.unit,
                "state": state,
                "charged": charged,
            }
            for hold, state, charged in ended
        ]
        assert _END_HOLDS.run(connection, rows) == len(rows), "a hold ends once"

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

    def in_use(
        self, connection: Connection, root_ids: Iterable[str], people: Iterable[str]
    ) -> dict[str, dict[str | None, InUse]]:
        """Count what is open on trees of allocations, by root and person; that of all others together under None."""
        found: dict[str, dict[str | None, InUse]] = {}
        for root_id, person, *counts in connection.execute(_IN_USE, {"roots": list(root_ids), "people": list(people)}):
            found.setdefault(root_id, {})[person] = InUse(*map(int, counts))
        return found

    def spent_by(self, connection: Connection, members: Iterable[Member]) -> dict[tuple[str, str], tuple[int, int]]:
        """Return (held now, charged in all) in microcredits by (allocation, person), of those with a cap on it.

        Locked balances keep it as it is: whatever is held or charged on a tree waits for them.
        """
        capped = [(one.allocation_id, one.person) for one in members if one.microcredits_max is not None]
        if not capped:
            return {}
        nodes, people = zip(*capped, strict=True)
        rows = connection.execute(_SPENT, {"nodes": list(set(nodes)), "people": list(set(people))})
        found = {(row[0], row[1]): (int(row[2]), int(row[3])) for row in rows}
        return {place: found.get(place, (0, 0)) for place in capped}

    def open_leases(
        self, connection: Connection, *, person: str | None = None, kind: LeaseKind | None = None
    ) -> list[Lease]:
        """Return open leases, oldest first."""
        query = _LEASES.where(_OPEN).order_by(schema.leases.c.acquired_at_ms)
        if person is not None:
            query = query.where(schema.leases.c.person == person)
        if kind is not None:
            query = query.where(schema.leases.c.kind == kind)
        return [_lease(row) for row in connection.execute(query).all()]

    def open_page(
        self, connection: Connection, limit: int, *, after_id: str, kind: LeaseKind | None = None
    ) -> list[tuple[Lease, int | None]]:
        """Return open leases by their ids, from after `after_id` on, each with when its server got the next."""
        query = _LEASES.add_columns(_REPLACED_AT).where(_OPEN, _C.id > after_id).order_by(_C.id).limit(limit)
        if kind is not None:
            query = query.where(_C.kind == kind)
        return [(_lease(row), row[_LEASE_FIELDS]) for row in connection.execute(query).all()]

    def ending(self, connection: Connection, by_ms: int, *, kind: LeaseKind | None = None) -> list[Lease]:
        """Return the open leases that end by a time, oldest first."""
        query = _LEASES.where(_OPEN, _C.ends_at_ms <= by_ms).order_by(_C.acquired_at_ms)
        if kind is not None:
            query = query.where(_C.kind == kind)
        return [_lease(row) for row in connection.execute(query).all()]

    def last_quanta(self, connection: Connection) -> list[Lease]:
        """Return the interactive leases that are open and will not be renewed."""
        return [_lease(row) for row in connection.execute(_LAST_QUANTA)]

    def open_on(self, connection: Connection, allocation_ids: Iterable[str]) -> list[Lease]:
        """Return the open leases on allocations, oldest first."""
        query = _LEASES.where(_OPEN, schema.leases.c.allocation_id.in_(list(allocation_ids))).order_by(
            schema.leases.c.acquired_at_ms
        )
        return [_lease(row) for row in connection.execute(query).all()]

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
        query = _LEASES.where(_C.person == person)
        for column, value in filters.items():
            if value is not None:
                query = query.where(_C[column] == value)
        if before is not None:
            query = query.where(tuple_(_C.acquired_at_ms, _C.id) < (before.acquired_at_ms, before.id))
        query = query.order_by(_C.acquired_at_ms.desc(), _C.id.desc()).limit(limit)
        return [_lease(row) for row in connection.execute(query).all()]

    def amounts(self, connection: Connection, lease_ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return (held now, charged so far) in microcredits by lease."""
        rows = connection.execute(_AMOUNTS, {"leases": list(lease_ids)})
        return {row[0]: (int(row[1]), int(row[2])) for row in rows}


def _stored(one: Lease | Hold) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}
