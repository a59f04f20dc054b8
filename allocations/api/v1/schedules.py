"""Schedules: notebooks that are submitted at planned times."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from allocations.api.v1.common import Body, IdempotencyHeader, Runner, Wired, example
from allocations.api.v1.runs import NOTEBOOK_EXAMPLE, Environment, OfRuns, Output, Retries, Source
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import NotAMemberError, UnknownAllocationError
from allocations.leases.views import View
from allocations.runs.schedule_models import (
    MissedPolicy,
    OverlapPolicy,
    PreviewView,
    ScheduleDetail,
    ScheduleTerms,
    ScheduleView,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)
router = APIRouter(tags=["schedules"])
Cron = Annotated[str, Field(description="Five fields: minute, hour, day of month, month, day of week")]
Zone = Annotated[str, Field(description="The time zone whose clock counts, such as Europe/Berlin")]
Missed = Annotated[
    MissedPolicy,
    Field(description="What becomes of times at which the platform did not run: `skip`, the last `once`, or `all`"),
]
Overlap = Annotated[
    OverlapPolicy,
    Field(
        description="What becomes of a time when the run of an earlier one has not ended: `skip`, or `queue` after it"
    ),
]


class WaitsForNone(Body):
    """A body that says of what runs and sweeps may wait for that a schedule waits for nothing."""

    @model_validator(mode="before")
    @classmethod
    def _no_chain(cls, body: Any) -> Any:
        if isinstance(body, dict) and not body.keys().isdisjoint({"after", "waits_for"}):
            raise PydanticCustomError(
                "waits",
                "A schedule does not wait for runs or sweeps: leave `after` and `waits_for` out. `overlap` says what "
                "becomes of a time when the run of an earlier one has not ended",
            )
        return body


class AddBody(WaitsForNone, OfRuns):
    """A notebook (parsed .ipynb), what each run of it gets, as of a single run, and when it is to be submitted."""

    model_config = example(
        title="Nightly stack",
        allocation="a-12345678",
        size="small",
        name="stack.ipynb",
        notebook=NOTEBOOK_EXAMPLE,
        parameters={"field": "m31"},
        cron="30 6 * * MON-FRI",
        zone="Europe/Berlin",
        missed="once",
        retries=1,
        environment=["SURVEY_TOKEN"],
        output="home:nights",
        source={"kind": "home", "path": "stacks/stack.ipynb"},
    )

    title: str
    cron: Cron
    zone: Zone = "UTC"
    missed: Missed = MissedPolicy.SKIP
    overlap: Overlap = OverlapPolicy.SKIP


class EditBody(WaitsForNone):
    """What is to change of a schedule; what is left out stays, but for the `source` when there is a new notebook."""

    model_config = example(cron="0 7 * * *", zone="America/New_York")

    title: str = ""
    allocation: str = ""
    size: str = ""
    image: str | None = None
    name: str = ""
    notebook: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)
    max_seconds: int | None = None
    environment: Environment = Field(default_factory=list)
    output: Output | None = None
    retries: Retries = 0
    source: Source = None
    cron: Cron = ""
    zone: Zone = "UTC"
    missed: Missed = MissedPolicy.SKIP
    overlap: Overlap = OverlapPolicy.SKIP


class ScheduleList(View):
    """Schedules."""

    schedules: list[ScheduleView]


@router.get("/schedules")
def own_schedules(services: Wired, caller: Runner) -> ScheduleList:
    """The caller's schedules, newest first."""
    return ScheduleList(schedules=services.schedules.list_of(caller.name))


@router.get("/schedules/preview")
def preview(
    services: Wired,
    _caller: Runner,
    cron: Annotated[str, Query(description="Five fields, such as `30 6 * * MON-FRI`")],
    zone: Annotated[str, Query(description="The time zone whose clock counts")] = "UTC",
) -> PreviewView:
    """An expression in words, and the next times that it names."""
    return services.schedules.preview(cron, zone)


@router.post("/schedules", status_code=201)
def add(body: AddBody, services: Wired, caller: Runner, idempotency_key: IdempotencyHeader) -> ScheduleDetail:
    """Submit a notebook at planned times from now on."""
    key = IdempotencyKey.for_request(caller.name, idempotency_key, "schedule", body.model_dump())
    terms = ScheduleTerms(**{name: getattr(body, name) for name in AddBody.model_fields})
    with _anothers_hidden(body.allocation):
        schedule = services.schedules.add(caller.name, terms, key)
    log.info("schedule added", extra={"person": caller.name, "schedule": schedule.id})
    return schedule


@router.get("/schedules/{schedule_id}")
def get(schedule_id: str, services: Wired, caller: Runner) -> ScheduleDetail:
    """A schedule of the caller's own, with its next times and what became of the last ones."""
    return services.schedules.get(caller.name, schedule_id)


@router.patch("/schedules/{schedule_id}")
def edit(schedule_id: str, body: EditBody, services: Wired, caller: Runner) -> ScheduleDetail:
    """Change a schedule; runs that were submitted stay as they are."""
    changes = {name: getattr(body, name) for name in body.model_fields_set}
    with _anothers_hidden(body.allocation):
        return services.schedules.edit(caller.name, schedule_id, changes)


@router.post("/schedules/{schedule_id}/pause")
def pause(schedule_id: str, services: Wired, caller: Runner) -> ScheduleDetail:
    """Submit nothing until the schedule is resumed."""
    return services.schedules.pause(caller.name, schedule_id)


@router.post("/schedules/{schedule_id}/resume")
def resume(schedule_id: str, services: Wired, caller: Runner) -> ScheduleDetail:
    """Submit again, from the next time on."""
    return services.schedules.resume(caller.name, schedule_id)


@router.delete("/schedules/{schedule_id}", status_code=204, response_class=Response)
def remove(schedule_id: str, services: Wired, caller: Runner) -> None:
    """Remove a schedule; its runs stay."""
    services.schedules.remove(caller.name, schedule_id)


@contextmanager
def _anothers_hidden(allocation: str) -> Iterator[None]:
    """Let another's allocation look like one that does not exist."""
    try:
        yield
    except NotAMemberError as error:
        raise UnknownAllocationError(f"There is no allocation {allocation!r}.", error.remedy) from error
