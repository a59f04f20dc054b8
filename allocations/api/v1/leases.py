"""Leases: held, started, renewed and settled by the hub's spawner and by the batch process, on behalf of people."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from allocations.api.metrics import count_admission
from allocations.api.v1.common import Body, IdempotencyHeader, LeaseHolder, Reader, Wired, example, to_ms
from allocations.db.idempotency import IdempotencyKey
from allocations.errors import AllocationsError
from allocations.leases.models import LeaseKind, LeaseRequest, LeaseState
from allocations.leases.views import LeaseView, StartOptions, View

log = logging.getLogger(__name__)
router = APIRouter(tags=["leases"])
PAGE_MAX = 500


class AcquireBody(Body):
    """What a server needs. Batch leases are held by the queue of runs, not through here."""

    model_config = example(allocation="a-12345678", person="ann", size="small", image="base")

    allocation: str
    person: str
    kind: Literal["interactive"] = "interactive"
    size: str
    image: str | None = None
    server_name: str = ""


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


@router.get("/start-options")
def start_options(person: str, services: Wired, _caller: LeaseHolder) -> StartOptions:
    """Everything that a person may start now, and why not the rest."""
    return services.offers.start_options(person)


@router.post("/leases", status_code=201)
def acquire(body: AcquireBody, services: Wired, caller: LeaseHolder, idempotency_key: IdempotencyHeader) -> LeaseView:
    """Hold what a server needs for its first quantum, before it is created."""
    key = IdempotencyKey.for_request(caller.name, idempotency_key, "acquire", body.model_dump())
    request = LeaseRequest(
        allocation=body.allocation,
        person=body.person,
        kind=LeaseKind(body.kind),
        size=body.size,
        image=body.image,
        server_name=body.server_name,
    )
    fields = {"person": body.person, "allocation": body.allocation}
    try:
        lease = services.leases.acquire(request, key)
    except AllocationsError as error:
        count_admission(error.code)
        log.info("server denied", extra=fields | {"code": error.code})
        raise
    count_admission("admitted")
    log.info("server admitted", extra=fields | {"lease": lease.id})
    return lease


@router.post("/leases/{lease_id}/start")
def start(lease_id: str, body: StartBody, services: Wired, _caller: LeaseHolder) -> LeaseView:
    """The server runs: charging starts."""
    return services.leases.start(lease_id, to_ms(body.started_at))


@router.post("/leases/{lease_id}/renew")
def renew(lease_id: str, body: RenewBody, services: Wired, _caller: LeaseHolder) -> LeaseView:
    """Charge what was used and hold ahead by one quantum."""
    return services.leases.renew(lease_id, to_ms(body.seen_at))


@router.post("/leases/{lease_id}/settle")
def settle(lease_id: str, body: SettleBody, services: Wired, _caller: LeaseHolder) -> LeaseView:
    """The server has stopped: charge to the second and free the rest."""
    lease = services.leases.settle(lease_id, to_ms(body.ended_at))
    log.info("server settled", extra={"person": lease.person, "allocation": lease.allocation, "lease": lease.id})
    return lease


@router.post("/leases/{lease_id}/void")
def void(lease_id: str, services: Wired, _caller: LeaseHolder) -> LeaseView:
    """The server never ran: nothing is charged."""
    lease = services.leases.void(lease_id)
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


@router.get("/leases/{lease_id}")
def get(lease_id: str, services: Wired, caller: Reader) -> LeaseView:
    """A lease of the caller's own, or of an allocation that the caller leads or manages."""
    return services.reports.lease(caller.actor, lease_id)
