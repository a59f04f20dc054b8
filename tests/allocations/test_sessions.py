"""How long a running server can go on, what ends it, and what an extension changes of that."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from allocations.clock import MS_PER_DAY, from_datetime
from allocations.errors import LeaseEndedError, NotFoundError, TransitionError
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.leases.views import StopReason
from allocations.leases.watch import ServerStatus
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, OverrideLimits, OverrideSubject
from tests.allocations.conftest import START_MS
from tests.allocations.test_watch import QUANTUM, SMALL, StubServers, watch_of
from tests.places import join

if TYPE_CHECKING:
    from allocations.leases.views import LeaseView, OutlookView
    from tests.allocations.conftest import Bench

ADMIN = Actor("root", admin=True)
CREDIT = 1_000_000
SESSION = 86_400
GRACE = 900


def running(bench: Bench, allocation: str, person: str = "ann") -> LeaseView:
    lease = bench.acquire(allocation, person)
    return bench.services.leases.start(lease.id)


def seconds(at: str | None) -> float:
    """Seconds since the tests' first moment."""
    assert at is not None
    return (from_datetime(datetime.fromisoformat(at)) - START_MS) / 1000


def outlook(bench: Bench, lease: LeaseView) -> OutlookView:
    return bench.services.sessions.outlook(lease.id)


def test_a_server_in_use_goes_on_until_its_session_ends(bench: Bench) -> None:
    lease = running(bench, bench.accept("ann"))
    found = outlook(bench, lease)
    assert (found.reason, seconds(found.stops_at)) == (StopReason.SESSION, SESSION)
    assert seconds(found.renews_at) == QUANTUM - 300
    assert found.detail == "No session of the Entry tier lasts longer."
    assert not found.may_last_longer
    assert found.microcredits_per_hour == SMALL * 3600


def test_a_balance_that_ends_first_is_named_with_its_last_second(bench: Bench) -> None:
    lead = bench.consortium(credits=100)
    part = bench.services.tree.divide(
        Actor("lead"), lead, name="Shear", microcredits=SMALL * (QUANTUM + 4000), guaranteed=False, lead="lead"
    )
    lease = running(bench, part, "lead")
    found = outlook(bench, lease)
    assert (found.reason, seconds(found.stops_at)) == (StopReason.BALANCE, QUANTUM + 4000)
    assert "“Shear”" in found.detail
    # And so it comes, whatever is renewed on the way.
    while not bench.services.leases.get(lease.id).final:
        bench.clock.pass_seconds(600)
        bench.services.leases.renew(lease.id)
    found = outlook(bench, lease)
    assert (seconds(found.stops_at), found.renews_at) == (QUANTUM + 4000, None)


def test_the_balance_of_whatever_is_above_binds_too(bench: Bench) -> None:
    whole = bench.consortium(credits=1)
    part = bench.services.tree.divide(
        Actor("lead"), whole, name="Shear", microcredits=CREDIT, guaranteed=False, lead="lead"
    )
    running(bench, whole, "lead")
    join(bench.services.members, Actor("lead"), part, "ann", MemberRole.MEMBER)
    bench.accept("ann")
    found = outlook(bench, running(bench, part))
    assert (found.reason, seconds(found.stops_at)) == (StopReason.BALANCE, CREDIT // SMALL - QUANTUM)
    assert "“Deep fields”" in found.detail


def test_an_allocation_that_ends_first_stops_it_within_the_grace(bench: Bench) -> None:
    whole = bench.consortium()
    bench.clock.at_ms += 365 * MS_PER_DAY - 7200 * 1000
    bench.services.agreements.accept("lead", bench.services.policy.agreement.version)
    begun = bench.clock.at_ms
    found = outlook(bench, running(bench, whole, "lead"))
    assert found.reason is StopReason.ALLOCATION
    assert seconds(found.stops_at) == (begun - START_MS) / 1000 + 7200 + GRACE


def test_what_is_not_renewed_says_why(bench: Bench) -> None:
    lease = running(bench, bench.accept("ann"))
    bench.services.lifecycle.suspend(ADMIN, lease.allocation, "misuse")
    found = outlook(bench, lease)
    assert (found.reason, seconds(found.stops_at), found.renews_at) == (StopReason.NOT_RENEWED, QUANTUM, None)
    assert "is suspended" in found.detail


def test_who_has_left_is_not_renewed(bench: Bench) -> None:
    whole = bench.consortium()
    join(bench.services.members, Actor("lead"), whole, "ann", MemberRole.MEMBER)
    bench.accept("ann")
    lease = running(bench, whole)
    bench.services.members.remove(Actor("lead"), whole, "ann")
    found = outlook(bench, lease)
    assert (found.reason, found.detail) == (StopReason.NOT_RENEWED, "You are no member of “Deep fields” any more.")


def test_an_extension_puts_the_idle_stop_off(bench: Bench) -> None:
    lease = running(bench, bench.accept("ann"))
    servers = StubServers({("ann", ""): ServerStatus(ready=True, last_activity_ms=bench.clock.at_ms)})
    watch = watch_of(bench, servers)
    idle_seconds = outlook(bench, lease).idle_seconds
    bench.clock.pass_seconds(idle_seconds - 60)
    extended = bench.services.sessions.extend(lease.id)
    assert seconds(extended.used_at) == idle_seconds - 60
    bench.clock.pass_seconds(idle_seconds - 1)
    watch.look()
    assert servers.stopped == []
    bench.clock.pass_seconds(1)
    watch.look()
    assert servers.stopped == [("ann", "")]


def test_an_extension_takes_up_a_longer_session_and_never_a_shorter_one(bench: Bench) -> None:
    lease = running(bench, bench.accept("ann"))

    def override(longest_session_seconds: int) -> str:
        limits = OverrideLimits(longest_session_seconds=longest_session_seconds)
        return bench.services.overrides.grant(ADMIN, OverrideSubject.PERSON, "ann", limits, "A long fit.", 7).id

    longer = override(2 * SESSION)
    assert outlook(bench, lease).may_last_longer
    assert seconds(outlook(bench, lease).stops_at) == SESSION
    extended = bench.services.sessions.extend(lease.id)
    assert (seconds(extended.stops_at), extended.may_last_longer) == (2 * SESSION, False)
    bench.services.overrides.revoke(ADMIN, longer, "over")
    override(3600)
    assert seconds(bench.services.sessions.extend(lease.id).stops_at) == 2 * SESSION


def test_an_extension_holds_on_at_once_where_there_is_balance_again(bench: Bench) -> None:
    whole = bench.consortium()
    part = bench.services.tree.divide(
        Actor("lead"), whole, name="Shear", microcredits=SMALL * QUANTUM, guaranteed=False, lead="lead"
    )
    lease = running(bench, part, "lead")
    bench.clock.pass_seconds(700)
    assert bench.services.leases.renew(lease.id).final
    assert outlook(bench, lease).renews_at is None
    bench.services.tree.change_share(Actor("lead"), part, CREDIT)
    extended = bench.services.sessions.extend(lease.id)
    assert extended.renews_at is not None
    assert seconds(extended.held_until) == 700 + QUANTUM
    bench.assert_clean()


def test_an_extension_charges_nothing(bench: Bench) -> None:
    lease = running(bench, bench.accept("ann"))
    bench.clock.pass_seconds(100)
    before = bench.services.leases.get(lease.id)
    for _ in range(3):
        bench.services.sessions.extend(lease.id)
    after = bench.services.leases.get(lease.id)
    assert (after.charged_microcredits, after.held_microcredits, after.ends_at) == (
        before.charged_microcredits,
        before.held_microcredits,
        before.ends_at,
    )


def test_what_has_ended_or_is_anothers_or_a_run_is_not_extended(bench: Bench) -> None:
    entry = bench.accept("ann")
    lease = running(bench, entry)
    with pytest.raises(NotFoundError):
        bench.services.sessions.extend(lease.id, "bob")
    bench.services.sessions.extend(lease.id, "ann")
    bench.services.leases.settle(lease.id)
    for call in (bench.services.sessions.extend, bench.services.sessions.outlook):
        with pytest.raises(LeaseEndedError):
            call(lease.id)
    request = LeaseRequest(entry, "ann", LeaseKind.BATCH, "small", None, "", max_seconds=600)
    run = bench.services.leases.acquire(request, bench.key())
    with pytest.raises(TransitionError):
        bench.services.sessions.extend(run.id)
    with pytest.raises(NotFoundError):
        bench.services.sessions.outlook("l-none")


def test_only_ones_own_running_servers_are_listed(bench: Bench) -> None:
    entry = bench.accept("ann")
    assert bench.services.sessions.outlooks_of("ann") == []
    lease = running(bench, entry)
    assert [one.lease for one in bench.services.sessions.outlooks_of("ann")] == [lease.id]
    assert bench.services.sessions.outlooks_of("bob") == []
