"""The stories of charges and balances: every figure is the one that the services answered with, and the sums add up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from allocations.cli import main, out
from allocations.errors import NotFoundError
from allocations.ledger.explain import AllocationStory, LeaseStory, explain
from allocations.ledger.models import Unit
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from tests.places import join

if TYPE_CHECKING:
    from click.testing import Result

    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
LEAD = Actor("lead")
QUANTUM = 900


def story_of(bench: Bench, of_id: str) -> LeaseStory | AllocationStory:
    with bench.services.database.read() as connection:
        return explain(connection, of_id, bench.services.policy)


def lease_story(bench: Bench, lease: str) -> LeaseStory:
    story = story_of(bench, lease)
    assert isinstance(story, LeaseStory)
    assert all(check.holds for check in story.checks)
    return story


def allocation_story(bench: Bench, allocation: str) -> AllocationStory:
    story = story_of(bench, allocation)
    assert isinstance(story, AllocationStory)
    assert all(check.holds for check in story.checks)
    return story


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell on one line, whatever the tests run in."""
    monkeypatch.setattr(out, "width", 200)


def meridian(bench: Bench, *arguments: str) -> Result:
    url = bench.services.database.url.render_as_string(hide_password=False)
    return CliRunner().invoke(main, ["ledger", "explain", *arguments, "--database", url])


def divided(bench: Bench) -> tuple[str, str]:
    """A consortium of 100 credits, and a part of 10 that ann works in."""
    root = bench.consortium(credits=4000)
    bench.accept("ann")
    join(bench.services.members, LEAD, root, "ann", MemberRole.MEMBER)
    part = bench.services.tree.divide(LEAD, root, name="Part", microcredits=10 * CREDIT, guaranteed=True, lead="lead")
    join(bench.services.members, LEAD, part, "ann", MemberRole.MEMBER)
    return root, part


def renewed_and_settled(bench: Bench, allocation: str) -> tuple[str, int]:
    """A lease that ran 700 s, was renewed, and ran 500 s more; and its rate."""
    lease = bench.acquire(allocation)
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(700)
    bench.services.leases.renew(lease.id)
    bench.clock.pass_seconds(500)
    bench.services.leases.settle(lease.id)
    return lease.id, lease.microcredits_per_second


def test_a_lease_is_told_from_hold_to_settlement(bench: Bench) -> None:
    root, part = divided(bench)
    lease, rate = renewed_and_settled(bench, part)
    story = lease_story(bench, lease)
    assert [(node.allocation, node.left) for node in story.path] == [
        (root, story.path[0].limit),
        (part, 10 * CREDIT),
    ]
    hold, renewal, settlement = story.steps
    assert (hold.kind, hold.held) == ("hold", rate * QUANTUM)
    assert (renewal.kind, renewal.charged, renewal.freed, renewal.held) == (
        "renew",
        rate * 700,
        rate * 200,
        rate * QUANTUM,
    )
    assert (renewal.from_second, renewal.to_second) == (0, 700)
    assert renewal.quantities["core_seconds"] == 700 * story.cores
    assert (settlement.kind, settlement.charged, settlement.freed) == ("settle", rate * 500, rate * 400)
    assert (settlement.from_second, settlement.to_second) == (700, 1200)
    assert [(one.unit, one.seconds, one.charged) for one in story.totals] == [(Unit.CREDITS, 1200, rate * 1200)]
    assert story.prices is not None
    assert story.prices.rate == rate
    assert (story.state, story.end_reason) == ("settled", "stopped")


def test_what_others_use_is_taken_off_what_was_left(bench: Bench) -> None:
    root, part = divided(bench)
    lease, rate = renewed_and_settled(bench, part)
    second = bench.acquire(part, server="b")
    third = bench.acquire(root, "lead")
    assert [node.posted for node in lease_story(bench, third.id).path] == [rate * 1200]
    assert [node.held for node in lease_story(bench, third.id).path] == [second.held_microcredits]
    assert [node.posted for node in lease_story(bench, lease).path] == [0, 0]


def test_a_stop_learnt_late_shows_its_refund(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    started_ms = bench.clock.at_ms
    bench.clock.pass_seconds(700)
    bench.services.leases.renew(lease.id)
    bench.services.leases.settle(lease.id, started_ms + 300_000)
    story = lease_story(bench, lease.id)
    refund = story.steps[-1]
    assert (refund.kind, refund.refunded) == ("refund", 400 * lease.microcredits_per_second)
    assert (refund.from_second, refund.to_second) == (300, 700)
    assert story.totals[0].seconds == 300


@pytest.mark.parametrize(("end", "reason"), [("void", "never ran"), ("expire", "no start was reported in time")])
def test_what_never_ran_is_charged_nothing(bench: Bench, end: str, reason: str) -> None:
    lease = bench.acquire(bench.accept("ann"))
    getattr(bench.services.leases, end)(lease.id)
    story = lease_story(bench, lease.id)
    assert [step.kind for step in story.steps] == ["hold", "void"]
    assert story.totals[0].charged == 0
    assert reason in meridian(bench, lease.id).output


def test_an_allocation_is_told_as_sums_that_add_up(bench: Bench) -> None:
    root, part = divided(bench)
    bench.services.tree.change_share(LEAD, part, 8 * CREDIT)
    _, rate = renewed_and_settled(bench, part)
    held = bench.acquire(root, "lead")
    story = allocation_story(bench, root)
    assert [(one.whose, one.amount) for one in story.by_person] == [("ann", rate * 1200)]
    assert [(one.name, one.amount) for one in story.by_sub_allocation] == [("Part", rate * 1200)]
    assert [(one.lease, one.person, one.amount) for one in story.open_holds] == [
        (held.id, "lead", held.held_microcredits)
    ]
    (balance,) = story.balances
    assert balance.left == balance.limit - held.held_microcredits - rate * 1200
    moved = allocation_story(bench, part).limits
    assert [(one.amount, one.limit_after, one.actor) for one in moved] == [
        (10 * CREDIT, 10 * CREDIT, "lead"),
        (-2 * CREDIT, 8 * CREDIT, "lead"),
    ]


def test_a_sum_that_does_not_come_out_is_said(bench: Bench) -> None:
    allocation = bench.accept("ann")
    with bench.services.database.write() as connection:
        connection.execute(text("UPDATE balances SET posted = 5"))
    result = meridian(bench, allocation)
    assert result.exit_code == 1
    assert "does not check credits: the charges come to 0, stored 5" in result.output


def test_the_command_tells_a_lease_in_words_and_as_json(bench: Bench) -> None:
    lease, rate = renewed_and_settled(bench, bench.accept("ann"))
    words = meridian(bench, lease)
    assert words.exit_code == 0
    assert f"a second x 1,200 s = {rate * 1200 / CREDIT:.6f}".rstrip("0") in words.output
    answer = json.loads(meridian(bench, lease, "--json").output)
    assert answer["totals"][0]["charged"] == rate * 1200
    assert all(check["holds"] for check in answer["checks"])


def test_the_command_tells_an_allocation(bench: Bench) -> None:
    allocation = bench.accept("ann")
    renewed_and_settled(bench, allocation)
    assert "first instalment" in meridian(bench, allocation).output
    assert json.loads(meridian(bench, allocation, "--json").output)["id"] == allocation


def test_an_unknown_id_says_what_to_do(bench: Bench) -> None:
    with pytest.raises(NotFoundError, match="no lease and no allocation 'lease-x'"):
        story_of(bench, "lease-x")
    result = meridian(bench, "lease-x")
    assert result.exit_code == 1
    assert "Copy the whole id" in result.output
