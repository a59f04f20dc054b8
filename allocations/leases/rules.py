"""What a person may start on an allocation: pure rules, the same for the start page and for admission."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from allocations.clock import MS_PER_SECOND
from allocations.errors import AllocationNotActiveError, AtOnceLimitError, SizeNotAllowedError
from allocations.lifecycle.models import USABLE_STATES, AllocationState, OverrideSubject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from allocations.lifecycle.models import Allocation, Member, Override
    from allocations.policy.models import Policy, Shape, Size

REQUEST_URL = "/services/allocations/requests/new"


class Source(StrEnum):
    """Where a limit comes from."""

    POLICY = "policy"
    AWARD = "award"
    OVERRIDE = "override"
    MEMBER = "member"


@dataclass(frozen=True, slots=True)
class Limits:
    """What binds on a person on an allocation now. `cores` and `gpus` count over the whole tree, those of the member
    over what the person runs there; None: no limit of their own. `sources` says of each field where it comes from."""

    tier_title: str
    largest: tuple[Shape, ...]
    servers_per_person: int
    cores: int
    gpus: int
    member_cores: int | None
    member_gpus: int | None
    idle_seconds: int
    longest_session_seconds: int
    sources: Mapping[str, Source]


@dataclass(frozen=True, slots=True)
class InUse:
    """What runs now, counted over open leases: of a person, or of a whole tree."""

    servers: int = 0
    cores: int = 0
    gpus: int = 0

    def __add__(self, other: InUse) -> InUse:
        return InUse(self.servers + other.servers, self.cores + other.cores, self.gpus + other.gpus)


def effective_limits(
    policy: Policy, path: Sequence[Allocation], member: Member, overrides: Sequence[Override]
) -> Limits:
    """Return the limits of a person on an allocation (`path` leads from the root down to it).

    The tier's hold, the root's award comes before them, and overrides in force before both: first those of allocations
    on the path, then the person's own, of each the newest last. What a lead lets the member run only lowers them.
    """
    root = path[0]
    tier = policy.tier(root.tier)
    at_once = root.award.at_once or tier.at_once
    of_award = Source.AWARD if root.award.at_once else Source.POLICY
    values: dict[str, Any] = {
        "servers_per_person": at_once.servers_per_person,
        "cores": at_once.cores,
        "gpus": at_once.gpus,
        "largest": root.award.largest or tier.largest,
        "idle_seconds": tier.idle_seconds,
        "longest_session_seconds": tier.longest_session_seconds,
    }
    sources = dict.fromkeys(values, Source.POLICY) | dict.fromkeys(("servers_per_person", "cores", "gpus"), of_award)
    if root.award.largest:
        sources["largest"] = Source.AWARD
    nodes = {node.id for node in path}
    of_path = [one for one in overrides if one.subject_kind is OverrideSubject.ALLOCATION and one.subject in nodes]
    of_person = [
        one for one in overrides if one.subject_kind is OverrideSubject.PERSON and one.subject == member.person
    ]
    for override in (*of_path, *of_person):
        for name in values:
            value = getattr(override.limits, name)
            if value is not None:
                values[name], sources[name] = value, Source.OVERRIDE
    if member.servers_max is not None and member.servers_max < values["servers_per_person"]:
        values["servers_per_person"], sources["servers_per_person"] = member.servers_max, Source.MEMBER
    return Limits(
        tier_title=tier.title,
        member_cores=member.cores_max,
        member_gpus=member.gpus_max,
        sources=sources | {"member_cores": Source.MEMBER, "member_gpus": Source.MEMBER},
        **values,
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


def may_run_until_ms(path: Sequence[Allocation], grace_seconds: int) -> int:
    """Return until when what runs on an allocation may go on: the first end on its path, and the policy's grace.

    What people have suspended or closed gives no grace: 0.
    """
    if any(node.state in {AllocationState.SUSPENDED, AllocationState.CLOSED} for node in path):
        return 0
    return min(node.ends_at_ms for node in path) + grace_seconds * MS_PER_SECOND


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


def require_room(limits: Limits, size: Size, own: InUse, tree: InUse, *, is_server: bool) -> None:
    """Raise AtOnceLimitError when starting the size would exceed what may run at once."""
    if is_server and own.servers + 1 > limits.servers_per_person:
        most = limits.servers_per_person
        servers = "one server" if most == 1 else f"{most} servers"
        whose = "A lead of this allocation" if limits.sources["servers_per_person"] is Source.MEMBER else "Your limit"
        raise AtOnceLimitError(
            f"{whose} lets you run {servers} at once, and you have as many."
            if limits.sources["servers_per_person"] is not Source.POLICY
            else f"The {limits.tier_title} tier lets each person run {servers} at once, and you have as many.",
            "Stop a server first.",
            "/hub/home",
        )
    for what, used, asked, most_of_tree, own_used, most_of_member in (
        ("cores", tree.cores, size.cores, limits.cores, own.cores, limits.member_cores),
        ("GPUs", tree.gpus, size.gpus, limits.gpus, own.gpus, limits.member_gpus),
    ):
        if used + asked > most_of_tree:
            raise AtOnceLimitError(
                f"This allocation may run {most_of_tree} {what} at once; {used} run now and this needs {asked} more.",
                "Stop a server or a run of it first, or choose a smaller size.",
            )
        if most_of_member is not None and own_used + asked > most_of_member:
            raise AtOnceLimitError(
                f"A lead of this allocation lets you run {most_of_member} {what} at once; "
                f"you run {own_used} now and this needs {asked} more.",
                "Stop one of your servers or runs first, choose a smaller size, or ask the lead.",
            )
