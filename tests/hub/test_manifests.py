"""Pods get what their lease pays for and no more, whatever their configuration; times come from their status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubespawner.objects import make_pod, make_pvc

from hub.client import Lease, Resources
from hub.spawner.manifests import (
    LEASE,
    PERSON,
    Mount,
    PodEnd,
    PodTerms,
    bind_claim,
    bind_pod,
    cpu_quantity,
    deadline_seconds,
    label_value,
    memory_quantity,
    plain,
    pod_end,
    pod_start,
    quantities_of,
)
from hub.spawner.rescue import POD_FOLDER, RESCUE, rescue_arguments, rescue_environment
from tests.hub.kube_leases import VALID_LABEL, lease, leases

HOME_CLAIM = {"persistentVolumeClaim": {"claimName": "claim-ada"}}
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def a_pod(**changes: Any) -> Any:
    return make_pod(**{"name": "jupyter-ada", "cmd": None, "port": 8888, "image": "lab:1"} | changes)


def bound(pod: Any, terms: PodTerms) -> Any:
    """A bound pod as JSON, as the API server gets it."""
    return plain(bind_pod(pod, terms)[0])


def notebook(pod: Any) -> Any:
    return pod["spec"]["containers"][0]


@given(st.text())
def test_any_name_is_a_valid_label(name):
    assert VALID_LABEL.fullmatch(label_value(name))


@given(st.text(), st.text())
def test_no_two_names_have_one_label(one, other):
    assert (label_value(one) == label_value(other)) == (one == other)


@pytest.mark.parametrize("name", ["ada", "a.b-c_D9", "x" * 63])
def test_a_name_that_can_be_a_label_stays_as_it_is(name):
    assert label_value(name) == name


def test_a_name_can_not_pose_as_another_by_its_hash():
    assert label_value(label_value("ada@example.org")) != label_value("ada@example.org")


@given(leases())
def test_requests_equal_limits_and_both_are_what_the_lease_pays_for(lease):
    pod = bound(a_pod(cpu_limit=64.0, mem_limit="512G"), PodTerms(lease))
    assert notebook(pod)["resources"]["limits"] == notebook(pod)["resources"]["requests"]
    assert notebook(pod)["resources"]["limits"] == quantities_of(lease.resources)


@given(leases())
def test_binding_again_changes_nothing(lease):
    terms = PodTerms(lease, mounts=(Mount("scratch", {"emptyDir": {}}, "/scratch"),), priority_class="research")
    once, _ = bind_pod(a_pod(), terms)
    twice, beyond = bind_pod(once, terms)
    assert (plain(once), beyond) == (plain(twice), ())


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        (cpu_quantity(2), "2"),
        (cpu_quantity(0.5), "500m"),
        (memory_quantity(16), "16Gi"),
        (memory_quantity(0.5), "512Mi"),
    ],
)
def test_quantities_are_written_as_kubernetes_does(quantity, expected):
    assert quantity == expected


def test_what_goes_beyond_the_lease_is_taken_and_named():
    pod = a_pod(
        cpu_limit=8.0,
        mem_limit=1024**3,
        extra_resource_limits={"nvidia.com/gpu": "4", "squat.ai/fuse": "1"},
        extra_containers=[
            {"name": "side", "image": "side:1", "resources": {"limits": {"nvidia.com/gpu": "1", "cpu": "1"}}}
        ],
    )
    given_pod, beyond = bind_pod(pod, PodTerms(lease(), unpriced_resources=frozenset({"squat.ai/fuse"})))
    made = plain(given_pod)
    assert notebook(made)["resources"]["limits"] == {"cpu": "2", "memory": "8Gi", "squat.ai/fuse": "1"}
    assert made["spec"]["containers"][1]["resources"]["limits"] == {"cpu": "1"}
    assert beyond == (
        "The configuration asks for cpu 8.0; the lease pays for 2.",
        "The configuration asks for nvidia.com/gpu 4; the lease pays for none.",
        "The configuration asks for nvidia.com/gpu 1; the lease pays for none.",
    )


def test_a_gpu_is_asked_for_where_its_type_is():
    gpu = lease(resources=Resources(cores=8, memory_gib=32, gpus=1, gpu_type="t4"))
    pod = bound(a_pod(node_selector={"pool": "people"}), PodTerms(gpu))
    assert notebook(pod)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["spec"]["nodeSelector"] == {"pool": "people", "meridian/gpu-type": "t4"}
    assert pod["spec"]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    pod = bound(a_pod(), PodTerms(gpu, gpu_nodes={"t4": {"accelerator": "tesla"}}))
    assert pod["spec"]["nodeSelector"] == {"accelerator": "tesla"}


def test_a_pod_without_a_gpu_goes_anywhere():
    assert "nodeSelector" not in bound(a_pod(), PodTerms(lease()))["spec"]


def test_a_pod_ends_by_itself_at_the_latest_end_of_its_lease():
    assert bound(a_pod(), PodTerms(lease()))["spec"]["activeDeadlineSeconds"] == 86_400
    sooner = a_pod(extra_pod_config={"activeDeadlineSeconds": 60})
    assert bound(sooner, PodTerms(lease()))["spec"]["activeDeadlineSeconds"] == 60
    later = a_pod(extra_pod_config={"activeDeadlineSeconds": 10**6})
    assert bound(later, PodTerms(lease()))["spec"]["activeDeadlineSeconds"] == 86_400
    assert deadline_seconds(lease(latest_end_at=None)) is None


def test_a_server_has_no_rights_that_nobody_gave_it():
    pod = bound(a_pod(), PodTerms(lease()))
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert notebook(pod)["securityContext"] == {
        "runAsUser": 1000,
        "runAsGroup": 100,
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_what_configuration_says_of_rights_in_so_many_words_stays():
    given_rights = {"capabilities": {"add": ["NET_ADMIN"]}, "runAsNonRoot": False, "runAsUser": 0}
    pod = bound(
        a_pod(
            container_security_context=given_rights,
            pod_security_context={"seccompProfile": {"type": "Unconfined"}, "runAsGroup": 0, "fsGroup": 7},
            service_account="tool",
            automount_service_account_token=True,
        ),
        PodTerms(lease()),
    )
    assert pod["spec"]["automountServiceAccountToken"] is True
    assert notebook(pod)["securityContext"] == given_rights | {"allowPrivilegeEscalation": False}
    assert pod["spec"]["securityContext"]["fsGroup"] == 7


def test_even_a_pod_with_a_service_account_gets_no_token_unasked():
    assert bound(a_pod(service_account="tool"), PodTerms(lease()))["spec"]["automountServiceAccountToken"] is False


def test_names_are_labels_and_stand_in_the_annotations_as_they_are():
    made = bound(a_pod(labels={"component": "singleuser-server"}), PodTerms(lease(person="Ada Łovelace {x}")))
    assert made["metadata"]["labels"]["component"] == "singleuser-server"
    assert made["metadata"]["labels"][PERSON] == label_value("Ada Łovelace {x}")
    assert made["metadata"]["annotations"][PERSON] == "Ada Łovelace {x}"
    assert made["metadata"]["annotations"][LEASE] == "lease-1"


HOME = Mount("home", {"persistentVolumeClaim": {"claimName": "claim-ada"}}, "/home/jovyan")


def test_volumes_are_mounted_unless_configuration_has_done_so():
    shared = Mount("shared", {"persistentVolumeClaim": {"claimName": "all"}}, "/shared").part("a1")
    pod = bound(a_pod(), PodTerms(lease(), mounts=(HOME, shared)))
    assert notebook(pod)["volumeMounts"] == [
        {"name": "home", "mountPath": "/home/jovyan"},
        {"name": "shared", "mountPath": "/shared", "subPath": "a1"},
    ]
    configured = a_pod(
        volumes=[{"name": "volume-ada", "persistentVolumeClaim": {"claimName": "claim-ada"}}],
        volume_mounts=[{"name": "volume-ada", "mountPath": "/home/ada"}],
    )
    assert notebook(bound(configured, PodTerms(lease(), mounts=(HOME,))))["volumeMounts"] == [
        {"name": "volume-ada", "mountPath": "/home/ada"}
    ]


def test_a_home_has_its_persons_name():
    claim = bind_claim(make_pvc("claim-ada", None, ["ReadWriteOnce"], None, "10Gi"), "ada@example.org")
    assert claim.metadata.labels[PERSON] == label_value("ada@example.org")
    assert claim.metadata.annotations[PERSON] == "ada@example.org"


def test_the_tier_gives_the_priority():
    assert bound(a_pod(), PodTerms(lease(), priority_class="research"))["spec"]["priorityClassName"] == "research"
    assert bound(a_pod(priority_class_name="hub"), PodTerms(lease()))["spec"]["priorityClassName"] == "hub"


def at(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def shown(phase: str = "Running", deleted: float | None = None, conditions: Any = (), **container: Any) -> Any:
    """A pod as the API server shows it."""
    statuses = [{"name": "notebook", **container}] if container else None
    metadata = {"name": "p"} | ({"deletionTimestamp": at(deleted)} if deleted is not None else {})
    return {"metadata": metadata, "status": {"phase": phase, "containerStatuses": statuses, "conditions": conditions}}


def condition(name: str, value: str, since: float) -> dict[str, str]:
    return {"type": name, "status": value, "lastTransitionTime": at(since)}


RUNNING: Any = {"state": {"running": {"startedAt": at(0)}}}
OVER = {"terminated": {"startedAt": at(0), "finishedAt": at(60), "exitCode": 137, "reason": "OOMKilled"}}
NOT_READY = condition("Ready", "False", 50)


@pytest.mark.parametrize(
    ("pod", "end"),
    [
        pytest.param(shown("Pending"), None, id="pending"),
        pytest.param(shown("Pending", state={"waiting": {"reason": "ErrImagePull"}}), None, id="no image"),
        pytest.param(shown(**RUNNING), None, id="running"),
        pytest.param(shown(state=OVER), PodEnd(NOON + timedelta(seconds=60)), id="killed for its memory"),
        pytest.param(shown(state={"running": {"startedAt": at(61)}}, lastState=OVER), None, id="started again"),
        pytest.param(
            shown(state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=OVER),
            PodEnd(NOON + timedelta(seconds=60)),
            id="fails again and again",
        ),
        pytest.param(shown("Failed"), PodEnd(None), id="evicted, and nothing says when"),
        pytest.param(
            shown("Failed", conditions=[condition("DisruptionTarget", "True", 40), NOT_READY], **RUNNING),
            PodEnd(NOON + timedelta(seconds=40)),
            id="disrupted",
        ),
        pytest.param(
            shown("Failed", conditions=[NOT_READY], state={"waiting": {"reason": "ContainerCreating"}}),
            PodEnd(NOON + timedelta(seconds=50)),
            id="deleted, and its container forgotten",
        ),
        pytest.param(
            shown("Failed", conditions=[NOT_READY], state=OVER), PodEnd(NOON + timedelta(seconds=60)), id="both"
        ),
        pytest.param(shown(deleted=95, **RUNNING), None, id="on its way down"),
        pytest.param(
            shown(deleted=95, conditions=[NOT_READY], state={"waiting": {"reason": "ContainerCreating"}}),
            PodEnd(NOON + timedelta(seconds=50)),
            id="deleted, and its container forgotten while the pod is not",
        ),
        pytest.param(
            shown(deleted=65, conditions=[NOT_READY], **RUNNING), PodEnd(NOON + timedelta(seconds=50)), id="node lost"
        ),
        pytest.param(
            shown(deleted=65, conditions=[condition("Ready", "True", 1)], **RUNNING),
            PodEnd(NOON + timedelta(seconds=65)),
            id="node does not answer",
        ),
    ],
)
def test_the_end_is_read_from_the_status(pod, end):
    assert pod_end(pod, NOON + timedelta(seconds=100)) == end


def test_the_start_is_that_of_the_first_container_and_there_is_none_before_it_runs():
    assert pod_start(shown("Pending", state={"waiting": {"reason": "ImagePullBackOff"}})) is None
    assert pod_start(shown("Pending")) is None
    assert pod_start(shown(**RUNNING)) == NOON
    assert pod_start(shown(state={"running": {"startedAt": at(61)}}, lastState=OVER)) == NOON


def test_a_lease_of_an_older_service_still_makes_a_pod():
    old = Lease(
        id="lease-1",
        allocation="a1",
        allocation_name="Entry",
        person="ada",
        size="small",
        resources=Resources(cores=1, memory_gib=4),
        state="open",
        microcredits_per_hour=1,
    )
    assert "activeDeadlineSeconds" not in bound(a_pod(), PodTerms(old))["spec"]


def test_a_rescue_server_writes_to_a_volume_of_its_own_and_starts_by_itself():
    terms = PodTerms(lease(size=RESCUE), mounts=(Mount("home", HOME_CLAIM, "/home/jovyan"),))
    pod = bound(a_pod(), terms)
    assert notebook(pod)["args"] == ["jupyterhub-singleuser", *rescue_arguments(POD_FOLDER)]
    assert [(one["mountPath"], one["name"]) for one in notebook(pod)["volumeMounts"]] == [
        ("/tmp", "rescue"),
        ("/home/jovyan", "home"),
    ]
    [tmp] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "rescue"]
    assert tmp["emptyDir"] == {"sizeLimit": "1Gi"}
    once, _ = bind_pod(a_pod(), terms)
    assert plain(bind_pod(once, terms)[0]) == plain(once)
    # With a command of its own, which has the arguments already.
    own = [["lab", *rescue_arguments(POD_FOLDER)], ["lab"]]
    assert [notebook(bound(a_pod(cmd=cmd), terms))["args"] for cmd in own] == own


def test_no_other_server_is_changed_so():
    pod = bound(a_pod(), PodTerms(lease(size="small")))
    assert "args" not in notebook(pod)
    assert not notebook(pod).get("volumeMounts")


def test_a_rescue_server_s_folders_are_all_outside_of_the_home():
    environment = rescue_environment("/tmp/rescue", "/tmp")
    assert {value for value in environment.values() if value != "1" and not value.startswith("/tmp")} == set()
    folders = ("RUNTIME", "DATA", "CONFIG")
    assert {f"JUPYTER_{name}_DIR" for name in folders} | {"IPYTHONDIR", "TMPDIR"} <= set(environment)
