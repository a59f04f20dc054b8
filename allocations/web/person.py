"""The administrators' pages of people: finding somebody, what they have, suspending them and lifting that again.

An administrator looks at a person here, and never acts as one.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.clock import SECONDS_PER_DAY
from allocations.errors import AllocationsError, InvalidInputError
from allocations.lifecycle.models import RequestState
from allocations.lifecycle.suspensions import GRACE_SECONDS_MAX
from allocations.reports.people import PEOPLE_PAGE
from allocations.runs.models import ENDED_STATES
from allocations.web.audit import ENTRY_ID_MAX
from allocations.web.formats import SECONDS_PER_MINUTE
from allocations.web.forms import to_whole_between
from allocations.web.render import page, see_of
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter(prefix="/admin/people")
Administrator = Annotated[Identity, Depends(page_needs(Scope.ADMIN))]
AdministratorForm = Annotated[Sent, Depends(form_needs(Scope.ADMIN))]
LATEST = 20
OPEN_LEASES_MAX = 100


@router.get("")
def show_people(
    request: Request,
    services: Wired,
    administrator: Administrator,
    find: str = "",
    only: str = "",
    start: Annotated[int, Query(ge=0, le=ENTRY_ID_MAX)] = 0,
) -> Response:
    """Show everybody who was ever here, or those of whom something contains what is looked for."""
    wanted = find.replace("\0", "").strip()
    suspended = only == "suspended"
    people, count = services.reports.find_people(administrator.actor, wanted, start, suspended=suspended)
    return page(
        request,
        "people.html",
        people=people,
        count=count,
        find=wanted,
        suspended=suspended,
        start=start,
        size=PEOPLE_PAGE,
    )


@router.get("/person")
def show_person(request: Request, services: Wired, administrator: Administrator, name: str = "") -> Response:
    """Show who somebody is, what they have and run, and the form that suspends them or lifts that."""
    return _person(request, services, administrator, name.replace("\0", ""))


@router.post("/suspend")
def suspend(request: Request, services: Wired, sent: AdministratorForm) -> Response:
    """Suspend a person, who reads the reason."""
    name = sent.text("name")
    try:
        minutes = to_whole_between(sent.text("minutes"), "Minutes", 0, GRACE_SECONDS_MAX // SECONDS_PER_MINUTE)
        if minutes is None:
            raise InvalidInputError("Minutes: nothing is entered.", "Enter 0 to stop at once what runs.")
        services.suspensions.suspend(sent.identity.actor, name, sent.text("why"), minutes * SECONDS_PER_MINUTE)
    except AllocationsError as error:
        return _person(request, services, sent.identity, name, error, sent)
    return see_of(request, "/admin/people/person", "person-suspended", name=name)


@router.post("/resume")
def resume(request: Request, services: Wired, sent: AdministratorForm) -> Response:
    """Lift a person's suspension."""
    name = sent.text("name")
    try:
        services.suspensions.lift(sent.identity.actor, name, sent.text("why"))
    except AllocationsError as error:
        return _person(request, services, sent.identity, name, error, sent)
    return see_of(request, "/admin/people/person", "person-resumed", name=name)


def _person(
    request: Request,
    services: Wired,
    administrator: Identity,
    name: str,
    error: AllocationsError | None = None,
    sent: Sent | None = None,
) -> Response:
    person = services.reports.person(administrator.actor, name)
    runs = services.runs.list_of(name, LATEST)
    grace = services.policy.leases.allocation_end_grace_seconds // SECONDS_PER_MINUTE
    return page(
        request,
        "person.html",
        error=error,
        person=person,
        is_oneself=name == administrator.name,
        allocations=services.reports.allocations_of(name),
        # A draft is its writer's alone.
        requests=[one for one in services.reports.requests_of(name) if one.state is not RequestState.DRAFT][:LATEST],
        leases=services.reports.leases_of(name, OPEN_LEASES_MAX, state="open"),
        runs=runs,
        ended_states=ENDED_STATES,
        overrides=services.reports.overrides_for(administrator.actor, name),
        days_max=GRACE_SECONDS_MAX // SECONDS_PER_DAY,
        why=sent.text("why") if sent is not None else "",
        minutes=sent.text("minutes") if sent is not None else grace,
    )
