"""A schedule starts a run by the worker and the executor of local processes, over HTTP, and a chain follows it."""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from allocations.app import PREFIX
from allocations.db.database import Database
from allocations.db.idempotency import IdempotencyKey
from allocations.factory import make_services
from allocations.hub_client import HubServers
from allocations.runs.models import Condition
from allocations.runs.schedule_models import ScheduleTerms
from allocations.runs.service import Submission
from allocations.worker import Worker
from hub.batch.executor import Executor
from hub.batch.local import LocalBackend
from hub.batch.observe import Metrics
from hub.batch.service import ExecutorService
from tests.allocations.test_api import StubIdentities
from tests.batch.batch_harness import notebook
from tests.fresh import fresh_sqlite, shipped_policy
from tests.fresh_app import fresh_app
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT_SECONDS = 250


@pytest.mark.slow
def test_a_schedule_starts_a_run_and_a_chain_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "x")
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-allocations")
    monkeypatch.setenv("JUPYTERHUB_OAUTH_CALLBACK_URL", f"{PREFIX}/oauth_callback")
    database, store = Database(fresh_sqlite(tmp_path)), tmp_path / "runs"
    services = make_services(database, shipped_policy(), store)
    services.agreements.accept("ann", services.policy.agreement.version)
    entry = services.reports.allocations_of("ann")[0].id
    # No hub answers: nothing is concluded from that, and there are no servers.
    worker = Worker(services, HubServers("http://127.0.0.1:9/hub/api", "t"), "worker")
    keys = itertools.count()

    def key() -> IdempotencyKey:
        return IdempotencyKey.for_request("ann", f"k{next(keys)}", "test", {})

    def submit(source: str, after: str, waits_for: Condition = Condition.SUCCEEDED) -> str:
        content: dict[str, Any] = dict(notebook(source))
        submission = Submission(
            "ann", entry, "small", "n.ipynb", content, {}, max_seconds=200, after=[after], waits_for=waits_for
        )
        return services.runs.submit(submission, key()).id

    with serving(fresh_app(services, StubIdentities("secret", PREFIX))) as url:
        executor = Executor(
            ExecutorService.connect(f"{url}{PREFIX}", "batch", "batch"),
            LocalBackend(store, tmp_path / "homes", dict(os.environ)),
            store,
            Metrics(),
            slots=2,
        )

        def work_until(what: Callable[[], bool]) -> None:
            ends_at = time.monotonic() + WAIT_SECONDS
            while not what():
                assert time.monotonic() < ends_at, services.runs.list_of("ann")
                worker.tick()
                executor.tick()
                time.sleep(0.1)

        terms = ScheduleTerms(
            title="Each minute",
            allocation=entry,
            size="small",
            name="n.ipynb",
            notebook=dict(notebook("print('well')")),
            parameters={},
            cron="* * * * *",
            zone="Europe/Berlin",
            max_seconds=200,
        )
        schedule = services.schedules.add("ann", terms, key()).id
        work_until(lambda: bool(services.runs.list_of("ann")))
        services.schedules.pause("ann", schedule)
        [time_of_first] = services.schedules.get("ann", schedule).times
        assert time_of_first.outcome == "submitted"
        first = time_of_first.run
        assert first is not None
        second = submit("raise ValueError('not well')", first)
        third, fourth = submit("x = 1", second), submit("x = 1", second, Condition.ENDED)
        chain = (first, second, third, fourth)
        work_until(lambda: all(services.runs.get("ann", run).ended_at for run in chain))

    runs = [services.runs.get("ann", run) for run in chain]
    assert [run.state for run in runs] == ["succeeded", "failed", "cancelled", "succeeded"]
    in_vain = runs.pop(2)
    assert in_vain.error is not None
    assert in_vain.error.message.startswith(f"The run {second} (n.ipynb), for whose success this one waited, failed.")
    assert (in_vain.started_at, in_vain.charged_microcredits) == (None, 0)
    for before, after in itertools.pairwise(runs):
        assert before.ended_at is not None
        assert after.started_at is not None
        assert before.ended_at <= after.started_at
    assert all(run.charged_microcredits > 0 for run in runs)
    database.dispose()
