"""Leases: held, started, renewed and settled by the hub's spawner and by the batch process, on behalf of people."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field, model_validator

from allocations.api.direct import DirectRoute
from allocations.api.identity import Identity
from allocations.api.metrics import count_admission
from allocations.api.v1.common import (
    Body,
    IdempotencyHeader,
    LeaseHolder,
    OptionalIdempotencyHeader,
    Reader,
    Wired,
    example,
    to_ms,
)
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import AllocationsError
from allocations.leases.models import LeaseKind, LeaseRequest, LeaseState
from allocations.leases.views import LeaseView, OpenLeaseView, OutlookView, StartOptions, View
from allocations.policy.models import Size

log = logging.getLogger(__name__)
router = APIRouter(tags=["leases"], route_class=DirectRoute)
PAGE_MAX = 500
OPEN_PAGE_MAX = 5000
RESOURCE_MAX = 10_000
SECONDS_MAX = 366 * 86_400
CUSTOM = "custom"


class ResourcesBody(Body):
    """Resources that no size of the policy has; priced by the same list, within the same largest."""

    cores: Annotated[int, Field(gt=0, le=RESOURCE_MAX)]
    memory_gib: Annotated[int, Field(gt=0, le=RESOURCE_MAX)]
    gpus: Annotated[int, Field(ge=0, le=RESOURCE_MAX)] = 0
    gpu_type: str | None = None

    @model_validator(mode="after")
    def _gpu_type_goes_with_gpus(self) -> ResourcesBody:
        if (self.gpus > 0) != (self.gpu_type is not None):
            raise ValueError("gpus and gpu_type go together: give both or neither")
        return self


class AcquireBody(Body):
    """What a server or a job needs: a size of the policy, or resources of its own; a job also its maximum time."""

    model_config = example(allocation="a-12345678", person="ann", size="small", image="base")

    allocation: str
    person: str
    kind: LeaseKind = LeaseKind.INTERACTIVE
    size: str | None = None
    resources: ResourcesBody | None = None
    image: str | None = None
    server_name: str = ""
    max_seconds: Annotated[int | None, Field(gt=0, le=SECONDS_MAX)] = None

    @model_validator(mode="after")
    def _is_whole(self) -> AcquireBody:
        if (self.size is None) == (self.resources is None):
            raise ValueError("give either size or resources")
        if (self.kind is LeaseKind.BATCH) != (self.max_seconds is not None):
            raise ValueError("max_seconds goes with kind batch")
        return self

    @property
    def wanted(self) -> str | Size:
        """The name of a size, or one made of the resources."""
        if self.resources is None:
            assert self.size is not None  # one of the two is given
            return self.size
        return Size(name=CUSTOM, title="Custom", **self.resources.model_dump())


class StartBody(Body):
    """When the server began to run, if known."""

    model_config = example(started_at="2027-01-15T08:00:00Z")

    started_at: datetime | None = None


class SettleBody(Body):
    """When the server stopped, if known."""

    model_config = example(ended_at="2027-01-15T09:30:00Z")

    ended_at: datetime | None = None


class RenewBody(Body):
    """When the server was last seen running, if not now."""

    model_config = example(seen_at="2027-01-15T08:14:30Z")

    seen_at: datetime | None = None


class LeaseList(View):
    """Leases, newest first; `next_before` continues, None at the end."""

    leases: list[LeaseView]
    next_before: str | None


class OpenLeaseList(View):
    """Open leases by their ids; `next_after` continues, None at the end."""

    leases: list[OpenLeaseView]
    next_after: str | None


@router.get("/start-options")
def start_options(person: str, services: Wired, _caller: LeaseHolder) -> StartOptions:
    """Everything that a person may start now, and why not the rest."""
    return services.offers.start_options(person)


@router.post("/leases", status_code=201)
async def acquire(
    body: AcquireBody, services: Wired, caller: LeaseHolder, idempotency_key: IdempotencyHeader
) -> LeaseView:
    """Hold what a server needs for its first quantum, before it is created."""
    key = IdempotencyKey.for_request(caller.name, idempotency_key, "acquire", body.model_dump(mode="json"))
    request = LeaseRequest(
        allocation=body.allocation,
        person=body.person,
        kind=body.kind,
        size=body.wanted,
        image=body.image,
        server_name=body.server_name,
        max_seconds=body.max_seconds,
    )
    fields = {"person": body.person, "allocation": body.allocation}
    try:
        # No thread waits: simultaneous requests gather, and are decided together.
        lease = await asyncio.wrap_future(services.leases.submit(request, key))
    except AllocationsError as error:
        count_admission(error.code)
        log.info("server denied", extra=fields | {"code": error.code})
        raise
    count_admission("admitted")
    log.info("server admitted", extra=fields | {"lease": lease.id})
    return lease


@router.post("/leases/{lease_id}/start")
def start(
    lease_id: str,
    body: StartBody,
    services: Wired,
    caller: LeaseHolder,
    idempotency_key: OptionalIdempotencyHeader = None,
) -> LeaseView:
    """The server runs: charging starts."""
    return services.leases.start(
        lease_id, to_ms(body.started_at), _key(caller, idempotency_key, "start", lease_id, body)
    )


@router.post("/leases/{lease_id}/renew")
def renew(
    lease_id: str,
    body: RenewBody,
    services: Wired,
    caller: LeaseHolder,
    idempotency_key: OptionalIdempotencyHeader = None,
) -> LeaseView:
    """Charge what was used and hold ahead by one quantum."""
    return services.leases.renew(lease_id, to_ms(body.seen_at), _key(caller, idempotency_key, "renew", lease_id, body))


@router.post("/leases/{lease_id}/settle")
def settle(
    lease_id: str,
    body: SettleBody,
    services: Wired,
    caller: LeaseHolder,
    idempotency_key: OptionalIdempotencyHeader = None,
) -> LeaseView:
    """The server has stopped: charge to the second and free the rest."""
    lease = services.leases.settle(
        lease_id, to_ms(body.ended_at), _key(caller, idempotency_key, "settle", lease_id, body)
    )
    log.info("server settled", extra={"person": lease.person, "allocation": lease.allocation, "lease": lease.id})
    return lease


@router.post("/leases/{lease_id}/void")
def void(
    lease_id: str, services: Wired, caller: LeaseHolder, idempotency_key: OptionalIdempotencyHeader = None
) -> LeaseView:
    """The server never ran: nothing is charged."""
    lease = services.leases.void(lease_id, _key(caller, idempotency_key, "void", lease_id))
    log.info("server voided", extra={"person": lease.person, "allocation": lease.allocation, "lease": lease.id})
    return lease


@router.get("/leases")
def own_leases(
    services: Wired,
    caller: Reader,
    state: LeaseState | None = None,
    allocation: str | None = None,
    kind: LeaseKind | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
    before: Annotated[str | None, Query(description="Continue after this lease: the `next_before` of a page")] = None,
) -> LeaseList:
    """The caller's leases, newest first, all or those that a filter lets through."""
    leases = services.reports.leases_of(
        caller.name, limit, before_id=before, state=state, allocation_id=allocation, kind=kind
    )
    return LeaseList(leases=leases, next_before=leases[-1].id if len(leases) == limit else None)


@router.get("/leases/open")
def open_leases(
    services: Wired,
    _caller: LeaseHolder,
    kind: LeaseKind | None = None,
    limit: Annotated[int, Query(ge=1, le=OPEN_PAGE_MAX)] = OPEN_PAGE_MAX,
    after: Annotated[str, Query(description="Continue after this lease: the `next_after` of a page")] = "",
) -> OpenLeaseList:
    """Everybody's open leases, to be compared with what runs. One that is open throughout is on one of the pages."""
    leases = services.leases.open_page(limit, after_id=after, kind=kind)
    return OpenLeaseList(leases=leases, next_after=leases[-1].id if len(leases) == limit else None)


@router.get("/leases/{lease_id}/outlook")
def outlook(lease_id: str, services: Wired, _caller: LeaseHolder) -> OutlookView:
    """How long a running server can go on, and what ends it then."""
    return services.sessions.outlook(lease_id)


@router.post("/leases/{lease_id}/extend")
def extend(lease_id: str, services: Wired, _caller: LeaseHolder) -> OutlookView:
    """Let a running server count as used now, and last as long as one that starts now."""
    return services.sessions.extend(lease_id)


@router.get("/leases/{lease_id}")
def get(lease_id: str, services: Wired, caller: Reader) -> LeaseView:
    """A lease of the caller's own, or of an allocation that the caller leads or manages."""
    return services.reports.lease(caller.actor, lease_id)


def _key(
    caller: Identity, idempotency_key: str | None, operation: str, lease_id: str, body: Body | None = None
) -> IdempotencyKey | None:
    """Return the key of what is done to a lease; None without one: then the lease's state alone makes it once."""
    if idempotency_key is None:
        return None
    sent = body.model_dump(mode="json") if body else {}
    return IdempotencyKey.for_request(caller.name, idempotency_key, operation, {"lease": lease_id, **sent})
