"""The examples for workflow engines: the plain client against the real service, the thin wrappers over it."""

from __future__ import annotations

import importlib
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from tests.batch.batch_harness import ROOT, FakeService, notebook
from tests.batch.real_service import real_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hub.batch.files import RunDirectory
    from tests.batch.real_service import RealService

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Import an example as it lies beside the others, with what it imports of an engine stood in for."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    imported: list[str] = []

    def load(name: str, **modules: ModuleType) -> Any:
        for module, stand_in in modules.items():
            monkeypatch.setitem(sys.modules, module.replace("__", "."), stand_in)
        imported.append(name)
        return importlib.import_module(name)

    yield load
    for name in (*imported, "meridian_runs"):
        sys.modules.pop(name, None)


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealService]:
    with real_service(tmp_path, monkeypatch) as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        yield served


def write(directory: Path, name: str, source: str, defaults: str) -> Path:
    path = directory / name
    nbformat.write(notebook(source, defaults=defaults), path)
    return path


@pytest.mark.slow
def test_a_run_is_submitted_waited_for_and_read(real: RealService, example: Callable[..., Any], tmp_path: Path) -> None:
    module = example("meridian_runs")
    runs = module.MeridianRuns(real.url, "ann's token", sleep=lambda _: time.sleep(0.2))
    path = write(tmp_path, "reduce.ipynb", "print(10 / n)", "n = 1")
    what = {"allocation": real.allocation, "size": "small", "retries": 0}
    first = runs.submit(path, key="dag/reduce/1", parameters={"n": 4}, **what)
    assert runs.submit(path, key="dag/reduce/1", parameters={"n": 4}, **what)["id"] == first["id"]
    with pytest.raises(module.MeridianError) as refused:
        runs.submit(path, key="dag/reduce/1", parameters={"n": 5}, **what)
    assert refused.value.code == "idempotency_conflict"
    with pytest.raises(module.MeridianError, match="has no parameter m") as refused:
        runs.submit(path, key="dag/reduce/2", parameters={"m": 5}, **what)
    assert refused.value.code == "invalid_parameters"
    ended = runs.wait(first["id"])
    assert (ended["state"], ended["parameters"]) == ("succeeded", {"n": 4})
    assert b"2.5" in runs.output(first["id"])
    broken = runs.submit(path, key="dag/reduce/3", parameters={"n": 0}, **what)
    with pytest.raises(module.RunFailedError, match="division by zero"):
        runs.wait(broken["id"])
    assert runs.cancel(broken["id"])["state"] == "failed"
    with pytest.raises(module.MeridianError) as refused:
        module.MeridianRuns(real.url, "no token").get(first["id"])
    assert refused.value.code == "not_signed_in"


def test_an_answer_that_gets_lost_is_asked_for_again_under_the_same_key(
    service: FakeService, queue_run: Callable[..., RunDirectory], example: Callable[..., Any], tmp_path: Path
) -> None:
    queue_run("x = 1")
    service.failures = [(503, {}), (429, {})]
    pauses: list[float] = []
    module = example("meridian_runs")
    runs = module.MeridianRuns(service.base, "t", sleep=pauses.append)
    path = write(tmp_path, "a.ipynb", "1", "n = 1")
    assert runs.submit(path, key="k", allocation="a1", size="small")["id"] == "run0"
    assert pauses == [1.0, 2.0]
    assert [headers["Idempotency-Key"] for _, _, _, headers in service.calls] == ["k"] * 3
    service.down()
    with pytest.raises(module.MeridianError, match="does not answer") as gone:
        runs.get("run0")
    assert gone.value.code == "unavailable"
    assert sum(pauses[2:]) >= runs.patience_seconds


class BaseOperator:
    """As much of Airflow's as the operator uses."""

    def __init__(self, **options: Any) -> None:
        self.task_id = options["task_id"]


@pytest.mark.slow
def test_the_airflow_operator_finds_its_run_again_and_cancels_it(
    real: RealService, example: Callable[..., Any], tmp_path: Path
) -> None:
    models = ModuleType("airflow.models")
    models.BaseOperator = BaseOperator  # type: ignore[attr-defined]
    module = example("airflow_operator", airflow=ModuleType("airflow"), airflow__models=models)
    path = write(tmp_path, "reduce.ipynb", "print(n)", "n = 1")
    values = {"notebook": str(path), "allocation": real.allocation, "size": "small", "parameters": {"n": 2}}
    ti = SimpleNamespace(dag_id="d", task_id="reduce", run_id="r1", map_index=-1, try_number=1)
    operator = module.MeridianRunOperator(task_id="reduce", **values)
    run = operator.execute({"ti": ti})
    # The worker was killed before it could say so, and another one begins anew.
    assert module.MeridianRunOperator(task_id="reduce", **values).execute({"ti": ti}) == run
    assert [one.parameters for one in real.services.runs.list_of("ann")] == [{"n": 2}]
    operator.run = real.services.runs.list_of("ann")[0].id
    operator.on_kill()


@pytest.mark.slow
def test_the_prefect_flow_runs_tasks_at_the_same_time_and_sums_their_cost(
    real: RealService, example: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = iter(range(100))

    class TaskRun:
        run_count = 1

        @property
        def id(self) -> str:
            return f"task-{next(counted)}"

    class Task:
        def __init__(self, function: Callable[..., Any]) -> None:
            self.function = function

        def __call__(self, *arguments: Any) -> Any:
            return self.function(*arguments)

        def submit(self, *arguments: Any) -> Any:
            value = self.function(*arguments)
            return SimpleNamespace(result=lambda: value)

    prefect, runtime = ModuleType("prefect"), ModuleType("prefect.runtime")
    prefect.task, prefect.flow = Task, lambda function: function  # type: ignore[attr-defined]
    runtime.task_run = TaskRun()  # type: ignore[attr-defined]
    module = example("prefect_flow", prefect=prefect, prefect__runtime=runtime)
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "reduce.ipynb", "import time; time.sleep(1.1)", "detector = ''")
    write(tmp_path, "measure.ipynb", "print(len(runs))", "runs = []")
    monkeypatch.setattr("meridian_runs.MeridianRuns.wait.__defaults__", (0.2,))
    cost = module.reduce_and_measure(real.allocation, ["WFI01", "WFI02"])
    found = real.services.runs.list_of("ann")
    assert [run.state for run in found] == ["succeeded"] * 3
    assert cost == sum(run.charged_microcredits for run in found) > 0


def test_the_page_names_the_files_that_there_are() -> None:
    page = (ROOT / "docs" / "batch-from-airflow-and-prefect.md").read_text()
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        name for name in ("meridian_runs.py", "airflow_operator.py", "prefect_flow.py") if f"examples/{name}" in page
    }
