"""Admission and settlement per second, against the bare transactions that write the same rows."""

from __future__ import annotations

import uuid
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.ledgers import PEOPLE, SERVERS_PER_PERSON, THREADS, BareSide, Order, OurSide
from benchmarks.report import Comparison, Report, Section
from tests.postgres import fresh_database, running_postgres, server_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.drive import Timing
    from benchmarks.ledgers import Side
    from benchmarks.report import Step

PAIRS, PAIRS_QUICK = 7, 2
COMPARES = (
    "acquiring and settling leases through LeaseService, against bare DBAPI transactions (sqlite3, psycopg) that only "
    "write the same rows."
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """How many threads work on how many roots."""

    name: str
    threads: int
    roots: int

    def orders(self) -> list[Order]:
        """Return a wave: each person's servers, the people divided equally among the roots."""
        return [
            Order(person, person * self.roots // PEOPLE) for person in range(PEOPLE) for _ in range(SERVERS_PER_PERSON)
        ]


SCENARIOS = (
    Scenario("1 thread, 1 root", 1, 1),
    Scenario(f"{THREADS} threads, 1 root", THREADS, 1),
    Scenario(f"{THREADS} threads, {THREADS} roots", THREADS, THREADS),
)


def steps(*, quick: bool) -> int:
    """Return how many steps of the progress bar `run` makes."""
    return 2 * len(SCENARIOS) * (1 + (PAIRS_QUICK if quick else PAIRS))


def run(step: Step, *, quick: bool) -> Report:
    """Measure on both databases."""
    report = Report("admission", COMPARES, "bare transaction")
    pairs = PAIRS_QUICK if quick else PAIRS
    with TemporaryDirectory(prefix="meridian-bench-") as directory:
        urls = [f"sqlite:///{Path(directory) / name}.sqlite" for name in ("ours", "bare")]
        _measure("SQLite", urls, Path(directory), pairs, step, report)
        try:
            server_binaries()
        except RuntimeError as missing:
            report.notes.append(f"PostgreSQL was left out. {missing}")
            return report
        with _two_postgres_databases() as urls:
            _measure("PostgreSQL", urls, Path(directory), pairs, step, report)
    return report


@contextmanager
def _two_postgres_databases() -> Iterator[list[str]]:
    with running_postgres() as server, ExitStack() as stack:
        yield [
            stack.enter_context(fresh_database(server, f"{name}_{uuid.uuid4().hex[:8]}")) for name in ("ours", "bare")
        ]


def _measure(database: str, urls: Sequence[str], run_store: Path, pairs: int, step: Step, report: Report) -> None:
    section = Section(database)
    report.sections.append(section)
    with ExitStack() as stack:
        step(f"{database}: preparing")
        ours = stack.enter_context(closing(OurSide(urls[0], run_store)))
        bare = stack.enter_context(closing(BareSide(urls[1], run_store)))
        for scenario in SCENARIOS:
            _measure_scenario(scenario, ours, bare, pairs, lambda doing: step(f"{database}: {doing}"), section)
        for side, whose in ((ours, "Meridian's"), (bare, "the bare")):
            report.notes.append(_audited(side, f"{database}, {whose} side"))


def _measure_scenario(scenario: Scenario, ours: Side, bare: Side, pairs: int, step: Step, section: Section) -> None:
    waves: list[tuple[Wave, Wave]] = []
    for pair in range(pairs + 1):
        step(scenario.name)
        waves.append((_wave(ours, scenario), _wave(bare, scenario)))
        if pair == 0:
            # The first fills caches, and prepares statements.
            waves.clear()
    for what, get in _FIGURES.items():
        unit = "per second" if "rate" in what else "ms"
        section.comparisons.append(
            Comparison(
                f"{scenario.name}: {what}", unit, [get(one) for one, _ in waves], [get(other) for _, other in waves]
            )
        )


@dataclass(frozen=True, slots=True)
class Wave:
    """A wave of acquisitions and the settlements after it."""

    acquire: Timing
    settle: Timing


_FIGURES: dict[str, Callable[[Wave], float]] = {
    "acquire, rate": lambda wave: wave.acquire.per_second,
    "acquire, p50": lambda wave: wave.acquire.percentile_ms(50),
    "acquire, p95": lambda wave: wave.acquire.percentile_ms(95),
    "acquire, slowest": lambda wave: max(wave.acquire.each) * 1000,
    "settle, rate": lambda wave: wave.settle.per_second,
    "settle, p50": lambda wave: wave.settle.percentile_ms(50),
    "settle, p95": lambda wave: wave.settle.percentile_ms(95),
    "settle, slowest": lambda wave: max(wave.settle.each) * 1000,
}


def _wave(side: Side, scenario: Scenario) -> Wave:
    return Wave(side.acquire(scenario.orders(), scenario.threads), side.settle(scenario.threads))


def _audited(side: Side, whose: str) -> str:
    """Return the audit's result in a sentence; RuntimeError when it is not clean, for then no figure counts."""
    found = side.audit()
    if found.violations:
        raise RuntimeError(f"{whose}: the ledger audit found {found.violations[0]}")
    return f"{whose}: the ledger audit over {found.journal_entries} entries and {found.leases} leases is clean."
