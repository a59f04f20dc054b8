"""A node that exists on paper only: it shows what the test says, and is lost when the test falls silent."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubernetes.client import CoreV1Api

POD_SECONDS = 300


@dataclass(frozen=True)
class GhostNode:
    """A node without a kubelet."""

    core: CoreV1Api
    name: str

    def beat(self) -> None:
        """Tell that the node is well, as a kubelet does every few seconds."""
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()}
        room = {"cpu": "64", "memory": "256Gi", "pods": "110"}
        status: dict[str, Any] = {"conditions": [ready], "capacity": room, "allocatable": room}
        self.core.patch_node_status(self.name, {"status": status})

    def run_pod(self, namespace: str, pod: str) -> None:
        """Show a pod as running, once the scheduler has placed it here."""
        deadline = time.monotonic() + POD_SECONDS
        while not self._has(namespace, pod):
            assert time.monotonic() < deadline, f"{pod} is not scheduled to {self.name}"
            self.beat()
            time.sleep(0.2)
        self.beat()
        container = {
            "name": "notebook",
            "image": "none",
            "imageID": "none",
            "ready": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": _now()}},
        }
        ready = [
            {"type": name, "status": "True", "lastTransitionTime": _now()} for name in ("Ready", "ContainersReady")
        ]
        status = {"phase": "Running", "podIP": "10.244.255.1", "containerStatuses": [container], "conditions": ready}
        self.core.patch_namespaced_pod_status(pod, namespace, {"status": status})

    def _has(self, namespace: str, pod: str) -> bool:
        pods = self.core.list_namespaced_pod(namespace, field_selector=f"spec.nodeName={self.name}").items
        return pod in {one.metadata.name for one in pods}


@contextmanager
def ghost_node(core: CoreV1Api, name: str) -> Iterator[GhostNode]:
    """Register a node that only pods which select it by its name get to; remove it at the end."""
    taint = {"key": "ghost", "value": name, "effect": "NoSchedule"}
    core.create_node({"metadata": {"name": name, "labels": {"ghost": name}}, "spec": {"taints": [taint]}})
    node = GhostNode(core, name)
    node.beat()
    try:
        yield node
    finally:
        core.delete_node(name)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
