"""What administrators report of the whole platform: by tier, what was granted and spent, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import case, func, select

from allocations.db.schema import allocations, balances, publication_links
from allocations.leases.views import View
from allocations.ledger.models import Unit
from allocations.lifecycle.models import USABLE_STATES

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.policy.models import Policy


class TierReport(View):
    """Of a tier's whole allocations: how many there are, what they have in microcredits, their publications."""

    tier: str
    title: str
    allocations: int
    usable: int
    granted_microcredits: int
    spent_microcredits: int
    held_microcredits: int
    publications: int


class PlatformReport(View):
    """Every tier, and all publications: one that thanks allocations of two tiers counts in both, and here once."""

    tiers: list[TierReport]
    publications: int


def read_platform(connection: Connection, policy: Policy) -> PlatformReport:
    """Add up every tier. What shares have and spend counts in the allocations that they are a part of."""
    money = (
        select(
            allocations.c.tier,
            func.count(),
            func.sum(case((allocations.c.state.in_(list(USABLE_STATES)), 1), else_=0)),
            func.sum(balances.c.limit_amount),
            func.sum(balances.c.posted),
            func.sum(balances.c.held),
        )
        .join(balances, balances.c.allocation_id == allocations.c.id)
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
        count, usable, granted, spent, held = sums.get(tier.name, [0] * 5)
        tiers.append(
            TierReport(
                tier=tier.name,
                title=tier.title,
                allocations=count,
                usable=usable,
                granted_microcredits=granted,
                spent_microcredits=spent,
                held_microcredits=held,
                publications=published.get(tier.name, 0),
            )
        )
    return PlatformReport(tiers=tiers, publications=int(connection.execute(select(distinct)).scalar_one()))
