"""People's schedules: the list, the page of one, and the form that makes and changes them."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import AllocationsError, IdempotencyConflictError, InvalidInputError
from allocations.runs.cron import zone_names
from allocations.runs.files import INPUT
from allocations.runs.schedule_models import MissedPolicy, OverlapPolicy, ScheduleTerms
from allocations.web.formats import SECONDS_PER_MINUTE
from allocations.web.forms import to_notebook, to_parameter_lines, to_parameters, to_seconds
from allocations.web.render import fragment, new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allocations.runs.schedule_models import ScheduleDetail

router = APIRouter(prefix="/schedules")
Runner = Annotated[Identity, Depends(page_needs(Scope.RUN))]
RunForm = Annotated[Sent, Depends(form_needs(Scope.RUN))]
FIELDS = (
    "title", "notebook", "run", "choice", "image", "parameters", "minutes", "cron", "zone", "missed", "overlap", "key",
)  # fmt: skip
SEPARATOR = "::"  # between the allocation and the size of a choice
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
    values = {"notebook": UPLOAD, "cron": "0 6 * * *", "zone": "UTC", "key": new_key()}
    values["minutes"] = str(services.policy.runs.default_max_seconds // SECONDS_PER_MINUTE)
    if run:
        found = services.runs.get(runner.name, run.replace("\0", ""))
        lines, left_out = to_parameter_lines(found.parameters)
        values |= {
            "title": found.name.removesuffix(".ipynb"),
            "notebook": RUN,
            "run": found.id,
            "choice": f"{found.allocation}{SEPARATOR}{found.size}",
            "image": found.image,
            "parameters": lines,
            "left_out": ", ".join(left_out),
            "minutes": _to_minutes(found.max_seconds),
        }
    return _form(request, services, runner, values)


@router.get("/preview")
def show_preview(request: Request, services: Wired, _runner: Runner, cron: str = "", zone: str = "") -> Response:
    """Show the next times of what is in the form, or what is wrong with it."""
    return fragment(request, "schedule_preview.html", **_preview(services, cron.replace("\0", ""), zone))


@router.post("")
def add(request: Request, services: Wired, sent: RunForm) -> Response:
    """Make a schedule; the form's key makes sent twice one."""
    values = {name: sent.text(name) for name in FIELDS}
    try:
        terms = ScheduleTerms(**_to_changes(sent, *_to_notebook(services, sent)))
        key = IdempotencyKey.for_request(sent.identity.name, sent.key(), "schedule", asdict(terms))
        schedule = services.schedules.add(sent.identity.name, terms, key)
    except AllocationsError as error:
        if isinstance(error, IdempotencyConflictError):
            values["key"] = new_key()
        return _form(request, services, sent.identity, values, error)
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
    lines, left_out = to_parameter_lines(schedule.parameters)
    values = {
        "title": schedule.title,
        "notebook": KEPT,
        "choice": f"{schedule.allocation}{SEPARATOR}{schedule.size}",
        "image": schedule.image or "",
        "parameters": lines,
        "left_out": ", ".join(left_out),
        "minutes": _to_minutes(schedule.max_seconds or services.policy.runs.default_max_seconds),
        "cron": schedule.cron,
        "zone": schedule.zone,
        "missed": schedule.missed,
        "overlap": schedule.overlap,
    }
    return _form(request, services, runner, values, schedule=schedule)


@router.post("/{schedule_id}")
def edit(request: Request, schedule_id: str, services: Wired, sent: RunForm) -> Response:
    """Change a schedule of one's own."""
    person = sent.identity.name
    schedule = services.schedules.get(person, schedule_id)
    try:
        notebook = None if sent.text("notebook") == KEPT else _to_notebook(services, sent)
        changes = _to_changes(sent, *(notebook or (schedule.name, {})))
        if notebook is None:
            del changes["notebook"], changes["name"]
        services.schedules.edit(person, schedule_id, changes)
    except AllocationsError as error:
        values = {name: sent.text(name) for name in FIELDS}
        return _form(request, services, sent.identity, values, error, schedule)
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


def _to_changes(sent: Sent, name: str, notebook: Mapping[str, Any]) -> dict[str, Any]:
    allocation, separator, size = sent.text("choice").partition(SEPARATOR)
    if not separator:
        raise InvalidInputError("No size is chosen.", "Choose one on one of your allocations.")
    missed, overlap = sent.text("missed"), sent.text("overlap")
    if missed not in MISSED or overlap not in OVERLAP:
        raise InvalidInputError("What is to happen otherwise is not chosen.", "Choose among what the form offers.")
    return {
        "title": sent.text("title"),
        "allocation": allocation,
        "size": size,
        "name": name,
        "notebook": notebook,
        "parameters": to_parameters(sent.text("parameters")),
        "image": sent.text("image") or None,
        "max_seconds": to_seconds(sent.text("minutes"), "Maximum minutes"),
        "cron": sent.text("cron"),
        "zone": sent.text("zone").strip(),
        "missed": MissedPolicy(missed),
        "overlap": OverlapPolicy(overlap),
    }


def _to_notebook(services: Wired, sent: Sent) -> tuple[str, Mapping[str, Any]]:
    bytes_max = services.policy.runs.notebook_max_bytes
    if sent.text("notebook") == RUN:
        run = services.runs.get(sent.identity.name, sent.text("run"))
        return run.name, to_notebook(services.runs.read_file(run.person, run.id, INPUT, bytes_max), bytes_max)
    upload = sent.upload("file")
    if upload is None:
        raise InvalidInputError("No notebook is chosen.", "Choose an .ipynb file.")
    name, content = upload
    return name, to_notebook(content, bytes_max)


def _to_minutes(seconds: int) -> str:
    return str(math.ceil(seconds / SECONDS_PER_MINUTE))


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
    error: AllocationsError | None = None,
    schedule: ScheduleDetail | None = None,
) -> Response:
    options = services.offers.start_options(runner.name, is_server=False)
    default = f"{options.default.allocation}{SEPARATOR}{options.default.size}" if options.default else ""
    return page(
        request,
        "schedule_form.html",
        error=error,
        schedule=schedule,
        options=options,
        startable=options.agreement.accepted and any(offer.usable for offer in options.allocations),
        values=dict.fromkeys((*FIELDS, "left_out"), "") | {"choice": default} | dict(values),
        longest_minutes=services.policy.runs.longest_seconds // SECONDS_PER_MINUTE,
        separator=SEPARATOR,
        zones=sorted(zone_names()),
        missed=MISSED,
        overlap=OVERLAP,
        **_preview(services, values["cron"], values["zone"]),
    )
