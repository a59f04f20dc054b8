"""Renders the chart with Helm's own code, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import helm_python as helm
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

CHART = Path(__file__).parents[2] / "helm"
NAME = "test"
FULL_NAME = "test-meridian"
NAMESPACE = "science"
EXTERNAL: dict[str, Any] = {
    "externalDatabase": {"url": "postgresql+psycopg://meridian:dbpassword@db.example/meridian"},
    "hub": {
        "config": {
            "JupyterHub": {"authenticator_class": "generic-oauth"},
            "GenericOAuthenticator": {"client_id": "meridian", "client_secret": "oidcsecret"},
            "Authenticator": {"admin_users": ["ada"]},
        },
        "extraConfig": {"quiet": "c.JupyterHub.log_level = 30"},
    },
}
TRIAL: dict[str, Any] = {"postgresql": {"enabled": True}, "hub": {"trial": {"enabled": True, "admins": ["ada"]}}}
EVERYTHING: dict[str, Any] = {
    **EXTERNAL,
    "imagePullSecrets": [{"name": "registry"}],
    "allocations": {"policies": {"tiers.yaml": "tiers: []\n"}},
    "worker": {"mail": {"host": "smtp.example", "user": "meridian", "password": "smtppassword"}},
    "singleuser": {"extraEnv": {"GREETING": "hello"}, "profileList": [{"display_name": "One"}]},
    "cull": {"timeout": {"entry": 600}},
    "ingress": {"enabled": True, "hosts": ["science.example"], "tls": [{"hosts": ["science.example"]}]},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["science.example"]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
}
STORAGE: dict[str, Any] = {
    **EXTERNAL,
    "allocations": {"policies": {"tiers.yaml": "tiers: []\n"}},
    "singleuser": {
        "storage": {
            "type": "static",
            "static": {"pvcName": "homes"},
            "scratch": {"persistentVolumeClaim": {"claimName": "scratch"}},
            "shared": {"persistentVolumeClaim": {"claimName": "shared"}},
        }
    },
    "storage": {
        "classes": {"home": {}, "scratch": {}, "shared": {}, "object": {"bucket": "data", "prefix": "areas"}},
        "archive": {"url": "s3://archives/meridian", "endpointUrl": "https://s3.example"},
        "credentialsSecret": "bucket",
        "intervalsSeconds": {"measure": 7200},
        "entriesPerSecond": 5000,
    },
    "serviceMonitor": {"enabled": True},
}


def documents(files: Mapping[str, str]) -> list[dict[str, Any]]:
    """The objects of a rendered chart."""
    texts = (text for path, text in files.items() if path.endswith(".yaml"))
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def render(values: dict[str, Any], *, upgrade: bool = False) -> list[dict[str, Any]]:
    """The objects of the chart with these values, for a cluster of the newest version that this Helm knows."""
    with helm.Chart.load(CHART) as chart:
        files = chart.render(
            values, name=NAME, namespace=NAMESPACE, is_install=not upgrade, is_upgrade=upgrade, revision=1 + upgrade
        )
    return documents(files)


def only(manifests: list[dict[str, Any]], kind: str, component: str) -> dict[str, Any]:
    """The one object of a kind with a component's name."""
    name = f"{FULL_NAME}-{component}" if component else FULL_NAME
    (found,) = [one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def pod_specs(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pod of each workload, by its name."""
    specs = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "Pod"}
    return specs | {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in manifests
        if "template" in one.get("spec", {})
    }
