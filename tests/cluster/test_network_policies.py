"""The chart's NetworkPolicies on a network that enforces them: each road that is needed is open, and no other."""

from __future__ import annotations

import json
import socketserver
import subprocess
import threading
import time
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import helm_python as helm
import pytest
from kubernetes import client

from hub.spawner.manifests import LEASE
from tests.chart.rendering import CHART, FULL_NAME, NAME, TRIAL, documents
from tests.cluster.namespaces import make_namespace
from tests.e2e.platform import wait_for
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

VALUES = {
    **TRIAL,
    "serviceMonitor": {"enabled": True, "from": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]},
}
# The cloud's, which says secrets to who asks, and one of those kept for documentation, as an address of the internet.
# The machine has both for the time of the tests, for pods' packets pass it on their way out.
METADATA = "169.254.169.254"
INTERNET = "203.0.113.10"
READY_SECONDS = 300
# A refused packet gets no answer: it takes the whole time to see that a road is closed.
CONNECT_SECONDS = 3
# The network takes a moment to know of new pods.
SETTLE_SECONDS = 90
SPARE = 9999
LISTEN = """
import asyncio, sys
class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        self.transport.sendto(data, address)
async def main():
    for port in sys.argv[1:]:
        await asyncio.start_server(lambda reader, writer: writer.close(), "0.0.0.0", int(port))
        await asyncio.get_running_loop().create_datagram_endpoint(Echo, ("0.0.0.0", int(port)))
    await asyncio.Event().wait()
asyncio.run(main())
"""
CONNECT = """
import concurrent.futures, json, socket, sys
roads, seconds = json.loads(sys.argv[1]), float(sys.argv[2])
def is_open(road):
    kind = socket.SOCK_DGRAM if road["protocol"] == "UDP" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as ours:
        ours.settimeout(seconds)
        try:
            ours.connect((road["address"], road["port"]))
            if kind == socket.SOCK_DGRAM:
                ours.send(b"?")
                ours.recv(1)
        except OSError:
            return False
    return True
with concurrent.futures.ThreadPoolExecutor(len(roads)) as pool:
    print(json.dumps(list(pool.map(is_open, roads.values()))))
"""

# Pods by name: the component of the chart whose labels they have, and the ports at which they answer.
COMPONENTS = {
    "hub": (8081, SPARE),
    "proxy": (8000, 8001, 8002, SPARE),
    "allocations": (8000, 9470, SPARE),
    "worker": (9472, SPARE),
    "batch": (9471, SPARE),
    "postgresql": (5432, SPARE),
    "migrations": (SPARE,),
    "test": (SPARE,),
}
OTHERS = {"server": (8888, SPARE), "server-of-bob": (8888, SPARE), "stranger": (SPARE,), "prometheus": (SPARE,)}
FAR = {"far": (SPARE,), "impostor": (SPARE,), "dns": (53, SPARE)}

HUB = {"hub:8081", "service hub"}
ALLOCATIONS = {"allocations:8000", "service allocations"}
DATABASE = {"postgresql:5432", "service postgresql"}
SERVERS = {"server:8888", "server-of-bob:8888"}
DOOR = {"proxy:8000", "service proxy-public"}
NAMES = {"dns:53", "dns:53/UDP"}
UNGUARDED = {f"{pod}:{SPARE}" for pod in ("migrations", "test", "stranger", "prometheus", "far", "impostor", "dns")}
OUTSIDE = {"API service", "API server", "metadata", "node", "internet"}
# What a pod reaches to which no policy applies, nor opens anything.
FREE = DOOR | NAMES | UNGUARDED | OUTSIDE
REACHED = {
    "hub": FREE | ALLOCATIONS | SERVERS | {"proxy:8001", "service proxy-api"},
    "proxy": FREE | HUB | ALLOCATIONS | SERVERS,
    "allocations": FREE | HUB | DATABASE,
    "worker": FREE | HUB | DATABASE,
    "batch": FREE | ALLOCATIONS,
    "migrations": FREE | DATABASE,
    "test": FREE,
    "prometheus": FREE | {"hub:8081", "service hub", "proxy:8002", "allocations:9470", "worker:9472", "batch:9471"},
    "postgresql": set(),
    "server": HUB | DOOR | NAMES | {"internet"},
    "stranger": FREE,
    "impostor": FREE,
}


@dataclass(frozen=True)
class Neighbourhood:
    """Pods with the labels of the platform's, under the chart's policies, and the roads to what they may want."""

    namespaces: dict[str, str]
    roads: dict[str, dict[str, object]]

    def reached_from(self, pod: str, roads: set[str]) -> set[str]:
        """The roads that are open to a pod."""
        wanted = {name: self.roads[name] for name in sorted(roads)}
        command = ["python3", "-c", CONNECT, json.dumps(wanted), str(CONNECT_SECONDS)]
        answer = subprocess.run(
            ["kubectl", "exec", "-n", self.namespaces[pod], pod, "--", *command],
            check=True,
            stdout=subprocess.PIPE,
            timeout=120,
        ).stdout
        return {name for name, is_open in zip(wanted, json.loads(answer), strict=True) if is_open}


class Listener(socketserver.ThreadingTCPServer):
    """Takes connections and says nothing."""

    allow_reuse_address = True


@contextmanager
def listening(address: str, port: int) -> Iterator[None]:
    """Answer at an address of this machine, which gets it for that time."""
    with ExitStack() as stack:
        if address:
            subprocess.run(["ip", "address", "replace", f"{address}/32", "dev", "lo"], check=True)
            stack.callback(subprocess.run, ["ip", "address", "delete", f"{address}/32", "dev", "lo"], check=True)
        server = stack.enter_context(Listener((address, port), socketserver.BaseRequestHandler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        yield


def pod(name: str, labels: dict[str, str], ports: tuple[int, ...], image: str) -> dict[str, Any]:
    """A pod that listens. That it becomes ready shows that the node's probes reach it."""
    container = {
        "name": "main",
        "image": image,
        "command": ["python3", "-c", LISTEN, *map(str, ports)],
        "readinessProbe": {"tcpSocket": {"port": ports[-1]}, "periodSeconds": 1},
        "ports": [
            {"containerPort": number, "name": port_name} for number, port_name in _port_names(name) if number in ports
        ],
        "securityContext": {"runAsUser": 0},
    }
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "containers": [container],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
        },
    }


def _port_names(component: str) -> list[tuple[int, str]]:
    """The names by which the chart's Services know the ports of a component."""
    first = {"proxy": [(8001, "api")], "postgresql": [(5432, "postgresql")]}.get(component, [])
    return [*first, (8000, "http"), (8081, "http")]


def labels_of_components(manifests: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The labels that the chart gives to the pods of each component."""
    all_labels = [one["metadata"]["labels"] for one in manifests if one["kind"] == "Pod"]
    all_labels += [
        one["spec"]["template"]["metadata"]["labels"] for one in manifests if "template" in one.get("spec", {})
    ]
    return {labels["app.kubernetes.io/component"]: labels for labels in all_labels}


@pytest.fixture(scope="module")
def neighbourhood(cluster: Cluster) -> Iterator[Neighbourhood]:
    core, suffix, node_port = cluster.core, uuid.uuid4().hex[:8], free_port()
    near, far = (f"meridian-{name}-{suffix}" for name in ("near", "far"))
    with helm.Chart.load(CHART) as chart:
        manifests = documents(chart.render(VALUES, name=NAME, namespace=near))
    labels = labels_of_components(manifests)
    people = {LEASE: "1", "app.kubernetes.io/instance": NAME}
    own = {name: labels[name] for name in COMPONENTS}
    own |= {"server": people, "server-of-bob": people, "stranger": {"app": "x"}, "prometheus": {"app": "prometheus"}}
    others = {"far": {"app": "x"}, "impostor": labels["hub"], "dns": {"k8s-app": "kube-dns"}}
    with ExitStack() as stack:
        for address, port in ((METADATA, 80), (INTERNET, 80), ("", node_port)):
            stack.enter_context(listening(address, port))
        for namespace in (near, far):
            make_namespace(core, namespace)
            stack.callback(core.delete_namespace, namespace, grace_period_seconds=0)
        for one in manifests:
            if one["kind"] == "NetworkPolicy":
                client.NetworkingV1Api().create_namespaced_network_policy(near, one)
            if one["kind"] == "Service":
                core.create_namespaced_service(near, one)
        for namespace, pods in ((near, own), (far, others)):
            for name, its_labels in pods.items():
                ports = (COMPONENTS | OTHERS | FAR)[name]
                core.create_namespaced_pod(namespace, pod(name, its_labels, ports, cluster.image))
        namespaces = dict.fromkeys(own, near) | dict.fromkeys(others, far)
        addresses = {name: until_ready(core, name, namespace) for name, namespace in namespaces.items()}
        roads = {
            f"{name}:{port}": road(addresses[name], port)
            for name, ports in (COMPONENTS | OTHERS | FAR).items()
            for port in ports
        }
        for service in core.list_namespaced_service(near).items:
            name = service.metadata.name.removeprefix(f"{FULL_NAME}-")
            # Without an address of its own it is the pods' addresses.
            if service.spec.cluster_ip != "None":
                roads[f"service {name}"] = road(service.spec.cluster_ip, service.spec.ports[0].port)
        api = core.read_namespaced_service("kubernetes", "default").spec
        (subset,) = core.read_namespaced_endpoints("kubernetes", "default").subsets
        roads |= {
            "dns:53/UDP": road(addresses["dns"], 53, "UDP"),
            "hub by its name": road(f"{FULL_NAME}-hub.{near}.svc", 8081),
            "API service": road(api.cluster_ip, api.ports[0].port),
            "API server": road(subset.addresses[0].ip, subset.ports[0].port),
            "metadata": road(METADATA, 80),
            "internet": road(INTERNET, 80),
            "node": road(cluster.host, node_port),
        }
        yield Neighbourhood(namespaces, roads)


def road(address: str, port: int, protocol: str = "TCP") -> dict[str, object]:
    return {"address": address, "port": port, "protocol": protocol}


def until_ready(core: client.CoreV1Api, name: str, namespace: str) -> str:
    """Wait for a pod and return its address."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        status = core.read_namespaced_pod_status(name, namespace).status
        if any(one.type == "Ready" and one.status == "True" for one in status.conditions or []):
            address: str = status.pod_ip
            return address
        assert time.monotonic() < deadline, f"{name} is not ready: {status}"
        time.sleep(0.5)


@pytest.mark.parametrize("source", REACHED)
def test_a_pod_reaches_what_it_needs_and_nothing_else(neighbourhood: Neighbourhood, source: str) -> None:
    # Nobody can be closed to himself.
    own = (f"{source}:", f"service {source}", "hub by its name")
    others = {name for name in neighbourhood.roads if not name.startswith(own)}
    expected = REACHED[source] & others
    deadline = time.monotonic() + SETTLE_SECONDS
    while (reached := neighbourhood.reached_from(source, others)) != expected and time.monotonic() < deadline:
        time.sleep(1)
    assert sorted(reached - expected) == []
    assert sorted(expected - reached) == []


def test_a_server_finds_the_hub_by_its_name(neighbourhood: Neighbourhood) -> None:
    wait_for("the name", lambda: neighbourhood.reached_from("server", {"hub by its name"}), SETTLE_SECONDS)


def test_every_road_leads_somewhere(neighbourhood: Neighbourhood) -> None:
    """A road that nobody answers would look closed: a closed one has to be open to another, or have a listener."""
    open_to_some = set().union(*REACHED.values())
    silent = set(neighbourhood.roads) - open_to_some - {"hub by its name"}
    assert {name.partition(":")[2] for name in silent} == {str(SPARE)}
