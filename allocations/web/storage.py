"""A person's storage: each area with its use, limit, state, trend and cost, what is purged when, and exemptions."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.clock import MS_PER_DAY, MS_PER_SECOND, from_datetime
from allocations.errors import AllocationsError, InvalidInputError, NotFoundError
from allocations.storage.models import StorageClass
from allocations.storage.purge.models import OVER_STATES, ExemptionState
from allocations.web.forms import to_whole
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs
from allocations.web.storage_figures import Meter, Trend, is_stale
from allocations.web.storage_paths import to_path

if TYPE_CHECKING:
    from allocations.factory import Services
    from allocations.reports.storage_views import AreaView
    from allocations.storage.scratch import ScratchLeaseView

router = APIRouter(prefix="/storage")
Reader = Annotated[Identity, Depends(page_needs(Scope.READ))]
RequesterForm = Annotated[Sent, Depends(form_needs(Scope.REQUEST))]
FIELDS = ("folder", "until", "reason")
AGE_FIELDS = ("age_days", "age_until", "age_reason")
# What a form proposes at first.
EXEMPT_DAYS = 90
EXTEND_DAYS = 30


@router.get("")
def show_storage(request: Request, services: Wired, reader: Reader) -> Response:
    """Show all areas of a person."""
    areas = services.storage_reports.areas_of(reader.name)
    trends = services.storage_reports.trends(areas)
    now_ms = services.clock.now_ms()
    return page(
        request,
        "storage.html",
        areas=areas,
        meters={area.id: Meter.of(area) for area in areas},
        trends={area.id: Trend.of(trends[area.id].days, area.limit_bytes, now_ms) for area in areas},
        stale={area.id for area in areas if is_stale(area, now_ms)},
        purges=services.purge_reports.under_way(reader.name),
    )


@router.get("/areas/{area_id}")
def show_area(request: Request, area_id: str, services: Wired, reader: Reader, folder: str = "") -> Response:
    """Show an area to those who may see it; `folder` begins the request for an exemption."""
    return _area(request, services, reader, area_id, {"folder": folder.replace("\0", "")})


@router.post("/areas/{area_id}/exemptions")
def ask_exemption(request: Request, area_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Ask that a folder is left alone until a day."""
    try:
        days = _days_until(services, sent.text("until"), "Until")
        folder = to_path(sent.text("folder"), "Folder or file")
        services.exemptions.ask(sent.identity.actor, area_id, folder, days, sent.text("reason"), sent.key() or None)
    except NotFoundError:
        raise
    except AllocationsError as error:
        typed = {name: sent.text(name) for name in FIELDS}
        return _area(request, services, sent.identity, area_id, typed, error)
    return see(request, f"/storage/areas/{area_id}", "exemption")


@router.post("/areas/{area_id}/exemptions/{exemption_id}/end")
def end_exemption(request: Request, area_id: str, exemption_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Take back a request for an exemption, or one that was granted."""
    if all(one.id != exemption_id for one in services.exemptions.of_area(sent.identity.actor, area_id)):
        raise NotFoundError("There is no such exemption.", "Choose one from the list.")
    try:
        services.exemptions.end(sent.identity.actor, exemption_id, sent.text("why"))
    except NotFoundError:
        raise
    except AllocationsError as error:
        return _area(request, services, sent.identity, area_id, {}, error)
    return see(request, f"/storage/areas/{area_id}", "exemption-ended")


@router.post("/areas/{area_id}/age")
def extend_age(request: Request, area_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Let the files of an allocation's scratch become older, until a day."""
    allocation = services.scratch_leases.allocation_of(sent.identity.actor, area_id)
    try:
        days = _days_until(services, sent.text("age_until"), "Until")
        age_days = to_whole(sent.text("age_days"), "Days")
        reason, key = sent.text("age_reason"), sent.key() or None
        services.scratch_leases.extend(sent.identity.actor, allocation, age_days, days, reason, key)
    except NotFoundError:
        raise
    except AllocationsError as error:
        typed = {name: sent.text(name) for name in AGE_FIELDS}
        return _area(request, services, sent.identity, area_id, typed, error)
    return see(request, f"/storage/areas/{area_id}", "age-extended")


@router.post("/areas/{area_id}/age/end")
def end_extended_age(request: Request, area_id: str, services: Wired, sent: RequesterForm) -> Response:
    """Let files go at their usual age again."""
    allocation = services.scratch_leases.allocation_of(sent.identity.actor, area_id)
    try:
        services.scratch_leases.end(sent.identity.actor, allocation, sent.text("why"))
    except NotFoundError:
        raise
    except AllocationsError as error:
        return _area(request, services, sent.identity, area_id, {}, error)
    return see(request, f"/storage/areas/{area_id}", "age-usual")


@router.get("/purges/{purge_id}")
def find_purge(request: Request, purge_id: str, services: Wired, reader: Reader) -> Response:
    """Go on to what a purge is about, as notices lead there."""
    area_id = services.purges.purge(reader.actor, purge_id).area.id
    return RedirectResponse(f"{request.app.state.prefix}/storage/areas/{area_id}#purge", 303)


@router.get("/restores/{restore_id}")
def find_restore(request: Request, restore_id: str, services: Wired, reader: Reader) -> Response:
    """Go on to where the state of a restore stands."""
    area_id = services.archives.area_of_restore(reader.actor, restore_id)
    return RedirectResponse(f"{request.app.state.prefix}/storage/areas/{area_id}#restores", 303)


@router.get("/exemptions/{exemption_id}")
def find_exemption(request: Request, exemption_id: str, services: Wired, reader: Reader) -> Response:
    """Go on to what an exemption is about."""
    area_id = services.exemptions.get(reader.actor, exemption_id).area_id
    return RedirectResponse(f"{request.app.state.prefix}/storage/areas/{area_id}#exemptions", 303)


def _area(
    request: Request,
    services: Services,
    reader: Identity,
    area_id: str,
    typed: dict[str, str],
    error: AllocationsError | None = None,
) -> Response:
    area = services.storage_reports.area(reader.actor, area_id)
    days = services.storage_reports.trend(reader.actor, area_id).days
    purges = services.purge_reports.of_area(reader.actor, area_id)
    under_way = next((one for one in purges if one.state not in OVER_STATES), None)
    now_ms = services.clock.now_ms()
    longest = services.policy.storage.purge.exempt_days_max
    today = datetime.fromtimestamp(now_ms / MS_PER_SECOND, tz=UTC).date()
    age = _age(services, reader, area)
    longest_age = (age.longest_days if age else None) or 0
    first = {"folder": "", "until": str(today + timedelta(days=min(EXEMPT_DAYS, longest))), "reason": ""}
    first |= {
        "age_days": str(longest_age),
        "age_until": str(today + timedelta(days=min(EXTEND_DAYS, longest_age))),
        "age_reason": "",
    }
    return page(
        request,
        "storage_area.html",
        error=error,
        area=area,
        meter=Meter.of(area),
        trend=Trend.of(days, area.limit_bytes, now_ms),
        days=days[::-1],
        is_stale=is_stale(area, now_ms),
        purge=under_way,
        # Most runs find nothing in an area, which nobody was told of.
        earlier=[one for one in purges if one is not under_way and (one.files or one.folders)],
        may_ask=reader.has(Scope.REQUEST) and _manages(services, reader, area),
        is_purged=any(rule.storage == area.storage_class for rule in services.policy.storage.rules),
        exemptions=services.exemptions.of_area(reader.actor, area_id),
        open_exemptions={ExemptionState.ASKED, ExemptionState.GRANTED},
        typed=first | {name: value for name, value in typed.items() if value},
        earliest=today + timedelta(days=1),
        latest=today + timedelta(days=longest),
        age=age,
        age_key=new_key(),
        age_latest=today + timedelta(days=longest_age),
        archives=services.restores.archives_of(reader.actor, area_id),
        restores=services.restores.asked_of(reader.actor, area_id),
        key=new_key(),
    )


def _age(services: Services, reader: Identity, area: AreaView) -> ScratchLeaseView | None:
    """Return the age at which files of an allocation's scratch go, None for other areas."""
    if area.allocation is None or area.storage_class is not StorageClass.SCRATCH:
        return None
    return services.scratch_leases.of_allocation(reader.actor, area.allocation)


def _manages(services: Services, reader: Identity, area: AreaView) -> bool:
    """Say whether somebody who sees an area may ask for something about it."""
    if area.allocation is None:
        return True
    with services.database.read() as connection:
        return services.purges.authority.manages(connection, reader.actor, area.allocation)


def _days_until(services: Services, text: str, field: str) -> int:
    """Return the days from now to the end of a day, both in UTC, a begun one counted as whole."""
    try:
        day = date.fromisoformat(text)
        end_ms = from_datetime(datetime(day.year, day.month, day.day, tzinfo=UTC))
    except (ValueError, OverflowError):
        raise InvalidInputError(f"{field}: that is no day.", "Write it as 2027-01-31.") from None
    return -((services.clock.now_ms() - end_ms) // MS_PER_DAY)
