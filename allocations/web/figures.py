"""Figures that the pages derive from what the services report: bars, what runs has cost so far, summaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND
from allocations.leases.models import LeaseState
from allocations.runs.cells import CellState
from allocations.runs.models import ACTIVE_STATES, RunState
from allocations.web.formats import to_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from allocations.leases.views import LeaseView
    from allocations.reports.allocations import AllocationView
    from allocations.reports.charges import JournalEntryView
    from allocations.reports.use import Use
    from allocations.runs.cells import Cell
    from allocations.runs.models import RunView

LOW_BALANCE_PERCENT = 10
PICTURE_HEIGHT = 40
GRANTED_TO_SPENT_MAX = 10
CELLS_SHOWN_MAX = 200


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
    parts: dict[str | None, list[AllocationView]] = {}
    for node in tree:
        parts.setdefault(node.parent, []).append(node)
    return _tree_bar(tree[0], parts, 0.0, 100.0)


def _tree_bar(
    node: AllocationView, parts_of: Mapping[str | None, Sequence[AllocationView]], start: float, width: float
) -> TreeBar:
    bar = Bar.of(node)
    below = parts_of.get(node.id, ())
    whole = max(1, node.limit_microcredits, sum(part.limit_microcredits for part in below))
    parts, at = [], start
    for part in below:
        share = width * part.limit_microcredits / whole
        parts.append(_tree_bar(part, parts_of, at, share))
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


@dataclass(frozen=True, slots=True)
class Area:
    """What one series has spent, on top of those below it; the colour is a number from 1 on, 0 for all others."""

    points: str
    colour: int


@dataclass(frozen=True, slots=True)
class UsePicture:
    """The areas of use in a picture 100 wide and `PICTURE_HEIGHT` high, and the line of what was granted.

    The line is empty where it would lie so far above that the areas could not be seen.
    """

    areas: tuple[Area, ...]
    colours: dict[str, int]
    granted: str
    most_microcredits: int


def use_of(use: Use) -> UsePicture:
    """Draw use: each series from the left, where nothing was spent yet, stacked on the one before."""
    steps = len(use.granted_microcredits)
    totals = [sum(series.spent_microcredits[step] for series in use.series) for step in range(steps)]
    spent, granted_in_all = max(1, *totals), max(use.granted_microcredits)
    shows_granted = granted_in_all <= spent * GRANTED_TO_SPENT_MAX
    most = max(spent, granted_in_all) if shows_granted else spent
    colours = {series.key: number for number, series in enumerate(use.series, start=1) if series.key}

    def at(step: int, microcredits: int) -> str:
        return f"{round(100 * step / steps, 2)},{round(PICTURE_HEIGHT * (1 - max(0, microcredits) / most), 2)}"

    areas, below = [], [0] * steps
    for series in use.series:
        above = [low + own for low, own in zip(below, series.spent_microcredits, strict=True)]
        up = [at(step + 1, amount) for step, amount in enumerate(above)]
        down = [at(step + 1, amount) for step, amount in enumerate(below)][::-1]
        areas.append(Area(" ".join([at(0, 0), *up, *down]), colours.get(series.key, 0)))
        below = above
    line = use.granted_microcredits if shows_granted else ()
    granted = [at(step + other, amount) for step, amount in enumerate(line) for other in (0, 1)]
    return UsePicture(tuple(areas), colours, " ".join(granted), most)


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
    # Attempts before this one are charged already.
    return run.charged_microcredits + run.held_microcredits * min(seconds, run.max_seconds) // run.max_seconds


def run_seconds(run: RunView, now_ms: int) -> int:
    """Return the whole seconds that a run has run, or ran."""
    if run.started_at is None:
        return 0
    end_ms = to_ms(run.ended_at) if run.ended_at else now_ms
    return max(0, end_ms - to_ms(run.started_at)) // MS_PER_SECOND


def cells_percent(run: RunView) -> float:
    """Return how much of a run's cells are done."""
    return round(100 * min(run.cells_done, run.cells_total) / max(1, run.cells_total), 2)


def run_announcement(run: RunView) -> str:
    """Say where a run is, for those who listen to the page: of many cells only every tenth part is said."""
    state = f"Run {run.state.replace('_', ' ')}"
    if run.state is not RunState.RUNNING or not run.cells_total:
        return f"{state}."
    step = max(1, run.cells_total // 10)
    done = run.cells_done if run.cells_done == run.cells_total else run.cells_done // step * step
    return f"{state}, {done} of {run.cells_total} cells done."


def cells_shown(cells: Sequence[Cell]) -> Sequence[Cell]:
    """Return as many cells as a page lists: of very many those around the one that runs, failed or was stopped."""
    if len(cells) <= CELLS_SHOWN_MAX:
        return cells
    present = {CellState.RUNNING, CellState.FAILED, CellState.STOPPED}
    at = next((cell.number for cell in cells if cell.state in present), 1)
    start = min(max(0, at - CELLS_SHOWN_MAX // 2), len(cells) - CELLS_SHOWN_MAX)
    return cells[start : start + CELLS_SHOWN_MAX]


@dataclass(slots=True)
class Usage:
    """What one server, run or home was charged: a server is charged at each renewal, which says little by itself."""

    at: str
    person: str | None
    lease_kind: str | None
    size: str | None
    allocation: str
    allocation_name: str
    microcredits: int
    quantities: dict[str, int]
    storage: str | None = None


def usage_of(charges: Iterable[JournalEntryView]) -> list[Usage]:
    """Add up the credits charged by lease or area of storage and by allocation, the latest first as they come."""
    found: dict[tuple[str | None, ...], Usage] = {}
    for charge in charges:
        if charge.unit != "credits":
            continue
        key = (charge.lease, charge.allocation, charge.storage, charge.person)
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
                storage=charge.storage,
            )
        usage = found[key]
        usage.microcredits += charge.amount
        for name, value in charge.quantities.items():
            usage.quantities[name] = usage.quantities.get(name, 0) + value
    return list(found.values())


def summary_of(servers: int, active_runs: int) -> str:
    """Say what runs, for those who listen to the page: it changes only when something starts or ends."""
    return f"{_count(servers, 'server')} and {_count(active_runs, 'batch run')} running."


def _count(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"
