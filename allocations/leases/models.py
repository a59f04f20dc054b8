"""A lease and its holds, and what a person asks for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND
from allocations.ledger.models import Unit
from allocations.policy.models import RESCUE

if TYPE_CHECKING:
    from allocations.policy.models import Size


class LeaseKind(StrEnum):
    """An interactive lease is held by quantum and renewed; a batch lease holds its whole declared maximum."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class LeaseState(StrEnum):
    """Open, or how it ended; also the state of each of its holds."""

    OPEN = "open"
    SETTLED = "settled"
    VOIDED = "voided"
    EXPIRED = "expired"


class EndReason(StrEnum):
    """Why a lease ended, in words for people."""

    STOPPED = "stopped"
    NEVER_RAN = "never ran"
    LOST = "lost to a fault of the platform"
    GONE = "found stopped by reconciliation"
    NOT_SEEN = "no start was reported in time"
    NO_STOP_REPORTED = "no stop was reported in time"


GUESSES = frozenset({EndReason.GONE, EndReason.NOT_SEEN})
"""What the worker takes for the end of a lease until it is told better."""


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What is asked for: a size of the policy by name (RESCUE for a rescue server), or resources of one's own.

    `max_seconds` is the declared maximum of a batch run, None for a server. `chosen_at_ms` is when its image was
    chosen, None for now: what waits in the queue keeps the version that it was submitted with.
    """

    allocation: str
    person: str
    kind: LeaseKind
    size: str | Size
    image: str | None
    server_name: str
    max_seconds: int | None = None
    chosen_at_ms: int | None = None

    @property
    def is_rescue(self) -> bool:
        """Say whether a rescue server is asked for."""
        return self.size == RESCUE and self.kind is LeaseKind.INTERACTIVE


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as stored. Times are milliseconds since the epoch; `started_at_ms` is None until the server runs.

    `kept_at_ms` is when its person last asked to keep it though nobody uses it, None for never.
    """

    id: str
    allocation_id: str
    root_id: str
    person: str
    kind: LeaseKind
    size: str
    image: str
    server_name: str
    cores: int
    memory_gib: int
    gpus: int
    gpu_type: str | None
    microcredits_per_second: int
    idle_seconds: int
    state: LeaseState
    final: bool
    acquired_at_ms: int
    started_at_ms: int | None
    ends_at_ms: int
    latest_end_at_ms: int
    seen_at_ms: int | None
    missing_since_ms: int | None
    ended_at_ms: int | None
    end_reason: str | None
    moved_at_ms: int
    kept_at_ms: int | None = None

    @property
    def is_rescue(self) -> bool:
        """Say whether its server is for freeing space: it holds nothing, costs nothing and is not renewed."""
        return self.size == RESCUE

    @property
    def is_guessed(self) -> bool:
        """Say whether the lease has ended by what the worker guessed, which a report of the end corrects."""
        return self.end_reason in GUESSES

    def seconds_at(self, at_ms: int) -> int:
        """Return the whole seconds that the server has run at a time; never more than the true lifetime."""
        if self.started_at_ms is None:
            return 0
        return max(0, at_ms - self.started_at_ms) // MS_PER_SECOND

    def per_second(self, unit: Unit) -> int:
        """Return what the lease uses of a unit in one second."""
        match unit:
            case Unit.CREDITS:
                return self.microcredits_per_second
            case Unit.CORE_SECONDS:
                return self.cores
            case Unit.GPU_SECONDS:
                return self.gpus

    def quantities(self, seconds: int) -> dict[str, int]:
        """Return the physical quantities of so many seconds, as each charge keeps them."""
        return {
            "seconds": seconds,
            "core_seconds": self.cores * seconds,
            "gib_seconds": self.memory_gib * seconds,
            "gpu_seconds": self.gpus * seconds,
        }


@dataclass(frozen=True, slots=True)
class Hold:
    """An open hold: covers the seconds [from_second, to_second) after the lease's start."""

    lease_id: str
    sequence: int
    unit: Unit
    per_second: int
    from_second: int
    to_second: int
    amount: int

    def charge_at(self, seconds: int) -> int:
        """Return what is due when the lease has run so many seconds: never more than the hold."""
        return self.per_second * (min(max(seconds, self.from_second), self.to_second) - self.from_second)


@dataclass(frozen=True, slots=True)
class Renewal:
    """A lease to renew, charged up to when its server was last seen running (None: now)."""

    lease_id: str
    seen_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a lease is to end: settled, voided or expired, and why.

    `ended_at_ms` is when it stopped and `started_at_ms` when it began, as reported, None for not. One that never
    started is voided where `void_unstarted` says so, and otherwise taken to have run since it was acquired; one that
    has started is refused with `refuse_started`.
    """

    lease_id: str
    state: LeaseState
    reason: EndReason
    ended_at_ms: int | None = None
    started_at_ms: int | None = None
    void_unstarted: bool = False
    refuse_started: bool = False
