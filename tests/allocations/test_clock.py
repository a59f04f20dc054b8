"""INVARIANT 8: only the service's clock counts, and it never runs backwards."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from allocations.clock import NS_PER_MS, SystemClock, from_datetime, to_rfc3339

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

SMALL = 13
HOUR_MS = 3_600_000
DAY_NS = 24 * HOUR_MS * NS_PER_MS
# Passages of time, each with a step of the wall clock, in nanoseconds.
PASSAGES = st.lists(st.tuples(st.integers(0, DAY_NS), st.integers(-2 * DAY_NS, 2 * DAY_NS)), max_size=20)


class Machine:
    """A machine's two clocks: one that can be stepped, one that cannot."""

    def __init__(self, wall_ns: int = 1_800_000_000_000_000_000) -> None:
        self.wall_ns = wall_ns
        self.elapsed_ns = 77
        self.clock = SystemClock(lambda: self.wall_ns, lambda: self.elapsed_ns)

    def pass_ns(self, elapsed_ns: int, step_ns: int = 0) -> None:
        self.elapsed_ns += elapsed_ns
        self.wall_ns += elapsed_ns + step_ns


def test_the_first_reading_is_the_wall_clocks() -> None:
    machine = Machine()
    assert machine.clock.now_ms() == 1_800_000_000_000


def test_without_steps_it_is_the_wall_clock() -> None:
    machine = Machine()
    for _ in range(50):
        machine.pass_ns(123_456_789)
        assert machine.clock.now_ms() == machine.wall_ns // NS_PER_MS


@given(PASSAGES)
def test_it_never_runs_backwards_and_keeps_its_rate_whatever_is_stepped(passages: list[tuple[int, int]]) -> None:
    """Between any two readings, not only neighbours: the time passed by 95 to 105 %, but for the last millisecond."""
    machine = Machine()
    readings = [(machine.elapsed_ns, machine.clock.now_ms())]
    for elapsed_ns, step_ns in passages:
        machine.pass_ns(elapsed_ns, step_ns)
        readings.append((machine.elapsed_ns, machine.clock.now_ms()))
    for (from_ns, from_ms), (to_ns, to_ms) in combinations(readings, 2):
        assert to_ms >= from_ms
        passed_ms = (to_ns - from_ns) / NS_PER_MS
        assert 0.95 * passed_ms - 1 <= to_ms - from_ms <= 1.05 * passed_ms + 1


@given(step_ms=st.integers(-10 * HOUR_MS, 10 * HOUR_MS), readings=st.integers(1, 50))
def test_it_returns_to_the_wall_clock(step_ms: int, readings: int) -> None:
    """A step is worked off within twenty times its size, however often the clock is read meanwhile."""
    machine = Machine()
    machine.pass_ns(0, step_ms * NS_PER_MS)
    for _ in range(readings):
        machine.pass_ns(abs(step_ms) * 20 * NS_PER_MS // readings + 20)
        machine.clock.now_ms()
    assert abs(machine.clock.now_ms() - machine.wall_ns // NS_PER_MS) <= 1


def test_readings_of_many_threads_share_one_time() -> None:
    machine = Machine()
    machine.pass_ns(HOUR_MS * NS_PER_MS, 10 * HOUR_MS * NS_PER_MS)
    with ThreadPoolExecutor(8) as pool:
        readings = set(pool.map(lambda _: machine.clock.now_ms(), range(400)))
    assert readings == {1_800_000_000_000 + HOUR_MS * 105 // 100}


def test_the_machines_own_clocks_are_the_default() -> None:
    clock = SystemClock()
    before_ms = clock.now_ms()
    assert before_ms <= clock.now_ms()
    assert abs(before_ms - time.time_ns() // NS_PER_MS) < HOUR_MS


def test_times_are_written_and_read_in_utc() -> None:
    assert to_rfc3339(1_800_000_000_123) == "2027-01-15T08:00:00.123Z"
    east = timezone(timedelta(hours=2))
    assert from_datetime(datetime(2027, 1, 15, 10, 0, tzinfo=east)) == 1_800_000_000_000
    assert from_datetime(datetime(2027, 1, 15, 8, 0, tzinfo=UTC)) == 1_800_000_000_000


def test_an_end_in_the_future_counts_as_now(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(100)
    settled = bench.services.leases.settle(lease.id, bench.clock.at_ms + HOUR_MS)
    assert settled.charged_microcredits == SMALL * 100
    bench.assert_clean()


def test_a_start_before_the_lease_counts_from_the_lease(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    started = bench.services.leases.start(lease.id, bench.clock.at_ms - HOUR_MS)
    assert started.started_at == lease.acquired_at
    bench.clock.pass_seconds(100)
    assert bench.services.leases.settle(lease.id).charged_microcredits == SMALL * 100
    bench.assert_clean()


def test_a_start_in_the_future_counts_from_now(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.clock.pass_seconds(5)
    bench.services.leases.start(lease.id, bench.clock.at_ms + HOUR_MS)
    bench.clock.pass_seconds(100)
    assert bench.services.leases.settle(lease.id).charged_microcredits == SMALL * 100
    bench.assert_clean()


def test_an_end_before_the_start_charges_nothing(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.clock.pass_seconds(50)
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(100)
    settled = bench.services.leases.settle(lease.id, bench.clock.at_ms - HOUR_MS)
    assert (settled.charged_microcredits, settled.ended_at) == (0, settled.started_at)
    bench.assert_clean()


def test_a_sighting_older_than_the_last_renewals_charges_nothing_twice(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(850)
    bench.services.leases.renew(lease.id)
    bench.clock.pass_seconds(100)
    bench.services.leases.renew(lease.id, bench.clock.at_ms - 600_000)
    assert bench.services.leases.settle(lease.id).charged_microcredits == SMALL * 950
    bench.assert_clean()
