"""Who and what has spent an allocation, over its whole time: by member and by part, from the use that is kept by day.

A home counts for its person; storage that an allocation has together counts for nobody of its members.

The database sums; what comes back is as long as the lists of members and parts, however many charges there are.
"""

from __future__ import annotations

from datetime import date  # pydantic reads it at run time
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import case, func, literal, select, text

from allocations.clock import MS_PER_DAY, to_rfc3339
from allocations.db.schema import daily_use, journal
from allocations.leases.views import View
from allocations.ledger.models import Account, Unit
from allocations.lifecycle.authority import PLATFORM
from allocations.reports.allocations import AllocationView  # pydantic reads it at run time
from allocations.reports.platform_use import day_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from allocations.lifecycle.models import Allocation

# As many lines as one reads; the file of all has no such bound.
LINES_MAX = 100
# As many as one tells apart in a picture; the others are drawn together.
SERIES_MAX = 6
STEPS_MAX = 60
LATEST_DAYS = 14
OTHERS = ""
TOGETHER = "storage of all together"


class By(StrEnum):
    """What use is told apart by."""

    MEMBER = "member"
    PART = "part"


class UseLine(View):
    """What one member or one part (with all below it) has used; `key` is the person's name or the part's id.

    `storage_microcredits` is how much of it was for storage; that of members together has the key PLATFORM.
    `latest_microcredits` is what was charged in the last LATEST_DAYS days, today among them; `last_day` the day of the
    last charge. Days are those of UTC.
    """

    key: str
    name: str
    microcredits: int
    core_seconds: int
    gpu_seconds: int
    storage_microcredits: int
    latest_microcredits: int
    last_day: date | None


class UseSeries(View):
    """What was spent until the end of each step, in microcredits; the key is OTHERS for all that are not named."""

    key: str
    name: str
    spent_microcredits: list[int]


class Use(View):
    """What was spent of an allocation and by whom; the lines are those that spent most, of `lines_in_all`.

    `granted_microcredits` is what had been given by the end of each step: what lies above the spent is what was left.
    """

    lines: list[UseLine]
    lines_in_all: int
    microcredits: int
    series: list[UseSeries]
    granted_microcredits: list[int]
    starts_at: str
    step_days: int


class UseOfBoth(View):
    """What one member has used on one part."""

    person: str
    allocation: str
    allocation_name: str
    microcredits: int
    core_seconds: int
    gpu_seconds: int
    storage_microcredits: int
    last_day: date


class AllocationUse(Use):
    """The use of an allocation with the allocation itself, and when nothing is left of it at the present pace."""

    allocation: AllocationView
    is_divided: bool
    projected_end: date | None


def read_use(connection: Connection, top: Allocation, subtree: Sequence[Allocation], by: By, now_ms: int) -> Use:
    """Return the use of an allocation and all below it (`subtree`, parents first)."""
    today_ms = now_ms - now_ms % MS_PER_DAY
    since_ms = today_ms - (LATEST_DAYS - 1) * MS_PER_DAY
    ids = [node.id for node in subtree]
    if by is By.MEMBER:
        lines = _members(connection, ids, since_ms)
        named = {line.key: daily_use.c.person == line.key for line in lines[:SERIES_MAX]}
    else:
        parts = _parts(top, subtree)
        lines = _of_parts(connection, parts, {node.id: node.name for node in subtree}, since_ms)
        named = {line.key: daily_use.c.allocation_id.in_(parts[line.key]) for line in lines[:SERIES_MAX]}
    first_ms = min(top.starts_at_ms, now_ms) // MS_PER_DAY * MS_PER_DAY
    days = (now_ms - first_ms) // MS_PER_DAY + 1
    step_days = -(-days // STEPS_MAX)
    steps = -(-days // step_days)
    which = case(*[(condition, key) for key, condition in named.items()], else_=OTHERS) if named else literal(OTHERS)
    step_of = _step(daily_use.c.day_ms, first_ms, step_days).label("step")
    rows = connection.execute(
        _used(ids, step_of, which.label("key"), func.sum(daily_use.c.microcredits)).group_by("step", "key")
    )
    spent = {key: [0] * steps for key in (*named, OTHERS)}
    for step, key, microcredits in rows:
        # What was charged before the term began, to an allocation that was renewed, counts from its first day on.
        spent[key][min(max(int(step), 0), steps - 1)] += int(microcredits)
    names = {line.key: line.name for line in lines}
    return Use(
        lines=lines[:LINES_MAX],
        lines_in_all=len(lines),
        microcredits=sum(line.microcredits for line in lines),
        series=[
            UseSeries(key=key, name=names.get(key, "all others"), spent_microcredits=_running(amounts))
            for key, amounts in spent.items()
            if key != OTHERS or any(amounts)
        ],
        granted_microcredits=_granted(connection, top, first_ms, step_days, steps),
        starts_at=to_rfc3339(first_ms),
        step_days=step_days,
    )


def read_use_by_both(connection: Connection, subtree: Sequence[Allocation]) -> list[UseOfBoth]:
    """Return what each member has used on each part, the largest first."""
    names = {node.id: node.name for node in subtree}
    person, node = daily_use.c.person, daily_use.c.allocation_id
    rows = connection.execute(_used(list(names), person, node, *_SUMS).group_by(person, node)).all()
    return [
        UseOfBoth(
            person=row.person,
            allocation=row.allocation_id,
            allocation_name=names[row.allocation_id],
            microcredits=int(row.microcredits),
            core_seconds=int(row.core_seconds),
            gpu_seconds=int(row.gpu_seconds),
            storage_microcredits=int(row.storage_microcredits),
            last_day=day_of(row.last_ms),
        )
        for row in sorted(rows, key=lambda row: (-row.microcredits, row.person, row.allocation_id))
    ]


def _members(connection: Connection, ids: Sequence[str], since_ms: int) -> list[UseLine]:
    """Return what each member has used, the largest first."""
    person = daily_use.c.person
    rows = connection.execute(_used(ids, person.label("key"), *_SUMS, _latest(since_ms)).group_by(person))
    lines = (_line(row.key, TOGETHER if row.key == PLATFORM else row.key, [row]) for row in rows)
    return sorted(lines, key=_largest_first)


def _of_parts(
    connection: Connection, parts: dict[str, list[str]], names: dict[str, str], since_ms: int
) -> list[UseLine]:
    """Return what each part has used with all below it, the largest first; the allocation's own line is its rest."""
    node = daily_use.c.allocation_id
    used = _used(list(names), node.label("key"), *_SUMS, _latest(since_ms)).group_by(node)
    rows = {row.key: row for row in connection.execute(used)}
    lines = (_line(key, names[key], [rows[one] for one in nodes if one in rows]) for key, nodes in parts.items())
    return sorted(lines, key=_largest_first)


def _parts(top: Allocation, subtree: Sequence[Allocation]) -> dict[str, list[str]]:
    """Return the nodes of each direct part, by its id, and the allocation itself alone by its own."""
    part_of = {top.id: top.id}
    parts: dict[str, list[str]] = {top.id: [top.id]}
    for node in subtree[1:]:
        part = node.id if node.parent_id == top.id else part_of[node.parent_id or ""]
        part_of[node.id] = part
        parts.setdefault(part, []).append(node.id)
    return parts


_SUMS = (
    func.sum(daily_use.c.microcredits).label("microcredits"),
    func.sum(daily_use.c.core_seconds).label("core_seconds"),
    func.sum(daily_use.c.gpu_seconds).label("gpu_seconds"),
    func.sum(daily_use.c.storage_microcredits).label("storage_microcredits"),
    func.max(daily_use.c.day_ms).label("last_ms"),
)


def _used(ids: Sequence[str], *columns: ColumnElement[Any]) -> Select[Any]:
    return select(*columns).where(daily_use.c.allocation_id.in_(list(ids)))


def _latest(since_ms: int) -> ColumnElement[Any]:
    return func.sum(case((daily_use.c.day_ms >= since_ms, daily_use.c.microcredits), else_=0)).label("latest")


def _line(key: str, name: str, rows: Sequence[Row[Any]]) -> UseLine:
    return UseLine(
        key=key,
        name=name,
        microcredits=sum(int(row.microcredits) for row in rows),
        core_seconds=sum(int(row.core_seconds) for row in rows),
        gpu_seconds=sum(int(row.gpu_seconds) for row in rows),
        storage_microcredits=sum(int(row.storage_microcredits) for row in rows),
        latest_microcredits=sum(int(row.latest) for row in rows),
        last_day=max((day_of(row.last_ms) for row in rows), default=None),
    )


def _largest_first(line: UseLine) -> tuple[int, str]:
    return -line.microcredits, line.name


def _granted(connection: Connection, top: Allocation, first_ms: int, step_days: int, steps: int) -> list[int]:
    """Return what the allocation itself had been given by the end of each step: grants, refills, and what was moved."""
    given = case((journal.c.debit == Account.BUDGET, journal.c.amount), else_=-journal.c.amount)
    rows = connection.execute(
        select(_step(journal.c.at_ms, first_ms, step_days).label("step"), func.sum(given))
        .where(
            journal.c.allocation_id == top.id,
            journal.c.unit == Unit.CREDITS,
            # In these very words the index of what changed limits is found, on both databases.
            text("(debit = 'budget' OR credit = 'budget')"),
        )
        .group_by("step")
    )
    amounts = [0] * steps
    for step, microcredits in rows:
        amounts[min(max(int(step), 0), steps - 1)] += int(microcredits)
    return _running(amounts)


def _step(at_ms: ColumnElement[int], first_ms: int, step_days: int) -> ColumnElement[int]:
    # Before the first step it is negative or 0, whichever way the database rounds.
    return (at_ms - first_ms) // (step_days * MS_PER_DAY)


def _running(amounts: Sequence[int]) -> list[int]:
    total, running = 0, []
    for amount in amounts:
        total += amount
        running.append(total)
    return running
