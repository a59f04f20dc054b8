"""Figures that the pages derive from what the services report: bars, what runs has cost so far, summaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND
from allocations.leases.models import LeaseState
from allocations.runs.models import ACTIVE_STATES
from allocations.web.formats import to_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from allocations.leases.views import LeaseView
    from allocations.reports.allocations import AllocationView
    from allocations.reports.charges import JournalEntryView
    from allocations.runs.models import RunView

LOW_BALANCE_PERCENT = 10


@dataclass(frozen=True, slots=True)
class Bar:
    """A balance in percent of its limit: spent and held, what remains is free."""

    spent: float
    held: float
    is_low: bool

    @classmethod
    def of(cls, allocation: AllocationView) -> Bar:
        """Draw an allocation; one whose limit was lowered below what is spent shows as full."""
        limit = max(1, allocation.limit_microcredits)
        spent = min(100.0, 100 * allocation.posted_microcredits / limit)
        held = min(100.0 - spent, 100 * allocation.held_microcredits / limit)
        is_low = allocation.available_microcredits * 100 < allocation.limit_microcredits * LOW_BALANCE_PERCENT
        return cls(round(spent, 2), round(held, 2), is_low)


@dataclass(frozen=True, slots=True)
class TreeBar:
    """A node of the picture of a tree, in percent of the picture's width, below its parent's bar.

    `start` and `width` say where the node's limit lies, `spent` and `held` how much of the width they fill.
    """

    node: AllocationView
    start: float
    width: float
    spent: float
    held: float
    is_low: bool
    parts: tuple[TreeBar, ...]


def tree_of(tree: Sequence[AllocationView]) -> TreeBar:
    """Draw an allocation and all below it, given parents first.

    Parts lie side by side below what they are parts of, in proportion to their limits; where these come to more than
    the whole, which capped ones may, all are drawn smaller by the same factor.
    """
    return _tree_bar(tree[0], tree, 0.0, 100.0)


def _tree_bar(node: AllocationView, tree: Sequence[AllocationView], start: float, width: float) -> TreeBar:
    bar = Bar.of(node)
    below = [part for part in tree if part.parent == node.id]
    whole = max(1, node.limit_microcredits, sum(part.limit_microcredits for part in below))
    parts, at = [], start
    for part in below:
        share = width * part.limit_microcredits / whole
        parts.append(_tree_bar(part, tree, at, share))
        at += share
    return TreeBar(
        node=node,
        start=round(start, 3),
        width=round(width, 3),
        spent=round(width * bar.spent / 100, 3),
        held=round(width * bar.held / 100, 3),
        is_low=bar.is_low,
        parts=tuple(parts),
    )


def lease_cost(lease: LeaseView, now_ms: int) -> int:
    """Return what a lease has cost up to now, in microcredits: charged, or while it is open, to be charged."""
    if lease.state is not LeaseState.OPEN:
        return lease.charged_microcredits
    if lease.started_at is None:
        return 0
    until_ms = min(now_ms, to_ms(lease.ends_at))
    seconds = max(0, until_ms - to_ms(lease.started_at)) // MS_PER_SECOND
    return max(lease.charged_microcredits, lease.microcredits_per_second * seconds)


def run_cost(run: RunView, now_ms: int) -> int:
    """Return what a run has cost up to now, in microcredits.

    While it runs, its lease holds the whole declared maximum, so the hold tells the rate.
    """
    if run.state not in ACTIVE_STATES:
        return run.charged_microcredits
    seconds = run_seconds(run, now_ms)
    return run.held_microcredits * min(seconds, run.max_seconds) // run.max_seconds


def run_seconds(run: RunView, now_ms: int) -> int:
    """Return the whole seconds that a run has run, or ran."""
    if run.started_at is None:
        return 0
    end_ms = to_ms(run.ended_at) if run.ended_at else now_ms
    return max(0, end_ms - to_ms(run.started_at)) // MS_PER_SECOND


def cells_percent(run: RunView) -> float:
    """Return how much of a run's cells are done."""
    return round(100 * min(run.cells_done, run.cells_total) / max(1, run.cells_total), 2)


@dataclass(slots=True)
class Usage:
    """What one server or run was charged: a server is charged at each renewal, which says little by itself."""

    at: str
    person: str | None
    lease_kind: str | None
    size: str | None
    allocation: str
    allocation_name: str
    microcredits: int
    quantities: dict[str, int]


def usage_of(charges: Iterable[JournalEntryView]) -> list[Usage]:
    """Add up the credits charged by lease and allocation, the latest first as they come."""
    found: dict[tuple[str | None, str], Usage] = {}
    for charge in charges:
        if charge.unit != "credits":
            continue
        key = (charge.lease, charge.allocation)
        if key not in found:
            found[key] = Usage(
                at=charge.at,
                person=charge.person,
                lease_kind=charge.lease_kind,
                size=charge.size,
                allocation=charge.allocation,
                allocation_name=charge.allocation_name,
                microcredits=0,
                quantities={},
            )
        usage = found[key]
        usage.microcredits += charge.amount
        for name, value in charge.quantities.items():
            usage.quantities[name] = usage.quantities.get(name, 0) + value
    return list(found.values())


def spent_by_person(usages: Iterable[Usage]) -> list[tuple[str, int]]:
    """Add up usage by person, the largest first."""
    sums: dict[str, int] = {}
    for usage in usages:
        if usage.person is not None:
            sums[usage.person] = sums.get(usage.person, 0) + usage.microcredits
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))


def summary_of(servers: int, active_runs: int) -> str:
    """Say what runs, for those who listen to the page: it changes only when something starts or ends."""
    return f"{_count(servers, 'server')} and {_count(active_runs, 'batch run')} running."


def _count(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"
