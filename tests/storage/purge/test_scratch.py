"""A lead lets files of scratch become older, within the policy, until a date: plans and second looks go by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.errors import (
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    TransitionError,
    UnknownAllocationError,
)
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.storage.models import Owner, StorageClass
from allocations.storage.purge.models import PurgeState
from tests.places import join
from tests.storage.purge.ends import EndedWorld
from tests.storage.purge.worlds import ADMIN, AGE_DAYS, ANN, DAY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.allocations.conftest import Bench

LONGEST_DAYS = 60
LEAD = Actor("lead")


@pytest.fixture
def world(bench: Bench, tmp_path: Path) -> EndedWorld:
    """Ann's scratch, whose files a lead may let become 60 days old, with one of 20 and one of 70."""
    world = EndedWorld(bench, tmp_path)
    policy = bench.services.policy
    rules = tuple(
        rule.model_copy(update={"longest_days": LONGEST_DAYS}) if rule.name == "scratch-entry" else rule
        for rule in policy.storage.rules
    )
    world.use_policy(policy.model_copy(update={"storage": policy.storage.model_copy(update={"rules": rules})}))
    world.plant("old", days=70)
    world.plant("middling", days=20)
    return world


def extend(world: EndedWorld, age_days: int = 40, lasts_days: int = 30) -> None:
    world.bench.services.scratch_leases.extend(ANN, world.allocation, age_days, lasts_days, "the survey is late")


def test_the_next_plan_goes_by_it_until_its_date(world: EndedWorld) -> None:
    extend(world, 40, lasts_days=10)
    run = world.begin()
    world.work()
    assert {one.path for one in world.purge(run).summary.paths} == {"old"}
    world.days_pass(12, step=1)
    assert world.files() == {"middling"}
    run = world.begin()
    world.work()
    assert {one.path for one in world.purge(run).summary.paths} == {"middling"}


def test_the_second_look_goes_by_it(world: EndedWorld) -> None:
    run = world.begin()
    world.work()
    assert world.purge(run).files == 2
    world.days_pass(6, step=0.5)
    extend(world)
    world.days_pass(3, step=0.5)
    assert (world.purge(run).state, world.purge(run).left_files) == (PurgeState.DONE, 1)
    assert world.files() == {"middling"}
    assert world.archived() == {"old"}


def test_a_plan_as_of_a_day_before_goes_by_the_lease_of_today(world: EndedWorld) -> None:
    before_ms = world.clock.now_ms()
    world.clock.pass_seconds(DAY)
    extend(world, lasts_days=1)
    run = world.begin(as_of_ms=before_ms)
    world.work()
    assert {one.path for one in world.purge(run).summary.paths} == {"old"}
    world.bench.services.purges.cancel(ADMIN, run.id, "again")
    # As it was in force then, and is no more.
    world.clock.pass_seconds(DAY)
    run = world.begin(as_of_ms=before_ms + DAY * 1000 + 1)
    world.work()
    assert {one.path for one in world.purge(run).summary.paths} == {"old", "middling"}


def test_the_lease_of_one_scratch_is_not_that_of_another(world: EndedWorld) -> None:
    leases, whole = world.bench.services.scratch_leases, world.bench.consortium("lead")
    world.measures.open(StorageClass.SCRATCH, Owner(allocation_id=whole), str(world.path / "whole"))
    leases.extend(LEAD, whole, 60, 10, "why")
    assert leases.of_allocation(ANN, world.allocation).lease is None
    extend(world)
    assert leases.of_allocation(LEAD, whole).lease is not None
    assert leases.end(ANN, world.allocation, "we are done").lease is None
    assert leases.of_allocation(LEAD, whole).lease is not None


def test_what_is_archived_already_is_not_deleted_when_it_is_extended(world: EndedWorld) -> None:
    run = world.begin()
    world.work()
    world.window_passes()
    while world.purge(run).state is not PurgeState.VERIFIED:
        world.step()
    extend(world)
    world.work()
    assert world.files() == {"middling"}


def test_one_that_was_ended_counts_no_more_and_a_new_one_takes_the_place_of_another(world: EndedWorld) -> None:
    leases = world.bench.services.scratch_leases
    extend(world, 50)
    world.clock.pass_seconds(1)
    extend(world, 30)
    view = leases.of_allocation(ANN, world.allocation)
    assert view.lease is not None
    assert (view.lease.age_days, view.usual_days, view.longest_days) == (30, AGE_DAYS, LONGEST_DAYS)
    assert [(one.age_days, one.ended_by) for one in view.history] == [(30, None), (50, "ann")]
    assert leases.end(ANN, world.allocation, "we are done").lease is None
    with pytest.raises(TransitionError):
        leases.end(ANN, world.allocation, "again")
    run = world.begin()
    world.work()
    assert world.purge(run).files == 2
    assert [one for one in world.audited(world.allocation) if one.startswith("scratch")] == [
        "scratch.extend",
        "scratch.extend",
        "scratch.end",
    ]


@pytest.mark.parametrize(
    ("age_days", "lasts_days", "reason"),
    [
        (AGE_DAYS, 10, "why"),
        (LONGEST_DAYS + 1, 10, "why"),
        (40, 0, "why"),
        (40, LONGEST_DAYS + 1, "why"),
        (40, 10, " "),
        (40, 10, "w" * 1001),
    ],
)
def test_beyond_the_policy_nothing_is_extended(world: EndedWorld, age_days: int, lasts_days: int, reason: str) -> None:
    leases = world.bench.services.scratch_leases
    with pytest.raises(InvalidInputError):
        leases.extend(ANN, world.allocation, age_days, lasts_days, reason)
    assert leases.of_allocation(ANN, world.allocation).history == ()


def test_the_longest_that_the_policy_allows_is_allowed(world: EndedWorld) -> None:
    extend(world, LONGEST_DAYS, LONGEST_DAYS)
    world.clock.pass_seconds(LONGEST_DAYS * DAY - 1)
    assert world.bench.services.scratch_leases.of_allocation(ANN, world.allocation).lease is not None
    world.clock.pass_seconds(1)
    assert world.bench.services.scratch_leases.of_allocation(ANN, world.allocation).lease is None


def test_only_who_manages_it_may_and_strangers_learn_nothing(world: EndedWorld) -> None:
    services = world.bench.services
    whole = world.bench.consortium("lead")
    world.measures.open(StorageClass.SCRATCH, Owner(allocation_id=whole), str(world.path / "whole"))
    for person, role in (("bob", MemberRole.MEMBER), ("mary", MemberRole.MANAGER)):
        join(services.members, LEAD, whole, person, role)
    with pytest.raises(NotAllowedError):
        services.scratch_leases.extend(Actor("bob"), whole, 60, 10, "why")
    assert services.scratch_leases.of_allocation(Actor("bob"), whole).lease is None
    with pytest.raises(UnknownAllocationError):
        services.scratch_leases.extend(Actor("eve"), whole, 60, 10, "why")
    with pytest.raises(UnknownAllocationError):
        services.scratch_leases.of_allocation(Actor("eve"), whole)
    assert services.scratch_leases.extend(Actor("mary"), whole, 60, 10, "why").lease is not None


def test_a_tier_of_which_the_policy_says_no_longest_age_has_none(bench: Bench, tmp_path: Path) -> None:
    world = EndedWorld(bench, tmp_path)
    leases = bench.services.scratch_leases
    assert leases.of_allocation(ANN, world.allocation).longest_days is None
    with pytest.raises(TransitionError):
        leases.extend(ANN, world.allocation, 20, 10, "why")


def test_an_allocation_without_scratch_has_no_lease(world: EndedWorld) -> None:
    whole = world.bench.consortium("lead")
    with pytest.raises(NotFoundError):
        world.bench.services.scratch_leases.extend(LEAD, whole, 60, 10, "why")
