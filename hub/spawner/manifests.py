"""What a lease makes of a pod: names, resources, deadline, places to run and to write, and rights. Pure functions.

KubeSpawner's own `make_pod` builds the pod from its traits, profiles and hooks; `bind_pod` has the last word on what
the lease pays for. `pod_start` and `pod_end` read the times to charge from a pod as the API server shows it.
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kubernetes_asyncio.client.models import (
    V1PodSecurityContext,
    V1ResourceRequirements,
    V1SecurityContext,
    V1Toleration,
    V1Volume,
    V1VolumeMount,
)
from kubespawner.utils import get_k8s_model

from hub.spawner.rescue import POD_FOLDER, POD_TMP, RESCUE, TMP_VOLUME, rescue_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kubernetes_asyncio.client.models import V1Container, V1PersistentVolumeClaim, V1Pod

    from hub.client import Lease, Resources

PERSON = "meridian/person"
ALLOCATION = "meridian/allocation"
LEASE = "meridian/lease"
KIND = "meridian/kind"
HUB = "meridian/hub"
GPU_TYPE = "meridian/gpu-type"
NOTEBOOK = "notebook"
NVIDIA_GPU = "nvidia.com/gpu"
# The user and the group of images for JupyterHub, by custom; a number, so that the kubelet sees it is not root.
USER = 1000
GROUP = 100
EPHEMERAL_STORAGE = "ephemeral-storage"
# By which servers and runs find what their allocation has, by the names of the volumes.
PATH_VARIABLES = {"scratch": "MERIDIAN_SCRATCH", "shared": "MERIDIAN_SHARED"}
SINGLEUSER = "jupyterhub-singleuser"

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_HASH_MARK = "__"
_READABLE_LENGTH = 30
_HASH_LENGTH = 24
# The kubelet deletes within the grace period that is part of deletionTimestamp; beyond this it does not answer.
LOST_AFTER = timedelta(seconds=30)
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"(?P<number>[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(?P<suffix>[numkMGTPE]i?|Ki|)")
_SUFFIXES = {"": Decimal(1), "n": Decimal(10) ** -9, "u": Decimal(10) ** -6, "m": Decimal(10) ** -3} | {
    suffix: base**power
    for power, prefix in enumerate("kMGTPE", 1)
    for suffix, base in ((prefix, Decimal(1000)), (f"{prefix.upper()}i", Decimal(1024)))
}
_SHARED_RESOURCES = frozenset({"cpu", "memory", EPHEMERAL_STORAGE})


def label_value(name: str) -> str:
    """Make a name a label's value: itself where it can be, else its readable part and a hash; no two are the same."""
    if _LABEL.fullmatch(name) and _HASH_MARK not in name:
        return name
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:_READABLE_LENGTH].strip("-") or "x"
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    return f"{readable}{_HASH_MARK}{digest}"


def labels_of(lease: Lease) -> dict[str, str]:
    """Labels by which everything of a person, an allocation or a lease is found."""
    return {key: label_value(value) for key, value in annotations_of(lease).items()}


def annotations_of(lease: Lease) -> dict[str, str]:
    """The same names as they are."""
    return {PERSON: lease.person, ALLOCATION: lease.allocation, LEASE: lease.id, KIND: lease.kind}


def cpu_quantity(cores: float) -> str:
    """Cores as Kubernetes writes them: `2`, `500m`."""
    return f"{cores:.0f}" if cores == int(cores) else f"{round(cores * 1000)}m"


def memory_quantity(memory_gib: float) -> str:
    """Memory as Kubernetes writes it: `16Gi`, or in MiB."""
    return f"{memory_gib:.0f}Gi" if memory_gib == int(memory_gib) else f"{round(memory_gib * 1024)}Mi"


def quantities_of(resources: Resources, gpu_resource: str = NVIDIA_GPU) -> dict[str, str]:
    """What a lease pays for, by Kubernetes' names; it is request and limit at once."""
    gpus = {gpu_resource: str(resources.gpus)} if resources.gpus else {}
    return {"cpu": cpu_quantity(resources.cores), "memory": memory_quantity(resources.memory_gib), **gpus}


def deadline_seconds(lease: Lease) -> int | None:
    """How long a pod of the lease may live at most; by the service's clock alone, so no other has to be right."""
    if lease.latest_end_at is None or lease.acquired_at is None:
        return None
    return max(1, math.ceil((lease.latest_end_at - lease.acquired_at).total_seconds()))


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume and where a server sees it; `sub_path` is the part of the volume that it sees, None for all of it."""

    name: str
    source: Mapping[str, Any]
    path: str
    sub_path: str | None = None

    @property
    def claim(self) -> str | None:
        """The claim that the volume is, None for another kind of volume."""
        return (self.source.get("persistentVolumeClaim") or {}).get("claimName")

    def part(self, sub_path: str) -> Mount:
        """The same with a part of the volume only."""
        return replace(self, sub_path=sub_path)


@dataclass(frozen=True, slots=True)
class PodTerms:
    """What a pod is bound to: its lease, and how this cluster gives what the lease pays for.

    `gpu_nodes` maps a GPU type to the labels of its nodes; a type that is not in it has the label `meridian/gpu-type`.
    `unpriced_resources` are extended resources that a pod may have without a lease that pays for them.
    """

    lease: Lease
    mounts: tuple[Mount, ...] = ()
    gpu_resource: str = NVIDIA_GPU
    gpu_nodes: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    priority_class: str = ""
    unpriced_resources: frozenset[str] = frozenset()

    @property
    def node_labels(self) -> dict[str, str]:
        """The labels of the nodes where the pod may run."""
        gpu_type = self.lease.resources.gpu_type
        if not self.lease.resources.gpus or gpu_type is None:
            return {}
        return dict(self.gpu_nodes.get(gpu_type, {GPU_TYPE: label_value(gpu_type)}))


def bind_pod(pod: V1Pod, terms: PodTerms) -> tuple[V1Pod, tuple[str, ...]]:
    """Return the pod as the lease lets it run, and a sentence for each thing that it asked for beyond the lease.

    What configuration, profiles and hooks say stays wherever it costs nothing. Binding a bound pod changes nothing.
    """
    pod = copy.deepcopy(pod)
    lease, spec = terms.lease, pod.spec
    pod.metadata.labels = (pod.metadata.labels or {}) | labels_of(lease)
    pod.metadata.annotations = (pod.metadata.annotations or {}) | annotations_of(lease)
    notebook = notebook_of(pod)
    paid = quantities_of(lease.resources, terms.gpu_resource)
    beyond = [*_bind_notebook(notebook, paid, terms.unpriced_resources)]
    for container in [*spec.containers, *(spec.init_containers or [])]:
        if container is not notebook:
            beyond += _take_unpaid(container, terms.unpriced_resources)
    _place(pod, terms)
    if lease.size == RESCUE:
        _rescue(pod)
    _mount(pod, terms.mounts)
    deadline = deadline_seconds(lease)
    if deadline is not None:
        spec.active_deadline_seconds = min(deadline, spec.active_deadline_seconds or deadline)
    if terms.priority_class:
        spec.priority_class_name = terms.priority_class
    _restrict(pod)
    return pod, tuple(beyond)


def bind_claim(claim: V1PersistentVolumeClaim, person: str) -> V1PersistentVolumeClaim:
    """Return the claim of a home with the name of its person; a home outlives every lease."""
    claim = copy.deepcopy(claim)
    claim.metadata.labels = (claim.metadata.labels or {}) | {PERSON: label_value(person)}
    claim.metadata.annotations = (claim.metadata.annotations or {}) | {PERSON: person}
    return claim


def notebook_of(pod: V1Pod) -> V1Container:
    """The container of the server among those that configuration puts beside it."""
    named = [container for container in pod.spec.containers if container.name == NOTEBOOK]
    found: V1Container = (named or pod.spec.containers)[0]
    return found


def beyond_lease(asked: Mapping[str, Any], paid: Mapping[str, str], unpriced: frozenset[str]) -> tuple[str, ...]:
    """A sentence for each resource that is asked for beyond what a lease pays for."""
    return tuple(
        _beyond(name, amount, paid.get(name))
        for name, amount in sorted(asked.items())
        if name not in unpriced | {EPHEMERAL_STORAGE}
        and amount is not None
        and _amount(amount) > _amount(paid.get(name, "0"))
    )


def _bind_notebook(notebook: V1Container, paid: Mapping[str, str], unpriced: frozenset[str]) -> tuple[str, ...]:
    limits, requests = _resources(notebook)
    free = unpriced | {EPHEMERAL_STORAGE}
    notebook.resources = V1ResourceRequirements(
        limits={name: amount for name, amount in limits.items() if name in free} | dict(paid),
        requests={name: amount for name, amount in requests.items() if name in free} | dict(paid),
    )
    return beyond_lease(requests | limits, paid, unpriced)


def _take_unpaid(container: V1Container, unpriced: frozenset[str]) -> tuple[str, ...]:
    """Take devices from a container beside the server: a lease's GPUs are for the server itself."""
    limits, requests = _resources(container)
    beyond = {name: amount for name, amount in (requests | limits).items() if name not in unpriced | _SHARED_RESOURCES}
    if beyond:
        container.resources = V1ResourceRequirements(
            limits={name: amount for name, amount in limits.items() if name not in beyond},
            requests={name: amount for name, amount in requests.items() if name not in beyond},
        )
    return beyond_lease(beyond, {}, unpriced)


def _resources(container: V1Container) -> tuple[dict[str, Any], dict[str, Any]]:
    """The limits and requests of a container; configuration may have given them as JSON."""
    resources = plain(container.resources) or {}
    return resources.get("limits") or {}, resources.get("requests") or {}


def _beyond(name: str, amount: object, pays: str | None) -> str:
    return f"The configuration asks for {name} {amount}; the lease pays for {pays or 'none'}."


def _place(pod: V1Pod, terms: PodTerms) -> None:
    if not terms.node_labels:
        return
    pod.spec.node_selector = (pod.spec.node_selector or {}) | terms.node_labels
    # The taint that GPU nodes usually have, so that only those who pay for them get there.
    toleration = V1Toleration(key=terms.gpu_resource, operator="Exists", effect="NoSchedule")
    if toleration not in (pod.spec.tolerations or []):
        pod.spec.tolerations = [*(pod.spec.tolerations or []), toleration]


def _rescue(pod: V1Pod) -> None:
    """Let the server write outside of the home, and start by itself: an image's own start may write into the home."""
    notebook = notebook_of(pod)
    if not notebook.args:
        notebook.args = [SINGLEUSER, *rescue_arguments(POD_FOLDER)]
    _mount(pod, (Mount("rescue", TMP_VOLUME, POD_TMP),))


def _mount(pod: V1Pod, mounts: Iterable[Mount]) -> None:
    """Add the volumes that configuration has not mounted itself, by the same claim or at the same place."""
    notebook = notebook_of(pod)
    volumes, mounted = list(pod.spec.volumes or []), list(notebook.volume_mounts or [])
    for mount in mounts:
        claims = {(plain(volume).get("persistentVolumeClaim") or {}).get("claimName") for volume in volumes} - {None}
        if mount.path in {one.mount_path for one in mounted} or mount.claim in claims:
            continue
        volumes.append(get_k8s_model(V1Volume, {"name": mount.name, **mount.source}))
        mounted.append(V1VolumeMount(name=mount.name, mount_path=mount.path, sub_path=mount.sub_path))
    pod.spec.volumes, notebook.volume_mounts = volumes, mounted


def _restrict(pod: V1Pod) -> None:
    """Fill in what configuration leaves open of the rights of the server; what it says in so many words stays."""
    if pod.spec.automount_service_account_token is None:
        pod.spec.automount_service_account_token = False
    notebook = notebook_of(pod)
    context, of_pod = plain(notebook.security_context) or {}, plain(pod.spec.security_context) or {}
    for name, number in (("runAsUser", USER), ("runAsGroup", GROUP)):
        if name not in of_pod:
            context.setdefault(name, number)
    # So that a server may write to its volumes.
    pod.spec.security_context = get_k8s_model(V1PodSecurityContext, {"fsGroup": GROUP} | of_pod)
    if not context.get("privileged"):
        context.setdefault("allowPrivilegeEscalation", False)
    context.setdefault("runAsNonRoot", True)
    context.setdefault("capabilities", {"drop": ["ALL"]})
    if "seccompProfile" not in of_pod:
        context.setdefault("seccompProfile", {"type": "RuntimeDefault"})
    notebook.security_context = get_k8s_model(V1SecurityContext, context)


@dataclass(frozen=True, slots=True)
class PodEnd:
    """A pod has ended; `at` is when, as the API server reports it, None where it does not say."""

    at: datetime | None


def pod_start(pod: Mapping[str, Any]) -> datetime | None:
    """When the server's container first ran, as far as the API server still shows; None while it has not run."""
    status = _notebook_status(pod)
    states = [status.get("lastState") or {}, status.get("state") or {}]
    times = [(state.get(kind) or {}).get("startedAt") for state in states for kind in ("running", "terminated")]
    return min((_time(time) for time in times if time), default=None)


def pod_end(pod: Mapping[str, Any], now: datetime) -> PodEnd | None:
    """Whether the server in a pod (as JSON) has ended, and when; None while it runs or may still come to run.

    It has ended when its container has, when the pod has (evicted, over its deadline), when the container only ever
    starts to fail again, or when the pod should long be deleted but its node does not answer.
    """
    container = _notebook_status(pod)
    state = container.get("state") or {}
    if "terminated" in state:
        return PodEnd(_finished(state))
    if (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff":
        return PodEnd(_finished(container.get("lastState") or {}))
    status = pod.get("status") or {}
    if status.get("phase") in {"Failed", "Succeeded"}:
        return PodEnd(_since(status, "DisruptionTarget", "True") or _since(status, "Ready", "False"))
    deleted = pod["metadata"].get("deletionTimestamp")
    if deleted and state and "running" not in state:
        # A kubelet that has removed the container already (seen of 1.20) shows it as if it were still to come.
        return PodEnd(_since(status, "Ready", "False"))
    if deleted and _time(deleted) + LOST_AFTER < now:
        return PodEnd(min(_since(status, "Ready", "False") or now, _time(deleted)))
    return None


def _notebook_status(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    statuses: list[Mapping[str, Any]] = (pod.get("status") or {}).get("containerStatuses") or []
    return next((status for status in statuses if status["name"] == NOTEBOOK), {})


def _finished(state: Mapping[str, Any]) -> datetime | None:
    time = (state.get("terminated") or {}).get("finishedAt")
    return _time(time) if time else None


def _since(status: Mapping[str, Any], condition: str, value: str) -> datetime | None:
    """Since when a condition of the pod has had a value; None when it has not."""
    times = [
        one.get("lastTransitionTime")
        for one in status.get("conditions") or []
        if (one["type"], one["status"]) == (condition, value)
    ]
    return _time(times[0]) if times and times[0] else None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def plain(value: Any) -> Any:
    """A model of the Kubernetes client, or JSON that may hold such, as JSON."""
    if hasattr(value, "attribute_map"):
        value = {name: getattr(value, attribute) for attribute, name in value.attribute_map.items()}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if item is not None}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _amount(quantity: object) -> Decimal:
    """A quantity as a number: `500m`, `2`, `16Gi`, `1e3`."""
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        msg = f"{quantity!r} is not a quantity of Kubernetes."
        raise ValueError(msg)
    return Decimal(match["number"]) * _SUFFIXES[match["suffix"]]
