"""Reconciliation: servers without leases are stopped, leases without servers settled, on two looks, never on one."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import httpx
import pytest
from sqlalchemy import select

from allocations import worker
from allocations.clock import from_datetime
from allocations.db.schema import idempotency
from allocations.duties import Duties
from allocations.errors import AllocationNotActiveError
from allocations.leases.watch import LeaseWatch, ServerKey, ServerStatus
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.worker import Worker
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

SMALL = 13
QUANTUM = 900


@dataclass
class StubServers:
    """What the hub would say; a hub that cannot be reached raises."""

    running: dict[ServerKey, ServerStatus] = field(default_factory=dict)
    stopped: list[ServerKey] = field(default_factory=list)
    reachable: bool = True

    def active(self) -> dict[ServerKey, ServerStatus]:
        if not self.reachable:
            raise httpx.ConnectError("refused")
        return dict(self.running)

    def stop(self, key: ServerKey) -> None:
        if not self.reachable:
            raise httpx.ConnectError("refused")
        self.stopped.append(key)


def watch_of(bench: Bench, servers: StubServers) -> LeaseWatch:
    services = bench.services
    return LeaseWatch(
        database=services.database,
        clock=bench.clock,
        rules=services.policy.leases,
        leases=services.leases,
        store=services.lease_store,
        servers=servers,
    )


def ready(bench: Bench) -> ServerStatus:
    return ServerStatus(ready=True, last_activity_ms=bench.clock.at_ms)


def test_a_running_server_is_renewed_for_as_long_as_it_runs(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    servers = StubServers()
    watch = watch_of(bench, servers)
    for _ in range(3600 // 15):
        bench.clock.pass_seconds(15)
        servers.running = {("ann", ""): ready(bench)}
        watch.look()
        watch.keep()
    view = bench.services.leases.get(lease.id)
    assert view.state == "open"
    assert view.held_microcredits >= SMALL * 300
    assert servers.stopped == []
    bench.clock.pass_seconds(7)
    assert bench.services.leases.settle(lease.id).charged_microcredits == SMALL * 3607
    bench.assert_clean()


def test_a_vanished_server_is_settled_when_it_was_last_seen_on_the_second_look(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    servers = StubServers({("ann", ""): ready(bench)})
    watch = watch_of(bench, servers)
    bench.clock.pass_seconds(100)
    watch.look()
    servers.running = {}
    bench.clock.pass_seconds(15)
    watch.look()
    assert bench.services.leases.get(lease.id).state == "open"
    bench.clock.pass_seconds(15)
    watch.look()
    view = bench.services.leases.get(lease.id)
    assert (view.state, view.charged_microcredits) == ("settled", SMALL * 100)
    bench.assert_clean()


def test_a_server_that_comes_back_between_two_looks_keeps_its_lease(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    servers = StubServers()
    watch = watch_of(bench, servers)
    watch.look()
    servers.running = {("ann", ""): ready(bench)}
    bench.clock.pass_seconds(15)
    watch.look()
    servers.running = {}
    bench.clock.pass_seconds(15)
    watch.look()
    assert bench.services.leases.get(lease.id).state == "open"


def test_two_looks_are_two_in_a_row(bench: Bench) -> None:
    """Missing, then on its way up, then missing again: that is one look, not two."""
    lease = bench.acquire(bench.accept("ann"))
    servers = StubServers()
    watch = watch_of(bench, servers)
    for running in ({}, {("ann", ""): ServerStatus(ready=False, last_activity_ms=None)}, {}):
        servers.running = running
        watch.look()
        bench.clock.pass_seconds(15)
    assert bench.services.leases.get(lease.id).state == "open"
    watch.look()
    assert bench.services.leases.get(lease.id).state == "voided"


def test_a_lease_whose_server_never_came_up_is_voided(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    watch = watch_of(bench, StubServers())
    watch.look()
    bench.clock.pass_seconds(15)
    watch.look()
    view = bench.services.leases.get(lease.id)
    assert (view.state, view.charged_microcredits) == ("voided", 0)


def test_an_older_lease_of_the_same_server_is_not_taken_for_the_running_one(bench: Bench) -> None:
    root = bench.consortium()
    orphan = bench.acquire(root, "lead")
    bench.clock.pass_seconds(1)
    current = bench.acquire(root, "lead")
    bench.services.leases.start(current.id)
    watch = watch_of(bench, StubServers({("lead", ""): ready(bench)}))
    watch.look()
    bench.clock.pass_seconds(15)
    watch.look()
    assert bench.services.leases.get(orphan.id).state == "voided"
    assert bench.services.leases.get(current.id).state == "open"


def test_a_server_without_a_lease_is_stopped_on_the_second_look(bench: Bench) -> None:
    servers = StubServers({("eve", "x"): ready(bench), ("bob", ""): ServerStatus(ready=False, last_activity_ms=None)})
    watch = watch_of(bench, servers)
    watch.look()
    assert servers.stopped == []
    bench.clock.pass_seconds(15)
    watch.look()
    assert servers.stopped == [("eve", "x")]


def test_nothing_is_concluded_from_a_hub_that_does_not_answer(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    servers = StubServers(reachable=False)
    worker = Worker(bench.services, servers, "w1")
    for _ in range(200):
        bench.clock.pass_seconds(15)
        assert worker.tick()
    view = bench.services.leases.get(lease.id)
    assert view.state == "open"
    assert view.charged_microcredits == 0
    servers.reachable = True
    servers.running = {("ann", ""): ready(bench)}
    bench.clock.pass_seconds(15)
    worker.tick()
    assert bench.services.leases.settle(lease.id).charged_microcredits == SMALL * 15 * 201
    bench.assert_clean()


def test_a_server_that_cannot_renew_is_stopped_and_its_lease_ends_at_its_end(bench: Bench) -> None:
    entry = bench.accept("ann")
    lease = bench.acquire(entry)
    bench.services.leases.start(lease.id)
    bench.services.lifecycle.suspend(Actor("admin", admin=True), entry, "misuse")
    servers = StubServers({("ann", ""): ready(bench)})
    watch = watch_of(bench, servers)
    bench.clock.pass_seconds(QUANTUM - 1)
    watch.keep()
    assert servers.stopped == []
    bench.clock.pass_seconds(2)
    watch.keep()
    assert servers.stopped == [("ann", "")]
    bench.clock.pass_seconds(200)
    watch.keep()
    view = bench.services.leases.get(lease.id)
    assert (view.state, view.charged_microcredits) == ("expired", SMALL * QUANTUM)
    bench.assert_clean()


def test_an_idle_server_is_stopped(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    servers = StubServers({("ann", ""): ready(bench)})
    watch = watch_of(bench, servers)
    bench.clock.pass_seconds(3599)
    watch.look()
    assert servers.stopped == []
    bench.clock.pass_seconds(1)
    watch.look()
    assert servers.stopped == [("ann", "")]


def test_one_worker_has_the_duty_and_another_takes_over(bench: Bench) -> None:
    first, second = (Worker(bench.services, StubServers(), name) for name in ("w1", "w2"))
    assert first.tick()
    assert not second.tick()
    bench.clock.pass_seconds(10)
    assert first.tick()
    bench.clock.pass_seconds(21)
    assert second.tick()
    assert not first.tick()
    second.lay_down()
    assert first.tick()
    assert Duties(bench.services.database, bench.clock).lag_seconds("worker") == pytest.approx(0)


def test_the_server_of_a_person_who_leaves_is_stopped_at_once_and_charged_until_then(bench: Bench) -> None:
    root = bench.consortium()
    bench.accept("ann")
    join(bench.services.members, Actor("lead"), root, "ann", MemberRole.MEMBER)
    leases = [bench.acquire(root, "ann"), bench.acquire(root, "lead")]
    for lease in leases:
        bench.services.leases.start(lease.id)
    servers = StubServers({("ann", ""): ready(bench), ("lead", ""): ready(bench)})
    watch = watch_of(bench, servers)
    bench.clock.pass_seconds(100)
    watch.keep()
    assert servers.stopped == []
    bench.services.members.remove(Actor("lead"), root, "ann")
    watch.keep()
    assert servers.stopped == [("ann", "")]
    bench.clock.pass_seconds(5)
    settled = bench.services.leases.settle(leases[0].id)
    assert settled.charged_microcredits == SMALL * 105
    assert bench.services.leases.get(leases[1].id).state == "open"
    bench.assert_clean()


def test_what_runs_when_its_allocation_ends_goes_on_for_the_policys_grace_and_no_longer(bench: Bench) -> None:
    root = bench.consortium()
    with bench.services.database.read() as connection:
        allocation = bench.services.lifecycle.allocations.get(connection, root)
    assert allocation is not None
    bench.clock.at_ms = allocation.ends_at_ms - 60_000
    bench.services.lifecycle.advance()
    lease = bench.acquire(root, "lead")
    bench.services.leases.start(lease.id)
    servers = StubServers({("lead", ""): ready(bench)})
    watch = watch_of(bench, servers)
    bench.clock.pass_seconds(660)
    bench.services.lifecycle.advance()
    watch.keep()
    grace_ms = bench.services.policy.leases.allocation_end_grace_seconds * 1000
    view = bench.services.leases.get(lease.id)
    assert (from_datetime(datetime.fromisoformat(view.ends_at)), view.final) == (allocation.ends_at_ms + grace_ms, True)
    bench.accept("lead")
    with pytest.raises(AllocationNotActiveError):
        bench.acquire(root, "lead", server="another")
    bench.clock.at_ms = allocation.ends_at_ms + grace_ms
    watch.keep()
    assert servers.stopped == [("lead", "")]
    bench.services.leases.settle(lease.id)
    bench.assert_clean()


def test_a_clock_that_was_ahead_before_a_restart_moves_no_charge_backwards(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(700)
    bench.services.leases.renew(lease.id)
    bench.clock.pass_seconds(-400)
    bench.services.leases.renew(lease.id)
    settled = bench.services.leases.settle(lease.id)
    assert settled.charged_microcredits == SMALL * 700
    bench.assert_clean()


def test_a_second_look_that_comes_too_soon_ends_nothing(bench: Bench) -> None:
    """Two workers may look one right after the other."""
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    looks = [watch_of(bench, StubServers()) for _ in range(2)]
    for watch in looks:
        watch.look()
        assert bench.services.leases.get(lease.id).state == "open"
    bench.clock.pass_seconds(bench.services.policy.leases.reconcile_seconds)
    looks[0].look()
    assert bench.services.leases.get(lease.id).state == "settled"


def test_the_worker_forgets_answers_that_are_older_than_the_policy_says(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "FORGET_MAX", 2)
    entry = bench.accept("ann")
    request, worker_of = bench.request(entry), Worker(bench.services, StubServers(), "w1")
    for number in range(5):
        lease = bench.services.leases.acquire(request, bench.key(key=f"old-{number}"))
        bench.services.leases.void(lease.id)
    bench.clock.pass_seconds(bench.services.policy.leases.answers_kept_days * 86_400 + 1)
    kept = bench.services.leases.acquire(request, bench.key(key="new"))
    assert worker_of.tick()
    with bench.services.database.read() as connection:
        assert connection.execute(select(idempotency.c.key)).scalars().all() == ["new"]
    assert bench.services.leases.acquire(request, bench.key(key="new")) == kept
    bench.assert_clean()
