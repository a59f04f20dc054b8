"""People's schedules: the list, the page of one, and the form that makes and changes them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import AllocationsError, IdempotencyConflictError, InvalidInputError
from allocations.leases.images import is_custom
from allocations.runs.cron import zone_names
from allocations.runs.files import INPUT
from allocations.runs.schedule_models import MissedPolicy, OverlapPolicy, ScheduleTerms
from allocations.web import run_terms
from allocations.web.formats import SECONDS_PER_MINUTE
from allocations.web.forms import to_notebook, to_parameter_lines, to_parameters
from allocations.web.parameter_fields import FieldsError
from allocations.web.render import fragment, new_key, page, see
from allocations.web.run_terms import (
    NOTHING_TICKED,
    SEPARATOR,
    Reading,
    Ticked,
    first_values,
    read_run_terms,
    shown_run_terms,
    to_body,
)
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from allocations.runs.models import RunView
    from allocations.runs.schedule_models import ScheduleDetail

router = APIRouter(prefix="/schedules")
Runner = Annotated[Identity, Depends(page_needs(Scope.RUN))]
RunForm = Annotated[Sent, Depends(form_needs(Scope.RUN))]
FIELDS = (*run_terms.RUN_FIELDS, "title", "notebook", "run", "parameters", "cron", "zone", "missed", "overlap")
# Where the notebook comes from: a file, the run that is to be repeated, or the schedule as it is.
UPLOAD, RUN, KEPT = "upload", "run", "kept"
MISSED = {
    MissedPolicy.SKIP: "leave them out",
    MissedPolicy.ONCE: "run once for all of them",
    MissedPolicy.ALL: "run the last few, one after the other",
}
OVERLAP = {OverlapPolicy.SKIP: "leave the new one out", OverlapPolicy.QUEUE: "let the new one wait for it"}


@router.get("")
def show_schedules(request: Request, services: Wired, runner: Runner) -> Response:
    """Show a person's schedules, newest first."""
    return page(request, "schedules.html", schedules=services.schedules.list_of(runner.name))


@router.get("/new")
def show_form(request: Request, services: Wired, runner: Runner, run: str = "") -> Response:
    """Show the form, filled in as a run was when the address names one."""
    values = first_values(services, new_key()) | {"notebook": UPLOAD, "cron": "0 6 * * *", "zone": "UTC"}
    if not run:
        return _form(request, services, runner, values)
    found = services.runs.get(runner.name, run.replace("\0", ""))
    values |= {"title": found.name.removesuffix(".ipynb"), "notebook": RUN, "run": found.id}
    values |= _values_of(found, found.max_seconds)
    return _form(request, services, runner, values, Ticked(found.environment))


@router.get("/preview")
def show_preview(request: Request, services: Wired, _runner: Runner, cron: str = "", zone: str = "") -> Response:
    """Show the next times of what is in the form, or what is wrong with it."""
    return fragment(request, "schedule_preview.html", **_preview(services, cron.replace("\0", ""), zone))


@router.post("")
def add(request: Request, services: Wired, sent: RunForm) -> Response:
    """Make a schedule; the form's key makes sent twice one."""
    values = {name: sent.text(name) for name in FIELDS}
    try:
        terms = ScheduleTerms(**_to_changes(services, sent, values), **_to_notebook(services, sent))
        key = IdempotencyKey.for_request(sent.identity.name, sent.key(), "schedule", to_body(terms))
        schedule = services.schedules.add(sent.identity.name, terms, key)
    except AllocationsError as error:
        if isinstance(error, IdempotencyConflictError):
            values["key"] = new_key()
        return _form(request, services, sent.identity, values, Ticked.of(sent), error)
    return see(request, f"/schedules/{schedule.id}", "scheduled")


@router.get("/{schedule_id}")
def show_schedule(request: Request, schedule_id: str, services: Wired, runner: Runner) -> Response:
    """Show a schedule of one's own: when it comes, what it runs, what became of its last times."""
    schedule = services.schedules.get(runner.name, schedule_id)
    return page(request, "schedule.html", schedule=schedule, missed=MISSED, overlap=OVERLAP)


@router.get("/{schedule_id}/edit")
def show_edit_form(request: Request, schedule_id: str, services: Wired, runner: Runner) -> Response:
    """Show the form, filled in as the schedule is."""
    schedule = services.schedules.get(runner.name, schedule_id)
    values = {
        "title": schedule.title,
        "notebook": KEPT,
        "cron": schedule.cron,
        "zone": schedule.zone,
        "missed": schedule.missed,
        "overlap": schedule.overlap,
    }
    values |= _values_of(schedule, schedule.max_seconds or services.policy.runs.default_max_seconds)
    return _form(request, services, runner, values, Ticked(schedule.environment), schedule=schedule)


@router.post("/{schedule_id}")
def edit(request: Request, schedule_id: str, services: Wired, sent: RunForm) -> Response:
    """Change a schedule of one's own."""
    person = sent.identity.name
    schedule = services.schedules.get(person, schedule_id)
    values = {name: sent.text(name) for name in FIELDS}
    try:
        changes = _to_changes(services, sent, values)
        if values["notebook"] != KEPT:
            changes |= _to_notebook(services, sent)
        services.schedules.edit(person, schedule_id, changes)
    except AllocationsError as error:
        return _form(request, services, sent.identity, values, Ticked.of(sent), error, schedule)
    return see(request, f"/schedules/{schedule_id}", "schedule-changed")


@router.post("/{schedule_id}/pause")
def pause(request: Request, schedule_id: str, services: Wired, sent: RunForm) -> Response:
    """Submit nothing until the schedule is resumed."""
    services.schedules.pause(sent.identity.name, schedule_id)
    return see(request, f"/schedules/{schedule_id}", "schedule-paused")


@router.post("/{schedule_id}/resume")
def resume(request: Request, schedule_id: str, services: Wired, sent: RunForm) -> Response:
    """Submit again, from the next time on."""
    services.schedules.resume(sent.identity.name, schedule_id)
    return see(request, f"/schedules/{schedule_id}", "schedule-resumed")


@router.post("/{schedule_id}/remove")
def remove(request: Request, schedule_id: str, services: Wired, sent: RunForm) -> Response:
    """Remove a schedule of one's own; its runs stay."""
    services.schedules.remove(sent.identity.name, schedule_id)
    return see(request, "/schedules", "schedule-removed")


def _to_changes(services: Wired, sent: Sent, values: Mapping[str, str]) -> dict[str, Any]:
    """Read the form but for its notebook; FieldsError with whatever is wrong in its fields."""
    reading = Reading()
    changes = read_run_terms(services, reading, values, Ticked.of(sent))
    changes |= {
        "title": values["title"],
        "parameters": reading("parameters", lambda: to_parameters(values["parameters"])),
        "cron": values["cron"],
        "zone": values["zone"].strip(),
        "missed": reading("missed", lambda: MissedPolicy(_chosen(values["missed"], MISSED))),
        "overlap": reading("overlap", lambda: OverlapPolicy(_chosen(values["overlap"], OVERLAP))),
    }
    reading.require()
    return changes


def _chosen(value: str, among: Collection[str]) -> str:
    if value not in among:
        raise InvalidInputError("What is to happen otherwise is not chosen.", "Choose among what the form offers.")
    return value


def _to_notebook(services: Wired, sent: Sent) -> dict[str, Any]:
    """Return the name of the chosen notebook, what it is, and where it came from."""
    bytes_max = services.policy.runs.notebook_max_bytes
    if sent.text("notebook") == RUN:
        run = services.runs.get(sent.identity.name, sent.text("run"))
        content = services.runs.read_file(run.person, run.id, INPUT, bytes_max)
        return {"name": run.name, "notebook": to_notebook(content, bytes_max), "source": run.source}
    upload = sent.upload("file")
    if upload is None:
        raise InvalidInputError("No notebook is chosen.", "Choose an .ipynb file.")
    name, content = upload
    return {"name": name, "notebook": to_notebook(content, bytes_max), "source": None}


def _values_of(of: RunView | ScheduleDetail, max_seconds: int) -> dict[str, str]:
    """Return what the form holds of what each run gets: as a run had it, or as a schedule has it."""
    lines, left_out = to_parameter_lines(of.parameters)
    image = of.image or ""
    return {
        "choice": f"{of.allocation}{SEPARATOR}{of.size}",
        "image": "" if is_custom(image) else image,
        "custom_image": image if is_custom(image) else "",
        "parameters": lines,
        "left_out": ", ".join(left_out),
        "minutes": str(math.ceil(max_seconds / SECONDS_PER_MINUTE)),
        "retries": str(of.retries),
        "output": of.output or "",
    }


def _preview(services: Wired, cron: str, zone: str) -> dict[str, Any]:
    try:
        return {"preview": services.schedules.preview(cron, zone.strip()), "wrong": None}
    except AllocationsError as error:
        return {"preview": None, "wrong": error}


def _form(
    request: Request,
    services: Wired,
    runner: Identity,
    values: Mapping[str, str],
    ticked: Ticked = NOTHING_TICKED,
    error: AllocationsError | None = None,
    schedule: ScheduleDetail | None = None,
) -> Response:
    return page(
        request,
        "schedule_form.html",
        error=error,
        faults=error.faults if isinstance(error, FieldsError) else {},
        schedule=schedule,
        zones=sorted(zone_names()),
        missed=MISSED,
        overlap=OVERLAP,
        **_preview(services, values["cron"], values["zone"]),
        **shown_run_terms(
            services,
            runner.name,
            {name: "" for name in (*FIELDS, "left_out") if name != "choice"} | dict(values),
            ticked,
        ),
    )
