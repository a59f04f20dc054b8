"""What is shown of allocations: their balances, members and trees, and a person's overview of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import to_rfc3339
from allocations.leases.views import LeaseView, View
from allocations.ledger.models import Unit
from allocations.reports.burn_down import BurnDown
from allocations.reports.charges import JournalEntryView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.ledger.service import Ledger
    from allocations.lifecycle.models import Allocation, Member, MemberRole
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy


ALLOCATIONS_PAGE = 50


class AllocationView(View):
    """An allocation with its balance; amounts are microcredits."""

    id: str
    parent: str | None
    depth: int
    name: str
    tier: str
    tier_title: str
    state: str
    guaranteed: bool
    role: str | None
    starts_at: str
    ends_at: str
    limit_microcredits: int
    held_microcredits: int
    posted_microcredits: int
    available_microcredits: int
    instalments_released: int
    instalments: int


class MemberView(View):
    """A person's place in an allocation, and what a lead lets them run at once and spend; None: as everybody."""

    person: str
    role: str
    joined_at: str
    servers_max: int | None
    cores_max: int | None
    gpus_max: int | None
    microcredits_max: int | None

    @classmethod
    def from_member(cls, member: Member) -> MemberView:
        """Show a member."""
        return cls(
            person=member.person,
            role=member.role,
            joined_at=to_rfc3339(member.joined_at_ms),
            servers_max=member.servers_max,
            cores_max=member.cores_max,
            gpus_max=member.gpus_max,
            microcredits_max=member.microcredits_max,
        )


class BalanceView(View):
    """What an allocation has of a unit: microcredits of credits, seconds otherwise."""

    unit: Unit
    limit: int
    held: int
    posted: int
    available: int


class AllocationOutline(View):
    """An allocation, its subtree, members and what runs on it."""

    allocation: AllocationView
    tree: list[AllocationView]
    members: list[MemberView]
    leases: list[LeaseView]
    may_manage: bool


class AllocationDetail(AllocationOutline):
    """An allocation, its subtree, members, what runs on it and its latest charges."""

    charges: list[JournalEntryView]
    balances: list[BalanceView]
    burn_down: BurnDown


class Overview(View):
    """A person's home page."""

    allocations: list[AllocationView]
    servers: list[LeaseView]
    charges: list[JournalEntryView]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationViewBuilder:
    """Shows allocations with what the ledger and their tier say of them, in the caller's transaction."""

    policy: Policy
    ledger: Ledger
    allocations: AllocationStore

    def view(self, connection: Connection, allocation: Allocation, role: MemberRole | None) -> AllocationView:
        """Show an allocation with its balance of credits; the role is that of whom it is shown to."""
        return self.views(connection, [(allocation, role)])[0]

    def views(
        self, connection: Connection, shown: Sequence[tuple[Allocation, MemberRole | None]]
    ) -> list[AllocationView]:
        """Show allocations as `view` does, in their order, with as many queries for many as for one."""
        ids = [allocation.id for allocation, _ in shown]
        nodes = self.allocations.with_ancestors(connection, ids)
        balances = self.ledger.balances(connection, ids, lock=False)
        views = []
        for allocation, role in shown:
            own = balances[allocation.id, Unit.CREDITS]
            available, above = own.available, allocation.parent_id
            while above is not None:
                available, above = min(available, balances[above, Unit.CREDITS].available), nodes[above].parent_id
            tier = self.policy.tier(allocation.tier)
            views.append(
                AllocationView(
                    id=allocation.id,
                    parent=allocation.parent_id,
                    depth=allocation.depth,
                    name=allocation.name,
                    tier=allocation.tier,
                    tier_title=tier.title,
                    state=allocation.state,
                    guaranteed=allocation.guaranteed,
                    role=role,
                    starts_at=to_rfc3339(allocation.starts_at_ms),
                    ends_at=to_rfc3339(allocation.ends_at_ms),
                    limit_microcredits=own.limit,
                    held_microcredits=own.held,
                    posted_microcredits=own.posted,
                    available_microcredits=max(0, available),
                    instalments_released=allocation.award.instalments_released,
                    instalments=len(tier.budget.instalments),
                )
            )
        return views

    def balances(self, connection: Connection, allocation: Allocation) -> list[BalanceView]:
        """Show what an allocation has of every unit that it is limited in."""
        path = self.ledger.path(connection, allocation.id)
        views = []
        for unit in Unit:
            try:
                balance = self.ledger.balance(connection, allocation.id, unit)
            except KeyError:
                continue
            available = max(0, self.ledger.available(connection, path, unit))
            views.append(
                BalanceView(
                    unit=unit, limit=balance.limit, held=balance.held, posted=balance.posted, available=available
                )
            )
        return views
