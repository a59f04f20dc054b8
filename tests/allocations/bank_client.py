"""The processes of the bank test: clients that spend from one tree, and an observer that never sees it overspent.

A client notes each request in its log before it sends it and the answer when it has it. One that was killed is
started anew with the same log: it repeats what is unanswered, with the same keys, and goes on with its leases.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from allocations.db.database import Database
from allocations.db.idempotency import IdempotencyKey
from allocations.db.schema import allocations, balances, holds, leases
from allocations.errors import (
    AllocationsError,
    AtOnceLimitError,
    InsufficientBalanceError,
    LeaseEndedError,
    TransitionError,
)
from allocations.factory import Services, make_services
from allocations.leases.models import LeaseKind, LeaseRequest, LeaseState
from tests.allocations.conftest import START_MS
from tests.fresh import shipped_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

CALLER = "bank"
PEOPLE = ("ann", "bob", "cho", "dee", "eve", "fay")
SIZES = ("small", "large", "xlarge")
LEASES_OF_A_CLIENT = 3
RETRY_SECONDS = 0.05
CLOCK_SPEED = 60
SERVER_GONE = (None, "57P01", "57P02", "57P03", "08000", "08003", "08006")  # None: the connection broke
Answer = TypeVar("Answer")


class BankClock:
    """One clock for all processes of the machine, a minute a second: leases are charged, renewed and overrun."""

    def now_ms(self) -> int:
        return START_MS + CLOCK_SPEED * time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000


def bank_services(database_url: str, run_store: Path) -> Services:
    """Wire the services over the bank's database and clock."""
    return make_services(Database(database_url), shipped_policy(), run_store, BankClock())


def require_server_gone(error: OperationalError) -> None:
    """Raise the error again unless it is the server's absence: a deadlock, say, must fail the test."""
    if getattr(error.orig, "sqlstate", None) not in SERVER_GONE:
        raise error


def lease_request(entry: dict[str, str]) -> LeaseRequest:
    """Make the request of a log's entry."""
    return LeaseRequest(entry["allocation"], entry["person"], LeaseKind.INTERACTIVE, entry["size"], None, entry["key"])


def lease_key(entry: dict[str, str]) -> IdempotencyKey:
    """Make the idempotency key of a log's entry."""
    return IdempotencyKey.for_request(CALLER, entry["key"], "acquire", {**entry})


@dataclass
class Log:
    """What a client asked (`asked`, by key), what it was answered (`answers`: a lease's id or None) and ended."""

    path: Path
    asked: dict[str, dict[str, str]] = field(default_factory=dict)
    answers: dict[str, str | None] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    @classmethod
    def load(cls, path: Path) -> Log:
        log = cls(path)
        for line in path.read_text().splitlines() if path.exists() else []:
            log._take(json.loads(line))
        return log

    @property
    def unanswered(self) -> list[dict[str, str]]:
        return [entry for key, entry in self.asked.items() if key not in self.answers]

    @property
    def open_leases(self) -> list[str]:
        return [lease for lease in self.answers.values() if lease is not None and lease not in self.ended]

    def note(self, **entry: object) -> None:
        """Append one line with one write: a kill leaves the whole of it or nothing."""
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(entry).encode() + b"\n")
        self._take(entry)

    def _take(self, entry: dict[str, object]) -> None:
        match entry:
            case {"ask": dict(asked)}:
                self.asked[asked["key"]] = asked
            case {"answered": str(key), "lease": lease}:
                self.answers[key] = lease if isinstance(lease, str) else None
            case {"ended": str(lease)}:
                self.ended.add(lease)


@dataclass
class Client:
    """Spends at random, within what it is given, whatever happens to the server."""

    services: Services
    log: Log
    nodes: list[str]
    dice: random.Random

    def run(self) -> None:
        self.repeat_unanswered()
        while True:
            if len(self.log.open_leases) < LEASES_OF_A_CLIENT and self.dice.random() < 0.7:
                entry = {
                    "key": uuid.uuid4().hex,
                    "allocation": self.dice.choice(self.nodes),
                    "person": self.dice.choice(PEOPLE),
                    "size": self.dice.choice(SIZES),
                }
                self.log.note(ask=entry)
                self.ask(entry)
            elif self.log.open_leases:
                self.touch(self.dice.choice(self.log.open_leases))

    def finish(self) -> None:
        """Ask again what is unanswered, and end every lease."""
        self.repeat_unanswered()
        for lease in self.log.open_leases:
            end = self.dice.choice([self.services.leases.settle, self.services.leases.expire])
            self.persist(lambda end=end, lease=lease: end(lease))  # type: ignore[misc]
            self.log.note(ended=lease)

    def repeat_unanswered(self) -> None:
        for entry in self.log.unanswered:
            self.ask(entry)

    def ask(self, entry: dict[str, str]) -> None:
        """Ask for a lease until there is an answer; being denied for want of balance or room is one."""
        try:
            lease = self.persist(lambda: self.services.leases.acquire(lease_request(entry), lease_key(entry)).id)
        except (InsufficientBalanceError, AtOnceLimitError):
            lease = None
        self.log.note(answered=entry["key"], lease=lease)

    def touch(self, lease: str) -> None:
        """Do to a lease what the spawner and the worker do."""
        service = self.services.leases
        match self.dice.choice(["start", "renew", "settle", "settle", "void"]):
            case "start":
                self.persist(lambda: service.start(lease))
            case "renew":
                self.persist(lambda: self._unless(LeaseEndedError, lambda: service.renew(lease)))
            case "settle":
                self.persist(lambda: service.settle(lease))
                self.log.note(ended=lease)
            case "void":
                voided = self.persist(lambda: self._unless(TransitionError, lambda: service.void(lease)))
                if voided is not None:
                    self.log.note(ended=lease)

    def persist(self, act: Callable[[], Answer]) -> Answer:
        """Repeat an act while the server is away; the answer of a commit may be lost, so each act may be repeated."""
        while True:
            try:
                return act()
            except OperationalError as error:
                require_server_gone(error)
                time.sleep(RETRY_SECONDS)

    def _unless(self, refusal: type[AllocationsError], act: Callable[[], Answer]) -> Answer | None:
        try:
            return act()
        except refusal:
            return None


@dataclass
class Observer:
    """Reads the whole tree in one snapshot after another. `crashes` has a byte for each crash that the test made."""

    database: Database
    root: str
    crashes: Path
    reads: Path
    servers_per_person: int
    survived: int = 0

    def run(self) -> None:
        while True:
            try:
                with self.database.read() as connection:
                    self.look(connection)
            except OperationalError as error:
                # Only a crash that the test made, and each of them once, excuses a read that fails.
                require_server_gone(error)
                if self.survived >= self.crashes.stat().st_size:
                    raise
                self.wait_for_the_server()
            with self.reads.open("ab", buffering=0) as file:
                file.write(b".")

    def wait_for_the_server(self) -> None:
        while True:
            try:
                with self.database.read():
                    self.survived += 1
                    return
            except OperationalError as error:
                require_server_gone(error)
                time.sleep(RETRY_SECONDS)

    def look(self, connection: Connection) -> None:
        """Invariants 1 and 2, and what may run at once, in one consistent state."""
        rows = connection.execute(select(balances).join(allocations).where(allocations.c.root_id == self.root)).all()
        for row in rows:
            assert row.held >= 0, row
            assert row.posted >= 0, row
            assert row.posted + row.held <= row.limit_amount, row
        open_holds = connection.execute(
            select(func.coalesce(func.sum(holds.c.amount), 0))
            .join(leases, leases.c.id == holds.c.lease_id)
            .where(leases.c.root_id == self.root, holds.c.state == LeaseState.OPEN)
        ).scalar_one()
        (held,) = [row.held for row in rows if row.allocation_id == self.root]
        assert held == open_holds
        servers = connection.execute(
            select(leases.c.person, func.count())
            .where(leases.c.root_id == self.root, leases.c.state == LeaseState.OPEN)
            .group_by(leases.c.person)
        ).all()
        for person, count in servers:
            assert count <= self.servers_per_person, person


def main() -> None:
    """Run as `client|finish URL SEED LOG NODE...` or `observe URL ROOT CRASHES READS`."""
    role, url, *rest = sys.argv[1:]
    with tempfile.TemporaryDirectory() as runs:
        services = bank_services(url, Path(runs))
        if role == "observe":
            root, crashes, reads = rest
            servers = services.policy.tier("consortium").at_once.servers_per_person
            Observer(services.database, root, Path(crashes), Path(reads), servers).run()
        else:
            seed, path, *nodes = rest
            client = Client(services, Log.load(Path(path)), nodes, random.Random(int(seed)))
            {"client": client.run, "finish": client.finish}[role]()


if __name__ == "__main__":
    main()
