"""The form with which people submit batch runs."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import AllocationsError, IdempotencyConflictError, InvalidInputError, NotFoundError
from allocations.runs.files import INPUT
from allocations.runs.service import Submission
from allocations.web.examples import ExampleNotebooks
from allocations.web.formats import SECONDS_PER_MINUTE
from allocations.web.forms import to_notebook, to_parameter_lines, to_parameters, to_seconds
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from allocations.runs.models import RunView

log = logging.getLogger(__name__)
router = APIRouter()
FIELDS = ("notebook", "again", "choice", "image", "parameters", "minutes", "key", "output")
SEPARATOR = "::"  # between the allocation and the size of a choice
UPLOAD = "upload"
AGAIN = "again"


@router.get("/runs/new")
def show_form(
    request: Request,
    services: Wired,
    runner: Annotated[Identity, Depends(page_needs(Scope.RUN))],
    example: str = "",
    again: str = "",
) -> Response:
    """Show the form, with an example chosen when the address names one, or filled in as a run was."""
    if again:
        run = services.runs.get(runner.name, again)
        return _form(request, services, runner, _values_of(run), chosen_secrets=run.environment)
    examples: ExampleNotebooks = request.app.state.examples
    names = [found.name for found in examples.all()]
    first = example if example in names else next(iter(names), UPLOAD)
    minutes = services.policy.runs.default_max_seconds // SECONDS_PER_MINUTE
    return _form(request, services, runner, {"notebook": first, "minutes": str(minutes), "key": new_key()})


@router.post("/runs")
def submit(request: Request, services: Wired, sent: Annotated[Sent, Depends(form_needs(Scope.RUN))]) -> Response:
    """Queue a run; the form's key makes sent twice one run."""
    values = {name: sent.text(name) for name in FIELDS}
    try:
        submission = _to_submission(request, services, sent)
        body: dict[str, Any] = asdict(submission)
        key = IdempotencyKey.for_request(sent.identity.name, sent.key(), "run", body)
        run = services.runs.submit(submission, key)
    except AllocationsError as error:
        if isinstance(error, IdempotencyConflictError):
            values["key"] = new_key()
        return _form(request, services, sent.identity, values, error, sent.texts("environment"))
    log.info("run queued", extra={"person": run.person, "allocation": run.allocation, "run": run.id})
    return see(request, f"/runs/{run.id}", "queued")


def _to_submission(request: Request, services: Wired, sent: Sent) -> Submission:
    allocation, separator, size = sent.text("choice").partition(SEPARATOR)
    if not separator:
        raise InvalidInputError("No size is chosen.", "Choose one on one of your allocations.")
    name, notebook = _to_notebook(request, services, sent)
    return Submission(
        person=sent.identity.name,
        allocation=allocation,
        size=size,
        name=name,
        notebook=notebook,
        parameters=to_parameters(sent.text("parameters")),
        image=sent.text("image") or None,
        max_seconds=to_seconds(sent.text("minutes"), "Maximum minutes"),
        environment=sent.texts("environment"),
        output=sent.text("output"),
    )


def _to_notebook(request: Request, services: Wired, sent: Sent) -> tuple[str, Mapping[str, Any]]:
    choice = sent.text("notebook")
    bytes_max = services.policy.runs.notebook_max_bytes
    if choice == AGAIN:
        run = services.runs.get(sent.identity.name, sent.text("again"))
        return run.name, to_notebook(services.runs.read_file(run.person, run.id, INPUT, bytes_max), bytes_max)
    if choice != UPLOAD:
        examples: ExampleNotebooks = request.app.state.examples
        return choice, examples.notebook(choice)
    upload = sent.upload("file")
    if upload is None:
        raise InvalidInputError("No notebook is chosen.", "Choose an .ipynb file, or one of the examples.")
    name, content = upload
    return name, to_notebook(content, bytes_max)


def _values_of(run: RunView) -> dict[str, str]:
    """Return what the form would have held for a run."""
    parameters, left_out = to_parameter_lines(run.parameters)
    return {
        "notebook": AGAIN,
        "again": run.id,
        "choice": f"{run.allocation}{SEPARATOR}{run.size}",
        "image": run.image,
        "parameters": parameters,
        "left_out": ", ".join(left_out),
        "minutes": str(math.ceil(run.max_seconds / SECONDS_PER_MINUTE)),
        "key": new_key(),
        "output": run.output or "",
    }


def _form(
    request: Request,
    services: Wired,
    runner: Identity,
    values: Mapping[str, str],
    error: AllocationsError | None = None,
    chosen_secrets: Sequence[str] = (),
) -> Response:
    options = services.offers.start_options(runner.name, is_server=False)
    default = f"{options.default.allocation}{SEPARATOR}{options.default.size}" if options.default else ""
    examples: ExampleNotebooks = request.app.state.examples
    repeated = None
    if values.get("again"):
        with suppress(NotFoundError):
            repeated = services.runs.get(runner.name, values["again"])
    return page(
        request,
        "submission.html",
        error=error,
        secrets=services.secrets.list_of(runner.name),
        chosen_secrets=chosen_secrets,
        options=options,
        startable=options.agreement.accepted and any(offer.usable for offer in options.allocations),
        examples=examples.all(),
        repeated=repeated,
        values={"choice": default, "image": "", "parameters": "", "left_out": "", "output": ""} | dict(values),
        longest_minutes=services.policy.runs.longest_seconds // SECONDS_PER_MINUTE,
        separator=SEPARATOR,
        upload=UPLOAD,
        again=AGAIN,
    )
