"""A sweep of 10,000 runs: queued, claimed while they wait, and dispatched by the batch process."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from allocations.db.database import Database
from allocations.db.idempotency import IdempotencyKey
from allocations.db.migrate import upgrade
from allocations.db.schema import runs
from allocations.factory import make_services
from allocations.ids import random_id
from allocations.ledger.audit import audit_ledger
from allocations.policy.loader import load_policy
from allocations.runs.sweeps import SweepSubmission
from allocations.settings import ROOT
from benchmarks.ledgers import SteppedClock
from benchmarks.machine import memory_mib
from benchmarks.platforms import our_platform
from benchmarks.report import Comparison, Report, Section, Share
from hub.batch.client import BatchClient
from tests.postgres import fresh_database, running_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.factory import Services
    from benchmarks.report import Step

RUNS, RUNS_QUICK = 10_000, 1_000
PAIRS, PAIRS_QUICK = 5, 1
DISPATCHED, DISPATCHED_QUICK = 20, 4
CLAIMED = 50
FEW = 2 * CLAIMED
POLL_SECONDS = 0.2
MAX_SECONDS = 600
DATABASES = ("SQLite", "PostgreSQL")
CELL: dict[str, Any] = {
    "cell_type": "code",
    "id": "a",
    "metadata": {"tags": ["parameters"]},
    "execution_count": None,
    "outputs": [],
    "source": "detector = 1\nexposure = 0\nband = 'F158'",
}
NOTEBOOK: dict[str, Any] = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [CELL]}
COMPARES = (
    "queueing: a sweep in one transaction, against as many rows that one INSERT with executemany puts into the same "
    f"table; claiming: the next {CLAIMED} runs of a sweep of which many wait, against one of which {FEW} do; "
    "dispatching: the batch process of `meridian up`, one run at a time, while the rest waits."
)


def steps(*, quick: bool) -> int:
    """Return how many steps of the progress bar `run` makes."""
    return len(DATABASES) * (1 + (PAIRS_QUICK if quick else PAIRS)) + 2


def run(step: Step, *, quick: bool) -> Report:
    """Measure both databases, then a platform."""
    count, pairs = (RUNS_QUICK, PAIRS_QUICK) if quick else (RUNS, PAIRS)
    sections = []
    for name in DATABASES:
        step(f"starting {name}")
        with _services(name) as services:
            sections.append(_measure(step, services, name, count, pairs))
    sections.append(_dispatch(step, count, DISPATCHED_QUICK if quick else DISPATCHED))
    return Report("sweeps", COMPARES, "against", sections, ["The ledger audits are clean."])


@contextmanager
def _services(name: str) -> Iterator[Services]:
    with TemporaryDirectory(prefix="meridian-bench-") as folder:
        if name == "SQLite":
            with _open(f"sqlite:///{folder}/allocations.sqlite", Path(folder)) as services:
                yield services
            return
        with (
            running_postgres() as server,
            fresh_database(server, "sweeps") as url,
            _open(url, Path(folder)) as services,
        ):
            yield services


@contextmanager
def _open(url: str, folder: Path) -> Iterator[Services]:
    database = Database(url)
    upgrade(database)
    yield make_services(database, load_policy(ROOT / "policies"), folder / "runs", SteppedClock())
    database.dispose()


def _measure(step: Step, services: Services, name: str, count: int, pairs: int) -> Section:
    services.agreements.accept("ann", services.policy.agreement.version)
    queued: list[float] = []
    bare: list[float] = []
    many: list[float] = []
    few: list[float] = []
    cancelled: list[float] = []
    for pair in range(pairs):
        step(f"{name}: pair {pair + 1}")
        allocation = _allocation(services)
        begin = time.perf_counter()
        sweep = _submit(services, allocation, count)
        queued.append(time.perf_counter() - begin)
        bare.append(_insert_as_many(services, sweep, count))
        many.append(_claim(services))
        begin = time.perf_counter()
        services.sweeps.cancel("ann", sweep)
        cancelled.append(time.perf_counter() - begin)
        # In an allocation of its own: what runs of the other would take its room.
        other = _submit(services, _allocation(services), FEW)
        few.append(_claim(services))
        services.sweeps.cancel("ann", other)
    with services.database.read() as connection:
        if audit_ledger(connection).violations:
            raise RuntimeError("the audit of the ledger found something")
    return Section(
        f"{name}, {count:,} runs",
        [
            Comparison("queueing them all", "s", queued, bare),
            Comparison(f"claiming {CLAIMED}, each", "ms", many, few),
        ],
        [Share("cancelling them all", "s", cancelled)],
    )


def _allocation(services: Services) -> str:
    with services.database.write() as connection:
        tier = services.policy.tier("consortium")
        return services.lifecycle.open(connection, tier, "Deep fields", lead="ann", actor="bench").id


def _submit(services: Services, allocation: str, count: int) -> str:
    rows = [{"detector": number % 18 + 1, "exposure": number, "band": "F158"} for number in range(count)]
    submission = SweepSubmission(
        "ann", allocation, "small", "n.ipynb", NOTEBOOK, {}, rows=rows, max_seconds=MAX_SECONDS, at_once=CLAIMED
    )
    key = IdempotencyKey.for_request("ann", random_id("k"), "sweep", {})
    return services.sweeps.submit(submission, key).id


def _insert_as_many(services: Services, sweep: str, count: int) -> float:
    """Insert the rows of a sweep once more, as ended runs of none; return the seconds."""
    with services.database.read() as connection:
        of_sweep = connection.execute(select(runs).where(runs.c.sweep_id == sweep)).mappings().all()
    changes = {"sweep_id": None, "sweep_row": None, "state": "cancelled"}
    rows = [{**row, **changes, "id": random_id("r")} for row in of_sweep]
    if len(rows) != count:
        raise RuntimeError(f"{len(rows)} runs of a sweep of {count}")
    begin = time.perf_counter()
    with services.database.write() as connection:
        connection.execute(insert(runs), rows)
    return time.perf_counter() - begin


def _claim(services: Services) -> float:
    """Claim runs; return the milliseconds of each."""
    begin = time.perf_counter()
    claimed = len(services.runs.claim("bench", CLAIMED))
    if claimed != CLAIMED:
        raise RuntimeError(f"{claimed} runs were claimed")
    return (time.perf_counter() - begin) * 1000 / claimed


def _dispatch(step: Step, count: int, dispatched: int) -> Section:
    """Let the batch process work off the first runs of a sweep, one at a time."""
    step("starting the platform")
    with TemporaryDirectory(prefix="meridian-bench-") as folder, our_platform() as platform:
        person = platform.person("researcher")
        allocation = person.accept_agreement()["id"]
        notebook = Path(folder) / "light.ipynb"
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook.write_text(json.dumps(NOTEBOOK | {"metadata": kernel}))
        before_mib = memory_mib(platform.pid_of("batch"), "VmRSS")
        step(f"dispatching {dispatched} of {count:,}")
        with closing(BatchClient(platform.url, person.token)) as client:
            begin = time.perf_counter()
            sweep = client.sweeps.submit(
                notebook,
                allocation,
                "small",
                rows=[{"exposure": exposure} for exposure in range(count)],
                max_seconds=MAX_SECONDS,
                at_once=1,
            )
            submitted_seconds = time.perf_counter() - begin
            while client.sweeps.get(sweep.id).ended < dispatched:
                time.sleep(POLL_SECONDS)
            memory = memory_mib(platform.pid_of("batch"), "VmHWM")
            client.sweeps.cancel(sweep.id)
            ended = [one for one in client.sweeps.results(sweep.id) if one["state"] == "succeeded"]
        platform.audit()
    times = [(_at(one["started_at"]), _at(one["ended_at"])) for one in ended]
    gaps = [later[0] - earlier[1] for earlier, later in itertools.pairwise(times)]
    first = times[0][0] - _at(sweep.submitted_at)
    return Section(
        f"Dispatching, {count:,} queued",
        [],
        [
            Share("submitted through the API", "s", [submitted_seconds]),
            Share("queued to the first run's start", "s", [first]),
            Share("the end of one to the start of the next", "s", gaps),
            Share("memory of the batch process before", "MiB", [before_mib]),
            Share("memory of the batch process at most", "MiB", [memory]),
        ],
    )


def _at(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
