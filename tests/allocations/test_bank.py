"""The bank: processes that are killed, on a server that is killed, spend from one tree and never overspend it.

Invariants 1 to 5 of the design hold at every read and at the end. MERIDIAN_BANK_SECONDS makes it shorter or longer;
MERIDIAN_BANK_SEED gives the dice of one that failed, though processes meet otherwise each time.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from allocations.db.migrate import upgrade
from allocations.db.schema import idempotency, leases
from allocations.leases.models import LeaseState
from allocations.ledger.audit import audit_ledger
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from tests.allocations.bank_client import (
    CALLER,
    PEOPLE,
    Log,
    bank_services,
    lease_key,
    lease_request,
    require_server_gone,
)
from tests.places import join
from tests.postgres import postgres_of_its_own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.factory import Services
    from tests.postgres import PostgresServer

SECONDS = float(os.environ.get("MERIDIAN_BANK_SECONDS", "60"))
CLIENTS = 8
CRASHES = 2
REQUESTS_A_SECOND = 40  # it goes on until there were as many: 2,400 when not shortened
CREDIT = 1_000_000
LEAD = Actor("lead")
REPOSITORY = Path(__file__).parents[2]


@dataclass
class Bank:
    """A tree with little to spend, and the processes that spend it."""

    server: PostgresServer
    services: Services
    folder: Path
    root: str
    shares: dict[str, int]  # what each node may have left, in microcredits
    dice: random.Random
    clients: dict[Path, subprocess.Popen[str]] = field(default_factory=dict)
    begun_at: dict[Path, int] = field(default_factory=dict)  # how long its log was when a client was started

    def process(self, *arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.allocations.bank_client", *map(str, arguments)]
        return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)

    def start_client(self, log: Path) -> None:
        self.begun_at[log] = size_of(log)
        self.clients[log] = self.process("client", self.server.url, self.seed(), log, *self.shares)

    def seed(self) -> str:
        """Chance for a client of its own."""
        return str(self.dice.getrandbits(64))

    def at_work(self) -> list[Path]:
        """The clients that have done something since they were started, which takes seconds where much is done."""
        return [log for log in self.clients if size_of(log) > self.begun_at[log]]

    def kill_client(self, log: Path) -> None:
        """Kill a client wherever it is; that it was alive is checked too: it ends by this and nothing else."""
        process = self.clients[log]
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -9, errors

    def crash_server(self) -> None:
        with (self.folder / "crashes").open("ab") as file:
            file.write(b"x")
        self.server.crash()
        time.sleep(self.dice.uniform(0, 1))
        self.server.start()

    def logs(self) -> list[Log]:
        return [Log.load(path) for path in self.clients]

    def top_up(self) -> None:
        """Give back what was spent, so that the tree is always nearly empty, never dead."""
        ledger = self.services.lifecycle.ledger
        try:
            with self.services.database.write() as connection:
                for node, share in self.shares.items():
                    ledger.lock(connection, [node])
                    balance = ledger.balance(connection, node)
                    spent = balance.posted - (balance.limit - share)
                    self.services.lifecycle.change_limit(
                        connection, node, spent, "bank", TransactionKind.GRANT, "top up"
                    )
        except OperationalError as error:
            require_server_gone(error)


def size_of(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


@contextmanager
def open_bank(server: PostgresServer, folder: Path, dice: random.Random) -> Iterator[Bank]:
    services = bank_services(server.url, folder / "runs")
    upgrade(services.database)
    for person in ("lead", *PEOPLE):
        services.agreements.accept(person, services.policy.agreement.version)
    with services.database.write() as connection:
        tier = services.policy.tier("consortium")
        root = services.lifecycle.open(connection, tier, "Bank", lead="lead", actor="t", credits=1).id
    shares = {root: CREDIT}

    def divide(parent: str, microcredits: int, *, guaranteed: bool) -> str:
        child = services.tree.divide(
            LEAD, parent, name="part", microcredits=microcredits, guaranteed=guaranteed, lead="lead"
        )
        shares[child] = microcredits
        return child

    divide(root, 400_000, guaranteed=True)
    capped = divide(root, 900_000, guaranteed=False)
    divide(capped, 300_000, guaranteed=False)
    for node in shares:
        for person in PEOPLE:
            join(services.members, LEAD, node, person, MemberRole.MEMBER)
    yield Bank(server, services, folder, root, shares, dice)
    services.database.dispose()


def hammer(bank: Bank, observer: subprocess.Popen[str]) -> None:
    """Let the clients spend while clients and the server are killed at random moments."""
    for number in range(CLIENTS):
        bank.start_client(bank.folder / f"client-{number}.jsonl")
    begin = time.monotonic()
    crashes = sorted(bank.dice.uniform(0.2, 0.9) * SECONDS for _ in range(CRASHES))
    while (
        time.monotonic() - begin < SECONDS
        or crashes
        or sum(len(log.answers) for log in bank.logs()) < REQUESTS_A_SECOND * SECONDS
    ):
        time.sleep(bank.dice.uniform(0.1, 1))
        bank.top_up()
        if crashes and time.monotonic() - begin > crashes[0]:
            crashes.pop(0)
            bank.crash_server()
        elif bank.dice.random() < 0.2 and (victims := bank.at_work()):
            victim = bank.dice.choice(victims)
            bank.kill_client(victim)
            bank.start_client(victim)
        assert observer.poll() is None, observer.communicate()[1]
    for log in bank.clients:
        bank.kill_client(log)


def finish(bank: Bank) -> None:
    """Let every client repeat its unanswered requests and end its leases."""
    for log in bank.clients:
        process = bank.process("finish", bank.server.url, bank.seed(), log)
        _, errors = process.communicate()
        assert process.returncode == 0, errors


def check_keys(bank: Bank) -> None:
    """Each key has exactly one lease, or was denied; and there is no lease beyond those (invariant 4)."""
    logs = bank.logs()
    asked = {key: entry for log in logs for key, entry in log.asked.items()}
    answers = {key: lease for log in logs for key, lease in log.answers.items()}
    assert asked.keys() == answers.keys()
    granted = {key: lease for key, lease in answers.items() if lease is not None}
    with bank.services.database.read() as connection:
        kept = set(connection.execute(select(idempotency.c.key).where(idempotency.c.caller == CALLER)).scalars())
        stored = set(connection.execute(select(leases.c.id).where(leases.c.root_id == bank.root)).scalars())
    assert kept == granted.keys()
    assert len(set(granted.values())) == len(granted)
    assert stored == set(granted.values())
    for key in bank.dice.sample(sorted(granted), 50):
        repeated = bank.services.leases.acquire(lease_request(asked[key]), lease_key(asked[key]))
        assert repeated.id == granted[key]
    assert len(granted) < len(answers), "the budget was exhausted at times"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 15 + 300)
def test_no_limit_is_exceeded_whoever_is_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("MERIDIAN_BANK_SEED", random.SystemRandom().getrandbits(64)))
    sys.stdout.write(f"MERIDIAN_BANK_SEED={seed}\n")
    with postgres_of_its_own() as server, open_bank(server, tmp_path, random.Random(seed)) as bank:
        (tmp_path / "crashes").touch()
        (tmp_path / "reads").touch()
        observer = bank.process("observe", server.url, bank.root, tmp_path / "crashes", tmp_path / "reads")
        try:
            hammer(bank, observer)
            finish(bank)
            assert observer.poll() is None, observer.communicate()[1]
        finally:
            for process in (observer, *bank.clients.values()):
                if process.poll() is None:
                    process.kill()
                    process.communicate()
        assert (tmp_path / "crashes").stat().st_size == CRASHES
        assert (tmp_path / "reads").stat().st_size > SECONDS, "the observer looked again and again"
        check_keys(bank)
        with bank.services.database.read() as connection:
            open_leases = select(func.count()).select_from(leases).where(leases.c.state == LeaseState.OPEN)
            assert connection.execute(open_leases).scalar_one() == 0
            assert audit_ledger(connection).violations == ()
            for node in bank.shares:
                assert bank.services.lifecycle.ledger.balance(connection, node).held == 0
