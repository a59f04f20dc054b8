"""Whose turn it is: between people, between single runs and sweeps, and what batch leaves to servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.errors import AtOnceLimitError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, OverrideLimits, OverrideSubject
from allocations.runs.models import RunFilter, RunState
from tests.allocations.test_runs import submit as submit_run
from tests.allocations.test_sweeps import claim, finish, submit
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

ADMIN = Actor("admin", admin=True)


def shared(bench: Bench, cores: int) -> str:
    """Return an allocation of ann's and bob's that may run so many cores at once; a tenth is left to servers."""
    root = bench.consortium("ann")
    bench.accept("bob")
    join(bench.services.members, Actor("ann"), root, "bob", MemberRole.MEMBER)
    bench.services.overrides.grant(ADMIN, OverrideSubject.ALLOCATION, root, OverrideLimits(cores=cores), "small", 90)
    return root


def test_a_sweep_starves_neither_another_person_nor_a_single_run_of_its_own(bench: Bench) -> None:
    root = shared(bench, 512)
    swept = submit(bench, root, count=40)
    claim(bench, 5)
    bench.clock.pass_seconds(1)
    single = submit_run(bench, root, person="ann")
    others = [submit_run(bench, root, person="bob").id for _ in range(2)]
    later = submit(bench, root, count=3, person="bob")
    # Bob has nothing that runs: his two single runs, then his sweep; ann has five.
    assert sorted(run.id for run in claim(bench, 2)) == sorted(others)
    assert [run.sweep for run in claim(bench, 3)] == [later.id] * 3
    # Five each: the one who was first, and of hers the single run, though younger.
    assert [run.id for run in claim(bench, 1)] == [single.id]
    assert [run.sweep for run in claim(bench, 2)] == [swept.id] * 2


def test_small_runs_of_sweeps_leave_what_comes_free_to_a_large_run_before_them(bench: Bench) -> None:
    root = shared(bench, 20)
    swept = submit(bench, root, count=60)
    first = claim(bench)
    assert len(first) == 18, "two cores are left to servers"
    bench.clock.pass_seconds(30)
    large = submit_run(bench, root, person="bob", size="large")
    for run in first[:7]:
        finish(bench, run)
        assert claim(bench) == [], "the sweep waits until there are the eight cores"
    waiting = bench.services.runs.list_of("ann", wanted=RunFilter(frozenset({RunState.QUEUED}), sweep=swept.id))
    assert waiting[0].waiting_reason == "Leaves what comes free to a run that needs 8 cores together."
    finish(bench, first[7])
    assert [run.id for run in claim(bench)] == [large.id]
    finish(bench, first[8])
    assert [run.sweep for run in claim(bench)] == [swept.id], "then it goes on"
    bench.assert_clean()


def test_a_sweep_does_not_wait_for_a_run_that_something_else_keeps_out(bench: Bench) -> None:
    root = shared(bench, 20)
    bench.acquire(root, size="large", server="one")
    bench.acquire(root, size="large", server="two")
    submit_run(bench, root, person="bob", size="large")
    submit(bench, root, count=30)
    # Of the twenty cores sixteen are servers'; a run that is alone may have all of the rest, and goes before.
    assert len(claim(bench)) == 4
    bench.assert_clean()


def test_batch_leaves_room_to_those_who_start_a_server(bench: Bench) -> None:
    root = shared(bench, 20)
    submit(bench, root, count=60)
    taken = claim(bench)
    assert len(taken) == 18
    offers = bench.services.offers.start_options("bob", is_server=False).allocations
    [small] = [size for offer in offers if offer.id == root for size in offer.sizes if size.name == "small"]
    assert (small.usable, "left to servers" in (small.reason or "")) == (True, True), "a run waits for it"
    bench.acquire(root, person="bob", size="standard")
    assert claim(bench) == [], "servers that run are within what is left to them"
    with pytest.raises(AtOnceLimitError):
        bench.acquire(root, person="bob", size="small", server="second")
    bench.clock.pass_seconds(60)
    finish(bench, taken[0])
    bench.acquire(root, person="bob", size="small", server="second")
    assert claim(bench) == [], "nor does batch take back what servers use beyond it"
    bench.assert_clean()


def test_a_run_that_is_alone_may_take_all_of_a_small_allocation(bench: Bench) -> None:
    entry = bench.accept("ann")
    submit(bench, entry, count=3, size="standard")
    [run] = claim(bench)
    assert run.resources.cores == 2, "all that the entry tier runs at once"
    bench.clock.pass_seconds(30)
    finish(bench, run)
    assert len(claim(bench)) == 1
    bench.assert_clean()


def test_of_a_members_cap_batch_leaves_the_smallest_server(bench: Bench) -> None:
    root = shared(bench, 100)
    bench.services.members.change(Actor("ann"), root, "bob", cores_max=4)
    submit(bench, root, count=9, person="bob")
    assert len(claim(bench)) == 3
    bench.acquire(root, person="bob")
    # What a lead lets one member run keeps nobody else.
    ann = submit(bench, root, count=2)
    assert [run.sweep for run in claim(bench)] == [ann.id] * 2
    bench.assert_clean()
