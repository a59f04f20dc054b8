"""What a lead lets a member spend: no hold goes beyond it, whatever the allocation has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.errors import InsufficientBalanceError, InvalidInputError
from allocations.leases.admission import Asked
from allocations.leases.models import Renewal
from allocations.leases.rules import SourceKind
from allocations.ledger.models import Unit
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.runs.models import Outcome
from tests.allocations.test_runs import SMALL, finish, submit
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

LEAD = Actor("lead")
QUANTUM = 900


@pytest.fixture
def root(bench: Bench) -> str:
    made = bench.consortium()
    bench.accept("ann")
    join(bench.services.members, LEAD, made, "ann", MemberRole.MEMBER)
    return made


def cap(bench: Bench, root: str, microcredits: int | None) -> None:
    bench.services.members.change(LEAD, root, "ann", microcredits_max=microcredits)


def test_a_server_starts_within_the_cap_only_and_others_whatever_it_is(bench: Bench, root: str) -> None:
    cap(bench, root, SMALL * QUANTUM)
    held = bench.acquire(root, server="a")
    with pytest.raises(InsufficientBalanceError, match="A lead of this allocation lets you spend"):
        bench.acquire(root, server="b")
    assert bench.acquire(root, "lead").state == "open"
    bench.services.leases.void(held.id)
    assert bench.acquire(root, server="c").state == "open"
    bench.assert_clean()


def test_a_server_is_renewed_as_far_as_the_cap_goes_and_then_stops(bench: Bench, root: str) -> None:
    cap(bench, root, SMALL * (QUANTUM + 100))
    lease = bench.acquire(root)
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(QUANTUM - 10)
    renewed = bench.services.leases.renew(lease.id)
    assert renewed.final
    assert renewed.held_microcredits + renewed.charged_microcredits == SMALL * (QUANTUM + 100)
    cap(bench, root, None)
    assert not bench.services.leases.renew(lease.id).final
    bench.assert_clean()


def test_a_run_waits_for_what_is_held_and_fails_when_all_is_spent(bench: Bench, root: str) -> None:
    cap(bench, root, SMALL * 1000)
    with pytest.raises(InsufficientBalanceError):
        submit(bench, root, max_seconds=1001)
    submit(bench, root, max_seconds=1000)
    (first,) = bench.services.runs.claim("batch", 1)
    second = submit(bench, root, max_seconds=600)
    assert bench.services.runs.claim("batch", 1) == []
    assert bench.services.runs.get("ann", second.id).state == "queued"
    bench.clock.pass_seconds(500)
    finish(bench, first, Outcome.SUCCEEDED, ran=500)
    assert bench.services.runs.claim("batch", 1) == []
    ended = bench.services.runs.get("ann", second.id)
    assert (ended.state, "lets you spend" in (ended.error.message if ended.error else "")) == ("failed", True)
    third = submit(bench, root, max_seconds=500)
    assert [run.id for run in bench.services.runs.claim("batch", 1)] == [third.id]


def test_two_in_one_transaction_count_on_the_same_cap_once(bench: Bench, root: str) -> None:
    cap(bench, root, SMALL * QUANTUM)
    asked = [Asked(bench.request(root, server=name), "spawner") for name in ("a", "b")]
    with bench.services.database.write() as connection:
        answers = bench.services.leases.admission.decide(connection, asked)
    assert [isinstance(answer, InsufficientBalanceError) for answer in answers] == [False, True]
    bench.assert_clean()


def test_two_renewed_in_one_transaction_count_on_the_same_cap_once(bench: Bench, root: str) -> None:
    leases = [bench.services.leases.start(bench.acquire(root, server=name).id) for name in ("a", "b")]
    cap(bench, root, SMALL * (2 * QUANTUM + 100))
    bench.clock.pass_seconds(QUANTUM)
    with bench.services.database.write() as connection:
        bench.services.leases.accounting.renew(connection, [Renewal(lease.id, None) for lease in leases])
    renewed = [bench.services.leases.get(lease.id) for lease in leases]
    assert sum(one.held_microcredits + one.charged_microcredits for one in renewed) == SMALL * (2 * QUANTUM + 100)
    bench.assert_clean()


def test_the_start_page_and_the_quotas_know_of_it(bench: Bench, root: str) -> None:
    cap(bench, root, SMALL * 3600)
    offer = next(one for one in bench.services.offers.start_options("ann").allocations if one.id == root)
    assert offer.available_microcredits == SMALL * 3600
    assert offer.sizes[0].hours_available == 1
    quotas = next(one for one in bench.services.quotas.of_person("ann").allocations if one.allocation == root)
    budget = next(one for one in quotas.budgets if one.unit is Unit.CREDITS)
    assert (budget.available, budget.source, budget.binds) == (SMALL * 3600, SourceKind.MEMBER, root)
    cap(bench, root, 10**14)
    quotas = next(one for one in bench.services.quotas.of_person("ann").allocations if one.allocation == root)
    assert next(one for one in quotas.budgets if one.unit is Unit.CREDITS).source is SourceKind.AWARD


def test_a_cap_comes_with_an_invitation_and_has_bounds(bench: Bench, root: str) -> None:
    members = bench.services.members
    with pytest.raises(InvalidInputError, match="A cap lies between"):
        members.invite(LEAD, root, "bob", MemberRole.MEMBER, microcredits_max=10**15 + 1)
    offer = members.invite(LEAD, root, "bob", MemberRole.MEMBER, microcredits_max=7)
    members.answer(Actor("bob"), offer.id, accept=True)
    detail = bench.services.reports.allocation(LEAD, root)
    assert {one.person: one.microcredits_max for one in detail.members} == {"lead": None, "ann": None, "bob": 7}
