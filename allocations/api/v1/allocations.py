"""Allocations: balances, the tree and its division, the agreement."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from allocations.api.v1.awards import Hours
from allocations.api.v1.common import (
    Body,
    OptionalIdempotencyHeader,
    Reader,
    Requester,
    Why,
    Wired,
    example,
)
from allocations.leases.views import AgreementView, View
from allocations.reports.allocations import AllocationDetail, AllocationView

router = APIRouter(tags=["allocations"])
Microcredits = Annotated[int, Field(gt=0, le=10**15, description="Whole microcredits: 1 credit is 1,000,000")]


class AllocationList(View):
    """Allocations, oldest first."""

    allocations: list[AllocationView]


class DivideBody(Body):
    """A sub-allocation: guaranteed shares stay within the parent, capped ones may be overcommitted.

    Hours, where given, limit it in those units too.
    """

    model_config = example(name="Lensing group", microcredits=500_000_000, guaranteed=True, lead="bob", gpu_hours=50)

    name: str
    microcredits: Microcredits
    guaranteed: bool = True
    lead: str
    gpu_hours: Hours | None = None
    core_hours: Hours | None = None


class ShareBody(Body):
    """A sub-allocation's new limit."""

    model_config = example(microcredits=750_000_000)

    microcredits: Microcredits


class MoveBody(Body):
    """The other part of the same allocation that gets it, and how much."""

    model_config = example(to="a-87654321", microcredits=250_000_000)

    to: str
    microcredits: Microcredits


class AcceptBody(Body):
    """The version that was read."""

    model_config = example(version="2026-07-01")

    version: str


class AgreementText(AgreementView):
    """The agreement in force, as Markdown."""

    text: str


@router.get("/agreement")
def agreement(services: Wired, caller: Reader) -> AgreementText:
    """The agreement in force and whether the caller accepted it."""
    view = services.offers.agreement(caller.name)
    return AgreementText(**view.model_dump(), text=services.policy.agreement.text)


@router.post("/agreement")
def accept_agreement(body: AcceptBody, services: Wired, caller: Requester) -> AllocationList:
    """Accept the agreement in force; the first time, an entry allocation is opened."""
    services.agreements.accept(caller.name, body.version)
    return AllocationList(allocations=services.reports.allocations_of(caller.name))


@router.get("/allocations")
def own_allocations(services: Wired, caller: Reader) -> AllocationList:
    """The allocations that the caller is a member of."""
    return AllocationList(allocations=services.reports.allocations_of(caller.name))


@router.get("/allocations/{allocation_id}")
def get(allocation_id: str, services: Wired, caller: Reader) -> AllocationDetail:
    """An allocation with its tree, members, what runs and the latest charges."""
    return services.reports.allocation(caller.actor, allocation_id)


@router.post("/allocations/{allocation_id}/suballocations", status_code=201)
def divide(
    allocation_id: str,
    body: DivideBody,
    services: Wired,
    caller: Requester,
    idempotency_key: OptionalIdempotencyHeader = None,
) -> AllocationDetail:
    """Open a sub-allocation; leads and managers only."""
    child = services.tree.divide(
        caller.actor,
        allocation_id,
        name=body.name,
        microcredits=body.microcredits,
        guaranteed=body.guaranteed,
        lead=body.lead,
        gpu_hours=body.gpu_hours,
        core_hours=body.core_hours,
        idempotency_key=idempotency_key,
    )
    return services.reports.allocation(caller.actor, child)


@router.patch("/allocations/{allocation_id}")
def change_share(allocation_id: str, body: ShareBody, services: Wired, caller: Requester) -> AllocationDetail:
    """Set a sub-allocation's limit; leads and managers of its parent only."""
    services.tree.change_share(caller.actor, allocation_id, body.microcredits)
    return services.reports.allocation(caller.actor, allocation_id)


@router.post("/allocations/{allocation_id}/move")
def move(
    allocation_id: str,
    body: MoveBody,
    services: Wired,
    caller: Requester,
    idempotency_key: OptionalIdempotencyHeader = None,
) -> AllocationDetail:
    """Move budget to another part of the same allocation; leads and managers of that one only."""
    services.tree.move(caller.actor, allocation_id, body.to, body.microcredits, idempotency_key)
    return services.reports.allocation(caller.actor, allocation_id)


@router.delete("/allocations/{allocation_id}")
def close(
    allocation_id: str,
    why: Why,
    services: Wired,
    caller: Requester,
    idempotency_key: OptionalIdempotencyHeader = None,
) -> AllocationDetail:
    """Close a sub-allocation and all below it, for good; leads and managers of its parent only."""
    services.tree.close(caller.actor, allocation_id, why, idempotency_key)
    return services.reports.allocation(caller.actor, allocation_id)
