"""What was charged and granted on each day to allocations with all below them, found without reading their journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, case, func, select, text

from allocations.clock import MS_PER_DAY
from allocations.db.schema import daily_use, journal
from allocations.ledger.models import Account, Unit

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from sqlalchemy import BindParameter, Connection

_TOPS: BindParameter[list[str]] = bindparam("tops", expanding=True)
_SINCE: BindParameter[int] = bindparam("since_ms")
_NODES: BindParameter[list[str]] = bindparam("nodes", expanding=True)
_WANTED = (daily_use.c.allocation_id.in_(_NODES), daily_use.c.day_ms >= _SINCE)
_SUM = func.sum(daily_use.c.microcredits)
_OF_ALL = select(daily_use.c.day_ms, _SUM).where(*_WANTED).group_by(daily_use.c.day_ms)
_OF_EACH = (
    select(daily_use.c.allocation_id, daily_use.c.day_ms, _SUM)
    .where(*_WANTED)
    .group_by(daily_use.c.allocation_id, daily_use.c.day_ms)
)
_DAY = (journal.c.at_ms - journal.c.at_ms % MS_PER_DAY).label("day")
_GRANTED = (
    select(
        journal.c.allocation_id,
        _DAY,
        func.sum(case((journal.c.debit == Account.BUDGET, journal.c.amount), else_=-journal.c.amount)),
    )
    .where(
        journal.c.allocation_id.in_(_TOPS),
        journal.c.unit == Unit.CREDITS,
        # In these very words the index of what changed limits is found, on both databases.
        text("(debit = 'budget' OR credit = 'budget')"),
        journal.c.at_ms >= _SINCE,
    )
    .group_by(journal.c.allocation_id, _DAY)
)


def moved_by_day(
    connection: Connection, below: Mapping[str, Collection[str]], since_ms: int = 0
) -> dict[str, dict[int, tuple[int, int]]]:
    """Return for each allocation (charged to it and all below, granted to it) in microcredits, by the first millisecond
    of the UTC day; `below` are the ids of each with all below it, `since_ms` begins a day.

    Granted is what its own limit grew by: parts move within it.
    """
    wanted = {"tops": list(below), "since_ms": since_ms}
    moved: dict[str, dict[int, tuple[int, int]]] = {top: {} for top in below}
    for top, day_ms, charged in _charged(connection, below, since_ms):
        moved[top][day_ms] = (moved[top].get(day_ms, (0, 0))[0] + charged, 0)
    for top, day_ms, granted in connection.execute(_GRANTED, wanted):
        moved[top][int(day_ms)] = (moved[top].get(int(day_ms), (0, 0))[0], int(granted))
    return moved


def _charged(
    connection: Connection, below: Mapping[str, Collection[str]], since_ms: int
) -> Iterator[tuple[str, int, int]]:
    """Yield (allocation, day, charged there or somewhere below on that day); of several below, each by itself.

    The ids are known, and sent: of those that it finds by itself the database cannot know how few they are, and
    PostgreSQL would read the use of everybody.
    """
    if len(below) == 1:
        # Of one tree, which may be all there is, the database adds up the days.
        for top, nodes in below.items():
            for day_ms, charged in connection.execute(_OF_ALL, {"nodes": list(nodes), "since_ms": since_ms}):
                yield top, int(day_ms), int(charged)
        return
    tops_of: dict[str, list[str]] = {}
    for top, nodes in below.items():
        for node in nodes:
            tops_of.setdefault(node, []).append(top)
    for node, day_ms, charged in connection.execute(_OF_EACH, {"nodes": list(tops_of), "since_ms": since_ms}):
        for top in tops_of[node]:
            yield top, int(day_ms), int(charged)
