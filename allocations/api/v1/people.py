"""Who people are: told by the hub when they sign in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from allocations.api.v1.common import Body, Registrar, Wired, example
from allocations.leases.views import View
from allocations.lifecycle.models import Person

router = APIRouter(tags=["people"])
Text = Annotated[str, Field(min_length=1, max_length=255)]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class PersonBody(Body):
    """What a provider says of a person. `adopt`: take over a name whose owner was never identified."""

    model_config = example(
        issuer="https://sign-in.example.org",
        subject="0000-0002-1825-0097",
        email="ann@example.org",
        institution="Example University",
        country="US",
    )

    issuer: Text
    subject: Text
    adopt: bool = False
    email: Text | None = None
    full_name: Text | None = None
    institution: Text | None = None
    country: Text | None = None


class PersonView(View):
    """The name that the person has here."""

    name: str


@router.put("/people/{person}")
def register(person: Name, body: PersonBody, services: Wired, _caller: Registrar) -> PersonView:
    """Record a person, and answer with their name here, which is another than the proposed one if they have one."""
    fields = body.model_dump(exclude={"adopt"})
    return PersonView(name=services.people.register(Person(name=person, **fields), adopt=body.adopt).name)
