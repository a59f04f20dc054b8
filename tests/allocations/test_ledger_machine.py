"""A machine that does to a ledger whatever people, the worker and bad luck may, in any order; the audit stays clean.

The oracle keeps its own simple account of every lease: whole seconds run, by the rate.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from allocations.errors import AllocationsError, InsufficientBalanceError, LeaseEndedError, TransitionError
from allocations.ledger.audit import audit_ledger
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from tests.allocations.conftest import Bench, make_bench

CREDIT = 1_000_000
PEOPLE = ("ann", "bob")
LEAD = Actor("lead")


class LedgerMachine(RuleBasedStateMachine):
    """A consortium of two levels on SQLite."""

    leases = Bundle("leases")
    nodes = Bundle("nodes")

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        root = Path(self._directory.name)
        self.bench: Bench = make_bench(f"sqlite:///{root / 'a.sqlite'}", root / "runs")
        self.root = self.bench.consortium(credits=5)
        self.all_nodes = [self.root]
        for person in PEOPLE:
            self.bench.accept(person)
            self.services.members.add(LEAD, self.root, person, MemberRole.MEMBER)
        self.started_ms: dict[str, int] = {}
        self.rates: dict[str, int] = {}

    @property
    def services(self):
        return self.bench.services

    def teardown(self) -> None:
        self.services.database.dispose()
        self._directory.cleanup()

    @rule(target=nodes)
    def whole(self) -> str:
        return self.root

    @rule(
        target=nodes,
        parent=nodes,
        microcredits=st.integers(1, 4 * CREDIT),
        guaranteed=st.booleans(),
    )
    def divide(self, parent: str, microcredits: int, guaranteed: bool):
        if len(self.all_nodes) > 6:
            return multiple()
        try:
            child = self.services.tree.divide(
                LEAD, parent, name="part", microcredits=microcredits, guaranteed=guaranteed, lead="lead"
            )
        except AllocationsError:
            return multiple()
        for person in PEOPLE:
            self.services.members.add(LEAD, child, person, MemberRole.MEMBER)
        self.all_nodes.append(child)
        return child

    @rule(node=nodes, microcredits=st.integers(1, 4 * CREDIT))
    def change_share(self, node: str, microcredits: int) -> None:
        try:
            self.services.tree.change_share(LEAD, node, microcredits)
        except AllocationsError:
            return

    @rule(amount=st.integers(-CREDIT, CREDIT))
    def change_award(self, amount: int) -> None:
        with self.services.database.write() as connection:
            balance = self.services.leases.ledger.balance(connection, self.root)
            if balance.limit + amount > 0:
                self.services.lifecycle.change_limit(connection, self.root, amount, "t", TransactionKind.GRANT, "award")

    @rule(
        target=leases, node=nodes, person=st.sampled_from(PEOPLE), size=st.sampled_from(["small", "xlarge", "compute"])
    )
    def acquire(self, node: str, person: str, size: str):
        try:
            lease = self.bench.acquire(node, person, size)
        except AllocationsError:
            return multiple()
        self.rates[lease.id] = lease.microcredits_per_second
        return lease.id

    @rule(lease=leases, early=st.integers(0, 100_000))
    def start(self, lease: str, early: int) -> None:
        view = self.services.leases.start(lease, self.bench.clock.at_ms - early)
        if view.state == "open" and lease not in self.started_ms:
            acquired = self.services.leases.get(lease)
            assert acquired.started_at is not None
            self.started_ms[lease] = self.bench.clock.at_ms - early

    @rule(lease=leases, ago=st.integers(0, 2_000_000))
    def renew(self, lease: str, ago: int) -> None:
        try:
            self.services.leases.renew(lease, self.bench.clock.at_ms - ago)
        except LeaseEndedError:
            return

    @rule(lease=consumes(leases), ago=st.integers(-10_000, 4_000_000))
    def settle(self, lease: str, ago: int) -> None:
        before = self.services.leases.get(lease)
        after = self.services.leases.settle(lease, self.bench.clock.at_ms - ago)
        assert after.state != "open"
        if before.state != "open":
            assert after == before

    @rule(lease=consumes(leases))
    def void(self, lease: str) -> None:
        try:
            self.services.leases.void(lease)
        except TransitionError:
            self.services.leases.expire(lease)

    @rule(lease=consumes(leases))
    def expire(self, lease: str) -> None:
        view = self.services.leases.expire(lease)
        assert view.state != "open"
        assert self.services.leases.expire(lease) == view

    @rule(seconds=st.floats(0.001, 5_000))
    def pass_time(self, seconds: float) -> None:
        self.bench.clock.pass_seconds(seconds)

    @invariant()
    def the_audit_is_clean(self) -> None:
        with self.services.database.read() as connection:
            assert audit_ledger(connection).violations == ()

    @invariant()
    def a_hold_beyond_the_limit_is_refused(self) -> None:
        """What is available is never promised twice: a hold of one more than that is refused."""
        with self.services.database.read() as connection:
            ledger = self.services.leases.ledger
            for node in self.all_nodes:
                balance = ledger.balance(connection, node)
                path = ledger.path(connection, node)
                try:
                    ledger.require_within_reach(connection, path, balance.limit - balance.posted + 1)
                except InsufficientBalanceError:
                    continue
                raise AssertionError(node)


LedgerMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLedgerMachine = LedgerMachine.TestCase
