"""A locked home or allocation starts nothing but a rescue server, and that starts whatever else is wrong."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from allocations.errors import (
    AtOnceLimitError,
    InsufficientBalanceError,
    SizeNotAllowedError,
    StorageLockedError,
    TransitionError,
    UnknownSizeError,
)
from allocations.leases.models import LeaseKind, LeaseRequest, LeaseState
from allocations.ledger.explain import explain
from allocations.ledger.telling import tell
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, OverrideLimits, OverrideSubject
from allocations.policy.models import RESCUE, Shape
from allocations.storage.models import Owner, StorageClass, StorageState
from tests.allocations.test_runs import submit
from tests.allocations.test_storage_accounts import CREDIT, DAY, GB, home, measures_of
from tests.allocations.test_storage_states import measure
from tests.places import join

if TYPE_CHECKING:
    from allocations.leases.views import LeaseView
    from tests.allocations.conftest import Bench


def lock_home(bench: Bench, person: str = "ann") -> str:
    """Return the entry allocation of a person whose home is locked."""
    entry = bench.accept(person)
    measure(bench, home(bench, person), 11 * GB)
    bench.clock.pass_seconds(14 * DAY)
    return entry


def rescue(bench: Bench, allocation: str, person: str = "ann", server: str = "") -> LeaseView:
    return bench.acquire(allocation, person, RESCUE, server)


def batch(allocation: str, person: str = "ann", size: str = "small") -> LeaseRequest:
    return LeaseRequest(allocation, person, LeaseKind.BATCH, size, None, "", 600)


def check(bench: Bench, request: LeaseRequest) -> None:
    with bench.services.database.read() as connection:
        bench.services.leases.check(connection, request)


def test_a_locked_home_refuses_servers_and_runs_and_says_what_to_do(bench: Bench) -> None:
    entry = lock_home(bench)
    with pytest.raises(StorageLockedError) as refused:
        bench.acquire(entry)
    assert "home" in refused.value.detail
    assert "rescue server" in refused.value.remedy
    with pytest.raises(StorageLockedError):
        check(bench, batch(entry))
    with pytest.raises(StorageLockedError):
        bench.services.leases.acquire(batch(entry), bench.key())
    # A place that somebody else shares is not locked by it.
    other = bench.accept("bob")
    bench.acquire(other, "bob")
    assert rescue(bench, entry).home_state == StorageState.LOCKED


def test_one_second_before_the_lock_servers_start(bench: Bench) -> None:
    entry = bench.accept("ann")
    measure(bench, home(bench, "ann"), 11 * GB)
    bench.clock.pass_seconds(14 * DAY - 1)
    lease = bench.acquire(entry)
    assert lease.home_state == StorageState.OVER
    bench.services.leases.void(lease.id)
    bench.clock.pass_seconds(1)
    with pytest.raises(StorageLockedError):
        bench.acquire(entry)


def test_deleting_files_unlocks_by_the_next_measure(bench: Bench) -> None:
    entry = lock_home(bench)
    measure(bench, home(bench, "ann"), 10 * GB)
    assert bench.acquire(entry).home_state == StorageState.NEARING


def test_a_locked_area_of_an_allocation_locks_that_allocation_alone(bench: Bench) -> None:
    entry = bench.accept("lead")
    node = bench.consortium()
    area = measures_of(bench).open(StorageClass.SCRATCH, Owner(allocation_id=node), node)
    measure(bench, area, 3001 * GB)
    bench.clock.pass_seconds(14 * DAY)
    with pytest.raises(StorageLockedError, match="scratch"):
        bench.acquire(node, "lead")
    assert rescue(bench, node, "lead").size == RESCUE
    assert bench.acquire(entry, "lead").home_state is None


def test_a_rescue_server_starts_without_a_credit_and_on_a_full_allocation(bench: Bench) -> None:
    node = bench.consortium(credits=1)
    bench.accept("ann")
    join(bench.services.members, Actor("lead"), node, "ann", MemberRole.MEMBER)
    bench.services.members.change(Actor("lead"), node, "ann", microcredits_max=1)
    limits = OverrideLimits(cores=2)
    bench.services.overrides.grant(Actor("eve", admin=True), OverrideSubject.ALLOCATION, node, limits, "Small", 30)
    # What is left then, in microcredits: 26. Two cores run, as many as may.
    bench.services.leases.acquire(
        LeaseRequest(node, "lead", LeaseKind.BATCH, "standard", None, "", 29_411), bench.key()
    )
    for size in ("small", "standard"):
        with pytest.raises((AtOnceLimitError, InsufficientBalanceError)):
            bench.acquire(node, "ann", size)
    lease = rescue(bench, node)
    assert (lease.microcredits_per_second, lease.held_microcredits) == (0, 0)
    assert (lease.resources.cores, lease.resources.memory_gib, lease.final) == (1, 4, True)
    bench.assert_clean()


def test_a_rescue_server_needs_no_hours_of_cores(bench: Bench) -> None:
    lead = Actor("lead")
    part = bench.services.tree.divide(
        lead, bench.consortium(), name="Part", microcredits=CREDIT, guaranteed=False, lead="lead", core_hours=1
    )
    bench.services.leases.acquire(LeaseRequest(part, "lead", LeaseKind.BATCH, "small", None, "", 3600), bench.key())
    with pytest.raises(InsufficientBalanceError):
        bench.acquire(part, "lead")
    rescue(bench, part, "lead")
    bench.assert_clean()


def test_a_rescue_server_starts_where_no_size_may(bench: Bench) -> None:
    entry = bench.accept("ann")
    limits = OverrideLimits(largest=(Shape(cores=1, memory_gib=1),))
    bench.services.overrides.grant(Actor("eve", admin=True), OverrideSubject.PERSON, "ann", limits, "Little", 30)
    with pytest.raises(SizeNotAllowedError):
        bench.acquire(entry)
    rescue(bench, entry)


def test_one_s_own_servers_still_count(bench: Bench) -> None:
    entry = bench.accept("ann")
    first = bench.acquire(entry)
    with pytest.raises(AtOnceLimitError, match="one server"):
        rescue(bench, entry, server="other")
    bench.services.leases.void(first.id)
    rescue(bench, entry)
    with pytest.raises(AtOnceLimitError):
        rescue(bench, entry, server="other")


def test_it_runs_an_hour_costs_nothing_and_is_not_renewed(bench: Bench) -> None:
    entry = lock_home(bench)
    leases = bench.services.leases
    lease = rescue(bench, entry)
    leases.start(lease.id)
    assert leases.get(lease.id).ends_at == lease.ends_at
    bench.clock.pass_seconds(3500)
    assert leases.renew(lease.id).ends_at == lease.ends_at
    with pytest.raises(TransitionError, match="rescue"):
        bench.services.sessions.extend(lease.id)
    assert bench.services.sessions.outlook(lease.id).stops_at == lease.ends_at
    assert bench.services.stop_warnings.warn() == 0
    bench.clock.pass_seconds(100)
    assert leases.settle(lease.id).charged_microcredits == 0
    bench.assert_clean()
    with bench.services.database.read() as connection:
        text = StringIO()
        tell(Console(file=text, width=200), explain(connection, lease.id, bench.services.policy))
    assert "free of charge" in text.getvalue()


@pytest.mark.parametrize("end", ["void", "expire", "gone", "gone and told"])
def test_it_ends_in_every_way_that_others_do(bench: Bench, end: str) -> None:
    lease = rescue(bench, bench.accept("ann"))
    leases = bench.services.leases
    if end == "void":
        assert leases.void(lease.id).state is LeaseState.VOIDED
    if end == "expire":
        leases.start(lease.id)
        bench.clock.pass_seconds(4000)
        assert leases.expire(lease.id).state is LeaseState.EXPIRED
    if end.startswith("gone"):
        with bench.services.database.read() as connection:
            [stored] = bench.services.lease_store.open_leases(connection)
        assert leases.end_gone([stored])[lease.id].state is LeaseState.VOIDED
    if end == "gone and told":
        leases.start(lease.id)
        bench.clock.pass_seconds(60)
        assert leases.settle(lease.id, bench.clock.now_ms()).state is LeaseState.SETTLED
    assert leases.get(lease.id).charged_microcredits == 0
    bench.assert_clean()


def test_no_run_is_a_rescue(bench: Bench) -> None:
    entry = bench.accept("ann")
    with pytest.raises(UnknownSizeError):
        check(bench, batch(entry, size=RESCUE))


def test_a_queued_run_waits_for_the_end_of_a_lock_and_is_not_lost(bench: Bench) -> None:
    entry = bench.accept("ann")
    run = submit(bench, entry)
    measure(bench, home(bench, "ann"), 11 * GB)
    bench.clock.pass_seconds(14 * DAY)
    with pytest.raises(StorageLockedError):
        submit(bench, entry)
    for _ in range(2):
        assert bench.services.runs.claim("batch", 5) == []
        waiting = bench.services.runs.get("ann", run.id)
        assert (waiting.state, "locked" in (waiting.waiting_reason or "")) == ("queued", True)
    measure(bench, home(bench, "ann"), GB)
    assert [one.id for one in bench.services.runs.claim("batch", 5)] == [run.id]


def test_the_start_page_offers_nothing_but_the_rescue_of_a_locked_home(bench: Bench) -> None:
    entry = lock_home(bench)
    options = bench.services.offers.start_options("ann")
    assert options.default is None
    assert options.home is not None
    assert (options.home.state, options.home.full) == (StorageState.LOCKED, True)
    [offer] = options.allocations
    assert offer.id == entry
    assert not offer.usable
    assert offer.rescue is not None
    assert offer.rescue.usable
    assert all("locked" in (size.reason or "") for size in offer.sizes)
    assert bench.services.offers.start_options("ann", is_server=False).allocations[0].rescue is None


def test_a_home_over_its_limit_is_offered_with_the_day_of_its_lock(bench: Bench) -> None:
    entry = bench.accept("ann")
    measure(bench, home(bench, "ann"), 10 * GB + 1)
    options = bench.services.offers.start_options("ann")
    assert options.home is not None
    assert (options.home.state, options.home.full) == (StorageState.OVER, False)
    assert (options.home.locks_at or "").startswith("2027-01-29")
    assert options.default is not None
    assert options.default.allocation == entry
