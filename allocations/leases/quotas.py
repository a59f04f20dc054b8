"""Reads every limit that applies to a person now, and says why: by policy, award, override, parent or member's cap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import AllocationNotActiveError
from allocations.leases.rules import InUse, SourceKind, effective_limits, require_usable
from allocations.leases.views import View
from allocations.ledger.models import Unit
from allocations.policy.models import Shape  # pydantic reads it at run time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.store import LeaseStore
    from allocations.ledger.models import Balance
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.models import Allocation
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.overrides import OverrideStore
    from allocations.policy.models import Policy


class LimitView(View):
    """A number that limits, None for no limit; `used` is what counts against it now, None where nothing does."""

    name: str
    value: int | None
    used: int | None
    source: SourceKind
    why: str


class LargestView(View):
    """The largest sizes: one fits when it is within any of the shapes."""

    shapes: list[Shape]
    source: SourceKind
    why: str


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
    ledger: Ledger
    leases: LeaseStore
    allocations: AllocationStore
    overrides: OverrideStore

    def of_person(self, person: str) -> Quotas:
        """Return the limits of a person on each of their allocations; none for somebody without any."""
        now_ms = self.clock.now_ms()
        with self.database.read() as connection:
            return Quotas(
                person=person,
                allocations=[
                    self._on(connection, allocation, person, now_ms)
                    for allocation, _role in self.allocations.of_person(connection, person)
                ],
            )

    def _on(self, connection: Connection, allocation: Allocation, person: str, now_ms: int) -> AllocationQuotas:
        path = self.ledger.path(connection, allocation.id)
        nodes = [node for node_id in path if (node := self.allocations.get(connection, node_id)) is not None]
        limits = effective_limits(
            self.policy,
            nodes,
            self.allocations.member(connection, allocation.id, person),
            self.overrides.in_force(connection, [person], path, now_ms),
        )
        on_tree = self.leases.in_use(connection, [allocation.root_id], [person]).get(allocation.root_id, {})
        own, tree = on_tree.get(person, InUse()), sum(on_tree.values(), InUse())
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
            state=_state(nodes, now_ms),
            limits=[
                LimitView(
                    name=name,
                    value=getattr(limits, name),
                    used=used.get(name),
                    source=limits.sources[name].kind,
                    why=limits.sources[name].why,
                )
                for name in numbers
            ],
            largest=LargestView(shapes=list(limits.largest), source=largest.kind, why=largest.why),
            budgets=[view for unit in Unit if (view := self._budget(connection, nodes, unit)) is not None],
        )

    def _budget(self, connection: Connection, nodes: Sequence[Allocation], unit: Unit) -> BudgetView | None:
        """Return what is left along the path, None when no allocation of it is limited in the unit."""
        limited: list[tuple[Allocation, Balance]] = []
        for node in reversed(nodes):
            try:
                limited.append((node, self.ledger.balance(connection, node.id, unit)))
            except KeyError:
                continue
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


def _state(nodes: Sequence[Allocation], now_ms: int) -> StateView:
    leaf = nodes[-1]
    for node in nodes:
        try:
            require_usable(node, now_ms)
        except AllocationNotActiveError as error:
            kind = SourceKind.AWARD if node is leaf else SourceKind.PARENT
            return StateView(state=leaf.state, usable=False, source=kind, why=error.detail)
    return StateView(state=leaf.state, usable=True, source=SourceKind.AWARD, why="It has begun and has not ended.")
