"""KubeSpawner's own tests, as they were released, with our class in the place of theirs before the real service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from tests.cluster.kubespawner_suite.images import OURS, publish_images
from tests.cluster.kubespawner_suite.plugin import LEASES
from tests.cluster.namespaces import make_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.upstream]

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
# As many as the release has; fewer would mean that some were not run.
TESTS = 207
IMAGES = ("quay.io/jupyterhub/jupyterhub:latest", "quay.io/jupyterhub/singleuser:latest", "python:3.12-slim")
FETCH_SECONDS = 300


def sources() -> str:
    """The folder with their tests and their pytest."""
    command = [str(HERE / "sources"), str(Path(sys.executable).with_name("uv")), sys.executable]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, timeout=1200)
    if done.returncode:
        pytest.fail(f"{command[0]} ended with status {done.returncode}, see above.")
    return done.stdout.strip()


@contextmanager
def namespaces(cluster: Cluster) -> Iterator[dict[str, str]]:
    """Make the two namespaces that the tests want, as the variables that name them, and delete them."""
    names = [f"{cluster.namespace}-suite", f"{cluster.namespace}-other"]
    for name in names:
        make_namespace(cluster.core, name)
    try:
        yield {
            "KUBESPAWNER_TEST_NAMESPACE": names[0],
            "KUBESPAWNER_ANOTHER_NAMESPACE": names[1],
            # Else the tests themselves wait until the namespaces are gone.
            "KUBESPAWNER_DEBUG_NAMESPACE": "1",
        }
    finally:
        for name in names:
            cluster.core.delete_namespace(name, grace_period_seconds=0)


def fetch_images(cluster: Cluster, namespace: str) -> None:
    """Have the node fetch what the tests start: they wait a minute and a half for their hub, its image included."""
    containers = [{"name": f"image-{n}", "image": name, "command": ["true"]} for n, name in enumerate(IMAGES)]
    spec = {"containers": containers, "restartPolicy": "Never"}
    cluster.core.create_namespaced_pod(namespace, {"metadata": {"name": "images"}, "spec": spec})
    give_up_at = time.monotonic() + FETCH_SECONDS
    while cluster.core.read_namespaced_pod("images", namespace).status.phase != "Succeeded":
        assert time.monotonic() < give_up_at, "the images can't be had"
        time.sleep(1)


@pytest.mark.timeout(2700)
def test_kubespawners_own_tests_hold_for_our_class(cluster, tmp_path):
    suite = sources()
    if cluster.image.startswith(OURS):
        publish_images(cluster.image)
    with namespaces(cluster) as names:
        fetch_images(cluster, names["KUBESPAWNER_TEST_NAMESPACE"])
        environment = os.environ | names | {LEASES: str(tmp_path / "leases.json")}
        # Their pytest comes before ours, of which no plugin must come in.
        environment |= {"PYTHONPATH": f"{suite}/packages:{ROOT}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
        plugins = [f"-p{name}" for name in ("pytest_asyncio.plugin", "tests.cluster.kubespawner_suite.plugin")]
        report = tmp_path / "report.xml"
        options = ["-P", "-m", "pytest", *plugins, "-pno:cacheprovider", f"--junitxml={report}"]
        command = [sys.executable, *options, "tests"]
        done = subprocess.run(command, check=False, cwd=suite, env=environment, timeout=2100)
    cases = ElementTree.parse(report).getroot().findall(".//testcase")
    assert done.returncode == 0, [case.get("name") for case in cases if len(case)]
    assert len(cases) == TESTS
    assert not [case.get("name") for case in cases if case.find("skipped") is not None]
    leases = json.loads((tmp_path / "leases.json").read_text())
    assert set(leases["states"]) == {"settled"}
    assert leases["held_microcredits"] == 0
    assert leases["violations"] == []
