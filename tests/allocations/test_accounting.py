"""Many leases are renewed and ended together, each by itself, and whoever meets another waits or passes by."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from allocations.leases import service as lease_service
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from tests.places import join

if TYPE_CHECKING:
    from allocations.leases.models import Lease
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
LEAD = Actor("lead")
SMALL, QUANTUM = 13, 900  # microcredits a second, seconds


def running(bench: Bench, root: str, count: int, prefix: str = "p") -> list[str]:
    """Start servers of people of their own on an allocation, and return the leases."""
    found = []
    for number in range(count):
        person = f"{prefix}{number}"
        bench.accept(person)
        join(bench.services.members, LEAD, root, person, MemberRole.MEMBER)
        found.append(bench.acquire(root, person).id)
        bench.services.leases.start(found[-1])
    return found


def stored(bench: Bench) -> list[Lease]:
    with bench.services.database.read() as connection:
        return bench.services.lease_store.open_leases(connection)


def poor(bench: Bench, root: str, microcredits: int) -> None:
    """Leave an allocation of 4,000 credits with so many microcredits."""
    with bench.services.database.write() as connection:
        bench.services.lifecycle.change_limit(
            connection, root, microcredits - 4000 * CREDIT, "t", TransactionKind.GRANT, "lowered"
        )


def test_leases_of_several_trees_are_renewed_as_each_would_be(bench: Bench) -> None:
    roots = [bench.consortium(), bench.consortium()]
    part = bench.services.tree.divide(LEAD, roots[1], name="Part", microcredits=CREDIT, guaranteed=True, lead="lead")
    leases = [lease for number, node in enumerate([*roots, part]) for lease in running(bench, node, 5, f"p{number}-")]
    bench.clock.pass_seconds(700)
    renewed = bench.services.leases.renew_many(stored(bench))
    assert set(renewed) == set(leases)
    for lease in leases:
        view = bench.services.leases.get(lease)
        # Seen when they started, and not since: nothing is charged, all is held.
        assert (view.charged_microcredits, view.held_microcredits) == (0, SMALL * (700 + QUANTUM))
    bench.assert_clean()
    gone = bench.services.leases.end_gone(stored(bench))
    assert {lease.state for lease in gone.values()} == {"settled"}
    bench.assert_clean()


def test_the_last_credits_go_to_the_oldest_leases_and_the_rest_is_final(bench: Bench) -> None:
    root = bench.consortium()
    leases = running(bench, root, 4)
    poor(bench, root, 4 * SMALL * QUANTUM + SMALL * 1000)
    bench.clock.pass_seconds(700)
    renewed = bench.services.leases.renew_many(stored(bench))
    # 700 more seconds each: one has them all, the next has 300, and two stay as they were.
    assert [renewed[lease].final for lease in leases] == [False, True, True, True]
    beyond = [(renewed[lease].ends_at_ms - bench.clock.at_ms) // 1000 - 200 for lease in leases]
    assert beyond == [700, 300, 0, 0]
    bench.assert_clean()


def test_a_lease_that_fails_stops_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    root = bench.consortium()
    leases = running(bench, root, 5)
    bench.clock.pass_seconds(700)
    accounting = type(bench.services.leases.accounting)
    extend = accounting._extend

    def fail_one(self, books, lease, *args, **kwargs):
        if lease.id == leases[2]:
            raise ValueError("a fault")
        return extend(self, books, lease, *args, **kwargs)

    monkeypatch.setattr(accounting, "_extend", fail_one)
    assert set(bench.services.leases.renew_many(stored(bench))) == set(leases) - {leases[2]}
    monkeypatch.undo()
    assert set(bench.services.leases.renew_many(stored(bench))) == set(leases)
    bench.assert_clean()


def test_killed_between_two_batches_the_rest_is_renewed_by_the_next_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = bench.consortium()
    leases = running(bench, root, 5)
    bench.clock.pass_seconds(700)
    monkeypatch.setattr(lease_service, "BATCH_MAX", 2)
    accounting = bench.services.leases.accounting
    batches = 0

    def killed_at_the_second(self, connection, renewals):
        nonlocal batches
        batches += 1
        if batches == 2:
            raise KeyboardInterrupt
        return renew(self, connection, renewals)

    renew = type(accounting).renew
    monkeypatch.setattr(type(accounting), "renew", killed_at_the_second)
    before = stored(bench)
    with pytest.raises(KeyboardInterrupt):
        bench.services.leases.renew_many(before)
    bench.assert_clean()
    ends = {lease.id: lease.ends_at_ms for lease in stored(bench)}
    assert [ends[lease.id] > lease.ends_at_ms for lease in before] == [True, True, False, False, False]
    assert set(bench.services.leases.renew_many(stored(bench))) == set(leases)
    bench.assert_clean()


def test_workers_and_stops_that_meet_wait_for_each_other_and_never_both(bench: Bench) -> None:
    """Two workers renew the same leases in opposite orders while people start and stop servers on the same trees."""
    roots = [bench.consortium(), bench.consortium()]
    leases = [lease for number, root in enumerate(roots) for lease in running(bench, root, 6, f"p{number}-")]
    due = stored(bench)
    barrier = threading.Barrier(4)

    def work(leases: list[Lease]) -> None:
        barrier.wait(120)
        for _ in range(10):
            bench.services.leases.renew_many(leases)

    def stop(mine: list[str]) -> None:
        barrier.wait(120)
        for lease in mine:
            bench.services.leases.settle(lease)

    def start() -> None:
        barrier.wait(120)
        for number in range(6):
            with bench.services.database.write() as connection:
                bench.services.lease_store.mark_seen(connection, leases, bench.clock.at_ms)
            bench.acquire(roots[number % 2], f"p{number % 2}-{number}", server="another")

    bench.clock.pass_seconds(700)
    with ThreadPoolExecutor(4) as pool:
        done = [
            pool.submit(work, due),
            pool.submit(work, due[::-1]),
            pool.submit(stop, leases[::3]),
            pool.submit(start),
        ]
        for one in done:
            one.result(240)
    for lease in leases[::3]:
        assert bench.services.leases.get(lease).charged_microcredits == SMALL * 700
    bench.assert_clean()
