"""Pods without a lease and leases without a pod on a real cluster: stopped and settled, as the API server shows."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiohttp import ClientConnectionError
from jupyterhub import orm
from jupyterhub.utils import exponential_backoff

from hub.client import AllocationsUnavailableError
from hub.spawner.manifests import HUB, LEASE
from tests.cluster.kube_bench import PATIENCE_SECONDS, kube_bench
from tests.cluster.test_kube_spawner import no_answer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

# Others may use the cluster at the same time, and a server waits for room.


@pytest.fixture
def bench(cluster, tmp_path, hub_environment):
    with kube_bench(cluster, tmp_path) as made:
        yield made


def start(bench, name=""):
    """Start a server in a hub that is then killed."""

    async def hub():
        async with bench.hub() as make:
            await make(name, start_timeout=PATIENCE_SECONDS).start()

    asyncio.run(hub())


def forget(bench):
    """Take every server from the hub's database."""
    bench.user.db.query(orm.Spawner).delete()
    bench.user.db.commit()
    bench.user.db.expire_all()


def pods(bench):
    found = bench.cluster.core.list_namespaced_pod(bench.cluster.namespace).items
    return {pod.metadata.name for pod in found if pod.metadata.deletion_timestamp is None}


async def looks(reconciler, number):
    """Look so often, as far apart as makes a finding due."""
    for _ in range(number):
        await reconciler.look(time.monotonic())
        await asyncio.sleep(0.6)


def reconcile(bench, number=2):
    async def hub():
        async with bench.reconciler() as reconciler:
            await looks(reconciler, number)

    asyncio.run(hub())


def reconcile_all(bench):
    """Look twice, and again while an end that has to be waited for is not shown yet."""

    async def hub():
        async with bench.reconciler() as reconciler:
            await looks(reconciler, 2)

            async def done():
                if not pods(bench) and all(lease.state != "open" for lease in bench.leases()):
                    return True
                await reconciler.look(time.monotonic())
                return False

            await exponential_backoff(done, "something is left", timeout=PATIENCE_SECONDS, start_wait=0.6, max_wait=0.6)

    asyncio.run(hub())


@pytest.mark.parametrize("name", ["", "second"])
def test_a_hub_that_has_lost_its_database_stops_its_servers_and_charges_them_to_their_ends(bench, name):
    start(bench, name)
    forget(bench)
    reconcile(bench, 1)
    assert len(pods(bench)) == 1
    reconcile_all(bench)
    assert pods(bench) == set()
    bench.assert_charged_as_shown()


def test_servers_that_the_hub_knows_are_left_alone(bench):
    start(bench)
    reconcile(bench, 3)
    (lease,) = bench.leases()
    assert lease.state == "open"
    assert len(pods(bench)) == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_pod_whose_lease_has_ended_is_stopped_whether_or_not_the_hub_knows_it(bench, known):
    start(bench)
    (lease,) = bench.leases()
    ended = bench.services.leases.settle(lease.id)
    if not known:
        forget(bench)
    reconcile_all(bench)
    assert pods(bench) == set()
    assert bench.leases() == [ended]
    bench.assert_clean()


def test_pods_of_another_hub_and_pods_without_a_lease_of_ours_are_left_alone(bench):
    start(bench)
    (lease,) = bench.leases()
    forget(bench)
    bench.services.leases.settle(lease.id)
    core, namespace = bench.cluster.core, bench.cluster.namespace
    (pod,) = core.list_namespaced_pod(namespace).items
    core.patch_namespaced_pod(pod.metadata.name, namespace, {"metadata": {"labels": {HUB: "another"}}})
    reconcile(bench, 3)
    assert len(pods(bench)) == 1
    unleased = {"labels": {HUB: pod.metadata.labels[HUB]}, "annotations": {LEASE: None}}
    core.patch_namespaced_pod(pod.metadata.name, namespace, {"metadata": unleased})
    reconcile(bench, 3)
    assert len(pods(bench)) == 1


def test_a_lease_whose_pod_was_deleted_while_no_hub_was_there_is_settled_by_the_events(bench):
    async def first_hub():
        async with bench.hub() as make:
            spawner = make(start_timeout=PATIENCE_SECONDS)
            await spawner.start()
            await asyncio.sleep(3)  # events tell whole seconds
            return spawner

    spawner = asyncio.run(first_hub())
    bench.kill(spawner)
    asyncio.run(bench.until_gone(spawner))
    forget(bench)
    time.sleep(3)
    reconcile_all(bench)
    (lease,) = bench.leases()
    assert lease.state == "settled"
    assert 2 <= lease.charged_microcredits / lease.microcredits_per_second <= bench.witness.seconds(lease)
    bench.assert_clean()


def test_a_start_that_nobody_reported_is_found_in_the_events_of_a_pod_that_is_gone(bench, monkeypatch):
    async def first_hub():
        async with bench.hub() as make:
            starting = asyncio.ensure_future(make(start_timeout=PATIENCE_SECONDS).start())
            await exponential_backoff(lambda: bench.witness.pods, "no pod appears", timeout=PATIENCE_SECONDS)
            starting.cancel()
            await asyncio.wait([starting])
            await exponential_backoff(lambda: bench.witness.started, "no start", timeout=PATIENCE_SECONDS)
            return bench.user.spawners[""]

    with monkeypatch.context() as away:
        # A pod can run before the start is given up.
        away.setattr("hub.client.AllocationsClient.report_start", no_answer_of_the_service)
        spawner = asyncio.run(first_hub())
    (lease,) = bench.leases()
    assert lease.started_at is None
    time.sleep(3)
    bench.kill(spawner)
    asyncio.run(bench.until_gone(spawner))
    forget(bench)
    reconcile_all(bench)
    (lease,) = bench.leases()
    ran = bench.witness.seconds(lease)
    assert lease.state == "settled"
    assert 2 <= lease.charged_microcredits / lease.microcredits_per_second <= ran
    bench.assert_clean()


def test_a_pod_that_has_not_run_and_is_lost_costs_nothing(bench):
    async def first_hub():
        async with bench.hub() as make:
            starting = asyncio.ensure_future(make(image="none").start())
            await exponential_backoff(lambda: bench.witness.pods, "no pod appears", timeout=PATIENCE_SECONDS)
            starting.cancel()
            await asyncio.wait([starting])

    asyncio.run(first_hub())
    forget(bench)

    async def second_hub():
        async with bench.reconciler() as reconciler:

            async def settled():
                await reconciler.look(time.monotonic())
                return bench.leases()[0].state != "open"

            await exponential_backoff(
                settled, "the lease stays open", timeout=PATIENCE_SECONDS, start_wait=0.6, max_wait=0.6
            )

    asyncio.run(second_hub())
    assert pods(bench) == set()
    (lease,) = bench.leases()
    assert (lease.state, lease.charged_microcredits) == ("voided", 0)
    bench.assert_clean()


def test_nothing_is_done_during_a_start(bench):
    async def hub():
        async with bench.hub() as make, bench.reconciler() as reconciler:
            starting = asyncio.ensure_future(make(start_timeout=PATIENCE_SECONDS).start())
            while not starting.done():
                await reconciler.look(time.monotonic())
                await asyncio.sleep(0.6)
            await starting
            await looks(reconciler, 2)
            assert bench.leases()[0].state == "open"
            await bench.user.stop()

    asyncio.run(hub())
    bench.assert_charged_as_shown()


def test_nothing_is_done_when_the_service_or_the_api_server_does_not_answer(bench, monkeypatch):
    start(bench)
    forget(bench)

    async def hub():
        async with bench.reconciler() as reconciler:
            await looks(reconciler, 1)
            with monkeypatch.context() as away:
                away.setattr(reconciler._service, "open_leases", no_answer_of_the_service)
                with pytest.raises(AllocationsUnavailableError):
                    await reconciler.look(time.monotonic())
            with monkeypatch.context() as away:
                away.setattr("hub.spawner.kube.KubeAllocationSpawner.read_pods", no_answer)
                with pytest.raises(ClientConnectionError):
                    await reconciler.look(time.monotonic())
            assert len(pods(bench)) == 1
            assert bench.leases()[0].state == "open"

    asyncio.run(hub())
    reconcile_all(bench)
    assert pods(bench) == set()
    bench.assert_charged_as_shown()


async def no_answer_of_the_service(*_arguments):
    raise AllocationsUnavailableError("away", maybe_applied=False)
