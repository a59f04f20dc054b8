"""Batch runs: submitted and watched by people, taken and reported by the batch process."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from pydantic import Field

from allocations.api.metrics import count_admission, count_end
from allocations.api.v1.common import Body, IdempotencyHeader, LeaseHolder, Runner, Wired, example, to_ms
from allocations.clock import from_datetime
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import NotAMemberError, UnknownAllocationError
from allocations.leases.views import LeaseView, StartOptions, View
from allocations.runs.chains import AWAITED_MAX
from allocations.runs.drafts import DraftView
from allocations.runs.files import LOG, OUTPUT
from allocations.runs.models import Condition, Outcome, RunError, RunSource, RunView
from allocations.runs.notebook_parameters import NotebookParameters, parameters_of
from allocations.runs.provenance import RunRecord
from allocations.runs.service import Finish, Submission

log = logging.getLogger(__name__)
router = APIRouter(tags=["runs"])
NOTEBOOK = "application/x-ipynb+json"
NOTEBOOK_EXAMPLE = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}


def parameters_cell(source: str) -> dict[str, Any]:
    """Return a cell that holds the defaults of parameters, for examples."""
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": "defaults",
        "metadata": {"tags": ["parameters"]},
        "outputs": [],
        "source": source,
    }


WITH_PARAMETERS = NOTEBOOK_EXAMPLE | {"cells": [parameters_cell('field = "m31"  # which field')]}
NOTEBOOK_SHAPE = {"type": "object", "description": "A notebook of format 4"}
# As large as the database's columns hold; far more cells or attempts than any run has.
Count = Annotated[int, Field(ge=0, lt=2**31)]
Attempt = Annotated[int, Field(ge=1, lt=2**31)]


Environment = Annotated[list[str], Field(max_length=100, description="Names of the caller's secrets")]
Output = Annotated[str, Field(max_length=512, description="home:FOLDER, scratch:FOLDER or s3://BUCKET/PREFIX")]
Retries = Annotated[
    Count, Field(description="How often a run is tried again when its notebook fails, each attempt charged")
]
Source = Annotated[RunSource | None, Field(description="Where the notebook came from, to be kept; uploaded without it")]


class OfRuns(Body):
    """A notebook (parsed .ipynb), and what it runs on: of a single run, or common to those of a sweep or schedule."""

    allocation: str
    size: str
    image: str | None = None
    name: str
    notebook: dict[str, Any]
    parameters: dict[str, Any] = Field(default_factory=dict)
    max_seconds: int | None = None
    environment: Environment = Field(default_factory=list)
    output: Output | None = None
    retries: Retries = 0
    source: Source = None


class WithTerms(OfRuns):
    """What a single run and a sweep may say beside: what they wait for."""

    after: Annotated[
        list[str],
        Field(
            default_factory=list,
            max_length=AWAITED_MAX,
            description="Runs and sweeps of one's own that must have come to their end first",
        ),
    ]
    waits_for: Annotated[
        Condition, Field(description="`succeeded`: cancelled if one of them does not; `ended`: however they end")
    ] = Condition.SUCCEEDED

    def terms(self) -> dict[str, Any]:
        """Return what submissions of both kinds take, by the names that they have for it."""
        return {name: getattr(self, name) for name in WithTerms.model_fields}


class SubmitBody(WithTerms):
    """A notebook (parsed .ipynb), its parameters, and what it may use."""

    model_config = example(
        allocation="a-12345678",
        size="small",
        name="stack.ipynb",
        notebook=WITH_PARAMETERS,
        parameters={"field": "m33"},
        max_seconds=3600,
        after=["r-0123456789abcdef0123"],
        retries=1,
        source={"kind": "home", "path": "stacks/stack.ipynb"},
    )


class ReadBody(Body):
    """A notebook (parsed .ipynb) whose parameters are asked for."""

    model_config = example(notebook=WITH_PARAMETERS)

    notebook: dict[str, Any]


class DraftBody(Body):
    """A notebook (parsed .ipynb) for the form to have."""

    model_config = example(
        name="stack.ipynb", notebook=WITH_PARAMETERS, source={"kind": "home", "path": "stacks/stack.ipynb"}
    )

    name: str
    notebook: dict[str, Any]
    source: RunSource | None = None


class ClaimBody(Body):
    """Who takes runs, and how many at most."""

    model_config = example(executor="batch-1", limit=10)

    executor: str
    limit: Annotated[int, Field(gt=0, le=100)]


class ProgressBody(Body):
    """How far an attempt of a run is."""

    model_config = example(attempt=1, started_at="2027-01-15T08:00:00Z", cells_done=3, cells_total=12, current_cell=4)

    attempt: Attempt
    started_at: datetime | None = None
    cells_done: Count
    cells_total: Count
    current_cell: Count | None = None


class FinishBody(Body):
    """How an attempt of a run ended."""

    model_config = example(
        attempt=1,
        outcome="succeeded",
        started_at="2027-01-15T08:00:00Z",
        ended_at="2027-01-15T08:20:00Z",
        recorded={"completeness": 0.93},
    )

    attempt: Attempt
    outcome: Outcome
    started_at: datetime | None = None
    ended_at: datetime
    error: RunError | None = None
    end_code: Annotated[str, Field(max_length=40)] | None = None
    image_id: Annotated[str, Field(max_length=300)] | None = None
    node: Annotated[str, Field(max_length=300)] | None = None
    recorded: dict[str, Any] = Field(default_factory=dict)


class RunList(View):
    """Runs."""

    runs: list[RunView]


@router.get("/run-options")
def run_options(services: Wired, caller: Runner) -> StartOptions:
    """Everything on which the caller may run notebooks now, and why not the rest."""
    return services.offers.start_options(caller.name, is_server=False)


@router.post("/notebook-parameters")
def read_parameters(body: ReadBody, _caller: Runner) -> NotebookParameters:
    """Which parameters a notebook takes, read from its cell tagged `parameters`."""
    return parameters_of(body.notebook)


@router.post("/notebooks", status_code=201)
def keep_notebook(body: DraftBody, services: Wired, caller: Runner) -> DraftView:
    """Keep a notebook for a day, for the caller to submit on the page that the answer names."""
    return services.drafts.keep(caller.name, body.name, body.notebook, body.source)


@router.post("/runs", status_code=201)
def submit(body: SubmitBody, services: Wired, caller: Runner, idempotency_key: IdempotencyHeader) -> RunView:
    """Queue a run of a notebook."""
    key = IdempotencyKey.for_request(caller.name, idempotency_key, "run", body.model_dump())
    try:
        run = services.runs.submit(Submission(person=caller.name, **body.terms()), key)
    except NotAMemberError as error:
        # Another's allocation looks like one that does not exist.
        raise UnknownAllocationError(f"There is no allocation {body.allocation!r}.", error.remedy) from error
    log.info("run queued", extra={"person": caller.name, "allocation": run.allocation, "run": run.id})
    return run


@router.get("/runs")
def own_runs(services: Wired, caller: Runner) -> RunList:
    """The caller's runs that are of no sweep, newest first."""
    return RunList(runs=services.runs.list_of(caller.name))


@router.get("/runs/active")
def active_runs(executor: str, services: Wired, _caller: LeaseHolder) -> RunList:
    """The runs that an executor is responsible for."""
    return RunList(runs=services.runs.active_of(executor))


@router.post("/runs/claim")
def claim(body: ClaimBody, services: Wired, _caller: LeaseHolder) -> RunList:
    """Admit queued runs and give them to an executor."""
    runs = services.runs.claim(body.executor, body.limit)
    for run in runs:
        count_admission("admitted")
        log.info(
            "run admitted",
            extra={"person": run.person, "allocation": run.allocation, "run": run.id, "lease": run.lease},
        )
    return RunList(runs=runs)


@router.get("/runs/{run_id}/lease")
def lease(run_id: str, services: Wired, _caller: LeaseHolder) -> LeaseView:
    """The lease under which a run was admitted, for whoever executes it."""
    return services.runs.lease_of(run_id)


@router.post("/runs/{run_id}/progress")
def progress(run_id: str, body: ProgressBody, services: Wired, _caller: LeaseHolder) -> RunView:
    """Note how far a run is; the first report starts its charge."""
    return services.runs.progress(
        run_id,
        attempt=body.attempt,
        started_at_ms=to_ms(body.started_at),
        cells_done=body.cells_done,
        cells_total=body.cells_total,
        current_cell=body.current_cell,
    )


@router.post("/runs/{run_id}/finish")
def finish(run_id: str, body: FinishBody, services: Wired, _caller: LeaseHolder) -> RunView:
    """End a run and settle what it used."""
    run = services.runs.finish(
        run_id,
        Finish(
            body.attempt,
            body.outcome,
            to_ms(body.started_at),
            from_datetime(body.ended_at),
            body.error,
            body.end_code,
            body.image_id,
            body.node,
            body.recorded,
        ),
    )
    if run.end_code is not None:
        count_end(run.end_code)
    log.info(
        "run %s",
        run.state,
        extra={
            "person": run.person,
            "allocation": run.allocation,
            "run": run.id,
            "lease": run.lease,
            "end_code": run.end_code,
        },
    )
    return run


@router.get("/runs/{run_id}")
def get(run_id: str, services: Wired, caller: Runner) -> RunView:
    """A run of the caller's own."""
    return services.runs.get(caller.name, run_id)


@router.post("/runs/{run_id}/cancel")
def cancel(run_id: str, services: Wired, caller: Runner) -> RunView:
    """Cancel a run; what it used until it stops is charged."""
    return services.runs.cancel(caller.name, run_id)


@router.get("/runs/{run_id}/provenance")
def provenance(run_id: str, services: Wired, caller: Runner) -> RunRecord:
    """The record of a run: what it was made of and what it made; of a replay, what differs from its original."""
    return services.records.of(caller.name, run_id)


@router.post("/runs/{run_id}/replay", status_code=201)
def replay(run_id: str, services: Wired, caller: Runner, idempotency_key: IdempotencyHeader) -> RunView:
    """Submit a run again as it was; its record then says whether it made the same."""
    key = IdempotencyKey.for_request(caller.name, idempotency_key, "replay", {"run": run_id})
    run = services.records.replay(caller.name, run_id, key)
    log.info("run queued", extra={"person": caller.name, "allocation": run.allocation, "run": run.id})
    return run


@router.get(
    "/runs/{run_id}/output",
    response_class=Response,
    responses={200: {"content": {NOTEBOOK: {"schema": NOTEBOOK_SHAPE, "example": NOTEBOOK_EXAMPLE}}}},
)
def output(run_id: str, services: Wired, caller: Runner) -> Response:
    """The executed notebook, as far as it is."""
    return Response(services.runs.read_file(caller.name, run_id, OUTPUT), media_type=NOTEBOOK)


@router.get(
    "/runs/{run_id}/log",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": "cell 1 of 12: done"}}}},
)
def read_log(run_id: str, services: Wired, caller: Runner) -> PlainTextResponse:
    """The log, as far as it is."""
    return PlainTextResponse(services.runs.read_file(caller.name, run_id, LOG))
