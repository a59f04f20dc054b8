"""What was used, by tier, institution, country or allocation and by time: from the use that is kept by day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, cast, func, select, text

from allocations.clock import MS_PER_DAY, MS_PER_SECOND
from allocations.db.daily_use import differences, fill
from allocations.db.schema import allocations, daily_use, people
from allocations.errors import InvalidInputError
from allocations.leases.views import View

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Subquery

    from allocations.policy.models import Policy

PERIOD_DAYS_MAX = 1_100  # three years
GROUPS_SHOWN = 50
# A forecast goes on at the pace of so many whole days; a new platform has fewer.
PACE_DAYS = 28
NOT_KNOWN = "not known"
# In these many days or fewer, a day is one step; then a week.
_DAYS_BY_DAY, _DAYS_BY_WEEK = 62, 400
_EARLIEST, _LATEST = date(2000, 1, 1), date(2199, 12, 31)
_SUMS = tuple(
    func.sum(column).label(column.name)
    for column in (
        daily_use.c.microcredits,
        daily_use.c.storage_microcredits,
        daily_use.c.core_seconds,
        daily_use.c.gib_seconds,
        daily_use.c.gpu_seconds,
        daily_use.c.byte_days,
    )
)


class UseBy(StrEnum):
    """What use is divided by. Institution and country are as people's provider told last."""

    TIER = "tier"
    INSTITUTION = "institution"
    COUNTRY = "country"
    ALLOCATION = "allocation"


class UseStep(StrEnum):
    """Into what a period is divided; weeks begin on Monday. All in UTC."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"

    def first_day(self, day: date) -> date:
        """Return the first day of the step that a day is in."""
        match self:
            case UseStep.DAY:
                return day
            case UseStep.WEEK:
                return day - timedelta(days=day.weekday())
            case UseStep.MONTH:
                return day.replace(day=1)


@dataclass(frozen=True, slots=True)
class Period:
    """Days, both included, by UTC. InvalidInputError when there are none, or more than PERIOD_DAYS_MAX."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if not self.first >= _EARLIEST or not self.last <= _LATEST:
            raise InvalidInputError(
                f"The period must lie between {_EARLIEST:%Y} and {_LATEST:%Y}.", "Choose another first or last day."
            )
        if not 0 <= (self.last - self.first).days < PERIOD_DAYS_MAX:
            raise InvalidInputError(
                f"The period must be of 1 to {PERIOD_DAYS_MAX:,} days.", "Choose another first or last day."
            )

    @property
    def step(self) -> UseStep:
        """The step that shows the period best when none is chosen."""
        days = (self.last - self.first).days + 1
        return UseStep.DAY if days <= _DAYS_BY_DAY else UseStep.WEEK if days <= _DAYS_BY_WEEK else UseStep.MONTH

    def parts(self, step: UseStep) -> Iterator[Period]:
        """Yield the steps of the period, cut at its ends."""
        first = self.first
        while first <= self.last:
            following = step.first_day(step.first_day(first) + timedelta(days={"day": 1, "week": 7}.get(step, 31)))
            last = min(following - timedelta(days=1), self.last)
            yield Period(first, last)
            first = last + timedelta(days=1)


class UseView(View):
    """What was charged, refunds taken off, and the physical quantities of it.

    `storage_microcredits` is how much of it was for storage, `byte_days` the bytes stored by the days that they were
    charged for.
    """

    microcredits: int = 0
    storage_microcredits: int = 0
    core_seconds: int = 0
    gib_seconds: int = 0
    gpu_seconds: int = 0
    byte_days: int = 0


class UseOfStep(UseView):
    """The use of a day, week or month, cut at the period's ends; and what is still forecast of it."""

    first_day: date
    last_day: date
    forecast_microcredits: int = 0


class UseOfGroup(UseView):
    """The use of a tier, institution, country, or whole allocation with all below it; `key` is empty: not known."""

    key: str
    title: str


class UseForecast(View):
    """What the period comes to at the pace of the `measured_days` whole days before today, for `days_left` after it."""

    measured_days: int
    microcredits_per_day: int
    days_left: int
    microcredits: int


class UseReport(View):
    """The use of a period, by time and by group: the largest groups, and how many are left out.

    There is a forecast where today is in the period.
    """

    first_day: date
    last_day: date
    by: UseBy
    step: UseStep
    total: UseView
    steps: list[UseOfStep]
    groups: list[UseOfGroup]
    groups_left_out: int
    forecast: UseForecast | None


def read_use(
    connection: Connection, policy: Policy, period: Period, by: UseBy, step: UseStep, today: date
) -> UseReport:
    """Return a period's use."""
    days = {row.day_ms: row for row in connection.execute(_by_day(period))}
    total = _sum(days.values())
    forecast = _forecast(connection, period, total.microcredits, today)
    steps = []
    for part in period.parts(step):
        found = (days.get(day_ms) for day_ms in range(_ms(part.first), _ms(part.last) + 1, MS_PER_DAY))
        ahead = max(0, (part.last - max(today, part.first - timedelta(days=1))).days)
        steps.append(
            UseOfStep(
                first_day=part.first,
                last_day=part.last,
                forecast_microcredits=forecast.microcredits_per_day * ahead if forecast else 0,
                **_sum(row for row in found if row is not None).model_dump(),
            )
        )
    groups, number = _largest_groups(connection, policy, period, by)
    return UseReport(
        first_day=period.first,
        last_day=period.last,
        by=by,
        step=step,
        total=total,
        steps=steps,
        groups=groups,
        groups_left_out=number - len(groups),
        forecast=forecast,
    )


def read_groups(connection: Connection, policy: Policy, period: Period, by: UseBy) -> list[UseOfGroup]:
    """Return every group of a period, the largest first."""
    key, query = _grouped(period, by)
    return _groups(connection, policy, by, connection.execute(query.order_by(text("microcredits DESC"), key)).all())


def pace_by_root(today: date, measured_days: int) -> Subquery:
    """Return what each whole allocation used in the whole days before today, as `root_id` and `microcredits`."""
    used = _leaves(Period(today - timedelta(days=measured_days), today - timedelta(days=1)), UseBy.ALLOCATION)
    return (
        select(allocations.c.root_id, func.sum(used.c.microcredits).label("microcredits"))
        .join(allocations, allocations.c.id == used.c.leaf)
        .group_by(allocations.c.root_id)
        .subquery()
    )


def measured_days(connection: Connection, today: date) -> int:
    """Return how many whole days before today tell the pace: PACE_DAYS, or as many as there has been any use."""
    first_ms = connection.execute(select(func.min(daily_use.c.day_ms))).scalar_one()
    return min(PACE_DAYS, max(0, (today - day_of(first_ms)).days)) if first_ms is not None else 0


def rebuild_use(connection: Connection) -> int:
    """Derive the kept use anew from the journal; return how many of its rows were missing, wrong or too many.

    The caller's transaction writes. A charge that commits between the two statements would be counted twice or not at
    all: on PostgreSQL the lock keeps everybody from writing the journal, as SQLite's one writer does by itself.
    """
    dialect = connection.dialect.name
    if dialect == "postgresql":
        connection.execute(text("LOCK TABLE journal, daily_use IN SHARE ROW EXCLUSIVE MODE"))
    wrong = len(connection.execute(text(differences(dialect))).all())
    if wrong:
        connection.execute(daily_use.delete())
        connection.execute(text(fill(dialect)))
    return wrong


def day_of(at_ms: int) -> date:
    """Return the UTC day of a time in milliseconds since the epoch."""
    return datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC).date()


# ---------------------------------------------------------------------- inside


def _by_day(period: Period) -> Any:
    return select(daily_use.c.day_ms, *_SUMS).where(_within(period)).group_by(daily_use.c.day_ms)


def _within(period: Period) -> ColumnElement[bool]:
    return daily_use.c.day_ms.between(_ms(period.first), _ms(period.last))


def _leaves(period: Period, by: UseBy) -> Subquery:
    """Return the use by allocation or person: added up first, so that only as many rows are joined.

    The sums are whole numbers of 64 bits again, which PostgreSQL adds up faster than what it makes of them.
    """
    leaf = daily_use.c.allocation_id if by in {UseBy.TIER, UseBy.ALLOCATION} else daily_use.c.person
    sums = [cast(one, BigInteger).label(one.name) for one in _SUMS]
    return select(leaf.label("leaf"), *sums).where(_within(period)).group_by(leaf).subquery()


def _grouped(period: Period, by: UseBy) -> tuple[Any, Any]:
    """Return the query of every group, as `key` and sums, and what its key is."""
    leaves = _leaves(period, by)
    sums = [func.sum(leaves.c[one.name]).label(one.name) for one in _SUMS]
    key: Any
    match by:
        case UseBy.TIER | UseBy.ALLOCATION:
            key = allocations.c.tier if by is UseBy.TIER else allocations.c.root_id
            source = leaves.join(allocations, allocations.c.id == leaves.c.leaf)
        case _:
            key = func.coalesce(people.c[by], "")
            source = leaves.outerjoin(people, people.c.name == leaves.c.leaf)
    return key, select(key.label("key"), *sums).select_from(source).group_by(key)


def _largest_groups(connection: Connection, policy: Policy, period: Period, by: UseBy) -> tuple[list[UseOfGroup], int]:
    key, query = _grouped(period, by)
    number = func.count().over().label("number")
    rows = connection.execute(
        query.add_columns(number).order_by(text("microcredits DESC"), key).limit(GROUPS_SHOWN)
    ).all()
    return _groups(connection, policy, by, rows), rows[0].number if rows else 0


def _groups(connection: Connection, policy: Policy, by: UseBy, rows: Sequence[Any]) -> list[UseOfGroup]:
    """Return groups with their titles, which only those that are shown are asked for."""
    titles: dict[str, str] = {}
    if by is UseBy.TIER:
        titles = {tier.name: tier.title for tier in policy.tiers}
    elif by is UseBy.ALLOCATION:
        named = select(allocations.c.id, allocations.c.name).where(allocations.c.parent_id.is_(None))
        if len(rows) <= GROUPS_SHOWN:
            named = named.where(allocations.c.id.in_([row.key for row in rows]))
        titles = {row.id: row.name for row in connection.execute(named)}
    return [
        UseOfGroup(key=row.key, title=titles.get(row.key, row.key) or NOT_KNOWN, **_sum([row]).model_dump())
        for row in rows
    ]


def _forecast(connection: Connection, period: Period, used: int, today: date) -> UseForecast | None:
    if not period.first <= today <= period.last:
        return None
    measured = measured_days(connection, today)
    per_day = 0
    if measured:
        before = Period(today - timedelta(days=measured), today - timedelta(days=1))
        spent = connection.execute(select(func.sum(daily_use.c.microcredits)).where(_within(before))).scalar_one()
        per_day = max(0, int(spent or 0)) // measured
    days_left = (period.last - today).days
    return UseForecast(
        measured_days=measured,
        microcredits_per_day=per_day,
        days_left=days_left,
        microcredits=used + per_day * days_left,
    )


def _sum(rows: Iterable[Any]) -> UseView:
    found = list(rows)
    return UseView(**{one.name: sum(int(getattr(row, one.name)) for row in found) for one in _SUMS})


def _ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * MS_PER_DAY
