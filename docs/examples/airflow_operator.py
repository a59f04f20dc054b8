"""An Airflow operator that runs a notebook on the platform: put it with meridian_runs.py among the plugins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.models import BaseOperator
from meridian_runs import MeridianRuns


class MeridianRunOperator(BaseOperator):
    """Runs a notebook, and fails as it does. The run's id goes to the next task as XCom."""

    template_fields = ("parameters",)

    def __init__(
        self, *, notebook: str, allocation: str, size: str, parameters: dict[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.notebook = notebook
        self.allocation = allocation
        self.size = size
        self.parameters = parameters or {}
        self.run: str | None = None

    def execute(self, context: dict[str, Any]) -> str:
        """Submit and wait. A worker that was killed and comes back finds its run again: the key is the same."""
        task = context["ti"]
        runs = self._runs()
        submitted = runs.submit(
            Path(self.notebook),
            key=f"{task.dag_id}/{task.task_id}/{task.run_id}/{task.map_index}/{task.try_number}",
            allocation=self.allocation,
            size=self.size,
            parameters=self.parameters,
        )
        self.run = submitted["id"]
        ended = runs.wait(submitted["id"])
        return str(ended["id"])

    def on_kill(self) -> None:
        """Cancel the run when its task is cleared or marked as failed."""
        if self.run:
            self._runs().cancel(self.run)

    def _runs(self) -> MeridianRuns:
        return MeridianRuns(os.environ["MERIDIAN_URL"], os.environ["MERIDIAN_TOKEN"])
