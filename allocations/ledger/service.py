"""Moves amounts between the accounts of allocations, within the caller's transaction.

Invariants kept here (numbers as in the design):

1. WITHIN_LIMIT: posted + held <= limit at every node and unit when a hold is taken. The limit is checked by the very
   UPDATE that adds the hold, on each node of the path from the root down. Two holds could otherwise both read a free
   amount and both take it; the conditional update makes the second wait for the first and count again.
2. TRANSACTIONS_BALANCE: each journal row moves one amount from one account to another.
5. JOURNAL_REBUILDS_BALANCES: balances change only together with a journal row, in the same transaction.

Rows are locked along the path from the root to the leaf, always in this order, so that two holds cannot deadlock.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import and_, bindparam, insert, select, update

from allocations.db.schema import allocations, balances, journal
from allocations.errors import InsufficientBalanceError, UnknownAllocationError
from allocations.ledger.models import Account, Balance, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.ledger.models import Transaction

MICROCREDITS_PER_CREDIT = 1_000_000

# Built once: making a statement costs more than running it.
_HERE = and_(balances.c.allocation_id == bindparam("node"), balances.c.unit == bindparam("of_unit"))
_HOLD = (
    update(balances)
    .where(_HERE, balances.c.posted + balances.c.held + bindparam("amount") <= balances.c.limit_amount)
    .values(held=balances.c.held + bindparam("amount"))
)
_END_HOLD = (
    update(balances)
    .where(_HERE)
    .values(held=balances.c.held - bindparam("amount"), posted=balances.c.posted + bindparam("charged"))
)
_CHANGE_LIMIT = update(balances).where(_HERE).values(limit_amount=balances.c.limit_amount + bindparam("amount"))
_UNITS = select(balances.c.unit).where(balances.c.allocation_id == bindparam("node"))
_PARENT = select(allocations.c.parent_id).where(allocations.c.id == bindparam("node"))
_POST = insert(journal)
_ROW = select(balances).where(_HERE)


class Ledger:
    """The only writer of balances and of the journal."""

    def path(self, connection: Connection, allocation_id: str) -> list[str]:
        """Return the ids from the root down to the allocation; UnknownAllocationError when there is none."""
        path: list[str] = []
        node: str | None = allocation_id
        while node is not None:
            row = connection.execute(_PARENT, {"node": node}).one_or_none()
            if row is None:
                raise UnknownAllocationError(
                    f"There is no allocation {allocation_id!r}.", "Choose one of your own allocations."
                )
            path.append(node)
            node = row.parent_id
        return path[::-1]

    def open_account(self, connection: Connection, allocation_id: str, unit: Unit) -> None:
        """Begin to limit an allocation in a unit, at zero."""
        connection.execute(
            insert(balances).values(allocation_id=allocation_id, unit=unit, limit_amount=0, held=0, posted=0)
        )

    def change_limit(
        self, connection: Connection, transaction: Transaction, allocation_id: str, unit: Unit, amount: int
    ) -> None:
        """Raise (or, with a negative amount, lower) a limit. Lowering blocks new holds and rewrites nothing."""
        if amount == 0:
            return
        connection.execute(_CHANGE_LIMIT, {"node": allocation_id, "of_unit": unit, "amount": amount})
        source, target = (Account.BUDGET, Account.FREE) if amount > 0 else (Account.FREE, Account.BUDGET)
        self._post(connection, transaction, allocation_id, unit, [(source, target, abs(amount), None)])

    def hold(
        self,
        connection: Connection,
        transaction: Transaction,
        path: Sequence[str],
        amounts: Mapping[Unit, int],
    ) -> None:
        """Hold amounts at the last allocation of the path, counted at each ancestor.

        InsufficientBalanceError names the allocation that binds; the caller's transaction must then be rolled back.
        """
        for node in path:
            limited = set(connection.execute(_UNITS, {"node": node}).scalars()) if len(amounts) > 1 else None
            for unit in sorted(amounts):
                if limited is not None and unit not in limited:
                    continue
                taken = connection.execute(_HOLD, {"node": node, "of_unit": unit, "amount": amounts[unit]})
                if taken.rowcount == 0:
                    raise self._insufficient(connection, node, unit, amounts[unit], is_leaf=node == path[-1])
        for unit in sorted(amounts):
            self._post(connection, transaction, path[-1], unit, [(Account.FREE, Account.HELD, amounts[unit], None)])

    def end_hold(
        self,
        connection: Connection,
        transaction: Transaction,
        path: Sequence[str],
        unit: Unit,
        amount: int,
        charged: int,
        quantities: Mapping[str, int],
    ) -> None:
        """End a hold: post what is charged (<= amount), free the rest. `quantities` are the physical ones."""
        assert 0 <= charged <= amount, "a charge never exceeds its hold"
        for node in path:
            connection.execute(_END_HOLD, {"node": node, "of_unit": unit, "amount": amount, "charged": charged})
        self._post(
            connection,
            transaction,
            path[-1],
            unit,
            [
                (Account.HELD, Account.POSTED, charged, quantities),
                (Account.HELD, Account.FREE, amount - charged, None),
            ],
        )

    def refund(
        self,
        connection: Connection,
        transaction: Transaction,
        path: Sequence[str],
        unit: Unit,
        amount: int,
        quantities: Mapping[str, int],
    ) -> None:
        """Give back a part of what was posted. `quantities` are the physical ones that were not used."""
        for node in path:
            connection.execute(_END_HOLD, {"node": node, "of_unit": unit, "amount": 0, "charged": -amount})
        self._post(connection, transaction, path[-1], unit, [(Account.POSTED, Account.FREE, amount, quantities)])

    def balance(self, connection: Connection, allocation_id: str, unit: Unit = Unit.CREDITS) -> Balance:
        """Return the balance of one unit; KeyError when the allocation is not limited in it."""
        row = connection.execute(_ROW, {"node": allocation_id, "of_unit": unit}).one_or_none()
        if row is None:
            raise KeyError((allocation_id, unit))
        return Balance(allocation_id, unit, row.limit_amount, row.held, row.posted)

    def available(self, connection: Connection, path: Sequence[str], unit: Unit = Unit.CREDITS) -> int:
        """Return what a hold may take at most: the least that any node of the path has free."""
        rows = connection.execute(select(balances).where(balances.c.allocation_id.in_(path), balances.c.unit == unit))
        return min(int(row.limit_amount - row.held - row.posted) for row in rows)

    def lock(self, connection: Connection, path: Sequence[str]) -> None:
        """Lock the balances along a path, in the order in which holds lock them (SQLite's writer has them all)."""
        for node in path:
            connection.execute(
                select(balances.c.unit)
                .where(balances.c.allocation_id == node)
                .order_by(balances.c.unit)
                .with_for_update()
            ).all()

    def require_within_reach(
        self, connection: Connection, path: Sequence[str], amount: int, unit: Unit = Unit.CREDITS
    ) -> None:
        """Raise InsufficientBalanceError when the amount exceeds what will be left even after every hold is freed."""
        for node in path:
            balance = self.balance(connection, node, unit)
            if balance.posted + amount > balance.limit:
                raise self._insufficient(connection, node, unit, amount, is_leaf=node == path[-1])

    def _insufficient(
        self, connection: Connection, node: str, unit: Unit, amount: int, *, is_leaf: bool
    ) -> InsufficientBalanceError:
        balance = self.balance(connection, node, unit)
        name = connection.execute(select(allocations.c.name).where(allocations.c.id == node)).scalar_one()
        whose = f"“{name}”" if is_leaf else f"“{name}”, which this allocation is part of,"
        return InsufficientBalanceError(
            f"{whose} has {_amount(max(balance.available, 0), unit)} left; this needs {_amount(amount, unit)}.",
            "Choose a smaller size or a shorter time, stop what you no longer need, or request more.",
            "/services/allocations/requests/new",
        )

    def _post(
        self,
        connection: Connection,
        transaction: Transaction,
        allocation_id: str,
        unit: Unit,
        moves: Sequence[tuple[Account, Account, int, Mapping[str, int] | None]],
    ) -> None:
        rows = [
            {
                "transaction_id": transaction.id,
                "at_ms": transaction.at_ms,
                "kind": transaction.kind,
                "allocation_id": allocation_id,
                "unit": unit,
                "debit": source,
                "credit": target,
                "amount": amount,
                "lease_id": transaction.lease_id,
                "actor": transaction.actor,
                "quantities": json.dumps(quantities) if quantities is not None else None,
                "memo": transaction.memo,
                "policy_version": transaction.policy_version,
            }
            for source, target, amount, quantities in moves
            if amount > 0
        ]
        if rows:
            connection.execute(_POST, rows)


def _amount(amount: int, unit: Unit) -> str:
    if unit is Unit.CREDITS:
        # Every digit: rounded, what is left and what is needed could read the same.
        digits = f"{Decimal(amount) / MICROCREDITS_PER_CREDIT:,f}"
        return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits} credits"
    seconds_per_hour = 3600
    what = "core-hours" if unit is Unit.CORE_SECONDS else "GPU-hours"
    return f"{amount / seconds_per_hour:,.2f} {what}"
