"""Leases: what is held, what is charged, to the second, however it ends."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from allocations.clock import to_rfc3339
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
from allocations.leases.models import Ending, EndReason, LeaseKind, LeaseState
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


def gone(bench: Bench, lease_id: str) -> LeaseView:
    """Let the worker end a lease whose server the hub does not list any more."""
    with bench.services.database.read() as connection:
        lease = bench.services.lease_store.get(connection, lease_id)
    assert lease is not None
    bench.services.leases.end_gone([lease])
    return bench.services.leases.get(lease_id)


def see(bench: Bench, lease_id: str) -> None:
    """Let the worker see a server running."""
    with bench.services.database.write() as connection:
        bench.services.lease_store.mark_seen(connection, [lease_id], bench.clock.at_ms)


def test_a_reported_end_corrects_the_end_that_the_worker_guessed(bench: Bench) -> None:
    """The hub was cut off: last seen at 100 s, the server ran to 2,000 s, beyond what was held."""
    entry = bench.accept("ann")
    lease = bench.acquire(entry)
    start_ms = bench.clock.at_ms
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(100)
    see(bench, lease.id)
    bench.clock.pass_seconds(30)
    assert gone(bench, lease.id).charged_microcredits == SMALL * 100
    # One that begins meanwhile is neither in the way, nor is anything counted at once.
    bench.acquire(entry)
    bench.clock.pass_seconds(5000)
    settled = bench.services.leases.settle(lease.id, start_ms + 2_000_900)
    assert (settled.state, settled.end_reason, settled.held_microcredits) == ("settled", "stopped", 0)
    assert settled.charged_microcredits == SMALL * 2000
    assert settled.ended_at == to_rfc3339(start_ms + 2_000_900)
    bench.clock.pass_seconds(10)
    for ended_at_ms in (start_ms + 2_000_900, start_ms + 3_000_000, start_ms, None):
        assert bench.services.leases.settle(lease.id, ended_at_ms) == settled
    bench.assert_clean()


def test_a_reported_end_before_the_guess_is_refunded(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    start_ms = bench.clock.at_ms
    bench.services.leases.start(lease.id)
    for _ in range(2):
        bench.clock.pass_seconds(700)
        bench.services.leases.renew(lease.id)
        see(bench, lease.id)
    assert gone(bench, lease.id).charged_microcredits == SMALL * 1400
    settled = bench.services.leases.settle(lease.id, start_ms + 100_000)
    assert (settled.end_reason, settled.charged_microcredits) == ("stopped", SMALL * 100)
    assert bench.services.reports.allocations_of("ann")[0].posted_microcredits == SMALL * 100
    assert sum(charge.amount for charge in bench.services.reports.overview("ann").charges) == SMALL * 100
    bench.assert_clean()


def test_a_report_that_says_no_time_corrects_no_guess(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(100)
    guessed = gone(bench, lease.id)
    bench.clock.pass_seconds(500)
    assert bench.services.leases.settle(lease.id) == guessed
    assert bench.services.leases.expire(lease.id) == guessed
    assert gone(bench, lease.id) == guessed
    with pytest.raises(LeaseEndedError):
        bench.services.leases.renew(lease.id)
    assert bench.services.leases.settle(lease.id, bench.clock.at_ms).charged_microcredits == SMALL * 600
    bench.assert_clean()


@pytest.mark.parametrize("is_expired", [False, True])
def test_a_start_and_an_end_that_come_after_the_worker_voided_are_charged(bench: Bench, *, is_expired: bool) -> None:
    """Nothing of the server had been reported; even its start comes after the guess."""
    lease = bench.acquire(bench.accept("ann"))
    bench.clock.pass_seconds(30)
    voided = bench.services.leases.expire(lease.id) if is_expired else gone(bench, lease.id)
    assert (voided.state, voided.end_reason) == ("voided", "no start was reported in time")
    bench.clock.pass_seconds(500)
    start_ms = bench.clock.at_ms - 200_000
    noted = bench.services.leases.start(lease.id, start_ms)
    assert (noted.state, noted.held_microcredits, noted.started_at) == ("voided", 0, to_rfc3339(start_ms))
    assert bench.services.leases.start(lease.id) == noted
    bench.assert_clean()
    with pytest.raises(TransitionError):
        bench.services.leases.void(lease.id)
    settled = bench.services.leases.settle(lease.id, start_ms + 150_000)
    assert (settled.state, settled.end_reason, settled.charged_microcredits) == ("settled", "stopped", SMALL * 150)
    assert bench.services.leases.settle(lease.id, start_ms + 180_000) == settled
    bench.assert_clean()


def test_an_end_without_a_start_after_the_worker_voided_is_charged_from_the_hold(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.clock.pass_seconds(60)
    gone(bench, lease.id)
    assert bench.services.leases.settle(lease.id, bench.clock.at_ms).charged_microcredits == SMALL * 60
    bench.assert_clean()


def test_a_void_that_is_reported_after_the_worker_voided_is_the_last_word(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    gone(bench, lease.id)
    bench.clock.pass_seconds(60)
    voided = bench.services.leases.void(lease.id)
    assert voided.end_reason == "never ran"
    assert bench.services.leases.start(lease.id) == voided
    assert bench.services.leases.settle(lease.id, bench.clock.at_ms) == voided
    bench.assert_clean()


def test_a_void_does_not_take_back_a_start_after_a_guess(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(60)
    guessed = gone(bench, lease.id)
    with pytest.raises(TransitionError):
        bench.services.leases.void(lease.id)
    assert bench.services.leases.get(lease.id) == guessed


def test_a_late_end_is_charged_within_the_tiers_longest_and_not_before_the_hold(bench: Bench) -> None:
    day_ms = 86_400_000
    entry = bench.accept("ann")
    for ended_ms, due in ((-day_ms, 0), (3 * day_ms, 86_400)):
        lease = bench.acquire(entry)
        start_ms = bench.clock.at_ms
        bench.services.leases.start(lease.id)
        gone(bench, lease.id)
        bench.clock.pass_seconds(4 * 86_400)
        settled = bench.services.leases.settle(lease.id, start_ms + ended_ms)
        assert settled.charged_microcredits == SMALL * due
    bench.assert_clean()


def test_a_late_end_is_charged_as_far_as_the_balance_goes(bench: Bench) -> None:
    entry = bench.accept("ann")
    lease = bench.acquire(entry)
    start_ms = bench.clock.at_ms
    bench.services.leases.start(lease.id)
    gone(bench, lease.id)
    with bench.services.database.write() as connection:
        left = SMALL * 1000 + 5
        bench.services.lifecycle.change_limit(
            connection, entry, left - 30 * CREDIT, "t", TransactionKind.GRANT, "lowered"
        )
    bench.clock.pass_seconds(3000)
    settled = bench.services.leases.settle(lease.id, start_ms + 2_000_000)
    assert (settled.end_reason, settled.charged_microcredits) == ("stopped", SMALL * 1000)
    bench.assert_clean()


def test_a_late_end_is_charged_to_who_left_and_to_what_was_suspended_and_at_each_ancestor(bench: Bench) -> None:
    """As an end that comes in time; what was closed has nothing left of which a charge could be taken."""
    root = bench.consortium()
    lead, services = Actor("lead"), bench.services
    bench.accept("ann")
    parts = [
        services.tree.divide(lead, root, name=f"Group {n}", microcredits=CREDIT, guaranteed=True, lead="lead")
        for n in (1, 2)
    ]
    leases = []
    for part in parts:
        join(services.members, lead, part, "ann", MemberRole.MEMBER)
        leases.append(bench.acquire(part, "ann", server=part).id)
        services.leases.start(leases[-1])
    bench.clock.pass_seconds(100)
    for lease in leases:
        see(bench, lease)
        gone(bench, lease)
    services.members.remove(lead, parts[0], "ann")
    services.lifecycle.suspend(Actor("admin", admin=True), parts[0], "looks like misuse")
    services.tree.close(lead, parts[1], "over")
    bench.clock.pass_seconds(200)
    charged = [services.leases.settle(lease, bench.clock.at_ms).charged_microcredits for lease in leases]
    assert charged == [SMALL * 300, SMALL * 100]
    posted = {view.id: view.posted_microcredits for view in services.reports.find_allocations("")[0]}
    assert posted[root] == sum(charged)
    bench.assert_clean()


@pytest.mark.parametrize("is_start_first", [False, True])
def test_a_run_that_was_voided_by_a_guess_is_charged_within_its_maximum(bench: Bench, *, is_start_first: bool) -> None:
    request = replace(bench.request(bench.accept("ann")), kind=LeaseKind.BATCH, max_seconds=600)
    lease = bench.services.leases.acquire(request, bench.key())
    bench.services.leases.expire(lease.id)
    bench.clock.pass_seconds(2000)
    start_ms, end_ms = bench.clock.at_ms - 1500_000, bench.clock.at_ms
    if is_start_first:
        bench.services.leases.start(lease.id, start_ms)
    with bench.services.database.write() as connection:
        bench.services.leases.end_within(
            connection, Ending(lease.id, LeaseState.SETTLED, EndReason.STOPPED, end_ms, start_ms)
        )
    settled = bench.services.leases.get(lease.id)
    assert (settled.started_at, settled.ended_at) == (to_rfc3339(start_ms), to_rfc3339(start_ms + 600_000))
    assert settled.charged_microcredits == SMALL * 600
    bench.assert_clean()


def test_guess_and_report_among_the_same_leases(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.clock.pass_seconds(60)
    with bench.services.database.write() as connection:
        guess = Ending(lease.id, LeaseState.EXPIRED, EndReason.NO_STOP_REPORTED, void_unstarted=True)
        report = Ending(lease.id, LeaseState.SETTLED, EndReason.STOPPED, bench.clock.at_ms, bench.clock.at_ms - 50_000)
        bench.services.leases.accounting.end(connection, [guess, report, guess, report])
    settled = bench.services.leases.get(lease.id)
    assert (settled.end_reason, settled.charged_microcredits) == ("stopped", SMALL * 50)
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
    gone(bench, first.id)
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
