"""What was charged to allocations, and to whom: the latest entries of the journal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import select

from allocations.clock import to_rfc3339
from allocations.db.schema import journal, leases
from allocations.leases.views import View
from allocations.ledger.models import Account

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.lifecycle.stores.allocations import AllocationStore

JOURNAL_PAGE = 50


class JournalEntryView(View):
    """A charge (or refund) with its physical quantities."""

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


def read_charges(
    connection: Connection, allocations: AllocationStore, allocation_ids: Sequence[str], person: str | None
) -> list[JournalEntryView]:
    """Return the latest charges on a set of allocations, of one person or of everybody, newest first."""
    charged = (journal.c.debit == Account.POSTED) | (journal.c.credit == Account.POSTED)
    query = (
        select(journal, leases.c.person, leases.c.kind.label("lease_kind"), leases.c.size)
        .join(leases, leases.c.id == journal.c.lease_id)
        .where(charged, journal.c.allocation_id.in_(list(allocation_ids)))
        .order_by(journal.c.id.desc())
        .limit(JOURNAL_PAGE)
    )
    if person is not None:
        query = query.where(leases.c.person == person)
    names: dict[str, str] = {}
    entries = []
    for row in connection.execute(query):
        if row.allocation_id not in names:
            allocation = allocations.get(connection, row.allocation_id)
            names[row.allocation_id] = allocation.name if allocation else ""
        sign = 1 if row.credit == Account.POSTED else -1
        quantities = json.loads(row.quantities) if row.quantities else {}
        entries.append(
            JournalEntryView(
                id=row.id,
                at=to_rfc3339(row.at_ms),
                kind=row.kind,
                allocation=row.allocation_id,
                allocation_name=names[row.allocation_id],
                lease=row.lease_id,
                person=row.person,
                lease_kind=row.lease_kind,
                size=row.size,
                unit=row.unit,
                amount=sign * row.amount,
                quantities={name: sign * value for name, value in quantities.items()},
            )
        )
    return entries
