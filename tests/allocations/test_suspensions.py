"""Suspended people: nothing new starts, what runs is stopped in time, they read why; and runs of ended accounts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from allocations.errors import (
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    PersonSuspendedError,
    TransitionError,
)
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, Person
from allocations.lifecycle.suspensions import GRACE_SECONDS_MAX
from allocations.notify.truth import TruthService
from allocations.outbox import NoticeKind
from allocations.worker import Worker
from tests.allocations.test_api import call, client  # noqa: F401  # a fixture
from tests.allocations.test_runs import SMALL, submit
from tests.allocations.test_watch import StubServers, ready
from tests.places import join

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from tests.allocations.conftest import Bench

ADMIN = Actor("admin", admin=True)
GRACE = 600


@pytest.fixture
def root(bench: Bench) -> str:
    """A consortium in which ann is a member beside its lead."""
    made = bench.consortium()
    bench.accept("ann")
    join(bench.services.members, Actor("lead"), made, "ann", MemberRole.MEMBER)
    return made


def suspend(bench: Bench, person: str = "ann", grace_seconds: int = GRACE) -> None:
    bench.services.suspensions.suspend(ADMIN, person, "Mining.", grace_seconds)


def test_nothing_new_starts_for_who_is_suspended_and_everything_for_others_until_it_is_lifted(
    bench: Bench, root: str
) -> None:
    suspend(bench)
    with pytest.raises(PersonSuspendedError, match=r"The reason: Mining\."):
        bench.acquire(root)
    with pytest.raises(PersonSuspendedError):
        submit(bench, root)
    offers = bench.services.offers.start_options("ann").allocations
    assert {offer.usable for offer in offers} == {False}
    assert all("Mining." in (offer.reason or "") for offer in offers)
    assert bench.acquire(root, "lead").state == "open"
    bench.services.suspensions.lift(ADMIN, "ann", "A mistake.")
    assert bench.acquire(root).state == "open"


def test_what_runs_is_stopped_when_the_suspension_says_and_charged_until_then(bench: Bench, root: str) -> None:
    server = bench.acquire(root)
    bench.services.leases.start(server.id)
    submit(bench, root, max_seconds=7200)
    (run,) = bench.services.runs.claim("batch", 1)
    waits = submit(bench, root, max_seconds=7200)
    bench.services.runs.progress(
        run.id, attempt=1, started_at_ms=bench.clock.at_ms, cells_done=0, cells_total=1, current_cell=0
    )
    servers = StubServers({("ann", ""): ready(bench)})
    worker = Worker(bench.services, servers, "w")
    worker.tick()
    suspend(bench)
    worker.tick()
    assert bench.services.runs.get("ann", waits.id).state == "cancelled"
    bench.clock.pass_seconds(GRACE - 1)
    worker.tick()
    assert servers.stopped == []
    assert not bench.services.runs.get("ann", run.id).cancel_requested
    bench.clock.pass_seconds(1)
    worker.tick()
    assert servers.stopped == [("ann", "")]
    assert bench.services.runs.get("ann", run.id).cancel_requested
    assert bench.services.leases.settle(server.id, bench.clock.at_ms).charged_microcredits == SMALL * GRACE
    bench.assert_clean()


def test_a_lease_that_slipped_in_is_stopped_and_never_renewed(bench: Bench, root: str) -> None:
    server = bench.acquire(root)
    bench.services.leases.start(server.id)
    suspend(bench, grace_seconds=0)
    bench.clock.pass_seconds(60)
    before = bench.services.leases.get(server.id)
    renewed = bench.services.leases.renew(server.id)
    assert (renewed.ends_at, renewed.final) == (before.ends_at, True)
    assert bench.services.leases.end_suspended() == 1
    # A worker that was away for a minute does not charge less than what has run.
    assert bench.services.leases.settle(server.id).charged_microcredits == SMALL * 60


def test_it_is_attributed_audited_and_told(bench: Bench) -> None:
    bench.accept("ann")
    suspend(bench)
    assert bench.services.reports.person(ADMIN, "ann").suspension is not None
    told = bench.services.inbox.inbox("ann").notices[0]
    assert (told.kind, "The reason: Mining." in told.text) == (NoticeKind.PERSON_SUSPENDED, True)
    bench.services.suspensions.lift(ADMIN, "ann", "Cleared.")
    assert bench.services.reports.person(ADMIN, "ann").suspension is None
    bench.clock.pass_seconds(1)
    entries = bench.services.reports.audit_log(subject="ann")[:2]
    assert [(one.action, one.actor, one.why) for one in entries] == [
        ("person.resume", "admin", "Cleared."),
        ("person.suspend", "admin", "Mining."),
    ]


def test_a_suspension_that_was_lifted_is_not_mailed_any_more(bench: Bench) -> None:
    bench.accept("ann")
    suspend(bench)
    truth = TruthService(notices=bench.services.inbox.notices)

    def told() -> list[NoticeKind]:
        with bench.services.database.write() as connection:
            waiting = truth.notices.lock_waiting(connection, "ann")
            return [one.kind for one in truth.still_true(connection, waiting, bench.clock.at_ms)]

    assert told() == [NoticeKind.PERSON_SUSPENDED]
    bench.services.suspensions.lift(ADMIN, "ann", "Cleared.")
    assert told() == [NoticeKind.PERSON_RESUMED]


def test_what_cannot_be_says_why(bench: Bench) -> None:
    bench.accept("ann")
    bench.accept("admin")
    service = bench.services.suspensions
    with pytest.raises(NotAllowedError):
        service.suspend(Actor("lead"), "ann", "No.", 0)
    with pytest.raises(NotAllowedError, match="Nobody suspends themselves"):
        service.suspend(ADMIN, "admin", "Me.", 0)
    with pytest.raises(InvalidInputError, match="A reason"):
        service.suspend(ADMIN, "ann", " ", 0)
    with pytest.raises(InvalidInputError, match="days at most"):
        service.suspend(ADMIN, "ann", "R.", GRACE_SECONDS_MAX + 1)
    with pytest.raises(NotFoundError):
        service.suspend(ADMIN, "nobody", "R.", 0)
    with pytest.raises(TransitionError, match="is not suspended"):
        service.lift(ADMIN, "ann", "R.")
    suspend(bench)
    with pytest.raises(TransitionError, match="already"):
        suspend(bench)
    with pytest.raises(NotAllowedError):
        service.lift(Actor("ann"), "ann", "Please.")


def test_of_many_at_once_one_is_in_force(bench: Bench) -> None:
    bench.accept("ann")

    def attempt(_number: int) -> bool:
        try:
            suspend(bench)
        except TransitionError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(attempt, range(8))).count(True) == 1


def test_people_are_found_by_what_is_known_of_them_and_by_their_suspension(bench: Bench) -> None:
    for name, institution, country in (("ada", "Example University", "GB"), ("emil", "100 % Institute", "NO")):
        person = Person(name, "https://i", name, f"{name}@example.org", name.title(), institution, country, ("admin",))
        bench.services.people.register(person, adopt=False)
    find = bench.services.reports.find_people
    assert [one.name for one in find(ADMIN, "UNIVERSITY")[0]] == ["ada"]
    assert [one.name for one in find(ADMIN, "emil@")[0]] == ["emil"]
    assert [one.name for one in find(ADMIN, "0 %")[0]] == ["emil"]
    assert [one.name for one in find(ADMIN, "", 1)[0]] == ["emil"]
    assert find(ADMIN, "", 1)[1] == 2
    suspend(bench, "ada")
    assert [one.name for one in find(ADMIN, "", suspended=True)[0]] == ["ada"]
    assert bench.services.reports.person(ADMIN, "ada").roles == ["admin"]
    with pytest.raises(NotAllowedError):
        find(Actor("ada"), "")


def test_the_runs_of_an_account_that_has_ended_are_cancelled_and_nobody_elses(bench: Bench, root: str) -> None:
    running = submit(bench, root, max_seconds=600)
    bench.services.runs.claim("batch", 1)
    waiting, others = submit(bench, root), submit(bench, root, "lead")
    runs = bench.services.runs
    assert runs.people_with_runs("", 9) == ["ann", "lead"]
    assert runs.people_with_runs("ann", 9) == ["lead"]
    assert runs.end_of("ann", "spawner") == 2
    assert runs.get("ann", waiting.id).state == "cancelled"
    assert runs.get("ann", running.id).cancel_requested
    assert runs.get("lead", others.id).state == "queued"
    assert runs.people_with_runs("", 9) == ["lead"]
    assert runs.end_of("ann", "spawner") == 0
    ended = [one for one in bench.services.reports.audit_log(subject="ann") if one.action == "person.end_runs"]
    assert [(one.actor, one.details) for one in ended] == [("spawner", {"runs": 2, "schedules": 0})]


@pytest.mark.parametrize("who", ["ann", "admin", "rev", "batch", "nothing"])
def test_only_the_hub_says_that_an_account_has_ended(client: TestClient, who: str) -> None:  # noqa: F811  # as above
    assert call(client, who, "POST", "/people/ann/end-runs", {}).status_code == 403
    assert call(client, who, "GET", "/people/with-runs").status_code == 403
