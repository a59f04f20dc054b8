"""The service's clock: the only time that counts for charges, injected everywhere, never running backwards."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

MS_PER_SECOND = 1000
SECONDS_PER_DAY = 86_400
MS_PER_DAY = SECONDS_PER_DAY * MS_PER_SECOND
NS_PER_MS = 1_000_000
CORRECTION_PERCENT_MAX = 5


class Clock(Protocol):
    """Tells the time in milliseconds since the epoch (UTC)."""

    def now_ms(self) -> int: ...


def boottime_ns() -> int:
    """Return the nanoseconds since the machine started, suspension included; nobody can step this clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class SystemClock:
    """The machine's wall clock without its steps: invariant 8.

    It begins at the wall clock and goes on with the time since the machine started. Where it differs from the wall
    clock, it is drawn there by at most CORRECTION_PERCENT_MAX of the time that passed. So it never runs backwards,
    and a step of the wall clock, forwards or backwards and however large, changes no duration that one
    process measures, hence no charge of it, by more than that; a process that starts after the step begins at the
    new wall clock. The 5 % are a bound that we chose, not a standard's: an hour's step is worked off in 20 hours,
    and the kernel's own slewing (500 parts in a million) stays far below it.
    """

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        elapsed_ns: Callable[[], int] = boottime_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._elapsed_ns = elapsed_ns
        self._lock = threading.Lock()
        self._reading_ns = wall_ns()
        self._read_at_ns = elapsed_ns()

    def now_ms(self) -> int:
        # Two threads could each add the same elapsed time: both raw clocks are read, and the sum kept, under the lock.
        with self._lock:
            read_at_ns = self._elapsed_ns()
            elapsed_ns = read_at_ns - self._read_at_ns
            straight_ns = self._reading_ns + elapsed_ns
            most_ns = elapsed_ns * CORRECTION_PERCENT_MAX // 100
            error_ns = self._wall_ns() - straight_ns
            self._reading_ns = straight_ns + max(-most_ns, min(error_ns, most_ns))
            self._read_at_ns = read_at_ns
            return self._reading_ns // NS_PER_MS


def to_rfc3339(at_ms: int) -> str:
    """Format milliseconds since the epoch as RFC 3339 in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_date(at_ms: int) -> date:
    """Return the day of a time, milliseconds since the epoch, in UTC."""
    return datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC).date()


def from_datetime(moment: datetime) -> int:
    """Return milliseconds since the epoch; a time without a zone is taken as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * MS_PER_SECOND)
