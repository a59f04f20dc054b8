"""Rebuilds every balance from the journal and checks each invariant of the ledger against what is stored.

The database aggregates; what comes here is a row for each allocation and each difference, so that memory grows with
those and not with the journal.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, case, func, literal, or_, select, union_all

from allocations.clock import MS_PER_SECOND
from allocations.db.schema import allocations, balances, duties, holds, idempotency, journal, leases, requests, runs
from allocations.ledger.daily_use import daily_use_differences
from allocations.ledger.invariants import Invariant
from allocations.ledger.models import Account
from allocations.ledger.storage import storage_differences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Table

STOP_GRACE_SECONDS = 120
# Beyond the policy's grace, what may come between two rounds of the worker.
ROUND_ALLOWANCE_SECONDS = 60
WORKER_DUTY = "worker"
OPEN = "open"
_NOTHING: ColumnElement[int] = literal(0, BigInteger, literal_execute=True)


@dataclass(frozen=True, slots=True)
class Violation:
    """A difference between what must hold and what is stored."""

    invariant: Invariant
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit looked at and found.

    `leases_awaiting_worker` are past their end and grace since a worker was last through: it is behind, which is no
    difference in the ledger.
    """

    journal_entries: int
    allocations: int
    leases: int
    leases_awaiting_worker: int
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class _Sum:
    """What the journal moved between two accounts of an allocation, in all."""

    allocation_id: str
    unit: str
    debit: str
    credit: str
    amount: int
    least: int
    entries: int


@dataclass(frozen=True, slots=True)
class _Books:
    """What several checks need: the journal's sums and each allocation's line of ancestors, itself included."""

    sums: Sequence[_Sum]
    lines: dict[str, list[str]]


def audit_ledger(connection: Connection, stop_grace_seconds: int = STOP_GRACE_SECONDS) -> AuditReport:
    """Check every invariant in one consistent view.

    `stop_grace_seconds` is how long after its end a lease may wait for its stop, as the policy has it.
    """
    grace_ms = (stop_grace_seconds + ROUND_ALLOWANCE_SECONDS) * MS_PER_SECOND
    books = _Books(_journal_sums(connection), _ancestors(connection))
    checks: tuple[Callable[[Connection], Iterator[Violation]], ...] = (
        partial(_within_limit, books=books),
        partial(_held_is_open_holds, books=books),
        partial(_transactions_balance, books=books),
        _hold_ends_once,
        _same_key_same_answer,
        partial(_journal_rebuilds_balances, books=books),
        partial(_nothing_past_its_lease, grace_ms=grace_ms),
        _charge_within_lifetime,
        _clock_never_backwards,
        _storage_day_once,
        _journal_rebuilds_daily_use,
    )
    return AuditReport(
        violations=tuple(violation for check in checks for violation in check(connection)),
        journal_entries=sum(one.entries for one in books.sums),
        allocations=len(books.lines),
        leases=connection.execute(select(func.count()).select_from(leases)).scalar_one(),
        leases_awaiting_worker=_awaiting_worker(connection, grace_ms),
    )


def _journal_sums(connection: Connection) -> list[_Sum]:
    accounts = (journal.c.allocation_id, journal.c.unit, journal.c.debit, journal.c.credit)
    rows = connection.execute(
        select(*accounts, func.sum(journal.c.amount), func.min(journal.c.amount), func.count()).group_by(*accounts)
    )
    return [_Sum(row[0], row[1], row[2], row[3], int(row[4]), row[5], row[6]) for row in rows]


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


def _within_limit(connection: Connection, books: _Books) -> Iterator[Violation]:
    lowered = {(one.allocation_id, one.unit) for one in books.sums if one.credit == Account.BUDGET}
    over = connection.execute(
        select(balances)
        .where(balances.c.posted + balances.c.held > balances.c.limit_amount)
        .order_by(balances.c.allocation_id, balances.c.unit)
    ).all()
    for row in over:
        subject = f"{row.allocation_id} {row.unit}"
        found = f"posted {row.posted} + held {row.held} > limit {row.limit_amount}"
        if (row.allocation_id, row.unit) not in lowered:
            yield Violation(Invariant.WITHIN_LIMIT, subject, f"{found}, which was never lowered")
            continue
        entry = _first_hold_beyond(connection, books, row.allocation_id, row.unit)
        if entry is not None:
            yield Violation(
                Invariant.WITHIN_LIMIT, subject, f"{found}, and journal entry {entry} held beyond the limit of its time"
            )


def _first_hold_beyond(connection: Connection, books: _Books, node: str, unit: str) -> int | None:
    """Replay the journal of a node's subtree; return the first entry that took more than the limit then left.

    Every transaction locks the node's balance before it writes its entries, so their ids are in the order in which
    the balance changed.
    """
    subtree = [allocation for allocation, line in books.lines.items() if node in line]
    used, limit = 0, None
    entries = (
        select(journal.c.id, journal.c.allocation_id, journal.c.debit, journal.c.credit, journal.c.amount)
        .where(journal.c.allocation_id.in_(subtree), journal.c.unit == unit)
        .order_by(journal.c.id)
    )
    with connection.execute(entries.execution_options(yield_per=1000)) as rows:
        for row in rows:
            if Account.BUDGET in (row.debit, row.credit):
                if row.allocation_id == node:
                    limit = (limit or 0) + (row.amount if row.debit == Account.BUDGET else -row.amount)
                continue
            used += row.amount * ((row.debit == Account.FREE) - (row.credit == Account.FREE))
            # Before its first limit, a node had no account in the unit: its parts alone were limited.
            if row.debit == Account.FREE and limit is not None and used > limit:
                return int(row.id)
    return None


def _held_is_open_holds(connection: Connection, books: _Books) -> Iterator[Violation]:
    expected: dict[tuple[str, str], int] = defaultdict(int)
    open_holds = connection.execute(
        select(leases.c.allocation_id, holds.c.unit, func.sum(holds.c.amount))
        .join(holds, holds.c.lease_id == leases.c.id)
        .where(holds.c.state == OPEN)
        .group_by(leases.c.allocation_id, holds.c.unit)
    )
    for allocation_id, unit, amount in open_holds:
        for node in books.lines[allocation_id]:
            expected[node, unit] += int(amount)
    for row in connection.execute(select(balances)):
        if row.held != expected[row.allocation_id, row.unit]:
            yield Violation(
                Invariant.HELD_IS_OPEN_HOLDS,
                f"{row.allocation_id} {row.unit}",
                f"held {row.held}, open holds {expected[row.allocation_id, row.unit]}",
            )


def _transactions_balance(connection: Connection, books: _Books) -> Iterator[Violation]:
    """Each entry moves something between two accounts; only when the sums show one that does not is it looked for."""
    known = set(Account)
    if all(one.least > 0 and one.debit != one.credit and {one.debit, one.credit} <= known for one in books.sums):
        return
    accounts = [str(account) for account in Account]
    for row in connection.execute(
        select(journal.c.id).where(
            or_(
                journal.c.amount <= 0,
                journal.c.debit == journal.c.credit,
                journal.c.debit.not_in(accounts),
                journal.c.credit.not_in(accounts),
            )
        )
    ):
        yield Violation(Invariant.HELD_IS_OPEN_HOLDS, f"journal entry {row.id}", "moves nothing between two accounts")


def _hold_ends_once(connection: Connection) -> Iterator[Violation]:
    """A lease's holds end with it, and what they say was held, freed and charged is what the journal says."""
    left_open = connection.execute(
        select(holds.c.lease_id)
        .join(leases, leases.c.id == holds.c.lease_id)
        .where(leases.c.state != OPEN, holds.c.state == OPEN)
        .distinct()
    )
    for row in left_open:
        yield Violation(Invariant.HOLD_ENDS_ONCE, row.lease_id, "the lease has ended, a hold of it is still open")
    amount = journal.c.amount
    ended = case((holds.c.state != OPEN, holds.c.amount), else_=0)
    both = union_all(
        select(
            holds.c.lease_id,
            holds.c.unit,
            holds.c.amount.label("held"),
            ended.label("ended"),
            holds.c.charged.label("charged"),
            _NOTHING.label("journal_held"),
            _NOTHING.label("journal_ended"),
            _NOTHING.label("journal_charged"),
        ),
        select(
            journal.c.lease_id,
            journal.c.unit,
            _NOTHING,
            _NOTHING,
            _NOTHING,
            case((journal.c.credit == Account.HELD, amount), else_=0),
            case((journal.c.debit == Account.HELD, amount), else_=0),
            case((journal.c.credit == Account.POSTED, amount), (journal.c.debit == Account.POSTED, -amount), else_=0),
        ).where(journal.c.lease_id.is_not(None)),
    ).subquery()
    sums = {name: func.sum(both.c[name]) for name in both.c.keys()[2:]}
    differing = connection.execute(
        select(both.c.lease_id, both.c.unit, *(total.label(name) for name, total in sums.items()))
        .group_by(both.c.lease_id, both.c.unit)
        .having(or_(*(sums[name] != sums[f"journal_{name}"] for name in ("held", "ended", "charged"))))
    )
    for row in differing:
        yield Violation(
            Invariant.HOLD_ENDS_ONCE,
            f"{row.lease_id} {row.unit}",
            f"held {row.held}, ended {row.ended}, charged {row.charged} by the holds; "
            f"{row.journal_held}, {row.journal_ended}, {row.journal_charged} by the journal",
        )


def _same_key_same_answer(connection: Connection) -> Iterator[Violation]:
    """An answer is an id, or an object that begins with its id: what it names is there, made under that one key."""
    position = func.instr if connection.dialect.name == "sqlite" else func.strpos
    begin = '{"id":"'
    tail = func.substr(idempotency.c.answer, len(begin) + 1)
    named = case(
        (func.substr(idempotency.c.answer, 1, len(begin)) == begin, func.substr(tail, 1, position(tail, '"') - 1)),
        else_=idempotency.c.answer,
    )
    for prefix, table in _NAMED:
        of_kind = select(named.label("id")).where(func.substr(named, 1, len(prefix)) == prefix).subquery()
        rows = connection.execute(
            select(of_kind.c.id, func.count().label("keys"), func.count(table.c.id).label("found"))
            .outerjoin_from(of_kind, table, table.c.id == of_kind.c.id)
            .group_by(of_kind.c.id)
            .having(or_(func.count() > 1, func.count(table.c.id) == 0))
        )
        for row in rows:
            detail = f"the answer to {row.keys} keys" if row.found else "the answer to a key, and not there"
            yield Violation(Invariant.SAME_KEY_SAME_ANSWER, row.id, detail)


def _journal_rebuilds_balances(connection: Connection, books: _Books) -> Iterator[Violation]:
    rebuilt: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: {"limit": 0, "held": 0, "posted": 0})
    stored = {(row.allocation_id, row.unit): row for row in connection.execute(select(balances))}
    for one in books.sums:
        for account, sign in ((one.debit, -1), (one.credit, 1)):
            if account == Account.BUDGET:
                # A limit belongs to its own node; use counts at every ancestor that is limited in the unit.
                rebuilt[one.allocation_id, one.unit]["limit"] -= sign * one.amount
            elif account in (Account.HELD, Account.POSTED):
                for node in books.lines[one.allocation_id]:
                    if (node, one.unit) in stored:
                        rebuilt[node, one.unit][account] += sign * one.amount
    for key in sorted(stored.keys() | rebuilt.keys()):
        row = stored.get(key)
        found = {"limit": row.limit_amount, "held": row.held, "posted": row.posted} if row else {}
        if found != rebuilt[key]:
            yield Violation(
                Invariant.JOURNAL_REBUILDS_BALANCES,
                f"{key[0]} {key[1]}",
                f"stored {found}, rebuilt from the journal {rebuilt[key]}",
            )


def _nothing_past_its_lease(connection: Connection, grace_ms: int) -> Iterator[Violation]:
    """A worker that has done a whole round after a lease's end and grace has ended the lease.

    While none has, as when it comes back from a pause, leases wait.
    """
    done_ms = connection.execute(select(duties.c.beat_at_ms).where(duties.c.name == WORKER_DUTY)).scalar_one_or_none()
    if done_ms is None:
        return
    overdue = select(leases).where(leases.c.state == OPEN, leases.c.ends_at_ms < done_ms - grace_ms)
    for row in connection.execute(overdue.order_by(leases.c.id)):
        late_seconds = (done_ms - row.ends_at_ms) // MS_PER_SECOND
        yield Violation(
            Invariant.NOTHING_PAST_ITS_LEASE,
            row.id,
            f"open, its end was {late_seconds} s before the last round that the worker has done",
        )


def _awaiting_worker(connection: Connection, grace_ms: int) -> int:
    """Count the leases that a worker which has the duty, but has not done its round, is behind with."""
    late = select(func.count()).where(
        duties.c.name == WORKER_DUTY,
        leases.c.state == OPEN,
        leases.c.ends_at_ms >= duties.c.beat_at_ms - grace_ms,
        leases.c.ends_at_ms < duties.c.until_ms - grace_ms,
    )
    return int(connection.execute(late).scalar_one())


def _charge_within_lifetime(connection: Connection) -> Iterator[Violation]:
    begin_ms = func.coalesce(leases.c.started_at_ms, leases.c.acquired_at_ms)
    lived_ms = leases.c.ended_at_ms - begin_ms
    # Charges are whole seconds of the rate, so that seconds by 1000 beyond the milliseconds lived are too many.
    rows = connection.execute(
        select(
            leases.c.id,
            holds.c.unit,
            lived_ms.label("lived_ms"),
            func.max(holds.c.per_second).label("per_second"),
            func.sum(holds.c.charged).label("charged"),
        )
        .join(holds, holds.c.lease_id == leases.c.id)
        .where(leases.c.ended_at_ms.is_not(None))
        .group_by(leases.c.id, holds.c.unit)
        .having(func.sum(holds.c.charged) * MS_PER_SECOND > func.max(holds.c.per_second) * lived_ms)
    )
    for row in rows:
        most = int(row.per_second) * max(0, row.lived_ms // MS_PER_SECOND)
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
            Invariant.SERVICE_CLOCK,
            f"journal entry {row.id}",
            f"{row.at_ms} comes after {row.previous_ms}",
        )


def _storage_day_once(connection: Connection) -> Iterator[Violation]:
    for subject, detail in storage_differences(connection):
        yield Violation(Invariant.STORAGE_DAY_ONCE, subject, detail)


def _journal_rebuilds_daily_use(connection: Connection) -> Iterator[Violation]:
    for subject, detail in daily_use_differences(connection):
        yield Violation(Invariant.JOURNAL_REBUILDS_DAILY_USE, subject, detail)


# What an answer may name, by the prefix of its ids.
_NAMED: tuple[tuple[str, Table], ...] = (
    ("lease-", leases),
    ("r-", runs),
    ("a-", allocations),
    ("q-", requests),
)
