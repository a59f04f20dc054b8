"""Pages of every role over 10,000 allocations and a million journal entries, against a limit and their bare queries."""

from __future__ import annotations

import sys
import time
import uuid
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import psutil
from fastapi.testclient import TestClient
from sqlalchemy import event

from allocations.api.identity import SESSION_COOKIE
from allocations.app import PREFIX
from allocations.policy.loader import load_policy
from allocations.reports.allocations import ALLOCATIONS_PAGE
from allocations.reports.platform_use import UseBy
from allocations.settings import ROOT
from benchmarks.drivers import connect
from benchmarks.pages_service import ADMIN, REVIEWER, SPAWNER, application
from benchmarks.platform_data import (
    CONSORTIUM,
    DECIDED_REQUESTS,
    PARTS,
    RESEARCHER,
    WAITING_REQUESTS,
    PlatformData,
    node,
    person,
)
from benchmarks.platforms import LOOPBACK, READY_SECONDS, answers, process_of, until
from benchmarks.report import Comparison, Report, Section
from tests.ports import free_port
from tests.postgres import fresh_database, postgres_of_its_own, server_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.drivers import BareConnection
    from benchmarks.report import Step
    from tests.postgres import PostgresServer

ALLOCATIONS, ALLOCATIONS_QUICK = 10_000, 1_000
ENTRIES, ENTRIES_QUICK = 1_000_000, 20_000
PAIRS, PAIRS_QUICK = 15, 3
MEMBER = person(1)  # of the consortium, who leads nothing there
GOAL_MS = 200
COMPARES = (
    f"the time to a page's first byte over HTTP, to stay below {GOAL_MS} ms, against its own queries sent by the "
    "driver alone, with all rows."
)


@dataclass(frozen=True, slots=True)
class Page:
    """A page, and who looks at it; `by_token` says that it is the API's."""

    name: str
    path: str
    person: str = ADMIN
    by_token: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """Who looks, as it is sent."""
        if self.by_token:
            return {"Authorization": f"Bearer {self.person}"}
        return {"Cookie": f"{SESSION_COOKIE}={self.person}"}


def pages(count: int = ALLOCATIONS) -> list[Page]:
    """Return the pages of each role, and the answer of the API that the hub's start page waits for."""
    return [*_of_researchers(), *_of_leads(), *_of_reviewers(), *_of_administrators(count)]


def _of_researchers() -> list[Page]:
    own, shared = f"/allocations/{node(PARTS + 2)}", f"/allocations/{CONSORTIUM}"
    run = "/runs/r-0"
    places = {
        "home": "/",
        "home, its live part": "/live",
        "agreement": "/agreement",
        "quotas": "/quota",
        "own allocation": own,
        "allocations' publications": "/publications",
        "runs": "/runs",
        "runs, by name": "/runs?name=nowhere",
        "runs, live part": "/runs/live",
        "a run": run,
        "a run, its live part": f"{run}/live",
        "new run": "/runs/new",
        "requests": "/requests",
        "new request": "/requests/new",
        "a request": "/requests/q-0",
        "notices": "/notices",
        "notices, choices": "/notices/settings",
        "policy": "/policy",
        "help": "/help",
        "leaving an allocation": f"{own}/leave",
    }
    return [
        *(Page(name, path, RESEARCHER) for name, path in places.items()),
        Page("start page, offers", f"/api/v1/start-options?person={RESEARCHER}", SPAWNER, by_token=True),
        Page("a member's shared allocation", shared, MEMBER),
        Page("a member's charges", f"{shared}/charges.csv", MEMBER),
    ]


def _of_leads() -> list[Page]:
    shared = f"/allocations/{CONSORTIUM}"
    part = f"/allocations/{node(1)}"
    places = {
        f"allocation of {PARTS} parts": shared,
        "use by member": f"{shared}/use",
        "use by part": f"{shared}/use?by=part",
        "use as CSV": f"{shared}/use.csv",
        "members as CSV": f"{shared}/members.csv",
        "charges as CSV": f"{shared}/charges.csv",
        "publications of the tree": f"/publications?allocation={CONSORTIUM}",
        "asking for more": f"{shared}/ask",
        "history": f"{shared}/history",
        "a member's place": f"{shared}/member?person={MEMBER}",
        "a part": part,
        "a part's share": f"{part}/share",
        "closing a part": f"{part}/close",
    }
    return [Page(name, path, RESEARCHER) for name, path in places.items()]


def _of_reviewers() -> list[Page]:
    places = {
        "review": "/review",
        "review, all requests": "/review?state=any",
        "review, words": "/review?state=any&find=nowhere",
        "review, last page": f"/review?state=any&start={WAITING_REQUESTS + DECIDED_REQUESTS - 25}",
        "a request under review": "/requests/q-1",
    }
    return [Page(name, path, REVIEWER) for name, path in places.items()]


def _of_administrators(count: int) -> list[Page]:
    today = date.today()  # noqa: DTZ011  # any year will do
    year = f"first={today - timedelta(days=364)}&last={today}"
    places = {
        "all allocations": "/admin/allocations",
        "all allocations, words": "/admin/allocations?find=nowhere",
        "all allocations, far on": f"/admin/allocations?start={count - ALLOCATIONS_PAGE}",
        "an allocation's administration": f"/admin/allocations/{CONSORTIUM}",
        "report, 30 days by tier": "/admin/report",
        **{f"report, a year by {by}": f"/admin/report?{year}&by={by}" for by in UseBy},
        "report as CSV": f"/admin/report/use.csv?{year}&by=allocation",
        "tiers as CSV": "/admin/report.csv",
        "audit log": "/admin/audit",
        "audit log of a person": "/admin/audit?person=person-0007",
        "audit log, words that are nowhere": "/admin/audit?words=nowhere",
        "audit log as CSV": "/admin/audit/log.csv",
        "people": "/admin/people",
        "people, words": "/admin/people?find=nowhere",
        "suspended people": "/admin/people?only=suspended",
        "a person": f"/admin/people/person?name={RESEARCHER}",
        "overrides": "/admin/overrides",
    }
    return [Page(name, path) for name, path in places.items()]


def steps(*, quick: bool) -> int:
    """Return how many steps of the progress bar `run` makes."""
    return 2 * (1 + (PAIRS_QUICK if quick else PAIRS))


def run(step: Step, *, quick: bool) -> Report:
    """Measure on both databases."""
    report = Report("pages", COMPARES, "bare queries")
    with TemporaryDirectory(prefix="meridian-bench-") as name:
        directory = Path(name)
        _measure("SQLite", f"sqlite:///{directory / 'pages.sqlite'}", directory, step, report, quick=quick)
        try:
            server_binaries()
        except RuntimeError as missing:
            report.notes.append(f"PostgreSQL was left out. {missing}")
            return report
        with postgres_of_its_own() as server, fresh_database(server.url, f"pages_{uuid.uuid4().hex[:8]}") as url:
            _measure("PostgreSQL", url, directory, step, report, server, quick=quick)
    return report


def _measure(
    name: str,
    url: str,
    directory: Path,
    step: Step,
    report: Report,
    server: PostgresServer | None = None,
    *,
    quick: bool,
) -> None:
    step(f"{name}: writing a year")
    count, entries = (ALLOCATIONS_QUICK, ENTRIES_QUICK) if quick else (ALLOCATIONS, ENTRIES)
    begin = time.perf_counter()
    data = PlatformData(count, entries, load_policy(ROOT / "policies").agreement.version)
    data.write(url)
    report.notes.append(f"{name}: the year was written in {time.perf_counter() - begin:.0f} s.")
    measured = pages(count)
    queries = _record(url, measured)
    looks: dict[str, list[_Look]] = {page.name: [] for page in measured}
    with _serving(url, directory) as (port, pid), closing(connect(url)) as connection:
        for number in range(1 + (PAIRS_QUICK if quick else PAIRS)):
            step(f"{name}: looking")
            for page in measured:
                look = _look(port, page, partial(_processor_ns, pid, server), connection, queries[page.name])
                if number:  # the first pair only warms up
                    looks[page.name].append(look)
    charges = f"{data.charges_of_consortium:,} charges on the tree of {PARTS} parts"
    section = Section(f"{name}: {count:,} allocations, {entries:,} journal entries, {charges}")
    section.comparisons += [
        Comparison(
            f"{page.name} ({len(queries[page.name])} queries)",
            "ms",
            [look.first_byte_ms for look in looks[page.name]],
            [look.bare_ms for look in looks[page.name]],
            limit=GOAL_MS,
            processor=[look.processor_ms for look in looks[page.name]],
        )
        for page in measured
    ]
    report.sections.append(section)
    slow = [one.what for one in section.comparisons if max(one.ours) > GOAL_MS]
    report.notes.append(
        f"{name}: every page was answered within {GOAL_MS} ms each time."
        if not slow
        else f"{name}: above {GOAL_MS} ms at least once: {', '.join(slow)}."
    )
    dearest = max(section.comparisons, key=lambda one: median(one.processor))
    report.notes.append(
        f"{name}: most processor time up to the first byte: {dearest.what}, {median(dearest.processor):.0f} ms."
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """A look at a page, in milliseconds; `processor_ms` is the service's and the database's, up to the first byte."""

    first_byte_ms: float
    processor_ms: float
    bare_ms: float


def _record(url: str, measured: list[Page]) -> dict[str, list[tuple[str, Any]]]:
    """Look at each page's first part within this process, and note its queries with their parameters."""
    app = application(url)
    database = app.state.services.database
    found: dict[str, list[tuple[str, Any]]] = {}
    for page in measured:
        noted = found[page.name] = []

        def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any, to: Any = noted) -> None:
            # Not the beginning of the transaction, which SQLite is told in words.
            if statement.startswith(("SELECT", "WITH")):
                to.append((statement, parameters))

        event.listen(database.engine, "before_cursor_execute", note)
        client = TestClient(app, follow_redirects=False)
        with client.stream("GET", f"{PREFIX}{page.path}", headers=page.headers) as answer:
            next(answer.iter_bytes(), b"")
        event.remove(database.engine, "before_cursor_execute", note)
        if answer.status_code != 200:  # noqa: PLR2004  # what a page answers
            raise RuntimeError(f"{page.path} answers {answer.status_code}")
    database.dispose()
    return found


@contextmanager
def _serving(url: str, directory: Path) -> Iterator[tuple[int, int]]:
    """Run the service; yield its port and its process."""
    port = free_port()
    log = directory / "service.log"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.pages_service", url, str(port)]
    with process_of(command, environment, log) as process:
        health = f"http://{LOOPBACK}:{port}{PREFIX}/api/v1/health"
        until(health, partial(answers, health), READY_SECONDS)
        yield port, process.pid


def _look(
    port: int, page: Page, processor_ns: Callable[[], int], bare: BareConnection, queries: list[tuple[str, Any]]
) -> _Look:
    connection = HTTPConnection(LOOPBACK, port)
    connection.connect()
    used, begin = processor_ns(), time.perf_counter()
    connection.request("GET", f"{PREFIX}{page.path}", headers=page.headers)
    answer = connection.getresponse()
    answer.read(1)
    taken, used = time.perf_counter() - begin, processor_ns() - used
    if answer.length is not None:
        answer.read()
    connection.close()  # of a long file the rest is not waited for
    return _Look(taken * 1000, used / 1_000_000, _bare_ms(bare, queries))


def _processor_ns(pid: int, server: PostgresServer | None) -> int:
    """Return the processor time that the service's threads and the database's processes have taken so far."""
    of_service = sum(_ran_ns(task) for task in Path(f"/proc/{pid}/task").iterdir())
    if server is None:
        return of_service
    postmaster = psutil.Process(int(server.pid_file.read_text().split()[0]))
    return of_service + sum(_ran_ns(Path(f"/proc/{child.pid}")) for child in postmaster.children())


def _ran_ns(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0


def _bare_ms(connection: BareConnection, queries: list[tuple[str, Any]]) -> float:
    begin = time.perf_counter()
    for statement, parameters in queries:
        connection.read(statement, parameters)
    return (time.perf_counter() - begin) * 1000
