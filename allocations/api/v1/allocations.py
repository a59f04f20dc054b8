"""Allocations: balances, the tree and its division, members, the agreement, the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from allocations.api.v1.common import Administrator, Body, OptionalIdempotencyHeader, Reader, Requester, Wired, example
from allocations.leases.views import AgreementView, View
from allocations.lifecycle.models import MemberRole
from allocations.reports import AllocationDetail, AllocationView, AuditEntryView

router = APIRouter(tags=["allocations"])
Microcredits = Annotated[int, Field(gt=0, le=10**15, description="Whole microcredits: 1 credit is 1,000,000")]


class AllocationList(View):
    """Allocations, oldest first."""

    allocations: list[AllocationView]


class DivideBody(Body):
    """A sub-allocation: guaranteed shares stay within the parent, capped ones may be overcommitted."""

    model_config = example(name="Lensing group", microcredits=500_000_000, guaranteed=True, lead="bob")

    name: str
    microcredits: Microcredits
    guaranteed: bool = True
    lead: str


class ShareBody(Body):
    """A sub-allocation's new limit."""

    model_config = example(microcredits=750_000_000)

    microcredits: Microcredits


class MemberBody(Body):
    """A person and the role."""

    model_config = example(person="bob", role="manager")

    person: str
    role: MemberRole = MemberRole.MEMBER


class AcceptBody(Body):
    """The version that was read."""

    model_config = example(version="2026-07-01")

    version: str


class AgreementText(AgreementView):
    """The agreement in force, as Markdown."""

    text: str


class AuditPage(View):
    """Entries, newest first; `next_before` continues, None at the end."""

    entries: list[AuditEntryView]
    next_before: int | None


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
    services.reports.require_visible(caller.actor, allocation_id)
    child = services.tree.divide(
        caller.actor,
        allocation_id,
        name=body.name,
        microcredits=body.microcredits,
        guaranteed=body.guaranteed,
        lead=body.lead,
        idempotency_key=idempotency_key,
    )
    return services.reports.allocation(caller.actor, child)


@router.patch("/allocations/{allocation_id}")
def change_share(allocation_id: str, body: ShareBody, services: Wired, caller: Requester) -> AllocationDetail:
    """Set a sub-allocation's limit; leads and managers of its parent only."""
    services.reports.require_visible(caller.actor, allocation_id)
    services.tree.change_share(caller.actor, allocation_id, body.microcredits)
    return services.reports.allocation(caller.actor, allocation_id)


@router.post("/allocations/{allocation_id}/members", status_code=201)
def add_member(allocation_id: str, body: MemberBody, services: Wired, caller: Requester) -> AllocationDetail:
    """Add a person, or change a member's role; leads and managers only."""
    services.reports.require_visible(caller.actor, allocation_id)
    services.members.add(caller.actor, allocation_id, body.person, body.role)
    return services.reports.allocation(caller.actor, allocation_id)


@router.delete("/allocations/{allocation_id}/members/{person}")
def remove_member(allocation_id: str, person: str, services: Wired, caller: Requester) -> AllocationDetail:
    """Remove a person; leads and managers only."""
    services.reports.require_visible(caller.actor, allocation_id)
    services.members.remove(caller.actor, allocation_id, person)
    return services.reports.allocation(caller.actor, allocation_id)


@router.get("/audit")
def audit_log(
    services: Wired,
    _caller: Administrator,
    before: Annotated[int | None, Query(ge=0, lt=2**63, description="Continue after this entry")] = None,
    subject: Annotated[str | None, Query(description="Only what concerns this id")] = None,
) -> AuditPage:
    """The audit log, newest first."""
    entries = services.reports.audit_log(before_id=before, subject=subject)
    return AuditPage(entries=entries, next_before=entries[-1].id if entries else None)
