"""What the ledger has of storage: whether days and journal agree, and what was charged and is owed by area."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, func, literal, or_, select, union_all

from allocations.db.schema import journal, storage_areas, storage_charges, storage_days
from allocations.ledger.models import TransactionKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection

BYTES_PER_GB = 1_000_000_000
_NOTHING: ColumnElement[int] = literal(0, BigInteger, literal_execute=True)
_OF_DAY = (storage_charges.c.area_id == storage_days.c.area_id) & (storage_charges.c.day == storage_days.c.day)


@dataclass(frozen=True, slots=True)
class StorageCharged:
    """What allocations were charged for an area, and owe for it, in microcredits, over so many days (UTC).

    `byte_days` adds up what the area took on each.
    """

    area: str
    storage_class: str
    owner: str
    days: int
    charged: int
    owed: int
    byte_days: int


@dataclass(frozen=True, slots=True)
class StorageCharge:
    """What a transaction charged an area for: its class, and whose it is (None: an allocation's)."""

    storage_class: str
    person: str | None


def storage_charges_of(connection: Connection, transaction_ids: Sequence[str]) -> dict[str, StorageCharge]:
    """Return what transactions charged for storage, by their ids; each charges one area."""
    rows = connection.execute(
        select(storage_charges.c.transaction_id, storage_areas.c.storage_class, storage_areas.c.person)
        .join_from(storage_charges, storage_areas, storage_areas.c.id == storage_charges.c.area_id)
        .where(storage_charges.c.transaction_id.in_(list(transaction_ids)))
        .distinct()
    )
    return {row.transaction_id: StorageCharge(row.storage_class, row.person) for row in rows}


def charged_for_storage(connection: Connection, payers: Sequence[str]) -> list[StorageCharged]:
    """Return what allocations were charged for storage, area by area."""
    rows = connection.execute(
        select(
            storage_areas.c.id,
            storage_areas.c.storage_class,
            func.coalesce(storage_areas.c.person, storage_areas.c.allocation_id).label("owner"),
            func.count().label("days"),
            func.sum(storage_days.c.charged_microcredits).label("charged"),
            func.sum(storage_days.c.due_microcredits).label("due"),
            func.sum(storage_days.c.bytes).label("byte_days"),
        )
        .join(storage_days, storage_days.c.area_id == storage_areas.c.id)
        .where(storage_days.c.allocation_id.in_(list(payers)), storage_days.c.due_microcredits.is_not(None))
        .group_by(storage_areas.c.number, storage_areas.c.id)
        .order_by(storage_areas.c.number)
    )
    return [
        StorageCharged(
            row.id,
            row.storage_class,
            row.owner,
            row.days,
            int(row.charged),
            int(row.due - row.charged),
            int(row.byte_days),
        )
        for row in rows
    ]


def storage_differences(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield (subject, what differs) where days, their charges and the journal do not agree, or more was charged than
    was due."""
    yield from _days_that_differ(connection)
    yield from _transactions_that_differ(connection)


def _days_that_differ(connection: Connection) -> Iterator[tuple[str, str]]:
    by_day = (
        select(storage_charges.c.area_id, storage_charges.c.day, func.sum(storage_charges.c.amount).label("charged"))
        .group_by(storage_charges.c.area_id, storage_charges.c.day)
        .subquery()
    )
    charged = func.coalesce(by_day.c.charged, 0)
    price = storage_days.c.microcredits_per_gb_day
    # Bytes by the price may be more than 64 bits hold: whole GB and the rest by themselves.
    most = (storage_days.c.bytes // BYTES_PER_GB) * price + (
        storage_days.c.bytes % BYTES_PER_GB
    ) * price // BYTES_PER_GB
    rows = connection.execute(
        select(storage_days, charged.label("by_transactions"))
        .outerjoin(by_day, (by_day.c.area_id == storage_days.c.area_id) & (by_day.c.day == storage_days.c.day))
        .where(
            or_(
                storage_days.c.charged_microcredits != charged,
                storage_days.c.charged_microcredits > func.coalesce(storage_days.c.due_microcredits, 0),
                storage_days.c.due_microcredits > most,
            )
        )
        .order_by(storage_days.c.area_id, storage_days.c.day)
    )
    for row in rows:
        yield (
            f"{row.area_id} day {row.day}",
            (
                f"charged {row.charged_microcredits}, by transactions {row.by_transactions}, due {row.due_microcredits}"
                f" for {row.bytes} bytes at {row.microcredits_per_gb_day} a GB"
            ),
        )


def _transactions_that_differ(connection: Connection) -> Iterator[tuple[str, str]]:
    """Compare what each transaction moved with the days that it is said to have charged, payer by payer."""
    both = union_all(
        select(
            journal.c.transaction_id, journal.c.allocation_id, journal.c.amount.label("moved"), _NOTHING.label("days")
        ).where(journal.c.kind == TransactionKind.STORAGE),
        select(
            storage_charges.c.transaction_id, storage_days.c.allocation_id, _NOTHING, storage_charges.c.amount
        ).join_from(storage_charges, storage_days, _OF_DAY),
    ).subquery()
    moved, of_days = func.sum(both.c.moved), func.sum(both.c.days)
    rows = connection.execute(
        select(both.c.transaction_id, both.c.allocation_id, moved.label("moved"), of_days.label("of_days"))
        .group_by(both.c.transaction_id, both.c.allocation_id)
        .having(moved != of_days)
        .order_by(both.c.transaction_id)
    )
    for row in rows:
        yield f"{row.transaction_id} {row.allocation_id}", f"the journal charged {row.moved}, days say {row.of_days}"
