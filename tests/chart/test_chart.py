"""The chart as Helm renders it: what its values refuse, and what no installation may have."""

from __future__ import annotations

import base64
import copy
import json
import re
import tomllib
from typing import Any

import helm_python as helm
import pytest
import yaml

from allocations.storage.models import StorageClass
from allocations.storage.settings import StorageSettings
from hub.auth.openid import OpenIDConnectAuthenticator
from hub.batch.jobs import JobSettings
from tests.chart.rendering import (
    CHART,
    EVERYTHING,
    EXTERNAL,
    FULL_NAME,
    NAMESPACE,
    STORAGE,
    TRIAL,
    only,
    pod_specs,
    render,
)

INSTALLATIONS = {"external": EXTERNAL, "trial": TRIAL, "everything": EVERYTHING, "storage": STORAGE}
SECRETS = ("dbpassword", "oidcsecret", "smtppassword")
# What each of our processes may do with the API server; whoever is not here has no token.
RIGHTS = {
    "hub": {
        **{
            ("", kind): {"get", "list", "watch", "create", "delete"}
            for kind in ("pods", "persistentvolumeclaims", "services")
        },
        ("", "events"): {"get", "list", "watch"},
    },
    "batch": {
        ("batch", "jobs"): {"get", "list", "watch", "create", "patch", "delete"},
        ("", "pods"): {"get", "list", "watch", "patch", "delete"},
        ("", "persistentvolumeclaims"): {"get", "create"},
    },
}

# The one process that is root, and what it may do as such.
OVER_FILES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "LEASE"]


@pytest.fixture(params=INSTALLATIONS)
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return render(INSTALLATIONS[request.param])


def with_value(path: str, value: object) -> dict[str, Any]:
    """The values of an external installation with one more, by its dotted path."""
    values = copy.deepcopy(EXTERNAL)
    inner = values
    *parents, last = path.split(".")
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return values


@pytest.mark.parametrize("values", INSTALLATIONS.values(), ids=INSTALLATIONS)
@pytest.mark.parametrize("version", ["v1.20.2", "v1.27.0", "v1.35.0"])
def test_helm_finds_nothing_to_complain_of(values: dict[str, Any], version: str) -> None:
    report = helm.lint(CHART, values, strict=True, kube_version=version)
    assert [one["error"] for one in report["messages"] if one["severity"] > 1] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hubs", {}),
        ("hub.confg", {}),
        ("singleuser.images", {"base": {"tag": "1"}}),
        ("singleuser.images.base", {"name": "x", "prepull": True}),
        ("hub.image.name", ""),
        ("hub.image", {"name": "x", "tga": "1"}),
        ("hub.db.type", "postgress"),
        ("hub.extraEnv", {"TOKEN": {"secretKeyRef": {}}}),
        ("allocations.replicas", -1),
        ("allocations.runStore.accessModes", ["ReadWriteSome"]),
        ("singleuser.storage.capacity", "10 GB"),
        ("singleuser.storage.dynamic.storageClas", "fast"),
        ("proxy.service.type", "Loadbalancer"),
        ("proxy.service.port", 70000),
        ("scheduling.podPriority.tiers", {"entry": "high"}),
        ("cull.timeout", {"entry": 5}),
        ("resourceQuota.people", {"pods": "many"}),
        ("ingress.hosts", [{"host": "science.example"}]),
        ("httpRoute.parentRefs", "gateway"),
        ("storage.classes", {"homes": {}}),
        ("storage.classes", {"home": {"claim": "homes"}}),
        ("storage.classes", {"object": {"prefix": "areas"}}),
        ("storage.archive.url", "archives"),
        ("storage.archive.url", "s3://key:secret@bucket"),
        ("storage.intervalsSeconds", {"measure": 0}),
    ],
)
def test_a_mistake_in_the_values_is_named(path: str, value: object) -> None:
    with pytest.raises(helm.HelmValuesError) as refused:
        render(with_value(path, value))
    assert path.split(".", maxsplit=1)[0] in str(refused.value)


def test_every_value_is_in_the_schema_and_explained_by_its_default() -> None:
    schema, values = (
        json.loads((CHART / "values.schema.json").read_text()),
        yaml.safe_load((CHART / "values.yaml").read_text()),
    )
    assert set(schema["properties"]) - {"global"} == set(values)
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"hub": TRIAL["hub"]}, "externalDatabase.url or externalDatabase.existingSecret"),
        ({"postgresql": {"enabled": True}}, "hub.config.JupyterHub.authenticator_class"),
        (with_value("httpRoute.enabled", value=True), "httpRoute.parentRefs has to name the gateway"),
        (with_value("hub.db.type", "other"), "hub.db.url has to name"),
        (with_value("scheduling.podPriority.tiers", {"core": 1}), "no tier can be called core"),
        (with_value("singleuser.storage.type", "static"), "singleuser.storage.static.pvcName has to name"),
        (with_value("storage.classes", {"home": {}}), "a claim for each person cannot be mounted here"),
        (with_value("storage.classes", {"scratch": {}}), "singleuser.storage.scratch to be a claim that all share"),
        (STORAGE | {"storage": {**STORAGE["storage"], "archive": {"url": "s3://a", "claim": "b"}}}, "not both"),
        (
            STORAGE
            | {
                "singleuser": {
                    "storage": STORAGE["singleuser"]["storage"]
                    | {"shared": {"persistentVolumeClaim": {"claimName": "homes"}}}
                }
            },
            "must have claims of their own",
        ),
    ],
)
def test_what_is_left_out_is_said_in_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(helm.HelmError, match=sentence):
        render(values)


def test_no_secret_stands_outside_of_a_secret() -> None:
    manifests = render(EVERYTHING)
    for manifest in manifests:
        text = json.dumps(manifest)
        assert manifest["kind"] == "Secret" or not [secret for secret in SECRETS if secret in text], manifest[
            "metadata"
        ]
    kept = only(manifests, "Secret", "")
    for value in kept["data"].values():
        made = base64.b64decode(value).decode()
        assert not [one for one in manifests if one is not kept and made in json.dumps(one)]


def test_secrets_are_made_for_each_installation_and_kept() -> None:
    first, second = (only(render(EXTERNAL), "Secret", "") for _ in range(2))
    assert set(first["data"]) == set(second["data"])
    assert not set(first["data"].values()) & set(second["data"].values())
    assert first["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert len(bytes.fromhex(base64.b64decode(first["data"]["crypt-key"]).decode())) == 32


def test_a_secret_of_ones_own_takes_the_place_of_the_one_that_is_made() -> None:
    made = only(render(TRIAL), "Secret", "")
    manifests = render(TRIAL | {"existingSecret": "ours"})
    assert FULL_NAME not in {one["metadata"]["name"] for one in manifests if one["kind"] == "Secret"}
    used = {
        reference["key"]
        for spec in pod_specs(manifests).values()
        for container in [*spec["containers"], *spec.get("initContainers", [])]
        for variable in container.get("env", [])
        if (reference := variable.get("valueFrom", {}).get("secretKeyRef", {})).get("name") == "ours"
    }
    assert used == set(made["data"])


def test_each_process_gets_only_the_secrets_that_it_needs() -> None:
    got = {
        name.removeprefix(f"{FULL_NAME}-"): {
            variable["valueFrom"]["secretKeyRef"]["key"]
            for container in spec["containers"]
            for variable in container.get("env", [])
            if "valueFrom" in variable
        }
        for name, spec in pod_specs(render(EVERYTHING)).items()
    }
    tokens = {"token-allocations", "token-spawner", "token-batch", "token-worker", "token-metrics"}
    assert got == {
        "hub": tokens | {"proxy-token", "crypt-key"},
        "proxy": {"proxy-token"},
        "allocations": {"database-url", "token-allocations", "cookie-secret", "secrets-key"},
        "worker": {"database-url", "token-worker", "smtp-password"},
        "batch": {"token-batch"},
        "migrations": {"database-url"},
        "image-puller": set(),
        "test": set(),
    }


def test_rights_are_least(manifests: list[dict[str, Any]]) -> None:
    kinds = {one["kind"] for one in manifests}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding"}
    roles = {one["metadata"]["name"]: one for one in manifests if one["kind"] == "Role"}
    given = {
        name.removeprefix(f"{FULL_NAME}-"): {
            (group, resource): set(rule["verbs"])
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        for name, role in roles.items()
    }
    assert given == RIGHTS
    for binding in (one for one in manifests if one["kind"] == "RoleBinding"):
        name = binding["metadata"]["name"]
        assert binding["roleRef"]["name"] == name
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]
    for name, spec in pod_specs(manifests).items():
        component = name.removeprefix(f"{FULL_NAME}-")
        assert spec["automountServiceAccountToken"] == (component in RIGHTS), name
        assert spec.get("serviceAccountName") == (name if component in RIGHTS else None)


def test_every_container_is_restricted(manifests: list[dict[str, Any]]) -> None:
    for name, spec in pod_specs(manifests).items():
        of_pod = spec["securityContext"]
        over_files = {"add": OVER_FILES} if name == f"{FULL_NAME}-storage" else {}
        assert of_pod.get("runAsNonRoot") is (None if over_files else True), name
        assert (of_pod["runAsUser"] == 0) == bool(over_files), name
        # Its group would be given to all that everybody has.
        assert not over_files or "fsGroup" not in of_pod, name
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert not [volume for volume in spec.get("volumes", []) if "hostPath" in volume], name
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"], **over_files},
            }, name


def test_selectors_find_the_pods_that_they_mean(manifests: list[dict[str, Any]]) -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in manifests if "template" in one.get("spec", {})]
    for one in manifests:
        if one["kind"] == "Service":
            wanted = one["spec"]["selector"]
        elif one["kind"] in {"Deployment", "StatefulSet", "DaemonSet", "PodDisruptionBudget"}:
            wanted = one["spec"]["selector"]["matchLabels"]
        else:
            continue
        assert len([found for found in labels if wanted.items() <= found.items()]) == 1, one["metadata"]["name"]


def test_people_reach_neither_each_other_nor_the_database_nor_the_api_server_nor_the_metadata() -> None:
    manifests = render(TRIAL)
    people = only(manifests, "NetworkPolicy", "people")["spec"]
    assert people["podSelector"] == {"matchExpressions": [{"key": "meridian/lease", "operator": "Exists"}]}
    assert set(people["policyTypes"]) == {"Ingress", "Egress"}
    components = {
        (peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"], port["port"])
        for rule in people["egress"]
        for peer in rule["to"]
        if "podSelector" in peer and "namespaceSelector" not in peer
        for port in rule["ports"]
    }
    assert components == {("hub", 8081), ("proxy", 8000)}
    blocks = [peer["ipBlock"] for rule in people["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(blocks[0]["except"])
    database = only(manifests, "NetworkPolicy", "postgresql")["spec"]["ingress"]
    reach = {
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for rule in database for peer in rule["from"]
    }
    assert reach == {"allocations", "worker", "migrations", "storage"}


def test_the_quota_counts_every_class_of_peoples_pods() -> None:
    manifests = render(EXTERNAL)
    config = json.loads(only(manifests, "Secret", "hub")["stringData"]["config.json"])
    used = {
        *config["KubeAllocationSpawner"]["tier_priority_classes"].values(),
        config["KubeSpawner"]["priority_class_name"],
    }
    (scope,) = only(manifests, "ResourceQuota", "people")["spec"]["scopeSelector"]["matchExpressions"]
    assert set(scope["values"]) == used
    assert used <= {one["metadata"]["name"] for one in manifests if one["kind"] == "PriorityClass"}


def test_the_worker_culls_by_tier() -> None:
    for component in ("allocations", "worker"):
        (container,) = only(render(EVERYTHING), "Deployment", component)["spec"]["template"]["spec"]["containers"]
        (variable,) = [one for one in container["env"] if one["name"] == "MERIDIAN_IDLE_SECONDS"]
        assert json.loads(variable["value"]) == {"entry": 600}


@pytest.mark.parametrize(
    ("values", "hooks"), [(EXTERNAL, "pre-install,pre-upgrade"), (TRIAL, "pre-upgrade")], ids=["external", "trial"]
)
def test_migrations_run_in_a_hook_and_where_there_is_no_database_yet_in_the_pods(
    values: dict[str, Any], hooks: str
) -> None:
    manifests = render(values)
    assert only(manifests, "Job", "migrations")["metadata"]["annotations"]["helm.sh/hook"] == hooks
    pod = only(manifests, "Deployment", "allocations")["spec"]["template"]["spec"]
    assert ("initContainers" in pod) == (values is TRIAL)


def test_a_new_cluster_gets_the_versions_of_today() -> None:
    versions = {one["kind"]: one["apiVersion"] for one in render(EVERYTHING)}
    assert versions["PodDisruptionBudget"] == "policy/v1"
    assert versions["Ingress"] == "networking.k8s.io/v1"
    assert versions["HTTPRoute"] == "gateway.networking.k8s.io/v1"
    assert versions["Job"] == "batch/v1"


def test_ports_say_their_protocol(manifests: list[dict[str, Any]]) -> None:
    # Helm 4 applies on the server's side, and there 1.20 knows no default for what is a key of the list.
    ports = [port for one in manifests if one["kind"] == "Service" for port in one["spec"]["ports"]]
    for spec in pod_specs(manifests).values():
        ports += [port for container in spec["containers"] for port in container.get("ports", [])]
    assert {port.get("protocol") for port in ports} == {"TCP"}


def test_runs_have_what_servers_have() -> None:
    manifests = render(EVERYTHING | {"batch": {"kueue": {"queue": "runs"}}})
    jobs = json.loads(only(manifests, "Secret", "batch")["stringData"]["jobs.json"])
    hub = json.loads(only(manifests, "Secret", "hub")["stringData"]["config.json"])
    assert jobs["namespace"] == NAMESPACE
    assert jobs["tier_priority_classes"] == hub["KubeAllocationSpawner"]["tier_priority_classes"]
    assert jobs["environment"] == hub["KubeSpawner"]["environment"]
    assert jobs["image_pull_secrets"] == hub["KubeSpawner"]["image_pull_secrets"]
    assert jobs["kueue_queue"] == "runs"
    assert jobs["run_store"] == {"persistentVolumeClaim": {"claimName": f"{FULL_NAME}-runs"}}
    home, scratch = jobs["mounts"]
    assert home["source"] == {"persistentVolumeClaim": {"claimName": "claim-{person}"}}
    assert jobs["home_claim"]["name"] == "claim-{person}"
    assert jobs["home_claim"]["storage"] == hub["KubeSpawner"]["storage_capacity"]
    assert jobs["home_claim"]["access_modes"] == hub["KubeSpawner"]["storage_access_modes"]
    assert JobSettings.model_validate(jobs).home_claim is not None
    assert hub["KubeSpawner"]["pvc_name_template"] == "claim-{username}"
    assert scratch == {"name": "scratch", "path": "/scratch", "source": {"emptyDir": {}}}


def test_scratch_of_a_claim_takes_the_place_of_the_default() -> None:
    claim = {"persistentVolumeClaim": {"claimName": "scratch"}}
    manifests = render(with_value("singleuser.storage.scratch", claim))
    hub = json.loads(only(manifests, "Secret", "hub")["stringData"]["config.json"])
    assert hub["KubeAllocationSpawner"]["scratch_source"] == claim
    jobs = json.loads(only(manifests, "Secret", "batch")["stringData"]["jobs.json"])
    assert jobs["mounts"][1] == {"name": "scratch", "path": "/scratch", "source": claim, "sub_path": "{allocation}"}


def test_only_tiers_that_share_have_the_shared_volume_in_runs_too() -> None:
    claim = {"persistentVolumeClaim": {"claimName": "shared"}}
    manifests = render(with_value("singleuser.storage.shared", claim))
    hub = json.loads(only(manifests, "Secret", "hub")["stringData"]["config.json"])
    jobs = json.loads(only(manifests, "Secret", "batch")["stringData"]["jobs.json"])
    shared = {"name": "shared", "path": "/shared", "source": claim, "sub_path": "{allocation}", "tiers": ["consortium"]}
    assert shared in jobs["mounts"]
    assert hub["KubeAllocationSpawner"]["shared_tiers"] == ["consortium"]


def test_storage_is_not_there_unless_it_is_asked_for() -> None:
    manifests = render(EVERYTHING)
    assert not [one for one in manifests if one["metadata"]["name"] == f"{FULL_NAME}-storage"]


@pytest.mark.parametrize("archive", [{"url": "s3://archives/meridian"}, {"claim": "archives"}, {}])
def test_storage_has_the_volumes_that_servers_have(archive: dict[str, str]) -> None:
    manifests = render(STORAGE | {"storage": {**STORAGE["storage"], "archive": archive}})
    hub = json.loads(only(manifests, "Secret", "hub")["stringData"]["config.json"])["KubeAllocationSpawner"]
    spec = pod_specs(manifests)[f"{FULL_NAME}-storage"]
    (container,) = spec["containers"]
    sources = {one["name"]: {key: value for key, value in one.items() if key != "name"} for one in spec["volumes"]}
    at = {one["mountPath"]: sources[one["name"]] for one in container["volumeMounts"]}
    settings = StorageSettings.model_validate(
        yaml.safe_load(only(manifests, "ConfigMap", "storage")["data"]["storage.yaml"])
    )
    for name in ("home", "scratch", "shared"):
        folder = settings.folder_of(StorageClass(name))
        assert folder is not None
        assert at[folder] == hub[f"{name}_source"]
    assert settings.classes[StorageClass.OBJECT].backend == "objects"
    assert (settings.archive is None) == (archive == {})
    if "claim" in archive:
        assert at["/archive"] == {"persistentVolumeClaim": {"claimName": "archives"}}
        assert settings.archive is not None
        assert settings.archive.startswith("/archive/")
    assert at[settings.state] == {"persistentVolumeClaim": {"claimName": f"{FULL_NAME}-storage"}}
    assert at["/etc/meridian/storage"] == {"configMap": {"name": f"{FULL_NAME}-storage"}}
    # What runs write is none of its business.
    assert f"{FULL_NAME}-runs" not in json.dumps(spec)
    assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    deployment = only(manifests, "Deployment", "storage")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})


def test_storage_is_reached_by_who_reads_metrics_alone() -> None:
    policy = only(render(STORAGE), "NetworkPolicy", "storage")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": 9473}]]
    quiet = only(render(STORAGE | {"serviceMonitor": {"enabled": False}}), "NetworkPolicy", "storage")["spec"]
    assert quiet["ingress"] == []


def test_homes_of_one_claim_are_those_of_runs_too() -> None:
    manifests = render(STORAGE)
    jobs = json.loads(only(manifests, "Secret", "batch")["stringData"]["jobs.json"])
    hub = json.loads(only(manifests, "Secret", "hub")["stringData"]["config.json"])
    source = {"persistentVolumeClaim": {"claimName": "homes"}}
    assert jobs["mounts"][0] == {"name": "home", "path": "/home/jovyan", "source": source, "sub_path": "{person}"}
    assert hub["KubeAllocationSpawner"]["home_source"] == source
    assert "storage_pvc_ensure" not in hub["KubeSpawner"]
    assert JobSettings.model_validate(jobs).home_claim is None


def test_the_chart_is_of_the_projects_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((CHART.parent / "pyproject.toml").read_text())["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (project, project)


def test_the_values_that_the_documentation_shows_are_values() -> None:
    text = (CHART.parent / "docs" / "how-to.md").read_text().partition("## Install on Kubernetes")[2]
    (block,) = re.findall(r"```yaml\n(hub:.*?)```", text.partition("\n## ")[0], re.DOTALL)
    config = json.loads(only(render(yaml.safe_load(block)), "Secret", "hub")["stringData"]["config.json"])
    unknown = set(config["OpenIDConnectAuthenticator"]) - set(OpenIDConnectAuthenticator.class_trait_names())
    assert not unknown


def test_the_values_of_storage_that_the_documentation_shows_are_values() -> None:
    text = (CHART.parent / "docs" / "storage.md").read_text()
    (block,) = re.findall(r"```yaml\n(singleuser:.*?)```", text, re.DOTALL)
    content = only(render(EXTERNAL | yaml.safe_load(block)), "ConfigMap", "storage")["data"]["storage.yaml"]
    settings = StorageSettings.model_validate(yaml.safe_load(content))
    assert set(settings.purged_classes) == {StorageClass.HOME, StorageClass.SCRATCH, StorageClass.SHARED}


def test_no_value_is_without_effect() -> None:
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    named = set(re.findall(r"\.([A-Za-z0-9]+)", templates)) | {"default", "defaultRequest", "max"}
    # What is handed on as a whole has names of its own.
    handed_on = {"resources", "people", "namespace", "tiers", "sharedTiers", "defaultRequest", "max", "scratch"}
    handed_on |= {"labels", "accessLabels"}

    def names(values: dict[str, Any]) -> set[str]:
        inner = [names(value) for name, value in values.items() if isinstance(value, dict) and name not in handed_on]
        return set(values).union(*inner)

    assert names(yaml.safe_load((CHART / "values.yaml").read_text())) - named == set()


CATALOGUE = """
images:
  - {name: base, title: Base, default: true, versions: [
      {tag: 2027.02-a, channel: recommended, released: 2027-02-01},
      {tag: w07, channel: weekly, released: 2027-02-14}]}
  - {name: pipeline, title: Pipeline, versions: [
      {tag: "3", channel: recommended, released: 2027-02-01},
      {tag: "2", channel: pinned, released: 2026-02-01, reference: "r.example.org/old:2"}]}
  - {name: other, title: Other, reference: "r.example.org/other:1"}
  - {name: gpu, title: GPU, versions: [{tag: "3", channel: recommended, released: 2027-02-01}]}
  - {name: nowhere, title: Nowhere, versions: [{tag: "1", channel: recommended, released: 2027-02-01}]}
"""
IMAGES = {
    "image": {"name": "localhost:5000/lab", "tag": "9"},
    "images": {"pipeline": {"name": "r.example.org/pipeline"}, "gpu": {"name": "r.example.org/gpu", "prePull": False}},
}


def pulled(manifests: list[dict[str, Any]]) -> dict[str, str]:
    """What every node fetches before anybody asks for it, by the names of the images."""
    spec = pod_specs(manifests)[f"{FULL_NAME}-image-puller"]
    return {one["name"]: one["image"] for one in spec["initContainers"]}


def test_every_node_has_what_the_catalogue_recommends_and_nothing_else() -> None:
    own = {"singleuser": IMAGES, "allocations": {"policies": {"images.yaml": CATALOGUE}}}
    assert pulled(render(EXTERNAL | own)) == {
        "singleuser": "localhost:5000/lab:9",
        "base": "localhost:5000/lab:2027.02-a",
        "pipeline": "r.example.org/pipeline:3",
        "other": "r.example.org/other:1",
    }


def test_of_the_shipped_catalogue_every_node_has_what_the_values_name() -> None:
    assert pulled(render(EXTERNAL | {"singleuser": IMAGES})) == {
        "singleuser": "localhost:5000/lab:9",
        "pipeline": "r.example.org/pipeline:0.1.0",
    }
    assert pulled(render(EXTERNAL)) == {"singleuser": "meridian-lab:0.1.0"}


def test_the_service_is_told_where_the_images_of_the_catalogue_are() -> None:
    manifests = render(EXTERNAL | {"singleuser": IMAGES})
    for component in ("allocations", "worker"):
        (container,) = pod_specs(manifests)[f"{FULL_NAME}-{component}"]["containers"]
        (variable,) = [one for one in container["env"] if one["name"] == "MERIDIAN_IMAGES"]
        assert json.loads(variable["value"]) == {
            "base": "localhost:5000/lab:9",
            "pipeline": "r.example.org/pipeline:0.1.0",
            "gpu": "r.example.org/gpu:0.1.0",
        }
