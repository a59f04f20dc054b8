"""How numbers and times read on a page: credits, physical quantities, durations, moments in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, MS_PER_SECOND, SECONDS_PER_DAY, from_datetime
from allocations.ledger.models import Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

MICROCREDITS_PER_CREDIT = 1_000_000
SECONDS_PER_MINUTE = 60
SECONDS_PER_HOUR = 3600
QUANTITIES = {"core_seconds": "core-hours", "gib_seconds": "GiB-hours", "gpu_seconds": "GPU-hours"}
UNITS = {Unit.GPU_SECONDS: "GPU-hours", Unit.CORE_SECONDS: "Core-hours"}
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def to_credits(microcredits: int) -> str:
    """Credits: two decimals, or as many as it takes to show two digits of a small amount."""
    amount = Decimal(microcredits) / MICROCREDITS_PER_CREDIT
    decimals = 2 if not amount else max(2, 1 - amount.adjusted())
    return f"{amount:,.{decimals}f}"


def to_exact_credits(microcredits: int) -> str:
    """Credits with every digit and no separators, as a form takes them."""
    text = f"{Decimal(microcredits) / MICROCREDITS_PER_CREDIT:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def to_detail(name: str, value: object) -> str:
    """A detail of the audit log in words: amounts as credits, choices as yes and no."""
    if name.endswith("microcredits") and isinstance(value, int):
        return f"{name.removesuffix('microcredits').replace('_', ' ')}{to_credits(value)} credits"
    words = ("no", "yes")[value] if isinstance(value, bool) else str(value)
    return f"{name.replace('_', ' ')}: {words}"


def to_number(number: float) -> str:
    """A number to four digits, with separators and without needless zeros."""
    whole = 1000
    return f"{number:,.0f}" if abs(number) >= whole else f"{number:.4g}"


def to_quantities(quantities: Mapping[str, int]) -> str:
    """Physical quantities as people count them: `1.5 core-hours, 12 GiB-hours`."""
    parts = [
        f"{to_number(quantities[name] / SECONDS_PER_HOUR)} {title}"
        for name, title in QUANTITIES.items()
        if quantities.get(name)
    ]
    return ", ".join(parts) or "none"


def to_duration(seconds: float) -> str:
    """A duration by its two largest units: `45 s`, `12 min 5 s`, `1 h 5 min`, `2 d 3 h`."""
    whole = max(0, int(seconds))
    for size, unit, smaller_size, smaller_unit in (
        (SECONDS_PER_DAY, "d", SECONDS_PER_HOUR, "h"),
        (SECONDS_PER_HOUR, "h", SECONDS_PER_MINUTE, "min"),
        (SECONDS_PER_MINUTE, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size:,} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def to_ms(moment: str) -> int:
    """Milliseconds since the epoch of an RFC 3339 time."""
    return from_datetime(datetime.fromisoformat(moment))


def seconds_until(moment: str, now_ms: int) -> int:
    """Whole seconds until a time; negative when it has passed."""
    return (to_ms(moment) - now_ms) // MS_PER_SECOND


def days_until(moment: str, now_ms: int) -> int:
    """Whole days until a time; negative when it has passed."""
    return (to_ms(moment) - now_ms) // MS_PER_DAY


def to_moment(moment: str) -> str:
    """A time for readers without scripts: `21 Nov 2026, 14:05 UTC`."""
    return _at(moment).strftime("%-d %b %Y, %H:%M UTC")


def to_day(moment: str) -> str:
    """The day of a time in UTC: `21 Nov 2026`."""
    return _at(moment).strftime("%-d %b %Y")


def to_day_of_ms(at_ms: int) -> str:
    """The day of a time in milliseconds since the epoch, in UTC."""
    return datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC).strftime("%-d %b %Y")


def without_ansi(text: str) -> str:
    """Text without the colour codes that a traceback carries for terminals."""
    return _ANSI.sub("", text)


def _at(moment: str) -> datetime:
    return datetime.fromtimestamp(to_ms(moment) / MS_PER_SECOND, tz=UTC)
