"""How fast an allocation is spent: every day's charges, and when nothing will be left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, MS_PER_SECOND
from allocations.leases.views import View
from allocations.reports.daily_moves import moved_by_day

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import Connection

    from allocations.lifecycle.models import Allocation

# The pace of a burn-down is that of so many days; farther ahead than a century, a date would say nothing.
PACE_DAYS = 14
RECENT_DAYS = 28
PROJECTED_DAYS_MAX = 36_500


class BurnDownDay(View):
    """A UTC day: what was charged, refunds taken off, and what the limit left at its end."""

    day: date
    charged_microcredits: int
    left_microcredits: int


class BurnDown(View):
    """Days up to today, and when nothing will be left at the pace of the last 14.

    `projected_end` is None without a pace, and where the daily refill makes up for it.
    """

    days: list[BurnDownDay]
    projected_end: date | None
    charged_per_day_microcredits: int = 0
    refill_per_day_microcredits: int = 0


@dataclass(frozen=True, slots=True)
class Burning:
    """What a look at the latest days begins with: when an allocation began, what its limit leaves now, its refill."""

    starts_at_ms: int
    left_microcredits: int
    refill_per_day_microcredits: int


def read_burn_down(
    connection: Connection,
    allocation: Allocation,
    nodes: Collection[str],
    refill_per_day_microcredits: int,
    now_ms: int,
) -> BurnDown:
    """Return the burn-down of an allocation with all below it (`nodes`, itself among them) since its start."""
    moved = moved_by_day(connection, {allocation.id: nodes})[allocation.id]
    left = sum(granted - charged for charged, granted in moved.values())
    return burn_down(moved, Burning(allocation.starts_at_ms, left, refill_per_day_microcredits), now_ms)


def read_recent_burn_downs(
    connection: Connection, burning: Mapping[str, Burning], below: Mapping[str, Collection[str]], now_ms: int
) -> dict[str, BurnDown]:
    """Return the last 28 days of allocations by id, each with all below it (`below`, itself among them)."""
    today = now_ms - now_ms % MS_PER_DAY
    since_ms = today - (RECENT_DAYS - 1) * MS_PER_DAY
    moved = moved_by_day(connection, {top: below[top] for top in burning}, since_ms)
    return {
        top: burn_down(moved[top], replace(one, starts_at_ms=max(one.starts_at_ms, since_ms)), now_ms)
        for top, one in burning.items()
    }


def burn_down(moved: Mapping[int, tuple[int, int]], burning: Burning, now_ms: int) -> BurnDown:
    """Return the days from the start to now; `moved` has (charged, granted) microcredits by the UTC day's first ms."""
    today = now_ms - now_ms % MS_PER_DAY
    first = min(burning.starts_at_ms - burning.starts_at_ms % MS_PER_DAY, today)
    left = burning.left_microcredits - sum(
        granted - charged for day, (charged, granted) in moved.items() if day >= first
    )
    days = []
    for day in range(first, today + 1, MS_PER_DAY):
        charged, granted = moved.get(day, (0, 0))
        left += granted - charged
        days.append(BurnDownDay(day=_date(day), charged_microcredits=charged, left_microcredits=left))
    latest = days[-PACE_DAYS:]
    charged = max(0, sum(one.charged_microcredits for one in latest))
    lost = charged - burning.refill_per_day_microcredits * len(latest)
    days_left = max(0, left) * len(latest) // lost if lost > 0 else PROJECTED_DAYS_MAX + 1
    return BurnDown(
        days=days,
        projected_end=_date(today + days_left * MS_PER_DAY) if days_left <= PROJECTED_DAYS_MAX else None,
        charged_per_day_microcredits=charged // len(latest),
        refill_per_day_microcredits=burning.refill_per_day_microcredits,
    )


def _date(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC).date()
