"""The form with which people submit batch runs."""

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
from allocations.runs.service import Submission
from allocations.web.examples import ExampleNotebooks
from allocations.web.formats import SECONDS_PER_MINUTE
from allocations.web.forms import to_notebook, to_parameters, to_seconds
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)
router = APIRouter()
SEPARATOR = "::"  # between the allocation and the size of a choice
UPLOAD = "upload"


@router.get("/runs/new")
def show_form(
    request: Request, services: Wired, runner: Annotated[Identity, Depends(page_needs(Scope.RUN))], example: str = ""
) -> Response:
    """Show the form, with an example chosen when the address names one."""
    examples: ExampleNotebooks = request.app.state.examples
    names = [found.name for found in examples.all()]
    first = example if example in names else next(iter(names), UPLOAD)
    minutes = services.policy.runs.default_max_seconds // SECONDS_PER_MINUTE
    return _form(request, services, runner, {"notebook": first, "minutes": str(minutes), "key": new_key()})


@router.post("/runs")
def submit(request: Request, services: Wired, sent: Annotated[Sent, Depends(form_needs(Scope.RUN))]) -> Response:
    """Queue a run; the form's key makes sent twice one run."""
    values = {name: sent.text(name) for name in ("notebook", "choice", "image", "parameters", "minutes", "key")}
    try:
        submission = _to_submission(request, services, sent)
        body: dict[str, Any] = asdict(submission)
        key = IdempotencyKey.for_request(sent.identity.name, sent.key(), "run", body)
        run = services.runs.submit(submission, key)
    except AllocationsError as error:
        if isinstance(error, IdempotencyConflictError):
            values["key"] = new_key()
        return _form(request, services, sent.identity, values, error)
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
    )


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
) -> Response:
    options = services.offers.start_options(runner.name, is_server=False)
    default = f"{options.default.allocation}{SEPARATOR}{options.default.size}" if options.default else ""
    examples: ExampleNotebooks = request.app.state.examples
    return page(
        request,
        "submission.html",
        error=error,
        options=options,
        startable=options.agreement.accepted and any(offer.usable for offer in options.allocations),
        examples=examples.all(),
        values={"choice": default, "image": "", "parameters": ""} | dict(values),
        longest_minutes=services.policy.runs.longest_seconds // SECONDS_PER_MINUTE,
        separator=SEPARATOR,
        upload=UPLOAD,
    )
