"""Purges and areas as administrators see and steer them, and decisions on exemptions."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from allocations.api.v1.common import (
    Administrator,
    Body,
    OptionalIdempotencyHeader,
    Reviewer,
    Why,
    Wired,
    example,
    to_ms,
)
from allocations.api.v1.storage import NUMBER_MAX, ExemptionList, ExemptionView
from allocations.clock import to_rfc3339
from allocations.leases.views import View
from allocations.reports.purges import PurgeInfo
from allocations.reports.storage import AREAS_PAGE
from allocations.reports.storage_views import AreaPage
from allocations.storage.models import BYTES_PER_GB, StorageClass
from allocations.storage.purge.models import Run, RunState

if TYPE_CHECKING:
    from allocations.factory import Services
    from allocations.lifecycle.authority import Actor

router = APIRouter(tags=["purges"])
AREAS_MAX = 500


class RunAction(StrEnum):
    """What may be done to a run."""

    STOP = "stop"
    RESUME = "resume"
    CANCEL = "cancel"


class PurgeRunBody(Body):
    """Which class of storage is looked through; files count as old as of `as_of`, now when it is left out. A time to
    come needs a dry run, which touches nothing."""

    model_config = example(storage_class="scratch", dry_run=True)

    storage_class: StorageClass
    as_of: datetime | None = None
    dry_run: bool = False


class ReasonBody(Body):
    """Why, kept in the audit log."""

    model_config = example(why="The mount is being repaired.")

    why: str


class ConfirmRunBody(Body):
    """The sums that are confirmed: those that the run has planned, and no others."""

    model_config = example(files=1_200_000, bytes=7_000_000_000_000, why="Checked with the leads.")

    files: Annotated[int, Field(ge=0, le=NUMBER_MAX)]
    bytes: Annotated[int, Field(ge=0, le=2**63 - 1)]
    why: str


class GrantBody(Body):
    """For how many days from now, and what is answered."""

    model_config = example(days=90, answer="Until the paper is out.")

    days: Annotated[int, Field(ge=1, le=10_000)]
    answer: str = ""


class RefuseBody(Body):
    """Why not; who asked reads it."""

    model_config = example(answer="Scratch is not for keeping: move it to your home.")

    answer: str


class PurgeRunInfo(View):
    """A purge of a class's areas as of a time; `files` and `bytes` are what its plans hold together so far."""

    id: str
    storage_class: StorageClass
    as_of: str
    dry_run: bool
    state: RunState
    made_by: str
    created_at: str
    files: int
    bytes: int
    confirmed_by: str | None
    confirmed_at: str | None
    stopped_by: str | None
    stopped_at: str | None

    @classmethod
    def from_run(cls, run: Run) -> PurgeRunInfo:
        """Show a run."""
        return cls(
            id=run.id,
            storage_class=run.storage_class,
            as_of=to_rfc3339(run.as_of_ms),
            dry_run=run.dry_run,
            state=run.state,
            made_by=run.made_by,
            created_at=to_rfc3339(run.created_at_ms),
            files=run.files,
            bytes=run.bytes,
            confirmed_by=run.confirmed_by,
            confirmed_at=None if run.confirmed_at_ms is None else to_rfc3339(run.confirmed_at_ms),
            stopped_by=run.stopped_by,
            stopped_at=None if run.stopped_at_ms is None else to_rfc3339(run.stopped_at_ms),
        )


class PurgeRunList(View):
    """The newest runs, newest first."""

    runs: list[PurgeRunInfo]


class PurgeRunDetail(View):
    """A run with what it does to each area; `awaits`: it is beyond the ceiling, and waits for a confirmation."""

    run: PurgeRunInfo
    awaits: bool
    ceiling_files: int
    ceiling_bytes: int
    purges: list[PurgeInfo]


class StopView(View):
    """The switch that stops every purge: whether it is on, and by whom, when and why."""

    stopped: bool
    by: str | None
    at: str | None
    why: str | None


@router.get("/storage-areas")
def all_areas(
    services: Wired,
    _caller: Administrator,
    storage_class: StorageClass | None = None,
    start: Annotated[int, Query(ge=0, le=NUMBER_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=AREAS_MAX)] = AREAS_PAGE,
) -> AreaPage:
    """All areas, of a class or of all, those with most bytes first, with their problems."""
    return services.storage_reports.largest(storage_class, start, limit)


@router.get("/exemptions")
def waiting(services: Wired, caller: Reviewer) -> ExemptionList:
    """What people ask not to be purged and nobody has decided on, oldest first."""
    found = services.exemptions.waiting(caller.actor)
    return ExemptionList(exemptions=[ExemptionView.from_exemption(one) for one in found])


@router.post("/exemptions/{exemption_id}/grant")
def grant(exemption_id: str, body: GrantBody, services: Wired, caller: Reviewer) -> ExemptionView:
    """Grant an exemption for some days; nobody does for themselves."""
    found = services.exemptions.grant(caller.actor, exemption_id, body.days, body.answer)
    return ExemptionView.from_exemption(found)


@router.post("/exemptions/{exemption_id}/refuse")
def refuse(exemption_id: str, body: RefuseBody, services: Wired, caller: Reviewer) -> ExemptionView:
    """Refuse an exemption with a reason."""
    return ExemptionView.from_exemption(services.exemptions.refuse(caller.actor, exemption_id, body.answer))


@router.get("/purge-runs")
def runs(services: Wired, caller: Administrator) -> PurgeRunList:
    """The newest runs of purges."""
    return PurgeRunList(runs=[PurgeRunInfo.from_run(run) for run in services.purges.runs(caller.actor)])


@router.post("/purge-runs", status_code=201)
def plan(
    body: PurgeRunBody, services: Wired, caller: Administrator, idempotency_key: OptionalIdempotencyHeader = None
) -> PurgeRunInfo:
    """Begin a run: a dry one looks, a real one tells the owners and purges when their time is over."""
    run = services.purges.plan(
        caller.actor,
        body.storage_class,
        as_of_ms=to_ms(body.as_of),
        dry_run=body.dry_run,
        idempotency_key=idempotency_key,
    )
    return PurgeRunInfo.from_run(run)


@router.get("/purge-runs/{purge_run_id}")
def run_detail(purge_run_id: str, services: Wired, caller: Administrator) -> PurgeRunDetail:
    """A run with what it does to each area, by rule, owner and folder."""
    return _detail(services, caller.actor, purge_run_id)


@router.post("/purge-runs/{purge_run_id}/confirm")
def confirm(purge_run_id: str, body: ConfirmRunBody, services: Wired, caller: Administrator) -> PurgeRunDetail:
    """Let a run delete more than the ceiling: just what it has planned."""
    services.purges.confirm(caller.actor, purge_run_id, files=body.files, bytes_=body.bytes, why=body.why)
    return _detail(services, caller.actor, purge_run_id)


@router.post("/purge-runs/{purge_run_id}/{action}")
def steer(
    purge_run_id: str, action: RunAction, body: ReasonBody, services: Wired, caller: Administrator
) -> PurgeRunInfo:
    """Stop a run where it is, let it go on, or cancel it."""
    acts = {
        RunAction.STOP: services.purges.stop,
        RunAction.RESUME: services.purges.resume,
        RunAction.CANCEL: services.purges.cancel,
    }
    return PurgeRunInfo.from_run(acts[action](caller.actor, purge_run_id, body.why))


@router.get("/purge-stop")
def stop_switch(services: Wired, _caller: Administrator) -> StopView:
    """Whether every purge is stopped."""
    return _switch(services)


@router.put("/purge-stop")
def stop_all(body: ReasonBody, services: Wired, caller: Administrator) -> StopView:
    """Stop every purge there is and will be."""
    services.purges.stop_all(caller.actor, body.why)
    return _switch(services)


@router.delete("/purge-stop")
def resume_all(why: Why, services: Wired, caller: Administrator) -> StopView:
    """Let purges go on."""
    services.purges.resume_all(caller.actor, why)
    return _switch(services)


def _switch(services: Services) -> StopView:
    stop = services.purges.stopped()
    if stop is None:
        return StopView(stopped=False, by=None, at=None, why=None)
    return StopView(stopped=True, by=stop.stopped_by, at=to_rfc3339(stop.stopped_at_ms), why=stop.why)


def _detail(services: Services, actor: Actor, purge_run_id: str) -> PurgeRunDetail:
    found = services.purges.run(actor, purge_run_id)
    ceiling = services.policy.storage.purge.ceiling
    return PurgeRunDetail(
        run=PurgeRunInfo.from_run(found.run),
        awaits=found.awaits,
        ceiling_files=ceiling.files,
        ceiling_bytes=ceiling.gb * BYTES_PER_GB,
        purges=services.purge_reports.of_run(found.purges),
    )
