"""A sweep: runs of one notebook, a row of parameters for each; how it does as a whole, and what its runs gave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field

from allocations.clock import MS_PER_SECOND, to_rfc3339
from allocations.leases.views import View
from allocations.runs.models import (
    ACTIVE_STATES,
    AWAITED,
    ENDED_STATES,
    FOLLOWING,
    ChainedRun,
    Condition,
    RunSource,
    RunState,
)

FAILED_STATES = frozenset({RunState.FAILED, RunState.TIMED_OUT})


class SweepState(StrEnum):
    """How a sweep does: derived from its runs. Failed: some of them have, or timed out, and none is left to end."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep as stored. `parameters` (an object) and `varied` (a list of names) are JSON.

    What follows `cancelled_at_ms` is that of each of its runs, too.
    """

    id: str
    person: str
    allocation_id: str
    name: str
    size: str
    image: str
    parameters: str
    varied: str
    rows: int
    at_once: int | None
    max_seconds: int
    waiting_reason: str | None
    submitted_at_ms: int
    cancelled_at_ms: int | None
    retries: int
    source: str | None
    environment: str | None
    output: str | None
    waits_for: Condition | None


@dataclass(frozen=True, slots=True)
class Tally:
    """What the runs of a sweep add up to: `counts` by state of the last run of each row, the rest of all runs.

    `ran_ms` is how long those ran that succeeded, together.
    """

    counts: dict[RunState, int]
    ran_ms: int
    first_started_at_ms: int | None
    last_ended_at_ms: int | None

    @property
    def waiting(self) -> int:
        """How many runs are queued."""
        return self.counts.get(RunState.QUEUED, 0)

    @property
    def active(self) -> int:
        """How many runs are admitted or run."""
        return sum(self.counts.get(state, 0) for state in ACTIVE_STATES)

    @property
    def ended(self) -> int:
        """How many runs have ended."""
        return sum(self.counts.get(state, 0) for state in ENDED_STATES)

    @property
    def failed(self) -> int:
        """How many runs have failed or timed out."""
        return sum(self.counts.get(state, 0) for state in FAILED_STATES)

    def state(self) -> SweepState:
        """Return how the sweep does."""
        if self.active or (self.waiting and self.ended):
            return SweepState.RUNNING
        if self.waiting:
            return SweepState.QUEUED
        if self.failed:
            return SweepState.FAILED
        return SweepState.CANCELLED if self.counts.get(RunState.CANCELLED) else SweepState.SUCCEEDED

    def seconds_left(self) -> int | None:
        """Guess the seconds until all have ended, by those that succeeded and as many at once as now; None without."""
        succeeded = self.counts.get(RunState.SUCCEEDED, 0)
        left = self.waiting + self.active
        if left == 0:
            return 0
        if not (succeeded and self.active):
            return None
        # What runs now has half of its time behind it, on the average.
        each_ms = self.ran_ms / succeeded
        return round((self.waiting / self.active + 0.5) * each_ms / MS_PER_SECOND)


class SweepView(View):
    """A sweep as the API and the pages show it; `counts` by state of runs."""

    id: str
    person: str
    allocation: str
    allocation_name: str
    name: str
    size: str
    image: str
    parameters: dict[str, Any]
    varied: list[str]
    rows: int
    at_once: int | None
    max_seconds: int
    state: SweepState
    counts: dict[RunState, int]
    ended: int
    failed: int
    waiting_reason: str | None
    submitted_at: str
    started_at: str | None
    ended_at: str | None
    cancelled_at: str | None
    seconds_left: int | None
    held_microcredits: int
    charged_microcredits: int

    # An answer that an earlier version has kept for its Idempotency-Key does not have these.
    retries: int = 0
    source: RunSource | None = None
    environment: list[str] = Field(default_factory=list)
    output: str | None = None
    waits_for: Condition | None = None
    after: list[ChainedRun] = Field(default_factory=list, description=AWAITED)
    followed_by: list[ChainedRun] = Field(default_factory=list, description=FOLLOWING)

    @classmethod
    def from_sweep(cls, sweep: Sweep, allocation_name: str, tally: Tally, amounts: tuple[int, int]) -> SweepView:
        """Show a sweep with the (held, charged) amounts of all its runs, without its neighbours."""
        state = tally.state()
        unended = tally.waiting + tally.active
        return cls(
            id=sweep.id,
            person=sweep.person,
            allocation=sweep.allocation_id,
            allocation_name=allocation_name,
            name=sweep.name,
            size=sweep.size,
            image=sweep.image,
            parameters=json.loads(sweep.parameters),
            varied=json.loads(sweep.varied),
            rows=sweep.rows,
            at_once=sweep.at_once,
            max_seconds=sweep.max_seconds,
            state=state,
            counts={one: tally.counts.get(one, 0) for one in RunState},
            ended=tally.ended,
            failed=tally.failed,
            waiting_reason=sweep.waiting_reason if tally.waiting else None,
            submitted_at=to_rfc3339(sweep.submitted_at_ms),
            started_at=_time(tally.first_started_at_ms),
            ended_at=None if unended else _time(tally.last_ended_at_ms),
            cancelled_at=_time(sweep.cancelled_at_ms),
            seconds_left=tally.seconds_left(),
            held_microcredits=amounts[0],
            charged_microcredits=amounts[1],
            retries=sweep.retries,
            source=RunSource.model_validate_json(sweep.source) if sweep.source else None,
            environment=json.loads(sweep.environment or "[]"),
            output=sweep.output,
            waits_for=sweep.waits_for,
        )


class SweepEstimate(View):
    """What a sweep would cost, and what its allocation has free.

    A run holds its maximum when it starts and is charged what it used; what is held of others and given back comes to
    be free. `most_microcredits` is what all cost if each takes its maximum in every attempt. `likely_…` is by earlier
    runs of the same notebook and size that succeeded, null where there are none.
    """

    runs: int
    max_seconds: int
    held_microcredits_each: int
    held_microcredits: int
    most_microcredits: int
    likely_from_runs: int
    likely_seconds_each: int | None
    likely_microcredits: int | None
    free_microcredits: int
    suffices: bool
    at_once_max: int = Field(description="How many runs the free credits can hold together")
    advice: str


class SweepResult(View):
    """A row of a sweep: its parameters, and the last run of it with what it recorded and cost.

    `charged_microcredits` is of that run, with the attempts that it was retried after; `charged_microcredits_before` of
    those that had failed before it.
    """

    row: int
    run: str
    state: RunState
    attempt: int
    parameters: dict[str, Any]
    recorded: dict[str, Any]
    error: str | None
    seconds: float | None
    started_at: str | None
    ended_at: str | None
    charged_microcredits: int
    charged_microcredits_before: int


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else to_rfc3339(at_ms)
