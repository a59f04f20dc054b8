"""A hub like many that exist, with our spawner: what an operator adds to their configuration."""

import os

from hub.spawner.kube import KubeAllocationSpawner
from hub.spawner.mixin import replay_pending_settles
from hub.spawner.reconcile import begin_reconciling

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - traitlets puts it into this file's namespace

host = os.environ["TEST_HOST"]
c.JupyterHub.bind_url = os.environ["TEST_PUBLIC_URL"]
c.JupyterHub.hub_bind_url = f"http://{host}:{os.environ['TEST_HUB_PORT']}"
c.JupyterHub.hub_connect_ip = host
c.JupyterHub.db_url = f"sqlite:///{os.environ['TEST_STATE']}/hub.sqlite"
c.JupyterHub.cookie_secret_file = f"{os.environ['TEST_STATE']}/cookie-secret"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
# The proxy is a process of its own, and servers outlive the hub.
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = os.environ["TEST_PROXY_API_URL"]
c.JupyterHub.cleanup_proxy = c.JupyterHub.cleanup_servers = False

c.JupyterHub.spawner_class = KubeAllocationSpawner
c.KubeSpawner.namespace = os.environ["TEST_NAMESPACE"]
c.Spawner.start_timeout = c.Spawner.http_timeout = 120
c.Spawner.poll_interval = 2
c.KubeAllocationSpawner.reconcile_seconds = 2
c.AllocationSpawnerMixin.allocations_url = os.environ["TEST_ALLOCATIONS_URL"]
c.AllocationSpawnerMixin.pending_settles_dir = f"{os.environ['TEST_STATE']}/pending-settles"

c.JupyterHub.custom_scopes = {"custom:allocations:lease": {"description": "Acquire, start and settle leases"}}
c.JupyterHub.services = [
    {"name": "spawner", "api_token": os.environ["MERIDIAN_TOKEN_SPAWNER"]},
    {"name": "allocations", "api_token": os.environ["TEST_TOKEN_ALLOCATIONS"]},
    {"name": "operator", "api_token": os.environ["TEST_TOKEN_OPERATOR"]},
]
c.JupyterHub.load_roles = [
    {"name": "lease-holder", "scopes": ["custom:allocations:lease"], "services": ["spawner"]},
    {"name": "operator", "scopes": ["admin:users", "admin:servers", "access:servers"], "services": ["operator"]},
]
replay_pending_settles(c.AllocationSpawnerMixin.allocations_url, c.AllocationSpawnerMixin.pending_settles_dir)
begin_reconciling()
