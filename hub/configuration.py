"""What the platform adds to a hub, wherever it runs: services, who may do what, pages, and what begins at start.

What the hub's configuration says already stays: services and roles of the same name are merged.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.web import StaticFileHandler

from hub.modes.environment import ALLOCATIONS_PATH, optional, required
from hub.spawner.handlers import HANDLERS
from hub.spawner.mixin import replay_pending_settles
from hub.spawner.pages import to_credits, to_duration
from hub.spawner.reconcile import begin_reconciling
from hub.spawner.sessions import session_for_page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hub.modes.environment import Installation

HUB_FOLDER = Path(__file__).resolve().parent
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
    "custom:allocations:people": "Tell who people are when they sign in; end the runs of an account that has ended",
    "custom:batch:run": "Submit notebooks to run in batch, list, read and cancel them",
}
FOR_EVERYBODY = ["custom:allocations:read", "custom:allocations:request", "custom:batch:run"]
FOR_REVIEWERS = ["custom:allocations:review"]
FOR_ADMINISTRATORS = ["custom:allocations:admin", "custom:allocations:review"]
# What they may do on the hub: see who has a server, and stop it. Nothing by which to open one, or to be another.
OF_THE_HUB = ["admin-ui", "list:users", "read:users:activity", "read:servers", "delete:servers"]


def configure(c: Any, installation: Installation, *, local: bool) -> None:
    """Add services, roles and pages; a token that is not in the environment ends the hub."""
    c.AllocationSpawnerMixin.allocations_url = installation.allocations_url
    c.AllocationSpawnerMixin.pending_settles_dir = installation.pending_settles_dir
    c.OpenIDConnectAuthenticator.allocations_url = installation.allocations_url
    # What has a role by name is nobody's for the asking.
    c.OpenIDConnectAuthenticator.reserved_names = {
        *c.OpenIDConnectAuthenticator.get("reserved_names", ()),
        *installation.reviewers.get("users", ()),
        *installation.administrators.get("users", ()),
    }
    hub = c.JupyterHub
    hub.custom_scopes = {
        **hub.get("custom_scopes", {}),
        **{scope: {"description": text} for scope, text in CUSTOM_SCOPES.items()},
    }
    hub.services = _by_name(hub.get("services", []), _services(installation))
    hub.load_roles = _by_name(hub.get("load_roles", []), _roles(installation))

    hub.default_url = ALLOCATIONS_PATH
    hub.template_paths = [*hub.get("template_paths", []), str(HUB_FOLDER / "templates")]
    words = {
        "meridian_local_mode": local,
        "meridian_home": ALLOCATIONS_PATH,
        # JupyterHub calls what is callable with the user and shows what comes back.
        "meridian_session": lambda _user: session_for_page,
        "meridian_duration": lambda _user: to_duration,
        "meridian_scopes": CUSTOM_SCOPES,
        "meridian_credits": lambda _user: to_credits,
        "meridian_version": version("meridian-platform"),
    }
    hub.template_vars = {**hub.get("template_vars", {}), **words}
    hub.logo_file = str(HUB_FOLDER / "static" / "logo.svg")
    # JupyterHub serves one static folder, its own. It calls this setting deprecated in favour of services, but
    # the sign-in page must keep its looks when no service runs.
    static = (r"/meridian/(.*)", StaticFileHandler, {"path": str(HUB_FOLDER / "static")})
    hub.extra_handlers = [*hub.get("extra_handlers", []), *HANDLERS, static]
    headers = {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    # Other sites' forms and pictures come without our cookies; links do, and the way back from a sign-in.
    cookies: dict[str, Any] = {"samesite": "Lax"}
    settings = dict(hub.get("tornado_settings", {}))
    if hub.get("public_url", "").startswith("https:"):
        # JupyterHub sees to its other cookies by itself; how its own proxy was reached says nothing where TLS ends
        # before that.
        cookies["secure"] = True
        settings["xsrf_cookie_kwargs"] = {**settings.get("xsrf_cookie_kwargs", {}), "secure": True}
    hub.tornado_settings = {**settings, "headers": headers, "cookie_options": cookies}


def begin(installation: Installation, *, local: bool) -> None:
    """Report the ends of leases that an earlier hub could not, and on a cluster compare pods with leases from now on.

    To be called last, when all is known to be right.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return  # Read by a command other than the hub itself.
    replay_pending_settles(installation.allocations_url, installation.pending_settles_dir)
    if not local:
        begin_reconciling()


def _services(installation: Installation) -> list[dict[str, Any]]:
    """The processes that speak with the hub. Its /metrics tells who uses what, so it stays behind a token."""
    metrics = [{"name": "metrics", "api_token": token} for token in [optional("MERIDIAN_TOKEN_METRICS")] if token]
    return [
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
        *metrics,
    ]


def _roles(installation: Installation) -> list[dict[str, Any]]:
    """What each may do: as little as its work needs."""
    metrics = [_role("metrics", ["read:metrics"], services=["metrics"])] if optional("MERIDIAN_TOKEN_METRICS") else []
    return [
        _role("user", ["self", "access:services!service=allocations", *FOR_EVERYBODY]),
        _role(
            "server", ["users:activity!user", "access:servers!server", "custom:allocations:read", "custom:batch:run"]
        ),
        # Listed even when empty: that is what takes the role from an account that has lost it.
        _role("reviewer", FOR_REVIEWERS, **installation.reviewers),
        _role("allocations-admin", [*FOR_ADMINISTRATORS, *OF_THE_HUB], **installation.administrators),
        # Listed even when empty, as above, and for the flag that an earlier version has set in the database.
        {"name": "admin", **installation.hub_administrators},
        _role("lease-holder", ["custom:allocations:lease"], services=["spawner", "batch"]),
        # The hub itself: its token for the service is the spawner's.
        _role("registrar", ["custom:allocations:people"], services=["spawner"]),
        _role(
            "worker",
            ["list:users", "read:users:name", "read:users:activity", "read:servers", "delete:servers"],
            services=["worker"],
        ),
        *metrics,
    ]


def _role(name: str, scopes: Iterable[str], **members: list[str]) -> dict[str, Any]:
    """One entry of `load_roles`."""
    return {"name": name, "scopes": list(scopes), **members}


def _by_name(theirs: Iterable[dict[str, Any]], ours: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of both; where both have one, ours says what it is, and lists have what is in either."""
    merged = {one["name"]: dict(one) for one in theirs}
    for one in ours:
        known = merged.setdefault(one["name"], {})
        for key, value in one.items():
            known[key] = list(dict.fromkeys([*known.get(key, []), *value])) if isinstance(value, list) else value
    return list(merged.values())
