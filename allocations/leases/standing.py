"""What binds a person on their allocations, read once for all of them: as many statements for a hundred as for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.leases.rules import InUse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.leases.store import LeaseStore
    from allocations.ledger.models import Balance, Unit
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.models import Allocation, Member, Override
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.overrides import OverrideStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a person stands on allocations: `spent` is (held now, charged in all), of places with a cap only."""

    person: str
    now_ms: int
    nodes: Mapping[str, Allocation]
    places: Mapping[tuple[str, str], Member]
    overrides: Sequence[Override]
    in_use: Mapping[str, Mapping[str | None, InUse]]
    balances: Mapping[tuple[str, Unit], Balance]
    spent: Mapping[tuple[str, str], tuple[int, int]]

    def path(self, allocation: Allocation) -> list[Allocation]:
        """Return the allocations from the root down to one."""
        up = [allocation]
        while up[-1].parent_id is not None:
            up.append(self.nodes[up[-1].parent_id])
        return up[::-1]

    def place(self, allocation: Allocation) -> Member | None:
        """Return the person's place in an allocation, None where they have none."""
        return self.places.get((allocation.id, self.person))

    def running(self, allocation: Allocation) -> tuple[InUse, InUse]:
        """Return what the person runs now on the allocation's tree, and what everybody does."""
        on_tree = self.in_use.get(allocation.root_id, {})
        return on_tree.get(self.person, InUse()), sum(on_tree.values(), InUse())


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingReader:
    """Reads what binds, in the caller's transaction."""

    ledger: Ledger
    leases: LeaseStore
    allocations: AllocationStore
    overrides: OverrideStore

    def read(self, connection: Connection, person: str, own: Sequence[Allocation], now_ms: int) -> Standing:
        """Return where a person stands on allocations."""
        ids = [found.id for found in own]
        nodes = self.allocations.with_ancestors(connection, ids)
        places = self.allocations.members_among(connection, ids, [person])
        return Standing(
            person=person,
            now_ms=now_ms,
            nodes=nodes,
            places=places,
            overrides=self.overrides.in_force(connection, [person], nodes, now_ms),
            in_use=self.leases.in_use(connection, {found.root_id for found in own}, [person]),
            balances=self.ledger.balances(connection, ids, lock=False),
            spent=self.leases.spent_by(connection, places.values()),
        )
