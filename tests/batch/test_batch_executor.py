"""The executor with real runners: whatever dies or goes away, each run is reported once, and truly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from hub.batch.backend import Running
from hub.batch.executor import DRAIN_SECONDS, Executor, only_executor
from hub.batch.local import MARK, LocalBackend
from hub.batch.model import now_utc
from hub.batch.observe import Metrics
from hub.batch.processes import living_marked
from hub.batch.service import ExecutorService
from tests.batch.batch_harness import ROOT, FakeService, notebook, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hub.batch.files import RunDirectory

    QueueRun = Callable[..., RunDirectory]

pytestmark = pytest.mark.slow

SECRET = "token-of-the-executor"
SLEEP = "import time; time.sleep(60)"


class Clock:
    """Monotonic seconds that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class ExecutorOfTest:
    """An executor in this process, whose loops the test turns."""

    def __init__(self, service: FakeService, path: Path) -> None:
        self.clock = Clock()
        self.ahead = timedelta()
        self.metrics = Metrics()
        environment = {**os.environ, "MERIDIAN_TOKEN_BATCH": SECRET}
        connected = ExecutorService.connect(service.url, SECRET, "batch")
        self.backend = LocalBackend(path / "store", path / "homes", environment, environment_of=connected.environment)
        self.executor = Executor(
            connected,
            self.backend,
            path / "store",
            self.metrics,
            slots=2,
            clock=lambda: now_utc() + self.ahead,
            monotonic=self.clock,
        )

    def tick(self) -> None:
        self.executor.tick()

    def tick_until(self, what: Callable[[], Any], seconds: float = 120) -> Any:
        def turn() -> Any:
            self.tick()
            return what()

        return wait_for(turn, seconds)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def make_executor(service: FakeService, tmp_path: Path) -> Iterator[Callable[[], ExecutorOfTest]]:
    """Make an executor; a second one is what a restart makes."""
    made: list[ExecutorOfTest] = []

    def make() -> ExecutorOfTest:
        made.append(ExecutorOfTest(service, tmp_path))
        return made[-1]

    yield make
    for executor in made:
        while executor.backend.running():
            time.sleep(0.05)


@pytest.fixture
def executor(make_executor: Callable[[], ExecutorOfTest]) -> ExecutorOfTest:
    return make_executor()


@pytest.fixture
def start_executor(service: FakeService, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start the executor's process as the platform does."""
    processes: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "MERIDIAN_ALLOCATIONS_URL": service.url,
            "MERIDIAN_TOKEN_BATCH": SECRET,
            "MERIDIAN_RUN_STORE": str(tmp_path / "store"),
            "MERIDIAN_HOMES": str(tmp_path / "homes"),
            "MERIDIAN_BATCH_METRICS_PORT": "0",
        }
        command = [sys.executable, "-m", "hub.batch.executor"]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def runs_cell(directory: RunDirectory, cell: int) -> bool:
    progress = directory.read_progress()
    return progress is not None and progress.current_cell == cell


def test_a_queued_run_is_executed_and_reported(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun, tmp_path: Path
) -> None:
    run = queue_run("print(dict(__import__('os').environ))", defaults="n = 1", parameters={"n": 2})
    executor.tick_until(lambda: service.finishes("run0"))
    (report,) = service.finishes("run0")
    progress = [body for _, path, body, _ in service.calls if path == "/runs/run0/progress"]
    assert report["outcome"] == "succeeded"
    assert report["started_at"] == progress[0]["started_at"]
    assert progress[-1]["cells_done"] == progress[-1]["cells_total"] == 2
    assert [body for n, body in enumerate(progress) if body in progress[:n]] == [], "only when it changed"
    assert SECRET not in run.log.read_text()
    assert (tmp_path / "homes" / "ada").stat().st_mode & 0o777 == 0o700
    assert executor.metric("meridian_batch_runs_total", outcome="succeeded") == 1


def test_a_start_is_reported_when_its_place_tells_it_whatever_the_runner_says_before(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reported() -> list[Any]:
        return [body["started_at"] for _, path, body, _ in service.calls if path == "/runs/run0/progress"]

    run = queue_run("import time; time.sleep(1)")
    with monkeypatch.context() as place:
        place.setattr(executor.backend, "look", lambda _: Running(None))
        executor.tick_until(lambda: runs_cell(run, 1))
        executor.tick()
        assert reported() == []
        place.setattr(executor.backend, "look", lambda _: Running("2026-11-21T12:00:00.000Z"))
        executor.tick()
        assert reported() == ["2026-11-21T12:00:00.000Z"]
    executor.tick_until(lambda: service.finishes("run0"))


def test_a_run_that_ends_while_the_service_is_away_is_reported_with_its_own_times(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun
) -> None:
    run = queue_run("import time; time.sleep(1)")
    executor.tick_until(lambda: runs_cell(run, 1))
    service.down()
    for _ in range(3):
        executor.tick()
    assert executor.metric("meridian_batch_service_errors_total", code="unavailable") == 1, "asks less often"
    result = executor.tick_until(lambda: run.read_result(1))
    executor.clock.seconds += 60
    executor.tick()
    service.up()
    executor.clock.seconds += 60
    executor.tick_until(lambda: service.finishes("run0"))
    executor.tick()
    (report,) = service.finishes("run0")
    assert (report["outcome"], report["ended_at"]) == ("succeeded", result.ended_at)


def test_a_restarted_executor_adopts_the_run_of_a_killed_one_and_reports_it_once(
    start_executor: Callable[[], subprocess.Popen[str]], service: FakeService, queue_run: QueueRun, tmp_path: Path
) -> None:
    run = queue_run("import time; open('ran', 'a').write('x'); time.sleep(3)")
    first = start_executor()
    wait_for(lambda: service.runs["run0"]["state"] == "running")
    runner = run.read_process()
    first.kill()
    first.wait()
    second = start_executor()
    wait_for(lambda: service.finishes("run0"))
    assert run.read_process() == runner, "it was adopted, not started again"
    assert (tmp_path / "homes" / "ada" / "ran").read_text() == "x"
    second.send_signal(signal.SIGTERM)
    output, _ = second.communicate(timeout=10)
    assert [report["outcome"] for report in service.finishes("run0")] == ["succeeded"]
    lines = [json.loads(line) for line in output.splitlines()]
    (end,) = [line for line in lines if line["message"] == "The run has ended"]
    assert (end["run"], end["person"], end["allocation"], end["lease"]) == ("run0", "ada", "a1", "l1")
    assert SECRET not in output


def test_a_run_that_was_claimed_but_not_started_is_started(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun
) -> None:
    queue_run("x = 1")
    service.answer("POST", "/runs/claim", {"limit": 1})
    executor.tick_until(lambda: service.finishes("run0"))
    assert service.finishes("run0")[0]["outcome"] == "succeeded"


def test_a_run_whose_runner_dies_is_lost_and_its_next_attempt_starts_afresh(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun
) -> None:
    run = queue_run(SLEEP)
    executor.tick_until(lambda: service.runs["run0"]["state"] == "running" and runs_cell(run, 1))
    runner = run.read_process()
    assert runner is not None
    os.kill(runner.pid, signal.SIGKILL)
    executor.tick_until(lambda: service.finishes("run0"))
    (report,) = service.finishes("run0")
    assert (report["outcome"], report["error"]["name"]) == ("lost", "Lost")
    assert not living_marked(MARK, str(run.path))
    # What the first attempt left, even a result, says nothing about the second.
    (run.path / "result.json").write_text(
        json.dumps({"attempt": 1, "outcome": "failed", "started_at": None, "ended_at": "x", "error": None})
    )
    nbformat.write(notebook("x = 1"), run.input)
    service.runs["run0"].update(state="admitted", attempt=2)
    executor.tick_until(lambda: len(service.finishes("run0")) == 2)
    assert service.finishes("run0")[1]["outcome"] == "succeeded"


def test_no_copy_of_a_sweeps_notebook_is_left_when_the_end_is_told(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An executor that is killed as soon as the service knows does not come back to the run."""
    sweep = queue_run("x = 1")
    service.queued.clear()
    run = queue_run(sweep="run0")
    run.input.unlink()
    copies: dict[str, bool] = {}

    def answer(method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        copies[path] = run.input.exists()
        return FakeService.answer(service, method, path, body)

    monkeypatch.setattr(service, "answer", answer)
    executor.tick_until(lambda: service.finishes("run1"))
    assert service.finishes("run1")[0]["outcome"] == "succeeded"
    assert copies["/runs/run1/progress"]
    assert not copies["/runs/run1/finish"]
    assert sweep.input.exists()


def test_an_attempt_starts_although_the_process_of_an_earlier_one_lives(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun
) -> None:
    run = queue_run(SLEEP)
    executor.tick_until(lambda: runs_cell(run, 1))
    runner = run.read_process()
    assert runner is not None
    os.kill(runner.pid, signal.SIGSTOP)
    nbformat.write(notebook("x = 1"), run.input)
    service.runs["run0"].update(state="queued", attempt=2)
    service.queued.append("run0")
    executor.tick_until(lambda: service.finishes("run0"))
    assert [report["outcome"] for report in service.finishes("run0")] == ["succeeded"]


def test_a_cancelled_run_that_does_not_stop_is_killed_after_ten_seconds(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun
) -> None:
    run = queue_run(SLEEP)
    executor.tick_until(lambda: service.runs["run0"]["state"] == "running")
    runner = run.read_process()
    assert runner is not None
    os.kill(runner.pid, signal.SIGSTOP)
    service.runs["run0"]["cancel_requested"] = True
    executor.tick()
    executor.clock.seconds += 9.9
    executor.tick()
    assert living_marked(MARK, str(run.path))
    executor.clock.seconds += 0.2
    executor.tick()
    assert not living_marked(MARK, str(run.path))
    executor.tick_until(lambda: service.finishes("run0"))
    assert service.finishes("run0")[0]["outcome"] == "cancelled"


def test_a_runner_that_cannot_keep_its_deadline_is_killed_and_its_run_has_timed_out(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun
) -> None:
    run = queue_run(SLEEP, max_seconds=3600)
    executor.tick_until(lambda: runs_cell(run, 1))
    runner = run.read_process()
    assert runner is not None
    os.kill(runner.pid, signal.SIGSTOP)
    for ahead, lives in ((3000, True), (3621, False)):
        executor.ahead = timedelta(seconds=ahead)
        executor.tick()
        executor.clock.seconds += 11
        executor.tick()
        assert bool(living_marked(MARK, str(run.path))) is lives
    executor.tick_until(lambda: service.finishes("run0"))
    assert service.finishes("run0")[0]["outcome"] == "timed_out"


def test_a_run_that_nobody_cancelled_is_lost_when_its_runner_is_stopped(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun
) -> None:
    run = queue_run(SLEEP)
    executor.tick_until(lambda: runs_cell(run, 1))
    runner = run.read_process()
    assert runner is not None
    os.kill(runner.pid, signal.SIGTERM)
    executor.tick_until(lambda: service.finishes("run0"))
    assert [report["outcome"] for report in service.finishes("run0")] == ["lost"]


def test_a_stopping_executor_gives_its_runs_back_as_lost(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun
) -> None:
    run = queue_run(SLEEP)
    executor.tick_until(lambda: runs_cell(run, 1))
    stop = threading.Event()
    stop.set()
    began = time.monotonic()
    executor.executor.run(stop)
    assert time.monotonic() - began < DRAIN_SECONDS
    assert [report["outcome"] for report in service.finishes("run0")] == ["lost"]
    # A runner's result comes a moment before its end.
    wait_for(lambda: not living_marked(MARK, str(run.path)))


def test_a_run_that_is_no_longer_the_executors_is_stopped_but_not_when_the_service_is_away(
    make_executor: Callable[[], ExecutorOfTest], service: FakeService, queue_run: QueueRun
) -> None:
    run = queue_run(SLEEP)
    make_executor().tick_until(lambda: runs_cell(run, 1))
    service.runs["run0"]["state"] = "failed"
    restarted = make_executor()
    service.failures = [(403, {"code": "forbidden", "detail": "No."})]
    restarted.tick()
    time.sleep(0.2)
    assert run.read_result(1) is None
    restarted.clock.seconds += 2
    restarted.tick_until(lambda: not living_marked(MARK, str(run.path)))
    assert service.finishes("run0") == []


def test_a_run_that_cannot_be_started_is_given_back_with_the_reason(
    executor: ExecutorOfTest, service: FakeService, queue_run: QueueRun, tmp_path: Path
) -> None:
    queue_run("x = 1", person="../eve")
    executor.tick()
    (report,) = service.finishes("run0")
    assert (report["outcome"], report["error"]["name"]) == ("lost", "StartFailed")
    assert "'../eve'" in report["error"]["message"]
    assert not (tmp_path / "eve").exists()


def test_one_name_on_a_run_store_has_one_executor(tmp_path: Path) -> None:
    held = only_executor(tmp_path, "batch")
    assert held is not None
    assert only_executor(tmp_path, "batch") is None
    os.close(held)
