"""Who administers the platform, from settings that JupyterHub would read as whom it makes its own administrators."""

from __future__ import annotations

from typing import Any

from jupyterhub.app import JupyterHub
from traitlets import TraitError

from hub.auth.administrators import without_hub_administrators
from hub.modes.environment import refuse

MEMBERS = ("users", "groups", "services")


def take_administrators(c: Any) -> list[str]:
    """The names in `admin_users`, which JupyterHub does not see any more; nor does sign-in make it administrators.

    Those named may sign in whoever else may. What else would make the hub's own administrators ends the hub.
    """
    found: set[str] = set()
    for section in list(c):
        if c[section].get("admin_groups"):
            raise refuse(
                f"{section}.admin_groups is not for this platform: name the groups as those of administrators."
            )
        named = c[section].pop("admin_users", ())
        if isinstance(named, str) or not all(isinstance(name, str) for name in named):
            raise refuse(f"{section}.admin_users must be a list of names.")
        found.update(named)
    if any(role["name"] == "admin" and any(map(role.get, MEMBERS)) for role in c.JupyterHub.get("load_roles", [])):
        raise refuse(
            "JupyterHub.load_roles gives somebody the role admin, who could open anybody's server: "
            "name administrators in Authenticator.admin_users, or give the role allocations-admin."
        )
    c.NoHubAdministrators.administrators = found
    try:
        chosen = JupyterHub.authenticator_class.validate(None, c.JupyterHub.authenticator_class)
    except (ImportError, TraitError):
        raise refuse("JupyterHub.authenticator_class is no way to sign in that is installed.") from None
    c.JupyterHub.authenticator_class = without_hub_administrators(chosen)
    return sorted(found)
