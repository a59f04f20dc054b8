"""What administrators report of the whole platform: by tier, cost against budget, the forecast, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, case, func, select

from allocations.clock import MS_PER_DAY
from allocations.db.schema import allocations, balances, publication_links
from allocations.leases.views import View
from allocations.ledger.models import Unit
from allocations.lifecycle.models import USABLE_STATES
from allocations.reports.platform_use import day_of, measured_days, pace_by_root

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.policy.models import Policy


class TierReport(View):
    """Of a tier's whole allocations: how many there are, what they have in microcredits, their publications.

    The forecast is what is spent when each that is usable has gone on to its end at its own pace of the last whole
    days, not beyond its limit; `running_out` would be beyond it.
    """

    tier: str
    title: str
    allocations: int
    usable: int
    granted_microcredits: int
    spent_microcredits: int
    held_microcredits: int
    forecast_microcredits: int
    running_out: int
    publications: int


class PlatformReport(View):
    """Every tier, and all publications: one that thanks allocations of two tiers counts in both, and here once."""

    tiers: list[TierReport]
    publications: int
    measured_days: int


def read_platform(connection: Connection, policy: Policy, now_ms: int) -> PlatformReport:
    """Add up every tier. What shares have and spend counts in the allocations that they are a part of."""
    today = day_of(now_ms)
    measured = measured_days(connection, today)
    pace = pace_by_root(today, max(1, measured))
    is_usable = allocations.c.state.in_(list(USABLE_STATES))
    days_left = case((allocations.c.ends_at_ms > now_ms, (allocations.c.ends_at_ms - now_ms) // MS_PER_DAY), else_=0)
    to_come = func.coalesce(pace.c.microcredits, 0) // max(1, measured) * days_left
    left = balances.c.limit_amount - balances.c.posted
    runs_out = and_(is_usable, to_come > left)
    money = (
        select(
            allocations.c.tier,
            func.count(),
            func.sum(case((is_usable, 1), else_=0)),
            func.sum(balances.c.limit_amount),
            func.sum(balances.c.posted),
            func.sum(balances.c.held),
            func.sum(balances.c.posted + case((runs_out, left), (is_usable, to_come), else_=0)),
            func.sum(case((runs_out, 1), else_=0)),
        )
        .join(balances, balances.c.allocation_id == allocations.c.id)
        .outerjoin(pace, pace.c.root_id == allocations.c.id)
        .where(allocations.c.parent_id.is_(None), balances.c.unit == Unit.CREDITS)
        .group_by(allocations.c.tier)
    )
    sums = {row[0]: [int(value) for value in row[1:]] for row in connection.execute(money)}
    distinct = func.count(publication_links.c.publication_id.distinct())
    thanked = (
        select(allocations.c.tier, distinct)
        .join(publication_links, publication_links.c.allocation_id == allocations.c.id)
        .group_by(allocations.c.tier)
    )
    published = {row[0]: int(row[1]) for row in connection.execute(thanked)}
    tiers = []
    for tier in policy.tiers:
        count, usable, granted, spent, held, forecast, running_out = sums.get(tier.name, [0] * 7)
        tiers.append(
            TierReport(
                tier=tier.name,
                title=tier.title,
                allocations=count,
                usable=usable,
                granted_microcredits=granted,
                spent_microcredits=spent,
                held_microcredits=held,
                forecast_microcredits=forecast,
                running_out=running_out,
                publications=published.get(tier.name, 0),
            )
        )
    return PlatformReport(
        tiers=tiers,
        publications=int(connection.execute(select(distinct)).scalar_one()),
        measured_days=measured,
    )
