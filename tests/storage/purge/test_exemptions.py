"""Exemptions are asked for by those whose files they are, decided by others, and end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from allocations.clock import MS_PER_DAY
from allocations.errors import InvalidInputError, NotAllowedError, NotFoundError, TransitionError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Member, MemberRole
from allocations.lifecycle.stores.allocations import AllocationStore
from allocations.storage.purge.models import ExemptionState, PurgeState
from tests.storage.purge.worlds import ADMIN, ANN, DAY, World

if TYPE_CHECKING:
    from allocations.storage.purge.exemptions import ExemptionService

REVIEWER = Actor("rita", reviewer=True)
EVE = Actor("eve")


@pytest.fixture
def exemptions(world: World) -> ExemptionService:
    return world.bench.services.exemptions


def test_one_is_asked_for_granted_and_ends(world: World, exemptions: ExemptionService) -> None:
    asked = exemptions.ask(ANN, world.stored.id, "/old/", 30, " the thesis ")
    assert (asked.folder, asked.reason, asked.state) == ("old", "the thesis", ExemptionState.ASKED)
    assert exemptions.waiting(REVIEWER) == [asked]
    world.clock.pass_seconds(DAY)
    granted = exemptions.grant(REVIEWER, asked.id, 10, "until the defence")
    assert granted.until_ms == world.clock.now_ms() + 10 * MS_PER_DAY
    assert exemptions.waiting(REVIEWER) == []
    assert exemptions.of_area(ANN, world.stored.id) == [granted]
    ended = exemptions.end(ANN, asked.id, "defended")
    assert ended.state is ExemptionState.ENDED
    assert exemptions.of_area(ANN, world.stored.id) == [ended]
    with pytest.raises(TransitionError):
        exemptions.end(ANN, asked.id, "again")
    assert world.audited(asked.id) == ["exemption.ask", "exemption.grant", "exemption.end"]
    with world.bench.services.database.read() as connection:
        query = text("SELECT person, subject FROM notices WHERE kind = 'exemption decided'")
        assert connection.execute(query).all() == [("ann", asked.id)]


def test_it_is_decided_once_and_by_somebody_else(world: World, exemptions: ExemptionService) -> None:
    asked = exemptions.ask(ANN, world.stored.id, "", 30, "all of it")
    for nobody in (ANN, EVE):
        with pytest.raises(NotAllowedError):
            exemptions.grant(nobody, asked.id, 30)
        with pytest.raises(NotAllowedError):
            exemptions.waiting(nobody)
    with pytest.raises(NotAllowedError):
        exemptions.grant(Actor("ann", reviewer=True), asked.id, 30)
    exemptions.refuse(REVIEWER, asked.id, "too much")
    with pytest.raises(TransitionError):
        exemptions.grant(ADMIN, asked.id, 30)
    with pytest.raises(TransitionError):
        exemptions.refuse(ADMIN, asked.id, "no")
    assert exemptions.of_area(ANN, world.stored.id)[0].answer == "too much"


def test_those_who_do_not_belong_to_an_area_know_of_none(world: World, exemptions: ExemptionService) -> None:
    asked = exemptions.ask(ANN, world.stored.id, "old", 30, "mine")
    for what in (
        lambda: exemptions.ask(EVE, world.stored.id, "old", 30, "hers"),
        lambda: exemptions.of_area(EVE, world.stored.id),
        lambda: exemptions.end(EVE, asked.id, "hers"),
        lambda: exemptions.ask(ANN, "s-none", "old", 30, "where"),
    ):
        with pytest.raises(NotFoundError):
            what()
    bob = Member(world.allocation, "bob", MemberRole.MEMBER, world.clock.now_ms())
    with world.bench.services.database.write() as connection:
        AllocationStore().add_member(connection, bob)
    assert exemptions.of_area(Actor("bob"), world.stored.id) == [asked]
    with pytest.raises(NotAllowedError):
        exemptions.ask(Actor("bob"), world.stored.id, "old", 30, "mine too")


@pytest.mark.parametrize(
    ("folder", "days", "reason"),
    [
        ("../other", 30, "why"),
        ("a/./b", 30, "why"),
        ("a//b", 30, "why"),
        ("a\0b", 30, "why"),
        ("\udcff", 30, "why"),
        ("a" * 5000, 30, "why"),
        ("a", 0, "why"),
        ("a", 181, "why"),
        ("a", 30, "  "),
        ("a", 30, "w" * 1001),
    ],
)
def test_what_cannot_be_meant_is_refused(
    world: World, exemptions: ExemptionService, folder: str, days: int, reason: str
) -> None:
    with pytest.raises(InvalidInputError):
        exemptions.ask(ANN, world.stored.id, folder, days, reason)
    assert exemptions.of_area(ANN, world.stored.id) == []


def test_one_that_is_over_or_ended_or_refused_keeps_nothing(world: World, exemptions: ExemptionService) -> None:
    world.plant("over", "over in the window", "ended", "refused", "asked", "kept")
    asked = {name: exemptions.ask(ANN, world.stored.id, name, 180, "why") for name in ("over", "ended", "refused")}
    exemptions.ask(ANN, world.stored.id, "asked", 180, "why")
    exemptions.grant(ADMIN, asked["over"].id, 1)
    exemptions.grant(ADMIN, asked["ended"].id, 180)
    exemptions.end(ANN, asked["ended"].id, "not needed")
    exemptions.refuse(ADMIN, asked["refused"].id, "no")
    world.exempt("kept")
    world.clock.pass_seconds(2 * DAY)
    run = world.begin()
    world.work()
    world.exempt("over in the window", days=1)
    world.window_passes()
    world.work()
    assert world.purge(run).state is PurgeState.DONE
    assert world.files() == {"kept"}
