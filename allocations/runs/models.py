"""A batch run: a notebook, its parameters, where it is, and how it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field

from allocations.clock import to_rfc3339
from allocations.leases.views import ResourcesView, View
from allocations.runs.ends import EndCode, end_code_of, meaning_of
from allocations.runs.states import ACTIVE_STATES, ENDED_STATES, RunState

__all__ = [
    "ACTIVE_STATES",
    "ENDED_STATES",
    "EVERY_RUN",
    "Outcome",
    "Run",
    "RunError",
    "RunFilter",
    "RunState",
    "RunView",
]


class Outcome(StrEnum):
    """What the batch process reports of a run that has ended. Lost: a fault of the platform, not of the notebook."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"


class Condition(StrEnum):
    """What the runs and sweeps that are waited for must have come to. Ended: however they ended.

    A sweep has succeeded when the last run of each of its rows has, and has ended when none of it waits or runs.
    """

    SUCCEEDED = "succeeded"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are looked for: of any of the states (none: of all), on an allocation, with a text in the name.

    Of a sweep by its id, otherwise those that are of none.
    """

    states: frozenset[RunState] = frozenset()
    allocation: str = ""
    name: str = ""
    sweep: str | None = None


EVERY_RUN = RunFilter()


class RunSourceKind(StrEnum):
    """Where a notebook was taken from."""

    UPLOAD = "upload"
    HOME = "home"
    REPOSITORY = "repository"
    EXAMPLE = "example"


class RunSource(View):
    """Where a notebook was taken from, as whoever submitted it says: what was run is kept in any case.

    `path` is that in the home or in the repository; `address` (without credentials) and `revision` are a repository's.
    """

    kind: RunSourceKind
    address: str | None = None
    revision: str | None = None
    path: str | None = None


class RunError(View):
    """What went wrong, and in which cell (counted from 1)."""

    cell: int | None = None
    name: str
    message: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as stored. `parameters`, `error`, `recorded`, `provenance`, `environment` (names of secrets) and `source`
    are JSON.

    `output` is the place that the executed notebook is saved to as well, `replay_of` the run that this one repeats.
    `retries`: how often it is tried again when its notebook fails, `retried` how often it has been, and
    `charged_before_microcredits` what the attempts before this one were charged. One of a sweep has a row there,
    counted from 0; once it has failed, another may be queued for its row (`retried_as`), and only the last run of a row
    counts.
    """

    id: str
    person: str
    allocation_id: str
    name: str
    size: str
    image: str
    cores: int
    memory_gib: int
    gpus: int
    gpu_type: str | None
    parameters: str
    max_seconds: int
    state: RunState
    waiting_reason: str | None
    cancel_requested: bool
    attempt: int
    executor: str | None
    lease_id: str | None
    cells_done: int
    cells_total: int
    current_cell: int | None
    error: str | None
    submitted_at_ms: int
    started_at_ms: int | None
    ended_at_ms: int | None
    end_code: str | None = None
    provenance: str | None = None
    environment: str | None = None
    output: str | None = None
    replay_of: str | None = None
    waits_for: Condition | None = None
    retries: int = 0
    retried: int = 0
    charged_before_microcredits: int = 0
    source: str | None = None
    sweep_id: str | None = None
    sweep_row: int | None = None
    retried_as: str | None = None
    recorded: str | None = None


AWAITED = "The runs and sweeps that it waits for, or waited for; a sweep's run waits as its sweep does"
FOLLOWING = "The runs and sweeps that wait, or waited, for it"


class ChainedRun(View):
    """A neighbour in a chain: a run or a sweep by its id, and how it does. A sweep fails as a whole, at its end."""

    run: str | None = None
    sweep: str | None = None
    name: str
    state: RunState

    @property
    def id(self) -> str:
        return self.run or self.sweep or ""


class RunView(View):
    """A run as the API and the pages show it."""

    id: str
    person: str
    allocation: str
    allocation_name: str
    name: str
    size: str
    image: str
    resources: ResourcesView
    parameters: dict[str, Any]
    max_seconds: int
    state: RunState
    waiting_reason: str | None
    cancel_requested: bool
    attempt: int
    lease: str | None
    cells_done: int
    cells_total: int
    current_cell: int | None
    error: RunError | None
    submitted_at: str
    started_at: str | None
    ended_at: str | None
    held_microcredits: int
    charged_microcredits: int
    end_code: EndCode | None
    remedy: str | None
    environment: list[str]
    output: str | None
    replay_of: str | None

    # Answers that were remembered before there were chains have none of these.
    waits_for: Condition | None = None
    after: list[ChainedRun] = Field(default_factory=list, description=AWAITED)
    followed_by: list[ChainedRun] = Field(default_factory=list, description=FOLLOWING)
    # An answer that an earlier version has kept for its Idempotency-Key does not have these.
    retries: int = 0
    retried: int = 0
    source: RunSource | None = None

    sweep: str | None = None
    sweep_row: int | None = None
    recorded: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def from_run(
        cls, run: Run, allocation_name: str, amounts: tuple[int, int], waiting_reason: str | None = None
    ) -> RunView:
        """Show a run with the (held, charged) amounts of its lease, without its neighbours.

        `waiting_reason` is said where its own says nothing.
        """
        error = RunError.model_validate_json(run.error) if run.error else None
        code = end_code_of(run, error.name if error else None)
        meaning = meaning_of(code, started=run.started_at_ms is not None) if code else None
        return cls(
            id=run.id,
            person=run.person,
            allocation=run.allocation_id,
            allocation_name=allocation_name,
            name=run.name,
            size=run.size,
            image=run.image,
            resources=ResourcesView(cores=run.cores, memory_gib=run.memory_gib, gpus=run.gpus, gpu_type=run.gpu_type),
            parameters=json.loads(run.parameters),
            max_seconds=run.max_seconds,
            state=run.state,
            waiting_reason=run.waiting_reason or waiting_reason,
            cancel_requested=run.cancel_requested,
            attempt=run.attempt,
            lease=run.lease_id,
            cells_done=run.cells_done,
            cells_total=run.cells_total,
            current_cell=run.current_cell,
            error=error,
            submitted_at=to_rfc3339(run.submitted_at_ms),
            started_at=None if run.started_at_ms is None else to_rfc3339(run.started_at_ms),
            ended_at=None if run.ended_at_ms is None else to_rfc3339(run.ended_at_ms),
            held_microcredits=amounts[0],
            end_code=code,
            remedy=meaning.remedy if meaning else None,
            environment=json.loads(run.environment or "[]"),
            output=run.output,
            replay_of=run.replay_of,
            waits_for=run.waits_for,
            charged_microcredits=run.charged_before_microcredits + amounts[1],
            retries=run.retries,
            retried=run.retried,
            source=RunSource.model_validate_json(run.source) if run.source else None,
            sweep=run.sweep_id,
            sweep_row=run.sweep_row,
            recorded=json.loads(run.recorded) if run.recorded else {},
        )
