"""Runs as Jobs on a real cluster: a sweep loses nothing, whoever dies, and is charged what the API server shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
import yaml
from kubernetes import client

from allocations.app import create_app
from allocations.clock import SystemClock
from allocations.db.database import Database
from allocations.db.idempotency import IdempotencyKey
from allocations.db.migrate import upgrade
from allocations.factory import Services, make_services
from allocations.ledger.audit import audit_ledger
from allocations.policy.loader import load_policy
from allocations.runs.files import LOG, OUTPUT
from allocations.runs.service import Submission
from hub.batch.files import RunDirectory
from tests.batch.batch_harness import ROOT, notebook, wait_for
from tests.cluster.ghost import ghost_node
from tests.cluster.kube_bench import PREFIX, SpawnerIdentity, Witness, unless_gone, write_policies
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from allocations.leases.views import LeaseView
    from allocations.runs.models import RunView
    from tests.cluster.conftest import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

# Above whatever else the cluster does, and in nobody's way: a pod that makes room for another's is an attempt lost.
PRIORITY = 900_000_000
# A node pulls one image at a time, and others may use it: a minute or two for a pod are nothing out of the ordinary.
BUSY_SECONDS = 600.0
SWEEP = 20
FAILS, KILLED, CANCELLED = 7, 3, 11
CELL = f"""
import time
if x == {FAILS}:
    raise ValueError("not with seven")
time.sleep(300 if x == {CANCELLED} else 30 if x == {KILLED} else 0.5)
print("squared:", x * x)
"""


@dataclass
class BatchBench:
    """The service over HTTP, one person's allocation, and an executor as a process of its own."""

    cluster: Cluster
    witness: Witness
    services: Services
    allocation: str
    directory: Path
    url: str
    priority_class: str
    executors: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def jobs(self) -> client.BatchV1Api:
        return client.BatchV1Api(self.cluster.core.api_client)

    def start_executor(self, slots: int = 2, **settings: Any) -> subprocess.Popen[bytes]:
        terms = {
            "namespace": self.cluster.namespace,
            "run_store": {"hostPath": {"path": str(self.directory / "runs"), "type": "Directory"}},
            "tier_priority_classes": {"entry": self.priority_class},
        }
        file = self.directory / "jobs.json"
        file.write_text(json.dumps(terms | settings))
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MERIDIAN_ALLOCATIONS_URL": self.url,
            "MERIDIAN_TOKEN_BATCH": "secret",
            "MERIDIAN_RUN_STORE": str(self.directory / "runs"),
            "MERIDIAN_BATCH_KUBERNETES": str(file),
            "MERIDIAN_BATCH_SLOTS": str(slots),
            "MERIDIAN_BATCH_METRICS_PORT": "0",
        }
        with (self.directory / "batch.log").open("ab") as log:
            self.executors.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "hub.batch.executor"], env=environment, stdout=log, stderr=log
                )
            )
        return self.executors[-1]

    def end_executor(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.executors[-1].send_signal(number)
        self.executors[-1].wait()

    def submit(
        self, book: nbformat.NotebookNode, max_seconds: int = 600, image: str = "lab", **parameters: Any
    ) -> RunView:
        submission = Submission(
            person="ada",
            allocation=self.allocation,
            size="tiny",
            name="sweep.ipynb",
            notebook=json.loads(nbformat.writes(book)),
            parameters=parameters,
            image=image,
            max_seconds=max_seconds,
        )
        key = IdempotencyKey.for_request("ada", os.urandom(8).hex(), "submit", {})
        return self.services.runs.submit(submission, key)

    def run(self, run_id: str) -> RunView:
        return self.services.runs.get("ada", run_id)

    def file(self, run_id: str, name: str) -> str:
        return self.services.runs.read_file("ada", run_id, name).decode()

    def wait_ended(self, *run_ids: str) -> list[RunView]:
        wait_for(lambda: all(self.run(one).ended_at for one in run_ids), BUSY_SECONDS)
        return [self.run(one) for one in run_ids]

    def wait_running(self, run_id: str, cell: int) -> RunView:
        """Wait until a cell of the run is under way."""
        wait_for(lambda: self.run(run_id).current_cell == cell, BUSY_SECONDS)
        return self.run(run_id)

    def wait_for_ends(self, run_ids: list[str], enough: int) -> None:
        """Wait until so many of the runs have ended."""
        wait_for(lambda: sum(bool(self.run(one).ended_at) for one in run_ids) >= enough, BUSY_SECONDS)

    def pods_of(self, run_id: str) -> list[Any]:
        pods: list[Any] = self.cluster.core.list_namespaced_pod(
            self.cluster.namespace, label_selector=f"meridian/run={run_id}"
        ).items
        return pods

    def assert_charged_as_shown(self) -> None:
        """Each settled lease has the seconds that the API server showed of its container; a lost one is not charged."""
        leases = self.services.reports.leases_of("ada", 100)
        for lease in leases:
            assert lease.held_microcredits == 0
            if lease.state == "voided":
                assert lease.charged_microcredits == 0
            else:
                assert lease.state == "settled"
                assert lease.charged_microcredits == self.seconds_of(lease) * lease.microcredits_per_second, lease
        with self.services.database.read() as connection:
            assert audit_ledger(connection).violations == ()

    def seconds_of(self, lease: LeaseView) -> int:
        """For how many whole seconds a lease's container ran.

        By its end where the API server showed it, or by when its pod was not ready any more, which is what it shows
        later of a pod that is deleted; otherwise as it was charged, within a second of that, or of its own times.
        """
        charged_seconds = lease.charged_microcredits // lease.microcredits_per_second
        if self.witness.shows(lease, charged_seconds):
            return charged_seconds
        if self.witness.has_seen_end(lease):
            return self.witness.seconds(lease)
        if lease.id in self.witness.finished:
            assert abs(charged_seconds - self.witness.seconds(lease)) <= 1, lease
            return charged_seconds
        assert lease.started_at is not None
        assert lease.ended_at is not None
        ran = datetime.fromisoformat(lease.ended_at) - datetime.fromisoformat(lease.started_at)
        assert abs(charged_seconds - ran.total_seconds()) <= 1, lease
        return charged_seconds

    def wait_nothing_left(self) -> None:
        """Wait until the cluster has neither Jobs nor pods of ours."""
        namespace = self.cluster.namespace

        def nothing() -> bool:
            pods = self.cluster.core.list_namespaced_pod(namespace, label_selector="meridian/run").items
            return not pods and not self.jobs.list_namespaced_job(namespace).items

        wait_for(nothing, BUSY_SECONDS)


@contextmanager
def priority_class(cluster: Cluster) -> Iterator[str]:
    """A PriorityClass whose pods no other's pod puts out, and which puts out none."""
    scheduling = client.SchedulingV1Api(cluster.core.api_client)
    name = f"{cluster.namespace}-runs"
    scheduling.create_priority_class({"metadata": {"name": name}, "value": PRIORITY, "preemptionPolicy": "Never"})
    yield name
    scheduling.delete_priority_class(name)


@pytest.fixture
def bench(cluster: Cluster, tmp_path: Path, hub_environment: None) -> Iterator[BatchBench]:
    write_policies(tmp_path / "policies", cluster.image, 3600)
    tiers = yaml.safe_load((tmp_path / "policies/tiers.yaml").read_text())
    tiers["tiers"][0]["at_once"] = {"servers_per_person": 2, "cores": 4, "gpus": 1}
    (tmp_path / "policies/tiers.yaml").write_text(yaml.safe_dump(tiers))
    database = Database(f"sqlite:///{tmp_path / 'allocations.sqlite'}")
    upgrade(database)
    (tmp_path / "runs").mkdir()
    services = make_services(
        database, load_policy(tmp_path / "policies"), tmp_path / "runs", SystemClock(), secret_keys=["5e" * 32]
    )
    services.agreements.accept("ada", services.policy.agreement.version)
    allocation = services.reports.allocations_of("ada")[0].id
    app = create_app(services, SpawnerIdentity("secret", PREFIX), "local")
    with (
        serving(app) as url,
        priority_class(cluster) as name,
        Witness(cluster.core, cluster.namespace).looking() as witness,
    ):
        made = BatchBench(cluster, witness, services, allocation, tmp_path, f"{url}{PREFIX}", name)
        yield made
        made.end_executor()
    remove_all(made)
    database.dispose()


def remove_all(bench: BatchBench) -> None:
    namespace = bench.cluster.namespace
    for job in bench.jobs.list_namespaced_job(namespace).items:
        with unless_gone():
            bench.jobs.patch_namespaced_job(job.metadata.name, namespace, {"spec": {"parallelism": 0}})
            bench.jobs.delete_namespaced_job(job.metadata.name, namespace, propagation_policy="Background")
    for pod in bench.cluster.core.list_namespaced_pod(namespace, label_selector="meridian/run").items:
        with unless_gone():
            bench.cluster.core.patch_namespaced_pod(pod.metadata.name, namespace, {"metadata": {"finalizers": None}})
            bench.cluster.core.delete_namespaced_pod(pod.metadata.name, namespace, grace_period_seconds=0)


def test_a_sweep_loses_nothing_and_is_charged_what_the_api_server_shows(bench: BatchBench) -> None:
    book = notebook(CELL, defaults="x = 0")
    runs = [bench.submit(book, x=x).id for x in range(SWEEP)]
    bench.start_executor()
    bench.wait_running(runs[KILLED], 2)
    (pod,) = bench.pods_of(runs[KILLED])
    bench.cluster.core.delete_namespaced_pod(pod.metadata.name, bench.cluster.namespace)
    # In the middle of it all, more than once, with runs waiting, starting, running and ending.
    for enough, number in ((4, signal.SIGKILL), (8, signal.SIGTERM), (10, signal.SIGKILL)):
        bench.wait_for_ends(runs, enough)
        bench.end_executor(number)
        time.sleep(1)
        bench.start_executor()
    bench.wait_running(runs[CANCELLED], 2)
    bench.services.runs.cancel("ada", runs[CANCELLED])
    ended = bench.wait_ended(*runs)
    states = [run.state for run in ended]
    expected = ["succeeded"] * SWEEP
    expected[FAILS], expected[CANCELLED] = "failed", "cancelled"
    assert states == expected
    error = ended[FAILS].error
    assert error is not None
    assert error.name == "ValueError"
    assert [run.attempt for run in ended] == [2 if x == KILLED else 1 for x in range(SWEEP)]
    bench.wait_nothing_left()
    for x, run in enumerate(ended):
        output, log = bench.file(run.id, OUTPUT), bench.file(run.id, LOG)
        assert (f"squared: {x * x}" in output) is (run.state == "succeeded")
        assert run.state in log
    bench.assert_charged_as_shown()
    leases = bench.services.reports.leases_of("ada", 100)
    assert len(leases) == SWEEP + 1
    assert sum(lease.state == "voided" for lease in leases) == 1


def test_an_image_that_cannot_be_had_costs_nothing_and_is_not_tried_for_ever(bench: BatchBench) -> None:
    run = bench.submit(notebook("1"), image="none")
    bench.start_executor(image_seconds=3)
    (ended,) = bench.wait_ended(run.id)
    assert (ended.state, ended.attempt, ended.charged_microcredits) == ("failed", 2, 0)
    assert ended.error is not None
    assert "Pull" in ended.error.message
    bench.wait_nothing_left()
    assert {lease.state for lease in bench.services.reports.leases_of("ada", 100)} == {"voided"}
    bench.assert_charged_as_shown()


def test_without_a_batch_process_a_pod_ends_at_the_end_of_its_lease_and_nothing_is_lost(bench: BatchBench) -> None:
    run = bench.submit(notebook("print('early')", "import time; time.sleep(600)"), max_seconds=120)
    bench.start_executor()
    bench.wait_running(run.id, 2)
    bench.end_executor()
    wait_for(lambda: bench.pods_of(run.id)[0].status.phase in {"Failed", "Succeeded"}, BUSY_SECONDS)
    assert bench.pods_of(run.id)[0].status.reason == "DeadlineExceeded"
    bench.start_executor()
    (ended,) = bench.wait_ended(run.id)
    assert (ended.state, ended.attempt) == ("timed_out", 1)
    bench.wait_nothing_left()
    assert "early" in bench.file(run.id, OUTPUT)
    # The pod may live as long as its lease, which had begun before it.
    (lease,) = bench.services.reports.leases_of("ada", 100)
    charged_seconds = lease.charged_microcredits // lease.microcredits_per_second
    assert bench.seconds_of(lease) == charged_seconds
    assert 100 <= charged_seconds <= 120


def test_a_run_on_a_node_that_is_lost_is_tried_again_without_a_charge(bench: BatchBench) -> None:
    core, name = bench.cluster.core, f"ghost-{uuid.uuid4().hex[:6]}"
    soon = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
    tolerations = [{"key": f"node.kubernetes.io/{why}", **soon} for why in ("unreachable", "not-ready")]
    tolerations += [{"key": "ghost", "operator": "Exists"}]
    with ghost_node(core, name) as node:
        run = bench.submit(notebook("1"))
        bench.start_executor(node_selector={"ghost": name}, tolerations=tolerations)

        def pods() -> list[Any]:
            node.beat()
            return bench.pods_of(run.id)

        (pod,) = wait_for(pods, BUSY_SECONDS)
        node.run_pod(bench.cluster.namespace, pod.metadata.name)
        # The first thing that a runner does on a node that exists. From here on nobody tells of this one any more.
        assert RunDirectory.of(bench.directory / "runs", run.id).claim(1, pod.metadata.name)
        wait_for(lambda: bench.run(run.id).attempt == 2, BUSY_SECONDS)
        bench.services.runs.cancel("ada", run.id)
        (ended,) = bench.wait_ended(run.id)
    assert (ended.state, ended.charged_microcredits) == ("cancelled", 0)
    assert {lease.state for lease in bench.services.reports.leases_of("ada", 100)} == {"voided"}
    bench.assert_charged_as_shown()
