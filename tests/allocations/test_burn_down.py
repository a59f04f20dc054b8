"""Burn-downs: the latest days of many allocations say the same as each one's whole, and the refill is reckoned with."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest

from allocations.lifecycle.authority import Actor
from allocations.reports.burn_down import Burning, burn_down

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
DAY_MS = 86_400_000
DAY_SECONDS = 86_400
START_MS = 1_800_000_000_000 - 1_800_000_000_000 % DAY_MS


def work(bench: Bench, allocation: str, person: str) -> None:
    """Run a small server for ten minutes."""
    lease = bench.acquire(allocation, person).id
    bench.services.leases.start(lease, None)
    bench.clock.pass_seconds(600)
    bench.services.leases.settle(lease, None)


def test_the_latest_days_are_the_end_of_the_whole_with_all_parts(bench: Bench) -> None:
    entry = bench.accept("lead")
    root = bench.consortium()
    lead = Actor("lead")
    part = bench.services.tree.divide(lead, root, name="Part", microcredits=CREDIT, guaranteed=True, lead="lead")
    for _day in range(40):
        work(bench, part, "lead")
        work(bench, root, "lead")
        bench.clock.pass_seconds(DAY_SECONDS)
    recent = bench.services.reports.recent_burn_downs("lead")
    assert set(recent) == {entry, root, part}
    for allocation, days in ((root, 28), (part, 28)):
        whole = bench.services.reports.allocation(lead, allocation).burn_down
        assert len(whole.days) == 41
        assert recent[allocation].days == whole.days[-days:]
        assert recent[allocation].projected_end == whole.projected_end
        assert recent[allocation].charged_per_day_microcredits == whole.charged_per_day_microcredits > 0
    at_root, at_part = (recent[node].days[-2].charged_microcredits for node in (root, part))
    assert at_root == 2 * at_part, "what its part was charged counts at the whole"


def test_what_is_over_has_no_recent_burn_down(bench: Bench) -> None:
    root = bench.consortium()
    bench.services.lifecycle.archive(Actor("admin", admin=True), root, "over")
    assert root not in bench.services.reports.recent_burn_downs("lead")
    assert bench.services.reports.recent_burn_downs("nobody") == {}


@pytest.mark.parametrize(
    ("refill", "days_ahead"),
    [(0, 10), (CREDIT // 2, 20), (CREDIT, None), (2 * CREDIT, None)],
    ids=["none", "half", "all", "more"],
)
def test_a_daily_refill_puts_the_end_off(refill: int, days_ahead: int | None) -> None:
    moved = {START_MS + day * DAY_MS: (CREDIT, 0) for day in range(14)}
    now_ms = START_MS + 13 * DAY_MS + DAY_MS // 2
    found = burn_down(moved, Burning(START_MS, 10 * CREDIT, refill), now_ms)
    assert found.charged_per_day_microcredits == CREDIT
    assert [found.days[0].left_microcredits, found.days[-1].left_microcredits] == [23 * CREDIT, 10 * CREDIT]
    today = found.days[-1].day
    assert (found.projected_end and (found.projected_end - today).days) == days_ahead


def test_refunds_alone_are_no_pace() -> None:
    found = burn_down({START_MS: (-CREDIT, 0)}, Burning(START_MS, CREDIT, 0), START_MS)
    assert (found.charged_per_day_microcredits, found.projected_end) == (0, None)


def test_a_grant_raises_what_was_left_from_its_day_on() -> None:
    moved = {START_MS: (0, 5 * CREDIT), START_MS + DAY_MS: (CREDIT, 3 * CREDIT)}
    found = burn_down(moved, Burning(START_MS, 7 * CREDIT, 0), START_MS + DAY_MS)
    assert [day.left_microcredits for day in found.days] == [5 * CREDIT, 7 * CREDIT]
    assert found.days[0].day == date(2027, 1, 15)
