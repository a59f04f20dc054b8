"""What a person may start on an allocation: pure rules, the same for the start page and for admission."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from allocations.clock import MS_PER_SECOND
from allocations.errors import (
    AllocationNotActiveError,
    AtOnceLimitError,
    InsufficientBalanceError,
    MemberAtOnceLimitError,
    PersonSuspendedError,
    SizeNotAllowedError,
)
from allocations.ledger.service import MICROCREDITS_PER_CREDIT
from allocations.lifecycle.models import RUNNING_STATES, USABLE_STATES, AllocationState, OverrideLimits, OverrideSubject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from allocations.lifecycle.models import Allocation, Member, Override, Suspension
    from allocations.policy.models import Policy, Shape, Size

PERCENT = 100
REQUEST_URL = "/services/allocations/requests/new"


class SourceKind(StrEnum):
    """Where a limit comes from."""

    POLICY = "policy"
    AWARD = "award"
    OVERRIDE = "override"
    PARENT = "parent"
    MEMBER = "member"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a limit comes from, that as a sentence, and when that ends, if by itself."""

    kind: SourceKind
    why: str
    ends_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What binds a person on an allocation now; `sources` says of each field but the title where it comes from.

    `cores` and `gpus` count over the whole tree, `member_cores` and `member_gpus` (None: no cap) over what the person
    runs there.
    """

    tier_title: str
    largest: tuple[Shape, ...]
    servers_per_person: int
    cores: int
    gpus: int
    idle_seconds: int
    longest_session_seconds: int
    member_cores: int | None
    member_gpus: int | None
    sources: Mapping[str, Source]


@dataclass(frozen=True, slots=True)
class InUse:
    """What runs now, counted over open leases: of a person, or of a whole tree; `server_cores` are of servers alone."""

    servers: int = 0
    cores: int = 0
    gpus: int = 0
    server_cores: int = 0

    def __add__(self, other: InUse) -> InUse:
        return InUse(
            self.servers + other.servers,
            self.cores + other.cores,
            self.gpus + other.gpus,
            self.server_cores + other.server_cores,
        )

    @property
    def batch_cores(self) -> int:
        """The cores of batch runs."""
        return self.cores - self.server_cores


def effective_limits(
    policy: Policy, nodes_root_to_leaf: Sequence[Allocation], member: Member | None, overrides: Sequence[Override]
) -> Limits:
    """Return what binds: the tier's limits, then the root's award, then overrides, restricted by the member's caps.

    `overrides` are in force, oldest first, and may be of others too; those for the person come after those for an
    allocation, and the newest of each wins.
    """
    root = nodes_root_to_leaf[0]
    tier = policy.tier(root.tier)
    values: dict[str, Any] = {
        "largest": tier.largest,
        "idle_seconds": tier.idle_seconds,
        "longest_session_seconds": tier.longest_session_seconds,
        "member_cores": None,
        "member_gpus": None,
        **tier.at_once.model_dump(),
    }
    by_policy = Source(SourceKind.POLICY, f"As every allocation of the {tier.title} tier.")
    sources = dict.fromkeys(values, by_policy)
    awarded = root.award.at_once.model_dump() if root.award.at_once else {}
    if root.award.largest:
        awarded["largest"] = root.award.largest
    values |= awarded
    sources |= dict.fromkeys(awarded, Source(SourceKind.AWARD, f"Awarded to “{root.name}”."))
    names = {node.id: f"“{node.name}”" for node in nodes_root_to_leaf}
    subjects = {(OverrideSubject.ALLOCATION, node) for node in names}
    if member is not None:
        subjects.add((OverrideSubject.PERSON, member.person))
    concerned = [one for one in overrides if (one.subject_kind, one.subject) in subjects]
    for override in sorted(concerned, key=lambda one: one.subject_kind is OverrideSubject.PERSON):
        limits = override.limits
        changed = {
            name: getattr(limits, name) for name in OverrideLimits.model_fields if getattr(limits, name) is not None
        }
        whose = names.get(override.subject, override.subject)
        why = f"An exception for {whose}, made by {override.author}: {override.reason}"
        values |= changed
        sources |= dict.fromkeys(changed, Source(SourceKind.OVERRIDE, why, override.ends_at_ms))
    if member is not None:
        _restrict(values, sources, member)
    return Limits(tier_title=tier.title, sources=sources, **values)


def _restrict(values: dict[str, Any], sources: dict[str, Source], member: Member) -> None:
    """Apply what a lead lets the member run: a cap only ever lowers."""
    capped = Source(SourceKind.MEMBER, f"Set for {member.person} by those who manage the allocation.")
    if member.servers_max is not None and member.servers_max < values["servers_per_person"]:
        values["servers_per_person"] = member.servers_max
        sources["servers_per_person"] = capped
    for name, most in (("member_cores", member.cores_max), ("member_gpus", member.gpus_max)):
        if most is not None:
            values[name], sources[name] = most, capped


def require_not_suspended(suspension: Suspension | None) -> None:
    """Raise PersonSuspendedError for who has a suspension in force."""
    if suspension is not None:
        raise PersonSuspendedError(
            f"You are suspended, so nothing new starts in your name. The reason: {suspension.reason}",
            "Write to the administrators to learn what to do.",
        )


def require_cap(member: Member, spent: int, amount: int) -> None:
    """Raise InsufficientBalanceError when a member would spend more than a lead lets them; in microcredits.

    `spent` is what is charged to them and held for them on the allocation.
    """
    most = member.microcredits_max
    if most is not None and spent + amount > most:
        raise InsufficientBalanceError(
            f"A lead of this allocation lets you spend {_credits(most)} credits of it; "
            f"you have {_credits(max(0, most - spent))} left and this needs {_credits(amount)}.",
            "Choose a smaller size or a shorter time, another allocation, or ask the lead.",
        )


def _credits(microcredits: int) -> str:
    # Every digit: rounded, what is left and what is needed could read the same.
    digits = f"{Decimal(microcredits) / MICROCREDITS_PER_CREDIT:,f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


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

    What people have suspended, archived or closed is not renewed at all: 0.
    """
    if any(node.state not in RUNNING_STATES for node in path):
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


def require_room_beside_servers(policy: Policy, limits: Limits, size: Size, own: InUse, tree: InUse) -> None:
    """Raise AtOnceLimitError when a batch run of the size would take what is left to those who start a server.

    That is the policy's share of the allocation's cores, and of a member's cap the smallest server; what servers run
    on already counts towards it. A run beside which no other runs in batch may take all: else no size of a small
    allocation would be left for one.
    """
    percent = policy.runs.interactive_reserve_percent
    if percent == 0:
        return
    smallest = policy.sizes[0].cores
    kept = max(smallest, math.ceil(limits.cores * percent / PERCENT), tree.server_cores)
    if tree.batch_cores and tree.batch_cores + size.cores + kept > limits.cores:
        raise AtOnceLimitError(
            f"This allocation may run {limits.cores} cores at once, and {kept} of them are left to servers; "
            f"{tree.batch_cores} run in batch now and this needs {size.cores} more.",
            "It waits for other runs to end.",
        )
    most = limits.member_cores
    kept = max(smallest, own.server_cores)
    if most is not None and own.batch_cores and own.batch_cores + size.cores + kept > most:
        raise MemberAtOnceLimitError(
            f"A lead of this allocation lets you run {most} cores at once, {kept} of them left to your servers; "
            f"you run {own.batch_cores} in batch now and this needs {size.cores} more.",
            "It waits for other runs of yours to end.",
        )


def require_room(limits: Limits, size: Size, own: InUse, tree: InUse, *, is_server: bool) -> None:
    """Raise AtOnceLimitError when starting the size would exceed what may run at once."""
    if is_server and own.servers + 1 > limits.servers_per_person:
        most, source = limits.servers_per_person, limits.sources["servers_per_person"].kind
        servers = "one server" if most == 1 else f"{most} servers"
        whose = "A lead of this allocation" if source is SourceKind.MEMBER else "Your limit"
        raise AtOnceLimitError(
            f"{whose} lets you run {servers} at once, and you have as many."
            if source is not SourceKind.POLICY
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
            raise MemberAtOnceLimitError(
                f"A lead of this allocation lets you run {most_of_member} {what} at once; "
                f"you run {own_used} now and this needs {asked} more.",
                "Stop one of your servers or runs first, choose a smaller size, or ask the lead.",
            )
