"""People's batch runs: the list, each run's progress and results, and their cancellation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError, InvalidInputError
from allocations.runs.files import LOG, OUTPUT
from allocations.runs.models import ENDED_STATES
from allocations.web.figures import cells_shown
from allocations.web.formats import to_last_lines
from allocations.web.headers import content_policy
from allocations.web.notebooks import NOTEBOOK_POLICY, SHOWN_BYTES_MAX, to_html
from allocations.web.render import LivePart, live, live_response, new_key, page, see
from allocations.web.run_list import STATES, Wanted, page_of, wanted_by, wanted_of
from allocations.web.session import Sent, form_needs, page_needs

if TYPE_CHECKING:
    from allocations.runs.service import RunWatch

router = APIRouter(prefix="/runs")
Runner = Annotated[Identity, Depends(page_needs(Scope.RUN))]
RunForm = Annotated[Sent, Depends(form_needs(Scope.RUN))]
Wish = Annotated[Wanted, Depends(wanted_of)]
FRAMING_POLICY = content_policy("frame-src 'self'")
LOG_BYTES_MAX = 20_000
LOG_LINES_MAX = 200


@router.get("")
def show_runs(request: Request, services: Wired, runner: Runner, wanted: Wish) -> Response:
    """Show a page of a person's runs, newest first."""
    return _show_list(request, services, runner, wanted)


@router.get("/live")
def show_runs_live(request: Request, services: Wired, runner: Runner, wanted: Wish) -> Response:
    """Show the list of runs anew."""
    return live_response(request, _list(request, services, runner, wanted))


@router.post("/cancel")
def cancel_several(request: Request, services: Wired, sent: RunForm) -> Response:
    """Cancel the runs of one's own that were ticked in the list, and go back to it."""
    wanted, chosen = wanted_by(sent), sent.texts("run")
    try:
        if not chosen:
            raise InvalidInputError("No run is chosen.", "Tick those that you want to cancel.")
        services.runs.cancel_several(sent.identity.name, chosen)
    except AllocationsError as error:
        return _show_list(request, services, sent.identity, wanted, error)
    return see(request, f"/runs{wanted.query(wanted.before)}", "several-cancelled")


@router.get("/{run_id}")
def show_run(request: Request, run_id: str, services: Wired, runner: Runner) -> Response:
    """Show a run of one's own."""
    watch = services.runs.watch(runner.name, run_id, LOG_BYTES_MAX)
    record = services.records.of(runner.name, run_id) if watch.run.state in ENDED_STATES else None
    response = page(
        request,
        "run.html",
        run=watch.run,
        schedule=services.schedules.of_run(runner.name, watch.run.id),
        live=_progress(request, watch),
        record=record,
        key=new_key(),
    )
    response.headers["Content-Security-Policy"] = FRAMING_POLICY
    return response


@router.get("/{run_id}/live")
def show_run_live(request: Request, run_id: str, services: Wired, runner: Runner) -> Response:
    """Show how far a run is; at its end the whole page is loaded anew, for its results."""
    watch = services.runs.watch(runner.name, run_id, LOG_BYTES_MAX)
    if watch.run.state in ENDED_STATES:
        return Response(headers={"HX-Refresh": "true"})
    return live_response(request, _progress(request, watch))


@router.post("/{run_id}/cancel")
def cancel(request: Request, run_id: str, services: Wired, sent: RunForm) -> Response:
    """Cancel a run of one's own."""
    try:
        services.runs.cancel(sent.identity.name, run_id)
    except AllocationsError as error:
        return page(request, "failure.html", error=error)
    return see(request, f"/runs/{run_id}", "cancelled")


@router.get("/{run_id}/notebook")
def show_notebook(request: Request, run_id: str, services: Wired, runner: Runner) -> Response:
    """Show the executed notebook as a document of its own, in a sandbox: its outputs are anybody's HTML.

    What stands in its way is a document of the same kind, for a page would not let itself be framed.
    """
    run = services.runs.get(runner.name, run_id)
    try:
        html = to_html(services.runs.read_file(runner.name, run_id, OUTPUT, SHOWN_BYTES_MAX), run.name)
    except AllocationsError as error:
        response = page(request, "no_notebook.html", error=error, run=run)
    else:
        response = HTMLResponse(html)
    response.headers["Content-Security-Policy"] = NOTEBOOK_POLICY
    return response


@router.get("/{run_id}/notebook.ipynb")
def download_notebook(run_id: str, services: Wired, runner: Runner) -> Response:
    """Download the executed notebook."""
    run = services.runs.get(runner.name, run_id)
    return Response(
        services.runs.read_file(runner.name, run_id, OUTPUT),
        media_type="application/x-ipynb+json",
        headers={"Content-Disposition": f"attachment; filename*=utf-8''{quote(run.name, safe='')}"},
    )


@router.get("/{run_id}/log")
def show_log(run_id: str, services: Wired, runner: Runner) -> Response:
    """Show the log as plain text."""
    return Response(services.runs.read_file(runner.name, run_id, LOG), media_type="text/plain; charset=utf-8")


def _show_list(
    request: Request, services: Wired, runner: Identity, wanted: Wanted, error: AllocationsError | None = None
) -> Response:
    return page(
        request,
        "runs.html",
        error=error,
        live=_list(request, services, runner, wanted),
        wanted=wanted,
        states=STATES,
        allocations=services.runs.allocations_of(runner.name),
    )


def _list(request: Request, services: Wired, runner: Identity, wanted: Wanted) -> LivePart:
    found = page_of(services.runs, runner.name, wanted)
    url = f"{request.app.state.prefix}/runs/live{wanted.query(wanted.before)}"
    return live(request, "runs_live.html", url, active=found.unended > 0, found=found, wanted=wanted)


def _progress(request: Request, watch: RunWatch) -> LivePart:
    run = watch.run
    url = f"{request.app.state.prefix}/runs/{run.id}/live"
    return live(
        request,
        "run_live.html",
        url,
        active=run.state not in ENDED_STATES,
        run=run,
        cells=cells_shown(watch.cells),
        cells_count=len(watch.cells),
        log=to_last_lines(watch.log, LOG_LINES_MAX, is_cut=watch.log_left_out_bytes > 0),
    )
