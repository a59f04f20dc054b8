"""Fixtures of the batch tests: real runners and kernels, each killed when its test is over."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from hub.batch.files import RunDirectory, RunSpec
from hub.batch.local import MARK
from hub.batch.processes import living_marked
from tests.batch.batch_harness import GIB, ROOT, FakeService, RunnerOfTest, notebook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[..., RunnerOfTest]]:
    """Make a run's directory from the notebook and what `run.json` may say."""
    made: list[RunnerOfTest] = []

    def make(book: nbformat.NotebookNode, **spec: Any) -> RunnerOfTest:
        directory = RunDirectory(tmp_path / "store" / f"run{len(made)}")
        directory.path.mkdir(parents=True)
        home = tmp_path / "homes" / "ada"
        home.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, directory.input)
        values = {"parameters": {}, "max_seconds": 60, "memory_bytes": 2 * GIB, **spec}
        directory.prepare(RunSpec(id=directory.path.name, attempt=1, person="ada", home=str(home), **values))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "MALLOC_ARENA_MAX": "2",
            MARK: str(directory.path),
        }
        made.append(RunnerOfTest(directory, environment=environment))
        return made[-1]

    yield make
    for run in made:
        for pid in run.living():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if run.process:
            run.process.wait()


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    fake.up()
    yield fake
    fake.down()


@pytest.fixture
def queue_run(service: FakeService, tmp_path: Path) -> Iterator[Callable[..., RunDirectory]]:
    """Queue a run with the service, as a submission does; whatever lives of it afterwards is killed."""
    queued: list[RunDirectory] = []

    def queue(*sources: str, defaults: str | None = None, **values: Any) -> RunDirectory:
        directory = RunDirectory(tmp_path / "store" / f"run{len(queued)}")
        directory.path.mkdir(parents=True)
        nbformat.write(notebook(*sources, defaults=defaults), directory.input)
        run_id = directory.path.name
        service.runs[run_id] = {
            "id": run_id,
            "person": "ada",
            "allocation": "a1",
            "size": "small",
            "resources": {"cores": 1, "memory_gib": 2, "gpus": 0, "gpu_type": None},
            "parameters": {},
            "max_seconds": 60,
            "state": "queued",
            "attempt": 1,
            "lease": "l1",
            **values,
        }
        service.queued.append(run_id)
        queued.append(directory)
        return directory

    yield queue
    for directory in queued:
        for pid in living_marked(MARK, str(directory.path)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
