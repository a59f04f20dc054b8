"""A real hub behind the real proxy, started from its configuration: what only the whole process can show."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from traitlets.config.loader import PyFileConfigLoader

from tests.hub.fake_allocations import FakeAllocations
from tests.ports import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROXY = ROOT / "node_modules" / ".bin" / "configurable-http-proxy"
CONFIG = ROOT / "hub" / "jupyterhub_config.py"
TOKENS = {name: f"{name}-token-0123456789" for name in ("ALLOCATIONS", "SPAWNER", "BATCH", "WORKER", "METRICS")}


def hub_environment(directory: Path, **changes: str) -> dict[str, str]:
    """A whole, right environment for the hub, with `changes`."""
    accounts = directory / "accounts.json"
    people = [("ada", ["researcher"]), ("rev", ["reviewer"]), ("chief", ["admin"])]
    accounts.write_text(
        json.dumps(
            {"accounts": [{"name": name, "password": f"{name}-password", "roles": roles} for name, roles in people]}
        )
    )
    accounts.chmod(0o600)
    port, api_port, hub_port = free_port(), free_port(), free_port()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PYTHONPATH": str(ROOT),
        "MERIDIAN_MODE": "local",
        "MERIDIAN_STATE": str(directory / "state"),
        "MERIDIAN_BIND_URL": f"http://127.0.0.1:{port}/",
        "MERIDIAN_HUB_PORT": str(hub_port),
        "MERIDIAN_PROXY_API_URL": f"http://127.0.0.1:{api_port}",
        "MERIDIAN_ALLOCATIONS_PORT": "1",
        "MERIDIAN_ACCOUNTS_FILE": str(accounts),
        "CONFIGPROXY_AUTH_TOKEN": "proxy-token-0123456789",
        **{f"MERIDIAN_TOKEN_{name}": token for name, token in TOKENS.items()},
    } | changes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"MERIDIAN_MODE": "cloud"}, "MERIDIAN_MODE must be local or kubernetes"),
        ({"MERIDIAN_BIND_URL": "http://0.0.0.0:8000/"}, "this machine only"),
        ({"MERIDIAN_BIND_URL": "http://192.168.1.7:8000/"}, "this machine only"),
        ({"MERIDIAN_BIND_URL": "http://127.0.0.1.example.org/"}, "this machine only"),
        ({"MERIDIAN_BIND_URL": "http://:8000/"}, "must be a URL"),
        ({"MERIDIAN_PROXY_API_URL": "http://10.0.0.1:8001"}, "MERIDIAN_PROXY_API_URL names the host 10.0.0.1"),
        ({"MERIDIAN_TOKEN_SPAWNER": ""}, "MERIDIAN_TOKEN_SPAWNER is not set"),
        ({"MERIDIAN_HUB_PORT": "eighty"}, "must be a port"),
        ({"MERIDIAN_ACCOUNTS_FILE": "/nonexistent"}, "can't be read"),
    ],
)
def test_a_wrong_environment_ends_the_hub_with_one_sentence(tmp_path, monkeypatch, changes, sentence):
    monkeypatch.setattr(os, "environ", hub_environment(tmp_path) | changes)
    with pytest.raises(SystemExit, match=re.escape(sentence)) as refused:
        PyFileConfigLoader(str(CONFIG)).load_config()
    assert str(refused.value).count("\n") == 0


@dataclass
class RunningHub:
    """A hub and a proxy as processes."""

    environment: dict[str, str]
    service: FakeAllocations
    log: Path
    hub: subprocess.Popen[bytes] | None = None
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.environment["MERIDIAN_BIND_URL"].rstrip("/")

    def start_hub(self) -> None:
        command = [sys.executable, "-m", "jupyterhub", "-f", str(CONFIG)]
        with self.log.open("ab") as log:
            self.hub = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, cwd=self.log.parent, start_new_session=True
            )
        self.until(lambda: httpx.get(f"{self.url}/hub/api/", timeout=60).status_code == 200, 90)

    def stop_hub(self, sig: int = signal.SIGTERM) -> None:
        assert self.hub is not None
        self.hub.send_signal(sig)
        self.hub.wait(120)

    def until(self, condition, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < deadline, self.log.read_text()[-6000:]
            assert self.hub is not None
            assert self.hub.poll() is None, self.log.read_text()[-6000:]
            time.sleep(0.1)

    def api(self, token: str) -> httpx.Client:
        headers = {"Authorization": f"token {token}"}
        client = httpx.Client(base_url=f"{self.url}/hub/api", headers=headers, timeout=30)
        self.clients.append(client)
        return client

    def browser(self, name: str) -> httpx.Client:
        client = httpx.Client(base_url=self.url, follow_redirects=True, timeout=30)
        self.clients.append(client)
        page = client.get("/hub/login").text
        [xsrf] = re.findall(r'name="_xsrf" value="([^"]*)"', page)
        form = {"username": name, "password": f"{name}-password", "_xsrf": xsrf}
        answer = client.post("/hub/login", data=form, params={"next": "/hub/home"})
        assert "My servers" in answer.text, answer.text
        return client


@contextmanager
def running_hub(directory: Path, **changes: str):
    service = FakeAllocations()
    with service.serving() as service_port:
        environment = hub_environment(directory, MERIDIAN_ALLOCATIONS_PORT=str(service_port), **changes)
        ports = [httpx.URL(environment[name]).port for name in ("MERIDIAN_BIND_URL", "MERIDIAN_PROXY_API_URL")]
        arguments = ["--ip=127.0.0.1", f"--port={ports[0]}", "--api-ip=127.0.0.1", f"--api-port={ports[1]}"]
        target = f"--default-target=http://127.0.0.1:{environment['MERIDIAN_HUB_PORT']}"
        with (directory / "proxy.log").open("wb") as log:
            proxy = subprocess.Popen(
                [
                    str(PROXY),
                    *arguments,
                    target,
                    "--error-target",
                    f"http://127.0.0.1:{environment['MERIDIAN_HUB_PORT']}/hub/error",
                ],
                env=environment,
                stdout=log,
                stderr=log,
            )
        hub = RunningHub(environment, service, directory / "hub.log")
        try:
            hub.start_hub()
            yield hub
        finally:
            for client in hub.clients:
                client.close()
            if hub.hub is not None and hub.hub.poll() is None:
                hub.stop_hub()
            proxy.terminate()
            proxy.wait(10)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


def test_pages_look_like_one_product_and_can_not_be_framed(hub):
    page = httpx.get(f"{hub.url}/hub/login", timeout=60)
    assert "Sign in to Meridian" in page.text
    assert "Local mode: for trying and for development" in page.text
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    styles = httpx.get(f"{hub.url}/hub/meridian/meridian.css", timeout=60)
    assert styles.headers["Content-Type"].startswith("text/css")
    assert "--m-accent" in styles.text
    assert httpx.get(f"{hub.url}/hub/meridian/../jupyterhub_config.py", timeout=60).status_code == 404


def test_the_start_page_has_the_form_and_a_denial_comes_back_to_it(hub):
    browser = hub.browser("ada")
    page = browser.get("/hub/spawn")
    assert 'value="a1::small"' in page.text
    assert 'id="start-server"' in page.text
    [action] = re.findall(r'id="spawn_form"\s+action="([^"]*)"', page.text)
    action = action.replace("&amp;", "&")
    hub.service.faults["leases"] = [403]
    answer = browser.post(action, data={"choice": "a1::small", "image": "lab"})
    assert answer.status_code == 403
    assert "The allocation is spent." in answer.text
    assert "SpawnException" not in answer.text


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (TOKENS["SPAWNER"], {"custom:allocations:lease", "custom:allocations:people"}),
        (TOKENS["BATCH"], {"custom:allocations:lease"}),
        (TOKENS["ALLOCATIONS"], set()),
    ],
)
def test_services_have_the_custom_scopes_that_their_work_needs_and_no_other(hub, token, expected):
    scopes = hub.api(token).get("/user").json()["scopes"]
    assert {scope for scope in scopes if scope.startswith("custom:")} == expected
    assert not {scope for scope in scopes if scope.startswith(("admin:", "delete:", "list:"))}


def test_the_worker_may_list_servers_and_stop_them_only(hub):
    worker = hub.api(TOKENS["WORKER"])
    assert worker.get("/users").status_code == 200
    assert worker.post("/users/ada/server", json={}).status_code in {403, 404}
    assert worker.delete("/users/ada").status_code in {403, 404}


def test_metrics_need_a_token(hub):
    assert httpx.get(f"{hub.url}/hub/metrics", timeout=60).status_code == 403
    headers = {"Authorization": f"token {TOKENS['METRICS']}"}
    assert httpx.get(f"{hub.url}/hub/metrics", headers=headers, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("name", "more"),
    [("ada", set()), ("rev", {"review"}), ("chief", {"review", "admin"})],
)
def test_a_token_of_the_allocations_pages_carries_what_its_person_may_do(hub, name, more):
    browser = hub.browser(name)
    redirect = "/services/allocations/oauth_callback"
    authorize = {"client_id": "service-allocations", "redirect_uri": redirect, "response_type": "code", "state": "s"}
    browser.follow_redirects = False
    answer = browser.get("/hub/api/oauth2/authorize", params=authorize)
    assert answer.status_code == 302, answer.text
    code = httpx.URL(answer.headers["Location"]).params["code"]
    exchange = {
        "client_id": "service-allocations",
        "client_secret": TOKENS["ALLOCATIONS"],
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect,
    }
    token = httpx.post(f"{hub.url}/hub/api/oauth2/token", data=exchange, timeout=60).json()["access_token"]
    scopes = hub.api(token).get("/user").json()["scopes"]
    expected = {f"custom:allocations:{part}" for part in {"read", "request"} | more} | {"custom:batch:run"}
    assert {scope for scope in scopes if scope.startswith("custom:")} == expected
    assert "access:services!service=allocations" in scopes


def test_a_server_outlives_a_killed_hub_and_so_does_a_settle_that_found_no_service(hub):
    browser = hub.browser("ada")
    hub.service.leases.clear()
    answer = browser.get("/hub/spawn", params={"opt-allocation": "a1", "opt-size": "small"})
    assert answer.status_code in {200, 503}
    worker = hub.api(TOKENS["WORKER"])

    def ready():
        servers = worker.get("/users/ada", params={"include_stopped_servers": "1"}).json().get("servers") or {}
        return servers.get("", {}).get("ready")

    hub.until(ready, 60)
    (lease,) = hub.service.leases.values()
    assert lease["started_at"]
    hub.stop_hub(signal.SIGKILL)
    hub.start_hub()
    hub.until(ready)
    assert lease["state"] == "open"
    hub.service.faults["settle"] = [503] * 1000
    assert worker.delete("/users/ada/server").status_code in {202, 204}
    pending = Path(hub.environment["MERIDIAN_STATE"]) / "pending-settles"
    hub.until(lambda: list(pending.glob("*.json")))
    ended_by = datetime.now(UTC)
    hub.stop_hub(signal.SIGKILL)
    hub.service.faults.clear()
    hub.start_hub()
    hub.until(lambda: lease["state"] == "settled")
    assert lease["started_at"] < lease["ended_at"]
    assert datetime.fromisoformat(lease["ended_at"]) <= ended_by
    hub.until(lambda: not list(pending.iterdir()))
