"""How fast an allocation is spent: every day's charges from the journal, and when nothing will be left."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from sqlalchemy import case, func, select

from allocations.clock import MS_PER_DAY, MS_PER_SECOND
from allocations.db.schema import journal
from allocations.leases.views import View
from allocations.ledger.models import Account, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.lifecycle.models import Allocation

# The pace of a burn-down is that of so many days; farther ahead than a century, a date would say nothing.
PACE_DAYS = 14
PROJECTED_DAYS_MAX = 36_500


class BurnDownDay(View):
    """A UTC day: what was charged, refunds taken off, and what the limit left at its end."""

    day: date
    charged_microcredits: int
    left_microcredits: int


class BurnDown(View):
    """Every day since the start, and when nothing will be left at the pace of the last 14; None without a pace."""

    days: list[BurnDownDay]
    projected_end: date | None


def read_burn_down(connection: Connection, allocation: Allocation, subtree_ids: Sequence[str], now_ms: int) -> BurnDown:
    """Return the burn-down of an allocation with all below it, from the journal."""
    day = (journal.c.at_ms - journal.c.at_ms % MS_PER_DAY).label("day")
    charged = case(
        (journal.c.credit == Account.POSTED, journal.c.amount),
        (journal.c.debit == Account.POSTED, -journal.c.amount),
        else_=0,
    )
    # The limit as it was: refills and grants of the allocation itself; those below it move within it.
    granted = case(
        (journal.c.allocation_id != allocation.id, 0),
        (journal.c.debit == Account.BUDGET, journal.c.amount),
        (journal.c.credit == Account.BUDGET, -journal.c.amount),
        else_=0,
    )
    moved = {
        int(row[0]): (int(row[1]), int(row[2]))
        for row in connection.execute(
            select(day, func.sum(charged), func.sum(granted))
            .where(journal.c.allocation_id.in_(list(subtree_ids)), journal.c.unit == Unit.CREDITS)
            .group_by(day)
        )
    }
    return burn_down(moved, allocation.starts_at_ms, now_ms)


def burn_down(moved: Mapping[int, tuple[int, int]], starts_at_ms: int, now_ms: int) -> BurnDown:
    """Return the days from the start to now; `moved` has (charged, granted) microcredits by the UTC day's first ms."""
    today = now_ms - now_ms % MS_PER_DAY
    first = min(starts_at_ms - starts_at_ms % MS_PER_DAY, today)
    left = sum(granted - charged for day, (charged, granted) in moved.items() if day < first)
    days = []
    for day in range(first, today + 1, MS_PER_DAY):
        charged, granted = moved.get(day, (0, 0))
        left += granted - charged
        days.append(BurnDownDay(day=_date(day), charged_microcredits=charged, left_microcredits=left))
    latest = days[-PACE_DAYS:]
    spent = sum(one.charged_microcredits for one in latest)
    if spent <= 0:
        return BurnDown(days=days, projected_end=None)
    days_left = max(0, left) * len(latest) // spent
    projected = _date(today + days_left * MS_PER_DAY) if days_left <= PROJECTED_DAYS_MAX else None
    return BurnDown(days=days, projected_end=projected)


def _date(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC).date()
