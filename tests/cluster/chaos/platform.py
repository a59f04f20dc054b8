"""The whole platform as processes of this machine before a cluster: what the chart installs, each part by itself."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import yaml
from kubernetes import client

from allocations.clock import SystemClock
from allocations.db.database import Database
from allocations.db.migrate import upgrade
from allocations.factory import Services, make_services
from allocations.policy.loader import load_policy
from tests.batch.batch_harness import wait_for
from tests.cluster.chaos.parts import Child, Part, PostgresPart, control_plane
from tests.cluster.chaos.people import PASSWORD
from tests.cluster.kube_bench import PREFIX, write_policies
from tests.hub.test_hub_running import PROXY
from tests.ports import free_port
from tests.postgres import postgres_of_its_own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import Cluster

ROOT = Path(__file__).parents[3]
TOKENS = {name: f"{name}-token-0123456789" for name in ("allocations", "spawner", "batch", "worker", "proxy")}
# Answers the hub at once, and ends as soon as it is told to: so that many servers live within a few minutes.
TINY_SERVER = """
import os, signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
ThreadingHTTPServer(("0.0.0.0", 8888), Answer).serve_forever()
"""
# Renewals and expiries every few seconds, not every few minutes.
LEASES = {"quantum_seconds": 30, "renew_before_end_seconds": 15, "stop_grace_seconds": 60}
RUNS_AT_ONCE = 2
IMAGE_SECONDS = 900


@dataclass
class Platform:
    """A platform that runs; `parts` are what may be killed, the proxy and its registry of routes stay."""

    cluster: Cluster
    services: Services
    parts: list[Part]
    url: str

    def answers(self) -> bool:
        """Whether hub and service answer through the proxy, and the API server answers them."""
        try:
            return (
                httpx.get(f"{self.url}/hub/api/", timeout=2).is_success
                and httpx.get(f"{self.url}{PREFIX}/api/v1/health", timeout=2).is_success
                and bool(self.cluster.core.list_node(_request_timeout=2))
            )
        except Exception:  # noqa: BLE001  whatever keeps one of them from answering
            return False


def fetch_image(cluster: Cluster) -> None:
    """Let the node have the image before the time begins: it takes a minute where no other test has used it."""
    container = {"name": "fetch", "image": cluster.image, "command": ["true"]}
    pod = {"metadata": {"name": "fetch"}, "spec": {"restartPolicy": "Never", "containers": [container]}}

    def accepted() -> bool:
        # A namespace has its service account a moment after it was made.
        with suppress(client.ApiException):
            return bool(cluster.core.create_namespaced_pod(cluster.namespace, pod))
        return False

    def fetched() -> bool:
        return bool(cluster.core.read_namespaced_pod("fetch", cluster.namespace).status.phase == "Succeeded")

    wait_for(accepted)
    wait_for(fetched, IMAGE_SECONDS)
    cluster.core.delete_namespaced_pod("fetch", cluster.namespace, grace_period_seconds=0)


@contextmanager
def running_platform(cluster: Cluster, folder: Path) -> Iterator[Platform]:
    """Start everything, and remove it at the end."""
    fetch_image(cluster)
    write_policies(folder / "policies", cluster.image, 3600)
    leases = yaml.safe_load((folder / "policies/leases.yaml").read_text())
    leases["leases"] |= LEASES
    (folder / "policies/leases.yaml").write_text(yaml.safe_dump(leases))
    runs = folder / "runs"
    runs.mkdir()
    with postgres_of_its_own() as server:
        database = Database(server.url)
        upgrade(database)
        services = make_services(database, load_policy(folder / "policies"), runs, SystemClock())
        children, url = _children(cluster, folder, server.url)
        killed = control_plane(cluster.own_state) if cluster.own_state else []
        proxy, *ours = children
        proxy.start()
        try:
            for child in ours:
                child.start()
            yield Platform(cluster, services, [*ours, PostgresPart(server), *killed], url)
        finally:
            for child in children:
                child.kill()
            database.dispose()


def _children(cluster: Cluster, folder: Path, database_url: str) -> tuple[list[Child], str]:
    public, proxy_api, hub, service, *metrics = (free_port() for _ in range(7))
    hub_url = f"http://{cluster.host}:{hub}"
    service_url = f"http://127.0.0.1:{service}"
    common = {name: os.environ[name] for name in ("PATH", "HOME", "KUBECONFIG")}
    common |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "MERIDIAN_MODE": "kubernetes"}
    common |= {"CONFIGPROXY_AUTH_TOKEN": TOKENS["proxy"]}
    of_database = {
        "MERIDIAN_DATABASE_URL": database_url,
        "MERIDIAN_RUN_STORE": str(folder / "runs"),
        "MERIDIAN_POLICIES": str(folder / "policies"),
    }
    (folder / "hub.json").write_text(json.dumps(_hub_settings(cluster)))
    store = {"hostPath": {"path": str(folder / "runs"), "type": "Directory"}}
    (folder / "jobs.json").write_text(json.dumps({"namespace": cluster.namespace, "run_store": store}))

    def child(name: str, command: list[str], environment: dict[str, str]) -> Child:
        return Child(name, command, common | environment, folder)

    python = [sys.executable, "-P", "-m"]
    listening = ["--ip=127.0.0.1", f"--port={public}", "--api-ip=127.0.0.1", f"--api-port={proxy_api}"]
    children = [
        child("proxy", [str(PROXY), *listening, f"--default-target={hub_url}"], {}),
        child(
            "service",
            [*python, "allocations.cli", "serve"],
            of_database
            | {
                "MERIDIAN_ALLOCATIONS_PORT": str(service),
                "MERIDIAN_ALLOCATIONS_METRICS_PORT": str(metrics[0]),
                "MERIDIAN_COOKIE_SECRET": "secret",
                "JUPYTERHUB_API_TOKEN": TOKENS["allocations"],
                "JUPYTERHUB_API_URL": f"{hub_url}/hub/api",
                "JUPYTERHUB_BASE_URL": "/",
                "JUPYTERHUB_CLIENT_ID": "service-allocations",
                "JUPYTERHUB_SERVICE_NAME": "allocations",
                "JUPYTERHUB_SERVICE_PREFIX": f"{PREFIX}/",
                "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{PREFIX}/oauth_callback",
            },
        ),
        child(
            "hub",
            [*python, "jupyterhub", "-f", str(ROOT / "hub/jupyterhub_config.py")],
            {
                "MERIDIAN_STATE": str(folder),
                "MERIDIAN_HUB_CONFIG": str(folder / "hub.json"),
                "MERIDIAN_HUB_PORT": str(hub),
                "MERIDIAN_HUB_CONNECT_URL": hub_url,
                "MERIDIAN_PROXY_API_URL": f"http://127.0.0.1:{proxy_api}",
                "MERIDIAN_ALLOCATIONS_ROOT": service_url,
                "MERIDIAN_TRIAL_PASSWORD": PASSWORD,
                "MERIDIAN_TRIAL_ADMIN_PASSWORD": f"{PASSWORD}, of administrators",
                "MERIDIAN_TRIAL_ADMINS": '["chief"]',
                **{f"MERIDIAN_TOKEN_{name.upper()}": token for name, token in TOKENS.items()},
            },
        ),
        child(
            "worker",
            [*python, "allocations.cli", "worker"],
            of_database
            | {
                "MERIDIAN_WORKER_METRICS_PORT": str(metrics[1]),
                "MERIDIAN_HUB_API_URL": f"{hub_url}/hub/api",
                "MERIDIAN_TOKEN_WORKER": TOKENS["worker"],
                "MERIDIAN_MAIL_FOLDER": str(folder / "mail"),
                "MERIDIAN_MAIL_FROM": "Meridian <meridian@localhost>",
                "MERIDIAN_MAIL_DOMAIN": "localhost",
            },
        ),
        child(
            "batch",
            [*python, "hub.batch.executor"],
            {
                "MERIDIAN_ALLOCATIONS_URL": f"{service_url}{PREFIX}",
                "MERIDIAN_TOKEN_BATCH": TOKENS["batch"],
                "MERIDIAN_RUN_STORE": str(folder / "runs"),
                "MERIDIAN_BATCH_KUBERNETES": str(folder / "jobs.json"),
                "MERIDIAN_BATCH_SLOTS": str(RUNS_AT_ONCE),
                "MERIDIAN_BATCH_METRICS_PORT": str(metrics[2]),
            },
        ),
    ]
    return children, f"http://127.0.0.1:{public}"


def _hub_settings(cluster: Cluster) -> dict[str, dict[str, object]]:
    return {
        "KubeSpawner": {"namespace": cluster.namespace, "cmd": ["python3", "-c", TINY_SERVER]},
        "Spawner": {"start_timeout": 60, "http_timeout": 30, "poll_interval": 3},
    }
