"""What an allocation has been awarded, beside which more is asked for, and what may be asked for now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, to_rfc3339
from allocations.errors import AllocationsError
from allocations.leases.views import View
from allocations.lifecycle.models import Award, RequestKind
from allocations.policy.models import AtOnce, Shape  # pydantic reads them at run time

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.ledger.service import Ledger
    from allocations.lifecycle.allocations import AllocationService
    from allocations.lifecycle.models import Allocation
    from allocations.lifecycle.stores.requests import RequestStore
    from allocations.policy.models import Policy


class StandingView(View):
    """What an allocation has for its term: the award, or where that says nothing, its tier. Credits are whole ones.

    `largest` and `at_once` are None where the award says nothing of them: then they are the tier's.
    """

    allocation: str
    name: str
    tier: str
    state: str
    starts_at: str
    ends_at: str
    credits: int
    limit_microcredits: int
    posted_microcredits: int
    gpu_hours: int | None
    core_hours: int | None
    term_days: int
    largest: tuple[Shape, ...] | None
    at_once: AtOnce | None
    renewable: bool
    renewal_opens_at: str
    renewal: Award | None


class AskingView(View):
    """What has been awarded, and of each kind that may be asked for, why not now; empty when it may."""

    award: StandingView
    why_not: dict[RequestKind, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingViewBuilder:
    """Shows awards, in the caller's transaction."""

    policy: Policy
    ledger: Ledger
    lifecycle: AllocationService
    requests: RequestStore

    def award(self, connection: Connection, allocation: Allocation) -> StandingView:
        """Show what an allocation has been awarded for its term."""
        tier, award = self.policy.tier(allocation.tier), allocation.award
        balance = self.ledger.balance(connection, allocation.id)
        return StandingView(
            allocation=allocation.id,
            name=allocation.name,
            tier=allocation.tier,
            state=self.lifecycle.state_at(allocation, self.lifecycle.clock.now_ms()),
            starts_at=to_rfc3339(allocation.starts_at_ms),
            ends_at=to_rfc3339(allocation.ends_at_ms),
            credits=award.credits or tier.budget.credits,
            limit_microcredits=balance.limit,
            posted_microcredits=balance.posted,
            gpu_hours=award.gpu_hours,
            core_hours=award.core_hours,
            term_days=award.term_days or tier.term_days,
            largest=award.largest,
            at_once=award.at_once,
            renewable=award.renewable,
            renewal_opens_at=to_rfc3339(allocation.ends_at_ms - tier.renewal_opens_days * MS_PER_DAY),
            renewal=allocation.renewal,
        )

    def asking(self, connection: Connection, allocation: Allocation) -> AskingView:
        """Show what may be asked for on an allocation now."""
        kinds = (RequestKind.SUPPLEMENT, RequestKind.EXTENSION, RequestKind.RENEWAL)
        return AskingView(
            award=self.award(connection, allocation),
            why_not={kind: self._why_not(connection, allocation, kind) for kind in kinds},
        )

    # ------------------------------------------------------------------ inside

    def _why_not(self, connection: Connection, allocation: Allocation, kind: RequestKind) -> str:
        if self.policy.tier(allocation.tier).review == "none":
            return "An allocation of this tier is renewed with the user agreement. Request a higher tier instead."
        if self.requests.is_waiting(connection, allocation.id, kind):
            return "It has been asked for, and is not decided yet."
        if kind is RequestKind.RENEWAL and allocation.renewal is not None:
            return "It has been renewed already: the next term begins when this one ends."
        try:
            self.lifecycle.require_open_to(allocation, kind)
        except AllocationsError as error:
            return f"{error.detail} {error.remedy}"
        return ""
