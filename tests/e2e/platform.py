"""The whole platform as a person starts it, and the people who use it: by browser, by token, by command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import httpx
import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

Found = TypeVar("Found")

ROOT = Path(__file__).parents[2]
API = "/services/allocations/api/v1"
READY_LINE = "Ctrl-C stops it all."
START_SECONDS = 180.0
STOP_SECONDS = 120.0


def wait_for(what: str, look: Callable[[], Found], seconds: float = 60.0, pause: float = 0.3) -> Found:
    """Look until there is something to see; AssertionError says what did not come."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(pause)


class Site(ABC):
    """A platform at an address, and the people who use it by token and by command line."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The address, without a slash at its end."""

    @abstractmethod
    def password(self, name: str) -> str:
        """The password of a person."""

    def meridian(
        self, *arguments: str | Path, token: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line as a person would, with a token in the environment."""
        environment = dict(os.environ) | {"MERIDIAN_URL": self.url, "COLUMNS": "200"}
        environment.pop("JUPYTERHUB_API_TOKEN", None)
        if token:
            environment["MERIDIAN_TOKEN"] = token
        command = [str(ROOT / ".venv/bin/meridian"), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert not check or done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done

    def person(self, name: str) -> Person:
        """Sign a person in and make them a token, as the hub's token page does."""
        with httpx.Client(base_url=self.url, follow_redirects=True, timeout=60.0) as session:
            session.get("/hub/login")
            form = {"username": name, "password": self.password(name), "_xsrf": session.cookies["_xsrf"]}
            signed_in = session.post("/hub/login", data=form, params={"next": "/hub/home"})
            assert signed_in.status_code == 200, signed_in.text
            xsrf = session.cookies.get("_xsrf", path="/hub/") or ""
            made = session.post(
                f"/hub/api/users/{name}/tokens",
                json={"note": "test"},
                headers={"X-XSRFToken": xsrf, "Referer": f"{self.url}/hub/token"},
            )
            assert made.status_code == 201, made.text
        return Person(self, name, made.json()["token"])


@dataclass
class Platform(Site):
    """`make up PORT=… STATE=…` in a process group of its own."""

    state: Path
    port: int
    process: subprocess.Popen[str] | None = None
    # Beside this process's own environment.
    environment: dict[str, str] = field(default_factory=dict)
    _output: Path = field(init=False)

    def __post_init__(self) -> None:
        self._output = self.state.with_suffix(".out")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return self._output.read_text()

    def start(self) -> None:
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                ["make", "up", f"PORT={self.port}", f"STATE={self.state}"],
                cwd=ROOT,
                env=dict(os.environ) | self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        process = self.process

        def ready() -> bool:
            assert process.poll() is None, self.output
            return READY_LINE in self.output

        wait_for("the platform", ready, START_SECONDS)

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal sends it: SIGINT to the whole foreground process group."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(STOP_SECONDS)

    def pid_of(self, name: str) -> int:
        """Return the process number of one of the platform's processes."""
        words = {
            "hub": "jupyterhub_config.py",
            "allocations": "allocations.cli serve",
            "worker": "allocations.cli worker",
            "storage": "allocations.cli storage",
            "batch": "hub.batch.executor",
            "proxy": "configurable-http-proxy",
        }[name]
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):  # one that has just ended
                if words in " ".join(child.cmdline()):
                    return child.pid
        raise AssertionError(f"no {name} process")

    def kill(self, name: str) -> None:
        """kill -9 one process, and wait until another has taken its place."""
        before = self.pid_of(name)
        os.kill(before, signal.SIGKILL)

        def replaced() -> bool:
            try:
                return self.pid_of(name) != before
            except (AssertionError, psutil.Error):
                return False

        wait_for(f"another {name} process", replaced)

    def password(self, name: str) -> str:
        accounts = json.loads((self.state / "accounts.json").read_text())["accounts"]
        found: str = next(account["password"] for account in accounts if account["name"] == name)
        return found

    def audit(self) -> dict[str, Any]:
        """Return the ledger's audit, which must be clean."""
        result = self.meridian("ledger", "audit", "--state", self.state, "--json", check=False)
        report: dict[str, Any] = json.loads(result.stdout)
        assert report["clean"], report["violations"]
        return report


@dataclass
class Person:
    """Somebody with a token."""

    platform: Site
    name: str
    token: str

    def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> httpx.Response:
        """Call the allocations API."""
        return self._request(method, f"{API}{path}", body, {"Idempotency-Key": key} if key else {})

    def send(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Post to the allocations API and return its answer, which must be a success."""
        answer = self.call("POST", path, body, key=uuid4().hex)
        assert answer.is_success, f"{self.name} {path}: {answer.text}"
        made: dict[str, Any] = answer.json()
        return made

    def hub(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Call the hub's API."""
        return self._request(method, f"/hub/api{path}", body, {})

    def server(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Call the default server's own API."""
        return self._request(method, f"/user/{self.name}{path}", body, {})

    def _request(self, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        return httpx.request(
            method,
            f"{self.platform.url}{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.token}"} | headers,
            timeout=60.0,
        )

    def accept_agreement(self) -> dict[str, Any]:
        """Accept the agreement and return the entry allocation."""
        version = self.call("GET", "/agreement").json()["version"]
        allocations = self.call("POST", "/agreement", {"version": version}).json()["allocations"]
        entry: dict[str, Any] = next(one for one in allocations if one["tier"] == "entry")
        return entry

    def allocation(self, tier: str) -> dict[str, Any]:
        allocations = self.call("GET", "/allocations").json()["allocations"]
        found: dict[str, Any] = next(one for one in allocations if one["tier"] == tier)
        return found

    def start_server(self, allocation: str, size: str = "small") -> None:
        """Start the default server and wait until it is ready."""
        response = self.hub("POST", f"/users/{self.name}/server", {"allocation": allocation, "size": size})
        assert response.status_code in {201, 202}, response.text
        wait_for("the server", self.server_is_ready, 120)

    def server_is_ready(self) -> bool:
        servers = self.hub("GET", f"/users/{self.name}").json()["servers"]
        return bool(servers.get("", {}).get("ready"))

    def stop_server(self) -> None:
        """Stop the default server and wait until its lease has ended, and the hub would start another."""
        assert self.hub("DELETE", f"/users/{self.name}/server").status_code in {202, 204}
        wait_for("the settled lease", lambda: self.leases()[0]["state"] != "open", 60)
        wait_for("the server's end", lambda: "" not in self.hub("GET", f"/users/{self.name}").json()["servers"], 60)

    def leases(self) -> list[dict[str, Any]]:
        leases: list[dict[str, Any]] = self.call("GET", "/leases").json()["leases"]
        return leases
