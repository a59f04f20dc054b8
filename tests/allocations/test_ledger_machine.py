"""A machine that does to a ledger whatever people, the worker and bad luck may, in any order; the audit stays clean.

The oracle is a dictionary of nodes and one of leases. Each rule tells it what happened, it does its own arithmetic,
and after each step every stored balance must be its own. It knows one unit, one hold a lease and nothing of SQL.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select
from sqlalchemy.event import listen, remove

from allocations.clock import NS_PER_MS, SystemClock
from allocations.db.database import Database
from allocations.db.idempotency import IdempotencyKey
from allocations.db.schema import journal
from allocations.errors import (
    AllocationsError,
    IdempotencyConflictError,
    LeaseEndedError,
    TransitionError,
)
from allocations.factory import make_services
from allocations.leases.watch import LeaseWatch
from allocations.ledger.audit import audit_ledger
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from tests.allocations.conftest import Bench, TestClock
from tests.allocations.ledger_oracle import QUANTUM, STOP_GRACE_MS, Node, Oracle, Run
from tests.allocations.machines import come_everywhere
from tests.fresh import shipped_policy
from tests.places import join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from allocations.leases.models import LeaseRequest
    from allocations.leases.watch import ServerKey, ServerStatus

CREDIT = 1_000_000
PEOPLE = ("ann", "bob")
RATES = {"small": 13, "xlarge": 208, "compute": 352}  # microcredits a second: 9 a core, 1 a GiB
LEAD, ADMIN = Actor("lead"), Actor("root", admin=True)
NODES_MAX = 6


class KilledError(Exception):
    """The process dies here."""


@dataclass
class SteppedClock(TestClock):
    """The service's real clock over a machine's clock that is stepped."""

    __test__ = False
    step_ms: int = 0

    def __post_init__(self) -> None:
        self._system = SystemClock(lambda: (self.at_ms + self.step_ms) * NS_PER_MS, lambda: self.at_ms * NS_PER_MS)

    def now_ms(self) -> int:
        return self._system.now_ms()


class LedgerMachine(RuleBasedStateMachine):
    """A consortium of its own in a database that may hold others."""

    leases = Bundle("leases")
    nodes = Bundle("nodes")
    asked = Bundle("asked")
    ran: ClassVar[Counter[str]] = Counter()

    def __init__(self, database: Database, run_store: Path) -> None:
        super().__init__()
        self.clock = SteppedClock()
        self.services = make_services(database, shipped_policy(), run_store, self.clock)
        self.bench = Bench(self.services, self.clock)
        with database.read() as connection:
            self.first_entry = connection.execute(select(func.coalesce(func.max(journal.c.id), 0))).scalar_one() + 1
        self.root = self.bench.consortium(credits=3)
        self.oracle = Oracle({self.root: Node(None, 3 * CREDIT)})
        self.moves = 0
        self.is_stop_reported = False
        for person in PEOPLE:
            self.bench.accept(person)
            join(self.services.members, LEAD, self.root, person, MemberRole.MEMBER)

    def teardown(self) -> None:
        """Leave nothing open for the ticks of the next example."""
        for lease, run in self.oracle.runs.items():
            if run.state == "open":
                self.services.leases.expire(lease)

    @property
    def now_ms(self) -> int:
        return self.clock.now_ms()

    def note(self, what: str) -> None:
        event(what)
        self.ran[what] += 1

    def crash(self, act: Callable[[], object]) -> None:
        """Do something, and die at the moment of its COMMIT: nothing of it is there."""

        def die(_connection: object) -> None:
            raise KilledError

        engine = self.services.database.engine
        listen(engine, "commit", die)
        try:
            with pytest.raises(KilledError):
                act()
        finally:
            remove(engine, "commit", die)

    # ------------------------------------------------------------------ the tree

    @initialize(target=nodes)
    def begin(self):
        """A whole with two parts."""
        for guaranteed in (True, False):
            self.divide(self.root, CREDIT, guaranteed, 1)
        return multiple(*self.oracle.nodes)

    @rule(
        target=nodes,
        parent=nodes,
        microcredits=st.integers(1, CREDIT),
        guaranteed=st.booleans(),
        times=st.integers(1, 2),
    )
    def divide_further(self, parent: str, microcredits: int, guaranteed: bool, times: int):
        return self.divide(parent, microcredits, guaranteed, times)

    def divide(self, parent: str, microcredits: int, guaranteed: bool, times: int):
        """When the caller crashes after the commit, it asks again with the same key."""
        if len(self.oracle.nodes) > NODES_MAX:
            return multiple()

        def ask() -> str:
            return self.services.tree.divide(
                LEAD,
                parent,
                name="part",
                microcredits=microcredits,
                guaranteed=guaranteed,
                lead="lead",
                idempotency_key=f"{self.root} {len(self.oracle.nodes)} {microcredits} {guaranteed} {parent}",
            )

        try:
            child = ask()
        except AllocationsError:
            self.note("divide, refused")
            return multiple()
        if child in self.oracle.nodes:
            return multiple()
        assert all(ask() == child for _ in range(times - 1))
        for person in PEOPLE:
            join(self.services.members, LEAD, child, person, MemberRole.MEMBER)
        self.oracle.nodes[child] = Node(parent, microcredits)
        self.note("divide")
        return child

    @precondition(lambda self: len(self.pairs()) > 0)
    @rule(data=st.data(), microcredits=st.integers(1, CREDIT // 4), is_answer_lost=st.booleans())
    def move(self, data: st.DataObject, microcredits: int, is_answer_lost: bool) -> None:
        """Between siblings, at most what is free; asked again with its key, it moves nothing more."""
        source, target = data.draw(st.sampled_from(self.pairs()))
        self.moves += 1
        key = f"{self.root} move {self.moves}"
        try:
            self.services.tree.move(LEAD, source, target, microcredits, key)
        except AllocationsError:
            self.note("move, refused")
            return
        if is_answer_lost:
            self.services.tree.move(LEAD, source, target, microcredits, key)
        known = self.oracle.nodes
        assert microcredits <= known[source].free
        assert not known[source].closed
        assert not known[target].closed
        known[source].limit -= microcredits
        known[target].limit += microcredits
        self.note("move")

    def pairs(self) -> list[tuple[str, str]]:
        known = self.oracle.nodes
        return [
            (one, other)
            for one, node in known.items()
            for other, sibling in known.items()
            if one != other and node.parent is not None and node.parent == sibling.parent
        ]

    @rule(node=nodes, luck=st.integers(0, 2), times=st.integers(1, 2))
    def delete(self, node: str, luck: int, times: int) -> None:
        """Close a part and all below it: what is free is the parent's again, what is held and spent stays."""
        if node == self.root or self.oracle.nodes[node].closed:
            with pytest.raises(AllocationsError):
                self.services.tree.close(LEAD, node, "over")
            self.note("delete, refused")
        elif luck == 0:
            for _ in range(times):
                self.services.tree.close(LEAD, node, "over", f"close {node}")
            for inside in self.oracle.subtree(node):
                if not inside.closed:
                    inside.closed, inside.limit = True, min(inside.limit, inside.held + inside.posted)
            self.note("delete")

    @rule(node=nodes, microcredits=st.integers(1, CREDIT))
    def change_share(self, node: str, microcredits: int) -> None:
        """Also below what is spent."""
        try:
            self.services.tree.change_share(LEAD, node, microcredits)
        except AllocationsError:
            self.note("share, refused")
            return
        known = self.oracle.nodes[node]
        self.note("shrink below what is used" if microcredits < known.held + known.posted else "share")
        known.limit = microcredits

    @rule(amount=st.integers(-CREDIT // 4, CREDIT // 2))
    def change_award(self, amount: int) -> None:
        root = self.oracle.nodes[self.root]
        if root.limit + amount > 0:
            with self.services.database.write() as connection:
                self.services.lifecycle.change_limit(connection, self.root, amount, "t", TransactionKind.GRANT, "award")
            root.limit += amount
            self.note("award")

    @rule(node=nodes, luck=st.integers(0, 3))
    def suspend_or_resume(self, node: str, luck: int) -> None:
        """Mostly resume: what is suspended lets little else happen."""
        known = self.oracle.nodes[node]
        if luck != 1 and not known.suspended:
            return
        if known.closed:
            with pytest.raises(TransitionError):
                self.services.lifecycle.suspend(ADMIN, node, "as the machine likes")
            return
        self.note("resume" if known.suspended else "suspend")
        act = self.services.lifecycle.resume if known.suspended else self.services.lifecycle.suspend
        act(ADMIN, node, "as the machine likes")
        known.suspended = not known.suspended

    # ------------------------------------------------------------------ leases

    def key_of(self, key: str, request: LeaseRequest) -> IdempotencyKey:
        body = {"allocation": request.allocation, "person": request.person, "size": request.size}
        return IdempotencyKey.for_request(self.root, key, "acquire", body)

    @rule(
        targets=(leases, asked),
        node=nodes,
        person=st.sampled_from(PEOPLE),
        size=st.sampled_from(sorted(RATES)),
        is_answer_lost=st.booleans(),
    )
    def acquire(self, node: str, person: str, size: str, is_answer_lost: bool):
        """When the caller crashes after the commit, it asks again with the same key."""
        # Each at its own time: in that order the worker goes through them.
        self.clock.at_ms += 1
        request = self.bench.request(node, person, size, str(len(self.oracle.runs)))
        key = self.key_of(f"key-{len(self.oracle.runs)}", request)
        refusal = self.oracle.refusal(node, person, RATES[size])
        if refusal is not None:
            with pytest.raises(refusal):
                self.services.leases.acquire(request, key)
            self.note(f"hold, {refusal.__name__}")
            return multiple()
        if is_answer_lost:
            self.crash(lambda: self.services.leases.acquire(request, key))
            self.services.leases.acquire(request, key)
        self.note("hold, its answer lost" if is_answer_lost else "hold")
        lease = self.services.leases.acquire(request, key)
        assert lease.id not in self.oracle.runs
        self.oracle.runs[lease.id] = Run(node, person, RATES[size], self.now_ms, self.now_ms + QUANTUM * 1000)
        self.oracle.move(node, held=RATES[size] * QUANTUM)
        return lease.id

    @rule(lease=asked, size=st.sampled_from(sorted(RATES)))
    def ask_again(self, lease: str, size: str) -> None:
        """INVARIANT 4, however long ago it was asked and whatever became of it."""
        run = self.oracle.runs[lease]
        request = self.bench.request(run.node, run.person, size)
        key = self.key_of(f"key-{list(self.oracle.runs).index(lease)}", request)
        self.note("ask again")
        if RATES[size] == run.rate:
            assert self.services.leases.acquire(request, key).id == lease
        else:
            with pytest.raises(IdempotencyConflictError):
                self.services.leases.acquire(request, key)

    @rule(
        targets=(leases, asked),
        node=nodes,
        person=st.sampled_from(PEOPLE),
        size=st.sampled_from(sorted(RATES)),
        ms=st.integers(1, 900_000),
    )
    def run_for_a_while(self, node: str, person: str, size: str, ms: int):
        """The way as it mostly goes, without which little would be charged."""
        before = len(self.oracle.runs)
        self.acquire(node, person, size, is_answer_lost=False)
        if len(self.oracle.runs) == before:
            return multiple()
        lease = list(self.oracle.runs)[-1]
        self.start(lease, 0)
        self.clock.at_ms += ms
        self.renew(lease, 0)
        return lease

    @rule(lease=leases, early_ms=st.integers(-10_000, 100_000))
    def start(self, lease: str, early_ms: int) -> None:
        run = self.oracle.runs[lease]
        self.services.leases.start(lease, self.now_ms - early_ms)
        is_open = run.state == "open"
        if run.started_ms is None and (is_open or run.guessed):
            run.started_ms = run.within(self.now_ms - early_ms, self.now_ms)
            run.seen_ms = self.now_ms
            run.ends_ms = run.started_ms + run.held_to * 1000
            self.note("start" if is_open else "late start after a void")

    @rule(lease=leases, ago_ms=st.integers(-10_000, 2_000_000))
    def renew(self, lease: str, ago_ms: int) -> None:
        """Also by a sighting that is older than what the last renewal knew."""
        run = self.oracle.runs[lease]
        if run.state != "open":
            with pytest.raises(LeaseEndedError):
                self.services.leases.renew(lease)
            self.note("renew, ended")
            return
        self.note("renew")
        self.services.leases.renew(lease, self.now_ms - ago_ms)
        self.oracle.renew(run, self.now_ms - ago_ms, self.now_ms)

    @rule(lease=leases, gap_ms=st.integers(1, 800_000), ago_ms=st.integers(0, 2_000_000))
    def renew_out_of_order(self, lease: str, gap_ms: int, ago_ms: int) -> None:
        """What was seen first is reported last."""
        self.note("renew out of order")
        self.start(lease, 0)
        for ago in (0, ago_ms):
            self.clock.at_ms += gap_ms
            self.renew(lease, ago)

    @rule(lease=leases, agos_ms=st.lists(st.integers(-10_000, 4_000_000), min_size=1, max_size=3))
    def settle(self, lease: str, agos_ms: list[int]) -> None:
        """The first report of an end counts, of a lease that is open or whose end was guessed (INVARIANT 3)."""
        run = self.oracle.runs[lease]
        before = self.services.leases.get(lease)
        is_awaited = run.state == "open" or run.guessed
        if is_awaited and len(agos_ms) > 1:
            self.crash(lambda: self.services.leases.settle(lease, self.now_ms - agos_ms[-1]))
            self.note("settle that died, and several reports")
        first, *others = [self.services.leases.settle(lease, self.now_ms - ago_ms) for ago_ms in agos_ms]
        assert all(other == first for other in others)
        if run.guessed:
            self.note(self.oracle.correct(run, self.now_ms - agos_ms[0], self.now_ms))
        elif run.state == "open":
            self.note("settle")
            self.oracle.settle(run, self.now_ms - agos_ms[0], self.now_ms)
        else:
            self.note("settle what has ended")
            assert first == before
        assert first.state == run.state
        if run.state == "settled":
            assert first.charged_microcredits == run.rate * run.charged_to

    @rule(lease=leases)
    def void(self, lease: str) -> None:
        run = self.oracle.runs[lease]
        if (run.state == "open" or run.guessed) and run.started_ms is not None:
            with pytest.raises(TransitionError):
                self.services.leases.void(lease)
            return
        if run.state == "open":
            self.note("void")
            self.oracle.expire(run)
        run.guessed = False
        assert self.services.leases.void(lease).state == run.state

    @rule(lease=leases)
    def expire(self, lease: str) -> None:
        run = self.oracle.runs[lease]
        if run.state == "open":
            self.note("expire")
            self.oracle.expire(run)
        view = self.services.leases.expire(lease)
        assert view.state == run.state
        assert self.services.leases.expire(lease) == view

    @rule(lease=leases, is_seen=st.booleans())
    def vanish(self, lease: str, is_seen: bool) -> None:
        """The hub lists the server no more, and the worker guesses when it ended."""
        run = self.oracle.runs[lease]
        with self.services.database.write() as connection:
            if is_seen and run.state == "open" and run.started_ms is not None:
                self.services.lease_store.mark_seen(connection, [lease], self.now_ms)
                run.seen_ms = self.now_ms
            known = self.services.lease_store.get(connection, lease)
        assert known is not None
        self.services.leases.end_gone([known])
        if run.state == "open":
            self.note("vanish" if run.started_ms is not None else "vanish, never started")
            self.oracle.vanish(run, self.now_ms)
        assert self.services.leases.get(lease).state == run.state

    @rule(
        target=leases,
        node=nodes,
        person=st.sampled_from(PEOPLE),
        size=st.sampled_from(sorted(RATES)),
        is_start_reported=st.booleans(),
        unseen_ms=st.integers(1, 3_000_000),
        agos_ms=st.lists(st.integers(-10_000, 3_000_000), min_size=1, max_size=3),
    )
    def be_cut_off(
        self, node: str, person: str, size: str, is_start_reported: bool, unseen_ms: int, agos_ms: list[int]
    ):
        """The hub is, while a server runs: what it knew comes after the worker's guess."""
        before = len(self.oracle.runs)
        self.acquire(node, person, size, is_answer_lost=False)
        if len(self.oracle.runs) == before:
            return multiple()
        lease = list(self.oracle.runs)[-1]
        started_ms = self.now_ms
        if is_start_reported:
            self.start(lease, 0)
            self.clock.at_ms += 100_000
        self.vanish(lease, is_seen=True)
        self.clock.at_ms += unseen_ms
        self.start(lease, self.now_ms - started_ms)
        self.settle(lease, agos_ms)
        return lease

    @rule(node=nodes, person=st.sampled_from(PEOPLE), size=st.sampled_from(sorted(RATES)))
    def fail_to_start(self, node: str, person: str, size: str) -> None:
        before = len(self.oracle.runs)
        self.acquire(node, person, size, is_answer_lost=False)
        if len(self.oracle.runs) > before:
            self.void(list(self.oracle.runs)[-1])

    def open_leases(self) -> list[str]:
        return [lease for lease, run in self.oracle.runs.items() if run.state == "open"]

    @precondition(lambda self: self.open_leases())
    @rule(data=st.data(), how=st.sampled_from(("void", "expire", "settle")))
    def end(self, data: st.DataObject, how: str) -> None:
        """Of all leases, random ones have mostly ended."""
        lease = data.draw(st.sampled_from(self.open_leases()))
        if how == "settle":
            self.settle(lease, [0])
        else:
            {"void": self.void, "expire": self.expire}[how](lease)

    @precondition(lambda self: self.open_leases())
    @rule(data=st.data(), is_stop_reported=st.booleans(), late_ms=st.sampled_from((0, STOP_GRACE_MS)))
    def run_out(self, data: st.DataObject, is_stop_reported: bool, late_ms: int) -> None:
        """Everything is suspended, and the worker comes by at the end of a lease, or too late for a stop."""
        run = self.oracle.runs[data.draw(st.sampled_from(self.open_leases()))]
        is_running = not self.oracle.nodes[self.root].suspended
        if is_running:
            self.suspend_or_resume(self.root, 1)
        self.clock.at_ms += max(0, run.ends_ms + late_ms - self.now_ms)
        self.tick(0, is_stop_reported)
        if is_running:
            self.suspend_or_resume(self.root, 1)

    # ------------------------------------------------------------------ time

    @rule(ms=st.sampled_from((0, 100_000, 600_000, 900_000, 1_100_000)), is_stop_reported=st.booleans())
    def tick(self, ms: int, is_stop_reported: bool) -> None:
        """The worker renews what ends soon, stops what cannot be renewed, and expires what nobody stopped."""
        self.clock.at_ms += ms
        watch = LeaseWatch(
            database=self.services.database,
            clock=self.clock,
            rules=self.services.policy.leases,
            leases=self.services.leases,
            store=self.services.lease_store,
            servers=self,
        )
        self.is_stop_reported = is_stop_reported
        watch.keep()
        for what in self.oracle.tick(self.now_ms, is_stop_reported=is_stop_reported):
            self.note(what)

    def active(self) -> dict[ServerKey, ServerStatus]:
        """As the hub: what runs is not looked at here."""
        return {}

    def stop(self, key: ServerKey) -> None:
        """As the hub: the name of a server is the number of its lease."""
        if self.is_stop_reported:
            self.services.leases.settle(list(self.oracle.runs)[int(key[1])])

    @rule(ms=st.integers(1, 5_000_000))
    def pass_time(self, ms: int) -> None:
        self.clock.at_ms += ms

    @rule(ms=st.integers(-10_000_000, 10_000_000))
    def step_the_machines_clock(self, ms: int) -> None:
        """INVARIANT 8: the ledger's times never run backwards, which the audit looks for."""
        before_ms = self.now_ms
        self.clock.step_ms += ms
        assert self.now_ms == before_ms

    # ------------------------------------------------------------------ what holds after every step

    @invariant()
    def the_balances_are_the_oracles(self) -> None:
        with self.services.database.read() as connection:
            for name, node in self.oracle.nodes.items():
                balance = self.services.lifecycle.ledger.balance(connection, name)
                assert (balance.limit, balance.held, balance.posted) == (node.limit, node.held, node.posted)

    @invariant()
    def the_audit_is_clean(self) -> None:
        with self.services.database.read() as connection:
            assert [v for v in audit_ledger(connection).violations if self.is_own(v.subject)] == []

    def is_own(self, subject: str) -> bool:
        """Say whether an audit's subject is of this example: a failed one leaves its faults in the database."""
        words = subject.split()
        if words[:2] == ["journal", "entry"]:
            return int(words[2]) >= int(self.first_entry)
        return words[0] in self.oracle.nodes or words[0] in self.oracle.runs


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.dispose()


VERBS = {
    *("divide", "share", "shrink below what is used", "award", "suspend", "resume", "move", "delete"),
    *("hold", "hold, its answer lost", "ask again", "start", "renew", "renew, ended", "renew out of order"),
    *("settle", "settle what has ended", "settle that died, and several reports", "void", "expire"),
    *("vanish", "vanish, never started", "late start after a void", "late end", "late end after a void"),
    *("late end, given back", "late end, beyond the balance"),
    *("tick renews", "tick does not renew", "tick stops", "tick expires"),
    *("divide, refused", "share, refused", "move, refused", "delete, refused"),
    *("hold, AllocationNotActiveError", "hold, InsufficientBalanceError"),
}


def machine_on(database: Database, folder: Path) -> type[LedgerMachine]:
    """Return the machine for a database."""

    class Machine(LedgerMachine):
        ran: ClassVar[Counter[str]] = Counter()

        def __init__(self) -> None:
            super().__init__(database, folder)

    return Machine


@pytest.mark.parametrize("examples", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_the_ledger_agrees_with_the_oracle(database: Database, tmp_path: Path, examples: int) -> None:
    machine = machine_on(database, tmp_path)
    suppressed = list(HealthCheck)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=suppressed
        ),
    )
    assert machine.ran


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ledger_agrees_with_the_oracle_in_every_way(database: Database, tmp_path: Path) -> None:
    machine = machine_on(database, tmp_path)
    # All examples share a database, and every step audits all of it: more of them take much longer.
    come_everywhere(machine, machine.ran, VERBS, 3)
