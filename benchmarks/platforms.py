"""What is started to be measured: our whole platform as `meridian up` runs it, and a plain JupyterHub."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx

from allocations.settings import ROOT
from tests.e2e.platform import READY_LINE, START_SECONDS, STOP_SECONDS, Person, Platform, wait_for
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BIN = Path(sys.executable).parent
PROXY = ROOT / "node_modules" / ".bin" / "configurable-http-proxy"
LOOPBACK = "127.0.0.1"
READY_SECONDS = 120.0
POLL_SECONDS = 0.05
PLAIN_PERSON = "plain"

# What our hub gives its servers, given by the stock spawner: the same program, the same settings, the same home.
PLAIN_CONFIG = """
c = get_config()
c.JupyterHub.bind_url = "http://{host}:{port}/"
c.JupyterHub.hub_bind_url = "http://{host}:{hub_port}"
c.JupyterHub.db_url = "sqlite:///{directory}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{directory}/cookie-secret"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://{host}:{proxy_port}"
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{directory}/homes/{{username}}"
c.Spawner.cmd = {command}
c.Spawner.args = {arguments}
c.Spawner.environment = {environment}
c.Spawner.default_url = "/lab"
c.Spawner.http_timeout = 120
c.JupyterHub.services = [{{"name": "bench", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [
    {{"name": "bench", "scopes": ["admin:users", "admin:servers"], "services": ["bench"]}},
]
"""


class InstalledPlatform(Platform):
    """`meridian up` as it is installed: nothing is installed first, as `make up` might."""

    def start(self) -> None:
        """Start it and wait until people can sign in."""
        with self._output.open("w") as output:
            self.process = process = subprocess.Popen(
                [BIN / "meridian", "up", "--port", str(self.port), "--state", str(self.state)],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                # Out of the terminal's process group: Ctrl-C reaches the benchmark, which stops it in order.
                start_new_session=True,
            )
        wait_for("the platform", lambda: self._is_ready(process), START_SECONDS)

    def _is_ready(self, process: subprocess.Popen[str]) -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"The platform ended while it was starting: {self.output}")
        return READY_LINE in self.output


@contextmanager
def our_platform() -> Iterator[Platform]:
    """Run our platform on a state directory of its own, removed at the end."""
    with TemporaryDirectory(prefix="meridian-bench-") as directory:
        platform = InstalledPlatform(Path(directory) / "state", free_port())
        try:
            platform.start()
            yield platform
        finally:
            if platform.process is not None and platform.process.poll() is None:
                platform.interrupt()


class HubClient:
    """Starts and stops one person's default server through JupyterHub's REST API, of either hub."""

    def __init__(self, url: str, token: str, person: str) -> None:
        self._path = f"/users/{person}"
        self._http = httpx.Client(
            base_url=f"{url}/hub/api", headers={"Authorization": f"Bearer {token}"}, timeout=READY_SECONDS
        )

    @classmethod
    def of(cls, person: Person) -> HubClient:
        """Speak for a person of our platform."""
        return cls(person.platform.url, person.token, person.name)

    def add_person(self) -> None:
        """Make the account."""
        self._http.post(self._path).raise_for_status()

    def start(self, options: dict[str, Any]) -> float:
        """Start the server; return the seconds until the hub says that it is ready."""
        begin = time.perf_counter()
        self._http.post(f"{self._path}/server", json=options).raise_for_status()
        until("The server", lambda: bool((self._server() or {}).get("ready")), READY_SECONDS)
        return time.perf_counter() - begin

    def stop(self) -> None:
        """Stop the server and wait until the hub has forgotten it."""
        self._http.delete(f"{self._path}/server").raise_for_status()
        until("The server's end", lambda: self._server() is None, STOP_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _server(self) -> dict[str, Any] | None:
        servers: dict[str, dict[str, Any]] = self._http.get(self._path).raise_for_status().json()["servers"]
        return servers.get("")


@contextmanager
def plain_hub() -> Iterator[HubClient]:
    """Run JupyterHub with its SimpleLocalProcessSpawner behind the same proxy, removed at the end."""
    with TemporaryDirectory(prefix="meridian-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        port, proxy_port, hub_port = free_port(), free_port(), free_port()
        proxy_token, token = secrets.token_hex(), secrets.token_hex()
        environment = {
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": name,
            "CONFIGPROXY_AUTH_TOKEN": proxy_token,
        }
        config = directory / "jupyterhub_config.py"
        config.write_text(
            PLAIN_CONFIG.format(
                host=LOOPBACK,
                port=port,
                hub_port=hub_port,
                proxy_port=proxy_port,
                directory=directory,
                token=token,
                command=json.dumps([str(BIN / "jupyterhub-singleuser")]),
                arguments=json.dumps(["--allow-root"] if os.geteuid() == 0 else []),
                environment=json.dumps({"JUPYTER_CONFIG_PATH": str(ROOT / "hub" / "spawner" / "lab_config")}),
            )
        )
        proxy = [str(PROXY), f"--ip={LOOPBACK}", f"--port={port}", f"--api-ip={LOOPBACK}", f"--api-port={proxy_port}"]
        target = f"--default-target=http://{LOOPBACK}:{hub_port}"
        stack.enter_context(process_of([*proxy, target], environment, directory / "proxy.log"))
        hub = [sys.executable, "-m", "jupyterhub", "-f", str(config)]
        stack.enter_context(process_of(hub, environment, directory / "hub.log"))
        client = HubClient(f"http://{LOOPBACK}:{port}", token, PLAIN_PERSON)
        stack.callback(client.close)
        until("The plain hub", lambda: answers(f"http://{LOOPBACK}:{port}/hub/api/"), READY_SECONDS)
        client.add_person()
        yield client


@contextmanager
def process_of(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that writes to a log, and end it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    """Say whether there is an answer that is no error."""
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def until(what: str, look: Callable[[], bool], seconds: float) -> None:
    """Look often until it is so: the pause is a part of what is measured, the same on both sides."""
    ends_at = time.monotonic() + seconds
    while not look():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s.")
        time.sleep(POLL_SECONDS)
