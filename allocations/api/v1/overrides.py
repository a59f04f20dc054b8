"""Overrides: exceptions from the limits of a person or an allocation, for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from allocations.api.v1.awards import OverrideLimitsBody
from allocations.api.v1.common import Administrator, Body, OptionalIdempotencyHeader, Why, Wired, example
from allocations.clock import to_rfc3339
from allocations.leases.views import View
from allocations.lifecycle.models import Override, OverrideLimits, OverrideSubject
from allocations.lifecycle.overrides import DAYS_MAX

router = APIRouter(tags=["overrides"])


class OverrideBody(Body):
    """Whom it is for (a person's name, or an allocation's id), what it sets, why, and for how many days."""

    model_config = example(
        subject_kind="person",
        subject="ann",
        limits={"cores": 8, "longest_session_seconds": 172_800},
        reason="The workshop of 15 January needs larger servers.",
        days=7,
    )

    subject_kind: OverrideSubject
    subject: str
    limits: OverrideLimitsBody
    reason: str
    days: Annotated[int, Field(ge=1, le=DAYS_MAX)]


class OverrideView(View):
    """An override, and who revoked it if it ended before its time."""

    id: str
    subject_kind: OverrideSubject
    subject: str
    limits: OverrideLimits
    reason: str
    author: str
    created_at: str
    ends_at: str
    revoked_at: str | None
    revoked_by: str | None

    @classmethod
    def from_override(cls, override: Override) -> OverrideView:
        """Show an override."""
        return cls(
            id=override.id,
            subject_kind=override.subject_kind,
            subject=override.subject,
            limits=override.limits,
            reason=override.reason,
            author=override.author,
            created_at=to_rfc3339(override.created_at_ms),
            ends_at=to_rfc3339(override.ends_at_ms),
            revoked_at=None if override.revoked_at_ms is None else to_rfc3339(override.revoked_at_ms),
            revoked_by=override.revoked_by,
        )


class OverrideList(View):
    """Overrides in force, oldest first."""

    overrides: list[OverrideView]


@router.get("/overrides")
def in_force(services: Wired, caller: Administrator) -> OverrideList:
    """Every override in force, oldest first."""
    return OverrideList(
        overrides=[OverrideView.from_override(override) for override in services.overrides.in_force(caller.actor)]
    )


@router.post("/overrides", status_code=201)
def grant(
    body: OverrideBody, services: Wired, caller: Administrator, idempotency_key: OptionalIdempotencyHeader = None
) -> OverrideView:
    """Set limits of a person, or of an allocation and all below it, for some days."""
    return OverrideView.from_override(
        services.overrides.grant(
            caller.actor,
            body.subject_kind,
            body.subject,
            body.limits.limits,
            body.reason,
            body.days,
            idempotency_key,
        )
    )


@router.delete("/overrides/{override_id}")
def revoke(override_id: str, why: Why, services: Wired, caller: Administrator) -> OverrideView:
    """End an override now."""
    return OverrideView.from_override(services.overrides.revoke(caller.actor, override_id, why))
