"""Rebuilds every balance from the journal and checks each invariant of the ledger against what is stored."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from allocations.clock import MS_PER_SECOND
from allocations.db.schema import allocations, balances, holds, journal, leases
from allocations.ledger.models import Account

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection


class Invariant(StrEnum):
    """The invariants of the ledger that its stored state alone can show (the others are shown by the tests)."""

    WITHIN_LIMIT = "posted + held stay within the limit"
    HELD_IS_OPEN_HOLDS = "held is the sum of the open holds in the subtree"
    TRANSACTIONS_BALANCE = "every journal entry moves an amount between two accounts"
    HOLD_ENDS_ONCE = "each hold ends once, charged at most what was held"
    JOURNAL_REBUILDS_BALANCES = "balances rebuilt from the journal equal the stored ones"
    CHARGE_WITHIN_LIFETIME = "a charge is at most the rate by the lifetime"
    CLOCK_NEVER_BACKWARDS = "the journal's times never run backwards"


@dataclass(frozen=True, slots=True)
class Violation:
    """A difference between what must hold and what is stored."""

    invariant: Invariant
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit looked at and found."""

    journal_entries: int
    allocations: int
    leases: int
    violations: tuple[Violation, ...]


def audit_ledger(connection: Connection) -> AuditReport:
    """Check every invariant in one consistent view; memory grows with allocations, not with journal entries."""
    violations = [violation for check in _CHECKS for violation in check(connection)]
    count = func.count()
    return AuditReport(
        journal_entries=connection.execute(select(count).select_from(journal)).scalar_one(),
        allocations=connection.execute(select(count).select_from(allocations)).scalar_one(),
        leases=connection.execute(select(count).select_from(leases)).scalar_one(),
        violations=tuple(violations),
    )


def _ancestors(connection: Connection) -> dict[str, list[str]]:
    """Map each allocation to itself and all its ancestors."""
    parents = {row.id: row.parent_id for row in connection.execute(select(allocations.c.id, allocations.c.parent_id))}
    lines: dict[str, list[str]] = {}
    for allocation_id in parents:
        line, node = [], allocation_id
        while node is not None:
            line.append(node)
            node = parents[node]
        lines[allocation_id] = line
    return lines


def _journal_rebuilds_balances(connection: Connection) -> Iterator[Violation]:
    rebuilt: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: {"limit": 0, "held": 0, "posted": 0})
    lines = _ancestors(connection)
    sums = connection.execute(
        select(
            journal.c.allocation_id,
            journal.c.unit,
            journal.c.debit,
            journal.c.credit,
            func.sum(journal.c.amount),
        ).group_by(journal.c.allocation_id, journal.c.unit, journal.c.debit, journal.c.credit)
    )
    stored = {(row.allocation_id, row.unit): row for row in connection.execute(select(balances))}
    for allocation_id, unit, debit, credit, amount in sums:
        for account, sign in ((debit, -1), (credit, 1)):
            if account == Account.BUDGET:
                # A limit belongs to its own node; use counts at every ancestor that is limited in the unit.
                rebuilt[allocation_id, unit]["limit"] -= sign * int(amount)
            elif account in (Account.HELD, Account.POSTED):
                for node in lines[allocation_id]:
                    if (node, unit) in stored:
                        rebuilt[node, unit][account] += sign * int(amount)
    for key in sorted(stored.keys() | rebuilt.keys()):
        row = stored.get(key)
        found = {"limit": row.limit_amount, "held": row.held, "posted": row.posted} if row else {}
        if found != rebuilt[key]:
            yield Violation(
                Invariant.JOURNAL_REBUILDS_BALANCES,
                f"{key[0]} {key[1]}",
                f"stored {found}, rebuilt from the journal {rebuilt[key]}",
            )


def _within_limit(connection: Connection) -> Iterator[Violation]:
    lowered = {
        (row.allocation_id, row.unit)
        for row in connection.execute(
            select(journal.c.allocation_id, journal.c.unit).where(journal.c.credit == Account.BUDGET).distinct()
        )
    }
    over = connection.execute(select(balances).where(balances.c.posted + balances.c.held > balances.c.limit_amount))
    for row in over:
        if (row.allocation_id, row.unit) not in lowered:
            yield Violation(
                Invariant.WITHIN_LIMIT,
                f"{row.allocation_id} {row.unit}",
                f"posted {row.posted} + held {row.held} > limit {row.limit_amount}, which was never lowered",
            )


def _held_is_open_holds(connection: Connection) -> Iterator[Violation]:
    lines = _ancestors(connection)
    expected: dict[tuple[str, str], int] = defaultdict(int)
    open_holds = connection.execute(
        select(leases.c.allocation_id, holds.c.unit, func.sum(holds.c.amount))
        .join(holds, holds.c.lease_id == leases.c.id)
        .where(holds.c.state == "open")
        .group_by(leases.c.allocation_id, holds.c.unit)
    )
    for allocation_id, unit, amount in open_holds:
        for node in lines[allocation_id]:
            expected[node, unit] += int(amount)
    for row in connection.execute(select(balances)):
        if row.held != expected[row.allocation_id, row.unit]:
            yield Violation(
                Invariant.HELD_IS_OPEN_HOLDS,
                f"{row.allocation_id} {row.unit}",
                f"held {row.held}, open holds {expected[row.allocation_id, row.unit]}",
            )


def _transactions_balance(connection: Connection) -> Iterator[Violation]:
    for row in connection.execute(
        select(journal.c.id).where((journal.c.amount <= 0) | (journal.c.debit == journal.c.credit))
    ):
        yield Violation(Invariant.TRANSACTIONS_BALANCE, f"journal entry {row.id}", "moves nothing between two accounts")


def _hold_ends_once(connection: Connection) -> Iterator[Violation]:
    """A lease's open holds end with it, and what its holds were charged is what the journal posted for it."""
    left_open = connection.execute(
        select(holds.c.lease_id)
        .join(leases, leases.c.id == holds.c.lease_id)
        .where(leases.c.state != "open", holds.c.state == "open")
        .distinct()
    )
    for row in left_open:
        yield Violation(Invariant.HOLD_ENDS_ONCE, row.lease_id, "the lease has ended, a hold of it is still open")
    charged = {
        (row.lease_id, row.unit): (int(row[2]), int(row[3]))
        for row in connection.execute(
            select(holds.c.lease_id, holds.c.unit, func.sum(holds.c.charged), func.sum(holds.c.amount)).group_by(
                holds.c.lease_id, holds.c.unit
            )
        )
    }
    posted: dict[tuple[str, str], int] = defaultdict(int)
    held: dict[tuple[str, str], int] = defaultdict(int)
    for row in connection.execute(
        select(journal.c.lease_id, journal.c.unit, journal.c.debit, journal.c.credit, func.sum(journal.c.amount))
        .where(journal.c.lease_id.is_not(None))
        .group_by(journal.c.lease_id, journal.c.unit, journal.c.debit, journal.c.credit)
    ):
        key, amount = (row.lease_id, row.unit), int(row[4])
        if row.credit == Account.HELD:
            held[key] += amount
        elif row.credit == Account.POSTED:
            posted[key] += amount
        elif row.debit == Account.POSTED:
            posted[key] -= amount
    for key in sorted(charged.keys() | posted.keys() | held.keys()):
        found = charged.get(key, (0, 0))
        if found != (posted[key], held[key]):
            yield Violation(
                Invariant.HOLD_ENDS_ONCE,
                f"{key[0]} {key[1]}",
                f"holds say charged {found[0]} of {found[1]}, the journal says {posted[key]} of {held[key]}",
            )


def _charge_within_lifetime(connection: Connection) -> Iterator[Violation]:
    rows = connection.execute(
        select(
            leases.c.id,
            leases.c.started_at_ms,
            leases.c.acquired_at_ms,
            leases.c.ended_at_ms,
            holds.c.unit,
            func.max(holds.c.per_second).label("per_second"),
            func.sum(holds.c.charged).label("charged"),
        )
        .join(holds, holds.c.lease_id == leases.c.id)
        .where(leases.c.ended_at_ms.is_not(None))
        .group_by(leases.c.id, leases.c.started_at_ms, leases.c.acquired_at_ms, leases.c.ended_at_ms, holds.c.unit)
    )
    for row in rows:
        start = row.started_at_ms if row.started_at_ms is not None else row.acquired_at_ms
        most = int(row.per_second) * max(0, (row.ended_at_ms - start) // MS_PER_SECOND)
        if int(row.charged) > most:
            yield Violation(
                Invariant.CHARGE_WITHIN_LIFETIME,
                f"{row.id} {row.unit}",
                f"charged {row.charged}, at most {most} was due",
            )


def _clock_never_backwards(connection: Connection) -> Iterator[Violation]:
    """Look within each lease: entries of different processes may interleave by their clocks' small differences."""
    previous = func.lag(journal.c.at_ms).over(partition_by=journal.c.lease_id, order_by=journal.c.id)
    ordered = (
        select(journal.c.id, journal.c.lease_id, journal.c.at_ms, previous.label("previous_ms"))
        .where(journal.c.lease_id.is_not(None))
        .subquery()
    )
    for row in connection.execute(select(ordered).where(ordered.c.at_ms < ordered.c.previous_ms)):
        yield Violation(
            Invariant.CLOCK_NEVER_BACKWARDS,
            f"journal entry {row.id}",
            f"{row.at_ms} comes after {row.previous_ms}",
        )


_CHECKS: tuple[Callable[[Connection], Iterator[Violation]], ...] = (
    _within_limit,
    _held_is_open_holds,
    _transactions_balance,
    _hold_ends_once,
    _journal_rebuilds_balances,
    _charge_within_lifetime,
    _clock_never_backwards,
)
