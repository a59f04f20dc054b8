"""Quotas: every limit that applies to a person now, and why."""

from __future__ import annotations

from fastapi import APIRouter

from allocations.api.identity import Scope
from allocations.api.v1.common import Reader, Wired
from allocations.errors import NotFoundError
from allocations.leases.quotas import Quotas

router = APIRouter(tags=["quotas"])


@router.get("/quotas/{person}")
def quotas(person: str, services: Wired, caller: Reader) -> Quotas:
    """Every limit that applies to a person now, and why: the caller's own, or anybody's for an administrator."""
    if person != caller.name and not caller.has(Scope.ADMIN):
        raise NotFoundError(f"There are no quotas of {person!r} to show.", "Ask for your own.")
    return services.quotas.of_person(person)
