"""People's sweeps: the list, each sweep's progress, results and plot, its retry and its cancellation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import AllocationsError
from allocations.runs.models import RunState
from allocations.runs.sweeps import Retry
from allocations.web.charts import percent_of
from allocations.web.forms import to_seconds
from allocations.web.render import LivePart, live, live_response, new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs
from allocations.web.sweep_results import (
    CSV_AFTER,
    ROWS_PAGE,
    Shown,
    csv_names,
    csv_row,
    read_page,
    wanted_of,
)
from allocations.web.tables import csv_file

if TYPE_CHECKING:
    from allocations.runs.sweep_models import SweepView

log = logging.getLogger(__name__)
router = APIRouter(prefix="/sweeps")
SWEEPS_PAGE = 20
Runner = Annotated[Identity, Depends(page_needs(Scope.RUN))]
RunForm = Annotated[Sent, Depends(form_needs(Scope.RUN))]
Wish = Annotated[Shown, Depends(wanted_of)]


@router.get("")
def show_sweeps(
    request: Request, services: Wired, runner: Runner, before: Annotated[str, Query(max_length=100)] = ""
) -> Response:
    """Show a page of a person's sweeps, newest first."""
    found = services.sweeps.list_of(runner.name, SWEEPS_PAGE + 1, before.replace("\0", "") or None)
    return page(
        request,
        "sweeps.html",
        sweeps=found[:SWEEPS_PAGE],
        older=found[SWEEPS_PAGE - 1].id if len(found) > SWEEPS_PAGE else None,
        before=before,
        parts_of=parts_of,
    )


@router.get("/{sweep_id}")
def show_sweep(request: Request, sweep_id: str, services: Wired, runner: Runner, shown: Wish) -> Response:
    """Show a sweep of one's own with a page of its results."""
    return _show(request, services, runner, sweep_id, shown)


@router.get("/{sweep_id}/live")
def show_sweep_live(request: Request, sweep_id: str, services: Wired, runner: Runner) -> Response:
    """Show how far a sweep is; at its end the whole page is loaded anew, for its results."""
    sweep = services.sweeps.get(runner.name, sweep_id)
    if sweep.ended == sweep.rows:
        return Response(headers={"HX-Refresh": "true"})
    return live_response(request, _progress(request, sweep))


@router.get("/{sweep_id}/results.csv")
def download_results(sweep_id: str, services: Wired, runner: Runner) -> Response:
    """Download the table of results."""
    sweep = services.sweeps.get(runner.name, sweep_id)
    names = csv_names(services.sweeps.all_results(runner.name, sweep_id))
    rows = (csv_row(sweep, names, one) for one in services.sweeps.all_results(runner.name, sweep_id))
    return csv_file(f"sweep-{sweep.id}", ["row", *sweep.varied, *names, *CSV_AFTER], rows)


@router.post("/{sweep_id}/cancel")
def cancel(request: Request, sweep_id: str, services: Wired, sent: RunForm) -> Response:
    """Cancel all of a sweep of one's own."""
    sweep = services.sweeps.cancel(sent.identity.name, sweep_id)
    log.info("sweep cancelled", extra={"person": sweep.person, "allocation": sweep.allocation, "sweep": sweep.id})
    return see(request, f"/sweeps/{sweep_id}", "sweep-cancelled")


@router.post("/{sweep_id}/retry")
def retry(request: Request, sweep_id: str, services: Wired, sent: RunForm) -> Response:
    """Queue the failed runs of a sweep of one's own again."""
    try:
        minutes, size = sent.text("minutes"), sent.text("size") or None
        max_seconds = to_seconds(minutes, "Maximum minutes") if minutes.strip() else None
        wanted = Retry(size, max_seconds, include_cancelled=bool(sent.text("cancelled")))
        body = {"sweep": sweep_id, "size": size, "seconds": max_seconds, "cancelled": wanted.include_cancelled}
        key = IdempotencyKey.for_request(sent.identity.name, sent.key(), "retry-sweep", body)
        services.sweeps.retry(sent.identity.name, sweep_id, wanted, key)
    except AllocationsError as error:
        return _show(request, services, sent.identity, sweep_id, Shown(), error)
    return see(request, f"/sweeps/{sweep_id}", "sweep-retried")


def parts_of(sweep: SweepView) -> list[tuple[str, float, float]]:
    """Return the parts of a sweep's bar: what each is, where it begins and how wide it is, in percent."""
    running = sweep.counts[RunState.RUNNING] + sweep.counts[RunState.ADMITTED]
    parts, begin = [], 0.0
    for name, count in (("ok", sweep.counts[RunState.SUCCEEDED]), ("bad", sweep.failed), ("held", running)):
        width = percent_of(count, sweep.rows)
        parts.append((name, begin, width))
        begin += width
    return parts


def _show(
    request: Request,
    services: Wired,
    runner: Identity,
    sweep_id: str,
    shown: Shown,
    error: AllocationsError | None = None,
) -> Response:
    sweep = services.sweeps.get(runner.name, sweep_id)
    return page(
        request,
        "sweep.html",
        error=error,
        sweep=sweep,
        live=_progress(request, sweep),
        found=read_page(services.sweeps, sweep, shown),
        shown=shown,
        rows_page=ROWS_PAGE,
        sizes=services.policy.sizes,
        key=new_key(),
    )


def _progress(request: Request, sweep: SweepView) -> LivePart:
    url = f"{request.app.state.prefix}/sweeps/{sweep.id}/live"
    return live(request, "sweep_live.html", url, active=sweep.ended < sweep.rows, sweep=sweep, parts_of=parts_of)
