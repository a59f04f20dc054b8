"""The whole platform as Helm installs it on the test cluster, from its images, for the tests of one module."""

from __future__ import annotations

import base64
import json
import os
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import helm_python as helm
import pytest
import yaml
from kubernetes import client, config
from kubernetes.stream import stream

from allocations.leases.views import LeaseView
from tests.chart.rendering import CHART, FULL_NAME, NAME
from tests.cluster.conftest import run_script
from tests.cluster.kube_bench import POLICIES, Witness
from tests.cluster.namespaces import make_namespace
from tests.e2e.platform import Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kubernetes.client.models import V1Pod

    from tests.cluster.conftest import Cluster

PARTS = ("hub", "allocations", "lab", "pipeline", "proxy", "postgres", "pause")
# What the platform's own processes ask for leaves a node of two cores room for a server of one.
MODEST = {"requests": {"cpu": "10m", "memory": "64Mi"}}
ADMINISTRATOR = "root"
IDLE_SECONDS = 1800
PEOPLES_PODS = 4
PEOPLES_CORES = 3
# Images of some gigabytes come to a node for the first time.
INSTALL_SECONDS = 900


@dataclass
class Installation(Site):
    """A release of the chart in a namespace of its own, with a witness of what the API server shows of its pods."""

    helm: helm.Config
    core: client.CoreV1Api
    namespace: str
    values: dict[str, Any]
    witness: Witness

    @cached_property
    def url(self) -> str:
        (pod,) = self.pods("proxy")
        (port,) = self.core.read_namespaced_service(f"{FULL_NAME}-proxy-public", self.namespace).spec.ports
        return f"http://{pod.status.host_ip}:{port.node_port}"

    def password(self, name: str) -> str:
        return self.secrets()["trial-admin-password" if name == ADMINISTRATOR else "trial-password"]

    def secrets(self) -> dict[str, str]:
        """The secrets that the chart has made."""
        data = self.core.read_namespaced_secret(FULL_NAME, self.namespace).data
        return {name: base64.b64decode(value).decode() for name, value in data.items()}

    def pods(self, component: str) -> list[V1Pod]:
        """The pods of one of our own processes that are not on their way out."""
        selector = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component={component}"
        found = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return [pod for pod in found if pod.metadata.deletion_timestamp is None]

    def pod_of(self, person: str) -> V1Pod:
        """The one pod that runs for a person."""
        (pod,) = self.core.list_namespaced_pod(self.namespace, label_selector=f"meridian/person={person}").items
        return pod

    def run(self, pod: V1Pod, *command: str) -> str:
        """What a command says within a pod, errors included."""
        # A client of its own: while a command runs, its client can do nothing else.
        core = client.CoreV1Api(config.new_client_from_config(os.environ["KUBECONFIG"]))
        running = stream(
            core.connect_get_namespaced_pod_exec,
            pod.metadata.name,
            self.namespace,
            command=list(command),
            stdout=True,
            stderr=True,
            # Otherwise what looks like JSON is read and written anew, by the rules of Python.
            _preload_content=False,
        )
        running.run_forever(timeout=60)
        said: str = running.read_all()
        return said

    def python(self, pod: V1Pod, code: str) -> Any:
        """What Python code prints as JSON within a pod."""
        said = self.run(pod, "python3", "-c", code)
        try:
            return json.loads(said)
        except ValueError:
            raise AssertionError(said) from None

    def upgrade(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """`helm upgrade` with further values at the top; waits until everything is ready."""
        self.values |= changes
        release: dict[str, Any] = self.helm.upgrade(CHART, NAME, self.values, wait="watcher", timeout=INSTALL_SECONDS)
        return release

    def assert_charged_as_shown(self, lease: Mapping[str, Any]) -> None:
        """The lease is settled with the seconds that the API server showed of its container, and the audit is clean."""
        seconds = self.witness.seconds(LeaseView.model_validate(lease))
        assert seconds > 0
        charge = seconds * lease["microcredits_per_second"]
        assert (lease["state"], lease["charged_microcredits"]) == ("settled", charge)
        assert self.audit()["clean"]

    def audit(self) -> dict[str, Any]:
        """The ledger's audit, by one of the service's pods."""
        said = self.run(self.pods("allocations")[0], "python", "-m", "allocations.cli", "ledger", "audit", "--json")
        report: dict[str, Any] = json.loads(said)
        return report


def platform_images() -> dict[str, str]:
    """The images of the platform by their parts: those that KUBECONFIG's cluster has, or made here."""
    names = os.environ.get("MERIDIAN_TEST_IMAGES")
    if names is None and os.environ.get("MERIDIAN_TEST_IMAGE"):
        pytest.fail(f"KUBECONFIG is set, and MERIDIAN_TEST_IMAGES is not: name the images of {', '.join(PARTS)}.")
    return dict(zip(PARTS, (names or run_script("image", *PARTS)).split(), strict=True))


def policies(images: Mapping[str, str]) -> dict[str, str]:
    """The policy's files, with the images that this cluster has."""
    files = {path.name: path.read_text() for path in POLICIES.iterdir() if path.suffix != ".json"}
    catalogue = [
        {"name": "base", "title": "Astronomy base", "default": True, "reference": images["lab"]},
        {"name": "pipeline", "title": "Roman pipeline", "reference": images["pipeline"]},
    ]
    return files | {"images.yaml": yaml.safe_dump({"images": catalogue})}


def image(reference: str) -> dict[str, str]:
    """An image as the chart's values name it."""
    name, _, tag = reference.rpartition(":")
    return {"name": name, "tag": tag}


def installation_values(images: Mapping[str, str]) -> dict[str, Any]:
    """Values as somebody would write them who tries the platform on a cluster of one small node."""
    return {
        "hub": {
            "image": image(images["hub"]),
            "trial": {"enabled": True, "admins": [ADMINISTRATOR]},
            "resources": MODEST,
        },
        "proxy": {"service": {"type": "NodePort"}, "chp": {"image": image(images["proxy"]), "resources": MODEST}},
        "allocations": {
            "image": image(images["allocations"]),
            "policies": policies(images),
            "resources": MODEST,
        },
        "worker": {"resources": MODEST},
        "batch": {"resources": MODEST},
        "postgresql": {"enabled": True, "image": image(images["postgres"]), "resources": MODEST},
        "singleuser": {
            "image": image(images["lab"]),
            "startTimeout": INSTALL_SECONDS,
            "storage": {
                "scratch": {"persistentVolumeClaim": {"claimName": "scratch"}},
                "shared": {"persistentVolumeClaim": {"claimName": "shared"}},
                "sharedTiers": ["entry"],
            },
        },
        "prePuller": {
            "extraImages": {"pipeline": image(images["pipeline"])},
            "pause": {"image": image(images["pause"])},
        },
        "resourceQuota": {
            "people": {"pods": str(PEOPLES_PODS), "requests.cpu": str(PEOPLES_CORES), "requests.memory": "16Gi"}
        },
        "limitRange": {"defaultRequest": {"cpu": "10m", "memory": "32Mi"}},
        "cull": {"timeout": {"entry": IDLE_SECONDS}},
    }


@contextmanager
def installation(cluster: Cluster) -> Iterator[Installation]:
    """Install the chart, ready in every part; afterwards nothing of it is left."""
    images = platform_images()
    core = cluster.core
    values = installation_values(images)
    namespace = f"meridian-platform-{uuid.uuid4().hex[:8]}"
    make_namespace(core, namespace)
    for name in ("scratch", "shared"):
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        core.create_namespaced_persistent_volume_claim(namespace, {"metadata": {"name": name}, "spec": spec})
    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=namespace) as release:
        try:
            release.install(CHART, NAME, values, wait="watcher", timeout=INSTALL_SECONDS)
            with Witness(core, namespace).looking() as witness:
                yield Installation(release, core, namespace, values, witness)
        finally:
            release.uninstall(NAME, ignore_not_found=True)
            # Pods of runs keep a finalizer while no batch process has charged them.
            for pod in core.list_namespaced_pod(namespace).items:
                with suppress(client.exceptions.NotFoundException):
                    core.patch_namespaced_pod(pod.metadata.name, namespace, {"metadata": {"finalizers": None}})
            core.delete_namespace(namespace)
