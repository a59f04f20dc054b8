"""Admissions over HTTP on PostgreSQL, against pgbench running the bare transaction of one request."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlalchemy import text

from allocations.db.database import Database
from allocations.db.migrate import upgrade
from allocations.factory import make_services
from allocations.ledger.audit import audit_ledger
from allocations.lifecycle.models import Award, Member, MemberRole
from allocations.lifecycle.stores.agreements import AgreementStore
from allocations.lifecycle.stores.allocations import AllocationStore
from allocations.policy.loader import load_policy
from allocations.policy.models import AtOnce
from allocations.settings import ROOT
from benchmarks.drive import Timing
from benchmarks.load import Load, Yield
from benchmarks.machine import memory_mib
from benchmarks.pgbench import Pgbench
from benchmarks.platforms import LOOPBACK
from benchmarks.report import Comparison, Report, Section
from benchmarks.service import running_service
from tests.e2e.platform import API
from tests.postgres import fresh_database, running_postgres, server_binaries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.report import Step
    from benchmarks.service import RunningService

CLIENTS = 32
PEOPLE = 1_000
SERVERS_PER_PERSON = 2
COLD_ROOTS = 400
CREDITS = 100_000_000
PAIRS, PAIRS_QUICK = 7, 2
STEADY_PER_SECOND = 100
STEADY_SECONDS, STEADY_SECONDS_QUICK = 20, 5
SIZE = "small"
# About what the remembered answer is longer than its identifier.
ANSWER_LENGTH = 640
COMPARES = (
    f"POST /leases over {CLIENTS} connections to the service as production starts it, each with the spawner's token "
    f"and a new key, against pgbench with {CLIENTS} clients and the bare transaction of one request "
    "(benchmarks/bare.sql)."
)
# What a wave holds is freed between waves, outside of every measurement: as voiding each lease would.
RELEASE = (
    """
    INSERT INTO journal
        (transaction_id, at_ms, kind, allocation_id, unit, debit, credit, amount, lease_id, actor, policy_version)
    SELECT 'void-' || l.id, l.moved_at_ms, 'void', l.allocation_id, h.unit, 'held', 'free', h.amount, l.id, l.person,
           'bench'
    FROM leases l JOIN holds h ON h.lease_id = l.id WHERE h.state = 'open'
    """,
    "UPDATE balances SET held = 0 WHERE held > 0",
    "UPDATE holds SET state = 'voided' WHERE state = 'open'",
    "UPDATE leases SET state = 'voided', ended_at_ms = moved_at_ms, end_reason = 'never ran' WHERE state = 'open'",
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """How many allocations are asked for, counted from where."""

    name: str
    roots: int
    first_root: int


SCENARIOS = (Scenario("hot root", 1, 0), Scenario(f"{COLD_ROOTS} cold roots", COLD_ROOTS, 1))


def steps(*, quick: bool) -> int:
    """Return how many steps of the progress bar `run` makes."""
    return 1 + len(SCENARIOS) * (2 + (PAIRS_QUICK if quick else PAIRS))


def run(step: Step, *, quick: bool) -> Report:
    """Measure on PostgreSQL."""
    step("preparing")
    report = Report("http", COMPARES, "pgbench")
    try:
        server_binaries()
    except RuntimeError as missing:
        report.notes.append(f"Left out. {missing}")
        return report
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="meridian-bench-")))
        server = stack.enter_context(running_postgres())
        ours, bare = (
            stack.enter_context(closing(Side(stack.enter_context(fresh_database(server, _name())), directory)))
            for _ in range(2)
        )
        service = stack.enter_context(running_service(ours.url))
        pgbench = Pgbench(bare.url, CLIENTS, bare.variables())
        before = memory_mib(service.pid, "VmRSS")
        processor: list[float] = []
        for scenario in SCENARIOS:
            report.sections.append(_measure(scenario, ours, bare, service, pgbench, step, processor, quick=quick))
        report.notes.append(
            f"The client takes {sum(processor) / len(processor) * 1e6:.0f} µs of a processor for each request. "
            f"The service process had {before:.0f} MiB before, {memory_mib(service.pid, 'VmRSS'):.0f} MiB after, "
            f"{memory_mib(service.pid, 'VmHWM'):.0f} MiB at its peak."
        )
        for side, whose in ((ours, "Meridian's"), (bare, "pgbench's")):
            report.notes.append(side.audited(whose))
    return report


def _measure(
    scenario: Scenario,
    ours: Side,
    bare: Side,
    service: RunningService,
    pgbench: Pgbench,
    step: Step,
    processor: list[float],
    *,
    quick: bool,
) -> Section:
    section = Section(f"PostgreSQL, {scenario.name}")
    chance = random.Random(len(scenario.name))  # noqa: S311  # the same order in each run

    def pair(count: int, per_second: float | None) -> tuple[Timing, Timing]:
        asks = ours.asks(scenario)[:count]
        chance.shuffle(asks)
        done = _drive(service, asks, per_second)
        ours.release()
        processor.append(done.processor / len(done.each))
        theirs = pgbench.run(count, scenario.roots, scenario.first_root, per_second=per_second)
        bare.release()
        return Timing(done.wall, done.each), theirs

    waves: list[tuple[Timing, Timing]] = []
    for number in range(1 + (PAIRS_QUICK if quick else PAIRS)):
        step(f"{scenario.name}: as many as there can be")
        waves.append(pair(PEOPLE * SERVERS_PER_PERSON, None))
        if number == 0:
            # The first fills caches, and prepares statements.
            waves.clear()
    step(f"{scenario.name}: {STEADY_PER_SECOND} a second")
    steady = pair(STEADY_PER_SECOND * (STEADY_SECONDS_QUICK if quick else STEADY_SECONDS), STEADY_PER_SECOND)
    section.comparisons.append(
        Comparison("rate", "per second", [one.per_second for one, _ in waves], [other.per_second for _, other in waves])
    )
    for what, pairs in (("", waves), (f"{STEADY_PER_SECOND} a second, ", [steady])):
        for percent in (50, 99):
            section.comparisons.append(
                Comparison(
                    f"{what}p{percent}",
                    "ms",
                    [one.percentile_ms(percent) for one, _ in pairs],
                    [other.percentile_ms(percent) for _, other in pairs],
                )
            )
    return section


def _drive(service: RunningService, asks: list[tuple[str, str]], per_second: float | None) -> Yield:
    """Run the client in a process of its own."""
    load = Load(LOOPBACK, service.port, f"{API}/leases", service.token, CLIENTS, asks, per_second)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        check=True,
        input=json.dumps(asdict(load)),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    return Yield(**json.loads(done.stdout))


class Side:
    """A database with a hot root, cold roots, and people who are members of the one and of one of the others each."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self._database = Database(url)
        upgrade(self._database)
        self._policy = load_policy(ROOT / "policies")
        numbers: dict[str, Iterator[int]] = defaultdict(itertools.count)
        services = make_services(
            self._database, self._policy, directory, new_id=lambda kind: f"{kind}-{next(numbers[kind]):020}"
        )
        tier = next(tier for tier in self._policy.tiers if tier.sub_allocations)
        award = Award(
            credits=CREDITS,
            at_once=AtOnce(servers_per_person=SERVERS_PER_PERSON, cores=PEOPLE * SERVERS_PER_PERSON, gpus=0),
        )
        now_ms = services.clock.now_ms()
        with self._database.write() as connection:
            self.roots = [
                services.lifecycle.open(connection, tier, f"Root {number}", lead="lead", actor="a", award=award).id
                for number in range(1 + COLD_ROOTS)
            ]
            for number in range(PEOPLE):
                AgreementStore().put(connection, _person(number), self._policy.agreement.version, now_ms)
                for root in (self.roots[0], self.roots[1 + number % COLD_ROOTS]):
                    AllocationStore().add_member(connection, Member(root, _person(number), MemberRole.MEMBER, now_ms))
        self._sweep()

    def asks(self, scenario: Scenario) -> list[tuple[str, str]]:
        """Return a wave: each person's servers on their allocation of the scenario."""
        return [
            (self.roots[scenario.first_root + number % scenario.roots], _person(number))
            for _ in range(SERVERS_PER_PERSON)
            for number in range(PEOPLE)
        ]

    def variables(self) -> dict[str, int]:
        """Return what the bare transaction writes."""
        size = self._policy.size(SIZE)
        return {
            "people": PEOPLE,
            "rate": self._policy.prices_at(datetime.now(UTC)).microcredits_per_second(size),
            "seconds": self._policy.leases.quantum_seconds,
            "now_ms": time.time_ns() // 1_000_000,
            "answer_length": ANSWER_LENGTH,
        }

    def release(self) -> None:
        """Free what a wave holds."""
        with self._database.write() as connection:
            for statement in RELEASE:
                connection.execute(text(statement))
        self._sweep()

    def audited(self, whose: str) -> str:
        """Audit what was written: were the bare transaction's rows not the same as ours, it would not be clean."""
        with self._database.read() as connection:
            found = audit_ledger(connection)
        if found.violations:
            raise RuntimeError(f"The ledger audit of {whose} side found differences: {found.violations[0]}")
        return f"{whose} side: the ledger audit is clean, {found.journal_entries:,} entries of {found.leases:,} leases."

    def close(self) -> None:
        """Close the connections."""
        self._database.dispose()

    def _sweep(self) -> None:
        """Do what the server would do by itself at some moment, perhaps in the middle of a wave."""
        with self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
            connection.execute(text("CHECKPOINT"))


def _name() -> str:
    return f"http_{uuid.uuid4().hex[:8]}"


def _person(number: int) -> str:
    return f"person-{number:04}"
