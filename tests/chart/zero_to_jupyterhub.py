"""Sets up a hub as zero-to-jupyterhub does by its values: its defaults, its names, and `hub.extraConfig` at the end.

Its chart is not ours to carry along. This is what its reference says of the values that bear on servers, services and
roles, as of version 4.
"""

from __future__ import annotations

import copy
from typing import Any

RELEASE = "jupyterhub"
SERVICE_TOKEN = "of-the-other-chart"
DEFAULTS: dict[str, Any] = {
    "hub": {
        "allowNamedServers": False,
        "baseUrl": "/",
        "config": {"JupyterHub": {"admin_access": True, "authenticator_class": "dummy"}},
        "extraConfig": {},
        "loadRoles": {},
        "services": {},
        "templatePaths": [],
        "templateVars": {},
    },
    "singleuser": {
        "cloudMetadata": {"blockWithIptables": True, "ip": "169.254.169.254"},
        "cmd": "jupyterhub-singleuser",
        "defaultUrl": None,
        "extraEnv": {},
        "extraLabels": {"hub.jupyter.org/network-access-hub": "true"},
        "fsGid": 100,
        "image": {"name": "quay.io/jupyterhub/k8s-singleuser-sample", "tag": "4"},
        "initContainers": [],
        "memory": {"guarantee": "1G"},
        "profileList": [],
        "startTimeout": 300,
        "storage": {
            "capacity": "10Gi",
            "dynamic": {"pvcNameTemplate": None, "storageAccessModes": ["ReadWriteOnce"], "storageClass": None},
            "homeMountPath": "/home/jovyan",
        },
        "uid": 1000,
    },
    "cull": {"enabled": True},
}
# Settings of KubeSpawner by the values under `singleuser` that give them; those without a value are not set.
SETTINGS = {
    "environment": "extraEnv",
    "extra_labels": "extraLabels",
    "fs_gid": "fsGid",
    "init_containers": "initContainers",
    "mem_guarantee": "memory.guarantee",
    "profile_list": "profileList",
    "pvc_name_template": "storage.dynamic.pvcNameTemplate",
    "start_timeout": "startTimeout",
    "storage_access_modes": "storage.dynamic.storageAccessModes",
    "storage_capacity": "storage.capacity",
    "storage_class": "storage.dynamic.storageClass",
    "uid": "uid",
}


def coalesced(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Defaults with values over them as Helm lays them: by name at every depth, and null takes a default away."""
    merged = copy.deepcopy(defaults)
    for name, value in values.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            below = merged.get(name)
            merged[name] = coalesced(below if isinstance(below, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def apply(c: Any, chosen: dict[str, Any], namespace: str) -> None:
    """Set `c` by the values; nothing of a cluster is asked."""
    values = coalesced(DEFAULTS, chosen)
    hub, user = values["hub"], values["singleuser"]
    c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
    c.ConfigurableHTTPProxy.api_url = "http://proxy-api:8001"
    c.ConfigurableHTTPProxy.should_start = False
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
    c.JupyterHub.db_url = "sqlite:///jupyterhub.sqlite"
    c.JupyterHub.hub_bind_url = "http://:8081"
    c.JupyterHub.hub_connect_url = "http://hub:8081"
    c.JupyterHub.base_url = hub["baseUrl"]
    c.JupyterHub.allow_named_servers = hub["allowNamedServers"]
    c.JupyterHub.template_paths = hub["templatePaths"]
    c.JupyterHub.template_vars = hub["templateVars"]
    _set_servers(c, user, namespace)
    _set_services_and_roles(c, hub, culls=values["cull"]["enabled"])
    c.Spawner.cmd = user["cmd"]
    if user["defaultUrl"] is not None:
        c.Spawner.default_url = user["defaultUrl"]
    for section, settings in hub["config"].items():
        c[section].update(settings)
    for _, code in sorted(hub["extraConfig"].items()):
        exec(code, {"c": c})


def _set_servers(c: Any, user: dict[str, Any], namespace: str) -> None:
    kube = c.KubeSpawner
    kube.namespace = namespace
    kube.common_labels = {
        "app": "jupyterhub",
        "app.kubernetes.io/instance": RELEASE,
        "app.kubernetes.io/managed-by": "kubespawner",
        "app.kubernetes.io/name": "jupyterhub",
        "release": RELEASE,
    }
    for trait, path in SETTINGS.items():
        value: Any = user
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            kube[trait] = value
    kube.image = f"{user['image']['name']}:{user['image']['tag']}"
    kube.allow_privilege_escalation = False
    kube.scheduler_name = "user-scheduler"
    kube.storage_pvc_ensure = True
    home = "volume-{user_server}"
    kube.volumes = {home: {"name": home, "persistentVolumeClaim": {"claimName": "{pvc_name}"}}}
    kube.volume_mounts = {home: {"mountPath": user["storage"]["homeMountPath"], "name": home, "subPath": None}}
    if user["cloudMetadata"]["blockWithIptables"]:
        rights = {"privileged": True, "runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}}
        kube.init_containers = [
            *kube.init_containers,
            {"name": "block-cloud-metadata", "image": "network-tools", "securityContext": rights},
        ]


def _set_services_and_roles(c: Any, hub: dict[str, Any], *, culls: bool) -> None:
    c.JupyterHub.services = [
        {"name": name} | service | {"api_token": f"{SERVICE_TOKEN}-{name}"} for name, service in hub["services"].items()
    ]
    c.JupyterHub.load_roles = [{"name": name} | role for name, role in hub["loadRoles"].items()]
    if culls:
        scopes = ["list:users", "read:users:activity", "read:servers", "delete:servers"]
        name = "jupyterhub-idle-culler"
        c.JupyterHub.services.append({"name": name, "command": ["python3", "-m", "jupyterhub_idle_culler"]})
        c.JupyterHub.load_roles.append({"name": name, "scopes": scopes, "services": [name]})
