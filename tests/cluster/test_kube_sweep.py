"""A sweep as Jobs on a real cluster: pods and executors are killed, the failed are retried, one sweep is cancelled."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from allocations.db.idempotency import IdempotencyKey
from allocations.runs.models import RunFilter, RunState
from allocations.runs.sweeps import Retry, SweepSubmission
from tests.batch.batch_harness import notebook, wait_for
from tests.cluster.kube_bench import unless_gone
from tests.cluster.test_kube_batch import BUSY_SECONDS, BatchBench, bench  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from allocations.runs.models import RunView
    from allocations.runs.sweep_models import SweepView

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]

# Fifty take half an hour where pods share two cores: `make sweeps` has them.
RUNS = int(os.environ.get("MERIDIAN_CLUSTER_SWEEP_RUNS", "10"))
AT_ONCE, SLOTS = 3, 4
CELL = """
import time
from hub.batch import record
if x % 10 == 7 and fails:
    raise ValueError(f"not with {x}")
time.sleep(seconds)
record("square", x * x)
"""


def submit(bench: BatchBench, rows: list[dict[str, Any]], at_once: int, **parameters: Any) -> SweepView:  # noqa: F811
    submission = SweepSubmission(
        person="ada",
        allocation=bench.allocation,
        size="tiny",
        name="sweep.ipynb",
        notebook=json.loads(nbformat.writes(notebook(CELL, defaults="x, seconds, fails = 0, 0.5, True"))),
        parameters=parameters,
        rows=rows,
        image="lab",
        max_seconds=600,
        at_once=at_once,
    )
    key = IdempotencyKey.for_request("ada", f"{len(rows)}-{parameters}", "sweep", {})
    return bench.services.sweeps.submit(submission, key)


def seen(bench: BatchBench, sweep: SweepView) -> SweepView:  # noqa: F811
    return bench.services.sweeps.get("ada", sweep.id)


def runs_of(bench: BatchBench, sweep: SweepView) -> list[RunView]:  # noqa: F811
    return bench.services.runs.list_of("ada", 1000, RunFilter(sweep=sweep.id))


def wait_ended(bench: BatchBench, sweep: SweepView) -> SweepView:  # noqa: F811
    wait_for(lambda: seen(bench, sweep).ended == sweep.rows, 4 * BUSY_SECONDS)
    return seen(bench, sweep)


def kill_a_pod(bench: BatchBench, sweep: SweepView, chosen: random.Random) -> bool:  # noqa: F811
    """Delete the pod of one of the runs that are under way; whether there was one."""
    running = [run for run in runs_of(bench, sweep) if run.state is RunState.RUNNING]
    pods = bench.pods_of(chosen.choice(running).id) if running else []
    killed = False
    for pod in pods:
        with unless_gone():
            bench.cluster.core.delete_namespaced_pod(pod.metadata.name, bench.cluster.namespace, grace_period_seconds=0)
            killed = True
    return killed


def assert_charged_as_shown(bench: BatchBench, *sweeps: SweepView) -> None:  # noqa: F811
    """Each lease of a sweep has the seconds that the API server showed; the sweep has the sum of its runs."""
    for sweep in sweeps:
        runs = runs_of(bench, sweep)
        assert seen(bench, sweep).charged_microcredits == sum(run.charged_microcredits for run in runs)
        assert seen(bench, sweep).held_microcredits == 0
        for run in runs:
            lease = bench.services.leases.get(run.lease) if run.lease else None
            if lease is None or lease.state == "voided":
                assert run.charged_microcredits == 0
                continue
            assert lease.state == "settled"
            assert run.charged_microcredits == bench.seconds_of(lease) * lease.microcredits_per_second, run


def test_a_sweep_loses_nothing_whoever_dies(bench: BatchBench) -> None:  # noqa: F811
    chosen = random.Random(RUNS)
    sweep = submit(bench, [{"x": number} for number in range(RUNS)], AT_ONCE)
    bench.start_executor(SLOTS)
    most, kills = 0, 0
    marks = [RUNS * part // 7 for part in range(1, 7)]
    while (now := seen(bench, sweep)).ended < RUNS:
        most = max(most, now.counts[RunState.ADMITTED] + now.counts[RunState.RUNNING])
        if marks and now.ended >= marks[0]:
            if not kill_a_pod(bench, sweep, chosen):
                time.sleep(0.5)
                continue
            kills += 1
            marks.pop(0)
            if len(marks) % 2:
                bench.end_executor(chosen.choice((signal.SIGKILL, signal.SIGTERM)))
                time.sleep(1)
                bench.start_executor(SLOTS)
        time.sleep(0.5)
    assert 1 <= most <= AT_ONCE
    assert kills
    # A pod that was deleted twice has used its attempts up: such a run, too, is retried.
    failed = [one for one in bench.services.sweeps.results("ada", sweep.id, -1) if one.state is not RunState.SUCCEEDED]
    assert {one.row for one in failed} >= {number for number in range(RUNS) if number % 10 == 7}
    assert len(failed) < RUNS // 2

    retried = bench.services.sweeps.retry(
        "ada", sweep.id, Retry(), IdempotencyKey.for_request("ada", "retry", "retry-sweep", {})
    )
    assert retried.counts[RunState.SUCCEEDED] == RUNS - len(failed)
    again = wait_ended(bench, sweep)
    results = bench.services.sweeps.results("ada", sweep.id, -1)
    assert again.failed == RUNS // 10, "they fail again, and nothing else does"
    for one in results:
        assert one.recorded == ({} if one.row % 10 == 7 else {"square": one.row**2})
        assert one.row in {run.row for run in failed} or one.charged_microcredits_before == 0

    other = submit(bench, [{"x": number} for number in range(8)], 2, seconds=500, fails=False)
    wait_for(lambda: seen(bench, other).counts[RunState.RUNNING], BUSY_SECONDS)
    assert bench.services.sweeps.cancel("ada", other.id).counts[RunState.QUEUED] == 0
    cancelled = wait_ended(bench, other)
    assert cancelled.counts[RunState.CANCELLED] == 8
    bench.wait_nothing_left()
    assert_charged_as_shown(bench, sweep, other)
    bench.assert_charged_as_shown()
