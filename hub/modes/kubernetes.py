"""Kubernetes, as the chart installs it: servers as pods, sign-in and everything else by the chart's values.

The chart writes what its values say as settings of JupyterHub's classes into the file MERIDIAN_HUB_CONFIG; a value
there wins over what stands here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hub.auth.administrators import TrialAuthenticator
from hub.modes.administrators import take_administrators
from hub.modes.environment import ALLOCATIONS_PATH, Installation, names, port, refuse, required, settings_by_class
from hub.spawner.kube import KubeAllocationSpawner


def configure(c: Any) -> Installation:
    """Set addresses, state, sign-in and servers; a missing or unusable variable or file ends the hub."""
    state = Path(required("MERIDIAN_STATE"))
    settings = settings_by_class(Path(required("MERIDIAN_HUB_CONFIG")))
    allocations_root = required("MERIDIAN_ALLOCATIONS_ROOT").rstrip("/")
    required("CONFIGPROXY_AUTH_TOKEN")

    c.JupyterHub.bind_url = "http://:8000/"
    c.JupyterHub.hub_bind_url = f"http://:{port('MERIDIAN_HUB_PORT')}"
    c.JupyterHub.hub_connect_url = required("MERIDIAN_HUB_CONNECT_URL")
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = required("MERIDIAN_PROXY_API_URL")
    # The hub comes and goes with its pod; the proxy and people's servers stay.
    c.JupyterHub.cleanup_proxy = c.JupyterHub.cleanup_servers = False

    c.JupyterHub.db_url = f"sqlite:///{state / 'hub.sqlite'}"
    c.JupyterHub.upgrade_db = True
    c.JupyterHub.cookie_secret_file = str(state / "hub-cookie-secret")

    c.JupyterHub.spawner_class = KubeAllocationSpawner
    c.Spawner.poll_interval = 30
    c.Spawner.http_timeout = 120
    if trial_password := os.environ.get("MERIDIAN_TRIAL_PASSWORD"):
        _sign_in_for_trials(c, trial_password, required("MERIDIAN_TRIAL_ADMIN_PASSWORD"))
    for name, traits in settings.items():
        c[name].update(traits)
    if "authenticator_class" not in c.JupyterHub:
        raise refuse("JupyterHub.authenticator_class is not set: say under hub.config how people sign in.")
    return Installation(
        allocations_root=allocations_root,
        allocations_url=f"{allocations_root}{ALLOCATIONS_PATH}".rstrip("/"),
        pending_settles_dir=str(state / "pending-settles"),
        reviewers={"users": names("MERIDIAN_REVIEWERS"), "groups": names("MERIDIAN_REVIEWER_GROUPS")},
        administrators={"users": take_administrators(c), "groups": names("MERIDIAN_ADMIN_GROUPS")},
    )


def _sign_in_for_trials(c: Any, password: str, admin_password: str) -> None:
    """Let everybody in with one password, and the administrators with another."""
    c.JupyterHub.authenticator_class = TrialAuthenticator
    c.SharedPasswordAuthenticator.user_password = password
    c.SharedPasswordAuthenticator.admin_password = admin_password
    c.Authenticator.admin_users = set(names("MERIDIAN_TRIAL_ADMINS"))
    c.Authenticator.allow_all = True
