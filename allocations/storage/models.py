"""What is known of storage: areas, their days, and the states that people see."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY
from allocations.lifecycle.models import RUNNING_STATES, AllocationState
from allocations.storage.quotas.backends import Area

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from allocations.lifecycle.models import Allocation
    from allocations.storage.tree.usage import FolderUse

BYTES_PER_GB = 1_000_000_000
# What is suspended keeps its files, and pays for them.
PAYING_STATES = RUNNING_STATES | {AllocationState.SUSPENDED}


class StorageClass(StrEnum):
    """What a tree is for; prices, limits and rules go by it."""

    HOME = "home"
    SCRATCH = "scratch"
    SHARED = "shared"
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose an area is: a person's or an allocation's, never both."""

    person: str | None = None
    allocation_id: str | None = None

    def __post_init__(self) -> None:
        assert (self.person is None) != (self.allocation_id is None), "an area has one owner"


@dataclass(frozen=True, slots=True)
class StoredArea:
    """An area with what was last measured (None: not yet) and the limit in force; `problem` says what fails."""

    number: int
    id: str
    storage_class: StorageClass
    owner: Owner
    place: str
    measured_at_ms: int | None
    bytes: int | None
    files: int | None
    passed_over: int | None
    largest: tuple[FolderUse, ...]
    over_since_ms: int | None
    limit_bytes: int | None
    problem: str | None

    @property
    def area(self) -> Area:
        """As a backend knows it."""
        return Area(self.id, self.number, self.place)


@dataclass(frozen=True, slots=True)
class Day:
    """What an area took on a day (days since the epoch, UTC), and what came of it; `due` is None until it is over."""

    area_id: str
    day: int
    bytes: int
    files: int | None
    payer: str | None
    microcredits_per_gb_day: int | None
    due_microcredits: int | None
    charged_microcredits: int

    @property
    def owed_microcredits(self) -> int:
        """What is still to be charged."""
        return (self.due_microcredits or 0) - self.charged_microcredits


class StorageState(StrEnum):
    """How an area stands to its limit, as people are told it."""

    OK = "ok"
    NEARING = "nearing limit"
    OVER = "over limit"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When an area nears its limit, in percent of it, and after how long over the limit it is locked."""

    nearing_percent: int
    locked_after_days: int


def state_of(
    used_bytes: int, limit_bytes: int | None, over_since_ms: int | None, now_ms: int, thresholds: Thresholds
) -> StorageState:
    """Return the state of an area that takes so much; `over_since_ms` is when it was first seen beyond its limit."""
    if limit_bytes is None:
        return StorageState.OK
    if used_bytes > limit_bytes:
        since_ms = now_ms if over_since_ms is None else over_since_ms
        is_locked = now_ms - since_ms >= thresholds.locked_after_days * MS_PER_DAY
        return StorageState.LOCKED if is_locked else StorageState.OVER
    if used_bytes * 100 >= limit_bytes * thresholds.nearing_percent:
        return StorageState.NEARING
    return StorageState.OK


def payer_of_home(allocations: Sequence[Allocation], home_bytes: Mapping[str, int]) -> Allocation | None:
    """Return which of a person's allocations pays for the home: the one whose tier gives the largest, the oldest of
    several; None when none is in a state to pay.

    `allocations` are oldest first; `home_bytes` is what each tier gives.
    """
    paying = [one for one in allocations if one.state in PAYING_STATES]
    return max(paying, key=lambda one: home_bytes.get(one.tier, 0), default=None)


def due_microcredits(used_bytes: int, microcredits_per_gb_day: int) -> int:
    """Return what a day of so many bytes costs, rounded down."""
    return used_bytes * microcredits_per_gb_day // BYTES_PER_GB
