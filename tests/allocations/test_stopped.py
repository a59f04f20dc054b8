"""What runs on an allocation that is stopped, itself or above: no start, no renewal, an end within the grace."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from allocations.errors import AllocationNotActiveError
from allocations.leases.models import LeaseKind
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import RUNNING_STATES, USABLE_STATES, AllocationState
from allocations.runs.models import Outcome
from allocations.worker import Worker
from tests.allocations.test_runs import finish, submit
from tests.allocations.test_watch import StubServers, ready

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

pytestmark = pytest.mark.slow

CREDIT = 1_000_000
SMALL = 13
QUANTUM = 900
LEAD, ADMIN = Actor("lead"), Actor("admin", admin=True)
STOPPED = sorted(set(AllocationState) - RUNNING_STATES)


def tree_of(bench: Bench) -> tuple[str, str, str]:
    """A whole, a part of it, and a part of that."""
    root = bench.consortium(credits=100)
    nodes = [root]
    for _ in range(2):
        nodes.append(
            bench.services.tree.divide(
                LEAD, nodes[-1], name="Group", microcredits=20 * CREDIT, guaranteed=True, lead="lead"
            )
        )
    return nodes[0], nodes[1], nodes[2]


def stop(bench: Bench, node: str, state: AllocationState) -> None:
    """Bring one allocation into a state: as people do where they can, and by hand to where only the calendar leads."""
    lifecycle = bench.services.lifecycle
    match state:
        case AllocationState.SUSPENDED:
            lifecycle.suspend(ADMIN, node, "misuse")
        case AllocationState.ARCHIVED:
            lifecycle.archive(ADMIN, node, "over early")
        case AllocationState.CLOSED:
            lifecycle.close(ADMIN, node, "over for good")
        case _:
            begins_ms = bench.clock.at_ms + 86_400_000
            with bench.services.database.write() as connection:
                lifecycle.allocations.change(connection, node, state=state, starts_at_ms=begins_ms)


@pytest.mark.parametrize("above", range(3), ids=["itself", "parent", "root"])
@pytest.mark.parametrize("state", STOPPED)
def test_what_runs_on_a_stopped_allocation_ends_within_the_policys_grace(
    bench: Bench, state: AllocationState, above: int
) -> None:
    nodes = tree_of(bench)
    leaf = nodes[2]
    server = bench.acquire(leaf, "lead", server="a")
    bench.services.leases.start(server.id)
    submit(bench, leaf, "lead", max_seconds=7200)
    (run,) = bench.services.runs.claim("batch", 1)
    bench.services.runs.progress(
        run.id, attempt=1, started_at_ms=bench.clock.at_ms, cells_done=0, cells_total=1, current_cell=0
    )
    servers = StubServers({("lead", "a"): ready(bench)})
    worker = Worker(bench.services, servers, "w")
    stop(bench, nodes[2 - above], state)
    with pytest.raises(AllocationNotActiveError):
        bench.acquire(leaf, "lead", server="b")
    grace = bench.services.policy.leases.allocation_end_grace_seconds
    assert grace == QUANTUM
    for _ in range(grace // 60):
        assert worker.tick()
        assert servers.stopped == []
        assert not bench.services.runs.get("lead", run.id).cancel_requested
        bench.clock.pass_seconds(60)
        assert bench.services.leases.get(server.id).ends_at == server.ends_at, "it is not renewed"
    assert bench.services.leases.get(server.id).final
    assert worker.tick()
    assert set(servers.stopped) == {("lead", "a")}
    assert bench.services.runs.get("lead", run.id).cancel_requested
    assert bench.services.leases.settle(server.id).charged_microcredits == SMALL * grace
    finish(bench, run, Outcome.CANCELLED, grace)
    assert bench.services.runs.get("lead", run.id).charged_microcredits == SMALL * grace
    bench.assert_clean()


@pytest.mark.parametrize("state", sorted(set(AllocationState) - USABLE_STATES))
@pytest.mark.parametrize("above", range(3), ids=["itself", "parent", "root"])
def test_nothing_starts_on_an_allocation_that_is_not_usable(bench: Bench, state: AllocationState, above: int) -> None:
    nodes = tree_of(bench)
    with bench.services.database.write() as connection:
        bench.services.lifecycle.allocations.change(connection, nodes[2 - above], state=state)
    asked = bench.request(nodes[2], "lead")
    for request in (asked, replace(asked, kind=LeaseKind.BATCH, max_seconds=60)):
        with pytest.raises(AllocationNotActiveError):
            bench.services.leases.acquire(request, bench.key())


def test_a_run_that_nobody_stops_is_charged_to_the_end_of_the_grace(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    submit(bench, root, "lead", max_seconds=7200)
    (run,) = bench.services.runs.claim("batch", 1)
    bench.services.runs.progress(
        run.id, attempt=1, started_at_ms=bench.clock.at_ms, cells_done=0, cells_total=1, current_cell=0
    )
    worker = Worker(bench.services, StubServers(), "w")
    bench.services.lifecycle.suspend(ADMIN, root, "misuse")
    worker.tick()
    grace = bench.services.policy.leases.allocation_end_grace_seconds
    bench.clock.pass_seconds(grace + bench.services.policy.leases.stop_grace_seconds)
    worker.tick()
    ended = bench.services.runs.get("lead", run.id)
    assert (ended.state, ended.charged_microcredits) == ("timed_out", SMALL * grace)
    bench.assert_clean()


def test_nothing_starts_before_the_beginning_or_from_the_end_on_whatever_the_calendar_has_done(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    with bench.services.database.read() as connection:
        allocation = bench.services.lifecycle.authority.find(connection, root)
    for offset_ms, refused in ((-1, False), (0, True)):
        bench.clock.at_ms = allocation.ends_at_ms + offset_ms
        bench.services.agreements.accept("lead", bench.services.policy.agreement.version)
        with pytest.raises(AllocationNotActiveError, match="has ended") if refused else nullcontext():
            bench.acquire(root, "lead", server=str(offset_ms))
    bench.clock.at_ms = allocation.starts_at_ms - 1
    with pytest.raises(AllocationNotActiveError, match="has not begun"):
        bench.acquire(root, "lead", server="early")
