"""Draws burn-downs as SVG: what was left on each day, and on to when nothing will be, at the present rate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, from_datetime
from allocations.reports.burn_down import PACE_DAYS, RECENT_DAYS
from allocations.web.formats import to_ms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from allocations.reports.allocations import AllocationView
    from allocations.reports.burn_down import BurnDown

# The inner picture is so many units wide and high, and stretched to what there is room for.
SIDE = 1000
PERCENT = 100
# Labels nearer to each other than this share of the width would overlap in a narrow window.
LABEL_PERCENT = 30
URGENT_DAYS = 30


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a burn-down comes to: nothing left on `spent_on`, before the allocation's end, or something unspent then."""

    has_ended: bool
    pace_days: int
    per_day_microcredits: int
    refill_microcredits: int
    left_microcredits: int
    spent_on: date | None
    days_before_end: int
    is_urgent: bool
    unspent_microcredits: int

    @classmethod
    def of(cls, burned: BurnDown, allocation: AllocationView, now_ms: int) -> Outlook:
        """Look ahead to the allocation's end."""
        end_ms = to_ms(allocation.ends_at)
        left, per_day = burned.days[-1].left_microcredits, burned.charged_per_day_microcredits
        days_to_end = max(0, end_ms - now_ms) // MS_PER_DAY
        spent_ms = None if burned.projected_end is None else _to_ms(burned.projected_end)
        is_spent = spent_ms is not None and spent_ms < end_ms and left > 0
        lost = per_day - burned.refill_per_day_microcredits
        return cls(
            has_ended=end_ms <= now_ms,
            pace_days=min(PACE_DAYS, len(burned.days)),
            per_day_microcredits=per_day,
            refill_microcredits=burned.refill_per_day_microcredits,
            left_microcredits=max(0, left),
            spent_on=burned.projected_end if is_spent else None,
            days_before_end=(end_ms - spent_ms) // MS_PER_DAY if is_spent and spent_ms is not None else 0,
            is_urgent=is_spent and spent_ms is not None and spent_ms - now_ms < URGENT_DAYS * MS_PER_DAY,
            unspent_microcredits=max(0, left - max(0, lost) * days_to_end),
        )


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture of a burn-down: points of lines in SIDE by SIDE units from the top left, moments in percent.

    `ahead` goes on from today at the present rate, empty without one; `spent` is where it meets the ground, None
    outside of the picture.
    """

    line: str
    ground: str
    ahead: str
    today: float
    spent: float | None
    first: date
    last: date
    top_microcredits: int
    label_today: bool
    label_spent_before: bool

    @classmethod
    def whole(cls, burned: BurnDown, allocation: AllocationView, now_ms: int) -> Chart:
        """Draw from the start to the allocation's end, or where that has passed, to today."""
        return _draw(burned, _to_ms(burned.days[0].day), max(to_ms(allocation.ends_at), now_ms), now_ms)

    @classmethod
    def recent(cls, burned: BurnDown, allocation: AllocationView, now_ms: int) -> Chart:
        """Draw the latest days, and as many ahead, at most to the allocation's end."""
        ahead_ms = min(to_ms(allocation.ends_at), now_ms + RECENT_DAYS * MS_PER_DAY)
        return _draw(burned, _to_ms(burned.days[0].day), max(ahead_ms, now_ms), now_ms)


def _draw(burned: BurnDown, first_ms: int, last_ms: int, now_ms: int) -> Chart:
    before = burned.days[0].left_microcredits + burned.days[0].charged_microcredits
    left = burned.days[-1].left_microcredits
    top = max(1, before, *(day.left_microcredits for day in burned.days))
    width = max(1, last_ms - first_ms)

    def points(moments: Iterable[tuple[int, float]]) -> str:
        return " ".join(
            f"{SIDE * (at_ms - first_ms) / width:.1f},{SIDE - SIDE * min(1.0, max(0.0, amount / top)):.1f}"
            for at_ms, amount in moments
        )

    past: list[tuple[int, float]] = [(first_ms, before)]
    past += [(_to_ms(day.day) + MS_PER_DAY, day.left_microcredits) for day in burned.days[:-1]]
    past.append((now_ms, left))
    lost = burned.charged_per_day_microcredits - burned.refill_per_day_microcredits
    spent_ms = now_ms + left * MS_PER_DAY // lost if lost > 0 and left > 0 else None
    is_inside = spent_ms is not None and spent_ms <= last_ms
    ahead: list[tuple[int, float]] = []
    if left > 0 and last_ms > now_ms and burned.charged_per_day_microcredits:
        ahead = [(now_ms, left), (last_ms, left - max(0, lost) * (last_ms - now_ms) / MS_PER_DAY)]
        if is_inside and spent_ms is not None:
            ahead[1] = (spent_ms, 0)
    today = round(PERCENT * (now_ms - first_ms) / width, 2)
    spent = round(PERCENT * (spent_ms - first_ms) / width, 2) if is_inside and spent_ms is not None else None
    return Chart(
        line=points(past),
        ground=points([(first_ms, 0), *past, (now_ms, 0)]),
        ahead=points(ahead),
        today=today,
        spent=spent,
        first=_date(first_ms),
        last=_date(last_ms),
        top_microcredits=top,
        label_today=LABEL_PERCENT <= today <= PERCENT - LABEL_PERCENT,
        label_spent_before=spent is not None and spent > PERCENT / 2,
    )


def _to_ms(day: date) -> int:
    return from_datetime(datetime(day.year, day.month, day.day, tzinfo=UTC))


def _date(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).date()
