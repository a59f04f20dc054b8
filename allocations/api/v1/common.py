"""What every handler of the API takes: the services, the caller by scope, the idempotency key."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict

from allocations.api.identity import Identity, Scope, needs
from allocations.clock import from_datetime
from allocations.factory import Services


class Body(BaseModel):
    """The base of request bodies: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def example(**fields: Any) -> ConfigDict:
    """Return the part of a body's model that publishes an example of it."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


async def services(request: Request) -> Services:
    """Return the application's services.

    Asynchronous, though it waits for nothing: FastAPI would take a thread for it, on every request.
    """
    wired: Services = request.app.state.services
    return wired


Wired = Annotated[Services, Depends(services)]
Reader = Annotated[Identity, Depends(needs(Scope.READ))]
Requester = Annotated[Identity, Depends(needs(Scope.REQUEST))]
Reviewer = Annotated[Identity, Depends(needs(Scope.REVIEW))]
Administrator = Annotated[Identity, Depends(needs(Scope.ADMIN))]
LeaseHolder = Annotated[Identity, Depends(needs(Scope.LEASE))]
Registrar = Annotated[Identity, Depends(needs(Scope.PEOPLE))]
Runner = Annotated[Identity, Depends(needs(Scope.RUN))]
IdempotencyHeader = Annotated[
    str, Header(alias="Idempotency-Key", description="A new random key for each new request; repeat it to retry")
]
Why = Annotated[str, Query(description="The reason, kept in the audit log")]
OptionalIdempotencyHeader = Annotated[str | None, Header(alias="Idempotency-Key")]


def to_ms(moment: datetime | None) -> int | None:
    """Return milliseconds since the epoch, or None."""
    return None if moment is None else from_datetime(moment)
