"""JupyterHub's configuration for local mode, read entirely from the environment; see docs for each variable.

`jupyterhub -f hub/jupyterhub_config.py` with another process running configurable-http-proxy. A mistake in
the environment ends the hub with one sentence.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tornado.web import StaticFileHandler

from hub.auth.local import AccountsFileError, LocalAccountsAuthenticator, read_accounts
from hub.spawner.local import LocalAllocationSpawner
from hub.spawner.mixin import replay_pending_settles

if TYPE_CHECKING:
    from collections.abc import Iterable

HUB_FOLDER = Path(__file__).resolve().parent
LOOPBACK = "127.0.0.1"
ALLOCATIONS_PATH = "/services/allocations/"
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        # JupyterHub's own pages carry inline scripts and styles.
        "script-src 'self' 'unsafe-inline'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
CUSTOM_SCOPES = {
    "custom:allocations:read": "See one's own allocations, leases, requests and charges",
    "custom:allocations:request": "Request, renew and manage one's allocations; accept the agreement",
    "custom:allocations:review": "Read requests and proposals, score them and decide on them",
    "custom:allocations:admin": "Grant, adjust, suspend and exempt; read reports and the audit log",
    "custom:allocations:lease": "Acquire, start and settle leases on behalf of people",
    "custom:batch:run": "Submit notebooks to run in batch, list, read and cancel them",
}
FOR_EVERYBODY = ["custom:allocations:read", "custom:allocations:request", "custom:batch:run"]
FOR_REVIEWERS = ["custom:allocations:review"]
FOR_ADMINISTRATORS = ["custom:allocations:admin", "custom:allocations:review"]


def refuse(sentence: str) -> SystemExit:
    """End the hub with one sentence on standard error and exit status 1."""
    return SystemExit(f"Meridian's hub can't start: {sentence}")


def required(variable: str) -> str:
    """The value of an environment variable that has to be set."""
    value = os.environ.get(variable, "")
    if not value:
        raise refuse(f"the environment variable {variable} is not set.")
    return value


def port(variable: str) -> int:
    """A TCP port from the environment."""
    value = required(variable)
    if not value.isdecimal() or not 0 < int(value) < 2**16:
        raise refuse(f"{variable} must be a port from 1 to 65535, not {value!r}.")
    return int(value)


def loopback_url(variable: str) -> str:
    """A URL on the loopback interface: local mode has no isolation, so nobody else may reach it."""
    value = required(variable)
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise refuse(f"{variable} must be a URL such as http://127.0.0.1:8000/, not {value!r}.") from None
    if parts.scheme != "http" or not host:
        raise refuse(f"{variable} must be a URL such as http://127.0.0.1:8000/, not {value!r}.")
    if not is_loopback(host):
        raise refuse(f"{variable} names the host {host}, but local mode serves this machine only: use 127.0.0.1.")
    return value


def is_loopback(host: str) -> bool:
    """Whether `host` is localhost or an address of the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def role(name: str, scopes: Iterable[str], **members: list[str]) -> dict[str, Any]:
    """One entry of `load_roles`."""
    return {"name": name, "scopes": list(scopes), **members}


if os.environ.get("MERIDIAN_MODE") != "local":
    raise refuse("MERIDIAN_MODE must be local; this configuration has no other mode.")

state = Path(required("MERIDIAN_STATE")).resolve()
state.mkdir(mode=0o700, parents=True, exist_ok=True)
bind_url = loopback_url("MERIDIAN_BIND_URL")
public_url = os.environ.get("MERIDIAN_URL") or bind_url
allocations_port = port("MERIDIAN_ALLOCATIONS_PORT")
allocations_root = f"http://{LOOPBACK}:{allocations_port}"
allocations_url = os.environ.get("MERIDIAN_ALLOCATIONS_URL") or f"{allocations_root}{ALLOCATIONS_PATH}".rstrip("/")
pending_settles_dir = str(state / "pending-settles")
required("CONFIGPROXY_AUTH_TOKEN")
try:
    accounts = read_accounts(Path(required("MERIDIAN_ACCOUNTS_FILE")))
except AccountsFileError as error:
    raise refuse(str(error)) from None

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - traitlets puts it into this file's namespace

# Addresses. The proxy is a process of its own, so that people's connections survive a restart of the hub.
c.JupyterHub.bind_url = bind_url
c.JupyterHub.hub_bind_url = f"http://{LOOPBACK}:{port('MERIDIAN_HUB_PORT')}"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = loopback_url("MERIDIAN_PROXY_API_URL")
c.JupyterHub.cleanup_proxy = False
# An orderly stop takes the servers along and settles them; a hub that is killed leaves them running.
c.JupyterHub.cleanup_servers = True

# State.
c.JupyterHub.db_url = f"sqlite:///{state / 'hub.sqlite'}"
c.JupyterHub.upgrade_db = True
c.JupyterHub.cookie_secret_file = str(state / "hub-cookie-secret")

# People.
c.JupyterHub.authenticator_class = LocalAccountsAuthenticator
c.LocalAccountsAuthenticator.accounts_file = required("MERIDIAN_ACCOUNTS_FILE")
reviewers = sorted(name for name, account in accounts.items() if "reviewer" in account.roles)
administrators = sorted(name for name, account in accounts.items() if "admin" in account.roles)

# Servers.
c.JupyterHub.spawner_class = LocalAllocationSpawner
c.JupyterHub.allow_named_servers = True
c.AllocationSpawnerMixin.allocations_url = allocations_url
c.AllocationSpawnerMixin.pending_settles_dir = pending_settles_dir
c.LocalAllocationSpawner.homes_dir = os.environ.get("MERIDIAN_HOMES") or str(state / "homes")
c.LocalAllocationSpawner.server_logs_dir = str(state / "server-logs")
c.LocalAllocationSpawner.meridian_url = public_url
c.LocalAllocationSpawner.interrupt_timeout = 10
c.LocalAllocationSpawner.term_timeout = 5
c.Spawner.default_url = "/lab"
c.Spawner.poll_interval = 10
# JupyterLab's first start on a busy small machine takes most of a minute.
c.Spawner.http_timeout = 120

# Services and what each may do: as little as its work needs.
c.JupyterHub.custom_scopes = {scope: {"description": text} for scope, text in CUSTOM_SCOPES.items()}
c.JupyterHub.services = [
    {
        "name": "allocations",
        "url": allocations_root,
        "api_token": required("MERIDIAN_TOKEN_ALLOCATIONS"),
        "oauth_client_id": "service-allocations",
        "oauth_no_confirm": True,
        # The most that a token of its pages can carry; each token gets what its person has of these.
        "oauth_client_allowed_scopes": [*FOR_EVERYBODY, *FOR_ADMINISTRATORS],
        "display": False,
    },
    {"name": "spawner", "api_token": required("MERIDIAN_TOKEN_SPAWNER")},
    {"name": "batch", "api_token": required("MERIDIAN_TOKEN_BATCH")},
    {"name": "worker", "api_token": required("MERIDIAN_TOKEN_WORKER")},
]
c.JupyterHub.load_roles = [
    role("user", ["self", "access:services!service=allocations", *FOR_EVERYBODY]),
    role(
        "server",
        ["users:activity!user", "access:servers!server", "custom:allocations:read", "custom:batch:run"],
    ),
    # Listed even when empty: that is what takes the role from an account that has lost it.
    role("reviewer", FOR_REVIEWERS, users=reviewers),
    role("allocations-admin", FOR_ADMINISTRATORS, users=administrators),
    {"name": "admin", "users": administrators},
    role("lease-holder", ["custom:allocations:lease"], services=["spawner", "batch"]),
    role(
        "worker",
        ["list:users", "read:users:name", "read:users:activity", "read:servers", "delete:servers"],
        services=["worker"],
    ),
]
# The hub's /metrics tells who uses what, so it stays behind a token even on one machine.
if metrics_token := os.environ.get("MERIDIAN_TOKEN_METRICS"):
    c.JupyterHub.services.append({"name": "metrics", "api_token": metrics_token})
    c.JupyterHub.load_roles.append(role("metrics", ["read:metrics"], services=["metrics"]))

# Pages.
c.JupyterHub.default_url = ALLOCATIONS_PATH
c.JupyterHub.template_paths = [str(HUB_FOLDER / "templates")]
c.JupyterHub.template_vars = {"meridian_local_mode": True, "meridian_home": ALLOCATIONS_PATH}
c.JupyterHub.logo_file = str(HUB_FOLDER / "static" / "logo.svg")
# JupyterHub serves one static folder, its own. It calls this setting deprecated in favour of services, but
# the sign-in page must keep its looks when no service runs.
c.JupyterHub.extra_handlers = [(r"/meridian/(.*)", StaticFileHandler, {"path": str(HUB_FOLDER / "static")})]
c.JupyterHub.tornado_settings = {
    "headers": {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    },
}

# Last, when all is known to be right: the ends of leases that an earlier hub could not report.
try:
    asyncio.get_running_loop()
except RuntimeError:
    pass  # Read by a command other than the hub itself.
else:
    replay_pending_settles(allocations_url, pending_settles_dir)
