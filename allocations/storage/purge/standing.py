"""Says which rules hold for an area, by tier and state of its allocation: a home has those of who pays for it.

What has ended has one rule: all of it, for as long as no allocation gives it to its owner again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.lifecycle.models import AllocationState
from allocations.storage.models import payer_of_home
from allocations.storage.purge.models import RunKind
from allocations.storage.purge.rules import AreaRules, Exemption

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.lifecycle.models import Allocation
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy
    from allocations.storage.models import StorageClass, StoredArea
    from allocations.storage.purge.models import Run, StoredExemption
    from allocations.storage.scratch_store import ScratchLeaseStore


# What is suspended may be resumed at any time, and what is pending begins.
ENDED_STATES = frozenset({AllocationState.GRACE, AllocationState.ARCHIVED, AllocationState.CLOSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Finds the rules of areas as policy and allocations are now."""

    clock: Clock
    policy: Policy
    allocations: AllocationStore
    leases: ScratchLeaseStore

    def has_rules(self, connection: Connection, area: StoredArea) -> bool:
        """Say whether any rule holds for an area: for one that belongs to nobody who has an allocation, none does."""
        allocation = self._allocation(connection, area)
        return allocation is not None and bool(
            self.policy.storage.rules_for(area.storage_class, allocation.tier, allocation.state)
        )

    def has_ended(self, connection: Connection, area: StoredArea) -> bool:
        """Say whether none of the allocations that give an area to its owner goes on."""
        return all(one.state in ENDED_STATES for one in self.owned(connection, area))

    def rules(
        self, connection: Connection, area: StoredArea, run: Run, exemptions: Iterable[StoredExemption]
    ) -> AreaRules | None:
        """Return the rules of an area for a run, without what is exempt from them now; None: there are none."""
        exempt = [Exemption(one.folder, one.until_ms) for one in exemptions]
        if run.kind is RunKind.ENDED:
            if not self.has_ended(connection, area):
                return None
            return AreaRules.whole(
                self.policy.storage, storage=area.storage_class, as_of_ms=run.as_of_ms, exemptions=exempt
            )
        if not self.has_rules(connection, area):
            return None
        allocation = self._allocation(connection, area)
        assert allocation is not None, "it has rules"
        # A dry run tells of a moment to come what is known of it now.
        lease = self.leases.in_force(connection, area.id, max(run.as_of_ms, self.clock.now_ms()))
        return AreaRules(
            self.policy.storage,
            storage=area.storage_class,
            tier=allocation.tier,
            state=allocation.state,
            as_of_ms=run.as_of_ms,
            exemptions=exempt,
            extended_days=lease.age_days if lease else None,
        )

    def owned(self, connection: Connection, area: StoredArea) -> list[Allocation]:
        """Return the allocations that give an area to its owner."""
        if area.owner.person is not None:
            return [one for one, _role in self.allocations.of_person(connection, area.owner.person)]
        assert area.owner.allocation_id is not None, "an area has an owner"
        allocation = self.allocations.get(connection, area.owner.allocation_id)
        assert allocation is not None, "allocations are never removed"
        return [allocation]

    def _allocation(self, connection: Connection, area: StoredArea) -> Allocation | None:
        owned = self.owned(connection, area)
        return owned[0] if area.owner.person is None else payer_of_home(owned, self._limits(area.storage_class))

    def _limits(self, storage_class: StorageClass) -> dict[str, int]:
        of_class = {one.name: one for one in self.policy.storage.classes}.get(storage_class.value)
        limits = {tier.name: of_class.limit_bytes(tier.name) for tier in self.policy.tiers} if of_class else {}
        return {tier: limit for tier, limit in limits.items() if limit is not None}
