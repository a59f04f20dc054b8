"""Why a person's limits are as they are: each with where it comes from, what is used of it, and how to get more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.leases.rules import SourceKind
from allocations.ledger.models import Unit
from allocations.lifecycle.models import MANAGING_ROLES, AllocationState
from allocations.web.formats import SECONDS_PER_HOUR, UNITS, to_credits, to_duration, to_number
from allocations.web.render import page
from allocations.web.session import page_needs

if TYPE_CHECKING:
    from allocations.leases.quotas import AllocationQuotas, BudgetView, LargestView, LimitView
    from allocations.policy.models import Policy, Tier
    from allocations.reports.allocations import AllocationView

router = APIRouter(prefix="/quota")
OVER_STATES = frozenset({AllocationState.ARCHIVED, AllocationState.CLOSED})
SOURCES = {
    SourceKind.POLICY: "tier",
    SourceKind.AWARD: "award",
    SourceKind.OVERRIDE: "exception",
    SourceKind.PARENT: "allocation above",
    SourceKind.MEMBER: "set for you",
}
# Title, one, many: in the order in which they are shown.
COUNTED = {
    "servers_per_person": ("Your servers at once", "server", "servers"),
    "cores": ("Cores at once, of everybody", "core", "cores"),
    "gpus": ("GPUs at once, of everybody", "GPU", "GPUs"),
    "member_cores": ("Your cores at once", "core", "cores"),
    "member_gpus": ("Your GPUs at once", "GPU", "GPUs"),
}
LASTING = {"longest_session_seconds": "Longest session", "idle_seconds": "Stopped when idle for"}
FREE_ROOM = ("Stop a server", "/hub/home")


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do to get more, and where: a path of the platform, None when it is done elsewhere."""

    text: str
    href: str | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit in words; `percent` of it is used, None where nothing counts against it."""

    title: str
    value: str
    used: str | None
    percent: float | None
    is_full: bool
    source: str
    why: str
    ends_at: str | None
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """An allocation of a person, and what binds them there; nothing does where it is over."""

    found: AllocationView
    usable: bool
    why: str
    limits: list[Limit]


@router.get("")
def show_quotas(
    request: Request, services: Wired, reader: Annotated[Identity, Depends(page_needs(Scope.READ))]
) -> Response:
    """Show a person what binds them on each of their allocations, and why."""
    views = {view.id: view for view in services.reports.allocations_of(reader.name)}
    builder = LimitBuilder(services.policy, request.app.state.prefix)
    standings = [
        builder.standing(quotas, views[quotas.allocation])
        for quotas in services.quotas.of_person(reader.name).allocations
        # Whoever joined one between the two looks finds it when the page is opened next.
        if quotas.allocation in views
    ]
    return page(request, "quotas.html", standings=sorted(standings, key=lambda one: not one.usable))


@dataclass(frozen=True, slots=True)
class LimitBuilder:
    """Puts quotas into words, with what to do about each."""

    policy: Policy
    prefix: str

    def standing(self, quotas: AllocationQuotas, found: AllocationView) -> Standing:
        """Show what binds on an allocation; `found` is it as its member sees it."""
        limits = [] if quotas.state.state in OVER_STATES else self._limits(quotas, found)
        return Standing(found=found, usable=quotas.state.usable, why=quotas.state.why, limits=limits)

    def remedy(self, kind: SourceKind, found: AllocationView) -> Remedy:
        """Say who can raise a limit of this source, or how it is asked for."""
        shown = f"{self.prefix}/allocations/{found.id}"
        manages = found.role in MANAGING_ROLES
        if kind is SourceKind.MEMBER:
            return (
                Remedy("Change your place among the members", f"{shown}#members")
                if manages
                else Remedy("Ask who leads or manages this allocation: they set it", f"{shown}#members")
            )
        if kind is SourceKind.OVERRIDE:
            return Remedy("To keep it for longer, or to have it changed, write to the administrators")
        if kind is SourceKind.PARENT or found.parent is not None:
            wish = "for a larger share" if kind is SourceKind.PARENT else "to request more"
            return Remedy(f"Ask who leads or manages the allocation above {wish}", shown)
        if self.policy.tier(found.tier).review == "none":
            return self._higher_tier(self.policy.tier(found.tier))
        if manages:
            return Remedy("Ask for more", f"{shown}/ask")
        return Remedy("Ask who leads or manages this allocation to request more", f"{shown}#members")

    # ------------------------------------------------------------------ inside

    def _higher_tier(self, tier: Tier) -> Remedy:
        higher = next((one for one in self.policy.tiers if one.review != "none"), None)
        if higher is None:
            return Remedy(f"There is no tier above {tier.title}: write to the administrators")
        return Remedy(f"Request a {higher.title} allocation", f"{self.prefix}/requests/new?tier={higher.name}")

    def _limits(self, quotas: AllocationQuotas, found: AllocationView) -> list[Limit]:
        by_name = {limit.name: limit for limit in quotas.limits}
        return [
            *(self._budget(budget, found) for budget in quotas.budgets),
            self._largest(quotas.largest, found),
            *(
                self._counted(limit, limit.value, found)
                for name in COUNTED
                if (limit := by_name[name]).value is not None
            ),
            *(self._lasting(by_name[name], found) for name in LASTING),
        ]

    def _counted(self, limit: LimitView, most: int, found: AllocationView) -> Limit:
        title, one, many = COUNTED[limit.name]
        used = limit.used or 0
        is_full = 0 < most <= used
        remedies = [Remedy(*FREE_ROOM)] if is_full else []
        return Limit(
            title=title,
            value=f"{most:,} {one if most == 1 else many}" if most else f"no {many}",
            used=f"{used:,} of {most:,} in use" if most else None,
            percent=_percent(used, most) if most else None,
            is_full=is_full,
            source=SOURCES[limit.source],
            why=limit.why,
            ends_at=limit.ends_at,
            remedies=(*remedies, self.remedy(limit.source, found)),
        )

    def _lasting(self, limit: LimitView, found: AllocationView) -> Limit:
        return Limit(
            title=LASTING[limit.name],
            value=to_duration(limit.value or 0),
            used=None,
            percent=None,
            is_full=False,
            source=SOURCES[limit.source],
            why=limit.why,
            ends_at=limit.ends_at,
            remedies=(self.remedy(limit.source, found),),
        )

    def _largest(self, largest: LargestView, found: AllocationView) -> Limit:
        shapes = tuple(largest.shapes)
        fitting = ", ".join(size.title for size in self.policy.sizes if size.fits(shapes))
        return Limit(
            title="Largest server or run",
            value=" or ".join(
                f"{shape.cores} core{'s' if shape.cores > 1 else ''} with {shape.memory_gib} GiB"
                + (f" and {shape.gpus} GPU{'s' if shape.gpus > 1 else ''}" if shape.gpus else "")
                for shape in shapes
            ),
            used=f"Sizes within it: {fitting}" if fitting else "No size of the catalogue is within it",
            percent=None,
            is_full=not fitting,
            source=SOURCES[largest.source],
            why=largest.why,
            ends_at=largest.ends_at,
            remedies=(self.remedy(largest.source, found),),
        )

    def _budget(self, budget: BudgetView, found: AllocationView) -> Limit:
        if budget.unit is Unit.CREDITS:
            title, left, limit, held = "Credits", *map(to_credits, (budget.available, budget.limit, budget.held))
        else:
            amounts = (budget.available, budget.limit, budget.held)
            title = UNITS[budget.unit]
            left, limit, held = (to_number(amount / SECONDS_PER_HOUR) for amount in amounts)
        return Limit(
            title=title,
            value=f"{left} left",
            used=f"of {limit}; {held} held by what runs",
            percent=_percent(budget.posted + budget.held, budget.limit),
            is_full=budget.available == 0,
            source=SOURCES[budget.source],
            why=budget.why,
            ends_at=None,
            remedies=(self.remedy(budget.source, found),),
        )


def _percent(used: int, most: int) -> float:
    return round(min(100.0, 100 * used / max(1, most)), 2)
