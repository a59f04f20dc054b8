"""A run as a Job, and what the pod of a Job says of its run. Pure functions.

A Job is one attempt: it starts one pod and never a second, for a second attempt has a lease of its own. The pod sees
its run's folder of the run store and nothing of the others', has no token, and keeps its status for us: its finalizer
lets the API server forget it only when its end has been reported.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kubernetes_asyncio.client.models import V1Container, V1ObjectMeta, V1Pod, V1PodSpec, V1VolumeMount
from kubespawner.slugs import safe_slug
from kubespawner.utils import get_k8s_model
from pydantic import BaseModel, ConfigDict

from hub.batch import ends
from hub.batch.backend import Exited, Gone, Running
from hub.batch.model import RunError, RunResult, to_text
from hub.spawner.manifests import (
    NOTEBOOK,
    NVIDIA_GPU,
    PATH_VARIABLES,
    PERSON,
    Mount,
    PodTerms,
    annotations_of,
    bind_pod,
    label_value,
    labels_of,
    plain,
    pod_end,
    pod_start,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hub.batch.backend import Sight
    from hub.batch.model import Run
    from hub.client import Lease

RUN = "meridian/run"
ATTEMPT = "meridian/attempt"
EXECUTOR = "meridian/executor"
FINALIZER = "meridian/charge"
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
STORE = "run-store"
RUN_PATH = "/run/meridian/run"
RUNNER_PATH = "/run/meridian/runner.pyz"
# The runner asks the notebook to end, kills it, and lets papermill save: 8 seconds, and some on a busy node.
GRACE_SECONDS = 20
# What a kubelet goes on trying for ever, mostly in vain.
NO_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
NO_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


class VolumeTerms(BaseModel):
    """A volume that runs see: `{person}` and `{allocation}` stand for their names, as servers have them.

    That is as KubeSpawner writes them in names of objects, and as labels in folders. tiers: those whose runs see it;
    None for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: dict[str, Any]
    path: str
    sub_path: str | None = None
    tiers: tuple[str, ...] | None = None

    def mount(self, run: Run) -> Mount:
        """The volume of a run's person and allocation."""
        folders = {"{person}": label_value(run.person), "{allocation}": label_value(run.allocation)}
        return Mount(self.name, _filled(self.source, _names(run)), self.path, _filled(self.sub_path, folders))


class ClaimTerms(BaseModel):
    """The claim of a person's home, for those who run before they have had a server; `{person}` as in volumes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    storage: str
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)
    storage_class: str | None = None


class JobSettings(BaseModel):
    """How this cluster executes runs; the file that MERIDIAN_BATCH_KUBERNETES names, as JSON.

    run_store: the source of the volume that is the run store, which pods anywhere can write to at once.
    run_store_path: the store's folder in it. mounts: homes and the like. home_claim: made where it is missing.
    kueue_queue: the LocalQueue for Jobs, where Kueue is installed. start_seconds: how long a pod may take to begin,
    image_seconds: while its image can't be had; then the attempt counts as lost. The other fields are as
    KubeAllocationSpawner's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str
    run_store: dict[str, Any]
    run_store_path: str = ""
    mounts: tuple[VolumeTerms, ...] = ()
    home_claim: ClaimTerms | None = None
    home_path: str = "/home/jovyan"
    python: str = "python3"
    environment: dict[str, str] = {}
    labels: dict[str, str] = {}
    image_pull_secrets: tuple[str, ...] = ()
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()
    gpu_resource: str = NVIDIA_GPU
    gpu_nodes: dict[str, dict[str, str]] = {}
    tier_priority_classes: dict[str, str] = {}
    kueue_queue: str = ""
    start_seconds: int = 900
    image_seconds: int = 120

    def seen_by(self, lease: Lease) -> list[VolumeTerms]:
        """Return the volumes that runs of a lease's tier see."""
        return [one for one in self.mounts if one.tiers is None or lease.tier in one.tiers]


def job_name(run_id: str, attempt: int) -> str:
    """The name of an attempt's Job, by which whoever comes later finds it."""
    return f"{safe_slug(run_id, max_length=48)}-{attempt}"


def make_job(run: Run, lease: Lease, terms: JobSettings, executor: str, runner: str) -> dict[str, Any]:
    """The Job of a run's attempt under its lease, as JSON. runner: the runner's file in the run store."""
    ours = {RUN: label_value(run.id), ATTEMPT: str(run.attempt), EXECUTOR: label_value(executor)}
    labels = {**terms.labels, **labels_of(lease), **ours}
    bound, _beyond = bind_pod(
        _pod(run, lease, terms, runner),
        PodTerms(
            lease=lease,
            mounts=tuple(volume.mount(run) for volume in terms.seen_by(lease)),
            gpu_resource=terms.gpu_resource,
            gpu_nodes=terms.gpu_nodes,
            priority_class=terms.tier_priority_classes.get(lease.tier, ""),
        ),
    )
    template = plain(bound)
    template["metadata"]["labels"] |= labels
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(run.id, run.attempt),
            "labels": labels | ({KUEUE_QUEUE: terms.kueue_queue} if terms.kueue_queue else {}),
            "annotations": annotations_of(lease),
        },
        # An attempt that fails is the service's to repeat, under another lease.
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
    }


def make_claim(run: Run, terms: ClaimTerms) -> dict[str, Any]:
    """The claim of the home of a run's person as JSON, as the hub makes it for a first server."""
    spec: dict[str, Any] = {
        "accessModes": list(terms.access_modes),
        "resources": {"requests": {"storage": terms.storage}},
    }
    if terms.storage_class is not None:
        spec["storageClassName"] = terms.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": _filled(terms.name, _names(run)),
            "labels": {PERSON: label_value(run.person)},
            "annotations": {PERSON: run.person},
        },
        "spec": spec,
    }


def _pod(run: Run, lease: Lease, terms: JobSettings, runner: str) -> V1Pod:
    inside = f"{terms.run_store_path}/" if terms.run_store_path else ""
    container = {
        "name": NOTEBOOK,
        "image": lease.image_reference,
        "command": [terms.python, RUNNER_PATH, RUN_PATH, str(run.attempt), "$(MERIDIAN_POD)"],
        "workingDir": terms.home_path,
        "env": [
            *({"name": name, "value": value} for name, value in _environment(run, lease, terms).items()),
            {"name": "MERIDIAN_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "volumeMounts": [
            V1VolumeMount(name=STORE, mount_path=RUN_PATH, sub_path=f"{inside}{run.id}"),
            V1VolumeMount(name=STORE, mount_path=RUNNER_PATH, sub_path=f"{inside}{runner}", read_only=True),
        ],
    }
    spec = {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "imagePullSecrets": [{"name": name} for name in terms.image_pull_secrets],
        "nodeSelector": dict(terms.node_selector),
        "tolerations": list(terms.tolerations),
        "volumes": [{"name": STORE, **terms.run_store}],
        "containers": [get_k8s_model(V1Container, container)],
    }
    return V1Pod(metadata=V1ObjectMeta(finalizers=[FINALIZER]), spec=get_k8s_model(V1PodSpec, spec))


def _environment(run: Run, lease: Lease, terms: JobSettings) -> dict[str, str]:
    devices = {} if run.resources.gpus else {"NVIDIA_VISIBLE_DEVICES": "void"}
    paths = {PATH_VARIABLES[one.name]: one.path for one in terms.seen_by(lease) if one.name in PATH_VARIABLES}
    return {
        **terms.environment,
        **paths,
        "HOME": terms.home_path,
        "USER": run.person,
        "LOGNAME": run.person,
        "MERIDIAN_RUN_ID": run.id,
        "OMP_NUM_THREADS": str(max(1, int(run.resources.cores))),
        # Each thread's own arena reserves 64 MiB of the address space, which is limited.
        "MALLOC_ARENA_MAX": "2",
        "JUPYTER_RUNTIME_DIR": "/tmp/jupyter-runtime",  # noqa: S108  the container's own
        **devices,
    }


def key_of(item: Mapping[str, Any]) -> tuple[str, int]:
    """The run (as a label) and the attempt of a Job or pod of ours."""
    labels = item["metadata"]["labels"]
    return labels[RUN], int(labels[ATTEMPT])


def sight_of_claimed(run: Run, pod: Mapping[str, Any], result: RunResult | None, now: datetime) -> Sight:
    """What has become of an attempt whose notebook a pod has begun, by the API server's times."""
    started, end = pod_start(pod), pod_end(pod, now)
    started_at = to_text(started) if started else None
    if end is None or _still_ends(pod, end.at, now):
        return Running(started_at)
    ended_at = to_text(end.at) if end.at else result.ended_at if result else to_text(now)
    if result is None or result.outcome == "cancelled":
        result = _without_result(run, pod, ended_at)
    # A pod may lose its container's status; then what was reported of it still holds.
    started_at = started_at or run.started_at or result.started_at
    node = (pod.get("spec") or {}).get("nodeName")
    # The notebook's container is the only one.
    image_id = next((status["imageID"] for status in _statuses(pod) if status.get("imageID")), None)
    return Exited(replace(result, started_at=started_at, ended_at=ended_at), node, image_id)


def sight_of_unclaimed(
    job: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]], terms: JobSettings, now: datetime
) -> Sight:
    """What has become of an attempt whose notebook no pod has begun: it is under way, or will not come."""
    if job is None or "deletionTimestamp" in job["metadata"] or _finished(job):
        return Gone(_words(*pods[-1:]), ends.code_of_lost_pod(pods[-1]) if pods else ends.LOST)
    coming = [pod for pod in pods if pod_end(pod, now) is None and "deletionTimestamp" not in pod["metadata"]]
    if not coming and job["spec"].get("parallelism") == 0:
        return Gone()
    trouble = [reason for pod in coming for reason in _waiting(pod) if reason in NO_IMAGE | NO_CONTAINER]
    waited = now - _time(job["metadata"]["creationTimestamp"])
    if trouble and waited > timedelta(seconds=terms.image_seconds):
        return Gone(f"Its pod could not start: {trouble[0]}.", ends.START_FAILED)
    # With Kueue it waits its turn, however long.
    if not terms.kueue_queue and waited > timedelta(seconds=terms.start_seconds):
        return Gone(f"Its pod did not start within {terms.start_seconds} seconds.", ends.START_FAILED)
    return Running(None)


def _still_ends(pod: Mapping[str, Any], since: datetime | None, now: datetime) -> bool:
    """Whether the container of a pod that has failed has its time to end: at a deadline the kubelet says so first."""
    running = any("running" in (status.get("state") or {}) for status in _statuses(pod))
    return running and since is not None and now < since + timedelta(seconds=GRACE_SECONDS)


def _without_result(run: Run, pod: Mapping[str, Any], ended_at: str) -> RunResult:
    """How the attempt ended by what the pod shows: its runner was stopped, or did not come to say."""
    if (pod.get("status") or {}).get("reason") == "DeadlineExceeded":
        message = "The run reached the end of its lease. Submit it with a longer limit, or divide it."
        return RunResult(
            run.attempt, "timed_out", None, ended_at, RunError(None, "DeadlineExceeded", message, "", ends.TIMED_OUT)
        )
    if any(state.get("reason") == "OOMKilled" for state in _terminated(pod)):
        message = f"The {run.resources.memory_gib:g} GiB of memory of this run's size were not enough. Choose a larger."
        error = RunError(None, "MemoryError", message, "", ends.OUT_OF_MEMORY)
        return RunResult(run.attempt, "failed", None, ended_at, error)
    # Cancelled, if somebody asked for that; else the executor takes it for lost.
    message = f"The run's pod ended without a result. The platform failed, not the notebook. {_words(pod)}".strip()
    error = RunError(None, "Lost", message, "", ends.code_of_lost_pod(pod))
    return RunResult(run.attempt, "cancelled", None, ended_at, error)


def _statuses(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return (pod.get("status") or {}).get("containerStatuses") or []


def _terminated(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [found for status in _statuses(pod) if (found := (status.get("state") or {}).get("terminated"))]


def _waiting(pod: Mapping[str, Any]) -> list[str]:
    return [((status.get("state") or {}).get("waiting") or {}).get("reason") or "" for status in _statuses(pod)]


def _finished(job: Mapping[str, Any]) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(one["type"] in {"Complete", "Failed"} and one["status"] == "True" for one in conditions)


def _words(*pods: Mapping[str, Any]) -> str:
    """What the cluster says of why a pod is over."""
    said = []
    for pod in pods:
        status = pod.get("status") or {}
        if "deletionTimestamp" in pod["metadata"]:
            said.append("Its pod was deleted.")
        said += [f"{text}." for text in (status.get("reason"), status.get("message")) if text]
        said += [f"Exit status {state['exitCode']}." for state in _terminated(pod)]
    return " ".join(said)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _names(run: Run) -> dict[str, str]:
    return {"{person}": safe_slug(run.person, max_length=48), "{allocation}": safe_slug(run.allocation)}


def _filled(value: Any, names: Mapping[str, str]) -> Any:
    """The value with the names in the place of their marks."""
    if isinstance(value, dict):
        return {key: _filled(item, names) for key, item in value.items()}
    if isinstance(value, str):
        for mark, name in names.items():
            value = value.replace(mark, name)
    return value
