"""Who people are, told by the hub when they sign in; whose account has ended; and who is suspended."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from allocations.api.v1.common import Administrator, Body, Registrar, Wired, example
from allocations.leases.views import View
from allocations.lifecycle.models import Person
from allocations.lifecycle.suspensions import GRACE_SECONDS_MAX
from allocations.reports.people import SuspensionView

router = APIRouter(tags=["people"])
Text = Annotated[str, Field(min_length=1, max_length=255)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
NAMES_PAGE = 1_000


class PersonBody(Body):
    """What a provider says of a person, and the hub's roles of them.

    `adopt`: take over a name whose owner was never identified.
    """

    model_config = example(
        issuer="https://sign-in.example.org",
        subject="0000-0002-1825-0097",
        email="ann@example.org",
        institution="Example University",
        country="US",
        roles=["reviewer"],
    )

    issuer: Text
    subject: Text
    adopt: bool = False
    email: Text | None = None
    full_name: Text | None = None
    institution: Text | None = None
    country: Text | None = None
    roles: Annotated[tuple[Text, ...], Field(max_length=100)] = ()


class PersonView(View):
    """The name that the person has here."""

    name: str


class PeopleList(View):
    """People's names in order; `next_after` continues, None at the end."""

    people: list[str]
    next_after: str | None


class EndedView(View):
    """How many runs are cancelled, those included that the batch process is still to stop."""

    runs: int


class SuspendBody(Body):
    """Why, which the person reads, and for how many seconds what they run may go on."""

    model_config = example(reason="Your token is in a public repository.", grace_seconds=900)

    reason: str
    grace_seconds: Annotated[int, Field(ge=0, le=GRACE_SECONDS_MAX)] = 0


class ResumeBody(Body):
    """Why a suspension is lifted."""

    model_config = example(why="The token is revoked.")

    why: str


@router.get("/people/with-runs")
def people_with_runs(services: Wired, _caller: Registrar, after: str = "") -> PeopleList:
    """Who has batch runs that wait or go on, so that the hub looks whether their accounts still stand."""
    people = services.runs.people_with_runs(after, NAMES_PAGE)
    return PeopleList(people=people, next_after=people[-1] if len(people) == NAMES_PAGE else None)


@router.post("/people/{person}/end-runs")
def end_runs(person: Name, services: Wired, caller: Registrar) -> EndedView:
    """Cancel every batch run of a person whose account has ended; those that run are stopped."""
    return EndedView(runs=services.runs.end_of(person, caller.name))


@router.post("/people/{person}/suspend")
def suspend(person: Name, body: SuspendBody, services: Wired, caller: Administrator) -> SuspensionView:
    """Let a person start nothing until it is lifted, and stop what they run after a grace."""
    found = services.suspensions.suspend(caller.actor, person, body.reason, body.grace_seconds)
    return SuspensionView.from_suspension(found)


@router.post("/people/{person}/resume")
def resume(person: Name, body: ResumeBody, services: Wired, caller: Administrator) -> SuspensionView:
    """Lift a person's suspension."""
    return SuspensionView.from_suspension(services.suspensions.lift(caller.actor, person, body.why))


@router.put("/people/{person}")
def register(person: Name, body: PersonBody, services: Wired, _caller: Registrar) -> PersonView:
    """Record a person, and answer with their name here, which is another than the proposed one if they have one."""
    fields = body.model_dump(exclude={"adopt"})
    return PersonView(name=services.people.register(Person(name=person, **fields), adopt=body.adopt).name)
