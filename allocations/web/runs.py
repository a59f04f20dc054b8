"""People's batch runs: the list, each run's progress and results, and its cancellation."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError
from allocations.runs.files import LOG, OUTPUT
from allocations.runs.models import ENDED_STATES
from allocations.web.headers import content_policy
from allocations.web.notebooks import NOTEBOOK_POLICY, to_html
from allocations.web.render import LivePart, live, live_response, page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter(prefix="/runs")
Runner = Annotated[Identity, Depends(page_needs(Scope.RUN))]
FRAMING_POLICY = content_policy("frame-src 'self'")


@router.get("")
def show_runs(request: Request, services: Wired, runner: Runner) -> Response:
    """Show a person's runs, newest first."""
    return page(request, "runs.html", live=_list(request, services, runner))


@router.get("/live")
def show_runs_live(request: Request, services: Wired, runner: Runner) -> Response:
    """Show the list of runs anew."""
    return live_response(request, _list(request, services, runner))


@router.get("/{run_id}")
def show_run(request: Request, run_id: str, services: Wired, runner: Runner) -> Response:
    """Show a run of one's own."""
    return _show(request, services, runner, run_id)


@router.get("/{run_id}/live")
def show_run_live(request: Request, run_id: str, services: Wired, runner: Runner) -> Response:
    """Show how far a run is; at its end the whole page is loaded anew, for its results."""
    if services.runs.get(runner.name, run_id).state in ENDED_STATES:
        return Response(headers={"HX-Refresh": "true"})
    return live_response(request, _progress(request, services, runner, run_id))


@router.post("/{run_id}/cancel")
def cancel(
    request: Request, run_id: str, services: Wired, sent: Annotated[Sent, Depends(form_needs(Scope.RUN))]
) -> Response:
    """Cancel a run of one's own."""
    try:
        services.runs.cancel(sent.identity.name, run_id)
    except AllocationsError as error:
        return page(request, "failure.html", error=error)
    return see(request, f"/runs/{run_id}", "cancelled")


@router.get("/{run_id}/notebook")
def show_notebook(run_id: str, services: Wired, runner: Runner) -> Response:
    """Show the executed notebook as a document of its own, in a sandbox: its outputs are anybody's HTML."""
    run = services.runs.get(runner.name, run_id)
    html = to_html(services.runs.read_file(runner.name, run_id, OUTPUT), run.name)
    return HTMLResponse(html, headers={"Content-Security-Policy": NOTEBOOK_POLICY})


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


def _list(request: Request, services: Wired, runner: Identity) -> LivePart:
    runs = services.runs.list_of(runner.name)
    active = sum(1 for run in runs if run.state not in ENDED_STATES)
    url = f"{request.app.state.prefix}/runs/live"
    return live(request, "runs_live.html", url, active=active > 0, runs=runs, active_runs=active)


def _progress(request: Request, services: Wired, runner: Identity, run_id: str) -> LivePart:
    run = services.runs.get(runner.name, run_id)
    url = f"{request.app.state.prefix}/runs/{run_id}/live"
    return live(request, "run_live.html", url, active=run.state not in ENDED_STATES, run=run)


def _show(request: Request, services: Wired, runner: Identity, run_id: str) -> Response:
    run = services.runs.get(runner.name, run_id)
    response = page(request, "run.html", run=run, live=_progress(request, services, runner, run_id))
    response.headers["Content-Security-Policy"] = FRAMING_POLICY
    return response
