"""Charges areas by the day: each day that is over is assessed once, and collected as far as balances go.

Invariants kept here (numbers as in the design):

1. WITHIN_LIMIT: the balances along the payer's path are locked before what is left of them is read; the ledger itself
   refuses to charge more.
9. STORAGE_DAY_ONCE: a day is assessed by the update that finds it not assessed. What is charged of it is read, and
   written with the journal, while its payer's balances and the day itself are locked: two that collect at once would
   otherwise both see the same to be owed.

All of it may be done again at any time, by several at once, and be broken off anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, SECONDS_PER_DAY
from allocations.ledger.models import Account, Movement, Transaction, TransactionKind, Unit
from allocations.lifecycle.authority import PLATFORM
from allocations.lifecycle.models import AllocationState
from allocations.storage.models import PAYING_STATES, due_microcredits, payer_of_home

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy
    from allocations.storage.models import Day, Owner, StoredArea
    from allocations.storage.store import StorageStore

# Days that one transaction assesses, so that nobody waits for long.
DAYS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class AccrualService:
    """The one way in which storage is charged; `home_bytes` is the largest home that each tier gives."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    ledger: Ledger
    allocations: AllocationStore
    store: StorageStore
    home_bytes: Mapping[str, int]

    def assess(self) -> int:
        """Assess every day that is over; return how many were."""
        assessed = 0
        while True:
            with self.database.write() as connection:
                today = self.clock.now_ms() // MS_PER_DAY
                days = self.store.unassessed(connection, today, DAYS_AT_ONCE)
                payers: dict[Owner, str | None] = {}
                for area, day in days:
                    if area.owner not in payers:
                        payers[area.owner] = self._payer(connection, area.owner)
                    assessed += self._assess(connection, area, day, payers[area.owner])
            if len(days) < DAYS_AT_ONCE:
                return assessed

    def collect(self) -> int:
        """Charge what is owed as far as balances go; return the microcredits."""
        with self.database.read() as connection:
            owing = self.store.owing(connection)
        collected = 0
        for payer in owing:
            with self.database.write() as connection:
                collected += self._collect(connection, payer)
        return collected

    # ------------------------------------------------------------------ inside

    def _payer(self, connection: Connection, owner: Owner) -> str | None:
        if owner.person is not None:
            of_person = [one for one, _ in self.allocations.of_person(connection, owner.person)]
            payer = payer_of_home(of_person, self.home_bytes)
            return payer.id if payer else None
        assert owner.allocation_id is not None, "an area has an owner"
        allocation = self.allocations.get(connection, owner.allocation_id)
        return allocation.id if allocation and allocation.state in PAYING_STATES else None

    def _assess(self, connection: Connection, area: StoredArea, day: Day, payer: str | None) -> bool:
        price = self._price(area, day)
        due = due_microcredits(day.bytes, price) if payer is not None else 0
        return self.store.assess(connection, day, payer, price, due, self.policy.version)

    def _price(self, area: StoredArea, day: Day) -> int:
        """Return microcredits for a GB on that day: by the prices in force at its beginning."""
        try:
            prices = self.policy.prices_at(datetime.fromtimestamp(day.day * SECONDS_PER_DAY, tz=UTC))
        except ValueError:
            return 0
        return prices.microcredits_per_gb_day.get(area.storage_class.value, 0)

    def _collect(self, connection: Connection, payer: str) -> int:
        path = self.ledger.path(connection, payer)
        self.ledger.lock(connection, path)
        allocation = self.allocations.get(connection, payer)
        if allocation is None or allocation.state is AllocationState.CLOSED:
            return 0
        left = self.ledger.available(connection, path)
        amounts: list[tuple[StoredArea, Day, int]] = []
        for area, day in self.store.owed(connection, payer):
            amount = min(day.owed_microcredits, left)
            if amount <= 0:
                break
            left -= amount
            amounts.append((area, day, amount))
        by_area = sorted(amounts, key=lambda one: (one[0].number, one[1].day))
        for area, charged in groupby(by_area, key=lambda one: one[0]):
            self._charge(connection, path, area, [(day, amount) for _, day, amount in charged])
        return sum(amount for _, _, amount in amounts)

    def _charge(
        self, connection: Connection, path: Sequence[str], area: StoredArea, charged: Sequence[tuple[Day, int]]
    ) -> None:
        transaction = Transaction(
            id=self.new_id("tx"),
            at_ms=self.clock.now_ms(),
            kind=TransactionKind.STORAGE,
            actor=area.owner.person or PLATFORM,
            policy_version=self.policy.version,
            memo=_memo(area, [day for day, _ in charged]),
        )
        total = sum(amount for _, amount in charged)
        # Of a day that is charged in parts, as the balance goes, each part has its share of the bytes, rounded down.
        byte_days = sum(day.bytes * amount // (day.due_microcredits or 1) for day, amount in charged)
        charge = Movement(
            transaction, path, Unit.CREDITS, Account.FREE, Account.POSTED, total, {"byte_days": byte_days}
        )
        self.ledger.move(connection, [charge])
        for day, amount in charged:
            self.store.charge(connection, day, transaction.id, amount)


def _memo(area: StoredArea, days: Sequence[Day]) -> str:
    whose = area.owner.person or area.owner.allocation_id
    first, last = (datetime.fromtimestamp(day.day * SECONDS_PER_DAY, tz=UTC).date() for day in (days[0], days[-1]))
    when = f"{first}" if first == last else f"{first} to {last}"
    return f"{area.storage_class} of {whose}, {when}"
