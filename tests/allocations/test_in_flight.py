"""Two processes on one PostgreSQL, caught in the middle: a commit that is under way, a lock that is waited for."""

from __future__ import annotations

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
from allocations.errors import IdempotencyConflictError
from allocations.factory import make_services
from allocations.ledger.models import Unit
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award
from tests.allocations.conftest import Bench, make_bench
from tests.postgres import fresh_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

pytestmark = pytest.mark.slow
CREDIT = 1_000_000
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
        yield first, Bench(again, first.clock)
        for services in (first.services, again):
            services.database.dispose()


def wait_until_waiting(connection: Connection, count: int) -> None:
    """Wait until so many sessions wait for a lock."""
    deadline = time.monotonic() + 30
    while connection.execute(WAITING).scalar_one() < count:
        assert time.monotonic() < deadline, "nobody came to wait"
        time.sleep(0.01)
        # Within a transaction, the view shows the activity as it was when it was first looked at.
        connection.execute(text("SELECT pg_stat_clear_snapshot()"))


@contextmanager
def commits_held_up(bench: Bench) -> Iterator[Connection]:
    """Hold up each COMMIT of a lease, all of its writes done, until the context ends."""
    with bench.services.database.write() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER hold_up AFTER INSERT ON leases DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION hold_up()"
            )
        )
    with bench.services.database.write() as gate:
        gate.execute(text(f"SELECT pg_advisory_xact_lock({GATE})"))
        yield gate


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
        answers = [asked.result(30), *(one.result(30) for one in repeats)]
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
        lease = asked.result(30)
        with pytest.raises(IdempotencyConflictError):
            conflict.result(30)
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
            first.services.leases.ledger.balances(connection, [root], lock=True)
        assert settled.result(30).state == "settled"
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
        assert settled.result(30).state == "settled"
    with first.services.database.read() as connection:
        found = first.services.leases.ledger.balance(connection, root, Unit.CORE_SECONDS)
    assert (found.held, found.posted) == (0, 100)
    first.assert_clean()
