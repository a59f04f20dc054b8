"""The service's clock: the only time that counts for charges, injected everywhere, never running backwards."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol

MS_PER_SECOND = 1000
SECONDS_PER_DAY = 86_400
MS_PER_DAY = SECONDS_PER_DAY * MS_PER_SECOND


class Clock(Protocol):
    """Tells the time in milliseconds since the epoch (UTC)."""

    def now_ms(self) -> int: ...


class SystemClock:
    """The machine's clock, held at its highest reading: a step backwards shows as time standing still.

    A step of the machine's clock must never make a charge negative (invariant 8).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._highest_ms = 0

    def now_ms(self) -> int:
        reading = time.time_ns() // 1_000_000
        with self._lock:
            self._highest_ms = max(self._highest_ms, reading)
            return self._highest_ms


def to_rfc3339(at_ms: int) -> str:
    """Format milliseconds since the epoch as RFC 3339 in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_datetime(moment: datetime) -> int:
    """Return milliseconds since the epoch; a time without a zone is taken as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * MS_PER_SECOND)
