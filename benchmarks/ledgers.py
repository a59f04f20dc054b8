"""The two sides of the admission benchmark: our service, and the bare transactions that it comes down to."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import event

from allocations.clock import MS_PER_SECOND
from allocations.db.database import Database
from allocations.db.idempotency import IdempotencyKey
from allocations.db.migrate import upgrade
from allocations.factory import make_services
from allocations.ids import random_id
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.ledger.audit import audit_ledger
from allocations.lifecycle.models import Member, MemberRole
from allocations.lifecycle.stores.agreements import AgreementStore
from allocations.lifecycle.stores.allocations import AllocationStore
from allocations.policy.loader import load_policy
from allocations.settings import ROOT
from benchmarks.drive import Timing, drive
from benchmarks.drivers import connect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from allocations.factory import Services
    from allocations.ids import IdFactory
    from allocations.ledger.audit import AuditReport

THREADS = 8
PEOPLE = 128
SERVERS_PER_PERSON = 2
CREDITS = 1_000_000_000
RUN_SECONDS = 60
START_MS = 1_790_000_000_000


@dataclass(frozen=True, slots=True)
class Order:
    """Who starts a server on what; both are counted from 0."""

    person: int
    root: int


class Side(Protocol):
    """One of the two that are compared: it acquires a wave of leases, then settles them all."""

    def acquire(self, orders: Sequence[Order], threads: int) -> Timing:
        """Acquire a lease for each order, divided among threads."""

    def settle(self, threads: int) -> Timing:
        """Settle what the last wave acquired, RUN_SECONDS later."""

    def audit(self) -> AuditReport:
        """Audit the ledger that the waves have written."""

    def close(self) -> None:
        """Close the connections."""


class SteppedClock:
    """A clock that stands still but for `pass_seconds`, so that each lease runs equally long."""

    def __init__(self) -> None:
        self._at_ms = START_MS

    def now_ms(self) -> int:
        """Tell the time."""
        return self._at_ms

    def pass_seconds(self, seconds: int) -> None:
        """Let time pass."""
        self._at_ms += seconds * MS_PER_SECOND


class OurSide:
    """`LeaseService.acquire` and `.settle` over a database of its own, with people and budgets for every order."""

    def __init__(self, url: str, run_store: Path, new_id: IdFactory = random_id) -> None:
        self._clock = SteppedClock()
        self.database = Database(url)
        upgrade(self.database)
        policy = load_policy(ROOT / "policies")
        self._services: Services = make_services(self.database, policy, run_store, self._clock, new_id)
        self.people = [f"person-{number:04}" for number in range(PEOPLE)]
        self.roots = self._open_roots()
        self._keys = itertools.count()
        self._open: list[str] = []

    def acquire(self, orders: Sequence[Order], threads: int) -> Timing:
        """Acquire a lease for each order, divided among threads."""
        asked = [self._ask(order) for order in orders]
        timing, self._open = drive(asked, threads, lambda one, _: self._services.leases.acquire(*one).id)
        return timing

    def settle(self, threads: int) -> Timing:
        """Settle what the last wave acquired, RUN_SECONDS later."""
        self._clock.pass_seconds(RUN_SECONDS)
        timing, _ = drive(self._open, threads, lambda lease, _: self._services.leases.settle(lease))
        return timing

    def audit(self) -> AuditReport:
        """Audit the ledger that the waves have written."""
        with self.database.read() as connection:
            return audit_ledger(connection)

    def close(self) -> None:
        """Close the connections."""
        self.database.dispose()

    def _ask(self, order: Order) -> tuple[LeaseRequest, IdempotencyKey]:
        """Return what the hub's spawner would send for the order."""
        person = self.people[order.person]
        request = LeaseRequest(self.roots[order.root], person, LeaseKind.INTERACTIVE, "small", None, "")
        key = _key(next(self._keys))
        return request, IdempotencyKey.for_request("spawner", key, "acquire", {"person": person})

    def _open_roots(self) -> list[str]:
        services = self._services
        tier = next(tier for tier in services.policy.tiers if tier.sub_allocations)
        version, now_ms = services.policy.agreement.version, self._clock.now_ms()
        with self.database.write() as connection:
            for person in self.people:
                AgreementStore().put(connection, person, version, now_ms)
            roots = [
                services.lifecycle.open(connection, tier, f"Root {number}", lead="lead", actor="a", credits=CREDITS).id
                for number in range(THREADS)
            ]
            for root, person in itertools.product(roots, self.people):
                AllocationStore().add_member(connection, Member(root, person, MemberRole.MEMBER, now_ms))
        return roots


@dataclass(frozen=True, slots=True)
class Write:
    """A statement that changes rows, as the driver gets it; `many` when its parameters are a list for executemany."""

    statement: str
    parameters: Any
    many: bool

    def renamed(self, names: dict[str, str]) -> Write:
        """Return the same write of other rows."""
        return Write(self.statement, _renamed(self.parameters, names), self.many)


class BareSide:
    """The same rows written by the driver alone: no reads, no checks, no objects.

    The statements and values are those of a recording of our own side, so that they stay the same whatever the
    service becomes. What is left is what the database and its driver take.
    """

    def __init__(self, url: str, run_store: Path) -> None:
        last: dict[str, str] = {}
        counter = itertools.count()

        def counted_id(prefix: str) -> str:
            last[prefix] = f"{prefix}-{next(counter):020}"
            return last[prefix]

        recorded = OurSide(url, run_store, counted_id)
        self._roots, self._people = recorded.roots, recorded.people
        with _recording(recorded.database) as self._acquiring:
            recorded.acquire([Order(0, 0)], threads=1)
        self._key, self._lease, self._held_by = _key(0), last["lease"], last["tx"]
        with _recording(recorded.database) as self._settling:
            recorded.settle(threads=1)
        self._settled_by = last["tx"]
        self._recorded = recorded
        self._keys = itertools.count(1)
        self._connections = [connect(url) for _ in range(THREADS)]
        self._open: list[dict[str, str]] = []

    def acquire(self, orders: Sequence[Order], threads: int) -> Timing:
        """Write what acquiring a lease for each order writes."""
        self._open = [self._names(order) for order in orders]
        return self._replay(self._acquiring, self._open, threads)

    def settle(self, threads: int) -> Timing:
        """Write what settling the last wave writes."""
        return self._replay(self._settling, self._open, threads)

    def audit(self) -> AuditReport:
        """Audit what was written: were it not the same as ours, it would not be clean."""
        return self._recorded.audit()

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()
        self._recorded.close()

    def _names(self, order: Order) -> dict[str, str]:
        """Map what is named in the recording to what the order names."""
        return {
            self._roots[0]: self._roots[order.root],
            self._people[0]: self._people[order.person],
            self._key: _key(next(self._keys)),
            self._lease: random_id("lease"),
            self._held_by: random_id("tx"),
            self._settled_by: random_id("tx"),
        }

    def _replay(self, recording: Sequence[Write], named: Sequence[dict[str, str]], threads: int) -> Timing:
        transactions = [[write.renamed(names) for write in recording] for names in named]
        timing, _ = drive(transactions, threads, lambda writes, thread: self._connections[thread].commit(writes))
        return timing


def _key(number: int) -> str:
    return f"key-{number:028}"


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        for old, new in names.items():
            if old in value:
                value = value.replace(old, new)
        return value
    if isinstance(value, dict):
        return {name: _renamed(one, names) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_renamed(one, names) for one in value)
    return value


@contextmanager
def _recording(database: Database) -> Iterator[list[Write]]:
    """Note every statement that changes rows, with its parameters."""
    writes: list[Write] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.startswith(("INSERT", "UPDATE")):
            writes.append(Write(statement, parameters, many))

    event.listen(database.engine, "before_cursor_execute", note)
    yield writes
    event.remove(database.engine, "before_cursor_execute", note)
