"""Jobs of runs: what they ask of the cluster, and what their pods say of the run."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from kubespawner.slugs import safe_slug

from hub.batch.backend import Exited, Gone, Running
from hub.batch.files import RunDirectory, write_atomically
from hub.batch.jobs import (
    FINALIZER,
    KUEUE_QUEUE,
    RUN_PATH,
    JobSettings,
    job_name,
    key_of,
    make_job,
    sight_of_claimed,
    sight_of_unclaimed,
)
from hub.batch.model import Run, RunResult, to_text
from hub.client import Resources
from hub.spawner.manifests import label_value
from tests.hub.kube_leases import lease, leases

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
STARTED, ENDED = "2026-11-21T11:00:00Z", "2026-11-21T11:00:09Z"
STORE = {"persistentVolumeClaim": {"claimName": "runs"}}


def run(**changes: Any) -> Run:
    data = {
        "id": "r-0123456789abcdef0123",
        "person": "ada",
        "allocation": "a1",
        "size": "small",
        "resources": {"cores": 2, "memory_gib": 8},
        "max_seconds": 60,
        "state": "admitted",
    }
    return Run.from_json(data | changes)


def terms(**changes: Any) -> JobSettings:
    return JobSettings.model_validate({"namespace": "hub", "run_store": STORE} | changes)


def job(**changes: Any) -> dict[str, Any]:
    return make_job(run(), lease(image_reference="lab:1"), terms(**changes), "batch", ".runner.pyz")


def container_of(made: dict[str, Any]) -> dict[str, Any]:
    (container,) = made["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_a_job_starts_one_pod_and_repeats_nothing():
    made = job()
    assert (made["spec"]["parallelism"], made["spec"]["completions"], made["spec"]["backoffLimit"]) == (1, 1, 0)
    assert made["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert made["spec"]["template"]["metadata"]["finalizers"] == [FINALIZER]


def test_a_job_is_named_after_its_attempt_and_found_by_its_labels():
    made = job()
    assert made["metadata"]["name"] == job_name(run().id, 1) == "r-0123456789abcdef0123-1"
    assert key_of(made) == key_of(made["spec"]["template"]) == (run().id, 1)


def test_a_pod_sees_the_folder_of_its_run_alone_and_has_no_token():
    made = job(run_store_path="store")
    mounts = container_of(made)["volumeMounts"]
    assert mounts[0] == {"name": "run-store", "mountPath": RUN_PATH, "subPath": f"store/{run().id}"}
    assert mounts[1]["subPath"] == "store/.runner.pyz"
    assert mounts[1]["readOnly"] is True
    assert made["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_homes_are_mounted_by_the_names_that_servers_give_them():
    home = {
        "name": "home",
        "source": {"persistentVolumeClaim": {"claimName": "claim-{person}"}},
        "path": "/home/jovyan",
        "sub_path": "{allocation}",
    }
    spec = job(mounts=[home])["spec"]["template"]["spec"]
    assert spec["volumes"][1] == {"name": "home", "persistentVolumeClaim": {"claimName": "claim-ada"}}
    assert spec["containers"][0]["volumeMounts"][2] == {"name": "home", "mountPath": "/home/jovyan", "subPath": "a1"}


def test_folders_of_people_with_unusual_names_are_those_of_their_servers():
    scratch = {"persistentVolumeClaim": {"claimName": "scratch"}}
    mounts = [{"name": "scratch", "source": scratch, "path": "/scratch", "sub_path": "{person}"}]
    home = {"persistentVolumeClaim": {"claimName": "claim-{person}"}}
    mounts.append({"name": "home", "source": home, "path": "/home/jovyan"})
    made = make_job(run(person="Ada.L"), lease(image_reference="lab:1"), terms(mounts=mounts), "batch", "x")
    paths = {mount["mountPath"]: mount.get("subPath") for mount in container_of(made)["volumeMounts"]}
    assert paths["/scratch"] == label_value("Ada.L")
    claims = [
        volume["persistentVolumeClaim"]["claimName"] for volume in made["spec"]["template"]["spec"]["volumes"][1:]
    ]
    assert claims == ["scratch", f"claim-{safe_slug('Ada.L', max_length=48)}"]


@pytest.mark.parametrize(("tiers", "mounted"), [(None, True), (["consortium"], False), (["entry"], True)])
def test_a_volume_of_some_tiers_is_mounted_in_their_runs_only(tiers, mounted):
    shared = {"name": "shared", "source": {"emptyDir": {}}, "path": "/shared", "tiers": tiers}
    made = make_job(run(), lease(image_reference="lab:1", tier="entry"), terms(mounts=[shared]), "batch", "x")
    assert ("/shared" in {mount["mountPath"] for mount in container_of(made)["volumeMounts"]}) == mounted


@pytest.mark.parametrize("tier", ["entry", "consortium"])
def test_a_run_finds_what_its_allocation_has_as_a_server_does(tier):
    scratch = {"name": "scratch", "source": {"emptyDir": {}}, "path": "/scratch"}
    shared = {"name": "shared", "source": {"emptyDir": {}}, "path": "/shared", "tiers": ["consortium"]}
    made = make_job(run(), lease(image_reference="lab:1", tier=tier), terms(mounts=[scratch, shared]), "batch", "x")
    environment = {one["name"]: one.get("value") for one in container_of(made)["env"]}
    assert environment["MERIDIAN_SCRATCH"] == "/scratch"
    assert environment.get("MERIDIAN_SHARED") == ("/shared" if tier == "consortium" else None)


def test_a_job_carries_kueues_label_only_where_a_queue_is_configured():
    assert KUEUE_QUEUE not in job()["metadata"]["labels"]
    assert job(kueue_queue="science")["metadata"]["labels"][KUEUE_QUEUE] == "science"


def test_a_setting_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="run_stor"):
        terms(run_stor=STORE)


@given(leases())
@settings(deadline=None)
def test_a_pod_has_what_its_lease_pays_for_and_ends_with_it(given_lease):
    made = make_job(run(), given_lease, terms(), "batch", ".runner.pyz")
    resources = container_of(made)["resources"]
    assert resources["limits"] == resources["requests"]
    assert resources["limits"].get("nvidia.com/gpu", "0") == str(given_lease.resources.gpus)
    length = given_lease.latest_end_at - given_lease.acquired_at
    assert made["spec"]["template"]["spec"]["activeDeadlineSeconds"] == max(1, length.total_seconds())


def test_gpus_need_the_nodes_that_have_them():
    paid = lease(resources=Resources(cores=1, memory_gib=1, gpus=1, gpu_type="t4"))
    spec = make_job(run(), paid, terms(), "batch", "x")["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"meridian/gpu-type": "t4"}


def pod(state: dict[str, Any] | None = None, deleted: str | None = None, **status: Any) -> dict[str, Any]:
    statuses = [{"name": "notebook", "state": state}] if state else []
    metadata = {"name": "p", "deletionTimestamp": deleted} if deleted else {"name": "p"}
    return {"metadata": metadata, "status": {"containerStatuses": statuses, **status}}


def over(cause: str = "Completed", code: int = 0, **more: Any) -> dict[str, Any]:
    ended = {"startedAt": STARTED, "finishedAt": ENDED, "reason": cause, "exitCode": code}
    return pod({"terminated": ended}, **more)


def made_job(waited_seconds: int = 0, parallelism: int = 1, **status: Any) -> dict[str, Any]:
    created = to_text(NOW - timedelta(seconds=waited_seconds))
    return {"metadata": {"creationTimestamp": created}, "spec": {"parallelism": parallelism}, "status": status}


def ended(sight: object) -> tuple[str, str | None, str]:
    assert isinstance(sight, Exited)
    return sight.result.outcome, sight.result.started_at, sight.result.ended_at


SECONDS = ("2026-11-21T11:00:00.000Z", "2026-11-21T11:00:09.000Z")


def test_the_api_servers_times_count_not_the_runners():
    said = RunResult(1, "failed", "2026-11-21T11:00:02Z", "2026-11-21T11:00:07Z", None)
    assert ended(sight_of_claimed(run(), over(), said, NOW)) == ("failed", *SECONDS)


def test_a_result_waits_for_the_end_of_its_pod():
    said = RunResult(1, "succeeded", STARTED, ENDED, None)
    running = pod({"running": {"startedAt": STARTED}})
    assert sight_of_claimed(run(), running, said, NOW) == Running(SECONDS[0])


@pytest.mark.parametrize(
    ("shown", "outcome", "error"),
    [
        (over("Error", 137), "cancelled", "Lost"),
        (over("Error", 137, deleted=ENDED), "cancelled", "Lost"),
        (over("OOMKilled", 137), "failed", "MemoryError"),
        (over("Error", 137, phase="Failed", reason="DeadlineExceeded"), "timed_out", "DeadlineExceeded"),
    ],
)
def test_what_ends_without_a_result_is_judged_by_its_pod(shown, outcome, error):
    sight = sight_of_claimed(run(), shown, None, NOW)
    assert ended(sight) == (outcome, *SECONDS)
    assert isinstance(sight, Exited)
    assert sight.result.error is not None
    assert sight.result.error.name == error


def test_a_pod_that_lost_its_status_is_charged_from_the_start_that_was_reported():
    shown = pod(phase="Failed", reason="DeadlineExceeded")
    shown["status"]["conditions"] = [{"type": "Ready", "status": "False", "lastTransitionTime": ENDED}]
    assert ended(sight_of_claimed(run(started_at=STARTED), shown, None, NOW)) == ("timed_out", STARTED, SECONDS[1])


def test_a_pod_at_its_deadline_has_its_time_to_save():
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": ENDED}
    shown = pod({"running": {"startedAt": STARTED}}, phase="Failed", reason="DeadlineExceeded", conditions=[ready])
    soon = datetime.fromisoformat(ENDED) + timedelta(seconds=19)
    assert sight_of_claimed(run(), shown, None, soon) == Running(SECONDS[0])
    assert ended(sight_of_claimed(run(), shown, None, NOW)) == ("timed_out", *SECONDS)


def test_a_pod_that_was_deleted_counts_by_its_deletion_whatever_its_runner_took_it_for():
    said = RunResult(1, "cancelled", STARTED, ENDED, None)
    shown = over("Completed", 0, phase="Failed", reason="DeadlineExceeded")
    assert ended(sight_of_claimed(run(), shown, said, NOW))[0] == "timed_out"


def test_a_job_whose_pod_is_to_come_is_under_way():
    pulling = pod({"waiting": {"reason": "ImagePullBackOff"}})
    for pods in ([], [pod()], [pulling]):
        assert sight_of_unclaimed(made_job(), pods, terms(), NOW) == Running(None)


@pytest.mark.parametrize(
    ("shown", "pods"),
    [
        (None, []),
        (made_job(conditions=[{"type": "Failed", "status": "True"}]), []),
        (made_job(parallelism=0), [pod(deleted=ENDED)]),
        (made_job(waited_seconds=121), [pod({"waiting": {"reason": "ImagePullBackOff"}})]),
        (made_job(waited_seconds=901), [pod()]),
    ],
)
def test_a_job_whose_pod_will_not_come_is_gone(shown, pods):
    assert isinstance(sight_of_unclaimed(shown, pods, terms(), NOW), Gone)


def test_a_job_in_a_queue_of_kueue_may_wait():
    assert sight_of_unclaimed(made_job(waited_seconds=9_999), [], terms(kueue_queue="q"), NOW) == Running(None)


def test_an_attempt_is_taken_by_one_pod_for_good(tmp_path):
    directory = RunDirectory(tmp_path)
    assert directory.claimed_by(1) is None
    assert [directory.claim(1, one) for one in ("a", "b", "a")] == [True, False, False]
    assert directory.claimed_by(1) == "a"
    assert directory.claim(2, "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["claim-1", "claim-2"]


SPOILT = [
    "[]",
    '{"attempt": 1, "outcome": "won", "started_at": null, "ended_at": "2026-11-21T11:00:09Z", "error": null}',
    '{"attempt": 1, "outcome": "failed", "started_at": 5, "ended_at": "2026-11-21T11:00:09Z", "error": null}',
    '{"attempt": 1, "outcome": "failed", "started_at": null, "ended_at": "2026-11-21T11:00:09Z", "error": 5}',
]


@pytest.mark.parametrize("text", SPOILT)
def test_a_result_that_a_notebook_has_spoilt_is_none(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    assert RunDirectory(tmp_path).read_result(1) is None


@pytest.mark.parametrize("line", ["[]", "{}", '{"at": 5, "event": "started", "cells_total": 1}', "5", "{"])
def test_progress_that_a_notebook_has_spoilt_is_none(tmp_path, line):
    (tmp_path / "events.jsonl").write_text(f"{line}\n")
    assert RunDirectory(tmp_path).read_progress() is None


@pytest.mark.parametrize("name", ["result.json", "events.jsonl", "claim-1"])
def test_a_pipe_a_link_and_a_folder_in_the_place_of_a_file_are_not_read(tmp_path, name):
    path, directory = tmp_path / name, RunDirectory(tmp_path)
    (tmp_path / "secret").write_text('{"attempt": 1}')
    for make in (lambda: os.mkfifo(path), lambda: path.symlink_to("secret"), path.mkdir):
        make()
        assert (directory.read_result(1), directory.read_progress(), directory.claimed_by(1)) == (None, None, None)
        path.rmdir() if path.is_dir() else path.unlink()


def test_nothing_is_written_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("whole")
    (tmp_path / f".run.json.{os.getpid()}").symlink_to(victim)
    write_atomically(tmp_path / "run.json", "{}")
    assert victim.read_text() == "whole"
    assert (tmp_path / "run.json").read_text() == "{}"
