"""A hub whose servers are pods: within leases by our spawner, or KubeSpawner's own; all else is the same."""

import json
import os
from time import perf_counter

from kubespawner import KubeSpawner
from prometheus_client import Summary

from hub.spawner.kube import KubeAllocationSpawner
from hub.spawner.mixin import replay_pending_settles
from hub.spawner.reconcile import Reconciler, begin_reconciling

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - traitlets puts it into this file's namespace

terms = json.loads(os.environ["BENCH_HUB"])
c.JupyterHub.bind_url = terms["public_url"]
c.JupyterHub.hub_bind_url = terms["hub_url"]
c.JupyterHub.hub_connect_ip = terms["host"]
c.JupyterHub.db_url = f"sqlite:///{terms['state']}/hub.sqlite"
c.JupyterHub.cookie_secret_file = f"{terms['state']}/cookie-secret"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = terms["proxy_api_url"]
# A hub that is stopped has nothing to wait for: its namespace is deleted with all that is in it.
c.JupyterHub.cleanup_servers = False
# Each request is answered when what it asks for is done, however long that takes: so nobody has to look.
c.JupyterHub.tornado_settings = dict.fromkeys(("slow_spawn_timeout", "slow_stop_timeout"), terms["start_seconds"])

c.KubeSpawner.namespace = terms["namespace"]
c.KubeSpawner.image = terms["image"]
c.KubeSpawner.cpu_limit = c.KubeSpawner.cpu_guarantee = terms["cores"]
c.KubeSpawner.mem_limit = c.KubeSpawner.mem_guarantee = f"{terms['memory_gib']}G"
c.KubeSpawner.port = terms["port"]
c.KubeSpawner.node_selector = terms["node_selector"]
c.KubeSpawner.tolerations = terms["tolerations"]
c.Spawner.start_timeout = c.Spawner.http_timeout = terms["start_seconds"]

services = {"bench": ["admin:users", "admin:servers", "read:metrics"], "allocations": [], "spawner": []}
c.JupyterHub.services = [{"name": name, "api_token": terms["tokens"][name]} for name in services]
c.JupyterHub.load_roles = [
    {"name": f"of-{name}", "scopes": scopes, "services": [name]} for name, scopes in services.items() if scopes
]
if terms["ours"]:
    c.JupyterHub.spawner_class = KubeAllocationSpawner
    c.AllocationSpawnerMixin.allocations_url = terms["allocations_url"]
    c.AllocationSpawnerMixin.pending_settles_dir = f"{terms['state']}/pending-settles"
    c.JupyterHub.custom_scopes = {"custom:allocations:lease": {"description": "Acquire, start and settle leases"}}
    c.JupyterHub.load_roles.append(
        {"name": "lease-holder", "scopes": ["custom:allocations:lease"], "services": ["spawner"]}
    )
    c.KubeAllocationSpawner.reconcile_seconds = terms["reconcile_seconds"]
    looks = Summary("bench_reconcile_look_seconds", "How long a comparison of pods with leases took")
    look = Reconciler.look

    async def timed_look(reconciler: Reconciler, now_seconds: float) -> None:
        begin = perf_counter()
        await look(reconciler, now_seconds)
        looks.observe(perf_counter() - begin)

    Reconciler.look = timed_look  # type: ignore[assignment,method-assign]
    begin_reconciling()
    replay_pending_settles(c.AllocationSpawnerMixin.allocations_url, c.AllocationSpawnerMixin.pending_settles_dir)
else:
    c.JupyterHub.spawner_class = KubeSpawner
