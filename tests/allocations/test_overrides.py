"""Overrides: expiring, attributed and audited exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.db.schema import notices
from allocations.errors import (
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    TransitionError,
    UnknownAllocationError,
)
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, OverrideLimits, OverrideSubject
from allocations.outbox import NoticeKind
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

DAY = 86_400
ADMIN = Actor("admin", admin=True)
MORE = OverrideLimits(cores=128)
PERSON, ALLOCATION = OverrideSubject.PERSON, OverrideSubject.ALLOCATION


def test_an_override_is_granted_by_administrators_with_a_reason_and_an_end(bench: Bench) -> None:
    overrides = bench.services.overrides
    with pytest.raises(NotAllowedError):
        overrides.grant(Actor("ann"), PERSON, "ann", MORE, "I want it", 7)
    with pytest.raises(InvalidInputError):
        overrides.grant(ADMIN, PERSON, "ann", MORE, " ", 7)
    for days in (0, 91):
        with pytest.raises(InvalidInputError, match="90 days"):
            overrides.grant(ADMIN, PERSON, "ann", MORE, "a deadline", days)
    with pytest.raises(InvalidInputError, match="at least one"):
        overrides.grant(ADMIN, PERSON, "ann", OverrideLimits(), "a deadline", 7)
    with pytest.raises(UnknownAllocationError):
        overrides.grant(ADMIN, ALLOCATION, "ann", MORE, "a deadline", 7)
    granted = overrides.grant(ADMIN, PERSON, "ann", MORE, "a deadline", 7)
    assert overrides.in_force(ADMIN) == [granted]
    entry = bench.services.reports.audit_log(subject=granted.id)[0]
    assert (entry.action, entry.actor, entry.why) == ("override.grant", "admin", "a deadline")
    bench.clock.pass_seconds(7 * DAY)
    assert overrides.in_force(ADMIN) == []
    with pytest.raises(TransitionError):
        overrides.revoke(ADMIN, granted.id, "late")


def test_an_override_is_revoked_once(bench: Bench) -> None:
    overrides = bench.services.overrides
    granted = overrides.grant(ADMIN, PERSON, "ann", MORE, "a deadline", 7)
    with pytest.raises(NotAllowedError):
        overrides.revoke(Actor("ann"), granted.id, "no more")
    assert overrides.revoke(ADMIN, granted.id, "no more").revoked_by == "admin"
    with pytest.raises(TransitionError):
        overrides.revoke(ADMIN, granted.id, "no more")
    with pytest.raises(NotFoundError):
        overrides.revoke(ADMIN, "o-none", "no more")
    with pytest.raises(NotAllowedError):
        overrides.in_force(Actor("ann"))
    assert overrides.in_force(ADMIN) == []


def test_leads_and_managers_are_told_of_their_allocations_override(bench: Bench) -> None:
    root = bench.consortium()
    join(bench.services.members, Actor("lead"), root, "ann", MemberRole.MEMBER)
    bench.services.overrides.grant(ADMIN, ALLOCATION, root, MORE, "a deadline", 7)
    bench.services.overrides.grant(ADMIN, PERSON, "bob", MORE, "a deadline", 7)
    with bench.services.database.read() as connection:
        told = select(notices.c.person).where(notices.c.kind == NoticeKind.OVERRIDE_GRANTED).order_by(notices.c.id)
        assert list(connection.execute(told).scalars()) == ["lead", "bob"]
