"""Starts and ends of leases that are reported after the worker has guessed them, or while it does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from allocations.clock import to_rfc3339
from allocations.errors import (
    LeaseEndedError,
    TransitionError,
)
from allocations.leases.models import Ending, EndReason, LeaseKind, LeaseState
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

SMALL = 13  # microcredits a second: 1 core at 9, 4 GiB at 1
QUANTUM = 900
CREDIT = 1_000_000


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
    assert bench.gone(lease.id).charged_microcredits == SMALL * 100
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
    assert bench.gone(lease.id).charged_microcredits == SMALL * 1400
    settled = bench.services.leases.settle(lease.id, start_ms + 100_000)
    assert (settled.end_reason, settled.charged_microcredits) == ("stopped", SMALL * 100)
    assert bench.services.reports.allocations_of("ann")[0].posted_microcredits == SMALL * 100
    assert sum(charge.amount for charge in bench.services.reports.overview("ann").charges) == SMALL * 100
    bench.assert_clean()


def test_a_report_that_says_no_time_corrects_no_guess(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(100)
    guessed = bench.gone(lease.id)
    bench.clock.pass_seconds(500)
    assert bench.services.leases.settle(lease.id) == guessed
    assert bench.services.leases.expire(lease.id) == guessed
    assert bench.gone(lease.id) == guessed
    with pytest.raises(LeaseEndedError):
        bench.services.leases.renew(lease.id)
    assert bench.services.leases.settle(lease.id, bench.clock.at_ms).charged_microcredits == SMALL * 600
    bench.assert_clean()


@pytest.mark.parametrize("is_expired", [False, True])
def test_a_start_and_an_end_that_come_after_the_worker_voided_are_charged(bench: Bench, *, is_expired: bool) -> None:
    """Nothing of the server had been reported; even its start comes after the guess."""
    lease = bench.acquire(bench.accept("ann"))
    bench.clock.pass_seconds(30)
    voided = bench.services.leases.expire(lease.id) if is_expired else bench.gone(lease.id)
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
    bench.gone(lease.id)
    assert bench.services.leases.settle(lease.id, bench.clock.at_ms).charged_microcredits == SMALL * 60
    bench.assert_clean()


def test_a_void_that_is_reported_after_the_worker_voided_is_the_last_word(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.gone(lease.id)
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
    guessed = bench.gone(lease.id)
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
        bench.gone(lease.id)
        bench.clock.pass_seconds(4 * 86_400)
        settled = bench.services.leases.settle(lease.id, start_ms + ended_ms)
        assert settled.charged_microcredits == SMALL * due
    bench.assert_clean()


def test_a_late_end_is_charged_as_far_as_the_balance_goes(bench: Bench) -> None:
    entry = bench.accept("ann")
    lease = bench.acquire(entry)
    start_ms = bench.clock.at_ms
    bench.services.leases.start(lease.id)
    bench.gone(lease.id)
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
        bench.gone(lease)
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
