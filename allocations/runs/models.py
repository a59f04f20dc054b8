"""A batch run: a notebook, its parameters, where it is, and how it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field

from allocations.clock import to_rfc3339
from allocations.leases.views import ResourcesView, View


class RunState(StrEnum):
    """Where a run is in its life."""

    QUEUED = "queued"
    ADMITTED = "admitted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


ACTIVE_STATES = frozenset({RunState.ADMITTED, RunState.RUNNING})
ENDED_STATES = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT})


class Outcome(StrEnum):
    """What the batch process reports of a run that has ended. Lost: a fault of the platform, not of the notebook."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"


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


class RunError(View):
    """What went wrong, and in which cell (counted from 1)."""

    cell: int | None = None
    name: str
    message: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as stored. `parameters`, `error` and `recorded` are JSON.

    One of a sweep has a row there, counted from 0; once it has failed, another may be queued for its row
    (`retried_as`), and only the last run of a row counts.
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
    sweep_id: str | None = None
    sweep_row: int | None = None
    retried_as: str | None = None
    recorded: str | None = None


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
    sweep: str | None = None
    sweep_row: int | None = None
    recorded: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def from_run(
        cls, run: Run, allocation_name: str, amounts: tuple[int, int], waiting_reason: str | None = None
    ) -> RunView:
        """Show a run with the (held, charged) amounts of its lease; `waiting_reason` where its own says nothing."""
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
            error=RunError.model_validate_json(run.error) if run.error else None,
            submitted_at=to_rfc3339(run.submitted_at_ms),
            started_at=None if run.started_at_ms is None else to_rfc3339(run.started_at_ms),
            ended_at=None if run.ended_at_ms is None else to_rfc3339(run.ended_at_ms),
            held_microcredits=amounts[0],
            charged_microcredits=amounts[1],
            sweep=run.sweep_id,
            sweep_row=run.sweep_row,
            recorded=json.loads(run.recorded) if run.recorded else {},
        )
