"""Sweeps: runs of one notebook over a table or a grid of parameters, submitted, watched and gathered as a whole."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from allocations.api.v1.common import Body, IdempotencyHeader, Runner, Wired, example
from allocations.api.v1.runs import NOTEBOOK_EXAMPLE, Count, WithTerms, parameters_cell
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import InvalidInputError, NotAMemberError, UnknownAllocationError
from allocations.leases.views import View
from allocations.runs.sweep_models import SweepEstimate, SweepResult, SweepView
from allocations.runs.sweep_rows import expand
from allocations.runs.sweeps import RESULTS_MAX, Retry, SweepSubmission

log = logging.getLogger(__name__)
router = APIRouter(tags=["sweeps"])
SWEEPS_PAGE = 20
# As large as the database's columns hold.
AtLeastOne = Annotated[int, Field(ge=1, lt=2**31)]


class EstimateSweepBody(Body):
    """How many runs of which size; `name` is the notebook's, by whose earlier runs the likely cost is told."""

    model_config = example(allocation="a-12345678", size="small", runs=180, name="detector.ipynb", max_seconds=900)

    allocation: str
    size: str
    runs: AtLeastOne
    name: str = ""
    max_seconds: int | None = None
    retries: Count = 0


class SubmitSweepBody(WithTerms):
    """A notebook (parsed .ipynb) and its parameters: common ones, and a table (`rows`) or a `grid` of the others.

    Each run gets the retries, secrets and output place of a single run; the sweep waits as a whole.
    """

    model_config = example(
        allocation="a-12345678",
        size="small",
        name="detector.ipynb",
        notebook=NOTEBOOK_EXAMPLE | {"cells": [parameters_cell('field = "m31"\ndetector = 1\nfilter = "F158"')]},
        parameters={"field": "m31"},
        grid={"detector": [1, 2, 3], "filter": ["F158", "F184"]},
        max_seconds=900,
        at_once=16,
        retries=1,
        environment=["SURVEY_TOKEN"],
        output="home:detectors",
    )

    rows: list[dict[str, Any]] | None = None
    grid: dict[str, list[Any]] | None = None
    at_once: AtLeastOne | None = None


class RetrySweepBody(Body):
    """Which runs are queued again beside the failed, and what they may use, if not the same."""

    model_config = example(max_seconds=1800)

    size: str | None = None
    max_seconds: int | None = None
    include_cancelled: bool = False


class SweepList(View):
    """Sweeps, newest first; `next_before` continues, None at the end."""

    sweeps: list[SweepView]
    next_before: str | None


class SweepResultList(View):
    """Rows of a sweep; `next_after` continues, None at the end."""

    results: list[SweepResult]
    next_after: int | None


@router.post("/sweeps/estimate")
def estimate_sweep(body: EstimateSweepBody, services: Wired, caller: Runner) -> SweepEstimate:
    """What a sweep would hold and likely cost, beside what its allocation has free."""
    try:
        return services.sweeps.estimate(
            caller.name,
            body.allocation,
            body.size,
            body.runs,
            name=body.name,
            max_seconds=body.max_seconds,
            retries=body.retries,
        )
    except NotAMemberError as error:
        raise _unknown(body.allocation, error) from error


@router.post("/sweeps", status_code=201)
def submit_sweep(
    body: SubmitSweepBody, services: Wired, caller: Runner, idempotency_key: IdempotencyHeader
) -> SweepView:
    """Queue all runs of a sweep, or none."""
    key = IdempotencyKey.for_request(caller.name, idempotency_key, "sweep", body.model_dump())
    if (body.rows is None) == (body.grid is None):
        raise InvalidInputError("A sweep needs `rows` or a `grid`, one of the two.", "Send one of them.")
    most = services.policy.runs.sweep_runs_max
    rows = body.rows if body.rows is not None else list(expand(body.grid or {}, most))
    submission = SweepSubmission(person=caller.name, **body.terms(), rows=rows, at_once=body.at_once)
    try:
        sweep = services.sweeps.submit(submission, key)
    except NotAMemberError as error:
        raise _unknown(body.allocation, error) from error
    log.info(
        "sweep queued",
        extra={"person": caller.name, "allocation": sweep.allocation, "sweep": sweep.id, "runs": sweep.rows},
    )
    return sweep


@router.get("/sweeps")
def own_sweeps(services: Wired, caller: Runner, before: str | None = None) -> SweepList:
    """The caller's sweeps, newest first."""
    found = services.sweeps.list_of(caller.name, SWEEPS_PAGE + 1, before)
    return SweepList(
        sweeps=found[:SWEEPS_PAGE], next_before=found[SWEEPS_PAGE - 1].id if len(found) > SWEEPS_PAGE else None
    )


@router.get("/sweeps/{sweep_id}")
def get_sweep(sweep_id: str, services: Wired, caller: Runner) -> SweepView:
    """A sweep of the caller's own."""
    return services.sweeps.get(caller.name, sweep_id)


@router.get("/sweeps/{sweep_id}/results")
def sweep_results(
    sweep_id: str,
    services: Wired,
    caller: Runner,
    after: Annotated[int, Query(ge=-1, lt=2**31, description="The last row that is known")] = -1,
    limit: Annotated[int, Query(ge=1, le=RESULTS_MAX)] = RESULTS_MAX,
) -> SweepResultList:
    """The parameters of each run with what it recorded, how it ended and what it cost."""
    found = services.sweeps.results(caller.name, sweep_id, after, limit)
    return SweepResultList(results=found, next_after=found[-1].row if len(found) == limit else None)


@router.post("/sweeps/{sweep_id}/retry")
def retry_sweep(
    sweep_id: str, body: RetrySweepBody, services: Wired, caller: Runner, idempotency_key: IdempotencyHeader
) -> SweepView:
    """Queue the failed runs of a sweep again, and no others."""
    sent = {"sweep": sweep_id, **body.model_dump()}
    key = IdempotencyKey.for_request(caller.name, idempotency_key, "retry-sweep", sent)
    retry = Retry(body.size, body.max_seconds, body.include_cancelled)
    sweep = services.sweeps.retry(caller.name, sweep_id, retry, key)
    log.info("sweep retried", extra={"person": caller.name, "allocation": sweep.allocation, "sweep": sweep.id})
    return sweep


@router.post("/sweeps/{sweep_id}/cancel")
def cancel_sweep(sweep_id: str, services: Wired, caller: Runner) -> SweepView:
    """Cancel all of a sweep; what its runs used until they stop is charged."""
    sweep = services.sweeps.cancel(caller.name, sweep_id)
    log.info("sweep cancelled", extra={"person": caller.name, "allocation": sweep.allocation, "sweep": sweep.id})
    return sweep


def _unknown(allocation: str, error: NotAMemberError) -> UnknownAllocationError:
    """Another's allocation looks like one that does not exist."""
    return UnknownAllocationError(f"There is no allocation {allocation!r}.", error.remedy)
