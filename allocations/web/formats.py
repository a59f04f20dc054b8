"""How numbers and times read on a page: credits, physical quantities, durations, moments in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, MS_PER_SECOND, SECONDS_PER_DAY, from_datetime, to_rfc3339
from allocations.ledger.models import Unit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

MICROCREDITS_PER_CREDIT = 1_000_000
SECONDS_PER_MINUTE = 60
SECONDS_PER_HOUR = 3600
BYTES_PER_GB = 1_000_000_000
# By the name of each, what people count it in and how much of it that is.
QUANTITIES = {
    "core_seconds": ("core-hours", SECONDS_PER_HOUR),
    "gib_seconds": ("GiB-hours", SECONDS_PER_HOUR),
    "gpu_seconds": ("GPU-hours", SECONDS_PER_HOUR),
    "byte_days": ("GB-days", BYTES_PER_GB),
}
UNITS = {Unit.GPU_SECONDS: "GPU-hours", Unit.CORE_SECONDS: "Core-hours"}
# Escape sequences of terminals (ECMA-48): CSI, OSC and the like up to their end, and those of two characters.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]P_^X][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
# What HTML has no place for; a tabulator and the ends of lines stay.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


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
    """A detail of the audit log in words: amounts as credits, times as times, choices as yes and no."""
    title = name.replace("_", " ")
    if name.endswith("microcredits") and isinstance(value, int):
        return f"{title.removesuffix('microcredits')}{to_credits(value)} credits"
    if name.endswith("_ms") and isinstance(value, int):
        return f"{title.removesuffix(' ms')}: {to_moment(to_rfc3339(value))}"
    if isinstance(value, dict):
        parts = [to_detail(str(part), one) for part, one in value.items() if one is not None]
        return f"{title}: {', '.join(parts) or 'none'}"
    words = ("no", "yes")[value] if isinstance(value, bool) else str(value)
    return f"{title}: {words}"


def to_number(number: float) -> str:
    """A number to four digits, with separators and without needless zeros."""
    whole = 1000
    return f"{number:,.0f}" if abs(number) >= whole else f"{number:.4g}"


def to_bytes(count: int) -> str:
    """Bytes to three digits, in the decimal units that limits are in: `512 B`, `1.5 kB`, `42.1 GB`."""
    for exponent, unit in ((15, "PB"), (12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if abs(count) >= 10**exponent:
            amount = count / 10**exponent
            # Nothing is rounded up to the next unit: 999.7 GB is not 1,000 GB.
            decimals = 2 - min(2, len(str(int(abs(amount)))) - 1)
            cut = int(amount * 10**decimals) / 10**decimals
            return f"{cut:g} {unit}"
    return f"{count} B"


def to_quantities(quantities: Mapping[str, int]) -> str:
    """Physical quantities as people count them: `1.5 core-hours, 12 GiB-hours`, `30 GB-days`."""
    parts = [
        f"{to_number(quantities[name] / one)} {title}"
        for name, (title, one) in QUANTITIES.items()
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


def to_short_duration(seconds: float) -> str:
    """A duration that may be short: below ten seconds with a decimal, `0.4 s`."""
    short = 10
    return f"{seconds:.1f} s" if round(seconds, 1) < short else to_duration(round(seconds))


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


def to_day_of_ns(at_ns: int) -> str:
    """A time that a file system told, in nanoseconds since the epoch; a dash for what no calendar has."""
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_ns // 1000)).strftime("%-d %b %Y")
    except OverflowError:
        return "–"


def to_plain_day(day: date) -> str:
    """A day that is one by itself, in no zone: `21 Nov 2026`."""
    return day.strftime("%-d %b %Y")


def without_ansi(text: str) -> str:
    """Text without the escape sequences and control characters that a traceback or a log carries for terminals."""
    return _CONTROLS.sub("", _ANSI.sub("", text))


def to_last_lines(log: bytes, lines_max: int, *, is_cut: bool) -> str:
    """The last lines of a log as a terminal would show them: what a progress bar drew over itself is gone.

    Of a log that is cut at its beginning the first line, which may be a part of one, is left out.
    """
    lines = _ANSI.sub("", log.decode("utf-8", "replace")).replace("\r\n", "\n").split("\n")
    if is_cut:
        lines = lines[1:] or lines
    shown = (line.rstrip("\r").rpartition("\r")[2] for line in lines[-lines_max - 1 :])
    return "\n".join(_CONTROLS.sub("", line) for line in shown)


def _at(moment: str) -> datetime:
    return datetime.fromtimestamp(to_ms(moment) / MS_PER_SECOND, tz=UTC)
