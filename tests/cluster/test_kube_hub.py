"""A whole hub and the whole service as processes, with servers in pods that outlive a hub killed with -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.cluster.kube_bench import PREFIX, KubeBench, kube_bench
from tests.hub.test_hub_running import PROXY
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

CONFIG = Path(__file__).parent / "hub_config.py"
TOKENS = {name: f"{name}-token-0123456789" for name in ("spawner", "allocations", "operator", "proxy")}


@dataclass
class RunningHub:
    """The hub as a process that the test may kill."""

    bench: KubeBench
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    operator: httpx.Client = field(default_factory=httpx.Client)

    def start(self) -> None:
        command = [sys.executable, "-m", "jupyterhub", "-f", str(CONFIG)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=self.log.parent)
        self.until(lambda: self.operator.get("/hub/api/").status_code == 200)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def until(self, condition: Callable[[], object], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < deadline, self.log.read_text()[-8000:]
            time.sleep(0.2)

    def is_ready(self, name: str = "") -> bool:
        servers = self.operator.get("/hub/api/users/ada").json().get("servers", {})
        return bool(servers.get(name, {}).get("ready"))


@contextmanager
def process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        running = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=log.parent)
    try:
        yield
    finally:
        running.terminate()
        running.wait(30)


@pytest.fixture
def hub(cluster, tmp_path, hub_environment):
    public, proxy_api, hub_port, service, metrics = (free_port() for _ in range(5))
    hub_url = f"http://{cluster.host}:{hub_port}"
    common = {name: os.environ[name] for name in ("PATH", "HOME", "KUBECONFIG")} | {"PYTHONPATH": ":".join(sys.path)}
    proxy = [str(PROXY), "--ip=127.0.0.1", f"--port={public}", "--api-ip=127.0.0.1", f"--api-port={proxy_api}"]
    with ExitStack() as stack:
        bench = stack.enter_context(kube_bench(cluster, tmp_path))
        of_service = common | {
            "MERIDIAN_DATABASE_URL": f"sqlite:///{tmp_path / 'allocations.sqlite'}",
            "MERIDIAN_RUN_STORE": str(tmp_path / "runs"),
            "MERIDIAN_POLICIES": str(tmp_path / "policies"),
            "MERIDIAN_ALLOCATIONS_PORT": str(service),
            "MERIDIAN_ALLOCATIONS_METRICS_PORT": str(metrics),
            "MERIDIAN_COOKIE_SECRET": "secret",
            "JUPYTERHUB_API_TOKEN": TOKENS["allocations"],
            "JUPYTERHUB_API_URL": f"{hub_url}/hub/api",
            "JUPYTERHUB_BASE_URL": "/",
            "JUPYTERHUB_CLIENT_ID": "service-allocations",
            "JUPYTERHUB_SERVICE_NAME": "allocations",
            "JUPYTERHUB_SERVICE_PREFIX": f"{PREFIX}/",
            "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{PREFIX}/oauth_callback",
        }
        of_hub = common | {
            "TEST_HOST": cluster.host,
            "TEST_PUBLIC_URL": f"http://127.0.0.1:{public}/",
            "TEST_PROXY_API_URL": f"http://127.0.0.1:{proxy_api}",
            "TEST_HUB_PORT": str(hub_port),
            "TEST_STATE": str(tmp_path),
            "TEST_NAMESPACE": cluster.namespace,
            "TEST_ALLOCATIONS_URL": f"http://127.0.0.1:{service}{PREFIX}",
            "TEST_TOKEN_ALLOCATIONS": TOKENS["allocations"],
            "TEST_TOKEN_OPERATOR": TOKENS["operator"],
            "MERIDIAN_TOKEN_SPAWNER": TOKENS["spawner"],
            "CONFIGPROXY_AUTH_TOKEN": TOKENS["proxy"],
        }
        # The bench's own database of a hub would be in the way.
        (tmp_path / "hub.sqlite").rename(tmp_path / "unused.sqlite")
        stack.enter_context(process([*proxy, f"--default-target={hub_url}"], of_hub, tmp_path / "proxy.log"))
        serve = [sys.executable, "-m", "allocations.cli", "serve"]
        stack.enter_context(process(serve, of_service, tmp_path / "service.log"))
        headers = {"Authorization": f"token {TOKENS['operator']}"}
        operator = httpx.Client(base_url=f"http://127.0.0.1:{public}", headers=headers, timeout=30)
        stack.callback(operator.close)
        running = RunningHub(bench, of_hub, tmp_path / "hub.log", operator=operator)
        try:
            running.start()
            running.until(lambda: httpx.get(f"{of_hub['TEST_ALLOCATIONS_URL']}/api/v1/health").status_code == 200)
            yield running
        finally:
            running.kill()


def test_a_server_in_a_pod_answers_through_the_proxy_outlives_the_hub_and_is_charged_as_shown(hub):
    hub.operator.post("/hub/api/users/ada")
    options = {"allocation": hub.bench.allocation, "size": "tiny", "image": "lab"}
    answer = hub.operator.post("/hub/api/users/ada/server", json=options)
    assert answer.status_code in {201, 202}, answer.text
    hub.until(hub.is_ready)
    assert hub.operator.get("/user/ada/api/status").json()["started"]
    hub.kill()
    assert hub.operator.get("/user/ada/api").status_code == 200
    hub.start()
    hub.until(hub.is_ready)
    (lease,) = hub.bench.leases()
    assert lease.state == "open"
    assert hub.operator.delete("/hub/api/users/ada/server").status_code in {202, 204}
    hub.until(lambda: hub.bench.leases()[0].state != "open")
    hub.bench.assert_charged_as_shown()


def test_a_hub_that_has_lost_its_database_stops_the_servers_that_it_does_not_know(hub):
    hub.operator.post("/hub/api/users/ada")
    options = {"allocation": hub.bench.allocation, "size": "tiny", "image": "lab"}
    hub.operator.post("/hub/api/users/ada/server", json=options)
    hub.until(hub.is_ready)
    hub.kill()
    (hub.log.parent / "hub.sqlite").unlink()
    hub.start()
    hub.until(lambda: hub.bench.leases()[0].state != "open")
    assert "Stopping pod" in hub.log.read_text()
    hub.bench.assert_charged_as_shown()


def test_a_denial_is_an_answer_and_not_a_failure(hub):
    hub.operator.post("/hub/api/users/ada")
    options = {"allocation": hub.bench.allocation, "size": "enormous"}
    for _ in range(6):
        answer = hub.operator.post("/hub/api/users/ada/server", json=options)
        assert answer.status_code == 403, answer.text
        assert "There is no size 'enormous'." in answer.text
    # Five failures in a row would have made the hub give up.
    assert hub.operator.get("/hub/api/").status_code == 200
    assert hub.bench.leases() == []
