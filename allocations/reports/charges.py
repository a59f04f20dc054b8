"""What was charged to allocations, and to whom: the latest entries of the journal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, or_, select, text, true

from allocations.clock import to_rfc3339
from allocations.db.schema import allocations, daily_use, journal, leases
from allocations.leases.views import View
from allocations.ledger.models import Account, TransactionKind, Unit
from allocations.ledger.storage import storage_charges_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from allocations.db.database import Database
    from allocations.ledger.storage import StorageCharge
    from allocations.lifecycle.models import Allocation

JOURNAL_PAGE = 50
JOURNAL_LOT = 1_000
# In these very words the indexes of charges are found, on both databases.
_CHARGED = text("(debit = 'posted' OR credit = 'posted')")
_STORAGE = text("(journal.kind = 'storage')")
# The latest of some allocations together are among the latest of each, which its index has at its end: so many are
# read of each, however many charges it has. Each database knows a way of its own to say that.
_latest = journal.alias("latest")
_OF_EACH = (
    select(_latest.c.id)
    .where(_latest.c.allocation_id == allocations.c.id, _CHARGED)
    .order_by(_latest.c.id.desc())
    .limit(JOURNAL_PAGE)
)
_AMONG = allocations.c.id.in_(bindparam("nodes", expanding=True))
_of_each = _OF_EACH.lateral("of_each")
_LATEST = (
    select(_of_each.c.id)
    .select_from(allocations.join(_of_each, true()))
    .where(_AMONG)
    .order_by(_of_each.c.id.desc())
    .limit(JOURNAL_PAGE)
)
_found = journal.alias("found")
_LATEST_ON_SQLITE = (
    select(_found.c.id)
    .select_from(allocations.join(_found, _found.c.id.in_(_OF_EACH.correlate(allocations))))
    .where(_AMONG)
    .order_by(_found.c.id.desc())
    .limit(JOURNAL_PAGE)
)
_NODES_OF = (
    select(daily_use.c.allocation_id)
    .distinct()
    .where(
        daily_use.c.person == bindparam("of_person"), daily_use.c.allocation_id.in_(bindparam("nodes", expanding=True))
    )
)


class JournalEntryView(View):
    """A charge (or refund) with its physical quantities.

    What ran has a `lease`; what was kept has a class of `storage` instead, and `byte_days` (bytes by the days that they
    were kept) among its quantities. Storage of a whole allocation has no `person`.
    """

    id: int
    at: str
    kind: str
    allocation: str
    allocation_name: str
    lease: str | None
    person: str | None
    lease_kind: str | None
    size: str | None
    unit: str
    amount: int
    quantities: dict[str, int]
    storage: str | None = None


def _charges() -> Select[Any]:
    return select(journal, leases.c.person, leases.c.kind.label("lease_kind"), leases.c.size).outerjoin(
        leases, leases.c.id == journal.c.lease_id
    )


def _of(person: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """What ran in a person's name, and what was kept in a home of theirs."""
    return leases.c.person == person, and_(_STORAGE, journal.c.actor == person)


def read_charges(connection: Connection, names: Mapping[str, str], person: str | None) -> list[JournalEntryView]:
    """Return the latest charges on allocations (their names by id), of one person or of everybody, newest first."""
    query = _charges().order_by(journal.c.id.desc()).limit(JOURNAL_PAGE)
    if person is None:
        latest = _LATEST_ON_SQLITE if connection.dialect.name == "sqlite" else _LATEST
        rows = list(connection.execute(query.where(journal.c.id.in_(latest)), {"nodes": list(names)}))
    else:
        # What ran and what was kept have indexes of their own.
        query = query.where(_CHARGED, journal.c.allocation_id.in_(list(names)))
        rows = [row for of in _of(person) for row in connection.execute(query.where(of))]
        rows = sorted(rows, key=lambda row: -row.id)[:JOURNAL_PAGE]
    stored = _stored(connection, rows)
    return [_entry(row, names[row.allocation_id], stored) for row in rows]


def read_all_charges(database: Database, nodes: Sequence[Allocation], person: str | None) -> Iterator[JournalEntryView]:
    """Read every charge in credits on some allocations, one after the other, of one person or of everybody.

    Each lot goes on in the index where the last one ended, so that the next costs what the first did. Nodes on which
    nothing was charged to somebody are passed over.
    """
    query = _charges().where(_CHARGED, journal.c.unit == Unit.CREDITS).order_by(journal.c.id).limit(JOURNAL_LOT)
    if person is not None:
        query = query.where(or_(*_of(person)))
        with database.read() as connection:
            theirs = set(
                connection.execute(_NODES_OF, {"of_person": person, "nodes": [node.id for node in nodes]}).scalars()
            )
        nodes = [node for node in nodes if node.id in theirs]
    for node in nodes:
        last = 0
        while True:
            with database.read() as connection:
                lot = connection.execute(query.where(journal.c.allocation_id == node.id, journal.c.id > last)).all()
                stored = _stored(connection, lot)
            for row in lot:
                yield _entry(row, node.name, stored)
            if len(lot) < JOURNAL_LOT:
                break
            last = lot[-1].id


def _stored(connection: Connection, rows: Sequence[Row[Any]]) -> dict[str, StorageCharge]:
    kept = [row.transaction_id for row in rows if row.kind == TransactionKind.STORAGE]
    return storage_charges_of(connection, kept) if kept else {}


def _entry(row: Row[Any], allocation_name: str, stored: Mapping[str, StorageCharge]) -> JournalEntryView:
    sign = 1 if row.credit == Account.POSTED else -1
    quantities = json.loads(row.quantities) if row.quantities else {}
    storage = stored.get(row.transaction_id) if row.kind == TransactionKind.STORAGE else None
    return JournalEntryView(
        id=row.id,
        at=to_rfc3339(row.at_ms),
        kind=row.kind,
        allocation=row.allocation_id,
        allocation_name=allocation_name,
        lease=row.lease_id,
        person=storage.person if storage else row.person,
        storage=storage.storage_class if storage else None,
        lease_kind=row.lease_kind,
        size=row.size,
        unit=row.unit,
        amount=sign * row.amount,
        quantities={name: sign * value for name, value in quantities.items()},
    )
