"""A schedule: a notebook that is submitted at planned times, what became of each time, and what is shown of both."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import Field

from allocations.leases.views import View
from allocations.runs.models import RunSource, RunState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ScheduleState(StrEnum):
    """Whether a schedule's times count."""

    ACTIVE = "active"
    PAUSED = "paused"


class MissedPolicy(StrEnum):
    """What becomes of times at which the platform did not run: none, the last one, or the last few of them are run."""

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


class OverlapPolicy(StrEnum):
    """What becomes of a time at which the run of the one before has not ended: none, or it waits for that end."""

    SKIP = "skip"
    QUEUE = "queue"


class TimeOutcome(StrEnum):
    """What became of a planned time."""

    SUBMITTED = "submitted"
    REFUSED = "refused"
    SKIPPED = "skipped"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as stored; `parameters`, `source` and `environment` are JSON."""

    id: str
    person: str
    allocation_id: str
    title: str
    notebook_name: str
    size: str
    image: str | None
    parameters: str
    max_seconds: int | None
    cron: str
    zone: str
    missed: MissedPolicy
    overlap: OverlapPolicy
    state: ScheduleState
    pause_reason: str | None
    refusals: int
    next_at_ms: int | None
    created_at_ms: int
    retries: int
    source: str | None
    environment: str | None
    output: str | None


@dataclass(frozen=True, slots=True)
class ScheduleTime:
    """What became of a planned time, decided at `at_ms`; `run_state` is that of its run now."""

    schedule_id: str
    planned_at_ms: int
    at_ms: int
    outcome: TimeOutcome
    run_id: str | None
    detail: str | None
    run_state: RunState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleTerms:
    """What a person says of a schedule: as of a single run, and when. `notebook` is the parsed .ipynb."""

    title: str
    allocation: str
    size: str
    name: str
    notebook: Mapping[str, Any]
    parameters: Mapping[str, Any]
    cron: str
    zone: str = "UTC"
    image: str | None = None
    max_seconds: int | None = None
    retries: int = 0
    source: RunSource | None = None
    environment: Sequence[str] = ()
    output: str | None = None
    missed: MissedPolicy = MissedPolicy.SKIP
    overlap: OverlapPolicy = OverlapPolicy.SKIP


class PlannedView(View):
    """A planned time, in UTC and as the clock of the schedule's zone shows it; `note` when that clock is moved then."""

    at: str
    shown: str
    note: str


class TimeView(View):
    """A planned time that has come; `run_state` is where its run is now."""

    planned_at: str
    shown: str
    outcome: TimeOutcome
    run: str | None
    run_state: RunState | None
    detail: str | None


class PreviewView(View):
    """An expression in words, and the next times that it names."""

    cron: str
    zone: str
    words: str
    coming: list[PlannedView]


class ScheduleView(View):
    """A schedule as the API and the pages show it, with what became of its last time."""

    id: str
    title: str
    allocation: str
    allocation_name: str
    name: str
    size: str
    image: str | None
    parameters: dict[str, Any]
    max_seconds: int | None
    cron: str
    zone: str
    words: str
    missed: MissedPolicy
    overlap: OverlapPolicy
    state: ScheduleState
    pause_reason: str | None
    refusals: int
    next: PlannedView | None
    last: TimeView | None
    created_at: str

    # An answer that an earlier version has kept for its Idempotency-Key does not have these.
    retries: int = 0
    source: RunSource | None = None
    environment: list[str] = Field(default_factory=list)
    output: str | None = None


class ScheduleDetail(ScheduleView):
    """A schedule with its next times, and what became of the last ones, newest first."""

    coming: list[PlannedView]
    times: list[TimeView]
