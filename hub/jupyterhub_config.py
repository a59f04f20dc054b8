"""JupyterHub's configuration, read entirely from the environment; see docs for each variable.

`jupyterhub -f hub/jupyterhub_config.py` with another process running configurable-http-proxy. MERIDIAN_MODE says
how: `local` on one machine, `kubernetes` as the chart installs it. A mistake in the environment ends the hub with one
sentence.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.web import StaticFileHandler

from hub.modes import kubernetes, local
from hub.modes.environment import ALLOCATIONS_PATH, refuse, required
from hub.spawner.mixin import replay_pending_settles

if TYPE_CHECKING:
    from collections.abc import Iterable

HUB_FOLDER = Path(__file__).resolve().parent
MODES = {"local": local.configure, "kubernetes": kubernetes.configure}
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
    "custom:allocations:people": "Tell who people are when they sign in",
    "custom:batch:run": "Submit notebooks to run in batch, list, read and cancel them",
}
FOR_EVERYBODY = ["custom:allocations:read", "custom:allocations:request", "custom:batch:run"]
FOR_REVIEWERS = ["custom:allocations:review"]
FOR_ADMINISTRATORS = ["custom:allocations:admin", "custom:allocations:review"]


def role(name: str, scopes: Iterable[str], **members: list[str]) -> dict[str, Any]:
    """One entry of `load_roles`."""
    return {"name": name, "scopes": list(scopes), **members}


c = get_config()  # type: ignore[name-defined]  # noqa: F821 - traitlets puts it into this file's namespace
mode = required("MERIDIAN_MODE")
if mode not in MODES:
    raise refuse(f"MERIDIAN_MODE must be {' or '.join(MODES)}, not {mode!r}.")
installation = MODES[mode](c)
c.OpenIDConnectAuthenticator.allocations_url = installation.allocations_url
# What has a role by name is nobody's for the asking.
c.OpenIDConnectAuthenticator.reserved_names = {
    *c.OpenIDConnectAuthenticator.get("reserved_names", ()),
    *installation.reviewers.get("users", ()),
    *installation.administrators.get("users", ()),
}

c.JupyterHub.allow_named_servers = True
c.AllocationSpawnerMixin.allocations_url = installation.allocations_url
c.AllocationSpawnerMixin.pending_settles_dir = installation.pending_settles_dir

# Services and what each may do: as little as its work needs.
c.JupyterHub.custom_scopes = {scope: {"description": text} for scope, text in CUSTOM_SCOPES.items()}
c.JupyterHub.services = [
    {
        "name": "allocations",
        "url": installation.allocations_root,
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
    role("reviewer", FOR_REVIEWERS, **installation.reviewers),
    role("allocations-admin", FOR_ADMINISTRATORS, **installation.administrators),
    {"name": "admin", **installation.administrators},
    role("lease-holder", ["custom:allocations:lease"], services=["spawner", "batch"]),
    # The hub itself: its token for the service is the spawner's.
    role("registrar", ["custom:allocations:people"], services=["spawner"]),
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
c.JupyterHub.template_vars = {"meridian_local_mode": mode == "local", "meridian_home": ALLOCATIONS_PATH}
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
    # Other sites' forms and pictures come without our cookies; links do, and the way back from a sign-in.
    "cookie_options": {"samesite": "Lax"},
}

# Last, when all is known to be right: the ends of leases that an earlier hub could not report.
try:
    asyncio.get_running_loop()
except RuntimeError:
    pass  # Read by a command other than the hub itself.
else:
    replay_pending_settles(installation.allocations_url, installation.pending_settles_dir)
