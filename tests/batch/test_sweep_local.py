"""A sweep through the real service, executor and runners, which are killed: nothing is lost, each charge is right."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
import yaml
from sqlalchemy import func, select

from allocations.api.identity import HubIdentities, Identity, Scope
from allocations.app import create_app
from allocations.clock import SystemClock
from allocations.db.database import Database
from allocations.db.schema import balances
from allocations.factory import Services, make_services
from allocations.ledger.audit import audit_ledger
from allocations.policy.loader import load_policy
from allocations.runs.models import RunFilter
from hub.batch.client import BatchClient
from hub.batch.files import RunDirectory
from hub.batch.local import MARK
from hub.batch.processes import living_marked
from tests.batch.batch_harness import ROOT, notebook, wait_for
from tests.fresh import POLICIES, fresh_sqlite
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hub.batch.sweeps import Sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

PREFIX = "/services/allocations"
RATE = 13  # microcredits a second, of the size small
AT_ONCE = 3
# Two hundred take several minutes: `make sweeps` has them.
RUNS = int(os.environ.get("MERIDIAN_SWEEP_RUNS", "40"))
ATTEMPTS = 9
BUSY_SECONDS = 3600.0
CELL = """
import pathlib, time
from hub.batch import record
home = pathlib.Path.home()
if x % 10 == 7 and not (home / "mended").exists():
    raise ValueError(f"not with {x}")
time.sleep(seconds)
with (home / "done.txt").open("a") as done:
    done.write(f"{x}\\n")
record("square", x * x)
"""


class Ada(HubIdentities):
    """Takes the executor by its token, and everybody else for ada."""

    async def from_token(self, token: str, session_id: str = "") -> Identity | None:
        return Identity("batch", frozenset({Scope.LEASE})) if token == "executor" else Identity("ada", frozenset(Scope))


@dataclass
class Place:
    """The service over HTTP, and an executor as a process of its own."""

    services: Services
    url: str
    path: Path
    executors: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_executor(self) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "MERIDIAN_ALLOCATIONS_URL": f"{self.url}{PREFIX}",
            "MERIDIAN_TOKEN_BATCH": "executor",
            "MERIDIAN_RUN_STORE": str(self.path / "runs"),
            "MERIDIAN_HOMES": str(self.path / "homes"),
            "MERIDIAN_BATCH_SLOTS": "6",
            "MERIDIAN_BATCH_METRICS_PORT": "0",
        }
        with (self.path / "batch.log").open("ab") as log:
            command = [sys.executable, "-P", "-m", "hub.batch.executor"]
            self.executors.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def end_executor(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.executors[-1].send_signal(number)
        self.executors[-1].wait()

    def kill_a_runner(self, chosen: random.Random) -> bool:
        """Kill the runner of one of the active runs; whether there was one."""
        runs = self.services.runs.active_of("batch")
        if not runs:
            return False
        process = RunDirectory.of(self.path / "runs", chosen.choice(runs).id).read_process()
        if process is None or MARK.encode() not in _environment_of(process.pid):
            return False
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def _environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name, value in (("TOKEN", "x"), ("URL", "http://127.0.0.1:1/hub/api")):
        monkeypatch.setenv(f"JUPYTERHUB_API_{name}", value)
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-allocations")
    monkeypatch.setenv("JUPYTERHUB_OAUTH_CALLBACK_URL", f"{PREFIX}/oauth_callback")
    shutil.copytree(POLICIES, tmp_path / "policies")
    tiers = yaml.safe_load((tmp_path / "policies/tiers.yaml").read_text())
    tiers["tiers"][0]["at_once"] = {"servers_per_person": 2, "cores": 12, "gpus": 0}
    (tmp_path / "policies/tiers.yaml").write_text(yaml.safe_dump(tiers))
    leases = yaml.safe_load((tmp_path / "policies/leases.yaml").read_text())
    leases["runs"]["attempts"] = ATTEMPTS
    (tmp_path / "policies/leases.yaml").write_text(yaml.safe_dump(leases))
    database = Database(fresh_sqlite(tmp_path))
    (tmp_path / "runs").mkdir()
    services = make_services(
        database, load_policy(tmp_path / "policies"), tmp_path / "runs", SystemClock(), secret_keys=["5e" * 32]
    )
    services.agreements.accept("ada", services.policy.agreement.version)
    with serving(create_app(services, Ada("secret", PREFIX), "local")) as url:
        made = Place(services, url, tmp_path)
        yield made
        if made.executors:
            made.end_executor()
    for pid in living_marked(MARK):
        if str(tmp_path).encode() in _environment_of(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    database.dispose()


def assert_charged_as_ran(place: Place, sweeps: list[Sweep]) -> None:
    """Each run was charged what its runner noted, to the second; all of them together are what the ledger has."""
    services, total = place.services, 0
    for sweep in sweeps:
        of_sweep = 0
        for run in services.runs.list_of("ada", 10_000, RunFilter(sweep=sweep.id)):
            assert run.held_microcredits == 0
            of_sweep += run.charged_microcredits
            path = place.path / "runs" / run.id / "result.json"
            result = json.loads(path.read_text()) if path.exists() else None
            if run.started_at is None or result is None:
                assert run.charged_microcredits == 0, run
                continue
            began, ended = (datetime.fromisoformat(result[name]) for name in ("started_at", "ended_at"))
            seconds = math.ceil((ended - began).total_seconds())
            # The service's clock is another than the runner's, and both cut off at the second.
            assert abs(run.charged_microcredits - RATE * seconds) <= RATE, run
        assert services.sweeps.get("ada", sweep.id).charged_microcredits == of_sweep
        total += of_sweep
    with services.database.read() as connection:
        posted = connection.execute(select(func.sum(balances.c.posted), func.sum(balances.c.held))).one()
        assert (posted[0], posted[1]) == (total, 0)
        assert audit_ledger(connection).violations == ()


def test_a_sweep_loses_nothing_whoever_dies_and_is_charged_what_ran(place: Place, tmp_path: Path) -> None:
    allocation = place.services.reports.allocations_of("ada")[0].id
    count, path = RUNS, tmp_path / "sweep.ipynb"
    nbformat.write(notebook(CELL, defaults="x = 0\nseconds = 0.2"), path)
    chosen = random.Random(count)
    most = 0
    with BatchClient(place.url, "ada") as client:
        rows = [{"x": number} for number in range(count)]
        estimate = client.sweeps.estimate(allocation, "small", count, name=path.name, max_seconds=600)
        assert estimate["held_microcredits"] == count * 600 * RATE
        sweep = client.sweeps.submit(path, allocation, "small", rows=rows, max_seconds=600, at_once=AT_ONCE)
        place.start_executor()
        # In the middle of it all, again and again, with runs waiting, starting, running and ending.
        marks = {math.ceil(count * share / 10) for share in range(1, 9)}
        kills = 0
        while (seen := client.sweeps.get(sweep.id)).active:
            most = max(most, seen.counts["admitted"] + seen.counts["running"])
            if marks and seen.ended >= min(marks):
                marks.remove(min(marks))
                kills += place.kill_a_runner(chosen)
                if len(marks) % 2:
                    place.end_executor(chosen.choice((signal.SIGKILL, signal.SIGTERM)))
                    time.sleep(1)
                    place.start_executor()
            time.sleep(0.3)
        assert 1 <= most <= AT_ONCE
        assert kills
        broken = sum(1 for number in range(count) if number % 10 == 7)
        assert (seen.state, seen.failed, seen.counts["succeeded"]) == ("failed", broken, count - broken)

        (place.path / "homes/ada/mended").touch()
        retried = client.sweeps.retry(sweep.id)
        assert retried.counts["queued"] + retried.counts["admitted"] == broken
        done = client.sweeps.wait(sweep.id)
        assert (done.state, done.counts["succeeded"]) == ("succeeded", count)
        results = list(client.sweeps.results(sweep.id))
        assert [one["recorded"] for one in results] == [{"square": number**2} for number in range(count)]
        ran = Counter((place.path / "homes/ada/done.txt").read_text().split())
        for one in results:
            assert ran[str(one["row"])] == 1 or one["attempt"] > 1, "what was not killed ran once"
        client.sweeps.save_results(sweep.id, tmp_path / "results.csv")
        assert len((tmp_path / "results.csv").read_text().splitlines()) == count + 1

        # And one that is cancelled in the middle, in one act.
        other = client.sweeps.submit(path, allocation, "small", rows=rows[:10], parameters={"seconds": 600}, at_once=2)
        wait_for(lambda: client.sweeps.get(other.id).counts["running"], BUSY_SECONDS)
        cancelled = client.sweeps.cancel(other.id)
        assert cancelled.counts["queued"] == 0
        ended = client.sweeps.wait(other.id)
        assert (ended.state, ended.counts["cancelled"]) == ("cancelled", 10)
        assert ended.charged_microcredits > 0
    assert_charged_as_ran(place, [done, ended])
    kept = (place.path / "runs").rglob("input.ipynb")
    assert sorted(one.parent.name for one in kept) == sorted([sweep.id, other.id]), "the notebook is kept once"
