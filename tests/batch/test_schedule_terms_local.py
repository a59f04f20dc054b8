"""A due run of a schedule through the real service, executor and runner: its secret, its retry, its output."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import nbformat
import pytest

from hub.batch.client import BatchClient
from tests.batch.batch_harness import notebook
from tests.batch.test_sweep_local import place  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.test_sweep_local import Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
WAIT_SECONDS = 600
CELL = """
import os, pathlib
from hub.batch import record
assert os.environ["SURVEY_TOKEN"].endswith("of its own"), "no secret"
assert "OTHER_TOKEN" not in os.environ, "one that was not asked for"
tried = pathlib.Path.home() / "tried"
first = not tried.exists()
tried.touch()
if first:
    raise ValueError("not at once")
record("length", len(os.environ["SURVEY_TOKEN"]))
"""


def test_a_due_run_has_its_secret_is_tried_again_and_saves_its_output(place: Place, tmp_path: Path) -> None:  # noqa: F811
    allocation = place.services.reports.allocations_of("ada")[0].id
    path = tmp_path / "night.ipynb"
    nbformat.write(notebook(CELL), path)
    with BatchClient(place.url, "ada") as client:
        client.set_secret("SURVEY_TOKEN", "a value of its own")
        client.set_secret("OTHER_TOKEN", "another")
        schedule = client.schedules.add(
            path,
            allocation,
            "small",
            cron="* * * * *",
            max_seconds=600,
            retries=1,
            environment=["SURVEY_TOKEN"],
            save_to="home:nights",
        )
        assert (schedule.retries, schedule.environment, schedule.output) == (1, ("SURVEY_TOKEN",), "home:nights")
        ends_at = time.monotonic() + WAIT_SECONDS
        while not place.services.schedule_duty.submit_due():
            assert time.monotonic() < ends_at
            time.sleep(0.5)
        [due] = client.schedules.pause(schedule.id).times
        assert due.run is not None, due.detail
        place.start_executor()
        run = client.wait(due.run)
        assert (run.state, run.attempt, run.retried) == ("succeeded", 2, 1), run.error
        saved = list((place.path / "homes/ada/nights").rglob("*.ipynb"))
        assert len(saved) == 1, [str(one) for one in saved]
        assert "a value of its own" not in "".join(
            (saved[0].read_text(), client.log(run.id), str(client.provenance(run.id)), str(client.schedules.list()))
        )
