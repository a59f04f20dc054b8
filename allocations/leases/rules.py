"""What a person may start on an allocation: pure rules, the same for the start page and for admission."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import AllocationNotActiveError, AtOnceLimitError, SizeNotAllowedError
from allocations.lifecycle.models import USABLE_STATES, AllocationState

if TYPE_CHECKING:
    from allocations.lifecycle.models import Allocation
    from allocations.policy.models import AtOnce, Policy, Shape, Size

REQUEST_URL = "/services/allocations/requests/new"


@dataclass(frozen=True, slots=True)
class Limits:
    """What binds on an allocation now: its award where it says something, its tier otherwise."""

    tier_title: str
    largest: tuple[Shape, ...]
    at_once: AtOnce
    idle_seconds: int
    longest_session_seconds: int


@dataclass(frozen=True, slots=True)
class InUse:
    """What runs now, counted over open leases: servers of the person, cores and GPUs of the whole tree."""

    servers_of_person: int
    cores: int
    gpus: int


def limits_of(policy: Policy, root: Allocation) -> Limits:
    """Return the limits of an allocation's tree; they are the root's."""
    tier = policy.tier(root.tier)
    return Limits(
        tier_title=tier.title,
        largest=root.award.largest or tier.largest,
        at_once=root.award.at_once or tier.at_once,
        idle_seconds=tier.idle_seconds,
        longest_session_seconds=tier.longest_session_seconds,
    )


def require_usable(allocation: Allocation, now_ms: int) -> None:
    """Raise AllocationNotActiveError unless the allocation may be spent now."""
    if allocation.state is AllocationState.SUSPENDED:
        raise AllocationNotActiveError(
            f"“{allocation.name}” is suspended.", "Write to the administrators to learn why and what to do."
        )
    if now_ms < allocation.starts_at_ms or allocation.state is AllocationState.PENDING:
        raise AllocationNotActiveError(
            f"“{allocation.name}” has not begun yet.", "Choose another allocation until then."
        )
    if allocation.state not in USABLE_STATES or now_ms >= allocation.ends_at_ms:
        raise AllocationNotActiveError(f"“{allocation.name}” has ended.", "Renew it or choose another.", REQUEST_URL)


def require_size(limits: Limits, size: Size) -> None:
    """Raise SizeNotAllowedError when the size is above what the tier or award gives."""
    if not size.fits(limits.largest):
        largest = " or ".join(
            f"{shape.cores} cores and {shape.memory_gib} GiB" + (f" with {shape.gpus} GPU" if shape.gpus else "")
            for shape in limits.largest
        )
        raise SizeNotAllowedError(
            f"{size.title} ({size.describe()}) is above the largest of the {limits.tier_title} tier: {largest}.",
            "Choose a smaller size or request a higher tier.",
            REQUEST_URL,
        )


def require_room(limits: Limits, size: Size, in_use: InUse, *, is_server: bool) -> None:
    """Raise AtOnceLimitError when starting the size would exceed what may run at once."""
    at_once = limits.at_once
    if is_server and in_use.servers_of_person + 1 > at_once.servers_per_person:
        servers = "one server" if at_once.servers_per_person == 1 else f"{at_once.servers_per_person} servers"
        raise AtOnceLimitError(
            f"The {limits.tier_title} tier lets each person run {servers} at once, and you have as many.",
            "Stop a server first.",
            "/hub/home",
        )
    for what, used, asked, most in (
        ("cores", in_use.cores, size.cores, at_once.cores),
        ("GPUs", in_use.gpus, size.gpus, at_once.gpus),
    ):
        if used + asked > most:
            raise AtOnceLimitError(
                f"This allocation may run {most} {what} at once; {used} run now and this needs {asked} more.",
                "Stop a server or a run of it first, or choose a smaller size.",
            )
