"""A tick of the worker over 10,000 running leases that are all due, against the bare writes that it comes down to."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from allocations.clock import MS_PER_SECOND
from allocations.db.database import Database
from allocations.db.migrate import upgrade
from allocations.db.schema import allocations, leases
from allocations.factory import make_services
from allocations.leases.admission import Asked
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.leases.watch import ServerStatus
from allocations.ledger.audit import audit_ledger
from allocations.ledger.service import MICROCREDITS_PER_CREDIT
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Member, MemberRole
from allocations.lifecycle.stores.agreements import AgreementStore
from allocations.lifecycle.stores.allocations import AllocationStore
from allocations.policy.loader import load_policy
from allocations.settings import ROOT
from allocations.worker import Worker
from benchmarks.drivers import connect
from benchmarks.ledgers import START_MS, SteppedClock, Write
from benchmarks.machine import memory_mib
from benchmarks.report import Comparison, Report, Section, Share
from tests.postgres import fresh_database, running_postgres, server_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from allocations.factory import Services
    from allocations.leases.watch import ServerKey
    from benchmarks.report import Step

LEASES, LEASES_QUICK = 10_000, 1_000
ROOTS = 50
DEPTH_MAX = 4
SERVERS_PER_PERSON = 2
CREDITS = 1_000_000
PAIRS, PAIRS_QUICK = 5, 2
ROUND_SECONDS = 700  # of a quantum of 900: within its last 300, in which the worker renews
RATE = 13  # microcredits a second
QUANTITIES = json.dumps({"seconds": 700, "core_seconds": 700, "gib_seconds": 2800, "gpu_seconds": 0})
COMPARES = (
    f"a tick of the worker over running leases on {ROOTS} trees of 1 to {DEPTH_MAX} levels, all due at once (sightings "
    "noted, used seconds charged, the next quantum held), against a driver that only writes as many rows with "
    "executemany, in a transaction for each tree."
)


def steps(*, quick: bool) -> int:
    """Return how many steps of the progress bar `run` makes."""
    return 2 * (2 + (PAIRS_QUICK if quick else PAIRS))


def run(step: Step, *, quick: bool) -> Report:
    """Measure on both databases."""
    report = Report("tick", COMPARES, "bare writes")
    count, pairs = (LEASES_QUICK, PAIRS_QUICK) if quick else (LEASES, PAIRS)
    with TemporaryDirectory(prefix="meridian-bench-") as directory:
        store = Path(directory)

        def measure(database: str, bare_url: str, copy: Callable[[], AbstractContextManager[str]]) -> None:
            step(f"{database}: starting {count:,} leases")
            servers = _begin(bare_url, store, count)
            with copy() as url, closing(_Bare(bare_url)) as bare, closing(_Ours(url, store, servers)) as ours:
                rounds = []
                for _ in range(pairs + 1):
                    step(f"{database}: tick")
                    rounds.append((ours.tick(), bare.write()))
                ours.audit()
            # The first fills caches, and prepares statements.
            report.sections.append(_section(f"{database}, {count:,} leases", rounds[1:]))
            report.notes.append(f"{database}: each tick renewed every lease, and the ledger's audit is clean.")

        def copy_file() -> AbstractContextManager[str]:
            shutil.copy(store / "bare.sqlite", store / "ours.sqlite")
            return nullcontext(f"sqlite:///{store / 'ours.sqlite'}")

        measure("SQLite", f"sqlite:///{store / 'bare.sqlite'}", copy_file)
        try:
            server_binaries()
        except RuntimeError as missing:
            report.notes.append(f"PostgreSQL was left out. {missing}")
        else:
            with running_postgres() as server, fresh_database(server, "bare") as url:
                measure("PostgreSQL", url, lambda: fresh_database(server, "ours", "bare"))
    peak = memory_mib(os.getpid(), "VmHWM")
    report.notes.append(f"Peak memory of the process, with all that it has measured so far: {peak:,.0f} MiB.")
    return report


def _section(title: str, rounds: Sequence[tuple[_Tick, float]]) -> Section:
    due = Comparison("tick, all due", "s", [tick.due for tick, _ in rounds], [bare for _, bare in rounds])
    return Section(title, [due], [Share("tick, none due", "s", [tick.idle for tick, _ in rounds])])


@dataclass(frozen=True, slots=True)
class _Tick:
    """The seconds of a tick when all leases were due, and of the one after it."""

    due: float
    idle: float


@dataclass(slots=True)
class _StubServers:
    """The hub, which says at once what runs."""

    running: dict[ServerKey, ServerStatus]

    def active(self) -> Mapping[ServerKey, ServerStatus]:
        """Return what runs."""
        return self.running

    def stop(self, key: ServerKey) -> None:
        """Fail: nothing is to be stopped."""
        raise AssertionError(f"the worker stopped {key}")


def _begin(url: str, run_store: Path, count: int) -> list[ServerKey]:
    """Make a ledger in which people run servers on the last share of each tree, and return the servers."""
    database = Database(url)
    upgrade(database)
    services = make_services(database, load_policy(ROOT / "policies"), run_store, SteppedClock())
    asked = []
    for number in range(ROOTS):
        share = _open_tree(services, number)
        people = [f"person-{number}-{index}" for index in range(count // ROOTS // SERVERS_PER_PERSON)]
        with database.write() as connection:
            for person in people:
                AgreementStore().put(connection, person, services.policy.agreement.version, START_MS)
                AllocationStore().add_member(connection, Member(share, person, MemberRole.MEMBER, START_MS))
        asked.append(
            [
                Asked(LeaseRequest(share, person, LeaseKind.INTERACTIVE, "small", None, f"s{server}"), "spawner")
                for person in people
                for server in range(SERVERS_PER_PERSON)
            ]
        )
    for of_root in asked:
        with database.write() as connection:
            refused = [
                one for one in services.leases.admission.decide(connection, of_root) if isinstance(one, Exception)
            ]
        if refused:
            raise refused[0]
    with database.write() as connection:
        connection.execute(update(leases).values(started_at_ms=START_MS, seen_at_ms=START_MS))
    database.dispose()
    return [(one.request.person, one.request.server_name) for of_root in asked for one in of_root]


def _open_tree(services: Services, number: int) -> str:
    """Open a root and a line of shares below it, and return the last; trees have 1 to DEPTH_MAX levels."""
    lead = Actor("lead")
    tier = next(tier for tier in services.policy.tiers if tier.sub_allocations)
    with services.database.write() as connection:
        node = services.lifecycle.open(
            connection, tier, f"Root {number}", lead=lead.name, actor=lead.name, credits=CREDITS
        ).id
    for level in range(number % DEPTH_MAX):
        microcredits = CREDITS * MICROCREDITS_PER_CREDIT
        node = services.tree.divide(
            lead, node, name=f"Part {level}", microcredits=microcredits, guaranteed=True, lead=lead.name
        )
    return node


class _Ours:
    """The worker over a ledger."""

    def __init__(self, url: str, run_store: Path, servers: Sequence[ServerKey]) -> None:
        self._clock = SteppedClock()
        self._database = Database(url)
        self._policy = load_policy(ROOT / "policies")
        services = make_services(self._database, self._policy, run_store, self._clock)
        self._servers = _StubServers(dict.fromkeys(servers, ServerStatus(ready=True, last_activity_ms=START_MS)))
        self._worker = Worker(services, self._servers, "benchmark")

    def tick(self) -> _Tick:
        """Let time pass until all leases are due, and time two ticks; RuntimeError when a lease was not renewed."""
        self._clock.pass_seconds(ROUND_SECONDS)
        now_ms = self._clock.now_ms()
        used_now = ServerStatus(ready=True, last_activity_ms=now_ms)
        self._servers.running = dict.fromkeys(self._servers.running, used_now)
        due = _seconds(self._worker.tick)
        with self._database.read() as connection:
            first_end_ms = connection.execute(select(func.min(leases.c.ends_at_ms))).scalar_one()
        if first_end_ms < now_ms + self._policy.leases.quantum_seconds * MS_PER_SECOND:
            raise RuntimeError("a lease was not renewed")
        self._clock.pass_seconds(2)
        return _Tick(due, _seconds(self._worker.tick))

    def audit(self) -> None:
        """Raise RuntimeError when the ledger's audit is not clean, for then no figure counts."""
        with self._database.read() as connection:
            found = audit_ledger(connection)
        if found.violations:
            raise RuntimeError(f"the ledger audit found {found.violations[0]}")

    def close(self) -> None:
        """Close the connections."""
        self._database.dispose()


class _Bare:
    """As many rows as a tick writes, written by the driver alone into a ledger like ours: no reads, no checks."""

    def __init__(self, url: str) -> None:
        self._mark = "?" if url.startswith("sqlite") else "%s"
        self._sequence, self._at_ms = 1, START_MS
        database = Database(url)
        with database.read() as connection:
            rows = connection.execute(select(leases.c.root_id, leases.c.id, leases.c.allocation_id))
            self._leases: dict[str, list[tuple[str, str]]] = {}
            for root, lease, allocation in rows:
                self._leases.setdefault(root, []).append((lease, allocation))
            nodes = connection.execute(select(allocations.c.root_id, allocations.c.id))
            self._nodes: dict[str, list[str]] = {}
            for root, node in nodes:
                self._nodes.setdefault(root, []).append(node)
        database.dispose()
        self._connection = connect(url)

    def write(self) -> float:
        """Write what a tick writes, in a transaction for each tree, and return the seconds."""
        self._at_ms += ROUND_SECONDS * MS_PER_SECOND
        transactions = [self._of_root(root) for root in self._leases]
        self._sequence += 1

        def commit_all() -> None:
            for writes in transactions:
                self._connection.commit(writes)

        return _seconds(commit_all)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _of_root(self, root: str) -> list[Write]:
        amount, at_ms, sequence = ROUND_SECONDS * RATE, self._at_ms, self._sequence
        on = self._leases[root]
        entry = ("tx-bare", at_ms, "renew", "credits", "worker", "version")
        journal = [
            (*entry, allocation, lease, *accounts, amount, QUANTITIES)
            for lease, allocation in on
            for accounts in (("held", "posted"), ("held", "free"), ("free", "held"))
        ]
        return [
            self._many(
                "UPDATE leases SET seen_at_ms = $, missing_since_ms = NULL WHERE id = $",
                [(at_ms, one) for one, _ in on],
            ),
            self._many(
                "UPDATE balances SET held = held + $, posted = posted + $ WHERE allocation_id = $ AND unit = $",
                [(0, amount * len(on), node, "credits") for node in self._nodes[root]],
            ),
            self._many(
                "INSERT INTO journal (transaction_id, at_ms, kind, unit, actor, policy_version, allocation_id,"
                " lease_id, debit, credit, amount, quantities) VALUES ($, $, $, $, $, $, $, $, $, $, $, $)",
                journal,
            ),
            self._many(
                "INSERT INTO holds (lease_id, sequence, unit, per_second, from_second, to_second, amount, charged,"
                " state) VALUES ($, $, $, $, $, $, $, $, $)",
                [(one, sequence + 1, "credits", 1, 0, amount, amount, 0, "open") for one, _ in on],
            ),
            self._many(
                "UPDATE holds SET state = $, charged = $ WHERE lease_id = $ AND sequence = $ AND unit = $",
                [("settled", amount, one, sequence, "credits") for one, _ in on],
            ),
            self._many(
                "UPDATE leases SET ends_at_ms = $, final = $, moved_at_ms = $ WHERE id = $",
                [(at_ms, False, at_ms, one) for one, _ in on],
            ),
        ]

    def _many(self, statement: str, parameters: Sequence[tuple[Any, ...]]) -> Write:
        return Write(statement.replace("$", self._mark), parameters, many=True)


def _seconds(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin
