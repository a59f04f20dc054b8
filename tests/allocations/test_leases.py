"""Leases: what is held, what is charged, to the second, however it ends."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from allocations.errors import (
    AgreementRequiredError,
    AllocationNotActiveError,
    AllocationsError,
    AtOnceLimitError,
    IdempotencyConflictError,
    InsufficientBalanceError,
    LeaseEndedError,
    NotAMemberError,
    SizeNotAllowedError,
    TransitionError,
    UnknownAllocationError,
    UnknownSizeError,
)
from allocations.ledger.models import Transaction, TransactionKind, Unit
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from tests.places import join

if TYPE_CHECKING:
    from allocations.leases.views import LeaseView
    from tests.allocations.conftest import Bench

SMALL = 13  # microcredits a second: 1 core at 9, 4 GiB at 1
QUANTUM = 900
CREDIT = 1_000_000


def test_a_lease_holds_a_quantum_and_is_settled_to_the_second(bench: Bench) -> None:
    entry = bench.accept("ann")
    lease = bench.acquire(entry)
    assert (lease.held_microcredits, lease.charged_microcredits) == (SMALL * QUANTUM, 0)
    bench.clock.pass_seconds(5)
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(100.9)
    settled = bench.services.leases.settle(lease.id)
    assert (settled.state, settled.held_microcredits, settled.charged_microcredits) == ("settled", 0, SMALL * 100)
    view = bench.services.reports.allocations_of("ann")[0]
    assert (view.held_microcredits, view.posted_microcredits) == (0, SMALL * 100)
    bench.assert_clean()


def test_nothing_is_charged_before_it_runs_and_a_void_is_free(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.clock.pass_seconds(60)
    assert bench.services.leases.void(lease.id).charged_microcredits == 0
    assert bench.services.reports.allocations_of("ann")[0].available_microcredits == 30 * CREDIT
    bench.assert_clean()


def test_a_started_lease_is_not_voided(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    with pytest.raises(TransitionError):
        bench.services.leases.void(lease.id)


def test_a_stop_without_a_reported_start_is_charged_from_the_hold(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.clock.pass_seconds(30)
    assert bench.services.leases.settle(lease.id).charged_microcredits == SMALL * 30
    bench.assert_clean()


def test_a_lease_ends_once(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(10)
    first = bench.services.leases.settle(lease.id)
    bench.clock.pass_seconds(500)
    assert bench.services.leases.settle(lease.id) == first
    assert bench.services.leases.expire(lease.id) == first
    assert bench.services.leases.void(lease.id) == first
    with pytest.raises(LeaseEndedError):
        bench.services.leases.renew(lease.id)
    bench.assert_clean()


def test_renewal_charges_what_was_used_and_holds_a_quantum_ahead(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(700)
    renewed = bench.services.leases.renew(lease.id)
    assert renewed.charged_microcredits == SMALL * 700
    assert renewed.held_microcredits == SMALL * QUANTUM
    assert not renewed.final
    bench.clock.pass_seconds(50)
    assert bench.services.leases.settle(lease.id).charged_microcredits == SMALL * 750
    bench.assert_clean()


def test_a_late_renewal_loses_no_charge(bench: Bench) -> None:
    """The worker was away for three hours while the server ran on."""
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(3 * 3600)
    bench.services.leases.renew(lease.id)
    bench.clock.pass_seconds(60)
    assert bench.services.leases.settle(lease.id).charged_microcredits == SMALL * (3 * 3600 + 60)
    bench.assert_clean()


def test_a_late_stop_is_charged_in_full_and_one_in_the_past_to_its_time(bench: Bench) -> None:
    entry = bench.accept("ann")
    for end, due in ((None, 2000), (1500, 1500)):
        lease = bench.acquire(entry)
        start_ms = bench.clock.at_ms
        bench.services.leases.start(lease.id)
        bench.clock.pass_seconds(2000)
        settled = bench.services.leases.settle(lease.id, None if end is None else start_ms + end * 1000)
        assert settled.charged_microcredits == SMALL * due
        bench.assert_clean()


def test_times_that_are_reported_count_between_the_lease_and_now(bench: Bench) -> None:
    """INVARIANT 8: a clock elsewhere that is ahead, or behind, neither charges more nor less than what can be."""
    entry = bench.accept("ann")
    hour_ms = 3_600_000
    for started, ended, due in (
        (hour_ms, hour_ms, 100),  # both in the future: from the report of the start to the one of the stop
        (-hour_ms, 0, 150),  # before the lease: from its acquisition
        (0, -hour_ms, 0),  # a stop before everything
    ):
        lease = bench.acquire(entry)
        bench.clock.pass_seconds(50)
        bench.services.leases.start(lease.id, bench.clock.at_ms + started)
        bench.clock.pass_seconds(100)
        settled = bench.services.leases.settle(lease.id, bench.clock.at_ms + ended)
        assert settled.charged_microcredits == SMALL * due
    bench.assert_clean()


def test_a_stop_before_the_last_renewal_is_refunded(bench: Bench) -> None:
    """The server died at 100 s; the renewals at 700 s and 1,400 s still took it for running."""
    lease = bench.acquire(bench.accept("ann"))
    start_ms = bench.clock.at_ms
    bench.services.leases.start(lease.id)
    for _ in range(2):
        bench.clock.pass_seconds(700)
        bench.services.leases.renew(lease.id)
    settled = bench.services.leases.settle(lease.id, start_ms + 100_000)
    assert settled.charged_microcredits == SMALL * 100
    assert bench.services.reports.allocations_of("ann")[0].posted_microcredits == SMALL * 100
    charges = bench.services.reports.overview("ann").charges
    assert sum(charge.amount for charge in charges) == SMALL * 100
    assert sum(charge.quantities["core_seconds"] for charge in charges) == 100
    bench.assert_clean()


def test_renewal_charges_only_up_to_the_last_look(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    start_ms = bench.clock.at_ms
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(700)
    renewed = bench.services.leases.renew(lease.id, start_ms + 600_000)
    assert renewed.charged_microcredits == SMALL * 600
    assert renewed.held_microcredits == SMALL * (QUANTUM + 100)
    bench.assert_clean()


def test_the_last_credits_are_held_to_the_second_and_the_lease_is_final(bench: Bench) -> None:
    entry = bench.accept("ann")
    with bench.services.database.write() as connection:
        bench.services.lifecycle.change_limit(
            connection, entry, -30 * CREDIT + SMALL * 1000, "t", TransactionKind.GRANT, "lowered"
        )
    lease = bench.acquire(entry)
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(700)
    renewed = bench.services.leases.renew(lease.id)
    assert renewed.final
    assert renewed.held_microcredits == SMALL * 300
    bench.clock.pass_seconds(400)
    assert bench.services.leases.expire(lease.id).charged_microcredits == SMALL * 1000
    with pytest.raises(InsufficientBalanceError):
        bench.acquire(entry)
    bench.assert_clean()


def test_a_session_ends_at_the_tiers_longest(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    for _ in range(200):
        bench.clock.pass_seconds(600)
        renewed = bench.services.leases.renew(lease.id)
    assert renewed.final
    assert renewed.ends_at <= renewed.latest_end_at
    assert bench.services.leases.settle(lease.id).charged_microcredits == SMALL * 86_400
    bench.assert_clean()


def test_same_key_and_request_same_answer_another_request_a_conflict(bench: Bench) -> None:
    entry = bench.accept("ann")
    request = bench.request(entry)
    first = bench.services.leases.acquire(request, bench.key({"size": "small"}, "once"))
    bench.clock.pass_seconds(20)
    assert bench.services.leases.acquire(request, bench.key({"size": "small"}, "once")) == first
    with pytest.raises(IdempotencyConflictError):
        bench.services.leases.acquire(request, bench.key({"size": "standard"}, "once"))
    assert bench.services.reports.allocations_of("ann")[0].held_microcredits == first.held_microcredits


def test_simultaneous_requests_with_one_key_get_one_lease_and_one_answer(bench: Bench) -> None:
    entry = bench.accept("ann")
    request, key = bench.request(entry), bench.key({"size": "small"}, "once")
    answers: list[LeaseView] = []
    barrier = threading.Barrier(6)

    def race() -> None:
        barrier.wait()
        answers.append(bench.services.leases.acquire(request, key))

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert len({answer.id for answer in answers}) == 1
    bench.assert_clean()


def test_admission_says_why_not(bench: Bench) -> None:
    entry = bench.accept("ann")
    others = bench.accept("bob")
    cases: list[tuple[str, str, str, type[AllocationsError]]] = [
        (entry, "eve", "small", AgreementRequiredError),
        (others, "ann", "small", NotAMemberError),
        ("a-nothing", "ann", "small", UnknownAllocationError),
        (entry, "ann", "xlarge", SizeNotAllowedError),
        (entry, "ann", "gpu", SizeNotAllowedError),
        (entry, "ann", "enormous", UnknownSizeError),
    ]
    for allocation, person, size, error in cases:
        with pytest.raises(error) as raised:
            bench.acquire(allocation, person, size)
        assert raised.value.detail
        assert raised.value.remedy
    assert bench.services.reports.allocations_of("ann")[0].held_microcredits == 0


def test_what_runs_at_once_is_limited(bench: Bench) -> None:
    entry = bench.accept("ann")
    first = bench.acquire(entry)
    with pytest.raises(AtOnceLimitError):
        bench.acquire(entry, server="second")
    bench.services.leases.void(first.id)
    bench.acquire(entry, server="second")
    bench.assert_clean()


def test_a_suspended_allocation_is_neither_started_on_nor_renewed(bench: Bench) -> None:
    entry = bench.accept("ann")
    lease = bench.acquire(entry)
    bench.services.leases.start(lease.id)
    bench.services.lifecycle.suspend(Actor("admin", admin=True), entry, "looks like misuse")
    with pytest.raises(AllocationNotActiveError):
        bench.acquire(entry, server="second")
    bench.clock.pass_seconds(700)
    assert bench.services.leases.renew(lease.id).final
    assert bench.services.leases.renew(lease.id).ends_at == lease.ends_at


def test_who_is_no_longer_a_member_is_not_renewed(bench: Bench) -> None:
    root = bench.consortium()
    bench.accept("ann")
    join(bench.services.members, Actor("lead"), root, "ann", MemberRole.MEMBER)
    lease = bench.acquire(root, "ann")
    bench.services.leases.start(lease.id)
    bench.services.members.remove(Actor("lead"), root, "ann")
    bench.clock.pass_seconds(700)
    renewed = bench.services.leases.renew(lease.id)
    assert (renewed.final, renewed.ends_at) == (True, bench.services.leases.get(lease.id).ends_at)
    assert bench.services.leases.expire(lease.id).charged_microcredits == SMALL * QUANTUM
    bench.assert_clean()


def test_a_suspended_parent_stops_the_renewal_of_its_sub_allocations(bench: Bench) -> None:
    root = bench.consortium()
    child = bench.services.tree.divide(
        Actor("lead"), root, name="Group", microcredits=CREDIT, guaranteed=True, lead="lead"
    )
    lease = bench.acquire(child, "lead")
    bench.services.leases.start(lease.id)
    bench.services.lifecycle.suspend(Actor("admin", admin=True), root, "looks like misuse")
    bench.clock.pass_seconds(700)
    assert bench.services.leases.renew(lease.id).final


def test_every_charge_counts_at_each_ancestor_and_the_stricter_limit_binds(bench: Bench) -> None:
    root = bench.consortium(credits=10)
    lead = Actor("lead")
    services = bench.services
    capped = [
        services.tree.divide(lead, root, name=f"Group {n}", microcredits=7 * CREDIT, guaranteed=False, lead="lead")
        for n in (1, 2)
    ]
    for child in capped:
        join(services.members, lead, child, "ann", MemberRole.MEMBER)
    bench.accept("ann")
    lease = bench.acquire(capped[0], "ann", "compute")
    held = lease.held_microcredits
    by_id = {view.id: view for view in services.reports.find_allocations("")[0]}
    assert [by_id[node].held_microcredits for node in (root, *capped)] == [held, held, 0]
    services.leases.start(lease.id)
    for _ in range(30):
        bench.clock.pass_seconds(600)
        services.leases.renew(lease.id)
    settled = services.leases.settle(lease.id)
    assert settled.charged_microcredits == 18_000 * 352
    # 6.336 of the root's 10 credits are spent, so the second group's own 7 are cut to what the root has left.
    offers = {offer.id: offer for offer in services.offers.start_options("ann").allocations}
    assert offers[capped[1]].available_microcredits == 10 * CREDIT - 18_000 * 352
    bench.assert_clean()


def test_admission_never_overspends_under_concurrency(bench: Bench) -> None:
    """INVARIANT 1: eight threads race for a budget that holds exactly three leases."""
    root = bench.consortium()
    services = bench.services
    people = [f"p{n}" for n in range(8)]
    for person in people:
        bench.accept(person)
        join(services.members, Actor("lead"), root, person, MemberRole.MEMBER)
    with services.database.write() as connection:
        room = SMALL * QUANTUM * 3
        services.lifecycle.change_limit(connection, root, room - 4000 * CREDIT, "t", TransactionKind.GRANT, "lowered")
    outcomes: list[str] = []
    barrier = threading.Barrier(len(people))

    def race(person: str) -> None:
        key = replace(bench.key(), key=person)
        barrier.wait()
        try:
            services.leases.acquire(bench.request(root, person), key)
            outcomes.append("admitted")
        except InsufficientBalanceError:
            outcomes.append("denied")

    threads = [threading.Thread(target=race, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["admitted"] * 3 + ["denied"] * 5
    bench.assert_clean()


def test_at_once_limits_hold_under_concurrency(bench: Bench) -> None:
    """One server a person: eight simultaneous spawns of one person, one is admitted."""
    entry = bench.accept("ann")
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def race(number: int) -> None:
        key = replace(bench.key(), key=f"race-{number}")
        barrier.wait()
        try:
            bench.services.leases.acquire(bench.request(entry, server=f"s{number}"), key)
            outcomes.append("admitted")
        except AtOnceLimitError:
            outcomes.append("denied")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("admitted") == 1
    bench.assert_clean()


def test_the_journal_and_the_audit_log_are_append_only(bench: Bench) -> None:
    bench.acquire(bench.accept("ann"))
    for statement in (
        "UPDATE journal SET amount = 1",
        "DELETE FROM journal",
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
    ):
        with pytest.raises(DBAPIError, match="append-only"), bench.services.database.write() as connection:
            connection.execute(text(statement))


def test_gpu_seconds_are_limited_where_an_award_says_so(bench: Bench) -> None:
    root = bench.consortium()
    services = bench.services
    award = (
        '{"largest": [{"cores": 8, "memory_gib": 32, "gpus": 1}], '
        '"at_once": {"servers_per_person": 2, "cores": 64, "gpus": 1}}'
    )
    ledger = services.lifecycle.ledger
    with services.database.write() as connection:
        services.lifecycle.allocations.change(connection, root, award=award)
        grant = Transaction("tx-1", bench.clock.at_ms, TransactionKind.GRANT, "t", "p")
        ledger.open_account(connection, grant, root, Unit.GPU_SECONDS)
        ledger.change_limit(connection, grant, root, Unit.GPU_SECONDS, 1000)
    first = bench.acquire(root, "lead", "gpu", server="first")
    services.leases.start(first.id)
    bench.gone(first.id)
    bench.clock.pass_seconds(100)
    services.leases.settle(first.id, bench.clock.at_ms)
    with services.database.read() as connection:
        assert ledger.balance(connection, root, Unit.GPU_SECONDS).posted == 100
    with services.database.write() as connection:
        ledger.change_limit(connection, grant, root, Unit.GPU_SECONDS, 100)
    lease = bench.acquire(root, "lead", "gpu")
    services.leases.start(lease.id)
    bench.clock.pass_seconds(700)
    renewed = services.leases.renew(lease.id)
    assert renewed.final  # 300 GPU-seconds are left, the credits would do for much longer
    bench.clock.pass_seconds(300)
    services.leases.settle(lease.id)
    with services.database.read() as connection:
        assert ledger.balance(connection, root, Unit.GPU_SECONDS).posted == 1100
    with pytest.raises(InsufficientBalanceError, match="GPU-hours"):
        bench.acquire(root, "lead", "gpu")
    bench.assert_clean()
