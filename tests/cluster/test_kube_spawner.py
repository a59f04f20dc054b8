"""Servers as pods on a real cluster: what is charged is what the API server shows, whatever happens in between."""

from __future__ import annotations

import asyncio

import pytest

from tests.cluster.kube_bench import kube_bench

# The first test waits for the cluster, and for its image where that is not cached.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]


@pytest.fixture
def bench(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "x")
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:1/hub/api")
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-allocations")
    monkeypatch.setenv("JUPYTERHUB_OAUTH_CALLBACK_URL", "/services/allocations/oauth_callback")
    with kube_bench(cluster, tmp_path) as made:
        yield made


def test_the_charge_is_what_the_api_server_shows(bench):
    async def scenario():
        async with bench.hub() as make:
            spawner = make()
            url = await spawner.start()
            assert url.endswith(":8888")
            assert await spawner.poll() is None
            await asyncio.sleep(3)
            await bench.user.stop()

    asyncio.run(scenario())
    (lease,) = bench.leases()
    assert bench.witness.seconds(lease.id) >= 3
    bench.assert_charged(bench.witness.seconds(lease.id))
