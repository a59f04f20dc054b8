"""A hub that zero-to-jupyterhub runs: the platform's part of it, to be added from `hub.extraConfig`.

Addresses, sign-in, storage and everything else of servers is what that chart has set before.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hub import configuration
from hub.modes.environment import ALLOCATIONS_PATH, Installation, refuse
from hub.spawner.kube import KubeAllocationSpawner

# The volume of that chart's hub.
STATE = "/srv/jupyterhub"


def configure(c: Any) -> None:
    """Start servers within leases, and add the platform's services, roles and pages; call it with the hub's `c`.

    MERIDIAN_STATE is a folder that outlives the hub. What cannot work ends the hub with one sentence.
    """
    services = {service["name"]: service for service in c.JupyterHub.get("services", [])}
    allocations_root = services.get("allocations", {}).get("url", "").rstrip("/")
    if not allocations_root:
        raise refuse("hub.services.allocations.url has to say where the allocations service is.")
    if c.JupyterHub.get("base_url", "/") != "/":
        raise refuse("hub.baseUrl has to be /, for the allocations service is below it.")
    if "block-cloud-metadata" in {_name(one) for one in c.KubeSpawner.get("init_containers", [])}:
        raise refuse(
            "singleuser.cloudMetadata.blockWithIptables has to be false: it would start a privileged container as root "
            "in people's pods, which they do not allow. Our NetworkPolicy blocks the address."
        )
    c.JupyterHub.spawner_class = KubeAllocationSpawner
    administrators = {"users": sorted(c.Authenticator.get("admin_users", [])), "groups": []}
    installation = Installation(
        allocations_root=allocations_root,
        allocations_url=f"{allocations_root}{ALLOCATIONS_PATH}".rstrip("/"),
        pending_settles_dir=str(Path(os.environ.get("MERIDIAN_STATE", STATE)) / "pending-settles"),
        reviewers={"users": [], "groups": []},
        administrators=administrators,
        # Whom an installer makes the hub's own stays so.
        hub_administrators=administrators,
    )
    configuration.configure(c, installation, local=False)
    configuration.begin(installation, local=False)


def _name(container: Any) -> str:
    """A container's name, whether it is written as a dictionary or as an object of the client."""
    name: str = container["name"] if isinstance(container, dict) else container.name
    return name
