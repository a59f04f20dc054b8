"""What pods, leases and the hub's database make of each other: what is stopped, what is settled, and what is left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import pytest
from jupyterhub import orm

from hub.client import LeaseRequest, OpenLease
from hub.spawner.manifests import HUB, LEASE
from hub.spawner.pods import LeasePodReflector, PodEnds
from hub.spawner.reconcile import Known, LostLease, Reconciler, StrayPod, TwoLooks, judge, times_by_events
from hub.spawner.record import STATE_KEY, LeaseRecord

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
RUNNING = {"running": {"startedAt": "2026-11-21T11:00:00Z"}}
OVER = {"terminated": {"startedAt": "2026-11-21T11:00:00Z", "finishedAt": "2026-11-21T11:30:00Z", "exitCode": 1}}
STRAY = StrayPod("uid-1", "ns", "jupyter-ada", "l-1")
LOST = LostLease("l-1")


def lease(lease_id: str = "l-1", server_name: str = "") -> OpenLease:
    return OpenLease(id=lease_id, person="ada", server_name=server_name, acquired_at=NOW)


def pod(lease_id: str | None = "l-1", state: Any = RUNNING, uid: str = "uid-1", **metadata: Any) -> dict[str, Any]:
    annotations = {LEASE: lease_id} if lease_id else {}
    return {
        "metadata": {"name": "jupyter-ada", "namespace": "ns", "uid": uid, "annotations": annotations} | metadata,
        "status": {"phase": "Running", "containerStatuses": [{"name": "notebook", "state": state}]},
    }


HELD = Known(leases=frozenset({"l-1"}))
STARTING = Known(leases=frozenset({"l-1"}), starting=frozenset({"l-1"}))
REPORTING = Known(reporting=frozenset({"l-1"}))
ASKING = Known(asking=frozenset({("ada", "")}))
GOING = pod(deletionTimestamp="2026-11-21T11:59:59Z")


@pytest.mark.parametrize(
    ("pods", "leases", "known", "found"),
    [
        pytest.param([pod()], [lease()], HELD, set(), id="a server as it should be"),
        pytest.param([pod()], [], HELD, {STRAY}, id="its lease has ended, the hub has not noticed"),
        pytest.param([pod()], [], STARTING, set(), id="its start notices by itself that its lease has ended"),
        pytest.param([pod()], [], Known(), {STRAY}, id="its lease has ended, and its deletion failed"),
        pytest.param([pod()], [], REPORTING, {STRAY}, id="the end of its lease is on its way"),
        pytest.param([pod()], [lease()], Known(), {STRAY}, id="the hub has lost its database"),
        pytest.param([GOING], [lease()], Known(), set(), id="somebody has stopped it already"),
        pytest.param([pod(None)], [], Known(), set(), id="a pod that has nothing to do with leases"),
        pytest.param([pod(state=OVER)], [lease()], Known(), {STRAY, LOST}, id="it has ended, and nobody noticed"),
        pytest.param([pod(state=OVER)], [lease()], HELD, set(), id="it has ended, and the hub will notice"),
        pytest.param([], [lease()], Known(), {LOST}, id="a lease without a pod"),
        pytest.param([], [lease()], HELD, set(), id="a lease of a server that the hub looks after"),
        pytest.param([], [lease()], STARTING, set(), id="a lease whose pod is about to be made"),
        pytest.param([], [lease()], REPORTING, set(), id="a lease whose end is on its way"),
        pytest.param([], [lease()], ASKING, set(), id="a lease whose answer is on its way"),
        pytest.param([], [lease(server_name="b")], ASKING, {LOST}, id="a lease of another server of that person"),
        pytest.param(
            [pod("l-2")], [lease(), lease("l-2")], Known(leases=frozenset({"l-2"})), {LOST}, id="an older lease"
        ),
    ],
)
def test_what_does_not_go_together_is_found(pods, leases, known, found):
    assert judge(pods, leases, known, NOW) == found


def test_pods_that_have_ended_are_kept_where_the_configuration_keeps_them():
    assert judge([pod(state=OVER)], [], Known(), NOW, keep_ended_pods=True) == set()
    assert judge([pod()], [], Known(), NOW, keep_ended_pods=True) == {STRAY}


def test_only_what_is_still_there_so_much_later_is_due():
    looks = TwoLooks(60)
    assert looks.due({STRAY, LOST}, 1000) == set()
    assert looks.due({STRAY, LOST}, 1059) == set()
    assert looks.due({STRAY}, 1060) == {STRAY}
    assert looks.due({STRAY, LOST}, 1120) == {STRAY}
    # Another pod of the same name is another finding.
    assert looks.due({StrayPod("uid-2", "ns", "jupyter-ada", "l-1")}, 1200) == set()


def event(uid: str, reason: str, seconds: float, container: str | None = None) -> Any:
    at = NOW + timedelta(seconds=seconds)
    path = f"spec.containers{{{container}}}" if container else None
    return SimpleNamespace(
        reason=reason,
        first_timestamp=at,
        last_timestamp=at,
        event_time=None,
        involved_object=SimpleNamespace(uid=uid, field_path=path),
    )


def test_events_tell_when_the_container_of_a_lease_began_and_when_its_end_did():
    since = NOW + timedelta(milliseconds=700)
    events = [
        event("before", "Scheduled", -9),
        event("before", "Started", -8, "notebook"),
        event("before", "Killing", 0, "notebook"),
        event("uid-1", "Scheduled", 0),
        event("uid-1", "Started", 1, "sidecar"),
        event("uid-1", "Started", 2, "notebook"),
        event("uid-1", "Killing", 30, "notebook"),
        event("after", "Started", 40, "notebook"),
    ]
    times = (NOW + timedelta(seconds=2), NOW + timedelta(seconds=30))
    assert times_by_events(events, since, None) == times
    assert times_by_events(reversed(events), since, None) == times
    assert times_by_events(events[:5], since, None) is None
    assert times_by_events([], since, None) is None
    # A pod of the next lease of the server, whose events are cut off to the second before that was acquired.
    after = NOW + timedelta(seconds=40, milliseconds=700)
    assert times_by_events(events[-1:], since, after) is None
    assert times_by_events(events, since, after) == times


@dataclass
class Scene:
    """What a reconciler sees; `then` is done when a call of that name is answered, and `calls` has their order."""

    watched: list[dict[str, Any]] = field(default_factory=list)
    pods: list[dict[str, Any]] = field(default_factory=list)
    leases: list[OpenLease] = field(default_factory=list)
    known: Known = field(default_factory=Known)
    then: dict[str, Callable[[], object]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def looks(self, times: int = 2) -> list[str]:
        """Let a reconciler look so many times, each long enough after the other, and return what it has called."""

        def called(name: str, answer: Callable[[], Any] = lambda: None) -> Any:
            async def call(*_arguments: Any) -> Any:
                self.calls.append(name)
                answered = answer()
                self.then.get(name, lambda: None)()
                return answered

            return call

        def known() -> Known:
            self.calls.append("known")
            return self.known

        service = {name: called(name) for name in ("report_start", "settle", "void")}
        spawner = SimpleNamespace(
            hub_id="ours",
            reconcile_seconds=1,
            delete_stopped_pods=True,
            watched_pods=called("watched pods", lambda: self.watched),
            read_pods=called("pods", lambda: self.pods),
            read_pod_events=called("events", list),
            delete_pod=called("delete"),
            allocations_client=SimpleNamespace(open_leases=called("leases", lambda: self.leases), **service),
        )
        reconciler = Reconciler(cast("Any", lambda _person, _name: spawner), known)
        with patch("hub.spawner.reconcile.END_WAIT_SECONDS", 0), patch.object(LeasePodReflector, "ends", PodEnds()):
            for number in range(times):
                asyncio.run(reconciler.look(number))
        return self.calls


LOOK = ["watched pods", "leases", "known"]
AGAIN = ["pods", "known"]


def ours(lease_id: str = "l-1", state: Any = RUNNING, **metadata: Any) -> dict[str, Any]:
    return pod(lease_id, state, labels={HUB: "ours"}, **metadata)


def test_pods_are_read_before_leases_and_both_before_what_the_hub_knows():
    scene = Scene(watched=[ours()], pods=[ours()])
    assert scene.looks(1) == LOOK
    assert scene.looks() == LOOK + LOOK + LOOK + AGAIN + ["delete", "known"]


def test_a_look_at_a_thousand_pods_asks_for_each_list_once_and_for_no_pod():
    pods = [ours(f"l-{number}", uid=f"uid-{number}") for number in range(1000)]
    leases = [lease(f"l-{number}") for number in range(1, 1000)]
    scene = Scene(pods, pods, leases, Known(leases=frozenset(one.id for one in leases)))
    assert scene.looks() == LOOK + LOOK + AGAIN + ["delete", "known"]


def test_what_the_watch_has_not_shown_yet_is_left_alone():
    """A lease seemed to have no pod, twice; a pod seemed to run, twice. The API server says otherwise."""
    assert Scene(watched=[], pods=[ours()], leases=[lease()]).looks() == LOOK + LOOK + AGAIN + ["known"]
    assert Scene(watched=[ours()], pods=[]).looks() == LOOK + LOOK + AGAIN + ["known"]


def test_pods_of_other_hubs_are_left_alone():
    theirs = [pod(labels={HUB: "theirs"}), pod()]
    assert "delete" not in Scene(watched=theirs, pods=theirs).looks()


def test_what_the_hub_has_come_to_see_to_meanwhile_is_left_alone():
    scene = Scene(leases=[lease()])
    scene.then["pods"] = lambda: setattr(scene, "known", HELD)
    assert "void" not in scene.looks()
    assert "void" in Scene(leases=[lease()]).looks()


def test_an_end_that_is_being_reported_stands_as_it_is_when_its_pod_is_stopped():
    began = OpenLease(id="l-1", person="ada", server_name="", acquired_at=NOW, started_at=NOW)

    def stopped(known: Known) -> list[str]:
        scene = Scene([ours()], [ours()], [began])

        def end() -> None:
            LeasePodReflector.ends.see(ours(state=OVER))
            scene.known = known

        scene.then["delete"] = end
        return scene.looks()

    assert stopped(REPORTING)[-2:] == ["delete", "known"]
    assert stopped(Known())[-1] == "settle"


def test_what_the_hub_knows_is_read_from_what_its_spawners_have_committed(tmp_path):
    database = orm.new_session_factory(url=f"sqlite:///{tmp_path / 'hub.sqlite'}")

    def state(lease_id: str | None, started_at: datetime | None = None) -> dict[str, object]:
        request = LeaseRequest(allocation="a", person="ada", size="s", image=None, server_name=str(lease_id))
        record = LeaseRecord(idempotency_key="k", request=request, lease_id=lease_id, process_started_at=started_at)
        return {STATE_KEY: record.to_state()}

    states = {
        "running": state("l-running", NOW),
        "starting": state("l-starting"),
        "asking": state(None),
        "never": None,
        "other": {"pod_name": "x"},
        "unreadable": {STATE_KEY: {"no": "record"}},
    }
    with database() as session:
        user = orm.User(name="ada")
        session.add(user)
        for name, of_spawner in states.items():
            session.add(orm.Spawner(name=name, user=user, state=of_spawner, server=orm.Server()))
        session.add(orm.Spawner(name="stopped", user=user, state=state("l-stopped", NOW)))
        session.commit()
    assert Known.read(database, {"l-ended"}) == Known(
        leases=frozenset({"l-running", "l-starting"}),
        starting=frozenset({"l-starting"}),
        reporting=frozenset({"l-ended"}),
        asking=frozenset({("ada", "None")}),
    )
