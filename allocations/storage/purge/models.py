"""What is known of purges: runs, what they do to each area, exemptions from them, archives, and what is asked back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from allocations.storage.archive.stores import Store
    from allocations.storage.models import StorageClass, StoredArea

PATHS_SHOWN = 200
FOLDERS_SHOWN = 20


class RunState(StrEnum):
    """Where a run is: `stopped` until somebody resumes it; `done` when each of its purges is over."""

    OPEN = "open"
    STOPPED = "stopped"
    DONE = "done"
    CANCELLED = "cancelled"


class RunKind(StrEnum):
    """What a run takes: what the rules of a class say, or the whole of areas whose owner's allocation has ended."""

    RULES = "rules"
    ENDED = "ended"


class PurgeState(StrEnum):
    """How far a run is with an area. A dry run ends with `planned`; a stopped run's purges stay where they are."""

    PLANNING = "planning"
    PLANNED = "planned"
    NOTICED = "noticed"
    DUE = "due"
    ARCHIVING = "archiving"
    VERIFIED = "verified"
    DELETING = "deleting"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


OVER_STATES = frozenset({PurgeState.DONE, PurgeState.CANCELLED, PurgeState.FAILED})
# Until then nothing was taken from the area, and a purge may be cancelled.
UNTOUCHED_STATES = frozenset(PurgeState) - OVER_STATES - {PurgeState.DELETING}


class ExemptionState(StrEnum):
    """What became of a request to leave files alone; a granted one also ends by itself at its `until_ms`."""

    ASKED = "asked"
    GRANTED = "granted"
    REFUSED = "refused"
    ENDED = "ended"


class ArchiveKind(StrEnum):
    """Why something was archived: it was purged, or the allocation that it belongs to has ended."""

    PURGE = "purge"
    ENDED = "ended"


class ArchiveState(StrEnum):
    """`writing` until it is verified, then `kept`; `broken`: given up, `expired`: its time is over. Of both the objects
    are to be removed; `removed`: they are."""

    WRITING = "writing"
    KEPT = "kept"
    BROKEN = "broken"
    EXPIRED = "expired"
    REMOVED = "removed"


class RestoreTarget(StrEnum):
    """Where files are brought back to: where they were, over nothing that is there, or into a folder of their own."""

    IN_PLACE = "in place"
    BESIDE = "beside"


class RestoreState(StrEnum):
    """How far a restore is."""

    ASKED = "asked"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Run:
    """A purge of a class's areas at a moment. `files`, `bytes`: what its plans hold together, so far; `stopped_…`: by
    whom and when it was stopped or cancelled."""

    id: str
    storage_class: StorageClass
    as_of_ms: int
    dry_run: bool
    state: RunState
    made_by: str
    files: int
    bytes: int
    confirmed_by: str | None
    confirmed_at_ms: int | None
    stopped_by: str | None
    stopped_at_ms: int | None
    created_at_ms: int
    kind: RunKind = RunKind.RULES


class Amount(NamedTuple):
    """Files and bytes of a part of a plan: of a rule, an owner, a folder."""

    name: str
    files: int
    bytes: int


class PlannedPath(NamedTuple):
    """A path of a plan as people read it (what is not UTF-8 is escaped), its bytes, and the rule that takes it."""

    path: str
    bytes: int
    rule: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What people are shown of a plan without its file: largest first; `by_owner` is by the number of the user;
    `folders` are those right beneath the area (`""`: files in the area itself); `paths` are the first."""

    by_rule: tuple[Amount, ...] = ()
    by_owner: tuple[Amount, ...] = ()
    folders: tuple[Amount, ...] = ()
    paths: tuple[PlannedPath, ...] = ()


@dataclass(frozen=True, slots=True)
class Purge:
    """What a run does to an area: `files`, `bytes` and (empty) `folders` are what is planned; `window_ends_at_ms` is
    what its owners were told, None before; `left_files` were planned and not deleted; `problem`: what holds it up."""

    id: str
    run_id: str
    area_id: str
    dry_run: bool
    state: PurgeState
    files: int
    bytes: int
    folders: int
    plan_sha256: str | None
    summary: Summary
    window_ends_at_ms: int | None
    reminded_days: int | None
    reminded_at_ms: int | None
    archive_id: str | None
    position: int
    deleted_files: int
    deleted_bytes: int
    left_files: int
    problem: str | None
    again_at_ms: int | None
    changed_at_ms: int

    def is_within_window(self, now_ms: int) -> bool:
        """Whether the end that its owners were told is still to come, also because the clock went back."""
        return self.window_ends_at_ms is not None and now_ms < self.window_ends_at_ms


@dataclass(frozen=True, slots=True)
class StoredExemption:
    """A request to leave a file, or a folder with all in it, alone until a moment; `folder` is its path in the area,
    `""` for all of it. `until_ms` is what was asked for, then what was granted."""

    id: str
    area_id: str
    folder: str
    reason: str
    state: ExemptionState
    until_ms: int
    asked_by: str
    asked_at_ms: int
    decided_by: str | None = None
    decided_at_ms: int | None = None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class StoredArchive:
    """An archive of an area: `place` is where its objects are, as `Places` knows it; `sha256` that of archive.json;
    `reminded_days`: how many days before its end the last reminder was to be that was sent."""

    id: str
    area_id: str
    kind: ArchiveKind
    place: str
    state: ArchiveState
    files: int
    bytes: int
    sha256: str | None
    created_at_ms: int
    keep_until_ms: int | None
    reminded_days: int | None = None


@dataclass(frozen=True, slots=True)
class Restore:
    """Something asked back of an archive: `paths` in it, none for all of it; `files` and `bytes` are what came back."""

    id: str
    archive_id: str
    asked_by: str
    asked_at_ms: int
    paths: tuple[str, ...]
    target: RestoreTarget
    state: RestoreState
    files: int = 0
    bytes: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """The switch that stops every purge, while it is on."""

    stopped_by: str
    stopped_at_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class PurgeView:
    """A purge with its area and its run, for people and for the process that carries it out."""

    purge: Purge
    area: StoredArea
    run: Run


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with its purges. `awaits`: it is beyond the ceiling, and goes on when an administrator confirms it."""

    run: Run
    purges: tuple[Purge, ...]
    awaits: bool


class Places(Protocol):
    """Where archives are: the process that has the disks says so."""

    def place_of(self, archive_id: str, /) -> str:
        """Return where a new archive is to be, for ever."""

    def open(self, place: str, /) -> Store:
        """Open the store of an archive; raises StoreError."""


@dataclass(frozen=True, slots=True)
class Mount:
    """What the process that carries purges out has: the folder of the area, a folder of its own for plans, which no
    owner of an area can reach (made with `plans/` and `arrivals/` in it), and the places of archives."""

    area: str
    state: str
    places: Places
    processes: int = field(default=1)
