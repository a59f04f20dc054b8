"""The ledger audit over a journal of a million entries, against the bare sum over the same rows."""

from __future__ import annotations

import os
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, text

from allocations.clock import MS_PER_SECOND
from allocations.db.database import Database
from allocations.db.migrate import upgrade
from allocations.db.schema import allocations, balances, holds, idempotency, journal, leases
from allocations.ledger.audit import audit_ledger
from benchmarks.machine import memory_mib
from benchmarks.report import Comparison, Report, Section
from tests.postgres import fresh_database, running_postgres, server_binaries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.report import Step

LEASES, LEASES_QUICK = 250_000, 5_000
PAIRS, PAIRS_QUICK = 3, 2
ALLOCATIONS = 300
CHILDREN = 5
BATCH = 10_000
START_MS = 1_790_000_000_000
RATE = 34
QUANTUM_SECONDS = 900
RAN_SECONDS = 600
LIMIT = 10**15
BARE = "SELECT sum(amount) FROM journal GROUP BY allocation_id, unit, debit, credit"
COMPARES = (
    "the audit of every invariant in a new process, against the bare SELECT sum(amount) … GROUP BY over the journal."
)


def steps(*, quick: bool) -> int:
    """Return how many steps of the progress bar `run` makes."""
    return 2 * (1 + (PAIRS_QUICK if quick else PAIRS))


def run(step: Step, *, quick: bool) -> Report:
    """Measure on both databases."""
    report = Report("audit", COMPARES, "bare sum")
    with TemporaryDirectory(prefix="meridian-bench-") as directory:
        _measure("SQLite", f"sqlite:///{Path(directory) / 'audit.sqlite'}", step, report, quick=quick)
        try:
            server_binaries()
        except RuntimeError as missing:
            report.notes.append(f"PostgreSQL was left out. {missing}")
            return report
        with running_postgres() as server, fresh_database(server, f"audit_{uuid.uuid4().hex[:8]}") as url:
            _measure("PostgreSQL", url, step, report, quick=quick)
    return report


@dataclass(frozen=True, slots=True)
class Finding:
    """One audit and one bare sum, in a process of their own."""

    audit_seconds: float
    bare_seconds: float
    entries: int
    leases: int
    violations: int
    before_mib: float
    peak_mib: float


def _measure(name: str, url: str, step: Step, report: Report, *, quick: bool) -> None:
    step(f"{name}: writing the journal")
    write_journal(url, LEASES_QUICK if quick else LEASES)
    found: list[Finding] = []
    for _ in range(PAIRS_QUICK if quick else PAIRS):
        step(f"{name}: auditing")
        # Spawned, not forked, and read from VmHWM, which begins with the process: ru_maxrss would be the parent's too.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            found.append(process.submit(audit_once, url).result())
    if any(one.violations for one in found):
        raise RuntimeError(f"{name}: the ledger audit found differences in a consistent journal")
    last = found[-1]
    section = Section(f"{name}: {last.entries:,} journal entries of {last.leases:,} leases")
    section.comparisons.append(
        Comparison("time", "s", [one.audit_seconds for one in found], [one.bare_seconds for one in found])
    )
    report.sections.append(section)
    report.notes.append(
        f"{name}: the auditing process had {max(one.before_mib for one in found):.0f} MiB before it began, and "
        f"{max(one.peak_mib for one in found):.0f} MiB at its peak."
    )


def audit_once(url: str) -> Finding:
    """Audit, then sum barely; with this process's peak memory."""
    with closing(_Closing(url)) as opened, opened.database.read() as connection:
        before = memory_mib(os.getpid(), "VmRSS")
        begin = time.perf_counter()
        report = audit_ledger(connection)
        audited = time.perf_counter()
        peak = memory_mib(os.getpid(), "VmHWM")
        connection.execute(text(BARE)).all()
        summed = time.perf_counter()
    return Finding(
        audited - begin,
        summed - audited,
        report.journal_entries,
        report.leases,
        len(report.violations),
        before,
        peak,
    )


class _Closing:
    """A database with the method that `closing` calls."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)

    def close(self) -> None:
        """Close every connection."""
        self.database.dispose()


def write_journal(url: str, count: int) -> None:
    """Write allocations and `count` settled leases in bulk, every third renewed once: four entries each on average."""
    with closing(_Closing(url)) as opened:
        upgrade(opened.database)
        posted = {f"a-{number:04}": 0 for number in range(ALLOCATIONS)}
        with opened.database.write() as connection:
            connection.execute(insert(allocations), [_allocation(number) for number in range(ALLOCATIONS)])
            connection.execute(insert(journal), [_grant(node) for node in posted])
            for begin in range(0, count, BATCH):
                numbers = range(begin, min(begin + BATCH, count))
                connection.execute(insert(leases), [_lease(number) for number in numbers])
                connection.execute(insert(holds), [hold for number in numbers for hold in _holds(number)])
                connection.execute(insert(journal), [entry for number in numbers for entry in _entries(number)])
                connection.execute(insert(idempotency), [_answer(number) for number in numbers])
            for number in range(count):
                for node in {_node(number), _root(_node_number(number))}:
                    posted[node] += RATE * _ran(number)
            connection.execute(insert(balances), [_balance(node, amount) for node, amount in posted.items()])
        with opened.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))


def _node_number(lease: int) -> int:
    return lease % ALLOCATIONS


def _node(lease: int) -> str:
    return f"a-{_node_number(lease):04}"


def _root(node: int) -> str:
    return f"a-{node - node % (CHILDREN + 1):04}"


def _is_renewed(lease: int) -> bool:
    # By a stride of its own: not always the same allocations'.
    return lease // ALLOCATIONS % 3 == 0


def _ran(lease: int) -> int:
    return 2 * RAN_SECONDS if _is_renewed(lease) else RAN_SECONDS


def _allocation(number: int) -> dict[str, Any]:
    node, root = f"a-{number:04}", _root(number)
    return {
        "id": node,
        "parent_id": None if node == root else root,
        "root_id": root,
        "depth": int(node != root),
        "name": node,
        "tier": "consortium",
        "state": "active",
        "guaranteed": False,
        "award": "{}",
        "starts_at_ms": START_MS,
        "ends_at_ms": START_MS * 2,
        "policy_version": "bench",
        "created_at_ms": START_MS,
    }


def _balance(node: str, posted: int) -> dict[str, Any]:
    return {"allocation_id": node, "unit": "credits", "limit_amount": LIMIT, "held": 0, "posted": posted}


def _grant(node: str) -> dict[str, Any]:
    return _entry("tx-grant", START_MS, "grant", node, ("budget", "free"), LIMIT)


def _lease(number: int) -> dict[str, Any]:
    begin_ms = START_MS + number * MS_PER_SECOND
    return {
        "id": f"lease-{number:020}",
        "allocation_id": _node(number),
        "root_id": _root(_node_number(number)),
        "person": f"person-{number % 500}",
        "kind": "interactive",
        "size": "small",
        "image": "default",
        "server_name": "",
        "cores": 2,
        "memory_gib": 16,
        "gpus": 0,
        "microcredits_per_second": RATE,
        "idle_seconds": 3600,
        "state": "settled",
        "final": False,
        "acquired_at_ms": begin_ms,
        "started_at_ms": begin_ms,
        "ends_at_ms": begin_ms + 2 * QUANTUM_SECONDS * MS_PER_SECOND,
        "latest_end_at_ms": begin_ms + 86_400 * MS_PER_SECOND,
        "ended_at_ms": begin_ms + _ran(number) * MS_PER_SECOND,
        "end_reason": "stopped",
        "moved_at_ms": begin_ms + _ran(number) * MS_PER_SECOND,
    }


def _holds(number: int) -> Iterator[dict[str, Any]]:
    for sequence in range(1 + _is_renewed(number)):
        begin = sequence * RAN_SECONDS
        yield {
            "lease_id": f"lease-{number:020}",
            "sequence": sequence + 1,
            "unit": "credits",
            "per_second": RATE,
            "from_second": begin,
            "to_second": begin + QUANTUM_SECONDS,
            "amount": RATE * QUANTUM_SECONDS,
            "charged": RATE * RAN_SECONDS,
            "state": "settled",
        }


def _entries(number: int) -> Iterator[dict[str, Any]]:
    """Yield hold, charge and what is freed, for each of the lease's holds."""
    node, lease = _node(number), f"lease-{number:020}"
    for sequence in range(1 + _is_renewed(number)):
        at_ms = START_MS + (number + sequence * RAN_SECONDS) * MS_PER_SECOND
        held, charged = RATE * QUANTUM_SECONDS, RATE * RAN_SECONDS
        end_ms = at_ms + RAN_SECONDS * MS_PER_SECOND
        first, last = f"tx-{number}-{sequence}", f"tx-{number}-{sequence + 1}"
        yield _entry(first, at_ms, "hold", node, ("free", "held"), held, lease)
        yield _entry(last, end_ms, "settle", node, ("held", "posted"), charged, lease)
        yield _entry(last, end_ms, "settle", node, ("held", "free"), held - charged, lease)


def _entry(
    transaction: str,
    at_ms: int,
    kind: str,
    node: str,
    accounts: tuple[str, str],
    amount: int,
    lease: str | None = None,
) -> dict[str, Any]:
    return {
        "transaction_id": transaction,
        "at_ms": at_ms,
        "kind": kind,
        "allocation_id": node,
        "unit": "credits",
        "debit": accounts[0],
        "credit": accounts[1],
        "amount": amount,
        "lease_id": lease,
        "actor": "person",
        "quantities": f'{{"seconds": {RAN_SECONDS}}}' if accounts[1] == "posted" else None,
        "policy_version": "bench",
    }


def _answer(number: int) -> dict[str, Any]:
    return {
        "caller": "spawner",
        "key": f"key-{number}",
        "request_hash": f"{number:064x}",
        "answer": f'{{"id":"lease-{number:020}","allocation":"{_node(number)}"}}',
        "created_at_ms": START_MS,
    }
