"""A machine that measures, lets days pass, charges and dies in between; an oracle says what each day must have cost.

The oracle knows one consortium, a part of it and its people by dictionaries, and nothing of SQL.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select
from sqlalchemy.event import listen, remove

from allocations.db.database import Database
from allocations.db.schema import journal
from allocations.factory import make_services
from allocations.ids import random_id
from allocations.ledger.audit import audit_ledger
from allocations.ledger.models import TransactionKind
from allocations.ledger.service import Ledger
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.lifecycle.stores.allocations import AllocationStore
from allocations.storage.accrual import AccrualService
from allocations.storage.measures import MeasureService
from allocations.storage.models import Owner, StorageClass
from allocations.storage.quotas.backends import Found, Use
from allocations.storage.store import StorageStore
from tests.allocations.conftest import Bench, TestClock
from tests.allocations.machines import come_everywhere
from tests.fresh import shipped_policy
from tests.places import join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from allocations.storage.models import StoredArea

DAY_MS = 86_400_000
CREDIT = 1_000_000
GB = 1_000_000_000
PRICES = {StorageClass.HOME: 10_000, StorageClass.SHARED: 10_000, StorageClass.OBJECT: 767}
HOME_BYTES = {"entry": 1, "consortium": 2}
LEAD = Actor("lead")


class KilledError(Exception):
    """The process dies here."""


@dataclass
class Kept:
    """What the oracle knows of an area: bytes by day, what each day costs once it is assessed, what is paid."""

    payer: str
    price: int
    bytes: dict[int, int] = field(default_factory=dict)
    due: dict[int, int] = field(default_factory=dict)
    paid: dict[int, int] = field(default_factory=dict)


class StorageMachine(RuleBasedStateMachine):
    """A consortium of its own in a database that may hold others, whose days are over too."""

    ran: ClassVar[Counter[str]] = Counter()

    def __init__(self, database: Database, run_store: Path) -> None:
        super().__init__()
        self.clock = TestClock()
        self.services = make_services(database, shipped_policy(), run_store, self.clock)
        self.bench = Bench(self.services, self.clock)
        store, allocations = StorageStore(), AllocationStore()
        self.measures = MeasureService(database=database, clock=self.clock, new_id=random_id, store=store)
        self.accrual = AccrualService(
            database=database,
            clock=self.clock,
            new_id=random_id,
            policy=shipped_policy(),
            ledger=Ledger(),
            allocations=allocations,
            store=store,
            home_bytes=HOME_BYTES,
        )
        self.store = store
        name = random_id("p")
        self.root = self.bench.consortium(credits=1)
        self.part = self.services.tree.divide(
            LEAD, self.root, name="part", microcredits=CREDIT // 2, guaranteed=False, lead="lead", idempotency_key=name
        )
        self.parents = {self.root: None, self.part: self.root}
        self.limit = {self.root: CREDIT, self.part: CREDIT // 2}
        self.bench.accept(name)
        join(self.services.members, LEAD, self.part, name, MemberRole.MEMBER)
        self.areas: dict[str, StoredArea] = {}
        self.kept: dict[str, Kept] = {}
        for storage_class, owner, payer in (
            (StorageClass.HOME, Owner(person=name), self.part),
            (StorageClass.SHARED, Owner(allocation_id=self.root), self.root),
            (StorageClass.OBJECT, Owner(allocation_id=self.part), self.part),
        ):
            area = self.measures.open(storage_class, owner, f"{name}-{storage_class}")
            self.areas[area.id] = area
            self.kept[area.id] = Kept(payer, PRICES[storage_class])

    def note(self, what: str) -> None:
        event(what)
        self.ran[what] += 1

    @property
    def today(self) -> int:
        return self.clock.at_ms // DAY_MS

    def crash(self, act: Callable[[], object], statement: int) -> bool:
        """Do something, and die before the given statement of it (or the COMMIT); say whether it came to that."""
        left = statement

        def count(*_arguments: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError

        engine = self.services.database.engine
        for name in ("before_cursor_execute", "commit"):
            listen(engine, name, count)
        try:
            act()
        except KilledError:
            return True
        finally:
            for name in ("before_cursor_execute", "commit"):
                remove(engine, name, count)
        return False

    # ------------------------------------------------------------------ what happens

    @rule(number=st.integers(0, 2), used=st.integers(0, 60 * GB), dies_at=st.integers(0, 6))
    def measure(self, number: int, used: int, dies_at: int) -> None:
        area_id = list(self.areas)[number]
        found = Found(of={area_id: Use(used, 1)})

        def act() -> None:
            self.measures.record([self.areas[area_id]], found, {})

        if dies_at and self.crash(act, dies_at):
            self.note("measure that died")
            return
        if not dies_at:
            act()
        kept = self.kept[area_id]
        before = [day for day in kept.bytes if day < self.today]
        if before:
            for day in range(max(before) + 1, self.today):
                kept.bytes[day] = min(kept.bytes[max(before)], used)
                self.note("day without a measure")
        kept.bytes[self.today] = used
        self.note("measure")

    @rule(days=st.sampled_from((0, 1, 1, 2, 5)), ms=st.integers(1, DAY_MS))
    def pass_time(self, days: int, ms: int) -> None:
        self.clock.at_ms += days * DAY_MS + ms

    @rule(number=st.integers(0, 2), gigabytes=st.lists(st.integers(1, 60), min_size=2, max_size=4), gap=st.booleans())
    def go_on_for_days(self, number: int, gigabytes: list[int], gap: bool) -> None:
        """As it mostly goes, without which little would be due."""
        for used in gigabytes:
            self.measure(number, used * GB, dies_at=0)
            self.clock.at_ms += DAY_MS * (3 if gap else 1)
        self.assess(1, dies_at=0)
        self.collect(1, dies_at=0)

    @rule(amount=st.integers(-CREDIT // 2, CREDIT))
    def change_award(self, amount: int) -> None:
        if self.limit[self.root] + amount >= 0:
            with self.services.database.write() as connection:
                self.services.lifecycle.change_limit(connection, self.root, amount, "t", TransactionKind.GRANT, "award")
            self.limit[self.root] += amount
            self.note("award")

    @rule(times=st.integers(1, 2), dies_at=st.integers(0, 12))
    def assess(self, times: int, dies_at: int) -> None:
        if dies_at:
            self.note("assess that died" if self.crash(self.accrual.assess, dies_at) else "assess")
        for _ in range(times):
            self.accrual.assess()
        for kept in self.kept.values():
            for day, used in kept.bytes.items():
                if day < self.today and day not in kept.due:
                    kept.due[day] = used * kept.price // GB
                    self.note("day that is due")

    @rule(times=st.integers(1, 2), dies_at=st.integers(0, 30))
    def collect(self, times: int, dies_at: int) -> None:
        if dies_at and self.crash(self.accrual.collect, dies_at):
            self.note("collect that died")
        for _ in range(times):
            self.accrual.collect()
        for payer in sorted(self.parents):
            owed = [
                (day, list(self.areas).index(area_id), kept)
                for area_id, kept in self.kept.items()
                for day in kept.due
                if kept.payer == payer
            ]
            for day, _number, kept in sorted(owed, key=lambda one: one[:2]):
                amount = min(kept.due[day] - kept.paid.get(day, 0), self.left(payer))
                if amount > 0:
                    kept.paid[day] = kept.paid.get(day, 0) + amount
                    self.note("pay" if kept.paid[day] == kept.due[day] else "pay a part")
                elif kept.paid.get(day, 0) < kept.due[day]:
                    self.note("nothing left")
                    break

    # ------------------------------------------------------------------ what must hold

    def posted(self, node: str) -> int:
        below = [one for one in self.parents if node in (one, self.parents[one])]
        return sum(sum(kept.paid.values()) for kept in self.kept.values() if kept.payer in below)

    def left(self, node: str) -> int:
        path = [node] if self.parents[node] is None else [node, self.root]
        return max(0, min(self.limit[one] - self.posted(one) for one in path))

    @invariant()
    def the_days_are_the_oracles(self) -> None:
        with self.services.database.read() as connection:
            for area_id, kept in self.kept.items():
                days = self.store.days(connection, area_id, 0)
                assert {day.day: day.bytes for day in days} == kept.bytes
                assert {day.day: day.due_microcredits for day in days if day.due_microcredits is not None} == kept.due
                assert {day.day: day.charged_microcredits for day in days if day.charged_microcredits} == kept.paid
                assert {day.payer for day in days if day.due_microcredits is not None} <= {kept.payer}
            for node in self.parents:
                balance = self.services.lifecycle.ledger.balance(connection, node)
                assert (balance.limit, balance.held, balance.posted) == (self.limit[node], 0, self.posted(node))
                owed = sum(sum(kept.due.values()) - sum(kept.paid.values()) for kept in self.kept.values()
                           if kept.payer == node)  # fmt: skip
                assert self.store.owed_by(connection, [node]) == owed

    def teardown(self) -> None:
        """The audit is clean, and the journal tells people apart."""
        with self.services.database.read() as connection:
            violations = audit_ledger(connection).violations
            own = {*self.parents, *self.areas}
            assert [one for one in violations if own & set(one.subject.split())] == []
            entries = connection.execute(
                select(journal.c.actor, journal.c.amount).where(
                    journal.c.kind == TransactionKind.STORAGE, journal.c.allocation_id.in_(list(self.parents))
                )
            ).all()
        by_actor: Counter[str] = Counter()
        for actor, amount in entries:
            by_actor[actor] += amount
        expected: Counter[str] = Counter()
        for area_id, kept in self.kept.items():
            expected[self.areas[area_id].owner.person or "platform"] += sum(kept.paid.values())
        assert +by_actor == +expected


VERBS = {
    *("measure", "measure that died", "day without a measure", "award", "assess", "assess that died"),
    *("day that is due", "collect that died", "pay", "pay a part", "nothing left"),
}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.dispose()


def machine_on(database: Database, folder: Path) -> type[StorageMachine]:
    """Return the machine for a database."""

    class Machine(StorageMachine):
        ran: ClassVar[Counter[str]] = Counter()

        def __init__(self) -> None:
            super().__init__(database, folder)

    return Machine


@pytest.mark.parametrize("examples", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_every_day_is_charged_once_whatever_dies(database: Database, tmp_path: Path, examples: int) -> None:
    machine = machine_on(database, tmp_path)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    assert machine.ran


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_day_is_charged_once_in_every_way(database: Database, tmp_path: Path) -> None:
    machine = machine_on(database, tmp_path)
    come_everywhere(machine, machine.ran, VERBS, 1)
