"""Use by member and by part: all charges of the whole time, in agreement with the balances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.clock import MS_PER_DAY
from allocations.errors import NotAllowedError, UnknownAllocationError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.reports import charges as reports_charges
from allocations.reports import use as reports_use
from allocations.reports.use import By
from tests.allocations.test_runs import SMALL
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
LEAD = Actor("lead")
TIMES = 60


@pytest.fixture
def tree(bench: Bench) -> tuple[str, str, str]:
    """A consortium with a part and a part of that; ann belongs to the lowest, bob to the part."""
    root = bench.consortium()
    part = bench.services.tree.divide(LEAD, root, name="Shear", microcredits=CREDIT, guaranteed=True, lead="lead")
    leaf = bench.services.tree.divide(LEAD, part, name="Masks", microcredits=CREDIT, guaranteed=False, lead="lead")
    for person, node in (("ann", leaf), ("bob", part)):
        bench.accept(person)
        join(bench.services.members, LEAD, node, person, MemberRole.MEMBER)
    return root, part, leaf


def ran(bench: Bench, allocation: str, person: str, seconds: int, size: str = "small") -> None:
    lease = bench.acquire(allocation, person, size)
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(seconds)
    bench.services.leases.settle(lease.id)


def test_every_charge_of_the_whole_time_counts_and_agrees_with_the_balances(
    bench: Bench, tree: tuple[str, str, str]
) -> None:
    root, part, leaf = tree
    for _ in range(TIMES):  # more than the latest charges that are listed
        ran(bench, leaf, "ann", 10)
    bench.clock.at_ms += 20 * MS_PER_DAY
    for person in ("ann", "bob"):
        bench.services.agreements.accept(person, bench.services.policy.agreement.version)
    ran(bench, part, "bob", 30, "standard")
    ran(bench, root, "lead", 5)
    by_member = bench.services.reports.use(LEAD, root, By.MEMBER)
    spent = {"ann": SMALL * 10 * TIMES, "bob": 34 * 30, "lead": SMALL * 5}
    assert {one.key: one.microcredits for one in by_member.lines} == spent
    assert {one.key: one.core_seconds for one in by_member.lines} == {"ann": 10 * TIMES, "bob": 60, "lead": 5}
    # Of the last two weeks, ann has spent nothing.
    assert {one.key: one.latest_microcredits for one in by_member.lines} == spent | {"ann": 0}
    by_part = bench.services.reports.use(LEAD, root, By.PART)
    assert {one.key: one.microcredits for one in by_part.lines} == {
        part: spent["ann"] + spent["bob"],
        root: spent["lead"],
    }
    shown = bench.services.reports.allocation(LEAD, root)
    assert by_member.microcredits == by_part.microcredits == shown.allocation.posted_microcredits
    for use in (by_member, by_part):
        assert sum(series.spent_microcredits[-1] for series in use.series) == use.microcredits
        assert use.granted_microcredits[-1] == shown.allocation.limit_microcredits
        assert {len(series.spent_microcredits) for series in use.series} == {21} == {len(use.granted_microcredits)}
    course = {series.key: series.spent_microcredits for series in by_member.series}
    assert (course["ann"][0], course["bob"][19], course["bob"][20]) == (spent["ann"], 0, spent["bob"])
    both = bench.services.reports.use_by_both(LEAD, root)
    assert {(one.person, one.allocation): one.microcredits for one in both} == {
        ("ann", leaf): spent["ann"],
        ("bob", part): spent["bob"],
        ("lead", root): spent["lead"],
    }


def test_those_who_are_not_named_are_drawn_together(
    bench: Bench, tree: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, part, leaf = tree
    monkeypatch.setattr(reports_use, "SERIES_MAX", 1)
    monkeypatch.setattr(reports_use, "LINES_MAX", 2)
    for person, node, seconds in (("ann", leaf, 9), ("bob", part, 7), ("lead", root, 5)):
        ran(bench, node, person, seconds)
    use = bench.services.reports.use(LEAD, root, By.MEMBER)
    assert [(one.key, one.spent_microcredits[-1]) for one in use.series] == [("ann", SMALL * 9), ("", SMALL * 12)]
    assert ([one.key for one in use.lines], use.lines_in_all, use.microcredits) == (["ann", "bob"], 3, SMALL * 21)


def test_a_long_time_is_drawn_in_few_steps(bench: Bench, tree: tuple[str, str, str]) -> None:
    root, _part, _leaf = tree
    bench.clock.at_ms += 200 * MS_PER_DAY
    use = bench.services.reports.use(LEAD, root, By.PART)
    assert (use.step_days, len(use.granted_microcredits), use.series) == (4, 51, use.series)
    assert use.microcredits == 0


def test_every_charge_is_read_in_lots_and_members_get_their_own(
    bench: Bench, tree: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, part, leaf = tree
    monkeypatch.setattr(reports_charges, "JOURNAL_LOT", 2)
    for _ in range(5):
        ran(bench, leaf, "ann", 1)
    ran(bench, part, "bob", 1)
    everything = list(bench.services.reports.all_charges(LEAD, root))
    assert [(one.person, one.allocation_name, one.amount) for one in everything] == [
        ("bob", "Shear", SMALL),
        *[("ann", "Masks", SMALL)] * 5,
    ]
    assert len({one.id for one in everything}) == 6
    assert {one.person for one in bench.services.reports.all_charges(Actor("ann"), leaf)} == {"ann"}
    assert list(bench.services.reports.all_charges(Actor("bob"), leaf)) == []
    with pytest.raises(UnknownAllocationError):
        bench.services.reports.all_charges(Actor("ann"), root)


def test_use_is_for_those_who_manage(bench: Bench, tree: tuple[str, str, str]) -> None:
    root, part, leaf = tree
    for ask in (
        lambda actor, node: bench.services.reports.use(actor, node, By.MEMBER),
        bench.services.reports.use_by_both,
    ):
        with pytest.raises(NotAllowedError):
            ask(Actor("ann"), leaf)
        with pytest.raises(UnknownAllocationError):
            ask(Actor("ann"), root)
        ask(Actor("admin", admin=True), part)
