"""A real Kubernetes for the session: the one that KUBECONFIG names, or one of this machine's own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kubernetes import client, config
from kubernetes_asyncio.config import kube_config

from tests.cluster.namespaces import make_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPTS = Path(__file__).parent / "scripts"
LOCK = Path("/tmp/meridian-cluster.lock")
GPU_TYPE = "t4"
GPUS = 4
OWN_HOST = "10.244.0.1"
# Building Kubernetes takes eleven minutes on an idle machine of two cores, the image four; once, then they are cached.
BUILD_SECONDS = 3600


@dataclass(frozen=True)
class Cluster:
    """A cluster with a namespace for this session, the image that servers start from, and this machine's address.

    own_state: the folder of a cluster that is this session's alone, so that its parts may be killed.
    """

    core: client.CoreV1Api
    namespace: str
    image: str
    host: str
    own_state: Path | None


def run_script(name: str, *arguments: str) -> str:
    """Run one of the cluster's scripts and return what it prints; its complaints go where pytest shows them."""
    done = subprocess.run(
        [SCRIPTS / name, *arguments], check=False, stdout=subprocess.PIPE, text=True, timeout=BUILD_SECONDS
    )
    if done.returncode:
        pytest.fail(
            f"tests/cluster/scripts/{name} ended with status {done.returncode}, see above. These tests need root on "
            "Debian bookworm, or KUBECONFIG set to a cluster of yours."
        )
    return done.stdout.strip()


@contextmanager
def own_cluster() -> Iterator[tuple[str, str]]:
    """Start this machine's cluster; give the image's name and the address; stop it if it did not run before.

    The cluster's addresses exist once on a machine: sessions that run at the same time come one after the other.
    """
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran_before = subprocess.run(
            ["ip", "link", "show", "cbr0"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            os.environ["KUBECONFIG"] = run_script("up")
            yield run_script("image", "lab"), OWN_HOST
        finally:
            os.environ.pop("KUBECONFIG", None)
            if ran_before.returncode:
                run_script("down")


@contextmanager
def given_cluster() -> Iterator[tuple[str, str]]:
    """Use the cluster that KUBECONFIG names, with the image and the address that stand beside it."""
    missing = [name for name in ("MERIDIAN_TEST_IMAGE", "MERIDIAN_TEST_HOST") if not os.environ.get(name)]
    if missing:
        pytest.fail(
            f"KUBECONFIG is set, and {' and '.join(missing)} is not: name the base lab (images/) as a registry of "
            "the cluster has it, and the address at which pods reach this machine."
        )
    yield os.environ["MERIDIAN_TEST_IMAGE"], os.environ["MERIDIAN_TEST_HOST"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    is_given = bool(os.environ.get("KUBECONFIG"))
    with given_cluster() if is_given else own_cluster() as (image, host):
        # Both clients have read KUBECONFIG when they were imported.
        kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ["KUBECONFIG"]
        config.load_kube_config(os.environ["KUBECONFIG"])
        core = client.CoreV1Api()
        namespace = f"meridian-test-{uuid.uuid4().hex[:8]}"
        make_namespace(core, namespace)
        advertise_gpus(core)
        try:
            own_state = None if is_given else Path(os.environ["KUBECONFIG"]).parent
            yield Cluster(core, namespace, image, host, own_state)
        finally:
            core.delete_namespace(namespace, grace_period_seconds=0)


@pytest.fixture
def hub_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the service's application reads when it is made within the test."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "x")
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:1/hub/api")
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-allocations")
    monkeypatch.setenv("JUPYTERHUB_OAUTH_CALLBACK_URL", "/services/allocations/oauth_callback")


def advertise_gpus(core: client.CoreV1Api) -> None:
    """Give the first node GPUs on paper: what the scheduler counts, without a device."""
    node = core.list_node().items[0].metadata.name
    core.patch_node(node, {"metadata": {"labels": {"meridian/gpu-type": GPU_TYPE}}})
    core.patch_node_status(node, {"status": {"capacity": {"nvidia.com/gpu": str(GPUS)}}})
