"""The form with which people submit sweeps: a notebook, what each run gets, and a grid or a table of parameters."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import AllocationsError, IdempotencyConflictError, InvalidInputError, NotFoundError
from allocations.runs.models import RunSource, RunSourceKind
from allocations.runs.sweep_rows import expand
from allocations.runs.sweeps import SweepSubmission
from allocations.web import run_terms
from allocations.web.examples import ExampleNotebooks
from allocations.web.forms import to_grid, to_notebook, to_parameters, to_rows, to_whole_between
from allocations.web.parameter_fields import FieldsError
from allocations.web.render import new_key, page, see
from allocations.web.run_terms import (
    NOTHING_TICKED,
    Reading,
    Ticked,
    first_values,
    read_choice,
    read_terms,
    shown_terms,
    to_body,
)
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allocations.runs.sweep_models import SweepEstimate

log = logging.getLogger(__name__)
router = APIRouter()
FIELDS = (*run_terms.FIELDS, "notebook", "draft", "parameters", "grid", "table", "at_once")
UPLOAD = "upload"  # a choice of a notebook: a file that comes with the form
KEPT = "kept"  # another: the one that came before, as a draft
# A field of a form holds no more than a megabyte: a larger table is sent as a file, and chosen again after an error.
TABLE_SHOWN_LENGTH_MAX = 500_000
RunForm = Annotated[Sent, Depends(form_needs(Scope.RUN))]


@router.get("/sweeps/new")
def show_form(
    request: Request,
    services: Wired,
    runner: Annotated[Identity, Depends(page_needs(Scope.RUN))],
    example: str = "",
    draft: str = "",
) -> Response:
    """Show the form, with the example or the notebook chosen that the address names."""
    examples: ExampleNotebooks = request.app.state.examples
    names = [found.name for found in examples.all()]
    first = example if example in names else next(iter(names), UPLOAD)
    values = {"notebook": KEPT if draft else first, "draft": draft.replace("\0", "")}
    return _form(request, services, runner, first_values(services, new_key()) | values)


@router.post("/sweeps/estimate")
def estimate(request: Request, services: Wired, sent: RunForm) -> Response:
    """Show the form again, with what the sweep would cost."""
    values = _values(sent)
    try:
        values |= _keep_upload(services, sent, values)
        allocation, size = read_choice(values)
        reading = Reading()
        terms = read_terms(services, reading, values, Ticked.of(sent))
        reading.require()
        found = services.sweeps.estimate(
            sent.identity.name,
            allocation,
            size,
            len(_rows(services, values)),
            name=_notebook(request, services, sent.identity, values)[0] if values["notebook"] != UPLOAD else "",
            max_seconds=terms["max_seconds"],
            retries=terms["retries"],
        )
    except AllocationsError as error:
        return _form(request, services, sent.identity, values, Ticked.of(sent), error)
    return _form(request, services, sent.identity, values, Ticked.of(sent), estimate=found)


@router.post("/sweeps")
def submit(request: Request, services: Wired, sent: RunForm) -> Response:
    """Queue a sweep; the form's key makes sent twice one sweep."""
    values = _values(sent)
    try:
        values |= _keep_upload(services, sent, values)
        submission = _to_submission(request, services, sent, values)
        key = IdempotencyKey.for_request(sent.identity.name, sent.key(), "sweep", to_body(submission))
        sweep = services.sweeps.submit(submission, key)
    except AllocationsError as error:
        if isinstance(error, IdempotencyConflictError):
            values["key"] = new_key()
        return _form(request, services, sent.identity, values, Ticked.of(sent), error)
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


def _keep_upload(services: Wired, sent: Sent, values: Mapping[str, str]) -> dict[str, str]:
    """Keep the notebook that came with a form, which could not show it again; return what the form holds then."""
    upload = sent.upload("file") if values["notebook"] == UPLOAD else None
    if upload is None:
        return {}
    notebook = to_notebook(upload[1], services.policy.runs.notebook_max_bytes)
    draft = services.drafts.keep(sent.identity.name, upload[0], notebook)
    return {"notebook": KEPT, "draft": draft.id}


def _to_submission(request: Request, services: Wired, sent: Sent, values: Mapping[str, str]) -> SweepSubmission:
    """Read the whole form; FieldsError with whatever is wrong in any of its fields."""
    most = services.policy.runs.sweep_runs_max
    reading = Reading()
    name, notebook, source = reading("notebook", lambda: _notebook(request, services, sent.identity, values)) or (
        "",
        {},
        None,
    )
    terms = read_terms(services, reading, values, Ticked.of(sent))
    parameters = reading("parameters", lambda: to_parameters(values["parameters"]))
    rows = reading("grid", lambda: _rows(services, values))
    at_once = reading("at-once", lambda: to_whole_between(values["at_once"], "Runs at once", 1, most))
    reading.require()
    return SweepSubmission(
        person=sent.identity.name,
        name=name,
        notebook=notebook,
        source=source,
        parameters=parameters,
        rows=rows,
        at_once=at_once,
        **terms,
    )


def _rows(services: Wired, values: Mapping[str, str]) -> list[dict[str, Any]]:
    grid, table = values["grid"].strip(), values["table"].strip()
    if bool(grid) == bool(table):
        raise InvalidInputError("A sweep needs a grid or a table, one of the two.", "Fill in one, empty the other.")
    if table:
        return to_rows(table)
    return list(expand(to_grid(grid), services.policy.runs.sweep_runs_max))


def _notebook(
    request: Request, services: Wired, runner: Identity, values: Mapping[str, str]
) -> tuple[str, Mapping[str, Any], RunSource]:
    """Return the name of the chosen notebook, what it is, and where it came from."""
    if values["notebook"] == KEPT:
        draft, notebook = services.drafts.get(runner.name, values["draft"])
        return draft.name, notebook, draft.source
    if values["notebook"] in {UPLOAD, ""}:
        raise InvalidInputError("No notebook is chosen.", "Choose an .ipynb file, or one of the examples.")
    examples: ExampleNotebooks = request.app.state.examples
    name = values["notebook"]
    return name, examples.notebook(name), RunSource(kind=RunSourceKind.EXAMPLE, path=name)


def _form(
    request: Request,
    services: Wired,
    runner: Identity,
    values: Mapping[str, str],
    ticked: Ticked = NOTHING_TICKED,
    error: AllocationsError | None = None,
    estimate: SweepEstimate | None = None,
) -> Response:
    examples: ExampleNotebooks = request.app.state.examples
    kept = None
    try:
        kept = services.drafts.get(runner.name, values["draft"])[0] if values.get("draft") else None
    except NotFoundError:
        values = dict(values) | {"notebook": UPLOAD, "draft": ""}
    shown = dict.fromkeys(FIELDS, "") | dict(values)
    chooses_table_again = len(shown["table"]) > TABLE_SHOWN_LENGTH_MAX
    return page(
        request,
        "sweep_form.html",
        error=error,
        faults=error.faults if isinstance(error, FieldsError) else {},
        estimate=estimate,
        examples=examples.all(),
        kept=kept,
        chooses_table_again=chooses_table_again,
        runs_max=services.policy.runs.sweep_runs_max,
        upload=UPLOAD,
        kept_choice=KEPT,
        **shown_terms(
            services,
            runner.name,
            {name: text for name, text in shown.items() if text or name != "choice"}
            | ({"table": ""} if chooses_table_again else {}),
            ticked,
        ),
    )
