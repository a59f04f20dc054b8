"""When a schedule is due: a cron expression of five fields, read in a time zone.

The times on the wall clock come from the library; what they are in the zone, where the clock is moved twice a year, is
decided here, as Debian's cron does it:

- An expression with a fixed time of day (neither its minute nor its hour begins with `*`) runs once for each of its
  times: one that is skipped because the clock goes forward comes at the first moment after the gap, and one that the
  clock shows twice comes the first time only.
- One with `*` in the minute or the hour goes by what the clock shows: what is skipped does not come, and what is shown
  twice comes twice, so that `*/10 * * * *` is every ten minutes throughout.
"""

from __future__ import annotations

import heapq
import zoneinfo
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, takewhile
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from allocations.clock import MS_PER_SECOND
from allocations.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = 5
LENGTH_MAX = 100
# The clock was never put back by more than this since 1970, but by a whole day where the date line moved (Kwajalein,
# 1969); the farthest is Antarctica's Casey station with three hours.
BACK_MAX = timedelta(hours=4)
MINUTE = timedelta(minutes=1)
FIRST_STRETCH_MS = 3_600_000
# A time that does not come within these is taken for none: the 29th of February comes every eighth year at the rarest.
HORIZON = timedelta(days=9 * 366)
_REMEDY = "Write five fields (minute, hour, day of month, month, day of week), such as 30 6 * * MON-FRI."


@dataclass(frozen=True, slots=True)
class Planned:
    """A time of a schedule; `note` says what the change of the clock does to it, empty on most days."""

    at: datetime
    note: str = ""

    @property
    def at_ms(self) -> int:
        """The time in milliseconds since the epoch."""
        return round(self.at.timestamp() * MS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a zone, both known to be right."""

    expression: str
    zone: ZoneInfo

    @property
    def is_fixed(self) -> bool:
        """Whether it names times of day, not a rhythm."""
        minute, hour = self.expression.split()[:2]
        return not minute.startswith("*") and not hour.startswith("*")

    @property
    def words(self) -> str:
        """The expression in English, with the zone."""
        return f"{CronSim(self.expression, _EPOCH).explain()} ({self.zone.key})"

    def after(self, at_ms: int) -> Iterator[Planned]:
        """Yield every planned time later than a moment, in order."""
        moment = datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC)
        found = self._fixed(moment) if self.is_fixed else self._rhythm(moment)
        last = moment
        for planned in found:
            if planned.at > last:
                last = planned.at
                yield planned

    def next(self, at_ms: int) -> Planned | None:
        """Return the first planned time later than a moment; None when there is none within some years."""
        horizon = datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC) + HORIZON
        planned = next(self.after(at_ms), None)
        return planned if planned is not None and planned.at <= horizon else None

    def coming(self, at_ms: int, count: int) -> list[Planned]:
        """Return the next few planned times."""
        return list(islice(self.after(at_ms), count))

    def last(self, from_ms: int, until_ms: int, count: int) -> list[int]:
        """Return the last few planned times (milliseconds since the epoch) from one moment to another, both included.

        They are looked for from the end, in ever longer stretches: a year of minutes is not walked through.
        """
        stretch_ms = FIRST_STRETCH_MS
        while True:
            begin_ms = max(from_ms, until_ms - stretch_ms)
            found: deque[int] = deque(maxlen=count)
            found.extend(takewhile(lambda at_ms: at_ms <= until_ms, (one.at_ms for one in self.after(begin_ms - 1))))
            if len(found) == count or begin_ms == from_ms:
                return list(found)
            stretch_ms *= 4

    # ------------------------------------------------------------------ inside

    def _walls(self, wall: datetime) -> Iterator[datetime]:
        """Yield what the wall clock shows at each of its times, later than something that it shows."""
        return CronSim(self.expression, wall)

    def _fixed(self, after: datetime) -> Iterator[Planned]:
        # What is shown at a later moment may be earlier on the clock only where it was put back; these come the first
        # time only, and that is over.
        for wall in self._walls(after.astimezone(self.zone).replace(tzinfo=None, microsecond=0, fold=0)):
            first = wall.replace(tzinfo=self.zone)
            if _exists(first):
                is_shown_twice = first.utcoffset() != first.replace(fold=1).utcoffset()
                note = (
                    f"The clock shows {wall:%H:%M} twice on that day: this is the first time." if is_shown_twice else ""
                )
                yield Planned(first.astimezone(UTC), note)
            else:
                yield Planned(
                    _end_of_gap(first), f"The clock skips {wall:%H:%M} on that day: this is the first moment after."
                )

    def _rhythm(self, after: datetime) -> Iterator[Planned]:
        # Where the clock is put back, what it shows runs ahead of the time: a moment is given out when nothing that is
        # shown later can be earlier any more.
        ready: list[datetime] = []
        start = after.astimezone(self.zone).replace(tzinfo=None, microsecond=0, fold=0) - BACK_MAX
        for wall in self._walls(start):
            first = wall.replace(tzinfo=self.zone)
            if _exists(first):
                for moment in {first.astimezone(UTC), first.replace(fold=1).astimezone(UTC)}:
                    heapq.heappush(ready, moment)
            while ready and ready[0].astimezone(self.zone).replace(tzinfo=None, fold=0) < wall - BACK_MAX:
                yield self._as_shown(heapq.heappop(ready))
        while ready:
            yield self._as_shown(heapq.heappop(ready))

    def _as_shown(self, moment: datetime) -> Planned:
        shown = moment.astimezone(self.zone)
        if shown.utcoffset() == shown.replace(fold=1 - shown.fold).utcoffset():
            return Planned(moment)
        which = "second" if shown.fold else "first"
        return Planned(moment, f"The clock shows {shown:%H:%M} twice on that day: this is the {which} time.")


_EPOCH = datetime(2000, 1, 1)  # noqa: DTZ001  # a time on the wall, of no zone


def require_cron(expression: str, zone: str) -> Cron:
    """Return an expression in a zone; InvalidInputError that says which of them is wrong, and how to write it."""
    cron = Cron(" ".join(expression.split()), require_zone(zone))
    if len(expression) > LENGTH_MAX or len(cron.expression.split()) != FIELDS:
        raise InvalidInputError(f"{expression[:LENGTH_MAX]!r} is not a cron expression of five fields.", _REMEDY)
    try:
        CronSim(cron.expression, _EPOCH)
    except (CronSimError, ValueError) as error:
        raise InvalidInputError(
            f"{expression!r} is not a cron expression: {str(error).lower() or 'it cannot be read'}.", _REMEDY
        ) from error
    return cron


def in_words(at_ms: int, zone: ZoneInfo) -> str:
    """Return a time as people say it in a zone, such as Sunday 29 March 2026, 03:00 (CEST, UTC+02:00)."""
    shown = datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=zone)
    name, offset = shown.tzname() or "", f"{shown:%z}"
    known = f"UTC{offset[:3]}:{offset[3:5]}"
    if name == "UTC":
        known = name
    elif name.isalpha():  # many zones have no name of their own for their time, but only a number
        known = f"{name}, {known}"
    return f"{shown:%A} {shown.day} {shown:%B %Y}, {shown:%H:%M} ({known})"


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Return the names of the time zones that there are."""
    return frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})


def require_zone(name: str) -> ZoneInfo:
    """Return a time zone; InvalidInputError when there is none of that name."""
    if name not in zone_names():
        raise InvalidInputError(
            f"There is no time zone {name[:LENGTH_MAX]!r}.", "Write one such as UTC, Europe/Berlin or America/New_York."
        )
    return ZoneInfo(name)


def _exists(wall: datetime) -> bool:
    """Say whether the clock of a zone ever shows this."""
    return wall.astimezone(UTC).astimezone(wall.tzinfo).replace(tzinfo=None) == wall.replace(tzinfo=None)


def _end_of_gap(wall: datetime) -> datetime:
    """Return the first moment after the gap in which something falls that the clock skips.

    With fold=1 such a time is read by the offset after the gap, which is a moment before it; with fold=0 by the one
    before, which is a moment after it.
    """
    early, late = wall.replace(fold=1).astimezone(UTC), wall.replace(fold=0).astimezone(UTC)
    before = early.astimezone(wall.tzinfo).utcoffset()
    while late - early > MINUTE:
        middle = early + (late - early) / 2
        middle -= timedelta(seconds=middle.second, microseconds=middle.microsecond)
        middle = max(middle, early + MINUTE) if middle <= early else middle
        if middle.astimezone(wall.tzinfo).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late
