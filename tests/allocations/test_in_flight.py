"""Two processes on one PostgreSQL, caught in the middle: a commit that is under way, a lock that is waited for."""

from __future__ import annotations

import itertools
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text

from allocations.db.database import Database
from allocations.db.schema import balances, leases
from allocations.errors import (
    AllocationNotActiveError,
    AtOnceLimitError,
    IdempotencyConflictError,
    InsufficientBalanceError,
    InvalidInputError,
    LeaseEndedError,
    NotAllowedError,
    TransitionError,
)
from allocations.factory import make_services
from allocations.leases.views import LeaseView
from allocations.ledger.models import TransactionKind, Unit
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import (
    AllocationState,
    Award,
    Invitation,
    MemberRole,
    Publication,
    Request,
    RequestAction,
    RequestKind,
)
from tests.allocations.conftest import Bench, make_bench
from tests.allocations.test_runs import submit
from tests.places import join
from tests.postgres import fresh_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    Act = Callable[[], object]

pytestmark = pytest.mark.slow
CREDIT = 1_000_000
SMALL = 13
QUANTUM = 900
LEAD = Actor("lead")
GATE = 20_270_115
WAITING = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
)


@pytest.fixture
def benches(postgres_server: str, tmp_path: Path) -> Iterator[tuple[Bench, Bench]]:
    """Two processes' services over one database."""
    with fresh_database(postgres_server, f"t{uuid.uuid4().hex}", "migrated") as url:
        first = make_bench(url, tmp_path)
        again = make_services(Database(url), first.services.policy, tmp_path, first.clock)
        yield first, Bench(again, first.clock, itertools.count(1000))
        for services in (first.services, again):
            services.database.dispose()


def wait_until_waiting(connection: Connection, count: int) -> None:
    """Wait until so many sessions wait for a lock."""
    deadline = time.monotonic() + 120
    while connection.execute(WAITING).scalar_one() < count:
        assert time.monotonic() < deadline, "nobody came to wait"
        time.sleep(0.01)
        # Within a transaction, the view shows the activity as it was when it was first looked at.
        connection.execute(text("SELECT pg_stat_clear_snapshot()"))


@contextmanager
def commits_held_up(bench: Bench, table: str = "leases") -> Iterator[Connection]:
    """Hold up each COMMIT of what inserts into a table, all of its writes done, until the context ends."""
    with bench.services.database.write() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$"
            )
        )
        connection.execute(
            text(
                f"CREATE CONSTRAINT TRIGGER hold_up AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION hold_up()"
            )
        )
    with bench.services.database.write() as gate:
        gate.execute(text(f"SELECT pg_advisory_xact_lock({GATE})"))
        yield gate


def race(bench: Bench, first: Act, second: Act, table: str = "audit") -> list[object]:
    """Begin the second while the first commits; return what each gave or raised."""
    with ThreadPoolExecutor(2) as pool:
        with commits_held_up(bench, table) as gate:
            running = [pool.submit(first)]
            wait_until_waiting(gate, 1)
            running.append(pool.submit(second))
            wait_until_waiting(gate, 2)
        return [one.exception(120) or one.result() for one in running]


def divide(bench: Bench, parent: str, credits: int, key: str | None = None) -> str:  # noqa: A002  # the unit's name
    return bench.services.tree.divide(
        LEAD,
        parent,
        name="Group",
        microcredits=credits * CREDIT,
        guaranteed=True,
        lead="lead",
        idempotency_key=key,
    )


def leases_in(bench: Bench) -> list[str]:
    with bench.services.database.read() as connection:
        return list(connection.execute(select(leases.c.id)).scalars())


def test_a_repeat_while_the_commit_is_under_way_gets_the_same_lease(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    entry = first.accept("ann")
    request, key = first.request(entry), first.key({"size": "small"}, "once")
    with ThreadPoolExecutor(3) as pool:
        with commits_held_up(first) as gate:
            asked = first.services.leases.submit(request, key)
            wait_until_waiting(gate, 1)
            repeats = [pool.submit(second.services.leases.acquire, request, key) for _ in range(2)]
            wait_until_waiting(gate, 2)
            assert not asked.done()
            assert leases_in(second) == []
        answers = [asked.result(120), *(one.result(120) for one in repeats)]
    assert answers[1:] == answers[:1] * 2
    assert leases_in(first) == [answers[0].id]
    first.assert_clean()


def test_another_request_with_the_key_while_the_commit_is_under_way_is_a_conflict(
    benches: tuple[Bench, Bench],
) -> None:
    """On another tree: no balance makes it wait, the key itself does."""
    first, second = benches
    entry, whole = first.accept("ann"), first.consortium("ann")
    key = first.key({"allocation": entry}, "once")
    other = replace(key, request_hash=first.key({"allocation": whole}, "once").request_hash)
    with ThreadPoolExecutor(1) as pool:
        with commits_held_up(first) as gate:
            asked = first.services.leases.submit(first.request(entry), key)
            wait_until_waiting(gate, 1)
            conflict = pool.submit(second.services.leases.acquire, second.request(whole), other)
            wait_until_waiting(gate, 2)
        lease = asked.result(120)
        with pytest.raises(IdempotencyConflictError):
            conflict.result(120)
    assert leases_in(first) == [lease.id]
    first.assert_clean()


def limited_in_hours(bench: Bench) -> str:
    root = bench.consortium(credits=100)
    with bench.services.database.write() as connection:
        bench.services.lifecycle.supplement(connection, root, Award(core_hours=100, gpu_hours=10), "admin", "more")
    return root


def test_the_end_of_a_lease_in_several_units_waits_for_an_admission_and_not_both_for_each_other(
    benches: tuple[Bench, Bench],
) -> None:
    """An admission locks a node's units in their order; whoever had taken a later one first would wait in a circle."""
    first, second = benches
    root = limited_in_hours(first)
    lease = first.acquire(root, "lead")
    first.services.leases.start(lease.id)
    first.clock.pass_seconds(100)
    here = select(balances.c.unit).where(balances.c.allocation_id == root)
    with ThreadPoolExecutor(1) as pool:
        with first.services.database.write() as connection:
            connection.execute(here.where(balances.c.unit == Unit.CORE_SECONDS).with_for_update()).all()
            settled = pool.submit(second.services.leases.settle, lease.id)
            wait_until_waiting(connection, 1)
            first.services.lifecycle.ledger.balances(connection, [root], lock=True)
        assert settled.result(120).state == "settled"
    first.assert_clean()


def test_a_unit_that_is_opened_while_a_lease_ends_below_counts_it_once(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    root = first.consortium(credits=100)
    part = first.services.tree.divide(
        LEAD, root, name="Group", microcredits=50 * CREDIT, guaranteed=True, lead="lead", core_hours=100
    )
    lease = first.acquire(part, "lead")
    first.services.leases.start(lease.id)
    first.clock.pass_seconds(100)
    with ThreadPoolExecutor(1) as pool:
        with first.services.database.write() as connection:
            first.services.lifecycle.supplement(connection, root, Award(core_hours=1), "admin", "more")
            settled = pool.submit(second.services.leases.settle, lease.id)
            wait_until_waiting(connection, 1)
        assert settled.result(120).state == "settled"
    with first.services.database.read() as connection:
        found = first.services.lifecycle.ledger.balance(connection, root, Unit.CORE_SECONDS)
    assert (found.held, found.posted) == (0, 100)
    first.assert_clean()


# ------------------------------------------------------------------ of two that would each be right alone


def test_the_last_credits_are_held_once(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    root = first.consortium(credits=1)
    poor = SMALL * QUANTUM - CREDIT
    with first.services.database.write() as connection:
        first.services.lifecycle.change_limit(connection, root, poor, "t", TransactionKind.GRANT, "poor")
    won, lost = race(first, lambda: first.acquire(root, "lead"), lambda: second.acquire(root, "lead"), "leases")
    assert isinstance(won, LeaseView)
    assert isinstance(lost, InsufficientBalanceError)
    first.assert_clean()


def test_the_last_place_to_run_is_taken_once(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    entry = first.accept("ann")
    won, lost = race(first, lambda: first.acquire(entry), lambda: second.acquire(entry), "leases")
    assert isinstance(won, LeaseView)
    assert isinstance(lost, AtOnceLimitError)


def test_a_run_is_claimed_by_one_of_two_executors(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    run = submit(first, first.consortium(), "lead")
    with ThreadPoolExecutor(2) as pool, commits_held_up(first) as gate:
        claimed = pool.submit(first.services.runs.claim, "one", 5)
        wait_until_waiting(gate, 1)
        # Nor does the second wait for the first: there may be others to be claimed.
        assert pool.submit(second.services.runs.claim, "two", 5).result(120) == []
        gate.rollback()
        assert [one.id for one in claimed.result(120)] == [run.id]
    first.assert_clean()


def test_a_start_that_waits_for_a_closing_finds_the_allocation_closed(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    root = first.consortium()
    part = divide(first, root, 10)
    _, lost = race(first, lambda: first.services.tree.close(LEAD, part, "over"), lambda: second.acquire(part, "lead"))
    assert isinstance(lost, AllocationNotActiveError)
    first.assert_clean()


def test_a_closing_that_waits_for_a_division_closes_what_was_divided(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    part = divide(first, first.consortium(), 10)
    inner, closed = race(first, lambda: divide(first, part, 5), lambda: second.services.tree.close(LEAD, part, "over"))
    assert isinstance(inner, str)
    assert closed is None
    with first.services.database.read() as connection:
        assert first.services.lifecycle.authority.find(connection, inner).state is AllocationState.CLOSED


def test_a_lease_ends_once_whoever_ends_it(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    lease = first.acquire(first.accept("ann"))
    first.services.leases.start(lease.id)
    first.clock.pass_seconds(100)
    ended = race(
        first,
        lambda: first.services.leases.settle(lease.id),
        lambda: second.services.leases.expire(lease.id),
        "journal",
    )
    assert ended[0] == ended[1]
    first.assert_clean()


def test_a_start_that_is_reported_while_the_lease_ends_changes_nothing(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    lease = first.acquire(first.accept("ann"))
    first.clock.pass_seconds(100)
    ended, late = race(
        first,
        lambda: first.services.leases.settle(lease.id),
        lambda: second.services.leases.start(lease.id),
        "journal",
    )
    assert late == ended
    first.assert_clean()


def test_a_report_that_waits_for_the_workers_guess_corrects_it(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    lease = first.acquire(first.accept("ann"))
    first.services.leases.start(lease.id)
    with first.services.database.read() as connection:
        known = first.services.lease_store.get(connection, lease.id)
    assert known is not None
    first.clock.pass_seconds(100)
    race(
        first,
        lambda: first.services.leases.end_gone([known]),
        lambda: second.services.leases.settle(lease.id, first.clock.at_ms),
        "journal",
    )
    assert first.services.leases.get(lease.id).charged_microcredits == SMALL * 100
    first.assert_clean()


def test_a_guess_is_corrected_once(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    lease = first.acquire(first.accept("ann"))
    first.services.leases.expire(lease.id)
    first.clock.pass_seconds(100)
    corrected, again = race(
        first,
        lambda: first.services.leases.settle(lease.id, first.clock.at_ms),
        lambda: second.services.leases.settle(lease.id, first.clock.at_ms - 50_000),
        "journal",
    )
    assert corrected == again
    assert first.services.leases.get(lease.id).charged_microcredits == SMALL * 100
    first.assert_clean()


def test_a_renewal_that_waits_for_the_end_finds_the_lease_ended(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    lease = first.acquire(first.accept("ann"))
    first.services.leases.start(lease.id)
    first.clock.pass_seconds(700)
    _, lost = race(
        first,
        lambda: first.services.leases.settle(lease.id),
        lambda: second.services.leases.renew(lease.id),
        "journal",
    )
    assert isinstance(lost, LeaseEndedError)
    first.assert_clean()


def test_the_last_credits_are_held_by_a_start_or_by_a_renewal(benches: tuple[Bench, Bench]) -> None:
    """Each takes what it saw free: without the lock of the path before that look, both would."""
    first, second = benches
    root = first.consortium(credits=1)
    running = first.acquire(root, "lead", server="a")
    first.services.leases.start(running.id)
    first.clock.pass_seconds(700)
    with first.services.database.write() as connection:
        spare = SMALL * QUANTUM * 2 - CREDIT
        first.services.lifecycle.change_limit(connection, root, spare, "t", TransactionKind.GRANT, "poor")
    started, renewed = race(
        first,
        lambda: first.acquire(root, "lead", server="b"),
        lambda: second.services.leases.renew(running.id),
        "leases",
    )
    assert isinstance(started, LeaseView)
    assert isinstance(renewed, LeaseView)
    assert renewed.final, "there was nothing left to hold ahead"
    first.assert_clean()


def test_a_part_of_the_whole_is_promised_once(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    root = first.consortium(credits=100)
    won, lost = race(first, lambda: divide(first, root, 60), lambda: divide(second, root, 60))
    assert isinstance(won, str)
    assert isinstance(lost, InvalidInputError)


def test_a_share_grows_into_what_is_left_once(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    root = first.consortium(credits=100)
    one, two = divide(first, root, 10), divide(first, root, 10)
    won, lost = race(
        first,
        lambda: first.services.tree.change_share(LEAD, one, 60 * CREDIT),
        lambda: second.services.tree.change_share(LEAD, two, 60 * CREDIT),
    )
    assert won is None
    assert isinstance(lost, InvalidInputError)


def test_a_division_that_is_repeated_while_it_commits_is_one(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    root = first.consortium(credits=100)
    one, other = race(first, lambda: divide(first, root, 30, "key"), lambda: divide(second, root, 30, "key"))
    assert isinstance(one, str)
    assert other == one


def test_what_is_free_is_moved_once(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    root = first.consortium(credits=100)
    one, two = divide(first, root, 1), divide(first, root, 1)
    held = first.acquire(one, "lead", "compute").held_microcredits
    amount = (CREDIT - held) * 2 // 3
    assert 2 * amount < CREDIT, "both together are within the limit, and not within what is free"
    won, lost = race(
        first,
        lambda: first.services.tree.move(LEAD, one, two, amount),
        lambda: second.services.tree.move(LEAD, one, two, amount),
    )
    assert won is None
    assert isinstance(lost, InsufficientBalanceError)
    first.assert_clean()


def test_a_request_is_decided_once(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    first.accept("ann")
    asked = first.services.requests.submit(Actor("ann"), tier="research", title="Dark stars", justification="We look.")

    def approve(bench: Bench, reviewer: str) -> Act:
        actor = Actor(reviewer, reviewer=True)
        return lambda: bench.services.requests.act(actor, asked.id, RequestAction.APPROVE, "sound")

    won, lost = race(first, approve(first, "rev"), approve(second, "rev2"))
    assert isinstance(won, Request)
    assert isinstance(lost, TransitionError)
    assert len(first.services.reports.allocations_of("ann")) == 2


def test_the_same_is_asked_for_once(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    root = first.consortium()

    def ask(bench: Bench) -> Act:
        return lambda: bench.services.requests.ask(LEAD, root, RequestKind.SUPPLEMENT, "For science.", 5)

    won, lost = race(first, ask(first), ask(second))
    assert isinstance(won, Request)
    assert isinstance(lost, TransitionError)


def test_an_invitation_is_taken_or_revoked(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    root = first.consortium()
    invitation = first.services.members.invite(LEAD, root, "ann", MemberRole.MEMBER)
    won, lost = race(
        first,
        lambda: first.services.members.revoke(LEAD, invitation.id),
        lambda: second.services.members.answer(Actor("ann"), invitation.id, accept=True),
    )
    assert isinstance(won, Invitation)
    assert isinstance(lost, TransitionError)


def test_the_last_place_of_a_team_is_offered_once(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    entry = first.accept("ann")
    with first.services.database.write() as connection:
        first.services.lifecycle.allocations.change(connection, entry, tier="research")
    most = first.services.policy.tier("research").people_max
    assert most is not None
    ann = Actor("ann")
    for number in range(most - 2):
        first.services.members.invite(ann, entry, f"p{number}", MemberRole.MEMBER)
    won, lost = race(
        first,
        lambda: first.services.members.invite(ann, entry, "bob", MemberRole.MEMBER),
        lambda: second.services.members.invite(ann, entry, "eve", MemberRole.MEMBER),
    )
    assert isinstance(won, Invitation)
    assert isinstance(lost, NotAllowedError)


@pytest.mark.parametrize("step_down", [False, True])
def test_one_of_two_leads_stays(benches: tuple[Bench, Bench], step_down: bool) -> None:
    first, second = benches
    root = first.consortium()
    join(first.services.members, LEAD, root, "ann", MemberRole.LEAD)

    def leave(bench: Bench, person: str) -> Act:
        members = bench.services.members
        if step_down:
            return lambda: members.change(Actor(person), root, person, role=MemberRole.MEMBER)
        return lambda: members.remove(Actor(person), root, person)

    _, lost = race(first, leave(first, "lead"), leave(second, "ann"))
    assert isinstance(lost, NotAllowedError)
    with first.services.database.read() as connection:
        members = first.services.members.allocations.members(connection, [root])
    assert [one.person for one in members if one.role is MemberRole.LEAD] == ["ann"]


def test_a_publication_that_two_add_at_once_is_one(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    nodes = first.accept("ann"), first.accept("bob")

    def add(bench: Bench, person: str, node: str) -> Act:
        return lambda: bench.services.publications.add(Actor(person), node, "10.3847/1538-4357/abcdef", "Stars")

    one, other = race(first, add(first, "ann", nodes[0]), add(second, "bob", nodes[1]))
    assert isinstance(one, Publication)
    assert isinstance(other, Publication)
    assert one.id == other.id
    with first.services.database.read() as connection:
        assert first.services.publications.count(connection, nodes) == 1


def test_an_agreement_that_is_accepted_twice_at_once_opens_one_allocation(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    version = first.services.policy.agreement.version
    assert race(
        first,
        lambda: first.services.agreements.accept("ann", version),
        lambda: second.services.agreements.accept("ann", version),
    ) == [None, None]
    assert len(first.services.reports.allocations_of("ann")) == 1


def test_a_renewal_that_two_workers_find_due_begins_once(benches: tuple[Bench, Bench]) -> None:
    first, second = benches
    root = first.consortium(credits=100)
    with first.services.database.write() as connection:
        renewal = Award(credits=50).model_dump_json()
        first.services.lifecycle.allocations.change(connection, root, renewal=renewal)
        end_ms = first.services.lifecycle.authority.find(connection, root).ends_at_ms
    first.clock.at_ms = end_ms
    race(first, first.services.lifecycle.advance, second.services.lifecycle.advance)
    with first.services.database.read() as connection:
        again = first.services.lifecycle.authority.find(connection, root)
        granted = first.services.lifecycle.ledger.balance(connection, root).limit
    days = first.services.policy.tier("consortium").term_days
    assert (again.ends_at_ms, granted) == (end_ms + days * 86_400_000, 50 * CREDIT)
    first.assert_clean()
