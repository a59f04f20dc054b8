"""Runs as Jobs of a cluster that is a dictionary: what is asked of it, and when."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import pytest

from hub.batch.backend import BackendUnavailableError, Exited, Gone, Running, StartError
from hub.batch.cluster import ClusterRefusalError
from hub.batch.files import RunDirectory
from hub.batch.jobs import ATTEMPT, FINALIZER, RUN, ClaimTerms, JobSettings
from hub.batch.kube import KubeBackend, write_runner
from hub.batch.model import Run
from tests.hub.kube_leases import lease

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
STARTED, ENDED = "2026-11-21T11:00:00Z", "2026-11-21T11:00:09Z"
RUN_ID = "r-0123456789abcdef0123"


class FakeCluster:
    """Objects by their paths; those with finalizers stay when they are deleted."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.failure: Exception | None = None
        self.refusal: Exception | None = None
        self.refused_claims: Exception | None = None
        self.calls: list[tuple[str, str]] = []

    def get(self, path: str, **_query: str) -> dict[str, Any]:
        self._called("get", path)
        if path in self.objects:
            return self.objects[path]
        if path.startswith(f"{CLAIMS}/"):
            msg = "it does not exist"
            raise ClusterRefusalError(msg, 404)
        return {"items": [item for name, item in self.objects.items() if name.startswith(f"{path}/")]}

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        name = f"{path}/{body['metadata']['name']}"
        self._called("create", name)
        if self.refusal:
            raise self.refusal
        if self.refused_claims and path == CLAIMS:
            raise self.refused_claims
        if name in self.objects:
            msg = "it exists"
            raise ClusterRefusalError(msg, 409)
        body["metadata"]["creationTimestamp"] = NOW.isoformat()
        self.objects[name] = body
        return body

    def patch(self, path: str, body: dict[str, Any]) -> None:
        self._called("patch", path)
        for part, values in body.items():
            self.objects[path][part] |= values

    def delete(self, path: str, **_options: Any) -> None:
        self._called("delete", path)
        item = self.objects.get(path)
        if item and item["metadata"].get("finalizers"):
            item["metadata"]["deletionTimestamp"] = NOW.isoformat()
        else:
            self.objects.pop(path, None)

    def add_pod(self, attempt: int = 1, **state: Any) -> str:
        labels = {RUN: RUN_ID, ATTEMPT: str(attempt)}
        name = f"pod-{attempt}"
        status = {"containerStatuses": [{"name": "notebook", "state": state}]}
        metadata = {"name": name, "labels": labels, "finalizers": [FINALIZER]}
        self.objects[f"{PODS}/{name}"] = {"metadata": metadata, "spec": {"nodeName": "n"}, "status": status}
        return name

    @property
    def names(self) -> set[str]:
        return {path.rsplit("/", 1)[1] for path in self.objects}

    def _called(self, what: str, path: str) -> None:
        self.calls.append((what, path))
        if self.failure:
            raise self.failure


PODS = "/api/v1/namespaces/hub/pods"
CLAIMS = "/api/v1/namespaces/hub/persistentvolumeclaims"
JOBS = "/apis/batch/v1/namespaces/hub/jobs"
RUNNING = {"running": {"startedAt": STARTED}}
OVER = {"terminated": {"startedAt": STARTED, "finishedAt": ENDED, "reason": "Error", "exitCode": 137}}


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def make_backend(cluster, tmp_path, monkeypatch):
    """Make a batch process's backend, which has seen nothing yet, and at first asks anew each time."""
    # Only members of a group may give it files.
    monkeypatch.setattr("hub.batch.kube.GROUP", os.getgid())
    (tmp_path / RUN_ID).mkdir()
    (tmp_path / RUN_ID / "input.ipynb").write_text("{}")
    terms = JobSettings(namespace="hub", run_store={"emptyDir": {}})
    seconds = iter(range(10_000))

    def make(monotonic=lambda: next(seconds), **settings: Any) -> KubeBackend:
        return KubeBackend(
            cluster,
            terms.model_copy(update=settings),
            tmp_path,
            "batch",
            lambda _run: lease(image_reference="lab:1"),
            clock=lambda: NOW,
            monotonic=monotonic,
        )

    return make


def run(attempt: int = 1) -> Run:
    return Run.from_json(
        {
            "id": RUN_ID,
            "person": "ada",
            "allocation": "a1",
            "size": "small",
            "resources": {"cores": 1, "memory_gib": 1},
            "max_seconds": 60,
            "state": "admitted",
            "attempt": attempt,
        }
    )


def test_a_run_started_twice_has_one_job(make_backend, cluster):
    backend = make_backend()
    assert backend.look(run()) == Gone()
    backend.start(run())
    backend.start(run())
    assert cluster.names == {f"{RUN_ID}-1"}


def test_who_has_no_home_yet_gets_one_and_a_home_that_is_there_stays(make_backend, cluster):
    backend = make_backend(home_claim=ClaimTerms(name="claim-{person}", storage="10Gi", storage_class="fast"))
    backend.start(run())
    claim = cluster.objects[f"{CLAIMS}/claim-ada"]
    assert claim["metadata"]["annotations"] == {"meridian/person": "ada"}
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "10Gi"}},
        "storageClassName": "fast",
    }
    backend.start(run(attempt=2))
    assert cluster.objects[f"{CLAIMS}/claim-ada"] is claim


def test_a_quota_of_claims_that_is_used_up_refuses_new_homes_only(make_backend, cluster):
    cluster.refused_claims = ClusterRefusalError("exceeded quota", 403)
    backend = make_backend(home_claim=ClaimTerms(name="claim-{person}", storage="10Gi"))
    with pytest.raises(StartError):
        backend.start(run())
    assert f"{RUN_ID}-1" not in cluster.names
    cluster.objects[f"{CLAIMS}/claim-ada"] = {}
    backend.start(run())
    assert f"{RUN_ID}-1" in cluster.names


def test_a_batch_process_killed_after_the_creation_finds_the_job_again(make_backend):
    make_backend().start(run())
    assert make_backend().look(run()) == Running(None)
    assert make_backend().running() == {RUN_ID}


def test_the_next_attempt_waits_for_the_end_of_the_one_before(make_backend, cluster):
    backend = make_backend()
    backend.start(run())
    cluster.add_pod(**RUNNING)
    with pytest.raises(BackendUnavailableError, match="still being stopped"):
        backend.start(run(attempt=2))
    assert ("delete", f"{PODS}/pod-1") in cluster.calls
    cluster.add_pod(**OVER)
    backend.start(run(attempt=2))
    assert cluster.names == {f"{RUN_ID}-2"}
    # Should a pod of the first come late, the second goes on.
    cluster.add_pod(**OVER)
    backend.start(run(attempt=2))
    assert cluster.objects[f"{JOBS}/{RUN_ID}-2"]["spec"]["parallelism"] == 1


def test_a_job_that_is_refused_is_a_start_that_fails(make_backend, cluster):
    cluster.refusal = ClusterRefusalError("exceeded quota", 403)
    with pytest.raises(StartError, match="exceeded quota"):
        make_backend().start(run())


def test_an_api_server_that_is_away_loses_nothing_and_is_not_asked_for_each_run(make_backend, cluster):
    now = [0.0]
    backend = make_backend(monotonic=lambda: now[0])
    cluster.failure = BackendUnavailableError("away")
    for ask in (backend.start, backend.look, backend.look):
        with pytest.raises(BackendUnavailableError):
            ask(run())
    assert cluster.calls == [("get", JOBS)]
    cluster.failure, now[0] = None, 1.0
    backend.start(run())
    assert backend.look(run()) == Running(None)


def test_stopping_starts_no_other_pod_and_killing_deletes_what_lives(make_backend, cluster):
    backend = make_backend()
    backend.start(run())
    cluster.add_pod(**RUNNING)
    backend.stop(RUN_ID, kill=False)
    assert cluster.objects[f"{JOBS}/{RUN_ID}-1"]["spec"]["parallelism"] == 0
    assert ("delete", f"{PODS}/pod-1") not in cluster.calls
    backend.stop(RUN_ID, kill=True)
    assert ("delete", f"{PODS}/pod-1") in cluster.calls


def test_a_pods_end_is_there_until_the_run_is_released(make_backend, cluster, tmp_path):
    backend = make_backend()
    backend.start(run())
    RunDirectory.of(tmp_path, RUN_ID).claim(1, cluster.add_pod(**OVER))
    backend.stop(RUN_ID, kill=True)
    sight = make_backend().look(run())
    assert isinstance(sight, Exited)
    assert sight.result.ended_at == "2026-11-21T11:00:09.000Z"
    backend.release(RUN_ID)
    assert cluster.names == set()


def test_a_pod_of_the_folder_is_a_pod_of_the_run(make_backend, cluster, tmp_path):
    backend = make_backend()
    backend.start(run())
    cluster.add_pod(**RUNNING)
    # What a notebook has written there of another run's pod counts for nothing.
    RunDirectory.of(tmp_path, RUN_ID).claim(1, "pod-of-another-run")
    assert backend.look(run()) == Gone("Its pod is gone.")


def test_a_log_that_is_a_link_or_a_pipe_is_not_opened(make_backend, cluster, tmp_path):
    log = tmp_path / RUN_ID / "log.txt"
    for make in (lambda: log.symlink_to("/etc/hostname"), lambda: os.mkfifo(log)):
        make()
        with pytest.raises(StartError):
            make_backend().start(run())
        log.unlink()
    assert cluster.names == set()


def test_a_pod_that_only_its_node_has_still_to_let_go_is_not_running(make_backend, cluster):
    name = cluster.add_pod(**OVER)
    assert make_backend().running() == {RUN_ID}
    cluster.objects[f"{PODS}/{name}"]["metadata"] |= {"deletionTimestamp": ENDED}
    assert make_backend().running() == {RUN_ID}
    cluster.objects[f"{PODS}/{name}"]["metadata"] |= {"finalizers": []}
    assert make_backend().running() == set()


def test_the_runner_of_the_same_code_is_one_file(tmp_path):
    assert write_runner(tmp_path) == write_runner(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
