"""The reconciler itself in a world where anything happens between any two of its calls, in any order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from hub.client import AllocationsUnavailableError, OpenLease
from hub.spawner.manifests import HUB, LEASE
from hub.spawner.pods import LeasePodReflector, PodEnds
from hub.spawner.reconcile import Known, Reconciler

if TYPE_CHECKING:
    from hub.spawner.kube import KubeAllocationSpawner

BEGAN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SERVERS = st.sampled_from(["", "second"])
OURS = "ours"


@dataclass
class Life:
    """A lease and its pod, by the truth; times are seconds. The pod is there from `made_at` to `gone_at`."""

    id: str
    server: str
    acquired_at: int
    made_at: int | None = None
    ran_at: int | None = None
    gone_at: int | None = None
    state: str = "open"
    start_reported: bool = False

    @property
    def is_there(self) -> bool:
        return self.made_at is not None and self.gone_at is None


@dataclass
class Record:
    """What the hub's database has of a server: that a lease was asked for, and which one it got.

    `answer` is the lease that the service has granted, as long as the hub does not know of it.
    """

    life: Life | None = None
    answer: Life | None = None


class World(RuleBasedStateMachine):
    """A cluster, a service and a hub whose spawners do a step at a time and may be killed between any two."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.lives: list[Life] = []
        self.records: dict[str, Record] = {}
        self.reporting: list[Life] = []
        self.creating: list[Life] = []
        self.late: set[str] = set()
        self.shown: list[dict[str, Any]] = []
        self.calls: list[tuple[str, tuple[Any, ...], asyncio.Future[Any]]] = []
        self.look: asyncio.Task[None] | None = None
        self.loop = asyncio.new_event_loop()
        self.ends = PodEnds()
        self.patches: list[Any] = [
            patch.object(LeasePodReflector, "ends", self.ends),
            patch("hub.spawner.pods.utc_now", lambda: at(self.now)),
            patch("hub.spawner.reconcile.utc_now", lambda: at(self.now)),
            patch("hub.spawner.reconcile.END_WAIT_SECONDS", 0),
        ]
        for one in self.patches:
            one.start()
        self.start_hub()

    # -------------------------------------------------------------- what the reconciler sees, and what it does

    def start_hub(self) -> None:
        calls = ("watched_pods", "read_pods", "delete_pod", "read_pod_events")
        of_service = ("open_leases", "report_start", "settle", "void")

        def spawner_of(_person: str, name: str) -> KubeAllocationSpawner:
            made = SimpleNamespace(hub_id=OURS, reconcile_seconds=1, delete_stopped_pods=True)
            made.allocations_client = SimpleNamespace(**{call: self.called(call, name) for call in of_service})
            vars(made).update({call: self.called(call, name) for call in calls})
            return cast("KubeAllocationSpawner", made)

        self.reconciler = Reconciler(spawner_of, self.known)

    def called(self, call: str, server: str) -> Any:
        async def wait(*arguments: Any) -> Any:
            answer: asyncio.Future[Any] = self.loop.create_future()
            self.calls.append((call, (server, *arguments), answer))
            return await answer

        return wait

    def known(self) -> Known:
        held = {record.life.id: record.life for record in self.records.values() if record.life}
        return Known(
            leases=frozenset(held),
            starting=frozenset(life.id for life in held.values() if life.ran_at is None),
            reporting=frozenset(life.id for life in self.reporting),
            asking=frozenset(("ada", server) for server, record in self.records.items() if record.life is None),
        )

    def pods(self) -> list[dict[str, Any]]:
        return [self.pod(life) for life in self.lives if life.is_there] + [FOREIGN]

    def pod(self, life: Life) -> dict[str, Any]:
        state = {"waiting": {}} if life.ran_at is None else {"running": {"startedAt": at(life.ran_at).isoformat()}}
        metadata = {
            "name": life.server,
            "namespace": "ns",
            "uid": f"uid-{life.id}",
            "labels": {HUB: OURS},
            "annotations": {LEASE: life.id},
        }
        status = {"containerStatuses": [{"name": "notebook", "state": state}]}
        return {"metadata": metadata, "status": status}

    def events(self, server: str) -> list[Any]:
        told = []
        for life in self.lives:
            uid = SimpleNamespace(uid=f"uid-{life.id}", field_path="spec.containers{notebook}")
            times = {"Scheduled": life.made_at, "Started": life.ran_at, "Killing": life.gone_at}
            told += [
                SimpleNamespace(
                    reason=reason,
                    first_timestamp=at(time),
                    last_timestamp=at(time),
                    event_time=None,
                    involved_object=uid,
                )
                for reason, time in times.items()
                if life.server == server and time is not None
            ]
        return told

    def life(self, lease_id: str) -> Life:
        return next(life for life in self.lives if life.id == lease_id)

    def carry_out(self, call: str, arguments: tuple[Any, ...]) -> Any:
        """Do what was asked for, at this moment, and check that it does nobody wrong."""
        server, *rest = arguments
        reads = {
            "watched_pods": lambda: self.shown,
            "read_pods": self.pods,
            "read_pod_events": lambda: self.events(server),
            "open_leases": self.open_leases,
        }
        if call in reads:
            return reads[call]()
        if call == "delete_pod":
            self.delete_pod(rest[-1])
        else:
            self.tell_of_lease(call, self.life(rest[0]), *rest[1:])
        return None

    def open_leases(self) -> list[OpenLease]:
        return [
            OpenLease(
                id=life.id,
                person="ada",
                server_name=life.server,
                acquired_at=at(life.acquired_at),
                started_at=at(life.ran_at) if life.start_reported and life.ran_at is not None else None,
                replaced_at=self.replaced_at(life),
            )
            for life in self.lives
            if life.state == "open"
        ]

    def replaced_at(self, life: Life) -> datetime | None:
        later = [other.acquired_at for other in self.lives[self.lives.index(life) + 1 :] if other.server == life.server]
        return at(later[0]) if later else None

    def delete_pod(self, uid: str) -> None:
        known = self.known()
        assert uid != FOREIGN["metadata"]["uid"], "a pod of another hub"
        life = self.life(uid.removeprefix("uid-"))
        assert life.id not in known.starting, "a start that is under way"
        assert life.state != "open" or life.id not in known.leases, "a server as it should be"
        self.remove(life)

    def tell_of_lease(self, call: str, life: Life, time: datetime | None = None) -> None:
        if call == "report_start":
            assert time == at(life.ran_at or 0), "the start that the API server shows"
            life.start_reported = True
            return
        known = self.known()
        assert life.id not in known.leases | known.reporting, "the hub's own to end"
        assert (life.server not in self.records) or self.records[life.server].answer is not life, (
            "on its way to the hub"
        )
        assert life.id in self.late or not life.is_there, "a pod runs under it"
        if call == "void":
            assert life.ran_at is None or life.id in self.late, "it has run"
        else:
            assert life.ran_at is not None, "it has not run"
            assert time is not None
            assert at(life.ran_at) <= time <= at(life.gone_at if life.gone_at is not None else self.now), "its life"
        if life.state == "open":
            life.state = call

    def remove(self, life: Life) -> None:
        """The pod ends, and the API server forgets it; the watch sees both, however late it shows them."""
        if life.is_there:
            self.ends.see(self.pod(life))
            life.gone_at = self.now
            self.ends.miss(self.pod(life))

    # -------------------------------------------------------------- looks

    @rule(stale=st.booleans())
    def go_on(self, stale: bool) -> None:
        """Time passes, and the watch catches up or does not."""
        self.now += 1
        if not stale:
            self.shown = self.pods()

    @rule(answers=st.integers(0, 6))
    def look_on(self, answers: int) -> None:
        """A look begins, or goes on where it was, for so many answers."""
        if self.look is None:
            self.look = self.loop.create_task(self.reconciler.look(self.now))
            self.turn()
        while self.calls and answers:
            call, arguments, answer = self.calls.pop(0)
            answer.set_result(self.carry_out(call, arguments))
            self.turn()
            answers -= 1

    @precondition(lambda self: self.calls)
    @rule()
    def do_not_answer(self) -> None:
        """The service or the API server is away, and may have carried out what it was asked for all the same."""
        _call, _arguments, answer = self.calls.pop(0)
        answer.set_exception(AllocationsUnavailableError("away", maybe_applied=False))
        self.turn()

    def turn(self) -> None:
        for _ in range(8):
            self.loop.run_until_complete(asyncio.sleep(0))
        if self.look is not None and self.look.done():
            if not isinstance(self.look.exception(), AllocationsUnavailableError):
                self.look.result()
            self.look = None
            self.calls.clear()

    # -------------------------------------------------------------- the life of servers

    @rule(server=SERVERS, steps=st.integers(1, 6))
    def a_start_goes_on(self, server: str, steps: int) -> None:
        """Ask for a lease, be granted it, learn that, have a pod created, have it run, report that."""
        for _ in range(steps):
            record = self.records.setdefault(server, Record())
            if record.answer is None:
                # Times are told by the second, and no server has two leases within one.
                self.now += 1
                record.answer = Life(f"l-{len(self.lives)}", server, self.now)
                self.lives.append(record.answer)
            elif record.life is None:
                record.life = record.answer
                self.creating.append(record.life)
            elif record.life in self.creating:
                self.creating.remove(record.life)
                record.life.made_at = self.now
            elif record.life.is_there and record.life.ran_at is None:
                record.life.ran_at = self.now
            else:
                record.life.start_reported = record.life.ran_at is not None

    @rule()
    def what_a_dead_hub_has_asked_for_is_created_and_runs(self) -> None:
        """The request was on its way when the hub was killed, but not for so long as the next start takes."""
        held = [record.life for record in self.records.values()]
        for life in self.lives:
            if life in self.creating and (life.id in self.late or life not in held):
                self.creating.remove(life)
                if self.replaced_at(life) is None:
                    self.late.add(life.id)
                    life.made_at = self.now
            elif life.id in self.late and life.is_there and life.ran_at is None:
                life.ran_at = self.now

    @rule(server=SERVERS, fails=st.booleans())
    def the_hub_stops_it(self, server: str, fails: bool) -> None:
        """Also a hub that has just started and finds no pod; the deletion may fail when a start is given up."""
        record = self.records.get(server)
        if record is None or record.life is None or record.life in self.creating:
            return
        if not fails:
            self.remove(record.life)
        self.hand_over(server)

    def hand_over(self, server: str) -> None:
        life = self.records.pop(server).life
        if life is not None:
            self.reporting.append(life)

    @precondition(lambda self: self.reporting)
    @rule()
    def an_end_is_reported(self) -> None:
        life = self.reporting.pop(0)
        if life.state == "open":
            life.state = "void" if life.ran_at is None else "settle"

    @rule(number=st.integers(0, 5))
    def the_lease_ends_by_another_way(self, number: int) -> None:
        """It expires, or its person is a member no more."""
        if number < len(self.lives) and self.lives[number].state == "open":
            self.lives[number].state = "expired"

    @rule(number=st.integers(0, 5))
    def an_operator_deletes_a_pod(self, number: int) -> None:
        if number < len(self.lives):
            self.remove(self.lives[number])

    @rule(database=st.booleans())
    def the_hub_is_killed(self, database: bool) -> None:
        """Its look is cut off; the next hub knows what was committed, or nothing where its database is lost too."""
        self.late |= {life.id for life in self.creating}
        if self.look is not None:
            self.look.cancel()
            self.loop.run_until_complete(asyncio.wait([self.look]))
            self.look = None
        self.calls.clear()
        # A lease whose answer was on its way is lost.
        self.records = {server: record for server, record in self.records.items() if record.life and not database}
        if database:
            self.reporting.clear()
        self.ends = PodEnds()
        LeasePodReflector.ends = self.ends
        self.start_hub()

    # -------------------------------------------------------------- how it ends

    def teardown(self) -> None:
        """When nothing happens any more, three looks later everything goes together, and nothing is left to do."""
        try:
            self.the_hub_is_killed(database=False)
            self.what_a_dead_hub_has_asked_for_is_created_and_runs()
            for server, record in list(self.records.items()):
                if record.life and not record.life.is_there:
                    self.hand_over(server)
            while self.reporting:
                self.an_end_is_reported()
            for _ in range(4):
                self.go_on(stale=False)
                self.look_on(answers=1000)
            known = self.known()
            for life in self.lives:
                # A start that never comes to run is given up by the hub itself.
                if life.id not in known.starting:
                    served = life.id in known.leases and life.state == "open"
                    assert (life.is_there, life.state == "open") == (served, served), life
        finally:
            self.loop.close()
            for one in self.patches:
                one.stop()


FOREIGN = {
    "metadata": {
        "name": "theirs",
        "namespace": "ns",
        "uid": "uid-theirs",
        "labels": {HUB: "theirs"},
        "annotations": {LEASE: "l-theirs"},
    },
    "status": {},
}


def at(seconds: int) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def test_what_ran_under_the_next_lease_of_a_server_is_not_taken_for_the_one_before():
    """It is granted, and its pod runs, between the moments at which leases and events are read."""
    world = World()
    world.a_start_goes_on(server="", steps=1)
    world.the_hub_is_killed(database=False)
    world.look_on(answers=2)
    world.go_on(stale=False)
    world.look_on(answers=3)
    world.a_start_goes_on(server="", steps=4)
    world.look_on(answers=3)
    assert [(life.id, life.state, life.start_reported) for life in world.lives] == [
        ("l-0", "void", False),
        ("l-1", "open", False),
    ]
    world.teardown()


def test_whatever_happens_in_whatever_order_nobody_is_wronged_and_nothing_is_left():
    run_state_machine_as_test(World, settings=settings(max_examples=200, stateful_step_count=40, deadline=None))
