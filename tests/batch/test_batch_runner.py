"""The runner: how a notebook ends, what is kept of it, and that nothing of it lives on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hub.batch.notebook import NotebookFailedError, check_parameters, load_notebook
from hub.batch.processes import living_descendants, read_stat
from hub.batch.runner import EXIT_TAKEN
from tests.batch.batch_harness import GIB, notebook, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    import nbformat

    from tests.batch.batch_harness import RunnerOfTest

    MakeRun = Callable[..., RunnerOfTest]

pytestmark = pytest.mark.slow

SLEEP = "import time\nprint('asleep', flush=True)\ntime.sleep(60)"


def statuses(run: RunnerOfTest) -> list[str]:
    """What the saved notebook says of each cell, without papermill's own."""
    told = [cell.metadata.get("papermill", {}).get("status") for cell in run.output.cells]
    return [status for status in told if status]


def ended(run: RunnerOfTest) -> tuple[RunnerOfTest, dict[str, Any]]:
    """The run and its result, once it has ended."""
    run.start()
    return run, run.finish()


def test_parameters_reach_the_notebook_which_runs_in_the_persons_home(make_run: MakeRun) -> None:
    book = notebook(
        "import os; open('made', 'w').write(str(n * 2)); print(os.getcwd(), dict(os.environ))",
        "1 / 0",
        "import sys; print('end'); sys.exit()",
        defaults="n = 1\noptions = dict(a=1)",
    )
    # papermill takes an expected exception for a failure; Jupyter, and so the person, does not.
    book.cells[2].metadata["tags"] = ["raises-exception"]
    run, result = ended(make_run(book, parameters={"n": 21, "options": {"a": 2}}))
    assert (result["outcome"], result["error"]) == ("succeeded", None)
    assert result["started_at"] < result["ended_at"]
    home = Path(run.environment["HOME"])
    assert (home / "made").read_text() == "42"
    assert str(home) in run.log
    assert "end" in run.log
    assert "PYTHONPATH" not in run.log, "the runner's own variables stay with the runner"
    progress = run.directory.read_progress()
    assert progress is not None
    assert (progress.cells_done, progress.cells_total) == (3, 4), "the injected cell is not the person's"
    assert "papermill-error-cell-tag" not in run.directory.output.read_text()
    assert not run.living()


def test_a_failing_cell_is_named_as_in_the_submitted_notebook(make_run: MakeRun) -> None:
    book = notebook("print('before')", "\n# bad\nraise ValueError('bad FPA WFI07')", "x = 1", defaults="n = 1")
    run, result = ended(make_run(book, parameters={"n": 2}))
    error = result["error"]
    assert (result["outcome"], error["cell"], error["name"], error["code"]) == (
        "failed",
        3,
        "ValueError",
        "notebook_error",
    )
    assert error["message"] == "In cell 3 “# bad”: bad FPA WFI07"
    assert "raise ValueError('bad FPA WFI07')" in error["traceback"]
    assert "\x1b" not in error["traceback"] + run.log
    assert "before" in run.log


def test_a_dead_kernel_fails_the_run_and_the_notebook_does_not_claim_success(make_run: MakeRun) -> None:
    book = notebook("x = 1", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "x = 2")
    run, result = ended(make_run(book))
    error = result["error"]
    assert (result["outcome"], error["cell"], error["name"]) == ("failed", 2, "KernelDied")
    assert error["code"] == "kernel_died"
    assert "signal 9" in error["message"]
    assert "larger size" in error["message"]
    assert statuses(run) == ["completed", "failed", "pending"]


def test_memory_beyond_the_size_is_a_memory_error(make_run: MakeRun) -> None:
    _, result = ended(make_run(notebook("block = bytearray(900 * 2**20)"), memory_bytes=GIB // 2))
    assert (result["outcome"], result["error"]["name"]) == ("failed", "MemoryError")
    assert result["error"]["code"] == "out_of_memory"
    assert "0.5 GiB of memory of this run's size were not enough in cell 1" in result["error"]["message"]


def test_a_kernel_without_memory_to_start_completes_no_cell(make_run: MakeRun) -> None:
    run, result = ended(make_run(notebook("x = 1", "x = 2"), memory_bytes=GIB // 32))
    assert (result["error"]["name"], result["error"]["code"]) == ("KernelDidNotStart", "kernel_did_not_start")
    assert statuses(run) == ["failed", "pending"]


def test_an_unknown_parameter_is_refused_before_a_kernel_starts(make_run: MakeRun) -> None:
    run, result = ended(make_run(notebook("x = 1", defaults="n = 1\nm = 2"), parameters={"nosuch": 3}))
    assert (result["outcome"], result["error"]["name"]) == ("failed", "UnknownParameter")
    assert "no parameter 'nosuch'. Its parameters are: m, n." in result["error"]["message"]
    assert not run.directory.output.exists()


def test_parameters_for_a_notebook_without_any_are_refused() -> None:
    with pytest.raises(NotebookFailedError, match="takes no parameters, but 'a' came") as refused:
        check_parameters(load_book(notebook("x = 1")), {"a": 1})
    assert refused.value.error.name == "UnknownParameter"


@pytest.mark.parametrize("name", ["plain", "typed", "first", "second", "called", "several"])
def test_every_name_that_the_cell_of_parameters_assigns_is_known(name: str) -> None:
    defaults = "plain = 1\ntyped: int = 2\nfirst, second = 1, 2\ncalled = dict(\n  a=1,\n)\nseveral = [\n 1]"
    check_parameters(load_book(notebook(defaults=defaults)), {name: 3})


def load_book(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    for cell in book.cells:
        cell.metadata.setdefault("tags", [])
    return book


def test_a_file_that_is_no_notebook_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "input.ipynb"
    path.write_text(json.dumps({"cells": "none"}))
    with pytest.raises(NotebookFailedError, match="Save it again in JupyterLab"):
        load_notebook(path)


def test_sigterm_keeps_what_was_done_and_leaves_no_process(make_run: MakeRun) -> None:
    # The child leaves the kernel's session, its environment and its parent: it must die all the same.
    hidden = "import subprocess\nsubprocess.Popen(['setsid', '-f', 'env', '-i', 'sleep', '61'])"
    closing = (
        "import time\ntry:\n    print('asleep', flush=True); time.sleep(60)\nfinally:\n    open('closed', 'w').close()"
    )
    run = make_run(notebook("print('first')", hidden, closing))
    process = run.start()
    run.wait_for_cell(3)
    wait_for(lambda: "asleep" in run.log)
    below = [stat.pid for stat in living_descendants(process.pid)]
    assert len(below) >= 2
    process.send_signal(signal.SIGTERM)
    result = run.finish()
    assert (result["outcome"], result["error"]) == ("cancelled", None)
    assert "first\\n" in run.directory.output.read_text()
    assert statuses(run) == ["completed", "completed", "failed"]
    assert Path(run.environment["HOME"], "closed").exists(), "a cell may close its files"
    assert not [pid for pid in below if (stat := read_stat(pid)) and stat.state != "Z"]


def test_the_runner_keeps_the_deadline_by_itself(make_run: MakeRun) -> None:
    ignores = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)"
    # Long enough for a kernel to start on a busy machine.
    stubborn = make_run(notebook(ignores, "open('ran', 'w')"), max_seconds=20)
    stubborn.start()
    stubborn.wait_for_cell(1)
    run = make_run(notebook("print('first')", SLEEP), max_seconds=20)
    run.start()
    result = run.finish()
    assert result["outcome"] == "timed_out"
    assert (result["error"]["cell"], result["error"]["name"]) == (2, "DeadlineExceeded")
    assert result["error"]["code"] == "timed_out"
    assert statuses(run) == ["completed", "failed"]
    assert stubborn.finish()["outcome"] == "timed_out"
    assert statuses(stubborn) == ["failed", "pending"]
    assert not Path(run.environment["HOME"], "ran").exists()
    assert not run.living() | stubborn.living()


def test_the_second_runner_of_a_run_exits_at_once(make_run: MakeRun) -> None:
    waits = "import os, time\nopen('ran', 'a').write('x')\nwhile not os.path.exists('go'):\n    time.sleep(0.1)"
    run = make_run(notebook(waits))
    first = run.start()
    wait_for(run.directory.read_process)
    second = run.start()
    assert second.wait(60) == EXIT_TAKEN
    Path(run.environment["HOME"], "go").touch()
    run.process = first
    assert run.finish()["outcome"] == "succeeded"
    # Nor does one that comes after the end: there is a result already.
    assert run.start().wait(60) == 0
    assert Path(run.environment["HOME"], "ran").read_text() == "x"


def test_a_killed_runner_takes_its_kernel_with_it_and_leaves_no_result(make_run: MakeRun) -> None:
    run = make_run(notebook(SLEEP))
    process = run.start()
    run.wait_for_cell(1)
    process.kill()
    process.wait()
    # At once: ipykernel's own look for its parent, once a second, is not what ends it.
    wait_for(lambda: not run.living(), 0.5)
    assert not run.directory.locked()
    assert run.directory.read_result(1) is None
