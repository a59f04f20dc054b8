"""The administrators' page of overrides: what is in force, granting another, ending one early."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError, InvalidInputError
from allocations.lifecycle.models import OverrideLimits, OverrideSubject
from allocations.lifecycle.overrides import DAYS_MAX
from allocations.policy.models import Shape
from allocations.web.formats import SECONDS_PER_HOUR
from allocations.web.forms import to_whole, to_whole_between
from allocations.web.render import new_key, page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter(prefix="/admin/overrides")
Administrator = Annotated[Identity, Depends(page_needs(Scope.ADMIN))]
AdministratorForm = Annotated[Sent, Depends(form_needs(Scope.ADMIN))]
NUMBER_MAX = 1_000_000
HOURS_MAX = 8_760
FIELDS = (
    "kind",
    "subject",
    "servers_per_person",
    "cores",
    "gpus",
    "largest_cores",
    "largest_memory_gib",
    "largest_gpus",
    "idle_hours",
    "longest_session_hours",
    "reason",
    "days",
)


@router.get("")
def show_overrides(
    request: Request, services: Wired, administrator: Administrator, kind: str = "person", subject: str = ""
) -> Response:
    """Show every override in force, and the form for another, for somebody or something when that is said."""
    typed = dict.fromkeys(FIELDS, "") | {"kind": kind, "subject": subject.replace("\0", "")}
    return _overrides(request, services, administrator, typed)


@router.post("")
def grant(request: Request, services: Wired, sent: AdministratorForm) -> Response:
    """Grant an override for some days."""
    try:
        kind = sent.text("kind")
        if kind not in set(OverrideSubject):
            raise InvalidInputError("It is not said whom it is for.", "Choose a person or an allocation.")
        services.overrides.grant(
            sent.identity.actor,
            OverrideSubject(kind),
            sent.text("subject").strip(),
            _limits(sent),
            sent.text("reason"),
            to_whole(sent.text("days"), "Days"),
            idempotency_key=sent.key() or None,
        )
    except AllocationsError as error:
        typed = {name: sent.text(name) for name in FIELDS}
        return _overrides(request, services, sent.identity, typed, error)
    return see(request, "/admin/overrides", "granted")


@router.post("/{override_id}/end")
def end(request: Request, override_id: str, services: Wired, sent: AdministratorForm) -> Response:
    """End an override before its time."""
    try:
        services.overrides.revoke(sent.identity.actor, override_id, sent.text("why"))
    except AllocationsError as error:
        return _overrides(request, services, sent.identity, dict.fromkeys(FIELDS, ""), error)
    return see(request, "/admin/overrides", "ended")


def _limits(sent: Sent) -> OverrideLimits:
    def number(name: str, field: str, least: int = 0) -> int | None:
        return to_whole_between(sent.text(name), field, least, NUMBER_MAX)

    def seconds(name: str, field: str) -> int | None:
        hours = to_whole_between(sent.text(name), field, 1, HOURS_MAX)
        return None if hours is None else hours * SECONDS_PER_HOUR

    cores = number("largest_cores", "Cores of the largest server", 1)
    memory_gib = number("largest_memory_gib", "Memory of the largest server", 1)
    gpus = number("largest_gpus", "GPUs of the largest server")
    if (cores is None) != (memory_gib is None) or (cores is None and gpus is not None):
        raise InvalidInputError("A largest server has cores and memory.", "Enter both, or leave all three empty.")
    largest = None
    if cores is not None and memory_gib is not None:
        largest = (Shape(cores=cores, memory_gib=memory_gib, gpus=gpus or 0),)
    return OverrideLimits(
        servers_per_person=number("servers_per_person", "Servers of a person"),
        cores=number("cores", "Cores"),
        gpus=number("gpus", "GPUs"),
        largest=largest,
        idle_seconds=seconds("idle_hours", "Idle hours"),
        longest_session_seconds=seconds("longest_session_hours", "Longest session"),
    )


def _overrides(
    request: Request,
    services: Wired,
    administrator: Identity,
    typed: dict[str, str],
    error: AllocationsError | None = None,
) -> Response:
    overrides = services.overrides.in_force(administrator.actor)
    return page(
        request,
        "overrides.html",
        error=error,
        overrides=overrides,
        names=services.reports.names(
            one.subject for one in overrides if one.subject_kind is OverrideSubject.ALLOCATION
        ),
        typed=typed,
        days_max=DAYS_MAX,
        key=new_key(),
    )
