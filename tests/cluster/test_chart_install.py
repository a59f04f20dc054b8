"""The chart on a real API server: every object is taken, rights and quotas hold, secrets stay."""

from __future__ import annotations

import copy
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import helm_python as helm
import pytest
import yaml
from kubernetes import client, dynamic

from tests.chart.rendering import CHART, EVERYTHING, FULL_NAME, NAME, TRIAL, documents
from tests.cluster.namespaces import await_counted, make_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import Cluster

# The controllers of a cluster take minutes after it was out of order.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

FORBIDDEN = 403
# An installation of which nothing needs an image to be proven.
BARE: dict[str, Any] = {
    "postgresql": {"enabled": True},
    "hub": {"trial": {"enabled": True}},
    "allocations": {"replicas": 0},
    "worker": {"replicas": 0},
    "prePuller": {"continuous": {"enabled": False}},
    "resourceQuota": {"people": {"pods": "1"}},
}


@dataclass(frozen=True)
class Installed:
    """The chart's release in a namespace of its own."""

    config: helm.Config
    core: client.CoreV1Api
    namespace: str

    def may(self, account: str, verb: str, resource: str, *, group: str = "", namespace: str | None = None) -> bool:
        """Whether a service account of the chart may do something, by the API server's word."""
        resource, _, subresource = resource.partition("/")
        attributes = {
            "verb": verb,
            "resource": resource,
            "subresource": subresource,
            "group": group,
            "namespace": self.namespace if namespace is None else namespace,
        }
        user = f"system:serviceaccount:{self.namespace}:{FULL_NAME}-{account}"
        review = client.AuthorizationV1Api().create_subject_access_review(
            {"spec": {"user": user, "groups": ["system:serviceaccounts"], "resourceAttributes": attributes}}
        )
        return bool(review.status.allowed)

    def secrets(self) -> dict[str, str]:
        """The secrets that the chart has made."""
        data: dict[str, str] = self.core.read_namespaced_secret(FULL_NAME, self.namespace).data
        return data


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[Installed]:
    namespace = f"meridian-chart-{uuid.uuid4().hex[:8]}"
    make_namespace(cluster.core, namespace)
    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=namespace) as config:
        try:
            config.install(CHART, NAME, BARE)
            await_counted(cluster.core, namespace)
            yield Installed(config, cluster.core, namespace)
        finally:
            # What belongs to the cluster goes with the release, the rest with the namespace.
            config.uninstall(NAME)
            cluster.core.delete_namespace(namespace)


@pytest.mark.parametrize("values", [TRIAL, EVERYTHING], ids=["trial", "everything"])
def test_the_api_server_takes_every_object(installed: Installed, values: dict[str, Any]) -> None:
    # The kinds of these two come with the gateway and with Prometheus.
    values = copy.deepcopy({name: part for name, part in values.items() if name not in {"httpRoute", "serviceMonitor"}})
    planned = installed.config.install(CHART, "planned", values, dry_run="server")
    with helm.Chart.load(CHART) as chart:
        rendered = documents(chart.render(values, name="planned", namespace=installed.namespace))
    hooks = [one for one in rendered if "helm.sh/hook" in one["metadata"].get("annotations", {})]
    objects = [*filter(None, yaml.safe_load_all(planned["manifest"])), *hooks]
    api = dynamic.DynamicClient(client.ApiClient())
    assert {one["kind"] for one in objects} >= {
        "Deployment",
        "Job",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "ResourceQuota",
    }
    for one in objects:
        if one["kind"] == "Pod":
            # Its class exists once the release does.
            del one["spec"]["priorityClassName"]
        resource = api.resources.get(api_version=one["apiVersion"], kind=one["kind"])
        where = {"namespace": installed.namespace} if resource.namespaced else {}
        resource.create(body=one, query_params=[("dryRun", "All")], **where)


def test_processes_may_do_what_they_need_and_nothing_else(installed: Installed) -> None:
    for verb in ("get", "list", "watch", "create", "delete"):
        assert installed.may("hub", verb, "pods")
        assert installed.may("hub", verb, "persistentvolumeclaims")
        assert installed.may("batch", verb, "jobs", group="batch")
        assert not installed.may("batch", verb, "services")
        for account in ("hub", "batch"):
            assert not installed.may(account, verb, "secrets")
            assert not installed.may(account, verb, "configmaps")
            assert not installed.may(account, verb, "pods", namespace="kube-system")
            assert not installed.may(account, verb, "nodes", namespace="")
            assert not installed.may(account, verb, "namespaces", namespace="")
            assert not installed.may(account, verb, "roles", group="rbac.authorization.k8s.io")
        assert not installed.may("hub", verb, "jobs", group="batch")
        assert not installed.may("hub", verb, "deployments", group="apps")
        assert installed.may("batch", verb, "persistentvolumeclaims") == (verb in {"get", "create"})
    for account in ("hub", "batch"):
        for verb in ("create", "get"):
            assert not installed.may(account, verb, "pods/exec")
            assert not installed.may(account, verb, "pods/portforward")
        assert not installed.may(account, "create", "serviceaccounts/token")
        assert not installed.may(account, "create", "pods/eviction")


def test_the_quota_stands_behind_the_service_and_counts_people_only(installed: Installed) -> None:
    def pod(name: str, kind: str) -> dict[str, Any]:
        container = {"name": "x", "image": "none.test/none", "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}
        priority = f"{FULL_NAME}-{installed.namespace}-{kind}"
        return {"metadata": {"name": name}, "spec": {"containers": [container], "priorityClassName": priority}}

    installed.core.create_namespaced_pod(installed.namespace, pod("first", "entry"))
    with pytest.raises(client.ApiException) as refused:
        installed.core.create_namespaced_pod(installed.namespace, pod("second", "consortium"))
    assert refused.value.status == FORBIDDEN
    assert "exceeded quota" in refused.value.body
    installed.core.create_namespaced_pod(installed.namespace, pod("ours", "core"))


def test_secrets_and_state_stay_when_the_release_goes_and_comes_again(installed: Installed) -> None:
    before = installed.secrets()
    installed.config.uninstall(NAME)
    claims = {
        one.metadata.name for one in installed.core.list_namespaced_persistent_volume_claim(installed.namespace).items
    }
    assert {f"{FULL_NAME}-hub", f"{FULL_NAME}-runs"} <= claims
    installed.config.install(CHART, NAME, BARE)
    assert installed.secrets() == before
