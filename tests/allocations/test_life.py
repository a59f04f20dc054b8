"""The states of an allocation: by the calendar and by people, over a whole tree, told and audited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.db.schema import notices, people
from allocations.errors import (
    AgreementRequiredError,
    InvalidInputError,
    NotAllowedError,
    TransitionError,
)
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import ALLOCATION_TRANSITIONS, AllocationAction, AllocationState, MemberRole
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
DAY = 86_400
LEAD, ADMIN = Actor("lead"), Actor("admin", reviewer=True, admin=True)


def pass_days(bench: Bench, days: float) -> None:
    bench.clock.pass_seconds(days * DAY)
    bench.services.lifecycle.advance()


def state_of(bench: Bench, allocation: str) -> AllocationState:
    with bench.services.database.read() as connection:
        return bench.services.lifecycle.authority.find(connection, allocation).state


def told(bench: Bench, person: str, subject: str) -> list[str]:
    with bench.services.database.read() as connection:
        rows = connection.execute(
            select(notices.c.kind)
            .where(notices.c.person == person, notices.c.subject == subject)
            .order_by(notices.c.id)
        )
        return list(rows.scalars())


def divided(bench: Bench) -> tuple[str, str]:
    root = bench.consortium()
    child = bench.services.tree.divide(
        LEAD, root, name="Group", microcredits=CREDIT, guaranteed=True, lead="lead", idempotency_key="k"
    )
    join(bench.services.members, LEAD, child, "bob", MemberRole.LEAD)
    return root, child


def test_nothing_leads_out_of_closed() -> None:
    assert set(ALLOCATION_TRANSITIONS) == set(AllocationAction)
    assert not any(AllocationState.CLOSED in transition.sources for transition in ALLOCATION_TRANSITIONS.values())


def test_the_calendar_ends_archives_and_closes_a_tree_and_says_so_once(bench: Bench) -> None:
    root, child = divided(bench)
    seen = []
    for days in (306, 60, 90, 363, 2):
        pass_days(bench, days)
        bench.services.lifecycle.advance()
        assert state_of(bench, root) is state_of(bench, child)
        seen.append(state_of(bench, root).value)
    assert seen == ["expiring", "grace", "archived", "archived", "closed"]
    assert told(bench, "bob", child) == ["ended", "archived", "closed"]


def test_a_suspended_allocation_resumes_where_the_calendar_is(bench: Bench) -> None:
    root, _ = divided(bench)
    bench.services.lifecycle.suspend(ADMIN, root, "misuse")
    pass_days(bench, 366)
    assert state_of(bench, root) is AllocationState.SUSPENDED
    bench.services.lifecycle.resume(ADMIN, root, "a mistake")
    assert state_of(bench, root) is AllocationState.GRACE
    assert told(bench, "lead", root) == ["suspended", "resumed"]
    last = bench.services.reports.audit_log(subject=root)[0]
    assert (last.action, last.why) == ("allocation.resume", "a mistake")
    assert (last.details["before"], last.details["after"]) == ("suspended", "grace")


def test_an_administrator_archives_early_and_the_calendar_does_not_bring_it_back(bench: Bench) -> None:
    root, child = divided(bench)
    with pytest.raises(NotAllowedError):
        bench.services.lifecycle.archive(LEAD, root, "done")
    bench.services.lifecycle.archive(ADMIN, root, "done")
    pass_days(bench, 1)
    assert state_of(bench, root) is state_of(bench, child) is AllocationState.ARCHIVED


def test_closing_takes_the_subtree_along(bench: Bench) -> None:
    root, child = divided(bench)
    with pytest.raises(NotAllowedError):
        bench.services.lifecycle.close(LEAD, root, "done")
    with pytest.raises(NotAllowedError):
        bench.services.lifecycle.close(Actor("bob"), child, "done")
    with pytest.raises(InvalidInputError):
        bench.services.lifecycle.close(LEAD, child, " ")
    bench.services.lifecycle.close(LEAD, child, "the group has left")
    assert (state_of(bench, root), state_of(bench, child)) == (AllocationState.ACTIVE, AllocationState.CLOSED)
    bench.services.lifecycle.close(ADMIN, root, "done")
    with pytest.raises(TransitionError):
        bench.services.lifecycle.close(ADMIN, root, "done")
    with pytest.raises(TransitionError):
        bench.services.lifecycle.resume(ADMIN, root, "again")


def test_an_acceptance_counts_for_a_year(bench: Bench) -> None:
    entry = bench.accept("ann")
    pass_days(bench, 364)
    assert bench.services.offers.start_options("ann").agreement.accepted
    assert state_of(bench, entry) is AllocationState.EXPIRING
    pass_days(bench, 1)
    assert not bench.services.offers.start_options("ann").agreement.accepted
    with pytest.raises(AgreementRequiredError, match="365 days"):
        bench.acquire(entry)
    for _ in range(2):
        assert bench.accept("ann") == entry
    assert state_of(bench, entry) is AllocationState.ACTIVE
    bench.acquire(entry)
    with bench.services.database.read() as connection:
        ends_at_ms = bench.services.lifecycle.authority.find(connection, entry).ends_at_ms
        assert connection.execute(select(people.c.name)).scalars().all() == ["ann"]
    assert ends_at_ms == bench.clock.at_ms + 365 * DAY * 1000


def test_accepting_again_before_the_end_prolongs_the_entry_allocation_once(bench: Bench) -> None:
    entry = bench.accept("ann")
    pass_days(bench, 340)
    for _ in range(2):
        bench.accept("ann")
        pass_days(bench, 1)
    with bench.services.database.read() as connection:
        ends_at_ms = bench.services.lifecycle.authority.find(connection, entry).ends_at_ms
    assert ends_at_ms == bench.clock.at_ms + (365 - 2) * DAY * 1000
    pass_days(bench, 5 * 365)
    assert state_of(bench, entry) is AllocationState.ARCHIVED
    bench.accept("ann")
    assert state_of(bench, entry) is AllocationState.ACTIVE
