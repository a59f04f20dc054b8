"""Runs as Jobs on a real cluster: what their records say, how they end, and where their secrets are not."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from allocations.db.idempotency import IdempotencyKey
from allocations.runs.files import LOG
from allocations.runs.service import Submission
from hub.batch.files import RunDirectory
from tests.batch.batch_harness import notebook
from tests.cluster.test_kube_batch import bench  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from allocations.runs.models import RunView
    from tests.cluster.test_kube_batch import BatchBench

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

# More than the container has, in processes of which each is within its own limit. Where the machine ends only one of
# them, the notebook's own ends by its own hand: either way the memory of the run was at an end.
TOO_MUCH = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        try:
            block = bytearray(os.urandom(2**20)) * {mebibytes}
            time.sleep(600)
        finally:
            os._exit(1)
os.wait()
os.kill(os.getpid(), 9)
"""


def submit(bench: BatchBench, book: nbformat.NotebookNode, **changes: Any) -> RunView:  # noqa: F811
    values: dict[str, Any] = {"size": "tiny", "name": "n.ipynb", "parameters": {}, "image": "lab", "max_seconds": 600}
    submission = Submission("ada", bench.allocation, notebook=json.loads(nbformat.writes(book)), **values | changes)
    return bench.services.runs.submit(submission, key())


def key() -> IdempotencyKey:
    return IdempotencyKey.for_request("ada", os.urandom(8).hex(), "submit", {})


def test_a_record_has_the_images_digest_and_the_node_and_a_replay_makes_the_same(
    bench: BatchBench,  # noqa: F811
) -> None:
    bench.start_executor()
    original = submit(bench, notebook("print(n * 2)", defaults="n = 1"), parameters={"n": 21})
    bench.wait_ended(original.id)
    record = bench.services.records.of("ada", original.id)
    assert record.provenance is not None
    assert record.provenance.image_id, "as the node says"
    assert record.provenance.node in {node.metadata.name for node in bench.cluster.core.list_node().items}
    assert record.packages
    assert len(record.provenance.cells) == 2
    replay = bench.services.records.replay("ada", original.id, key())
    bench.wait_ended(replay.id)
    comparison = bench.services.records.of("ada", replay.id).comparison
    assert comparison is not None
    assert comparison.same_output is True, comparison
    bench.assert_charged_as_shown()


def test_each_way_to_end_has_its_own_code(bench: BatchBench) -> None:  # noqa: F811
    bench.start_executor()
    mebibytes = int(bench.services.policy.size("tiny").memory_gib * 1024 * 0.35)
    died = submit(bench, notebook("import os; os.kill(os.getpid(), 11)"))
    memory = submit(bench, notebook(f"block = bytearray({mebibytes * 8} * 2**20)"))
    killed = submit(bench, notebook(TOO_MUCH.format(mebibytes=mebibytes)))
    slow = submit(bench, notebook("import time; time.sleep(600)"), max_seconds=90)
    ended = bench.wait_ended(died.id, memory.id, killed.id, slow.id)
    assert [run.end_code for run in ended] == ["kernel_died", "out_of_memory", "out_of_memory", "timed_out"]
    assert all(run.remedy for run in ended)
    bench.wait_nothing_left()
    bench.assert_charged_as_shown()


def test_a_pod_gets_its_secrets_and_no_object_of_the_cluster_has_them(bench: BatchBench) -> None:  # noqa: F811
    value = f"s3cret-{os.urandom(8).hex()}"
    bench.services.secrets.put("ada", "SURVEY_TOKEN", value)
    bench.start_executor()
    code = "import os, time\nprint('length', len(os.environ['SURVEY_TOKEN']))\ntime.sleep(30)"
    run = submit(bench, notebook(code), environment=("SURVEY_TOKEN",))
    bench.wait_running(run.id, 1)
    api = bench.cluster.core.api_client
    namespace = bench.cluster.namespace
    objects = [
        *bench.cluster.core.list_namespaced_pod(namespace).items,
        *bench.jobs.list_namespaced_job(namespace).items,
        *bench.cluster.core.list_namespaced_secret(namespace).items,
        *bench.cluster.core.list_namespaced_config_map(namespace).items,
    ]
    assert value not in json.dumps(api.sanitize_for_serialization(objects))
    (ended,) = bench.wait_ended(run.id)
    assert (ended.state, ended.error) == ("succeeded", None)
    assert f"length {len(value)}" in bench.file(run.id, LOG)
    for path in RunDirectory.of(bench.directory / "runs", run.id).path.rglob("*"):
        assert not path.is_file() or value.encode() not in path.read_bytes(), path
    assert value not in (bench.directory / "batch.log").read_text()


def test_a_secret_that_is_gone_when_the_turn_comes_takes_no_pod(bench: BatchBench) -> None:  # noqa: F811
    bench.services.secrets.put("ada", "SURVEY_TOKEN", "value")
    run = submit(bench, notebook("1"), environment=("SURVEY_TOKEN",))
    bench.services.secrets.remove("ada", "SURVEY_TOKEN")
    bench.start_executor()
    (ended,) = bench.wait_ended(run.id)
    assert (ended.end_code, ended.charged_microcredits) == ("secret_missing", 0)
    assert bench.pods_of(run.id) == []


def test_output_is_saved_by_the_pod_into_the_home(bench: BatchBench) -> None:  # noqa: F811
    bench.start_executor()
    run = submit(bench, notebook("print('made')"), output="home:results")
    (ended,) = bench.wait_ended(run.id)
    assert ended.state == "succeeded"
    assert f"Saved to /home/jovyan/results/{run.id}" in bench.file(run.id, LOG)
