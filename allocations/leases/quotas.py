"""Reads every limit that applies to a person now, and says why: by policy, award, override, parent or member's cap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import to_rfc3339
from allocations.errors import AllocationNotActiveError
from allocations.leases.rules import SourceKind, effective_limits, require_usable
from allocations.leases.views import View
from allocations.ledger.models import Unit
from allocations.policy.models import Shape  # pydantic reads it at run time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.rules import Source
    from allocations.leases.standing import Standing, StandingReader
    from allocations.lifecycle.models import Allocation, Member
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy


class LimitView(View):
    """A number that limits, None for no limit; `used` is what counts against it now, None where nothing does.

    `ends_at` is when it falls back by itself to what holds without it, None where it stays.
    """

    name: str
    value: int | None
    used: int | None
    source: SourceKind
    why: str
    ends_at: str | None = None


class LargestView(View):
    """The largest sizes: one fits when it is within any of the shapes; `ends_at` as of the other limits."""

    shapes: list[Shape]
    source: SourceKind
    why: str
    ends_at: str | None = None


class BudgetView(View):
    """What is left in a unit (microcredits or seconds): the least along the path, and the allocation that binds."""

    unit: Unit
    available: int
    limit: int
    held: int
    posted: int
    binds: str
    source: SourceKind
    why: str


class StateView(View):
    """The state, and whether the allocation may be spent."""

    state: str
    usable: bool
    source: SourceKind
    why: str


class AllocationQuotas(View):
    """What binds a person on one allocation."""

    allocation: str
    name: str
    state: StateView
    limits: list[LimitView]
    largest: LargestView
    budgets: list[BudgetView]


class Quotas(View):
    """Every limit that applies to a person now."""

    person: str
    allocations: list[AllocationQuotas]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaService:
    """Looks at what admission looks at, and explains it."""

    database: Database
    clock: Clock
    policy: Policy
    allocations: AllocationStore
    standings: StandingReader

    def of_person(self, person: str) -> Quotas:
        """Return the limits of a person on each of their allocations; none for somebody without any."""
        with self.database.read() as connection:
            own = [allocation for allocation, _role in self.allocations.of_person(connection, person)]
            standing = self.standings.read(connection, person, own, self.clock.now_ms())
        return Quotas(person=person, allocations=[self._on(standing, allocation) for allocation in own])

    def _on(self, standing: Standing, allocation: Allocation) -> AllocationQuotas:
        nodes, place = standing.path(allocation), standing.place(allocation)
        limits = effective_limits(self.policy, nodes, place, standing.overrides)
        own, tree = standing.running(allocation)
        used = {
            "servers_per_person": own.servers,
            "cores": tree.cores,
            "gpus": tree.gpus,
            "member_cores": own.cores,
            "member_gpus": own.gpus,
        }
        numbers = [name for name in limits.sources if name != "largest"]
        largest = limits.sources["largest"]
        return AllocationQuotas(
            allocation=allocation.id,
            name=allocation.name,
            state=_state(nodes, standing.now_ms),
            limits=[
                LimitView(
                    name=name,
                    value=getattr(limits, name),
                    used=used.get(name),
                    source=limits.sources[name].kind,
                    why=limits.sources[name].why,
                    ends_at=_end(limits.sources[name]),
                )
                for name in numbers
            ],
            largest=LargestView(
                shapes=list(limits.largest), source=largest.kind, why=largest.why, ends_at=_end(largest)
            ),
            budgets=[
                _capped(standing, view, place) for unit in Unit if (view := _budget(standing, nodes, unit)) is not None
            ],
        )


def _budget(standing: Standing, nodes: Sequence[Allocation], unit: Unit) -> BudgetView | None:
    """Return what is left along the path, None when no allocation of it is limited in the unit."""
    limited = [(node, balance) for node in reversed(nodes) if (balance := standing.balances.get((node.id, unit)))]
    if not limited:
        return None
    # The allocation itself comes first: where it and a parent have the same left, it is the one to speak of.
    binding, balance = min(limited, key=lambda one: one[1].available)
    own = binding.id == nodes[-1].id
    if own and binding.parent_id is None:
        kind, why = SourceKind.AWARD, f"What “{binding.name}” was awarded and has not used."
    elif own:
        kind, why = SourceKind.PARENT, f"What “{binding.name}” was given of “{nodes[-2].name}” and has not used."
    else:
        kind, why = SourceKind.PARENT, f"“{binding.name}”, which this allocation is part of, has no more left."
    return BudgetView(
        unit=unit,
        available=max(0, balance.available),
        limit=balance.limit,
        held=balance.held,
        posted=balance.posted,
        binds=binding.id,
        source=kind,
        why=why,
    )


def _capped(standing: Standing, budget: BudgetView, member: Member | None) -> BudgetView:
    """Return what a lead lets the member spend, where that is less than the allocation has."""
    if budget.unit is not Unit.CREDITS or member is None or member.microcredits_max is None:
        return budget
    held, posted = standing.spent[member.allocation_id, member.person]
    left = max(0, member.microcredits_max - held - posted)
    if left >= budget.available:
        return budget
    return BudgetView(
        unit=budget.unit,
        available=left,
        limit=member.microcredits_max,
        held=held,
        posted=posted,
        binds=member.allocation_id,
        source=SourceKind.MEMBER,
        why=f"Set for {member.person} by those who manage the allocation.",
    )


def _end(source: Source) -> str | None:
    return None if source.ends_at_ms is None else to_rfc3339(source.ends_at_ms)


def _state(nodes: Sequence[Allocation], now_ms: int) -> StateView:
    leaf = nodes[-1]
    for node in nodes:
        try:
            require_usable(node, now_ms)
        except AllocationNotActiveError as error:
            kind = SourceKind.AWARD if node is leaf else SourceKind.PARENT
            return StateView(state=leaf.state, usable=False, source=kind, why=error.detail)
    return StateView(state=leaf.state, usable=True, source=SourceKind.AWARD, why="It has begun and has not ended.")
