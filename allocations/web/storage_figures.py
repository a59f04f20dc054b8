"""Figures of storage: how full an area is, and how it grew, as pictures and as the sentences that say the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND
from allocations.reports.storage import TREND_DAYS
from allocations.storage.models import StorageState
from allocations.web.formats import days_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allocations.reports.storage_views import AreaView, StorageDay

STORAGE_BADGES = {"ok": "ok", "nearing limit": "warn", "over limit": "bad", "locked": "bad"}
SIDE = 1000
# The line of a limit far above what is used would leave of the use but a line on the ground.
LIMIT_TO_MOST_MAX = 4
# Growth is told over so many days.
PACE_DAYS = 30
FORETOLD_DAYS_MAX = 365
# Whatever measures areas does so some times a day.
STALE_DAYS = 2


@dataclass(frozen=True, slots=True)
class Meter:
    """How full an area is, in percent of its bar; `percent` may be above 100, `filled` is not."""

    percent: int | None
    filled: float
    is_low: bool

    @classmethod
    def of(cls, area: AreaView) -> Meter:
        """Measure an area against its limit; without one the bar is empty."""
        if area.bytes is None or not area.limit_bytes:
            return cls(None, 0.0, is_low=False)
        percent = 100 * area.bytes / area.limit_bytes
        return cls(int(percent), round(min(100.0, percent), 2), is_low=area.state is not StorageState.OK)


def is_stale(area: AreaView, now_ms: int) -> bool:
    """Say whether an area should have been measured again by now."""
    return area.measured_at is not None and days_until(area.measured_at, now_ms) < -STALE_DAYS


@dataclass(frozen=True, slots=True)
class Trend:
    """A picture of an area's last days, in SIDE by SIDE units from the top left, and what it comes to.

    `limit_y` is where the limit lies, None where there is none or it is far above. `grown_bytes` is what came to it in
    `pace_days`; `full_on` the day on which it is at its limit at that pace, None when that is far or never.
    """

    line: str
    ground: str
    limit_y: float | None
    first: date
    last: date
    top_bytes: int
    first_bytes: int
    last_bytes: int
    most_bytes: int
    pace_days: int
    grown_bytes: int
    full_on: date | None

    @classmethod
    def of(cls, days: Sequence[StorageDay], limit_bytes: int | None, now_ms: int) -> Trend | None:
        """Draw the days up to today; None when there are not two of them."""
        if len(days) < 2:  # noqa: PLR2004  # one point is no line
            return None
        today = datetime.fromtimestamp(now_ms / MS_PER_SECOND, tz=UTC).date()
        first = max(days[0].day, today - timedelta(days=TREND_DAYS - 1))
        width = max(1, (today - first).days)
        most = max(1, *(one.bytes for one in days))
        shows_limit = limit_bytes is not None and limit_bytes <= most * LIMIT_TO_MOST_MAX
        top = max(most, limit_bytes) if shows_limit and limit_bytes is not None else most

        def y(count: int) -> float:
            return round(SIDE * (1 - count / top), 1)

        points = [(round(SIDE * (one.day - first).days / width, 1), y(one.bytes)) for one in days]
        line = " ".join(f"{x},{height}" for x, height in points)
        pace = _pace(days)
        return cls(
            line=line,
            ground=f"{points[0][0]},{SIDE} {line} {points[-1][0]},{SIDE}",
            limit_y=y(limit_bytes) if shows_limit and limit_bytes is not None else None,
            first=first,
            last=today,
            top_bytes=top,
            first_bytes=days[0].bytes,
            last_bytes=days[-1].bytes,
            most_bytes=most,
            pace_days=pace[0],
            grown_bytes=pace[1],
            full_on=_full_on(days[-1], limit_bytes, *pace),
        )


def _pace(days: Sequence[StorageDay]) -> tuple[int, int]:
    """Return over how many of the latest days something grew by how many bytes."""
    last = days[-1]
    begin = next(one for one in days if (last.day - one.day).days <= PACE_DAYS)
    return max(1, (last.day - begin.day).days), last.bytes - begin.bytes


def _full_on(last: StorageDay, limit_bytes: int | None, pace_days: int, grown_bytes: int) -> date | None:
    if limit_bytes is None or grown_bytes <= 0 or last.bytes >= limit_bytes:
        return None
    ahead = (limit_bytes - last.bytes) * pace_days // grown_bytes
    return last.day + timedelta(days=ahead) if ahead <= FORETOLD_DAYS_MAX else None
