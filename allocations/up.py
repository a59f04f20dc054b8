"""The whole platform on one machine, in the foreground: `meridian up`.

Starts the proxy, the allocations service, the worker, storage, the batch process and the hub, restarts what dies, and
stops all in an order in which nothing is lost: runs are handed back, servers are stopped and settled, then the services
end.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import IO, TYPE_CHECKING

import httpx

from allocations import __version__
from allocations.db.database import Database
from allocations.db.migrate import known_revisions, revision_of, upgrade
from allocations.errors import AllocationsError, StateVersionError
from allocations.factory import make_services
from allocations.lifecycle.authority import PLATFORM, Actor
from allocations.lifecycle.models import MemberRole
from allocations.policy.loader import load_policy
from allocations.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOOPBACK = "127.0.0.1"
STATE_FORMAT = 1
HEALTH = "/services/allocations/api/v1/health"
READY_SECONDS = 90
STOP_SECONDS = {"hub": 60.0}
STOP_SECONDS_OTHERS = 20.0
CRASHES_MAX = 5
CRASH_WINDOW_SECONDS = 60.0
POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1

PORT_NAMES = (
    "hub",
    "proxy_api",
    "proxy_metrics",
    "allocations",
    "allocations_metrics",
    "worker_metrics",
    "batch_metrics",
    "storage_metrics",
)
# Folders of people's files, by class of storage: those that local servers get.
FOLDERS = {"home": "homes", "scratch": "scratch", "shared": "shared"}
# How people sign in, when not by the demonstration accounts: what the hub reads of it.
SIGN_IN_VARIABLES = (
    "MERIDIAN_SIGN_IN",
    "MERIDIAN_OIDC_ISSUER",
    "OAUTH_CLIENT_ID",
    "OAUTH_CLIENT_SECRET",
    "MERIDIAN_HUB_CONFIG",
    "MERIDIAN_REVIEWERS",
    "MERIDIAN_REVIEWER_GROUPS",
    "MERIDIAN_ADMIN_GROUPS",
)
SECRET_NAMES = ("allocations", "spawner", "batch", "worker", "metrics", "proxy", "cookie", "crypt", "secrets")
DEMO_ACCOUNTS = (
    ("researcher", ["researcher"], "starts servers, submits runs, requests more"),
    ("lead", ["researcher", "lead"], "leads the demonstration consortium and divides it"),
    ("reviewer", ["researcher", "reviewer"], "reads and decides requests"),
    ("reviewer2", ["researcher", "reviewer"], "the second member of a panel"),
    ("admin", ["researcher", "admin"], "sees everything, suspends, reads the audit log"),
)


class UpError(AllocationsError):
    """The platform cannot start; the sentence says why."""

    code = "cannot_start"
    title = "The platform cannot start"


@dataclass(slots=True)
class Process:
    """One of the platform's processes: its command, its environment, and the running child."""

    name: str
    command: list[str]
    environment: dict[str, str]
    child: subprocess.Popen[bytes] | None = None
    crashes: list[float] = field(default_factory=list)


class Platform:
    """Everything that runs, over one state directory."""

    def __init__(self, host: str, port: int, state: Path, say: Callable[[str], None]) -> None:
        self._host = _require_loopback(host)
        self._port = port
        self._state = state.resolve()
        self._say = say
        self._stopping = False
        self._lock: IO[str] | None = None
        self._processes: list[Process] = []
        self._sign_in = {name: os.environ[name] for name in SIGN_IN_VARIABLES if os.environ.get(name)}

    @property
    def _by_accounts(self) -> bool:
        return self._sign_in.get("MERIDIAN_SIGN_IN", "accounts") == "accounts"

    @property
    def url(self) -> str:
        """The address that people open."""
        return f"http://{self._host}:{self._port}"

    def run(self) -> int:
        """Start, serve until SIGINT or SIGTERM, stop; return the exit status. UpError says what is in the way."""
        proxy = _require_proxy()
        self._open_state()
        self._require_free_port()
        tokens = self._secrets()
        accounts = self._accounts()
        self._migrate()
        ports = self._ports()
        self._processes = self._plan(proxy, tokens, ports)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        try:
            self._start_all(ports)
            if not self._stopping:
                self._announce(accounts)
            failed = self._watch()
        finally:
            self._stop_all()
        if failed:
            raise UpError(
                f"The {failed} process ended {CRASHES_MAX} times within a minute.",
                f"Read {self._log_path(failed)}.",
            )
        self._say("Meridian has stopped.")
        return 0

    # ------------------------------------------------------------------ state

    def _open_state(self) -> None:
        """Make or open the state directory, for this process alone."""
        try:
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in ("logs", "runs", *FOLDERS.values()):
                (self._state / name).mkdir(mode=0o700, exist_ok=True)
            self._lock = (self._state / ".lock").open("w")
        except OSError as error:
            raise UpError(
                f"The state directory {self._state} cannot be written: {error.strerror}.",
                "Choose another: make up STATE=/some/dir.",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UpError(
                f"Another Meridian runs on the state directory {self._state}.", "Stop it first, or choose another."
            ) from None
        marker = self._state / "meridian.json"
        if marker.exists():
            written = json.loads(marker.read_text())
            if written["format"] > STATE_FORMAT:
                raise StateVersionError(
                    f"The state in {self._state} was written by a newer version of Meridian ({written['version']}).",
                    "Install that version, or choose another: make up STATE=/some/dir.",
                )
        _write_private(marker, json.dumps({"format": STATE_FORMAT, "version": __version__}))

    def _require_free_port(self) -> None:
        with socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, self._port))
            except OSError as error:
                raise UpError(
                    f"Port {self._port} is in use ({error.strerror}).",
                    f"Stop what uses it, or choose another: make up PORT={_another_port(self._port)}.",
                ) from None

    def _secrets(self) -> dict[str, str]:
        """Return this installation's tokens, made once and kept private."""
        path = self._state / "secrets.json"
        kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        tokens = {name: kept.get(name) or secrets.token_hex(32) for name in SECRET_NAMES}
        if tokens != kept:
            _write_private(path, json.dumps(tokens))
        return tokens

    def _accounts(self) -> dict[str, str]:
        """Return the demonstration accounts' passwords by name, made once and kept private."""
        path = self._state / "accounts.json"
        if not path.exists():
            accounts = [
                {"name": name, "password": secrets.token_urlsafe(9), "roles": roles} for name, roles, _ in DEMO_ACCOUNTS
            ]
            _write_private(path, json.dumps({"accounts": accounts}, indent=2))
        return {account["name"]: account["password"] for account in json.loads(path.read_text())["accounts"]}

    def _migrate(self) -> None:
        """Bring both databases to this version; open the demonstration consortium in an empty one."""
        self._require_known_hub_database()
        policy = load_policy(ROOT / "policies")
        database = Database(self._database_url)
        upgrade(database)
        services = make_services(database, policy, self._state / "runs")
        if self._by_accounts and not services.reports.find_allocations("")[1]:
            panel_tier = next(tier for tier in policy.tiers if tier.sub_allocations)
            with database.write() as connection:
                opened = services.lifecycle.open(
                    connection,
                    panel_tier,
                    "Demonstration consortium",
                    lead="lead",
                    actor=PLATFORM,
                    why="opened for trying with a new local installation",
                )
            invited = services.members.invite(Actor(PLATFORM, admin=True), opened.id, "researcher", MemberRole.MEMBER)
            services.members.answer(Actor("researcher"), invited.id, accept=True)
        database.dispose()

    def _require_known_hub_database(self) -> None:
        path = self._state / "hub.sqlite"
        if not path.exists():
            return
        import jupyterhub  # noqa: PLC0415  # only its migrations' place is needed, and only here

        database = Database(f"sqlite:///{path}")
        revision = revision_of(database)
        database.dispose()
        if revision is not None and revision not in known_revisions(Path(jupyterhub.__file__).parent / "alembic"):
            raise StateVersionError(
                f"The hub's database in {self._state} was written by a newer version of JupyterHub.",
                "Install that version, or choose another: make up STATE=/some/dir.",
            )

    @property
    def _database_url(self) -> str:
        return f"sqlite:///{self._state / 'allocations.sqlite'}"

    def _ports(self) -> dict[str, int]:
        """Return the inner ports: those of the last start where they are free, for servers that still run know them."""
        path = self._state / "ports.json"
        kept: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        free = (port for port in _free_ports(2 * len(PORT_NAMES)) if port not in kept.values())
        ports = {name: kept[name] if _is_free(kept.get(name)) else next(free) for name in PORT_NAMES}
        _write_private(path, json.dumps(ports))
        return ports

    # -------------------------------------------------------------- processes

    def _plan(self, proxy: str, tokens: Mapping[str, str], ports: Mapping[str, int]) -> list[Process]:
        """Return every process with exactly the environment that it needs, in the order of starting."""
        allocations_url = f"http://{LOOPBACK}:{ports['allocations']}/services/allocations"
        hub_api_url = f"http://{LOOPBACK}:{ports['hub']}/hub/api"
        common = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR") if name in os.environ
        }
        common["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{common.get('PATH', os.defpath)}"
        common |= {"MERIDIAN_MODE": "local", "PYTHONUNBUFFERED": "1"}
        database = {"MERIDIAN_DATABASE_URL": self._database_url, "MERIDIAN_RUN_STORE": str(self._state / "runs")}
        examples = {"MERIDIAN_EXAMPLES": str(ROOT / "example-notebooks")}
        homes = {"MERIDIAN_HOMES": str(self._state / FOLDERS["home"])}
        folders = {
            "MERIDIAN_SCRATCH_FOLDERS": str(self._state / FOLDERS["scratch"]),
            "MERIDIAN_SHARED_FOLDERS": str(self._state / FOLDERS["shared"]),
        }
        python = sys.executable
        return [
            Process(
                "proxy",
                [
                    proxy,
                    f"--ip={self._host}",
                    f"--port={self._port}",
                    f"--api-ip={LOOPBACK}",
                    f"--api-port={ports['proxy_api']}",
                    f"--metrics-ip={LOOPBACK}",
                    f"--metrics-port={ports['proxy_metrics']}",
                    f"--error-target=http://{LOOPBACK}:{ports['hub']}/hub/error",
                    f"--default-target=http://{LOOPBACK}:{ports['hub']}",
                ],
                common | {"CONFIGPROXY_AUTH_TOKEN": tokens["proxy"]},
            ),
            Process(
                "allocations",
                [python, "-m", "allocations.cli", "serve"],
                common
                | database
                | examples
                | {
                    "MERIDIAN_ALLOCATIONS_PORT": str(ports["allocations"]),
                    "MERIDIAN_ALLOCATIONS_METRICS_PORT": str(ports["allocations_metrics"]),
                    "MERIDIAN_COOKIE_SECRET": tokens["cookie"],
                    "MERIDIAN_SECRETS_KEY": tokens["secrets"],
                    "JUPYTERHUB_API_TOKEN": tokens["allocations"],
                    "JUPYTERHUB_API_URL": hub_api_url,
                    "JUPYTERHUB_BASE_URL": "/",
                    "JUPYTERHUB_CLIENT_ID": "service-allocations",
                    "JUPYTERHUB_SERVICE_NAME": "allocations",
                    "JUPYTERHUB_SERVICE_PREFIX": "/services/allocations/",
                    "JUPYTERHUB_OAUTH_CALLBACK_URL": "/services/allocations/oauth_callback",
                },
            ),
            Process(
                "hub",
                [python, "-m", "jupyterhub", "-f", str(ROOT / "hub" / "jupyterhub_config.py")],
                common
                | examples
                | homes
                | folders
                | self._sign_in
                | {
                    "MERIDIAN_STATE": str(self._state),
                    "MERIDIAN_BIND_URL": f"{self.url}/",
                    "MERIDIAN_URL": self.url,
                    "MERIDIAN_ACCOUNTS_FILE": str(self._state / "accounts.json"),
                    "MERIDIAN_HUB_PORT": str(ports["hub"]),
                    "MERIDIAN_PROXY_API_URL": f"http://{LOOPBACK}:{ports['proxy_api']}",
                    "MERIDIAN_ALLOCATIONS_PORT": str(ports["allocations"]),
                    "MERIDIAN_ALLOCATIONS_URL": allocations_url,
                    "MERIDIAN_TOKEN_ALLOCATIONS": tokens["allocations"],
                    "MERIDIAN_TOKEN_SPAWNER": tokens["spawner"],
                    "MERIDIAN_TOKEN_BATCH": tokens["batch"],
                    "MERIDIAN_TOKEN_WORKER": tokens["worker"],
                    "MERIDIAN_TOKEN_METRICS": tokens["metrics"],
                    "CONFIGPROXY_AUTH_TOKEN": tokens["proxy"],
                    "JUPYTERHUB_CRYPT_KEY": tokens["crypt"],
                },
            ),
            Process(
                "worker",
                [python, "-m", "allocations.cli", "worker"],
                common
                | database
                | {
                    "MERIDIAN_WORKER_METRICS_PORT": str(ports["worker_metrics"]),
                    "MERIDIAN_HUB_API_URL": hub_api_url,
                    "MERIDIAN_TOKEN_WORKER": tokens["worker"],
                    "MERIDIAN_MAIL_FOLDER": str(self._state / "mail"),
                    "MERIDIAN_MAIL_FROM": "Meridian <meridian@localhost>",
                    "MERIDIAN_MAIL_DOMAIN": "localhost",
                    "MERIDIAN_PAGES_URL": f"{self.url}/services/allocations",
                },
            ),
            Process(
                "storage",
                [python, "-m", "allocations.cli", "storage"],
                common
                | database
                | {
                    "MERIDIAN_STORAGE_CONFIG": str(self._storage_settings()),
                    "MERIDIAN_STORAGE_METRICS_PORT": str(ports["storage_metrics"]),
                },
            ),
            Process(
                "batch",
                [python, "-m", "hub.batch.executor"],
                common
                | homes
                | folders
                | {
                    "MERIDIAN_ALLOCATIONS_URL": allocations_url,
                    "MERIDIAN_TOKEN_BATCH": tokens["batch"],
                    "MERIDIAN_RUN_STORE": str(self._state / "runs"),
                    "MERIDIAN_BATCH_METRICS_PORT": str(ports["batch_metrics"]),
                    "MERIDIAN_URL": self.url,
                },
            ),
        ]

    def _storage_settings(self) -> Path:
        """Write where people's files are, for the process that keeps them; return the file's path."""
        of_class = {
            name: {
                "backend": "scan",
                "folder": str(self._state / folder),
                "uid": os.geteuid(),
                "gid": os.getegid(),
                "plain_names": True,
            }
            for name, folder in FOLDERS.items()
        }
        path = self._state / "storage.json"
        settings = {
            "classes": of_class,
            "archive": str(self._state / "archives"),
            "state": str(self._state / "storage"),
            # What is saved shows soon; there is little to look at.
            "intervals_seconds": {"limits": 10, "measure": 300},
        }
        _write_private(path, json.dumps(settings, indent=2))
        return path

    def _start_all(self, ports: Mapping[str, int]) -> None:
        self._say("Starting Meridian …")
        for process in self._processes:
            self._start(process)
        ready = {
            "hub": f"http://{LOOPBACK}:{ports['hub']}/hub/api/",
            "allocations": f"http://{LOOPBACK}:{ports['allocations']}{HEALTH}",
            # By the way that people take: the hub tells the proxy of its service a moment after it answers itself.
            "proxy": f"{self.url}{HEALTH}",
        }
        begin = time.monotonic()
        while ready and not self._stopping:
            for name in [name for name, url in ready.items() if _answers(url)]:
                del ready[name]
            self._revive()
            if time.monotonic() - begin > READY_SECONDS:
                waiting = sorted(ready)
                raise UpError(
                    f"Not ready after {READY_SECONDS} s: {', '.join(waiting)}.", f"Read {self._log_path(waiting[0])}."
                )
            time.sleep(POLL_SECONDS)

    def _start(self, process: Process) -> None:
        with self._log_path(process.name).open("ab") as log:
            process.child = subprocess.Popen(  # noqa: S603  # our own commands, no text from people
                process.command,
                env=process.environment,
                cwd=self._state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Out of the terminal's process group: Ctrl-C reaches this process, which stops them in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # one thread at this time, and it only calls prctl
            )

    def _watch(self) -> str | None:
        """Restart what dies until told to stop; return the name of a process that cannot be kept alive."""
        while not self._stopping:
            failed = self._revive()
            if failed is not None:
                return failed
            time.sleep(POLL_SECONDS)
        return None

    def _revive(self) -> str | None:
        for process in self._processes:
            if process.child is None or process.child.poll() is None or self._stopping:
                continue
            now = time.monotonic()
            process.crashes = [at for at in process.crashes if now - at < CRASH_WINDOW_SECONDS] + [now]
            if len(process.crashes) >= CRASHES_MAX:
                return process.name
            self._say(f"The {process.name} process ended (status {process.child.returncode}); starting it again.")
            self._start(process)
        return None

    def _stop_all(self) -> None:
        """Stop in the order in which nothing is lost: batch, hub (with the servers), worker, service, proxy."""
        self._stopping = True
        by_name = {process.name: process for process in self._processes}
        for name in ("batch", "hub", "storage", "worker", "allocations", "proxy"):
            process = by_name.get(name)
            if process is None or process.child is None or process.child.poll() is not None:
                continue
            process.child.terminate()
            try:
                process.child.wait(STOP_SECONDS.get(name, STOP_SECONDS_OTHERS))
            except subprocess.TimeoutExpired:
                self._say(f"The {name} process does not stop; it is killed.")
                process.child.kill()
                process.child.wait()

    def _on_signal(self, _number: int, _frame: object) -> None:
        if not self._stopping:
            self._say("\nStopping: runs are handed back, servers are stopped and settled …")
        self._stopping = True

    def _announce(self, accounts: Mapping[str, str]) -> None:
        self._say(f"\n  Meridian {__version__} runs at  {self.url}\n")
        self._say("  Local mode: for trying and for development, on this machine only.")
        self._say(f"  Everything it writes is in {self._state}\n")
        if self._by_accounts:
            self._say("  Demonstration accounts of this installation (name, password):")
            about = {name: text for name, _, text in DEMO_ACCOUNTS}
            width = max(len(name) for name in accounts)
            for name, password in accounts.items():
                self._say(f"    {name:<{width}}  {password}   {about.get(name, '')}".rstrip())
        else:
            self._say(f"  People sign in by {self._sign_in['MERIDIAN_SIGN_IN']}.")
        self._say("\n  Ctrl-C stops it all.\n")

    def _log_path(self, name: str) -> Path:
        return self._state / "logs" / f"{name}.log"


def _require_loopback(host: str) -> str:
    try:
        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UpError(
            f"Local mode serves this machine only, so it does not bind to {host}.",
            "Use 127.0.0.1; to serve others, install the platform on Kubernetes.",
        )
    return LOOPBACK if host == "localhost" else host


def _require_proxy() -> str:
    if shutil.which("node") is None:
        raise UpError("Node.js 18 or later is missing.", "Install it (Debian: apt-get install nodejs npm).")
    proxy = ROOT / "node_modules" / ".bin" / "configurable-http-proxy"
    if not proxy.exists():
        raise UpError("The proxy is not installed.", "Run `make up`, which installs it.")
    return str(proxy)


def _another_port(port: int) -> int:
    ten_thousand = 10_000
    return port + ten_thousand if port + ten_thousand < 2**16 else port - ten_thousand


def _is_free(port: int | None) -> bool:
    if port is None:
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _free_ports(count: int) -> list[int]:
    """Return different free ports: one that is let go may be given again at once."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _die_with_parent() -> None:
    """Let the kernel end the child when this process is killed, so that the next start finds the ports free."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
