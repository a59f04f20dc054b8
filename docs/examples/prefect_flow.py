"""A Prefect flow over notebooks of the platform, with meridian_runs.py beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from meridian_runs import MeridianRuns
from prefect import flow, task
from prefect.runtime import task_run


@task
def run_notebook(notebook: str, allocation: str, size: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run a notebook and return its record; the task fails as the run does."""
    runs = MeridianRuns(os.environ["MERIDIAN_URL"], os.environ["MERIDIAN_TOKEN"])
    # With the attempt in the key, a retry of the task is a new run; a repetition within one attempt is not.
    key = f"prefect/{task_run.id}/{task_run.run_count}"
    submitted = runs.submit(Path(notebook), key=key, allocation=allocation, size=size, parameters=parameters)
    return runs.wait(submitted["id"])


@flow
def reduce_and_measure(allocation: str, detectors: list[str]) -> int:
    """Reduce each detector at the same time, then measure on what came of all; return what it cost, in microcredits."""
    reductions = [
        run_notebook.submit("reduce.ipynb", allocation, "standard", {"detector": detector}) for detector in detectors
    ]
    reduced = [reduction.result() for reduction in reductions]
    measured = run_notebook("measure.ipynb", allocation, "small", {"runs": [run["id"] for run in reduced]})
    return sum(run["charged_microcredits"] for run in [*reduced, measured])
