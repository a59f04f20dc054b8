"""From inside a notebook: a real kernel submits to the real service, waits with its progress shown, reads what came."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from click.testing import CliRunner
from jupyter_client.manager import start_new_kernel

from hub.batch import client
from hub.batch.commands import batch
from tests.batch.batch_harness import ROOT, notebook
from tests.batch.real_service import real_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.batch.real_service import RealService

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealService]:
    with real_service(tmp_path, monkeypatch) as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        yield served


def write(path: Path, *sources: str, defaults: str) -> Path:
    nbformat.write(notebook(*sources, defaults=defaults), path)
    return path


def executed_in_kernel(directory: Path, *sources: str, **environment: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Execute cells in one kernel; return what was printed, and each display or update of one."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    manager, kernel = start_new_kernel(
        startup_timeout=120, cwd=str(directory), env={**os.environ, "PYTHONPATH": path, **environment}
    )
    printed: list[str] = []
    shown: list[dict[str, Any]] = []

    def hook(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            printed.append(content["text"])
        elif message["msg_type"] in ("display_data", "update_display_data"):
            shown.append({"update": message["msg_type"].startswith("update"), **content})
        elif message["msg_type"] == "error":
            printed.append("\n".join(content["traceback"]))

    try:
        for source in sources:
            kernel.execute_interactive(source, timeout=200, output_hook=hook)
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
    return printed, shown


def test_a_notebook_submits_another_waits_and_reads_what_it_made(service: RealService, tmp_path: Path) -> None:
    write(tmp_path / "this.ipynb", "print('alpha is', alpha)", defaults="alpha = 0")
    printed, shown = executed_in_kernel(
        tmp_path,
        "from hub.batch import client\nrun = client.wait(client.submit('this.ipynb', alpha=1))",
        "print(run.state, run.parameters, run.source, client.output(run, 'done.ipynb'))",
        # As in a person's server: the platform's own token, and a home in which the notebook lies.
        HOME=str(tmp_path),
        JUPYTERHUB_USER="ann",
        MERIDIAN_TOKEN="",
        JUPYTERHUB_API_TOKEN="ann's token",
        IPYTHONDIR=str(tmp_path / "ipython"),
    )
    assert "".join(printed).strip() == "succeeded {'alpha': 1} home this.ipynb done.ipynb"
    assert "alpha is 1" in (tmp_path / "done.ipynb").read_text()
    assert [one["update"] for one in shown] == [False] + [True] * (len(shown) - 1)
    assert "<progress" in shown[0]["data"]["text/html"]
    assert "this.ipynb: succeeded, 2 of 2 cells" in shown[-1]["data"]["text/plain"]
    assert len({one["transient"]["display_id"] for one in shown}) == 1
    [run] = service.services.runs.list_of("ann")
    assert (run.allocation, run.size) == (service.allocation, "small")


def test_several_are_waited_for_and_one_is_tried_again(
    service: RealService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.ipynb", "1 / n", defaults="n = 1")
    good, bad = client.submit(path, size="small", n=2), client.submit(path, retries=1, parameters={"n": 0})
    ended = client.wait(good, bad.id)
    assert isinstance(ended, list)
    assert [(run.state, run.attempt, run.retried) for run in ended] == [("succeeded", 1, 0), ("failed", 2, 1)]
    told = capsys.readouterr().err
    assert "a.ipynb: succeeded" in told
    assert "ZeroDivisionError" in (ended[1].error.name if ended[1].error else "")
    assert "division by zero" in told
    log = (service.store / bad.id / "log.txt").read_text()
    assert log.count("ZeroDivisionError") >= 2, "the log keeps every attempt"
    assert [run.id for run in client.runs()] == sorted([good.id, bad.id], key=[bad.id, good.id].index)


def test_a_run_from_a_notebook_takes_the_terms_of_every_run(service: RealService, tmp_path: Path) -> None:
    service.services.secrets.put("ann", "TOKEN", "a")
    path = write(tmp_path / "a.ipynb", "import os; assert ('TOKEN' in os.environ) == taken", defaults="taken = False")
    first = client.submit(path)
    with client.BatchClient.from_environment() as asking:
        sweep = asking.sweeps.submit(path, service.allocation, "small", rows=[{"taken": False}])
    second = client.submit(path, after=first, environment="TOKEN", save_to="home:made", retries=1, taken=True)
    third = client.submit(
        path, after=[first.id, second, sweep], even_if_failed=True, environment=["TOKEN"], parameters={"taken": True}
    )
    assert (second.environment, second.output, second.retries) == (("TOKEN",), "home:made", 1)
    assert (second.waits_for, [one.run for one in second.after]) == ("succeeded", [first.id])
    assert (third.waits_for, {one.id for one in third.after}) == (
        "ended",
        {first.id, second.id, sweep.id},
    )
    ended = client.wait(first, second, third)
    assert isinstance(ended, list)
    assert [run.state for run in ended] == ["succeeded"] * 3
    assert list((service.store.parent / "homes/ann/made").rglob("a.ipynb"))


def test_what_a_notebook_does_not_take_is_refused_before_anything_runs(service: RealService, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "n", defaults="n = 1  # how many")
    with pytest.raises(client.ServiceRefusalError, match=r"no parameter m\. Its parameters are: n\.") as refused:
        client.submit(path, m=1)
    assert refused.value.code == "invalid_parameters"
    with pytest.raises(client.ServiceRefusalError, match="n takes a whole number; what was given is text"):
        client.submit(path, n="many")
    [parameter] = client.parameters(path) or []
    assert (parameter.name, parameter.kind, parameter.default, parameter.help) == ("n", "int", 1, "how many")
    assert service.services.runs.list_of("ann") == []


def test_the_command_line_reads_values_as_the_notebook_takes_them(service: RealService, tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.ipynb", "1", defaults="n = 1.5\nfield = 'm31'  # which\nbands = []"))
    runner = CliRunner()
    listed = json.loads(runner.invoke(batch, ["parameters", path, "--json"]).stdout)
    assert [one["kind"] for one in listed] == ["float", "str", "list"]
    options = ["--allocation", service.allocation, "--size", "small", "--retries", "1", "--json"]
    given = ["-p", "n", "2", "-p", "field", "31", "-p", "bands", "[F158]"]
    sent = runner.invoke(batch, ["submit", path, *given, *options])
    assert sent.exit_code == 0, sent.output
    run = json.loads(sent.stdout)
    assert run["parameters"] == {"n": 2, "field": "31", "bands": ["F158"]}
    assert (run["retries"], run["source"]["kind"], run["source"]["path"]) == (1, "upload", "a.ipynb")
    for bad in (["-p", "n", "many"], ["-p", "x", "1"]):
        assert runner.invoke(batch, ["submit", path, *bad, *options]).exit_code == 1
    assert runner.invoke(batch, ["submit", str(tmp_path / "none.ipynb"), *options]).exit_code == 1
