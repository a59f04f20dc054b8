"""What is started to be measured on Kubernetes: the allocations service and hubs of both kinds, on one cluster."""

from __future__ import annotations

import json
import os
import secrets
import sys
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from kubernetes import client, config
from kubernetes_asyncio.config import kube_config

from allocations.clock import SystemClock
from allocations.db.database import Database
from allocations.db.migrate import upgrade
from allocations.factory import Services, make_services
from allocations.ledger.audit import audit_ledger
from allocations.lifecycle.models import Award, Member, MemberRole
from allocations.lifecycle.stores.agreements import AgreementStore
from allocations.lifecycle.stores.allocations import AllocationStore
from allocations.policy.loader import load_policy
from allocations.policy.models import AtOnce
from benchmarks.platforms import BIN, LOOPBACK, PROXY, READY_SECONDS, answers, process_of, until
from tests.cluster.conftest import given_cluster, own_cluster
from tests.cluster.kube_bench import PREFIX, write_policies
from tests.e2e.platform import API
from tests.ports import free_port
from tests.postgres import fresh_database, running_postgres, server_binaries

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

HUB_CONFIG = Path(__file__).with_name("kube_hub_config.py")
# The smallest size that a policy can have: two of it fit on a small machine.
SIZE, CORES, MEMORY_GIB = "bench", 1, 1
CREDITS = 100_000_000
LONGEST_SESSION_SECONDS = 6 * 3600
SERVER_PORT = 8888
PEOPLE_AT_ONCE, COMPLAINTS = 50, 60


class ClusterMissingError(Exception):
    """There is no cluster, and none can be made here; the message says what is needed."""


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster, the image that servers start from, and this machine's address as pods see it."""

    core: client.CoreV1Api
    image: str
    host: str


@dataclass(frozen=True, slots=True)
class Placing:
    """Where the servers of a hub run, and at which port they are reached."""

    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    port: int = SERVER_PORT
    start_seconds: int = 120
    reconcile_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Ledger:
    """The service's database on PostgreSQL, with one allocation and its members."""

    url: str
    services: Services
    policies: Path
    allocation: str

    def audit(self) -> None:
        """Raise RuntimeError unless the ledger's audit is clean."""
        with self.services.database.read() as connection:
            found = audit_ledger(connection).violations
        if found:
            raise RuntimeError(f"The ledger audit found differences: {found[0]}")


@dataclass(frozen=True, slots=True)
class KubeHub:
    """A hub that answers, and the service beside it (`service_pid` is None for the plain one)."""

    url: str
    token: str
    namespace: str
    pid: int
    service_pid: int | None
    options: dict[str, str]
    log: Path

    def complaints(self) -> str:
        """The last lines of the hub's log that are no news of every day."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return "\n".join([line for line in lines if not line.startswith("[I ")][-COMPLAINTS:])

    def http(self, seconds: float = READY_SECONDS) -> httpx.Client:
        """A connection to the hub's API, as the benchmark's own service."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=f"{self.url}/hub/api", headers=headers, timeout=seconds)


@contextmanager
def kube_site() -> Iterator[Site]:
    """Take the cluster that KUBECONFIG names, or this machine's own. ClusterMissingError, without PostgreSQL too."""
    with ExitStack() as stack:
        try:
            server_binaries()
            image, host = stack.enter_context(given_cluster() if os.environ.get("KUBECONFIG") else own_cluster())
        except (RuntimeError, pytest.fail.Exception) as missing:
            raise ClusterMissingError(str(missing)) from missing
        kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ["KUBECONFIG"]
        config.load_kube_config(os.environ["KUBECONFIG"])
        yield Site(client.CoreV1Api(), image, host)


@contextmanager
def namespace_of(site: Site) -> Iterator[str]:
    """A namespace of its own, deleted with everything that is left in it."""
    name = f"meridian-bench-{uuid.uuid4().hex[:8]}"
    site.core.create_namespace({"metadata": {"name": name}})
    try:
        yield name
    finally:
        site.core.delete_namespace(name, grace_period_seconds=0)


@contextmanager
def ledger_of(site: Site, people: list[str]) -> Iterator[Ledger]:
    """Start PostgreSQL, and open a consortium's allocation that has room for one server of each person at once."""
    with TemporaryDirectory(prefix="meridian-bench-") as name, ExitStack() as stack:
        policies = Path(name) / "policies"
        write_policies(policies, site.image, LONGEST_SESSION_SECONDS)
        size = {"name": SIZE, "title": "Bench", "cores": CORES, "memory_gib": MEMORY_GIB}
        (policies / "sizes.yaml").write_text(yaml.safe_dump({"sizes": [size]}))
        server = stack.enter_context(running_postgres())
        url = stack.enter_context(fresh_database(server, f"kube_{uuid.uuid4().hex[:8]}"))
        database = Database(url)
        stack.callback(database.dispose)
        upgrade(database)
        services = make_services(database, load_policy(policies), Path(name), SystemClock())
        tier = next(tier for tier in services.policy.tiers if tier.sub_allocations)
        award = Award(credits=CREDITS, at_once=AtOnce(servers_per_person=1, cores=len(people), gpus=0))
        now_ms = services.clock.now_ms()
        with database.write() as connection:
            allocation = services.lifecycle.open(connection, tier, "Root", lead="lead", actor="a", award=award).id
            for person in people:
                AgreementStore().put(connection, person, services.policy.agreement.version, now_ms)
                AllocationStore().add_member(connection, Member(allocation, person, MemberRole.MEMBER, now_ms))
        yield Ledger(url, services, policies, allocation)


@contextmanager
def kube_hub(site: Site, people: list[str], ledger: Ledger | None, placing: Placing) -> Iterator[KubeHub]:
    """Run a hub with these people behind a proxy: ours with the service on a ledger, or (None) a plain one."""
    with TemporaryDirectory(prefix="meridian-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        namespace = stack.enter_context(namespace_of(site))
        port = {of: free_port() for of in ("public", "hub", "proxy", "allocations", "metrics")}
        token = {of: secrets.token_hex(32) for of in ("bench", "allocations", "spawner", "proxy", "cookie")}
        public, hub_url = f"http://{LOOPBACK}:{port['public']}", f"http://{site.host}:{port['hub']}"
        allocations_url = f"http://{LOOPBACK}:{port['allocations']}{PREFIX}"
        common = {of: os.environ[of] for of in ("PYTHONPATH", "KUBECONFIG") if of in os.environ} | {
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": name,
            "CONFIGPROXY_AUTH_TOKEN": token["proxy"],
        }
        terms = {
            "ours": ledger is not None,
            "public_url": f"{public}/",
            "hub_url": hub_url,
            "host": site.host,
            "proxy_api_url": f"http://{LOOPBACK}:{port['proxy']}",
            "allocations_url": allocations_url,
            "state": name,
            "namespace": namespace,
            "image": site.image,
            "cores": CORES,
            "memory_gib": MEMORY_GIB,
            "port": placing.port,
            "node_selector": placing.node_selector,
            "tolerations": placing.tolerations,
            "start_seconds": placing.start_seconds,
            "reconcile_seconds": placing.reconcile_seconds,
            "tokens": token,
        }
        proxy = [str(PROXY), f"--ip={LOOPBACK}", f"--port={port['public']}", f"--default-target={hub_url}"]
        proxy_api = [f"--api-ip={LOOPBACK}", f"--api-port={port['proxy']}"]
        stack.enter_context(process_of([*proxy, *proxy_api], common, directory / "proxy.log"))
        hub = stack.enter_context(
            process_of(
                [sys.executable, "-m", "jupyterhub", "-f", str(HUB_CONFIG)],
                common | {"BENCH_HUB": json.dumps(terms), "MERIDIAN_TOKEN_SPAWNER": token["spawner"]},
                directory / "hub.log",
            )
        )
        until("The hub", partial(_is_ready, hub, f"{public}/hub/api/", directory / "hub.log"), READY_SECONDS)
        service = None
        if ledger is not None:
            service = stack.enter_context(
                process_of(
                    [sys.executable, "-m", "allocations.cli", "serve"],
                    common
                    | {
                        "MERIDIAN_DATABASE_URL": ledger.url,
                        "MERIDIAN_RUN_STORE": name,
                        "MERIDIAN_POLICIES": str(ledger.policies),
                        "MERIDIAN_ALLOCATIONS_PORT": str(port["allocations"]),
                        "MERIDIAN_ALLOCATIONS_METRICS_PORT": str(port["metrics"]),
                        "MERIDIAN_COOKIE_SECRET": token["cookie"],
                        "JUPYTERHUB_API_TOKEN": token["allocations"],
                        "JUPYTERHUB_API_URL": f"{hub_url}/hub/api",
                        "JUPYTERHUB_BASE_URL": "/",
                        "JUPYTERHUB_CLIENT_ID": "service-allocations",
                        "JUPYTERHUB_SERVICE_NAME": "allocations",
                        "JUPYTERHUB_SERVICE_PREFIX": f"{PREFIX}/",
                        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{PREFIX}/oauth_callback",
                    },
                    directory / "allocations.log",
                )
            )
            health = f"http://{LOOPBACK}:{port['allocations']}{API}/health"
            until("The service", partial(_is_ready, service, health, directory / "allocations.log"), READY_SECONDS)
        options = {} if ledger is None else {"allocation": ledger.allocation, "size": SIZE, "image": "lab"}
        running = KubeHub(
            public,
            token["bench"],
            namespace,
            hub.pid,
            service.pid if service else None,
            options,
            directory / "hub.log",
        )
        with running.http() as http:
            for first in range(0, len(people), PEOPLE_AT_ONCE):
                names = people[first : first + PEOPLE_AT_ONCE]
                http.post("/users", json={"usernames": names}).raise_for_status()
        yield running


def _is_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"A process ended while it was starting: {log.read_text()}")
    return answers(url)
