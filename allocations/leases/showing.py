"""Shows leases as the API and the pages do: with the names of their allocations, and their amounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.leases.images import reference_of
from allocations.leases.views import LeaseView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.leases.models import Lease
    from allocations.leases.store import LeaseStore
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy


@dataclass(frozen=True, slots=True)
class LeaseViews:
    """Leases as people see them."""

    leases: LeaseStore
    allocations: AllocationStore
    policy: Policy

    def of(self, connection: Connection, leases: Sequence[Lease]) -> list[LeaseView]:
        """Show leases, in their order."""
        if not leases:
            return []
        amounts = self.leases.amounts(connection, [lease.id for lease in leases])
        nodes = self.allocations.with_ancestors(connection, {lease.allocation_id for lease in leases})
        return [
            LeaseView.from_lease(
                lease,
                nodes[lease.allocation_id],
                reference_of(self.policy, lease.image),
                *amounts.get(lease.id, (0, 0)),
            )
            for lease in leases
        ]
