"""The form with which people submit sweeps: a notebook, what each run gets, and a grid or a table of parameters."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import AllocationsError, IdempotencyConflictError, InvalidInputError
from allocations.runs.sweep_rows import expand
from allocations.runs.sweeps import SweepSubmission
from allocations.web.examples import ExampleNotebooks
from allocations.web.formats import SECONDS_PER_MINUTE
from allocations.web.forms import to_grid, to_notebook, to_parameters, to_rows, to_seconds, to_whole_between
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allocations.runs.sweep_models import SweepEstimate

log = logging.getLogger(__name__)
router = APIRouter()
FIELDS = ("notebook", "choice", "image", "custom_image", "parameters", "grid", "table", "minutes", "at_once", "key")
SEPARATOR = "::"  # between the allocation and the size of a choice
UPLOAD = "upload"
# A field of a form holds no more than a megabyte: a larger table is sent as a file, and chosen again after an error.
TABLE_SHOWN_LENGTH_MAX = 500_000
RunForm = Annotated[Sent, Depends(form_needs(Scope.RUN))]


@router.get("/sweeps/new")
def show_form(
    request: Request, services: Wired, runner: Annotated[Identity, Depends(page_needs(Scope.RUN))], example: str = ""
) -> Response:
    """Show the form, with an example chosen when the address names one."""
    examples: ExampleNotebooks = request.app.state.examples
    names = [found.name for found in examples.all()]
    first = example if example in names else next(iter(names), UPLOAD)
    minutes = services.policy.runs.default_max_seconds // SECONDS_PER_MINUTE
    return _form(request, services, runner, {"notebook": first, "minutes": str(minutes), "key": new_key()})


@router.post("/sweeps/estimate")
def estimate(request: Request, services: Wired, sent: RunForm) -> Response:
    """Show the form again, with what the sweep would cost."""
    values = _values(sent)
    try:
        allocation, size = _choice(sent)
        upload = sent.upload("file")
        name = values["notebook"] if values["notebook"] != UPLOAD else upload[0] if upload else ""
        seconds = to_seconds(values["minutes"], "Maximum minutes")
        count = len(_rows(services, values))
        found = services.sweeps.estimate(sent.identity.name, allocation, size, count, name=name, max_seconds=seconds)
    except AllocationsError as error:
        return _form(request, services, sent.identity, values, error)
    return _form(request, services, sent.identity, values, estimate=found)


@router.post("/sweeps")
def submit(request: Request, services: Wired, sent: RunForm) -> Response:
    """Queue a sweep; the form's key makes sent twice one sweep."""
    values = _values(sent)
    try:
        submission = _to_submission(request, services, sent, values)
        body: dict[str, Any] = asdict(submission)
        key = IdempotencyKey.for_request(sent.identity.name, sent.key(), "sweep", body)
        sweep = services.sweeps.submit(submission, key)
    except AllocationsError as error:
        if isinstance(error, IdempotencyConflictError):
            values["key"] = new_key()
        return _form(request, services, sent.identity, values, error)
    log.info(
        "sweep queued",
        extra={"person": sweep.person, "allocation": sweep.allocation, "sweep": sweep.id, "runs": sweep.rows},
    )
    return see(request, f"/sweeps/{sweep.id}", "sweep-queued")


def _values(sent: Sent) -> dict[str, str]:
    """Return what the form holds; a table's file is shown in its field, where it is not lost with an error."""
    values = {name: sent.text(name) for name in FIELDS}
    upload = sent.upload("table_file")
    if upload is not None:
        values["table"] = upload[1].decode("utf-8-sig", "replace").replace("\0", "")
    return values


def _to_submission(request: Request, services: Wired, sent: Sent, values: Mapping[str, str]) -> SweepSubmission:
    allocation, size = _choice(sent)
    most = services.policy.runs.sweep_runs_max
    name, notebook = _to_notebook(request, services, sent)
    return SweepSubmission(
        person=sent.identity.name,
        allocation=allocation,
        size=size,
        name=name,
        notebook=notebook,
        parameters=to_parameters(values["parameters"]),
        rows=_rows(services, values),
        image=values["custom_image"].strip() or values["image"] or None,
        max_seconds=to_seconds(values["minutes"], "Maximum minutes"),
        at_once=to_whole_between(values["at_once"], "Runs at once", 1, most),
    )


def _choice(sent: Sent) -> tuple[str, str]:
    allocation, separator, size = sent.text("choice").partition(SEPARATOR)
    if not separator:
        raise InvalidInputError("No size is chosen.", "Choose one on one of your allocations.")
    return allocation, size


def _rows(services: Wired, values: Mapping[str, str]) -> list[dict[str, Any]]:
    grid, table = values["grid"].strip(), values["table"].strip()
    if bool(grid) == bool(table):
        raise InvalidInputError("A sweep needs a grid or a table, one of the two.", "Fill in one, empty the other.")
    if table:
        return to_rows(table)
    return list(expand(to_grid(grid), services.policy.runs.sweep_runs_max))


def _to_notebook(request: Request, services: Wired, sent: Sent) -> tuple[str, Mapping[str, Any]]:
    choice = sent.text("notebook")
    if choice != UPLOAD:
        examples: ExampleNotebooks = request.app.state.examples
        return choice, examples.notebook(choice)
    upload = sent.upload("file")
    if upload is None:
        raise InvalidInputError("No notebook is chosen.", "Choose an .ipynb file, or one of the examples.")
    name, content = upload
    return name, to_notebook(content, services.policy.runs.notebook_max_bytes)


def _form(
    request: Request,
    services: Wired,
    runner: Identity,
    values: Mapping[str, str],
    error: AllocationsError | None = None,
    estimate: SweepEstimate | None = None,
) -> Response:
    options = services.offers.start_options(runner.name, is_server=False)
    default = f"{options.default.allocation}{SEPARATOR}{options.default.size}" if options.default else ""
    examples: ExampleNotebooks = request.app.state.examples
    return page(
        request,
        "sweep_form.html",
        error=error,
        estimate=estimate,
        options=options,
        startable=options.agreement.accepted and any(offer.usable for offer in options.allocations),
        examples=examples.all(),
        values=dict.fromkeys(FIELDS, "")
        | {"choice": default}
        | dict(values)
        | ({} if len(values.get("table", "")) <= TABLE_SHOWN_LENGTH_MAX else {"table": ""}),
        chooses_table_again=len(values.get("table", "")) > TABLE_SHOWN_LENGTH_MAX,
        longest_minutes=services.policy.runs.longest_seconds // SECONDS_PER_MINUTE,
        runs_max=services.policy.runs.sweep_runs_max,
        separator=SEPARATOR,
        upload=UPLOAD,
    )
