"""Services over both databases, with a clock and ids that the test sets."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from allocations.db.database import Database
from allocations.db.idempotency import IdempotencyKey
from allocations.db.migrate import upgrade
from allocations.factory import Services, make_services
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.ledger.audit import audit_ledger
from tests.fresh import fresh_sqlite, shipped_policy
from tests.postgres import fresh_database, running_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from allocations.leases.views import LeaseView

START_MS = 1_800_000_000_000


@dataclass
class TestClock:
    """A clock that moves when the test says so."""

    __test__ = False
    at_ms: int = START_MS

    def now_ms(self) -> int:
        return self.at_ms

    def pass_seconds(self, seconds: float) -> None:
        self.at_ms += round(seconds * 1000)


@dataclass
class Bench:
    """The services and what most tests do with them."""

    services: Services
    clock: TestClock
    _counter: Iterator[int] = field(default_factory=itertools.count)

    def key(self, body: dict[str, object] | None = None, key: str | None = None) -> IdempotencyKey:
        return IdempotencyKey.for_request("spawner", key or f"key-{next(self._counter)}", "test", body or {})

    def accept(self, person: str) -> str:
        """Accept the agreement and return the entry allocation's id."""
        self.services.agreements.accept(person, self.services.policy.agreement.version)
        return self.services.reports.allocations_of(person)[0].id

    def gone(self, lease_id: str) -> LeaseView:
        """Let the worker end a lease whose server the hub does not list any more."""
        with self.services.database.read() as connection:
            lease = self.services.lease_store.get(connection, lease_id)
        assert lease is not None
        self.services.leases.end_gone([lease])
        return self.services.leases.get(lease_id)

    def consortium(self, lead: str = "lead", credits: int | None = None) -> str:  # noqa: A002  # the unit's name
        self.accept(lead)
        with self.services.database.write() as connection:
            return self.services.lifecycle.open(
                connection,
                self.services.policy.tier("consortium"),
                "Deep fields",
                lead=lead,
                actor="t",
                credits=credits,
            ).id

    def request(self, allocation: str, person: str = "ann", size: str = "small", server: str = "") -> LeaseRequest:
        return LeaseRequest(allocation, person, LeaseKind.INTERACTIVE, size, None, server)

    def acquire(self, allocation: str, person: str = "ann", size: str = "small", server: str = "") -> LeaseView:
        return self.services.leases.acquire(self.request(allocation, person, size, server), self.key())

    def assert_clean(self) -> None:
        """The ledger's audit finds nothing."""
        with self.services.database.read() as connection:
            assert audit_ledger(connection).violations == ()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A server with a migrated database, `migrated`, to copy."""
    with running_postgres() as url, fresh_database(url, "migrated") as migrated:
        database = Database(migrated)
        upgrade(database)
        database.dispose()
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated database of the test's own."""
    if request.param == "sqlite":
        yield fresh_sqlite(tmp_path)
    else:
        with fresh_database(request.getfixturevalue("postgres_server"), f"t{uuid.uuid4().hex}", "migrated") as url:
            yield url


def make_bench(database_url: str, run_store: Path) -> Bench:
    """Return the services over a database that is migrated."""
    database = Database(database_url)
    clock = TestClock()
    return Bench(make_services(database, shipped_policy(), run_store, clock, secret_keys=["5e" * 32]), clock)


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(database_url, tmp_path / "runs")
    yield made
    made.services.database.dispose()
