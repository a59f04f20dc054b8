"""Runs of a sweep through the real service, executor and runners: their secret, their retry, their output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import nbformat
import pytest

from hub.batch.client import BatchClient
from tests.batch.batch_harness import notebook
from tests.batch.test_sweep_local import place  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.test_sweep_local import Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

CELL = """
import os, pathlib
from hub.batch import record
assert os.environ["SURVEY_TOKEN"] == "a value of its own", "no secret"
tried = pathlib.Path.home() / f"tried-{x}"
first = not tried.exists()
tried.touch()
if first and x == 1:
    raise ValueError("not at once")
record("length", len(os.environ["SURVEY_TOKEN"]))
"""


def test_runs_of_a_sweep_have_their_secret_are_tried_again_and_save_their_output(
    place: Place,  # noqa: F811  # as above
    tmp_path: Path,
) -> None:
    allocation = place.services.reports.allocations_of("ada")[0].id
    path = tmp_path / "sweep.ipynb"
    nbformat.write(notebook(CELL, defaults="x = 0"), path)
    with BatchClient(place.url, "ada") as client:
        client.set_secret("SURVEY_TOKEN", "a value of its own")
        sweep = client.sweeps.submit(
            path,
            allocation,
            "small",
            grid={"x": [0, 1]},
            max_seconds=600,
            retries=1,
            environment=["SURVEY_TOKEN"],
            save_to="home:swept",
        )
        assert (sweep.retries, sweep.environment, sweep.output) == (1, ("SURVEY_TOKEN",), "home:swept")
        gather = client.submit(path, allocation, "small", after=[sweep.id], environment=["SURVEY_TOKEN"])
        assert [one.sweep for one in gather.after] == [sweep.id]
        place.start_executor()
        done = client.sweeps.wait(sweep.id)
        results = list(client.sweeps.results(sweep.id))
        assert done.state == "succeeded", results
        assert [(one["attempt"], one["recorded"]) for one in results] == [(1, {"length": 18}), (2, {"length": 18})]
        assert client.wait(gather.id).state == "succeeded"
        assert client.get(gather.id).started_at >= max(one["ended_at"] for one in results)
    saved = sorted((place.path / "homes/ada/swept").rglob("*.ipynb"))
    assert len(saved) == 2, [str(one) for one in saved]
    for one in saved:
        assert "a value of its own" not in json.dumps(nbformat.read(one, as_version=4)["cells"][-1]["outputs"])
    assert len({one.parent for one in saved}) == 2, "a folder of its own for each"
