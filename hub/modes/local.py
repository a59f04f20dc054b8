"""One machine: accounts in a file, servers as processes, everything on the loopback interface."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hub.auth.local import AccountsFileError, LocalAccountsAuthenticator, read_accounts
from hub.auth.openid import OpenIDConnectAuthenticator
from hub.auth.presets import CILogonAuthenticator, MystAuthenticator, OrcidAuthenticator
from hub.modes.administrators import take_administrators
from hub.modes.environment import (
    ALLOCATIONS_PATH,
    LOOPBACK,
    Installation,
    loopback_url,
    names,
    port,
    refuse,
    required,
    settings_by_class,
)
from hub.spawner.local import LocalAllocationSpawner

PROVIDERS = {
    "openid": OpenIDConnectAuthenticator,
    "myst": MystAuthenticator,
    "cilogon": CILogonAuthenticator,
    "orcid": OrcidAuthenticator,
}


def configure(c: Any) -> Installation:
    """Set addresses, state, sign-in and servers; a missing or unusable variable ends the hub."""
    state = Path(required("MERIDIAN_STATE")).resolve()
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    bind_url = loopback_url("MERIDIAN_BIND_URL")
    allocations_root = f"http://{LOOPBACK}:{port('MERIDIAN_ALLOCATIONS_PORT')}"
    required("CONFIGPROXY_AUTH_TOKEN")

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

    reviewers, administrators = _sign_in(c)

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
        reviewers=reviewers,
        administrators=administrators,
    )


def _sign_in(c: Any) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Let people sign in as MERIDIAN_SIGN_IN says; return who reviews and who administers."""
    way = os.environ.get("MERIDIAN_SIGN_IN") or "accounts"
    if way == "accounts":
        return _sign_in_by_accounts(c)
    if way not in PROVIDERS:
        raise refuse(f"MERIDIAN_SIGN_IN must be accounts, {', '.join(PROVIDERS)}, not {way!r}.")
    c.JupyterHub.authenticator_class = PROVIDERS[way]
    # This machine only: whoever reaches it has an account on it.
    c.Authenticator.allow_all = True
    c.OpenIDConnectAuthenticator.oauth_callback_url = f"{c.JupyterHub.bind_url}hub/oauth_callback"
    c.OpenIDConnectAuthenticator.client_id = required("OAUTH_CLIENT_ID")
    required("OAUTH_CLIENT_SECRET")  # read from there by the authenticator itself
    if issuer := os.environ.get("MERIDIAN_OIDC_ISSUER"):
        c.OpenIDConnectAuthenticator.issuer = issuer
    elif way in {"openid", "myst"}:
        raise refuse("MERIDIAN_OIDC_ISSUER is not set: the address of the provider that people sign in at.")
    if path := os.environ.get("MERIDIAN_HUB_CONFIG"):
        for name, traits in settings_by_class(Path(path)).items():
            c[name].update(traits)
    reviewers = {"users": names("MERIDIAN_REVIEWERS"), "groups": names("MERIDIAN_REVIEWER_GROUPS")}
    administrators = {
        "users": take_administrators(c),
        "groups": names("MERIDIAN_ADMIN_GROUPS"),
    }
    return reviewers, administrators


def _sign_in_by_accounts(c: Any) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    path = required("MERIDIAN_ACCOUNTS_FILE")
    try:
        accounts = read_accounts(Path(path)).values()
    except AccountsFileError as error:
        raise refuse(str(error)) from None
    c.JupyterHub.authenticator_class = LocalAccountsAuthenticator
    c.LocalAccountsAuthenticator.accounts_file = path
    reviewers = sorted(account.name for account in accounts if "reviewer" in account.roles)
    c.Authenticator.admin_users = {account.name for account in accounts if "admin" in account.roles}
    administrators = take_administrators(c)
    return {"users": reviewers}, {"users": administrators}
