"""The form with which people submit batch runs: first the notebook, then its parameters and what it may use."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import AllocationsError, IdempotencyConflictError, InvalidInputError, NotFoundError
from allocations.leases.images import is_custom
from allocations.runs.files import INPUT
from allocations.runs.models import RunSource, RunSourceKind
from allocations.runs.notebook_parameters import InvalidParametersError, NotebookParameters, parameters_of
from allocations.runs.service import Submission
from allocations.web import run_terms
from allocations.web.examples import ExampleNotebooks
from allocations.web.formats import SECONDS_PER_MINUTE
from allocations.web.forms import to_notebook, to_parameter_lines, to_parameters
from allocations.web.parameter_fields import PREFIX, FieldsError, fields_of, has_fields, read_fields
from allocations.web.render import new_key, page, see
from allocations.web.run_terms import SEPARATOR, Reading, Ticked, first_values, read_terms, shown_terms, to_body
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allocations.runs.models import RunView

log = logging.getLogger(__name__)
router = APIRouter()
RunnerPage = Annotated[Identity, Depends(page_needs(Scope.RUN))]
RunForm = Annotated[Sent, Depends(form_needs(Scope.RUN))]
FIELDS = (*run_terms.FIELDS, "parameters")
UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which notebook the form is about: an example, one that was brought, or that of a run (whose values it shows)."""

    example: str = ""
    draft: str = ""
    again: str = ""

    @property
    def is_any(self) -> bool:
        """Whether a notebook is chosen."""
        return bool(self.example or self.draft or self.again)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A notebook to be submitted, and the run whose values the form begins with."""

    wanted: Wanted
    name: str
    notebook: Mapping[str, Any]
    source: RunSource
    parameters: NotebookParameters
    repeated: RunView | None


@router.get("/runs/new")
def show_form(
    request: Request, services: Wired, runner: RunnerPage, example: str = "", draft: str = "", again: str = ""
) -> Response:
    """Show the form of a notebook, filled in as a run was when one is named; without a notebook, their choice."""
    wanted = Wanted(example.replace("\0", ""), draft.replace("\0", ""), again.replace("\0", ""))
    examples: ExampleNotebooks = request.app.state.examples
    if wanted.example and wanted.example not in [found.name for found in examples.all()]:
        wanted = Wanted()
    if not wanted.is_any:
        return _choice(request)
    try:
        chosen = _chosen(request, services, runner, wanted)
    except NotFoundError as error:
        if wanted.draft:
            return _choice(request, wanted.again, error)
        raise
    ticked = Ticked(chosen.repeated.environment if chosen.repeated else ())
    return _form(request, services, runner, chosen, _first_values(services, chosen), ticked)


@router.get("/runs/notebook")
def choose_notebook(request: Request, _runner: RunnerPage, again: str = "") -> Response:
    """Show the choice of a notebook; `again`: a run whose values its form begins with."""
    return _choice(request, again.replace("\0", ""))


@router.post("/runs/notebook")
def bring_notebook(request: Request, services: Wired, sent: RunForm) -> Response:
    """Take the notebook that was chosen, and go on to its form."""
    again = sent.text("again")
    example = sent.text("notebook")
    try:
        if again:
            services.runs.get(sent.identity.name, again)
        if example and example != UPLOAD:
            examples: ExampleNotebooks = request.app.state.examples
            examples.notebook(example)
            return _to_form(request, example=example, again=again)
        upload = sent.upload("file")
        if upload is None:
            raise InvalidInputError("No notebook is chosen.", "Choose an .ipynb file, or one of the examples.")
        name, content = upload
        notebook = to_notebook(content, services.policy.runs.notebook_max_bytes)
        draft = services.drafts.keep(sent.identity.name, name, notebook)
    except AllocationsError as error:
        return _choice(request, again, error)
    return _to_form(request, draft=draft.id, again=again)


@router.post("/runs")
def submit(request: Request, services: Wired, sent: RunForm) -> Response:
    """Queue a run; the form's key makes sent twice one run."""
    try:
        chosen = _chosen(
            request, services, sent.identity, Wanted(sent.text("example"), sent.text("draft"), sent.text("again"))
        )
    except AllocationsError as error:
        return _choice(request, "", error)
    values = {name: sent.text(name) for name in FIELDS}
    written = None
    if sent.text("fields"):
        written = {name: sent.text(name) for name in sent.fields if name.startswith(PREFIX)}
    try:
        submission = _to_submission(services, sent, chosen, values, written)
        key = IdempotencyKey.for_request(sent.identity.name, sent.key(), "run", to_body(submission))
        run = services.runs.submit(submission, key)
    except AllocationsError as error:
        if isinstance(error, IdempotencyConflictError):
            values["key"] = new_key()
        return _form(request, services, sent.identity, chosen, values, Ticked.of(sent), written, error)
    log.info("run queued", extra={"person": run.person, "allocation": run.allocation, "run": run.id})
    return see(request, f"/runs/{run.id}", "queued")


def _chosen(request: Request, services: Wired, runner: Identity, wanted: Wanted) -> Chosen:
    """Return the notebook that a form is about; NotFoundError for what is not the person's own."""
    repeated = services.runs.get(runner.name, wanted.again) if wanted.again else None
    notebook: Mapping[str, Any]
    if wanted.draft:
        draft, notebook = services.drafts.get(runner.name, wanted.draft)
        return Chosen(wanted, draft.name, notebook, draft.source, draft.parameters, repeated)
    if wanted.example:
        examples: ExampleNotebooks = request.app.state.examples
        notebook = examples.notebook(wanted.example)
        name, source = wanted.example, RunSource(kind=RunSourceKind.EXAMPLE, path=wanted.example)
    elif repeated is not None:
        bytes_max = services.policy.runs.notebook_max_bytes
        notebook = to_notebook(services.runs.read_file(runner.name, repeated.id, INPUT, bytes_max), bytes_max)
        name, source = repeated.name, repeated.source or RunSource(kind=RunSourceKind.UPLOAD)
    else:
        raise InvalidInputError("No notebook is chosen.", "Choose an .ipynb file, or one of the examples.")
    return Chosen(wanted, name, notebook, source, parameters_of(notebook), repeated)


def _to_submission(
    services: Wired, sent: Sent, chosen: Chosen, values: Mapping[str, str], written: Mapping[str, str] | None
) -> Submission:
    """Read the whole form; FieldsError with whatever is wrong in any of its fields."""
    reading = Reading()
    terms = read_terms(services, reading, values, Ticked.of(sent))
    lines = reading("parameters", lambda: to_parameters(values["parameters"]))
    fields = reading("parameters", lambda: {} if written is None else read_fields(chosen.parameters, written))
    reading.require()
    return Submission(
        person=sent.identity.name,
        name=chosen.name,
        notebook=chosen.notebook,
        parameters=lines | fields,
        source=chosen.source,
        **terms,
    )


def _first_values(services: Wired, chosen: Chosen) -> dict[str, str]:
    """Return what a form begins with: what a run had when one is repeated."""
    run = chosen.repeated
    if run is None:
        return first_values(services, new_key())
    lines, left_out = ("", list[str]())
    if not has_fields(chosen.parameters):
        lines, left_out = to_parameter_lines(run.parameters)
    else:
        names = {parameter.name for parameter in chosen.parameters.parameters}
        left_out = [name for name in run.parameters if name not in names]
    return {
        "choice": f"{run.allocation}{SEPARATOR}{run.size}",
        "image": "" if is_custom(run.image) else run.image,
        "custom_image": run.image if is_custom(run.image) else "",
        "parameters": lines,
        "left_out": ", ".join(left_out),
        "minutes": str(math.ceil(run.max_seconds / SECONDS_PER_MINUTE)),
        "retries": str(run.retries),
        "key": new_key(),
        "output": run.output or "",
    }


def _to_form(request: Request, **wanted: str) -> Response:
    query = urlencode({name: value for name, value in wanted.items() if value})
    return RedirectResponse(f"{request.app.state.prefix}/runs/new?{query}", 303)


def _choice(request: Request, again: str = "", error: AllocationsError | None = None) -> Response:
    examples: ExampleNotebooks = request.app.state.examples
    return page(request, "choose_notebook.html", error=error, examples=examples.all(), upload=UPLOAD, again=again)


def _faults_of(error: AllocationsError | None) -> Mapping[str, str]:
    """Return what is wrong by the field, where it is known."""
    if isinstance(error, FieldsError):
        return error.faults
    if isinstance(error, InvalidParametersError):
        return {f"{PREFIX}{name}": fault for name, fault in error.faults.items()}
    return {}


def _form(
    request: Request,
    services: Wired,
    runner: Identity,
    chosen: Chosen,
    values: Mapping[str, str],
    ticked: Ticked,
    written: Mapping[str, str] | None = None,
    error: AllocationsError | None = None,
) -> Response:
    return page(
        request,
        "submission.html",
        error=error,
        faults=_faults_of(error),
        chosen=chosen,
        fields=fields_of(chosen.parameters, chosen.repeated.parameters if chosen.repeated else {}, written),
        with_lines=not has_fields(chosen.parameters),
        **shown_terms(services, runner.name, {"parameters": "", "left_out": ""} | dict(values), ticked),
    )
