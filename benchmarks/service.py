"""The allocations service as production starts it, beside a real hub that says whose token is whose."""

from __future__ import annotations

import json
import os
import secrets
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from allocations.settings import ROOT
from benchmarks.platforms import BIN, LOOPBACK, PROXY, READY_SECONDS, answers, process_of, until
from tests.e2e.platform import API
from tests.ports import free_port

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

PORTS = ("public", "hub", "proxy", "allocations", "metrics")


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that answers, and the spawner's token for it."""

    port: int
    token: str
    pid: int


@contextmanager
def running_service(database_url: str) -> Iterator[RunningService]:
    """Run `meridian serve` on a database, with our hub and its proxy; all removed at the end."""
    with TemporaryDirectory(prefix="meridian-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        port = {of: free_port() for of in PORTS}
        token = {of: secrets.token_hex(32) for of in ("allocations", "spawner", "batch", "worker", "proxy", "cookie")}
        hub_api = f"http://{LOOPBACK}:{port['hub']}/hub/api"
        accounts = directory / "accounts.json"
        accounts.touch(mode=0o600)
        accounts.write_text(json.dumps({"accounts": []}))
        common = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ} | {
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": name,
            "MERIDIAN_MODE": "local",
            "CONFIGPROXY_AUTH_TOKEN": token["proxy"],
        }
        proxy = [str(PROXY), f"--ip={LOOPBACK}", f"--port={port['public']}"]
        proxy_api = [f"--api-ip={LOOPBACK}", f"--api-port={port['proxy']}"]
        stack.enter_context(process_of([*proxy, *proxy_api], common, directory / "proxy.log"))
        hub = stack.enter_context(
            process_of(
                [sys.executable, "-m", "jupyterhub", "-f", str(ROOT / "hub" / "jupyterhub_config.py")],
                common
                | {
                    "MERIDIAN_STATE": name,
                    "MERIDIAN_BIND_URL": f"http://{LOOPBACK}:{port['public']}/",
                    "MERIDIAN_ACCOUNTS_FILE": str(accounts),
                    "MERIDIAN_HUB_PORT": str(port["hub"]),
                    "MERIDIAN_PROXY_API_URL": f"http://{LOOPBACK}:{port['proxy']}",
                    "MERIDIAN_ALLOCATIONS_PORT": str(port["allocations"]),
                    **{
                        f"MERIDIAN_TOKEN_{of.upper()}": token[of]
                        for of in ("allocations", "spawner", "batch", "worker")
                    },
                },
                directory / "hub.log",
            )
        )
        service = stack.enter_context(
            process_of(
                [sys.executable, "-m", "allocations.cli", "serve"],
                common
                | {
                    "MERIDIAN_DATABASE_URL": database_url,
                    "MERIDIAN_RUN_STORE": name,
                    "MERIDIAN_ALLOCATIONS_PORT": str(port["allocations"]),
                    "MERIDIAN_ALLOCATIONS_METRICS_PORT": str(port["metrics"]),
                    "MERIDIAN_COOKIE_SECRET": token["cookie"],
                    "JUPYTERHUB_API_TOKEN": token["allocations"],
                    "JUPYTERHUB_API_URL": hub_api,
                    "JUPYTERHUB_BASE_URL": "/",
                    "JUPYTERHUB_CLIENT_ID": "service-allocations",
                    "JUPYTERHUB_SERVICE_NAME": "allocations",
                    "JUPYTERHUB_SERVICE_PREFIX": "/services/allocations/",
                    "JUPYTERHUB_OAUTH_CALLBACK_URL": "/services/allocations/oauth_callback",
                },
                directory / "allocations.log",
            )
        )
        health = f"http://{LOOPBACK}:{port['allocations']}{API}/health"
        for process, url, log in ((hub, f"{hub_api}/", "hub.log"), (service, health, "allocations.log")):
            until(url, partial(_is_ready, process, url, directory / log), READY_SECONDS)
        yield RunningService(port["allocations"], token["spawner"], service.pid)


def _is_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"A process ended while it was starting: {log.read_text()}")
    return answers(url)
