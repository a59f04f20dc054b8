"""Times of schedules: against an oracle that looks at a clock every minute, in every zone, where clocks are moved."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allocations.errors import InvalidInputError
from allocations.runs.cron import Cron, require_cron, zone_names

MINUTE = timedelta(minutes=1)
# What the oracle looks at before its first answer, to know what the clock has shown.
RUN_UP = timedelta(hours=30)


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


@dataclass(frozen=True)
class Field:
    """A field of an expression: how it is written, and the numbers that it stands for."""

    text: str
    numbers: frozenset[int]


@dataclass(frozen=True)
class Expression:
    """An expression with its meaning, which nothing had to parse."""

    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    @property
    def text(self) -> str:
        return " ".join(field.text for field in (self.minute, self.hour, self.day, self.month, self.weekday))

    @property
    def is_fixed(self) -> bool:
        return self.minute.text[0] != "*" and self.hour.text[0] != "*"

    def is_meant(self, wall: datetime) -> bool:
        """Whether it names what a wall clock shows."""
        day, weekday = wall.day in self.day.numbers, wall.isoweekday() % 7 in self.weekday.numbers
        both = "*" in (self.day.text[0], self.weekday.text[0])
        return (
            wall.minute in self.minute.numbers
            and wall.hour in self.hour.numbers
            and wall.month in self.month.numbers
            and ((day and weekday) if both else (day or weekday))
        )


def oracle(expression: Expression, zone: ZoneInfo, after: datetime, until: datetime) -> list[datetime]:
    """Stand before the clock of a zone and look up every minute."""
    found = []
    shown: set[datetime] = set()
    moment = (after - RUN_UP).replace(second=0, microsecond=0)
    last = moment.astimezone(zone).replace(tzinfo=None)
    while moment <= until:
        wall = moment.astimezone(zone).replace(tzinfo=None)
        if expression.is_fixed:
            skipped = [last + MINUTE * number for number in range(1, (wall - last) // MINUTE)]
            due = any(expression.is_meant(one) for one in [*skipped, wall] if one not in shown)
        else:
            due = expression.is_meant(wall)
        if due and moment > after:
            found.append(moment)
        shown.add(wall)
        last, moment = wall, moment + MINUTE
    return found


@lru_cache(maxsize=1000)
def changes(name: str) -> tuple[datetime, ...]:
    """The hours, of some years, in which the clock of a zone is moved."""
    zone, found = ZoneInfo(name), []
    for year in (2007, 2011, 2024, 2026, 2031):
        begin = datetime(year, 1, 1, tzinfo=UTC)
        days = [begin + timedelta(days=number) for number in range(366)]
        found += [
            day
            for day in days
            if day.astimezone(zone).utcoffset() != (day + timedelta(days=1)).astimezone(zone).utcoffset()
        ]
    return tuple(found)


@st.composite
def fields(draw: st.DrawFn, first: int, last: int, *, starred: bool = True) -> Field:
    kind = draw(st.sampled_from([*(["*", "*/"] if starred else []), "one", "several", "range", "stepped"]))
    whole = range(first, last + 1)
    if kind == "*":
        return Field("*", frozenset(whole))
    if kind == "*/":
        step = draw(st.integers(1, 30))
        return Field(f"*/{step}", frozenset(whole[::step]))
    if kind in {"one", "several"}:
        numbers = draw(st.lists(st.sampled_from(whole), min_size=1, max_size=1 if kind == "one" else 4))
        return Field(",".join(map(str, numbers)), frozenset(numbers))
    begin, end = sorted(draw(st.tuples(st.sampled_from(whole), st.sampled_from(whole))))
    if kind == "range" or begin == end:
        return Field(f"{begin}-{end}", frozenset(range(begin, end + 1)))
    step = draw(st.integers(1, 5))
    return Field(f"{begin}-{end}/{step}", frozenset(range(begin, end + 1, step)))


def everything(first: int, last: int) -> st.SearchStrategy[Field]:
    return st.just(Field("*", frozenset(range(first, last + 1))))


expressions = st.builds(
    Expression,
    fields(0, 59),
    # The hours in which clocks are moved more often than the others.
    st.one_of(fields(0, 23), fields(0, 3, starred=False), everything(0, 23)),
    st.one_of(everything(1, 31), fields(1, 31)),
    st.one_of(everything(1, 12), fields(1, 12)),
    st.one_of(everything(0, 6), fields(0, 6)),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Expression, str, datetime]:
    """An expression, a zone, and a time, most often within a day before the clock is moved there."""
    name = draw(st.sampled_from(sorted(zone_names())))
    moved = changes(name)
    begin = draw(st.sampled_from(moved)) if moved else datetime(2026, draw(st.integers(1, 12)), 1, tzinfo=UTC)
    return draw(expressions), name, begin + draw(st.timedeltas(timedelta(days=-1), timedelta(days=1, hours=8)))


def fixed(minute: int, hour: int) -> Expression:
    day, month, weekday = (Field("*", frozenset(range(last + 1))) for last in (31, 12, 6))
    return Expression(Field(str(minute), frozenset({minute})), Field(str(hour), frozenset({hour})), day, month, weekday)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cases())
@example((fixed(30, 2), "Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC)))
@example((fixed(30, 2), "Europe/Berlin", datetime(2026, 10, 25, 0, 35, tzinfo=UTC)))
@example((fixed(30, 0), "Africa/Cairo", datetime(2026, 4, 23, 12, tzinfo=UTC)))
@example((fixed(15, 2), "Australia/Lord_Howe", datetime(2026, 10, 3, 12, tzinfo=UTC)))
@example((fixed(0, 12), "Pacific/Apia", datetime(2011, 12, 29, 12, tzinfo=UTC)))
@example((fixed(30, 1), "Antarctica/Troll", datetime(2026, 10, 24, 22, tzinfo=UTC)))
def test_a_schedule_comes_when_a_watcher_of_the_clock_says(case: tuple[Expression, str, datetime]) -> None:
    expression, name, after = case
    zone = ZoneInfo(name)
    until = after + timedelta(days=2)
    cron = require_cron(expression.text, name)
    found = [one.at for one in takewhile(lambda one: one.at <= until, cron.after(ms(after)))]
    # The service counts in milliseconds.
    assert found == oracle(expression, zone, datetime.fromtimestamp(ms(after) / 1000, tz=UTC), until)


def times(expression: str, zone: str, after: datetime, count: int) -> list[str]:
    cron = require_cron(expression, zone)
    return [
        f"{one.at.astimezone(cron.zone):%m-%d %H:%M%z}{' !' if one.note else ''}"
        for one in cron.coming(ms(after), count)
    ]


def test_the_clock_goes_forward_and_back_in_berlin() -> None:
    spring, autumn = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert times("30 2 * * *", "Europe/Berlin", spring, 2) == ["03-29 03:00+0200 !", "03-30 02:30+0200"]
    assert times("30 2 * * *", "Europe/Berlin", autumn, 2) == ["10-25 02:30+0200 !", "10-26 02:30+0100"]
    assert times("0,15,30 2 * * *", "Europe/Berlin", spring, 2) == ["03-29 03:00+0200 !", "03-30 02:00+0200"]
    assert times("30 */2 29 3 *", "Europe/Berlin", spring, 3) == [
        "03-29 00:30+0100",
        "03-29 04:30+0200",
        "03-29 06:30+0200",
    ]
    assert times("*/30 2 25 10 *", "Europe/Berlin", autumn, 4) == [
        "10-25 02:00+0200 !",
        "10-25 02:30+0200 !",
        "10-25 02:00+0100 !",
        "10-25 02:30+0100 !",
    ]


@given(st.data())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_last_times_are_the_last_of_all(data: st.DataObject) -> None:
    expression, name, begin = data.draw(cases())
    cron = require_cron(expression.text, name)
    count = data.draw(st.integers(1, 5))
    until_ms = ms(begin) + data.draw(st.integers(0, 3 * 86_400_000))
    every = [
        at for one in takewhile(lambda one: one.at_ms <= until_ms, cron.after(ms(begin) - 1)) for at in [one.at_ms]
    ]
    assert cron.last(ms(begin), until_ms, count) == every[-count:]


@given(st.one_of(st.text(max_size=60), st.text("0123456789*/-,#LWMONJA ", max_size=40), st.from_regex(r"(\S+ ){4}\S+")))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_text_is_an_expression_with_words_and_times_or_is_refused(text: str) -> None:
    try:
        cron = require_cron(text, "Europe/Berlin")
    except InvalidInputError:
        return
    assert cron.words.endswith("(Europe/Berlin)")
    cron.next(1_800_000_000_000)


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ("", "UTC"),
        ("* * * *", "UTC"),
        ("* * * * * *", "UTC"),
        ("60 * * * *", "UTC"),
        ("*/0 * * * *", "UTC"),
        ("0 0 30 2 *", "UTC"),
        ("@daily", "UTC"),
        (f"{'0,' * 60}0 * * * *", "UTC"),
        ("0 0 * * *", "Europe/Atlantis"),
        ("0 0 * * *", "../../etc/passwd"),
        ("0 0 * * *", ""),
    ],
)
def test_what_is_no_time_is_refused(expression: str, zone: str) -> None:
    with pytest.raises(InvalidInputError):
        require_cron(expression, zone)


def test_what_comes_once_in_a_lifetime_has_no_next_time() -> None:
    assert require_cron("0 0 * 2 MON#5", "UTC").next(ms(datetime(2027, 1, 1, tzinfo=UTC))) is None
    leap: Any = require_cron("0 0 29 2 *", "UTC").next(ms(datetime(2096, 3, 1, tzinfo=UTC)))
    assert leap.at == datetime(2104, 2, 29, tzinfo=UTC)


def test_a_year_of_minutes_is_not_walked_through() -> None:
    cron: Cron = require_cron("* * * * *", "UTC")
    begin, end = ms(datetime(2026, 1, 1, tzinfo=UTC)), ms(datetime(2027, 1, 1, tzinfo=UTC))
    assert cron.last(begin, end, 2) == [end - 60_000, end]
