"""INVARIANT 8: only the service's clock counts, and it never runs backwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

from allocations.clock import SystemClock, from_datetime, to_rfc3339

if TYPE_CHECKING:
    import pytest

    from tests.allocations.conftest import Bench

SMALL = 13
HOUR_MS = 3_600_000


def test_a_step_backwards_of_the_machines_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([10_000_000_000, 4_000_000_000, 11_000_000_000])
    monkeypatch.setattr("allocations.clock.time.time_ns", lambda: next(readings))
    clock = SystemClock()
    assert [clock.now_ms() for _ in range(3)] == [10_000, 10_000, 11_000]


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
