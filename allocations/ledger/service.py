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
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, insert, select, update

from allocations.db.schema import allocations, balances, journal, paths_of
from allocations.errors import InsufficientBalanceError, UnknownAllocationError
from allocations.ledger.models import Account, Balance, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.ledger.models import Holding, Transaction

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
_UNITS = select(balances.c.allocation_id, balances.c.unit).where(
    balances.c.allocation_id.in_(bindparam("nodes", expanding=True))
)
_UP = paths_of(bindparam("nodes", expanding=True))
_NODES = (
    select(balances)
    .join(allocations, allocations.c.id == balances.c.allocation_id)
    .where(balances.c.allocation_id.in_(select(_UP.c.id)))
    .order_by(allocations.c.root_id, allocations.c.depth, balances.c.allocation_id, balances.c.unit)
)
_LOCK_NODES = _NODES.with_for_update(of=balances)
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
        self._post(connection, _rows(transaction, allocation_id, unit, [(source, target, abs(amount), None)]))

    def balances(self, connection: Connection, nodes: Iterable[str], *, lock: bool) -> dict[tuple[str, Unit], Balance]:
        """Return every balance of allocations and of all above them, locked from the root down when asked.

        Only those that write lock, and all of them lock in this order, so that none waits for one that waits for it.
        """
        rows = connection.execute(_LOCK_NODES if lock else _NODES, {"nodes": list(nodes)})
        return {
            (row.allocation_id, Unit(row.unit)): Balance(
                row.allocation_id, Unit(row.unit), row.limit_amount, row.held, row.posted
            )
            for row in rows
        }

    def hold(self, connection: Connection, holdings: Sequence[Holding]) -> None:
        """Hold amounts, each at the last allocation of its path, counted at each ancestor that is limited in the unit.

        InsufficientBalanceError names the allocation that binds; the caller's transaction must then be rolled back.
        """
        sums: dict[tuple[str, Unit], int] = defaultdict(int)
        order: dict[str, bool] = {}
        for holding in holdings:
            for node in holding.path:
                order[node] = node == holding.path[-1]
                for unit, amount in holding.amounts.items():
                    sums[node, unit] += amount
        # Admission holds credits and, now and then, another unit that not every node is limited in.
        limited = self._limited(connection, order) if any(len(one.amounts) > 1 for one in holdings) else None
        for (node, unit), amount in sums.items():
            if limited is not None and (node, unit) not in limited:
                continue
            taken = connection.execute(_HOLD, {"node": node, "of_unit": unit, "amount": amount})
            if taken.rowcount == 0:
                name = connection.execute(select(allocations.c.name).where(allocations.c.id == node)).scalar_one()
                raise insufficient(self.balance(connection, node, unit), amount, name, is_leaf=order[node])
        self._post(
            connection,
            [
                row
                for holding in holdings
                for unit, amount in sorted(holding.amounts.items())
                for row in _rows(
                    holding.transaction, holding.path[-1], unit, [(Account.FREE, Account.HELD, amount, None)]
                )
            ],
        )

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
        moves = [
            (Account.HELD, Account.POSTED, charged, quantities),
            (Account.HELD, Account.FREE, amount - charged, None),
        ]
        self._post(connection, _rows(transaction, path[-1], unit, moves))

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
        moves = [(Account.POSTED, Account.FREE, amount, quantities)]
        self._post(connection, _rows(transaction, path[-1], unit, moves))

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
                name = connection.execute(select(allocations.c.name).where(allocations.c.id == node)).scalar_one()
                raise insufficient(balance, amount, name, is_leaf=node == path[-1])

    def _limited(self, connection: Connection, nodes: Iterable[str]) -> set[tuple[str, str]]:
        rows = connection.execute(_UNITS, {"nodes": list(nodes)})
        return {(row.allocation_id, row.unit) for row in rows}

    def _post(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        if rows:
            connection.execute(_POST, rows)


def _rows(
    transaction: Transaction,
    allocation_id: str,
    unit: Unit,
    moves: Sequence[tuple[Account, Account, int, Mapping[str, int] | None]],
) -> list[dict[str, Any]]:
    return [
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


def insufficient(balance: Balance, amount: int, name: str, *, is_leaf: bool) -> InsufficientBalanceError:
    """Return the error of a hold that the balance of the named allocation does not allow."""
    whose = f"“{name}”" if is_leaf else f"“{name}”, which this allocation is part of,"
    left = _amount(max(balance.available, 0), balance.unit)
    return InsufficientBalanceError(
        f"{whose} has {left} left; this needs {_amount(amount, balance.unit)}.",
        "Choose a smaller size or a shorter time, stop what you no longer need, or request more.",
        "/services/allocations/requests/new",
    )


def _amount(amount: int, unit: Unit) -> str:
    if unit is Unit.CREDITS:
        # Every digit: rounded, what is left and what is needed could read the same.
        digits = f"{Decimal(amount) / MICROCREDITS_PER_CREDIT:,f}"
        return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits} credits"
    seconds_per_hour = 3600
    what = "core-hours" if unit is Unit.CORE_SECONDS else "GPU-hours"
    return f"{amount / seconds_per_hour:,.2f} {what}"
