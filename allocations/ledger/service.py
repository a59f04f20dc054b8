"""Moves amounts between the accounts of allocations, within the caller's transaction.

Invariants kept here (numbers as in the design):

1. WITHIN_LIMIT: posted + held <= limit at every node and unit when a hold is taken, or what is free is charged without
   one. The limit is checked by the very UPDATE that adds it, on each node of the path from the root down. Two could
   otherwise both read a free amount and both take it; the conditional update makes the second wait for the first and
   count again.
2. HELD_IS_OPEN_HOLDS: a hold counts at every node of its path when it is taken and when it ends; each journal row
   moves one amount from one account to another, so that every transaction balances.
3. HOLD_ENDS_ONCE: what ends a hold frees the whole of it and posts at most as much; `leases` sees that it ends once.
5. JOURNAL_REBUILDS_BALANCES: balances change only together with a journal row, in the same transaction; an account
   that is opened late begins with what the journal has of its subtree.

Rows are locked along the path from the root to the leaf and, of one node, in the order of units, always in this order,
so that two transactions cannot deadlock: what moves several units locks them all before it moves the first.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, and_, bindparam, func, insert, or_, select, true, union_all, update

from allocations.db.bulk import BulkInsert
from allocations.db.schema import allocations, balances, journal, paths_of, subtrees_of
from allocations.errors import InsufficientBalanceError, UnknownAllocationError
from allocations.ledger.models import Account, Balance, Movement, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.ledger.models import Transaction

MICROCREDITS_PER_CREDIT = 1_000_000

# Built once: making a statement costs more than running it.
_HERE = and_(balances.c.allocation_id == bindparam("node"), balances.c.unit == bindparam("of_unit"))
_USED_THEN = balances.c.posted + balances.c.held + bindparam("more_held") + bindparam("more_posted")
_MOVE = (
    update(balances)
    .where(_HERE, or_(bindparam("freely", type_=Boolean) == true(), balances.c.limit_amount >= _USED_THEN))
    .values(held=balances.c.held + bindparam("more_held"), posted=balances.c.posted + bindparam("more_posted"))
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
_POST = BulkInsert(journal)
_BELOW = subtrees_of(allocations.c.id == bindparam("node"))
_MOVES = union_all(
    *(
        select(account.label("account"), (sign * journal.c.amount).label("amount")).where(
            journal.c.allocation_id.in_(select(_BELOW.c.id)),
            journal.c.unit == bindparam("of_unit"),
            account.in_([Account.HELD, Account.POSTED]),
        )
        for account, sign in ((journal.c.debit, -1), (journal.c.credit, 1))
    )
).subquery()
_USED = select(_MOVES.c.account, func.sum(_MOVES.c.amount).label("amount")).group_by(_MOVES.c.account)
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

    def open_account(self, connection: Connection, transaction: Transaction, allocation_id: str, unit: Unit) -> None:
        """Begin to limit an allocation in a unit, with what its subtree has used of it and a limit of just as much.

        A part may have been limited in the unit before the whole was: what it holds and has spent counts above it from
        now on, and what is granted next is all still to be used. The caller has locked the root's balance: nothing in
        the tree moves in several units meanwhile, and credits are never opened late.
        """
        used = {
            row.account: int(row.amount) for row in connection.execute(_USED, {"node": allocation_id, "of_unit": unit})
        }
        held, posted = used.get(Account.HELD, 0), used.get(Account.POSTED, 0)
        connection.execute(
            insert(balances).values(allocation_id=allocation_id, unit=unit, limit_amount=0, held=held, posted=posted)
        )
        self.change_limit(connection, transaction, allocation_id, unit, held + posted)

    def change_limit(
        self, connection: Connection, transaction: Transaction, allocation_id: str, unit: Unit, amount: int
    ) -> None:
        """Raise (or, with a negative amount, lower) a limit. Lowering blocks new holds and rewrites nothing."""
        if amount == 0:
            return
        connection.execute(_CHANGE_LIMIT, {"node": allocation_id, "of_unit": unit, "amount": amount})
        source, target = (Account.BUDGET, Account.FREE) if amount > 0 else (Account.FREE, Account.BUDGET)
        _POST.run(connection, [_row(Movement(transaction, [allocation_id], unit, source, target, abs(amount)))])

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

    def move(self, connection: Connection, movements: Sequence[Movement]) -> None:
        """Move amounts, in the order given, each counted at every allocation of its path that is limited in the unit.

        InsufficientBalanceError names the allocation whose limit does not allow what is to be held; the caller's
        transaction must then be rolled back.
        """
        changes: dict[tuple[str, Unit], _Change] = defaultdict(_Change)
        for one in movements:
            for node in one.path:
                change = changes[node, one.unit]
                change.held += one.amount * ((one.target is Account.HELD) - (one.source is Account.HELD))
                change.posted += one.amount * ((one.target is Account.POSTED) - (one.source is Account.POSTED))
                change.takes |= one.source is Account.FREE
                change.is_leaf = node == one.path[-1]
        if any(unit is not Unit.CREDITS for _, unit in changes):
            # In credits every allocation is limited, in other units some are.
            limited = self._limited(connection, {node for node, _ in changes})
            changes = {at: change for at, change in changes.items() if at in limited}
        if not changes:
            return
        parameters = [
            {
                "node": node,
                "of_unit": unit,
                "more_held": change.held,
                "more_posted": change.posted,
                "freely": not change.takes,
            }
            for (node, unit), change in changes.items()
        ]
        if connection.execute(_MOVE, parameters).rowcount != len(changes):
            raise self._over_limit(connection, changes)
        _POST.run(connection, [_row(one) for one in movements if one.amount > 0])

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

    def _over_limit(self, connection: Connection, changes: Mapping[tuple[str, Unit], _Change]) -> Exception:
        """Return the error of an allocation that has no room for its change, to be made or just made elsewhere.

        Callers have locked and looked before they hold; this is the last line, and names the first that it finds.
        """
        for (node, unit), change in changes.items():
            balance = self.balance(connection, node, unit)
            if change.takes and change.held + change.posted > balance.available:
                name = connection.execute(select(allocations.c.name).where(allocations.c.id == node)).scalar_one()
                return insufficient(balance, change.held + change.posted, name, is_leaf=change.is_leaf)
        return KeyError(f"an allocation among {sorted({node for node, _ in changes})} has no balance")


@dataclass(slots=True)
class _Change:
    """What movements change together in one balance; `takes` when any of them holds, or charges what is free."""

    held: int = 0
    posted: int = 0
    takes: bool = False
    is_leaf: bool = False


def _row(movement: Movement) -> dict[str, Any]:
    transaction, quantities = movement.transaction, movement.quantities
    return {
        "transaction_id": transaction.id,
        "at_ms": transaction.at_ms,
        "kind": transaction.kind,
        "allocation_id": movement.path[-1],
        "unit": movement.unit,
        "debit": movement.source,
        "credit": movement.target,
        "amount": movement.amount,
        "lease_id": transaction.lease_id,
        "actor": transaction.actor,
        "quantities": json.dumps(quantities) if quantities is not None else None,
        "memo": transaction.memo,
        "policy_version": transaction.policy_version,
    }


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
