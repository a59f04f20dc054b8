"""When pods ended is remembered after they are gone, and told only when somebody knows it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from jupyterhub.utils import maybe_future
from kubespawner import KubeSpawner
from kubespawner.spawner import PodReflector
from traitlets.config import Config

from hub.spawner.manifests import LEASE
from hub.spawner.pods import REMEMBERED_PODS, LeasePodReflector, ObservedKubeSpawner, PodEnds, _WatchedPods

FINISHED = "2026-11-21T12:01:00Z"
OVER = {"terminated": {"startedAt": "2026-11-21T12:00:00Z", "finishedAt": FINISHED}}
RUNNING = {"running": {"startedAt": "2026-11-21T12:00:00Z"}}
AGAIN = {"running": {"startedAt": "2026-11-21T12:01:01Z"}}


def pod(state: Any = RUNNING, phase: str = "Running", lease: str = "lease-1") -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "annotations": {LEASE: lease}},
        "status": {"phase": phase, "containerStatuses": [{"name": "notebook", "state": state}]},
    }


def test_the_end_that_was_shown_outlives_the_pod():
    ends = PodEnds()
    pods = _WatchedPods({}, ends)
    pods["ns/p"] = pod()
    assert ends.end_of("lease-1") is None
    pods["ns/p"] = pod(OVER)
    pods.pop("ns/p", None)
    assert ends.end_of("lease-1") == datetime(2026, 11, 21, 12, 1, tzinfo=UTC)
    assert pods.pop("ns/p", None) is None


def test_a_pod_that_vanishes_while_it_is_watched_ended_then():
    ends = PodEnds()
    before = datetime.now(UTC)
    ends.miss(pod())
    ended_at = ends.end_of("lease-1")
    assert ended_at is not None
    assert before <= ended_at <= datetime.now(UTC)


@pytest.mark.parametrize("after", [[], [pod({}, "Failed")], [pod(lease="lease-2")]], ids=["gone", "failed", "another"])
@pytest.mark.parametrize(("version", "until_minute"), [("0", 2), ("1", 5)], ids=["away", "watched"])
def test_a_pod_that_ended_between_two_watches_ran_until_the_api_server_was_last_heard(
    monkeypatch, after, version, until_minute
):
    """Not until it answered again, where it was away: those minutes are nobody's."""
    clock = [datetime(2026, 11, 21, 12, 1, tzinfo=UTC)]
    monkeypatch.setattr("hub.spawner.pods.utc_now", lambda: clock[0])
    monkeypatch.setattr(LeasePodReflector, "ends", PodEnds())
    answers = [[pod()], after]

    async def list_pods(reflector, _version=None):
        reflector.resources = {f"ns/{one['metadata']['name']}": one for one in answers.pop(0)}
        return "1"

    monkeypatch.setattr(PodReflector, "_list_and_update", list_pods)
    reflector = LeasePodReflector.__new__(LeasePodReflector)
    asyncio.run(reflector._list_and_update())
    clock[0] = datetime(2026, 11, 21, 12, 2, tzinfo=UTC)
    reflector.resources["ns/p"] = pod()
    clock[0] = datetime(2026, 11, 21, 12, 5, tzinfo=UTC)
    assert LeasePodReflector.ends.end_of("lease-1") is None
    asyncio.run(reflector._list_and_update(version))
    assert LeasePodReflector.ends.end_of("lease-1") == datetime(2026, 11, 21, 12, until_minute, tzinfo=UTC)


def test_a_container_that_runs_again_has_not_ended():
    ends = PodEnds()
    ends.see(pod(OVER))
    ends.see(pod(AGAIN))
    assert ends.end_of("lease-1") is None


def test_a_container_that_runs_again_while_its_server_is_stopped_ended_when_it_was_seen_to():
    ends = PodEnds()
    ends.close("lease-1")
    ends.see(pod(OVER))
    ends.close("lease-1")
    ends.see(pod(AGAIN))
    ends.miss(pod(AGAIN))
    assert ends.end_of("lease-1") == datetime(2026, 11, 21, 12, 1, tzinfo=UTC)


def test_an_end_that_nobody_watched_and_nothing_tells_is_not_made_up():
    ends = PodEnds()
    ends.see(pod({}, "Failed"))
    assert ends.end_of("lease-1") is None


def test_an_end_that_was_watched_but_is_not_told_is_when_it_was_first_seen():
    ends = PodEnds()
    ends.see(pod())
    ends.see(pod({}, "Failed"))
    first = ends.end_of("lease-1")
    ends.see(pod({}, "Failed"))
    assert first is not None
    assert ends.end_of("lease-1") == first


def test_pods_that_are_not_ours_are_not_remembered_and_of_ours_only_so_many():
    ends = PodEnds()
    ends.miss({"metadata": {"name": "p"}, "status": {}})
    for number in range(REMEMBERED_PODS + 1):
        ends.miss(pod(OVER, lease=f"lease-{number}"))
    assert ends.end_of("lease-0") is None
    assert ends.end_of(f"lease-{REMEMBERED_PODS}") is not None
    assert len(ends._seen) == REMEMBERED_PODS


@pytest.fixture
def pods(monkeypatch):
    """The pods that spawners see; a start looks once for its own, and waits for nothing else."""
    seen = _WatchedPods({}, PodEnds())

    async def look(self):
        return await maybe_future(self.is_pod_running(self.watched_pod))

    # There is no cluster to be configured for.
    monkeypatch.setattr("kubespawner.spawner.load_config", lambda **_: None)
    monkeypatch.setattr(KubeSpawner, "_start", look)
    monkeypatch.setattr(ObservedKubeSpawner, "watched_pod", property(lambda self: seen.get("ns/p")))
    return seen


def make_spawner(start_timeout: float) -> ObservedKubeSpawner:
    config = Config({"KubeSpawner": {"namespace": "ns", "start_timeout": start_timeout}})
    spawner = ObservedKubeSpawner(config=config, _mock=True)
    spawner.pod_name = "p"
    return spawner


def ready_pod(ready: bool = True) -> dict[str, Any]:
    shown = pod()
    shown["status"] |= {"podIP": "10.0.0.1"}
    shown["status"]["containerStatuses"][0]["ready"] = ready
    return shown


def test_a_start_is_told_when_its_pod_runs(pods):
    async def scenario() -> None:
        spawner = make_spawner(start_timeout=60)
        start = asyncio.create_task(spawner._start())
        await asyncio.sleep(0)
        pods["ns/p"] = ready_pod(ready=False)
        await asyncio.sleep(0.05)
        assert not start.done()
        # Others are answered at once meanwhile.
        assert spawner.is_pod_running(pods["ns/p"]) is False
        pods["ns/p"] = ready_pod()
        assert await asyncio.wait_for(start, 2) is True

    asyncio.run(scenario())


def test_a_start_waits_no_longer_than_it_may(pods):
    async def scenario() -> None:
        assert await asyncio.wait_for(make_spawner(start_timeout=1)._start(), 4) is False

    asyncio.run(scenario())
