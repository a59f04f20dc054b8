"""The administrators' pages of storage: areas with their limits and problems, runs of purges, the stop switch."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.clock import from_datetime
from allocations.errors import AllocationsError, InvalidInputError, NotFoundError
from allocations.reports.purges import AmountView, RuleAmountView
from allocations.reports.storage import AREAS_PAGE
from allocations.storage.models import StorageClass
from allocations.storage.purge.models import PurgeState
from allocations.web.forms import to_whole
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs
from allocations.web.storage_figures import Meter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from allocations.factory import Services
    from allocations.reports.purges import PurgeInfo

router = APIRouter(prefix="/admin/storage")
Administrator = Annotated[Identity, Depends(page_needs(Scope.ADMIN))]
AdministratorForm = Annotated[Sent, Depends(form_needs(Scope.ADMIN))]
START_MAX = 10**9
PURGES_SHOWN = 200
FIELDS = ("storage", "as_of", "how", "why")
DONE = {"confirm": "confirmed", "stop": "run-stopped", "resume": "run-resumed", "cancel": "run-cancelled"}
# Object stores have rules of their own for what is old.
PURGED = [one for one in StorageClass if one is not StorageClass.OBJECT]


@router.get("")
def show_areas(
    request: Request,
    services: Wired,
    _administrator: Administrator,
    storage: str = "",
    start: Annotated[int, Query(ge=0, le=START_MAX)] = 0,
) -> Response:
    """Show the areas with most bytes, of a class or of all, and those that fail."""
    wanted = StorageClass(storage) if storage in set(StorageClass) else None
    found = services.storage_reports.largest(wanted, start)
    return page(
        request,
        "admin_storage.html",
        found=found,
        meters={area.id: Meter.of(area) for area in found.areas},
        failing=services.storage_reports.failing(),
        storage=wanted or "",
        classes=services.policy.storage.classes,
        start=start,
        size=AREAS_PAGE,
    )


@router.get("/purges")
def show_runs(request: Request, services: Wired, administrator: Administrator) -> Response:
    """Show the latest runs, the stop switch, and the form for another run."""
    return _runs(request, services, administrator)


@router.post("/purges")
def plan(request: Request, services: Wired, sent: AdministratorForm) -> Response:
    """Begin a run, dry or real."""
    try:
        storage, how = sent.text("storage"), sent.text("how")
        if storage not in set(PURGED) or how not in {"dry", "real"}:
            raise InvalidInputError("It is not said what to plan.", "Choose from the lists.")
        run = services.purges.plan(
            sent.identity.actor,
            StorageClass(storage),
            as_of_ms=_as_of_ms(sent.text("as_of")),
            dry_run=how == "dry",
            idempotency_key=sent.key() or None,
        )
    except AllocationsError as error:
        return _runs(request, services, sent.identity, error, sent)
    return see(request, f"/admin/storage/purges/{run.id}", "planned")


@router.post("/purges/switch")
def switch(request: Request, services: Wired, sent: AdministratorForm) -> Response:
    """Stop every purge, or let them go on."""
    turn = {"stop": services.purges.stop_all, "resume": services.purges.resume_all}.get(sent.text("turn"))
    try:
        if turn is None:
            raise InvalidInputError("No switch is chosen.", "Use one of the buttons.")
        turn(sent.identity.actor, sent.text("why"))
    except AllocationsError as error:
        return _runs(request, services, sent.identity, error, sent)
    return see(request, "/admin/storage/purges", "all-stopped" if sent.text("turn") == "stop" else "all-resumed")


@router.get("/purges/{run_id}")
def show_run(request: Request, run_id: str, services: Wired, administrator: Administrator) -> Response:
    """Show a run: what it takes by area, rule and owner, against the ceiling."""
    return _run(request, services, administrator, run_id)


@router.post("/purges/{run_id}/{action}")
def steer(request: Request, run_id: str, action: str, services: Wired, sent: AdministratorForm) -> Response:
    """Confirm, stop, resume or cancel a run, with the reason that the audit log keeps."""
    if action not in DONE:
        raise NotFoundError("There is nothing at this address.", "Go on from the run's page.")
    actor, why = sent.identity.actor, sent.text("why")
    try:
        if action == "confirm":
            files, count = to_whole(sent.text("files"), "Files"), to_whole(sent.text("bytes"), "Bytes")
            services.purges.confirm(actor, run_id, files=files, bytes_=count, why=why)
        else:
            acts = {"stop": services.purges.stop, "resume": services.purges.resume, "cancel": services.purges.cancel}
            acts[action](actor, run_id, why)
    except NotFoundError:
        raise
    except AllocationsError as error:
        return _run(request, services, sent.identity, run_id, error, action, why)
    return see(request, f"/admin/storage/purges/{run_id}", DONE[action])


def _as_of_ms(text: str) -> int | None:
    """Return the begin of a day in UTC, None for now."""
    if not text.strip():
        return None
    try:
        day = date.fromisoformat(text)
        return from_datetime(datetime(day.year, day.month, day.day, tzinfo=UTC))
    except ValueError:
        raise InvalidInputError("As of: that is no day.", "Write it as 2027-01-31, or leave it empty.") from None


def _runs(
    request: Request,
    services: Services,
    administrator: Identity,
    error: AllocationsError | None = None,
    sent: Sent | None = None,
) -> Response:
    typed = {name: sent.text(name) if sent else "" for name in FIELDS}
    return page(
        request,
        "admin_purges.html",
        error=error,
        runs=services.purges.runs(administrator.actor),
        stopped=services.purges.stopped(),
        classes=[one for one in services.policy.storage.classes if StorageClass(one.name) in PURGED],
        typed=typed,
        key=new_key(),
    )


def _run(
    request: Request,
    services: Services,
    administrator: Identity,
    run_id: str,
    error: AllocationsError | None = None,
    action: str = "",
    why: str = "",
) -> Response:
    view = services.purges.run(administrator.actor, run_id)
    purges = services.purge_reports.of_run(view.purges)
    return page(
        request,
        "admin_purge.html",
        error=error,
        run=view.run,
        awaits=view.awaits,
        is_planning=any(one.state is PurgeState.PLANNING for one in view.purges),
        purges=purges[:PURGES_SHOWN],
        count=len(purges),
        by_rule=_by_rule(purges),
        by_owner=_by_owner(purges),
        deleted_files=sum(one.deleted_files for one in purges),
        deleted_bytes=sum(one.deleted_bytes for one in purges),
        ceiling=services.policy.storage.purge.ceiling,
        stopped=services.purges.stopped(),
        why=lambda of_action: why if of_action == action else "",
    )


def _by_rule(purges: Iterable[PurgeInfo]) -> list[RuleAmountView]:
    files, count, ages = Counter[str](), Counter[str](), {}
    for one in (one for purge in purges for one in purge.by_rule):
        files[one.name] += one.files
        count[one.name] += one.bytes
        ages[one.name] = one.age_days
    return [
        RuleAmountView(name=name, files=files[name], bytes=amount, age_days=ages[name])
        for name, amount in count.most_common()
    ]


def _by_owner(purges: Iterable[PurgeInfo]) -> list[AmountView]:
    files, count = Counter[str](), Counter[str]()
    for one in (one for purge in purges for one in purge.by_owner):
        files[one.name] += one.files
        count[one.name] += one.bytes
    return [AmountView(name=name, files=files[name], bytes=amount) for name, amount in count.most_common(PURGES_SHOWN)]
