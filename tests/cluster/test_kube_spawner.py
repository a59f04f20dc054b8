"""Servers as pods on a real cluster: what is charged is what the API server shows, whatever happens in between."""

from __future__ import annotations

import asyncio
import uuid
from datetime import datetime

import pytest
from aiohttp import ClientConnectionError
from hypothesis import HealthCheck, given, settings
from jupyterhub.spawner import SpawnException
from jupyterhub.utils import exponential_backoff
from kubernetes.client import ApiException
from kubespawner.objects import make_pod

from hub.spawner.kube import KubeAllocationSpawner
from hub.spawner.manifests import ALLOCATION, LEASE, PERSON, Mount, PodTerms, bind_pod, plain
from tests.cluster.conftest import GPU_TYPE
from tests.cluster.ghost import ghost_node
from tests.cluster.kube_bench import PATIENCE_SECONDS, kube_bench
from tests.cluster.namespaces import await_counted
from tests.e2e.platform import wait_for
from tests.hub.kube_leases import leases

# The first test waits for the cluster, and for its image where that is not cached.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

# Takes more memory than its lease pays for, two seconds after it has begun.
GREEDY = ["python3", "-c", "import time; time.sleep(2); x = b'x' * 2**31; time.sleep(10_000)"]


@pytest.fixture
def bench(cluster, tmp_path, hub_environment):
    with kube_bench(cluster, tmp_path) as made:
        yield made


def test_the_charge_is_what_the_api_server_shows(bench):
    async def scenario():
        async with bench.hub() as make:
            spawner = make()
            url = await spawner.start()
            assert url.endswith(":8888")
            assert await spawner.poll() is None
            # A second is lost where the end is cut off to the second, and the beginning is not.
            await asyncio.sleep(4)
            await bench.user.stop()

    asyncio.run(scenario())
    (lease,) = bench.leases()
    assert bench.witness.seconds(lease) >= 3
    bench.assert_charged_as_shown()


def test_a_pod_is_what_its_lease_says_and_has_no_more_rights(bench):
    async def scenario():
        async with bench.hub() as make:
            await make(storage_pvc_ensure=False, scratch_source={"emptyDir": {"sizeLimit": "1Gi"}}).start()
            await bench.user.stop()

    asyncio.run(scenario())
    (lease,) = bench.leases()
    pod = bench.witness.pods[lease.id]
    assert pod.metadata.annotations[PERSON] == pod.metadata.labels[PERSON] == "ada"
    assert pod.metadata.labels[ALLOCATION] == bench.allocation
    assert pod.metadata.labels[LEASE] == lease.id
    assert pod.spec.active_deadline_seconds == 3600
    assert pod.status.qos_class == "Guaranteed"
    (container,) = pod.spec.containers
    assert container.image == bench.cluster.image
    assert container.resources.limits == container.resources.requests == {"cpu": "1", "memory": "1Gi"}
    # Not even the admission that adds a service account's token to every pod has added one.
    assert [(mount.name, mount.mount_path) for mount in container.volume_mounts] == [("scratch", "/scratch")]
    assert pod.spec.security_context.fs_group == 100
    context = container.security_context
    assert (context.run_as_user, context.run_as_group, context.run_as_non_root) == (1000, 100, True)
    assert context.allow_privilege_escalation is False
    assert context.capabilities.drop == ["ALL"]
    assert context.seccomp_profile.type == "RuntimeDefault"


def test_an_image_that_does_not_exist_is_charged_nothing(bench):
    async def scenario():
        async with bench.hub() as make:
            spawner = make(image="none", start_timeout=60)
            # As KubeSpawner's own does, a start begins when it is asked for, and its progress follows it.
            start = spawner.start()
            messages = await read_progress(spawner)
            with pytest.raises(TimeoutError):
                await start
            await bench.user.stop()
            return messages

    messages = asyncio.run(scenario())
    (lease,) = bench.leases()
    assert (lease.state, lease.charged_microcredits, lease.started_at) == ("voided", 0, None)
    assert any(message.startswith("It does not start yet; nothing is charged") for message in messages)
    assert any("credits an hour" in message for message in messages)
    assert lease.id not in bench.witness.started
    bench.assert_clean()


async def read_progress(spawner):
    return [event["message"] async for event in spawner.progress()]


def test_a_start_that_is_cut_off_while_its_image_is_fetched_is_charged_nothing(bench):
    async def scenario():
        async with bench.hub() as make:
            spawner = make(image="none")
            start = asyncio.ensure_future(spawner.start())
            await exponential_backoff(lambda: bench.witness.pods, "no pod appears", timeout=PATIENCE_SECONDS)
            start.cancel()
            await asyncio.wait([start])
            assert await spawner.poll() is None
            await bench.user.stop()

    asyncio.run(scenario())
    (lease,) = bench.leases()
    assert (lease.state, lease.charged_microcredits) == ("voided", 0)
    bench.assert_clean()


def test_a_pod_deleted_behind_the_hubs_back_is_charged_until_its_container_ended(bench):
    async def scenario():
        async with bench.hub() as make:
            spawner = make()
            await spawner.start()
            await asyncio.sleep(2)
            bench.kill(spawner)
            await bench.until_gone(spawner)
            # The hub looks late: every half a minute.
            await asyncio.sleep(5)
            assert await spawner.poll() is not None
            await bench.user.stop()

    asyncio.run(scenario())
    bench.assert_charged_as_shown()


def test_a_server_killed_for_its_memory_is_charged_until_then(bench):
    async def scenario():
        async with bench.hub() as make:
            spawner = make(cmd=GREEDY)
            await spawner.start()
            await bench.until_ended(spawner)
            await bench.user.stop()

    asyncio.run(scenario())
    (lease,) = bench.leases()
    (status,) = bench.witness.pods[lease.id].status.container_statuses
    assert "OOMKilled" in {one.terminated.reason for one in (status.state, status.last_state) if one.terminated}
    bench.assert_charged_as_shown()


def test_a_hub_that_restarts_in_the_middle_goes_on_with_the_same_lease(bench):
    async def first_hub():
        async with bench.hub() as make:
            await make().start()

    async def second_hub():
        async with bench.hub() as make:
            assert await make().poll() is None
            await bench.user.stop()

    asyncio.run(first_hub())
    (lease,) = bench.leases()
    assert lease.state == "open"
    asyncio.run(second_hub())
    bench.assert_charged_as_shown()


def test_a_pod_that_ended_while_no_hub_was_there_is_not_charged_for_the_time_after(bench):
    async def first_hub():
        async with bench.hub() as make:
            spawner = make()
            await spawner.start()
            await asyncio.sleep(3)  # events tell whole seconds
            return spawner

    async def second_hub():
        async with bench.hub() as make:
            spawner = make()
            assert await spawner.poll() is not None
            await bench.user.stop()

    spawner = asyncio.run(first_hub())
    bench.kill(spawner)
    asyncio.run(bench.until_gone(spawner))
    asyncio.run(asyncio.sleep(5))
    asyncio.run(second_hub())
    (lease,) = bench.leases()
    ran = bench.witness.seconds(lease)
    assert lease.state == "settled"
    assert 2 <= lease.charged_microcredits / lease.microcredits_per_second <= ran
    bench.assert_clean()


def test_a_reflector_that_does_not_show_a_pod_ends_nothing(bench):
    async def scenario():
        async with bench.hub() as make:
            spawner = make()
            await spawner.start()
            spawner.pod_reflector.resources.clear()
            assert await spawner.poll() is None
            assert spawner.watched_pod is not None
            (lease,) = bench.leases()
            assert lease.state == "open"
            await bench.user.stop()

    asyncio.run(scenario())
    bench.assert_charged_as_shown()


class NoAnswer:
    """A client of an API server that has gone away."""

    def __getattr__(self, _name):
        return no_answer


async def no_answer(*_arguments, **_options):
    raise ClientConnectionError


def test_an_api_server_that_does_not_answer_ends_nothing(bench, monkeypatch):
    async def scenario():
        async with bench.hub() as make:
            spawner = make()
            await spawner.start()
            spawner.pod_reflector.resources.clear()
            with monkeypatch.context() as gone:
                gone.setattr(spawner, "api", NoAnswer())
                assert await spawner.poll() is None
                # As at the start of a hub, which asks for all pods first.
                await KubeAllocationSpawner._stop_all_reflectors()
                gone.setattr("hub.spawner.pods.LeasePodReflector._list_and_update", no_answer)
                assert await spawner.poll() is None
            assert await spawner.poll() is None
            assert spawner.watched_pod is not None
            await bench.user.stop()

    asyncio.run(scenario())
    bench.assert_charged_as_shown()


def test_a_stop_waits_for_an_api_server_that_is_away_for_a_while(bench, monkeypatch):
    async def scenario():
        async with bench.hub() as make:
            spawner = make()
            await spawner.start()
            with monkeypatch.context() as gone:
                gone.setattr(spawner, "api", NoAnswer())
                stop = asyncio.ensure_future(bench.user.stop())
                await asyncio.sleep(2)
                assert not stop.done()
            await stop
            await bench.until_gone(spawner)

    asyncio.run(scenario())
    bench.assert_charged_as_shown()


def test_named_servers_have_pods_and_leases_of_their_own_and_one_home(bench):
    async def scenario():
        async with bench.hub() as make:
            spawners = [make(name) for name in ("", "two")]
            await asyncio.gather(*(spawner.start() for spawner in spawners))
            await bench.user.stop("two")
            assert await spawners[0].poll() is None
            await bench.user.stop("")
            return [(spawner.pod_name, spawner.pvc_name) for spawner in spawners]

    (first, claim), (second, same_claim) = asyncio.run(scenario())
    assert first != second
    assert claim == same_claim
    both = bench.leases()
    assert sorted(lease.server_name for lease in both) == ["", "two"]
    bench.assert_charged_as_shown()


def test_an_older_pod_of_the_same_name_makes_room_and_does_not_end_the_new_lease(bench):
    async def scenario():
        async with bench.hub() as make:
            spawner = make()
            labels = {"component": "singleuser-server"}
            container = {"name": "notebook", "image": bench.cluster.image, "command": ["sleep", "10000"]}
            stale = {"metadata": {"name": spawner.pod_name, "labels": labels}, "spec": {"containers": [container]}}
            bench.cluster.core.create_namespaced_pod(spawner.namespace, stale)
            await spawner.start()
            assert await spawner.poll() is None
            await bench.user.stop()

    asyncio.run(scenario())
    bench.assert_charged_as_shown()


def test_a_profile_or_a_hook_gives_no_more_than_the_lease_and_the_person_is_told(bench):
    def greedy_hook(_spawner, pod):
        pod.spec.containers[0].resources.limits["memory"] = "64Gi"
        pod.metadata.labels["by-hook"] = "yes"
        return pod

    async def scenario():
        async with bench.hub() as make:
            profiles = [
                {
                    "display_name": "Big",
                    "kubespawner_override": {
                        "cpu_limit": 16,
                        "extra_resource_limits": {"nvidia.com/gpu": "4"},
                        "environment": {"FROM_PROFILE": "yes"},
                    },
                }
            ]
            spawner = make(profile_list=profiles, options={"profile": "big"}, modify_pod_hook=greedy_hook)
            spawner._spawn_pending = True
            progress = asyncio.create_task(read_progress(spawner))
            await spawner.start()
            # A node tells of what it does a moment later.
            await exponential_backoff(
                lambda: any(event["reason"] == "Started" for event in spawner.events),
                "no event of the start",
                timeout=PATIENCE_SECONDS,
            )
            spawner._spawn_pending = False
            messages = await progress
            await bench.user.stop()
            return messages

    messages = asyncio.run(scenario())
    (lease,) = bench.leases()
    pod = bench.witness.pods[lease.id]
    assert pod.spec.containers[0].resources.limits == {"cpu": "1", "memory": "1Gi"}
    assert pod.metadata.labels["by-hook"] == "yes"
    environment = {variable.name: variable.value for variable in pod.spec.containers[0].env}
    assert environment["FROM_PROFILE"] == "yes"
    assert environment["CPU_LIMIT"] == "1.0"
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "The configuration asks for cpu 16.0; the lease pays for 1." in messages
    assert "The configuration asks for nvidia.com/gpu 4; the lease pays for none." in messages
    assert "The configuration asks for memory 64Gi; the lease pays for 1Gi." in messages
    assert any(message.startswith("The server begins to run, and is charged from now on") for message in messages)


def test_a_profile_that_does_not_exist_holds_nothing(bench):
    async def scenario():
        async with bench.hub() as make:
            spawner = make(profile_list=[{"display_name": "Only"}], options={"profile": "other"})
            with pytest.raises(SpawnException) as refused:
                await spawner.start()
            return refused.value

    refused = asyncio.run(scenario())
    assert (refused.status_code, refused.reason) == (400, "invalid_profile")
    assert bench.leases() == []


def test_a_gpu_is_scheduled_where_one_is_advertised(bench):
    async def scenario():
        async with bench.hub() as make:
            await make(size="gpu").start()
            await bench.user.stop()

    asyncio.run(scenario())
    (lease,) = bench.leases()
    pod = bench.witness.pods[lease.id]
    assert pod.spec.node_selector == {"meridian/gpu-type": GPU_TYPE}
    assert pod.spec.containers[0].resources.limits["nvidia.com/gpu"] == "1"
    assert "NVIDIA_VISIBLE_DEVICES" not in {variable.name for variable in pod.spec.containers[0].env}
    bench.assert_charged_as_shown()


def test_a_quota_of_the_cluster_refuses_in_a_sentence_and_charges_nothing(bench):
    core, namespace = bench.cluster.core, bench.cluster.namespace
    core.create_namespaced_resource_quota(
        namespace, {"metadata": {"name": "people"}, "spec": {"hard": {"requests.cpu": "500m"}}}
    )
    try:
        # Until the cluster has counted, it refuses for want of a count.
        await_counted(core, namespace)

        async def scenario():
            async with bench.hub() as make:
                spawner = make()
                with pytest.raises(SpawnException) as refused:
                    await spawner.start()
                await bench.user.stop()
                return refused.value

        refused = asyncio.run(scenario())
    finally:
        core.delete_namespaced_resource_quota("people", namespace)
    assert (refused.status_code, refused.reason) == (403, "cluster_quota")
    assert [lease.state for lease in bench.leases()] == ["voided"]
    bench.assert_clean()


def test_a_pod_ends_at_its_leases_latest_end_when_every_service_is_dead(cluster, tmp_path, hub_environment):
    async def first_hub(bench):
        async with bench.hub() as make:
            await make().start()

    async def second_hub(bench):
        async with bench.hub() as make:
            spawner = make()
            assert await spawner.poll() is not None
            await bench.user.stop()

    longest_seconds = 60
    with kube_bench(cluster, tmp_path, longest_session_seconds=longest_seconds) as bench:
        asyncio.run(first_hub(bench))
        (lease,) = bench.leases()
        wait_for(
            "the pod's end",
            lambda: bench.witness.pods[lease.id].status.reason == "DeadlineExceeded",
            longest_seconds + PATIENCE_SECONDS,
        )
        asyncio.run(second_hub(bench))
        (lease,) = bench.leases()
        assert lease.state == "settled"
        acquired_at, latest_end_at = map(datetime.fromisoformat, (lease.acquired_at, lease.latest_end_at))
        ran = latest_end_at - max(bench.witness.started[lease.id], acquired_at)
        charged_seconds = lease.charged_microcredits // lease.microcredits_per_second
        # A node takes its time to end a container; the lease has ended then.
        assert charged_seconds == int(ran.total_seconds()) or bench.witness.shows(lease, charged_seconds)
        assert charged_seconds <= longest_seconds
        bench.assert_clean()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lease=leases())
def test_the_api_server_accepts_the_pod_of_any_lease(cluster, lease):
    mounts = (
        Mount("home", {"persistentVolumeClaim": {"claimName": "claim-ada"}}, "/home/jovyan"),
        Mount("scratch", {"emptyDir": {"sizeLimit": "1Gi"}}, "/scratch"),
    )
    pod = make_pod(name="jupyter-ada", cmd=["sh"], port=8888, image="lab:1", env={"A": "b"}, uid=1000, fs_gid=100)
    made, _ = bind_pod(pod, PodTerms(lease, mounts=mounts))
    try:
        cluster.core.create_namespaced_pod(cluster.namespace, plain(made), dry_run="All")
    except ApiException as refused:
        pytest.fail(str(refused.body))


def test_it_is_a_kubespawner_with_all_of_its_options():
    for name in ("profile_list", "modify_pod_hook", "extra_pod_config", "storage_class", "volumes", "tolerations"):
        assert name in KubeAllocationSpawner.class_traits(config=True)


def test_a_start_cut_off_by_the_hubs_death_is_charged_from_when_the_container_began(bench):
    async def first_hub():
        async with bench.hub() as make:
            start = asyncio.ensure_future(make().start())
            await exponential_backoff(lambda: bench.witness.pods, "no pod appears", timeout=PATIENCE_SECONDS)
            start.cancel()
            await asyncio.wait([start])

    async def second_hub():
        async with bench.hub() as make:
            spawner = make()
            await exponential_backoff(lambda: bench.witness.started, "no container starts", timeout=PATIENCE_SECONDS)
            await asyncio.sleep(3)
            assert await spawner.poll() is None
            await spawner._start_report
            await bench.user.stop()

    asyncio.run(first_hub())
    asyncio.run(second_hub())
    bench.assert_charged_as_shown()


def test_a_server_that_its_node_puts_out_is_charged_until_then(bench):
    async def scenario():
        async with bench.hub() as make:
            fill = ["sh", "-c", "head -c 20000000 /dev/zero > /scratch/much; sleep 10000"]
            spawner = make(cmd=fill, scratch_source={"emptyDir": {"sizeLimit": "1Mi"}})
            await spawner.start()
            await bench.until_ended(spawner)
            await bench.user.stop()

    asyncio.run(scenario())
    (lease,) = bench.leases()
    assert bench.witness.pods[lease.id].status.reason == "Evicted"
    assert lease.state == "settled"
    # A kubelet that shows no end of the container leaves its eviction, which the hub has seen within a second.
    ended_at = datetime.fromisoformat(lease.ended_at)
    assert abs((ended_at - bench.witness.evicted[lease.id]).total_seconds()) <= 2
    bench.assert_clean()


def test_a_server_on_a_node_that_is_lost_is_charged_until_the_node_was_missed(bench):
    core, name = bench.cluster.core, f"ghost-{uuid.uuid4().hex[:6]}"
    soon = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
    tolerations = [{"key": f"node.kubernetes.io/{why}", **soon} for why in ("unreachable", "not-ready")]
    tolerations += [{"key": "ghost", "operator": "Exists"}]

    async def scenario():
        async with bench.hub() as make:
            spawner = make(node_selector={"ghost": name}, tolerations=tolerations)
            start = asyncio.ensure_future(spawner.start())
            await asyncio.to_thread(node.run_pod, spawner.namespace, spawner.pod_name)
            await start
            # From here on nobody tells of the node any more.
            await bench.until_ended(spawner)
            await bench.user.stop()

    with ghost_node(core, name) as node:
        asyncio.run(scenario())
        (lease,) = bench.leases()
        pod = bench.witness.pods[lease.id]
        (missed_at,) = [one.last_transition_time for one in pod.status.conditions if one.type == "Ready"]
    assert lease.state == "settled"
    assert datetime.fromisoformat(lease.ended_at) == missed_at
    bench.assert_clean()


def test_the_start_page_has_the_allocations_and_the_profiles_and_its_form_is_read_back(bench):
    async def scenario():
        async with bench.hub() as make:
            options = {"image": {"display_name": "Stack", "choices": {"old": {"display_name": "Old"}}}}
            spawner = make(profile_list=[{"display_name": "Big", "slug": "big", "profile_options": options}])
            page = await spawner.get_options_form()
            form = {
                "choice": [f"{bench.allocation}::tiny"],
                "profile": ["big"],
                "profile-option-big--image": ["old"],
            }
            read = spawner.run_options_from_form(form)
            spawner.user_options = read
            return page, read, await spawner.choice_options()

    page, read, choice = asyncio.run(scenario())
    assert f'value="{bench.allocation}::tiny"' in page
    assert 'name="profile"' in page
    assert read == {"allocation": bench.allocation, "size": "tiny", "profile": "big", "image": "old"}
    # The profile has an option of that name, so it is not the catalogue's image.
    assert choice == {"allocation": bench.allocation, "size": "tiny"}
