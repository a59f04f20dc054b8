"""The record of a run as a file, and the button that replays it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import AllocationsError
from allocations.web.render import page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter(prefix="/runs")
Runner = Annotated[Identity, Depends(page_needs(Scope.RUN))]
RunForm = Annotated[Sent, Depends(form_needs(Scope.RUN))]


@router.get("/{run_id}/provenance.json")
def download_record(run_id: str, services: Wired, runner: Runner) -> Response:
    """Download the record of a run of one's own."""
    record = services.records.of(runner.name, run_id)
    return Response(
        record.model_dump_json(indent=2),
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{record.run.id}.json"'},
    )


@router.post("/{run_id}/replay")
def replay(request: Request, run_id: str, services: Wired, sent: RunForm) -> Response:
    """Submit a run of one's own again as it was; the form's key makes sent twice one run."""
    key = IdempotencyKey.for_request(sent.identity.name, sent.key(), "replay", {"run": run_id})
    try:
        run = services.records.replay(sent.identity.name, run_id, key)
    except AllocationsError as error:
        return page(request, "failure.html", error=error)
    return see(request, f"/runs/{run.id}", "replayed")
