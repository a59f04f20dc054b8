"""Tells where a charge or a balance comes from: a lease's or an allocation's story, read from the journal alone.

Amounts are in the unit's smallest part (microcredits, core-seconds, GPU-seconds), times are RFC 3339 in UTC.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, func, select

from allocations.clock import MS_PER_SECOND, to_rfc3339
from allocations.db.schema import allocations, audit, balances, holds, journal, leases
from allocations.errors import NotFoundError
from allocations.ledger.models import Account, TransactionKind, Unit
from allocations.ledger.storage import StorageCharged, charged_for_storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Row

    from allocations.policy.models import Policy, PriceList

OPEN = "open"
# What an entry adds to what is held, and to what is posted.
_HELD = case((journal.c.credit == Account.HELD, journal.c.amount), else_=0) - case(
    (journal.c.debit == Account.HELD, journal.c.amount), else_=0
)
_POSTED = case((journal.c.credit == Account.POSTED, journal.c.amount), else_=0) - case(
    (journal.c.debit == Account.POSTED, journal.c.amount), else_=0
)
_LIMIT = case((journal.c.debit == Account.BUDGET, journal.c.amount), else_=0) - case(
    (journal.c.credit == Account.BUDGET, journal.c.amount), else_=0
)


@dataclass(frozen=True, slots=True)
class Check:
    """A sum that must come out: what it says, and whether it does."""

    sentence: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Node:
    """An allocation on the path of a lease, and what it had left of a unit just before the first hold."""

    allocation: str
    name: str
    unit: Unit
    limit: int
    held: int
    posted: int

    @property
    def left(self) -> int:
        """What a hold could take."""
        return self.limit - self.held - self.posted


@dataclass(frozen=True, slots=True)
class Step:
    """What one transaction did for a lease in one unit, and for which seconds after its start."""

    at: str
    kind: str
    actor: str
    unit: Unit
    held: int
    charged: int
    freed: int
    refunded: int
    quantities: dict[str, int]
    from_second: int
    to_second: int
    memo: str | None
    policy_version: str


@dataclass(frozen=True, slots=True)
class Total:
    """A unit's charge: rate by seconds, as the journal has it and as it should be."""

    unit: Unit
    per_second: int
    seconds: int
    charged: int
    still_held: int


@dataclass(frozen=True, slots=True)
class Prices:
    """The price list that was in force when the lease was held, and the rate that it gives."""

    effective: str
    per_core_second: int
    per_gib_second: int
    per_gpu_second: int
    rate: int


@dataclass(frozen=True, slots=True)
class LeaseStory:
    """A lease from its hold to its end."""

    id: str
    person: str
    kind: str
    size: str
    image: str
    cores: int
    memory_gib: int
    gpus: int
    gpu_type: str | None
    microcredits_per_second: int
    prices: Prices | None
    policy_version: str | None
    acquired_at: str
    started_at: str | None
    ended_at: str | None
    state: str
    end_reason: str | None
    path: tuple[Node, ...]
    steps: tuple[Step, ...]
    totals: tuple[Total, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class LimitChange:
    """A grant, refill or move of a limit: by how much, who, why."""

    at: str
    kind: str
    unit: Unit
    amount: int
    limit_after: int
    actor: str
    memo: str | None
    why: str
    policy_version: str


@dataclass(frozen=True, slots=True)
class OpenHold:
    """What an open lease holds."""

    lease: str
    person: str
    allocation: str
    allocation_name: str
    unit: Unit
    amount: int
    ends_at: str


@dataclass(frozen=True, slots=True)
class Charged:
    """What was charged for a person or through a sub-allocation, refunds taken off."""

    whose: str
    name: str
    unit: Unit
    amount: int


@dataclass(frozen=True, slots=True)
class Remainder:
    """A balance as a sum: limit - held - posted = left."""

    unit: Unit
    limit: int
    held: int
    posted: int
    left: int


@dataclass(frozen=True, slots=True)
class AllocationStory:
    """An allocation: where its limit comes from and where it went."""

    id: str
    name: str
    tier: str
    state: str
    parent: str | None
    limits: tuple[LimitChange, ...]
    open_holds: tuple[OpenHold, ...]
    by_person: tuple[Charged, ...]
    by_sub_allocation: tuple[Charged, ...]
    storage: tuple[StorageCharged, ...]
    balances: tuple[Remainder, ...]
    checks: tuple[Check, ...]


def explain(connection: Connection, of_id: str, policy: Policy | None = None) -> LeaseStory | AllocationStory:
    """Tell the story of a lease or an allocation, whichever has the id; NotFoundError when none has.

    With `policy`, a lease's rate is traced to the price list that was in force.
    """
    tree = _Tree.read(connection)
    lease = connection.execute(select(leases).where(leases.c.id == of_id)).one_or_none()
    if lease is not None:
        return _lease_story(connection, tree, lease, policy)
    if of_id in tree.parents:
        return _allocation_story(connection, tree, of_id)
    raise NotFoundError(
        f"There is no lease and no allocation {of_id!r}.",
        "Copy the whole id, such as lease-… or a-…, from a list of leases, a page of allocations, or the audit log; "
        "check that --state or --database names the right platform.",
    )


@dataclass(frozen=True, slots=True)
class _Tree:
    """All allocations: who is whose parent, and what they are called."""

    parents: dict[str, str | None]
    names: dict[str, str]

    @classmethod
    def read(cls, connection: Connection) -> _Tree:
        rows = connection.execute(select(allocations.c.id, allocations.c.parent_id, allocations.c.name)).all()
        return cls({row.id: row.parent_id for row in rows}, {row.id: row.name for row in rows})

    def path(self, node: str) -> list[str]:
        """Return the ids from the root down to the node."""
        path: list[str] = []
        at: str | None = node
        while at is not None:
            path.append(at)
            at = self.parents[at]
        return path[::-1]

    def subtree(self, node: str) -> list[str]:
        """Return the node and everything below it."""
        children = defaultdict(list)
        for child, parent in self.parents.items():
            children[parent].append(child)
        found = [node]
        for each in found:
            found.extend(children[each])
        return found

    def branch(self, node: str, below: str) -> str:
        """Return the child of `node` that `below` lies in, or `node` itself."""
        path = self.path(below)
        position = path.index(node)
        return path[min(position + 1, len(path) - 1)]


# ---------------------------------------------------------------------- leases


def _lease_story(connection: Connection, tree: _Tree, lease: Row[Any], policy: Policy | None) -> LeaseStory:
    entries = connection.execute(select(journal).where(journal.c.lease_id == lease.id).order_by(journal.c.id)).all()
    steps = tuple(_steps(entries))
    totals = tuple(_totals(connection, lease.id, steps))
    units = sorted({step.unit for step in steps})
    first = entries[0].id if entries else 0
    prices = _prices(policy, lease)
    return LeaseStory(
        id=lease.id,
        person=lease.person,
        kind=lease.kind,
        size=lease.size,
        image=lease.image,
        cores=lease.cores,
        memory_gib=lease.memory_gib,
        gpus=lease.gpus,
        gpu_type=lease.gpu_type,
        microcredits_per_second=lease.microcredits_per_second,
        prices=prices,
        policy_version=steps[0].policy_version if steps else None,
        acquired_at=to_rfc3339(lease.acquired_at_ms),
        started_at=_moment(lease.started_at_ms),
        ended_at=_moment(lease.ended_at_ms),
        state=lease.state,
        end_reason=lease.end_reason,
        path=tuple(
            node
            for unit in units
            for allocation in tree.path(lease.allocation_id)
            for node in _node_before(connection, tree, allocation, unit, first)
        ),
        steps=steps,
        totals=totals,
        checks=tuple(_lease_checks(lease, totals)),
    )


def _steps(entries: Sequence[Row[Any]]) -> Iterable[Step]:
    """Gather the entries of each transaction and unit; seconds count on from where the last charge ended."""
    reached: Counter[str] = Counter()
    for _, of_transaction in groupby(entries, key=lambda entry: str(entry.transaction_id)):
        rows = list(of_transaction)
        for unit in sorted({Unit(row.unit) for row in rows}):
            moved: Counter[tuple[str, str]] = Counter()
            quantities: Counter[str] = Counter()
            for row in rows:
                if row.unit == unit:
                    moved[row.debit, row.credit] += int(row.amount)
                    quantities.update(json.loads(row.quantities) if row.quantities else {})
            refunded = moved[Account.POSTED, Account.FREE]
            begin = reached[unit]
            reached[unit] += -quantities["seconds"] if refunded else quantities["seconds"]
            yield Step(
                at=to_rfc3339(rows[0].at_ms),
                kind=rows[0].kind,
                actor=rows[0].actor,
                unit=unit,
                held=moved[Account.FREE, Account.HELD],
                charged=moved[Account.HELD, Account.POSTED],
                freed=moved[Account.HELD, Account.FREE],
                refunded=refunded,
                quantities=dict(quantities),
                from_second=min(begin, reached[unit]),
                to_second=max(begin, reached[unit]),
                memo=rows[0].memo,
                policy_version=rows[0].policy_version,
            )


def _totals(connection: Connection, lease_id: str, steps: Sequence[Step]) -> Iterable[Total]:
    rates = connection.execute(
        select(holds.c.unit, func.max(holds.c.per_second), func.sum(case((holds.c.state == OPEN, holds.c.amount))))
        .where(holds.c.lease_id == lease_id)
        .group_by(holds.c.unit)
        .order_by(holds.c.unit)
    )
    for unit, per_second, still_held in rates:
        of_unit = [step for step in steps if step.unit == unit]
        yield Total(
            unit=Unit(unit),
            per_second=int(per_second),
            seconds=sum((-1 if step.refunded else 1) * step.quantities.get("seconds", 0) for step in of_unit),
            charged=sum(step.charged - step.refunded for step in of_unit),
            still_held=int(still_held or 0),
        )


def _lease_checks(lease: Row[Any], totals: Sequence[Total]) -> Iterable[Check]:
    for total in totals:
        due = total.per_second * total.seconds
        yield Check(
            f"{total.unit}: {total.per_second:,} a second x {total.seconds:,} s = {due:,}; "
            f"the journal charged {total.charged:,}",
            due == total.charged,
        )
        if lease.ended_at_ms is not None:
            begin_ms = lease.started_at_ms if lease.started_at_ms is not None else lease.acquired_at_ms
            lifetime = max(0, lease.ended_at_ms - begin_ms) // MS_PER_SECOND
            yield Check(
                f"{total.unit}: {total.seconds:,} s charged, {lifetime:,} whole seconds from start to end",
                total.seconds <= lifetime,
            )
            yield Check(f"{total.unit}: nothing is held any more", total.still_held == 0)


def _node_before(connection: Connection, tree: _Tree, node: str, unit: Unit, entry: int) -> Iterable[Node]:
    """Rebuild what a node had before a journal entry; nothing when it is not limited in the unit."""
    stored = select(balances.c.unit).where(balances.c.allocation_id == node, balances.c.unit == unit)
    if connection.execute(stored).one_or_none() is None:
        return
    before = and_(journal.c.unit == unit, journal.c.id < entry)
    limit, held, posted = _rebuilt(connection, tree, node, before)
    yield Node(node, tree.names[node], unit, limit, held, posted)


def _rebuilt(connection: Connection, tree: _Tree, node: str, condition: ColumnElement[bool]) -> tuple[int, int, int]:
    """Return (limit, held, posted) of a node from the journal's entries: its own limit, its subtree's use."""
    limit = connection.execute(
        select(func.coalesce(func.sum(_LIMIT), 0)).where(journal.c.allocation_id == node, condition)
    ).scalar_one()
    held, posted = connection.execute(
        select(func.coalesce(func.sum(_HELD), 0), func.coalesce(func.sum(_POSTED), 0)).where(
            journal.c.allocation_id.in_(tree.subtree(node)), condition
        )
    ).one()
    return int(limit), int(held), int(posted)


def _prices(policy: Policy | None, lease: Row[Any]) -> Prices | None:
    """Return the prices in force when the lease was held; None when the policy does not reach back or to its GPU."""
    if policy is None:
        return None
    try:
        in_force: PriceList = policy.prices_at(datetime.fromtimestamp(lease.acquired_at_ms / MS_PER_SECOND, tz=UTC))
        gpu = in_force.microcredits_per_gpu_second[lease.gpu_type] if lease.gpu_type else 0
    except (ValueError, KeyError):
        return None
    core, gib = in_force.microcredits_per_core_second, in_force.microcredits_per_gib_second
    rate = core * lease.cores + gib * lease.memory_gib + gpu * lease.gpus
    return Prices(in_force.effective.isoformat(), core, gib, gpu, rate)


def _moment(at_ms: int | None) -> str | None:
    return None if at_ms is None else to_rfc3339(at_ms)


# ----------------------------------------------------------------- allocations


def _allocation_story(connection: Connection, tree: _Tree, node: str) -> AllocationStory:
    row = connection.execute(select(allocations).where(allocations.c.id == node)).one()
    stored = connection.execute(
        select(balances).where(balances.c.allocation_id == node).order_by(balances.c.unit)
    ).all()
    units = {str(balance.unit) for balance in stored}
    limits = tuple(_limit_changes(connection, node))
    open_holds = tuple(hold for hold in _open_holds(connection, tree, node) if hold.unit in units)
    by_person, by_sub_allocation = _charged(connection, tree, node, units)
    storage = charged_for_storage(connection, tree.subtree(node))
    remainders = tuple(
        Remainder(
            Unit(balance.unit),
            balance.limit_amount,
            balance.held,
            balance.posted,
            balance.limit_amount - balance.held - balance.posted,
        )
        for balance in stored
    )
    checks: list[Check] = []
    for one in remainders:
        granted = sum(change.amount for change in limits if change.unit == one.unit)
        held = sum(hold.amount for hold in open_holds if hold.unit == one.unit)
        posted = sum(charged.amount for charged in by_person if charged.unit == one.unit)
        checks += [
            Check(
                f"{one.unit}: the changes of the limit come to {granted:,}, stored {one.limit:,}", granted == one.limit
            ),
            Check(f"{one.unit}: the open leases hold {held:,}, stored {one.held:,}", held == one.held),
            Check(f"{one.unit}: the charges come to {posted:,}, stored {one.posted:,}", posted == one.posted),
        ]
    if storage:
        of_days = sum(one.charged for one in storage)
        in_journal = _charged_as_storage(connection, tree, node)
        checks.append(
            Check(
                f"storage: its days were charged {of_days:,}, the journal charged {in_journal:,}", of_days == in_journal
            )
        )
    return AllocationStory(
        id=node,
        name=row.name,
        tier=row.tier,
        state=row.state,
        parent=row.parent_id,
        limits=limits,
        open_holds=open_holds,
        by_person=by_person,
        by_sub_allocation=by_sub_allocation,
        storage=tuple(storage),
        balances=remainders,
        checks=tuple(checks),
    )


def _charged_as_storage(connection: Connection, tree: _Tree, node: str) -> int:
    total = select(func.coalesce(func.sum(_POSTED), 0)).where(
        journal.c.allocation_id.in_(tree.subtree(node)), journal.c.kind == TransactionKind.STORAGE
    )
    return int(connection.execute(total).scalar_one())


def _limit_changes(connection: Connection, node: str) -> Iterable[LimitChange]:
    """Return every change of the limit; its reason is that of the audit log's entry of the same moment and actor."""
    reasons = {
        (row.at_ms, row.actor): row.why
        for row in connection.execute(select(audit).where(audit.c.subject == node, audit.c.why != ""))
    }
    after: Counter[str] = Counter()
    rows = connection.execute(
        select(journal, _LIMIT.label("change"))
        .where(
            journal.c.allocation_id == node,
            (journal.c.debit == Account.BUDGET) | (journal.c.credit == Account.BUDGET),
        )
        .order_by(journal.c.id)
    )
    for row in rows:
        after[row.unit] += row.change
        yield LimitChange(
            at=to_rfc3339(row.at_ms),
            kind=row.kind,
            unit=Unit(row.unit),
            amount=row.change,
            limit_after=after[row.unit],
            actor=row.actor,
            memo=row.memo,
            why=reasons.get((row.at_ms, row.actor), ""),
            policy_version=row.policy_version,
        )


def _open_holds(connection: Connection, tree: _Tree, node: str) -> Iterable[OpenHold]:
    rows = connection.execute(
        select(leases.c.id, leases.c.person, leases.c.allocation_id, leases.c.ends_at_ms, holds.c.unit, holds.c.amount)
        .join(holds, holds.c.lease_id == leases.c.id)
        .where(holds.c.state == OPEN, leases.c.allocation_id.in_(tree.subtree(node)))
        .order_by(leases.c.acquired_at_ms, leases.c.id, holds.c.unit)
    )
    for row in rows:
        yield OpenHold(
            lease=row.id,
            person=row.person,
            allocation=row.allocation_id,
            allocation_name=tree.names[row.allocation_id],
            unit=Unit(row.unit),
            amount=row.amount,
            ends_at=to_rfc3339(row.ends_at_ms),
        )


def _charged(
    connection: Connection, tree: _Tree, node: str, units: set[str]
) -> tuple[tuple[Charged, ...], tuple[Charged, ...]]:
    """Return the charges of the subtree by person, and by the child that they came through (or the node itself)."""
    rows = connection.execute(
        select(
            func.coalesce(leases.c.person, journal.c.actor), journal.c.allocation_id, journal.c.unit, func.sum(_POSTED)
        )
        .outerjoin(leases, leases.c.id == journal.c.lease_id)
        .where(
            journal.c.allocation_id.in_(tree.subtree(node)),
            (journal.c.debit == Account.POSTED) | (journal.c.credit == Account.POSTED),
        )
        .group_by(func.coalesce(leases.c.person, journal.c.actor), journal.c.allocation_id, journal.c.unit)
    )
    people: Counter[tuple[str, str]] = Counter()
    branches: Counter[tuple[str, str]] = Counter()
    for person, allocation, unit, amount in rows:
        if unit in units:
            people[unit, person] += int(amount)
            branches[unit, tree.branch(node, allocation)] += int(amount)
    return (
        tuple(Charged(person, person, Unit(unit), people[unit, person]) for unit, person in sorted(people)),
        tuple(Charged(one, tree.names[one], Unit(unit), branches[unit, one]) for unit, one in sorted(branches)),
    )
