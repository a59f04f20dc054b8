"""Replays with real kernels: from the service's queue through the runner, and what the record then says."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from allocations.clock import SystemClock
from allocations.db.database import Database
from allocations.db.idempotency import IdempotencyKey
from allocations.factory import Services, make_services
from allocations.runs.models import Outcome
from allocations.runs.service import Finish, Submission
from hub.batch.backend import Exited
from hub.batch.local import LocalBackend
from hub.batch.model import Run
from tests.batch.batch_harness import notebook, wait_for
from tests.fresh import fresh_sqlite, shipped_policy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from allocations.runs.models import RunView

pytestmark = pytest.mark.slow
CATALOGUE = "import numpy as np\nrng = np.random.default_rng(seed)\nprint(rng.normal(size=3))\nobject()"


@dataclass
class Queue:
    """The service, a place of real runners, and the notes that pass between the two."""

    services: Services
    backend: LocalBackend
    allocation: str

    def submit(self, book: nbformat.NotebookNode, **changes: Any) -> RunView:
        values: dict[str, Any] = {"size": "small", "name": "n.ipynb", "parameters": {}} | changes
        submission = Submission("ada", self.allocation, notebook=json.loads(nbformat.writes(book)), **values)
        return self.services.runs.submit(submission, self.key())

    def key(self) -> IdempotencyKey:
        return IdempotencyKey.for_request("ada", os.urandom(8).hex(), "run", {})

    def execute(self, run_id: str) -> RunView:
        """Do what the executor does, until the run has ended."""
        (claimed,) = self.services.runs.claim("batch", 1)
        assert claimed.id == run_id
        run = Run.from_json(claimed.model_dump(mode="json"))
        self.backend.start(run)
        sight = wait_for(lambda: sight if isinstance(sight := self.backend.look(run), Exited) else None, 120)
        wait_for(lambda: run.id not in self.backend.running())
        result = sight.result
        now = self.services.clock.now_ms()
        finish = Finish(run.attempt, Outcome(result.outcome), now - 1000, now, None, result.error and result.error.code)
        return self.services.runs.finish(run.id, finish)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    database = Database(fresh_sqlite(tmp_path))
    services = make_services(database, shipped_policy(), tmp_path / "runs", SystemClock())
    services.agreements.accept("ada", services.policy.agreement.version)
    allocation = services.reports.allocations_of("ada")[0].id
    yield Queue(services, LocalBackend(tmp_path / "runs", tmp_path / "homes", os.environ), allocation)
    database.dispose()


def test_a_deterministic_notebook_replayed_makes_the_same(queue: Queue) -> None:
    original = queue.submit(notebook(CATALOGUE, defaults="seed = 1"), parameters={"seed": 7})
    assert queue.execute(original.id).state == "succeeded"
    replay = queue.services.records.replay("ada", original.id, queue.key())
    assert queue.execute(replay.id).state == "succeeded"
    before, after = (queue.services.records.of("ada", one.id) for one in (original, replay))
    assert before.provenance is not None
    assert after.provenance is not None
    assert before.provenance.output_sha256 == after.provenance.output_sha256
    assert after.comparison is not None
    assert (after.comparison.same_output, after.comparison.differences) == (True, [])


def test_a_notebook_with_a_random_number_does_not_and_the_cell_is_named(queue: Queue) -> None:
    original = queue.submit(notebook("x = 1", "import random\nrandom.random()", "print(x)"))
    queue.execute(original.id)
    replay = queue.services.records.replay("ada", original.id, queue.key())
    queue.execute(replay.id)
    comparison = queue.services.records.of("ada", replay.id).comparison
    assert comparison is not None
    assert (comparison.same_output, comparison.sentence) == (False, "Another output: cell 2 put out something else.")
