"""The values that the documentation shows for a hub of zero-to-jupyterhub: our part by Helm, its part by a real hub."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import helm_python as helm
import pytest
import yaml
from jupyterhub import orm
from jupyterhub.app import JupyterHub
from kubernetes.client import ApiClient
from traitlets.config import Config

from hub.client import Resources
from hub.configuration import CUSTOM_SCOPES
from hub.spawner.kube import KubeAllocationSpawner
from hub.spawner.manifests import LEASE
from tests.chart.rendering import CHART, documents, pod_specs
from tests.chart.zero_to_jupyterhub import RELEASE, apply, coalesced
from tests.hub.kube_leases import lease
from tests.images.locks import locked

if TYPE_CHECKING:
    from pathlib import Path

    from kubernetes_asyncio.client.models import V1Pod

NAMESPACE = "jupyterhub"
NAME = "meridian"
PAGE = CHART.parent / "docs" / "zero-to-jupyterhub.md"
BLOCKS = {
    match["name"]: yaml.safe_load(match["values"])
    for match in re.finditer(r"```yaml\n# (?P<name>\S+)\n(?P<values>.*?)```", PAGE.read_text(), re.DOTALL)
}
OURS, THEIRS = BLOCKS["meridian.yaml"], BLOCKS["jupyterhub.yaml"]
# The labels of zero-to-jupyterhub's pods.
OTHER_PODS = {
    component: {"app": "jupyterhub", "component": component, "release": RELEASE} for component in ("hub", "proxy")
}


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        return documents(chart.render(OURS, name=NAME, namespace=NAMESPACE))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A JupyterHub that has read the values as that chart gives them, and stands before its start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERIDIAN_STATE", str(tmp_path))
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "p" * 64)
    monkeypatch.setenv("JUPYTERHUB_CRYPT_KEY", "0" * 64)
    for variable in THEIRS["hub"]["extraEnv"]:
        monkeypatch.setenv(variable, token(variable))

    def initialized(**changes: Any) -> JupyterHub:
        config = Config()
        apply(config, coalesced(THEIRS, changes), NAMESPACE)
        app = JupyterHub(config=config)
        asyncio.run(app.initialize([]))
        return app

    yield initialized
    JupyterHub.clear_instance()


def token(variable: str) -> str:
    return f"{variable.lower()}-{'0' * 32}"


def scopes_of(app: JupyterHub, role: str) -> set[str]:
    return set(orm.Role.find(app.db, role).scopes)


def pod_of(app: JupyterHub, monkeypatch: pytest.MonkeyPatch, **of_lease: Any) -> V1Pod:
    """The pod that a person's server gets within a lease."""
    monkeypatch.setattr("kubespawner.spawner.load_config", lambda **_: None)
    monkeypatch.setattr("kubespawner.spawner.shared_client", lambda *_: None)
    user = app.users["ada"]
    spawner = user.spawner
    assert type(spawner) is KubeAllocationSpawner
    its_lease = lease(**of_lease)
    spawner.apply_lease(its_lease)
    created: list[V1Pod] = []

    async def create(pod: V1Pod, request_timeout: float) -> bool:
        created.append(pod)
        return True

    async def make() -> None:
        pod = await spawner.get_pod_manifest()
        with monkeypatch.context() as patched:
            patched.setattr("kubespawner.KubeSpawner._make_create_pod_request", lambda _, *given: create(*given))
            await spawner._make_create_pod_request(pod, 1)

    asyncio.run(make())
    return created[0]


def test_our_chart_leaves_hub_and_proxy_to_the_other(manifests: list[dict[str, Any]]) -> None:
    workloads = {
        one["metadata"]["name"] for one in manifests if one["kind"] in {"Deployment", "StatefulSet", "DaemonSet"}
    }
    assert workloads == {f"{NAME}-{component}" for component in ("allocations", "worker", "batch")}
    components = {one["metadata"].get("labels", {}).get("app.kubernetes.io/component") for one in manifests}
    assert components.isdisjoint({"hub", "proxy"})
    urls = [
        variable["value"]
        for spec in pod_specs(manifests).values()
        for container in spec["containers"]
        for variable in container.get("env", [])
        if variable["name"] in {"JUPYTERHUB_API_URL", "MERIDIAN_HUB_API_URL"}
    ]
    assert urls == ["http://hub:8081/hub/api"] * 2


def test_what_the_other_chart_is_told_of_ours_is_there(manifests: list[dict[str, Any]]) -> None:
    secrets = {
        one["metadata"]["name"]: set(one["data"]) for one in manifests if one["kind"] == "Secret" and "data" in one
    }
    asked = [variable["valueFrom"]["secretKeyRef"] for variable in THEIRS["hub"]["extraEnv"].values()]
    of_ours = {one["key"] for one in asked if one["name"] == NAME}
    assert of_ours == {f"token-{name}" for name in ("allocations", "spawner", "batch", "worker")}
    assert of_ours <= secrets[NAME]
    url = urlsplit(THEIRS["hub"]["services"]["allocations"]["url"])
    services = {
        one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in manifests if one["kind"] == "Service"
    }
    assert services[url.hostname or ""] == url.port
    classes = {one["metadata"]["name"] for one in manifests if one["kind"] == "PriorityClass"}
    config = THEIRS["hub"]["config"]
    assert {config["KubeSpawner"]["priority_class_name"]} <= classes
    assert set(config["KubeAllocationSpawner"]["tier_priority_classes"].values()) <= classes


def test_the_two_charts_policies_let_each_other_through(manifests: list[dict[str, Any]]) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"}

    def is_peer(rules: list[dict[str, Any]], direction: str, labels: dict[str, str], port: int) -> bool:
        return any(
            peer["podSelector"].get("matchLabels", {None: None}).items() <= labels.items()
            and {"port": port} in rule["ports"]
            for rule in rules
            for peer in rule.get(direction, [])
            if "podSelector" in peer and "ports" in rule
        )

    for name, labels in OTHER_PODS.items():
        assert is_peer(policies[f"{NAME}-allocations"]["ingress"], "from", labels, 8000), name
        assert is_peer(policies[f"{NAME}-people"]["ingress"], "from", labels, 8888), name
    assert is_peer(policies[f"{NAME}-people"]["egress"], "to", OTHER_PODS["hub"], 8081)
    assert is_peer(policies[f"{NAME}-people"]["egress"], "to", OTHER_PODS["proxy"], 8000)
    let_in = {
        one["metadata"]["name"]
        for one in manifests
        if one["kind"] == "Deployment"
        and one["spec"]["template"]["metadata"]["labels"].get("hub.jupyter.org/network-access-hub") == "true"
    }
    assert let_in == {f"{NAME}-allocations", f"{NAME}-worker"}


def test_services_and_roles_are_as_a_hub_reads_them(hub: Any) -> None:
    app = hub()
    for name in ("allocations", "spawner", "batch", "worker"):
        found = orm.APIToken.find(app.db, token(f"MERIDIAN_TOKEN_{name.upper()}"))
        assert found.service.name == name
    assert app._service_map["allocations"].url == "http://meridian-allocations:8000"
    assert CUSTOM_SCOPES.keys() & scopes_of(app, "user") == {
        "custom:allocations:read",
        "custom:allocations:request",
        "custom:batch:run",
    }
    assert "access:services!service=allocations" in scopes_of(app, "user")
    assert "custom:batch:run" in scopes_of(app, "server")
    assert {group.name for group in orm.Role.find(app.db, "reviewer").groups} == {"reviewers"}
    assert scopes_of(app, "reviewer") == {"custom:allocations:review"}
    administrators = orm.Role.find(app.db, "allocations-admin")
    assert {group.name for group in administrators.groups} == {"operators"}
    assert {user.name for user in administrators.users} == {"ada"}
    assert {service.name for service in orm.Role.find(app.db, "lease-holder").services} == {"spawner", "batch"}
    assert app.authenticator_class.__name__ == "GenericOAuthenticator"
    assert app.authenticator.client_secret == token("OAUTH_CLIENT_SECRET")


def test_nobody_is_the_hubs_own_administrator_but_whom_the_installer_chose(hub: Any) -> None:
    app = hub()
    assert not orm.Role.find(app.db, "admin").users
    JupyterHub.clear_instance()
    app = hub(hub={"config": {"Authenticator": {"admin_users": ["root"]}}})
    assert {user.name for user in orm.Role.find(app.db, "admin").users} == {"root"}
    assert {user.name for user in orm.Role.find(app.db, "allocations-admin").users} == {"ada", "root"}


def test_what_the_hub_had_stays(hub: Any) -> None:
    mine = {"url": "http://reports:9000"}
    role = {"scopes": ["read:users"], "services": ["reports"]}
    app = hub(
        hub={"services": {"reports": mine}, "loadRoles": {"reporting": role}, "templatePaths": ["/etc/pages"]},
        cull={"enabled": True},
    )
    assert {"reports", "jupyterhub-idle-culler", "allocations"} <= set(app._service_map)
    assert {service.name for service in orm.Role.find(app.db, "reporting").services} == {"reports"}
    assert scopes_of(app, "jupyterhub-idle-culler") >= {"delete:servers"}
    assert app.template_paths[0] == "/etc/pages"
    assert app.tornado_settings["slow_spawn_timeout"] == 0
    assert "Content-Security-Policy" in app.tornado_settings["headers"]


def test_a_server_has_what_that_chart_gives_and_what_its_lease_pays_for(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = pod_of(hub(), monkeypatch)
    labels, spec = pod.metadata.labels, pod.spec
    assert labels["app"] == "jupyterhub"
    assert labels["release"] == RELEASE
    assert labels["component"] == "singleuser-server"
    assert labels["hub.jupyter.org/network-access-hub"] == "true"
    assert labels[LEASE] == "lease-1"
    (container,) = spec.containers
    assert container.image == "registry.example.org/meridian-lab:0.1.0"
    assert container.resources.limits == container.resources.requests == {"cpu": "2", "memory": "8Gi"}
    environment = {one.name: one.value for one in container.env}
    assert environment["MERIDIAN_URL"] == "http://proxy-public"
    assert spec.scheduler_name == "user-scheduler"
    assert spec.priority_class_name == "meridian-jupyterhub-entry"
    assert spec.automount_service_account_token is False
    assert not spec.init_containers
    # The home is mounted once, as that chart does it, and scratch as ours does.
    volumes = [ApiClient().sanitize_for_serialization(volume) for volume in spec.volumes]
    assert [volume for volume in volumes if "persistentVolumeClaim" in volume] == [
        {"name": "volume-ada", "persistentVolumeClaim": {"claimName": "claim-ada"}}
    ]
    assert sorted(mount.mount_path for mount in container.volume_mounts) == ["/home/jovyan", "/scratch"]


def test_a_gpu_goes_to_the_nodes_that_the_values_name(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = pod_of(hub(), monkeypatch, resources=Resources(cores=2, memory_gib=8, gpus=1, gpu_type="t4"))
    assert pod.spec.node_selector == {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hub": {"services": {"allocations": None}}}, "hub.services.allocations.url has to say"),
        ({"hub": {"baseUrl": "/science/"}}, "hub.baseUrl has to be /"),
        ({"singleuser": {"cloudMetadata": {"blockWithIptables": True}}}, "blockWithIptables has to be false"),
    ],
)
def test_what_cannot_work_ends_the_hub_with_one_sentence(hub: Any, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SystemExit, match=sentence):
        hub(**changes)


def test_a_token_that_is_not_there_ends_the_hub_with_one_sentence(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MERIDIAN_TOKEN_BATCH")
    with pytest.raises(SystemExit, match="MERIDIAN_TOKEN_BATCH is not set"):
        hub()


def test_the_hubs_image_has_what_that_charts_configuration_loads() -> None:
    """Its configuration asks tornado for curl, reads YAML and talks to the API server, before ours begins."""
    assert {"jupyterhub-idle-culler", "kubernetes-asyncio", "pycurl", "pyyaml"} <= {name for name, _ in locked("hub")}
