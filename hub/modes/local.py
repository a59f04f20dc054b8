"""One machine: accounts in a file, servers as processes, everything on the loopback interface."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hub.auth.local import AccountsFileError, LocalAccountsAuthenticator, read_accounts
from hub.modes.environment import ALLOCATIONS_PATH, LOOPBACK, Installation, loopback_url, port, refuse, required
from hub.spawner.local import LocalAllocationSpawner


def configure(c: Any) -> Installation:
    """Set addresses, state, sign-in and servers; a missing or unusable variable ends the hub."""
    state = Path(required("MERIDIAN_STATE")).resolve()
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    bind_url = loopback_url("MERIDIAN_BIND_URL")
    allocations_root = f"http://{LOOPBACK}:{port('MERIDIAN_ALLOCATIONS_PORT')}"
    required("CONFIGPROXY_AUTH_TOKEN")
    try:
        accounts = read_accounts(Path(required("MERIDIAN_ACCOUNTS_FILE")))
    except AccountsFileError as error:
        raise refuse(str(error)) from None

    # The proxy is a process of its own, so that people's connections survive a restart of the hub.
    c.JupyterHub.bind_url = bind_url
    c.JupyterHub.hub_bind_url = f"http://{LOOPBACK}:{port('MERIDIAN_HUB_PORT')}"
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = loopback_url("MERIDIAN_PROXY_API_URL")
    c.JupyterHub.cleanup_proxy = False
    # An orderly stop takes the servers along and settles them; a hub that is killed leaves them running.
    c.JupyterHub.cleanup_servers = True

    c.JupyterHub.db_url = f"sqlite:///{state / 'hub.sqlite'}"
    c.JupyterHub.upgrade_db = True
    c.JupyterHub.cookie_secret_file = str(state / "hub-cookie-secret")

    c.JupyterHub.authenticator_class = LocalAccountsAuthenticator
    c.LocalAccountsAuthenticator.accounts_file = required("MERIDIAN_ACCOUNTS_FILE")

    c.JupyterHub.spawner_class = LocalAllocationSpawner
    c.LocalAllocationSpawner.homes_dir = os.environ.get("MERIDIAN_HOMES") or str(state / "homes")
    c.LocalAllocationSpawner.server_logs_dir = str(state / "server-logs")
    c.LocalAllocationSpawner.meridian_url = os.environ.get("MERIDIAN_URL") or bind_url
    c.LocalAllocationSpawner.interrupt_timeout = 10
    c.LocalAllocationSpawner.term_timeout = 5
    c.Spawner.default_url = "/lab"
    c.Spawner.poll_interval = 10
    # JupyterLab's first start on a busy small machine takes most of a minute.
    c.Spawner.http_timeout = 120
    return Installation(
        allocations_root=allocations_root,
        allocations_url=os.environ.get("MERIDIAN_ALLOCATIONS_URL")
        or f"{allocations_root}{ALLOCATIONS_PATH}".rstrip("/"),
        pending_settles_dir=str(state / "pending-settles"),
        reviewers={"users": sorted(name for name, account in accounts.items() if "reviewer" in account.roles)},
        administrators={"users": sorted(name for name, account in accounts.items() if "admin" in account.roles)},
    )
