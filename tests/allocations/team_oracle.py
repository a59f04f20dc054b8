"""What is known of a team by plain dictionaries of people, invitations, requests, limits and servers: the oracle that
follows the rules by itself, and says whether something may succeed."""

from __future__ import annotations

import tempfile
import uuid
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from allocations.errors import (
    AgreementRequiredError,
    AllocationNotActiveError,
    AllocationsError,
    AtOnceLimitError,
    NotAMemberError,
)
from allocations.leases.watch import ServerKey, ServerStatus
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, RequestKind
from allocations.worker import Worker
from tests.allocations.conftest import Bench, make_bench
from tests.fresh import fresh_sqlite
from tests.places import join
from tests.postgres import fresh_database

if TYPE_CHECKING:
    from collections.abc import Callable


PEOPLE = ("lead", "ann", "bob", "eve")
REVIEWERS = ("rev", "rev2", "rev3")
DAY_MS, TERM_DAYS, OPENS_DAYS = 86_400_000, 365, 60
CREDIT, RATE, QUANTUM, RENEW_BEFORE, STOP_GRACE = 1_000_000, 13, 900, 300, 120
SERVERS_PER_PERSON, PANEL = 2, 2
LUCKY = 7  # of ten, of what would end too much if it were as frequent as the rest
MANAGING = {MemberRole.LEAD, MemberRole.MANAGER}
OPEN = {"submitted", "in review"}
KINDS = (RequestKind.SUPPLEMENT, RequestKind.RENEWAL)
people, roles = st.sampled_from(PEOPLE), st.sampled_from(MemberRole)
# Mostly somebody who may: what is refused leads nowhere.
actors = st.sampled_from(("lead", "lead", "lead", *PEOPLE))
places = st.integers(0, 2)
sometimes = st.sampled_from((False, False, True))
caps = st.sampled_from((None, None, 0, 1, 2))


@dataclass
class Place:
    """What the oracle knows of a member."""

    role: MemberRole
    servers_max: int | None = None
    cores_max: int | None = None


@dataclass
class Asked:
    """What the oracle knows of a request."""

    kind: RequestKind
    applicant: str
    credits: int
    state: str = "submitted"
    scores: set[str] = field(default_factory=set)
    conflicts: set[str] = field(default_factory=set)


@dataclass
class Run:
    """What the oracle knows of a server: it is held to `held_to` seconds after its start, and charged no more."""

    node: str
    person: str
    started_ms: int
    held_to: int = QUANTUM
    lived: int | None = None
    state: str = "open"

    @property
    def ends_ms(self) -> int:
        return self.started_ms + self.held_to * 1000

    @property
    def used(self) -> int:
        """What it has taken of the balance: its holds tile its time from the start."""
        return RATE * (self.held_to if self.lived is None else self.lived)


@dataclass
class Hub:
    """The servers of the hub: a stop is reported at once, as the spawner does."""

    machine: Team
    running: dict[ServerKey, str] = field(default_factory=dict)

    def active(self) -> dict[ServerKey, ServerStatus]:
        now_ms = self.machine.bench.clock.at_ms
        return {key: ServerStatus(ready=True, last_activity_ms=now_ms) for key in self.running}

    def stop(self, key: ServerKey) -> None:
        self.machine.bench.services.leases.settle(self.running.pop(key))


class Team(RuleBasedStateMachine):
    """A consortium with two parts, and what the oracle knows of it."""

    postgres: str | None = None
    ran: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        if self.postgres is None:
            url = fresh_sqlite(directory)
        else:
            url = self._stack.enter_context(fresh_database(self.postgres, f"t{uuid.uuid4().hex}", "migrated"))
        self.bench: Bench = make_bench(url, directory / "runs")
        self._stack.callback(self.bench.services.database.dispose)
        self.root = self.bench.consortium(credits=100)
        parts = []
        for name in ("One", "Two"):
            # An invitation as old as its part relieves the one who divided it; none is here.
            self.bench.clock.at_ms += 1000
            parts.append(
                self.bench.services.tree.divide(
                    Actor("lead"), self.root, name=name, microcredits=20 * CREDIT, guaranteed=True, lead="lead"
                )
            )
        self.bench.clock.at_ms += 1000
        self.nodes = [self.root, *parts]
        self.limits = {self.root: 100 * CREDIT, **dict.fromkeys(parts, 20 * CREDIT)}
        self.closed: set[str] = set()
        self.places = {node: {"lead": Place(MemberRole.LEAD)} for node in self.nodes}
        self.pending: dict[str, tuple[str, str, MemberRole, int]] = {}
        self.answered: list[str] = []
        self.asked: dict[str, Asked] = {}
        self.renewal: int | None = None
        self.version = self.bench.services.policy.agreement.version
        self.accepted = set(PEOPLE)
        self.runs: dict[str, Run] = {}
        self.hub = Hub(self)
        self.worker = Worker(self.bench.services, self.hub, "w")
        for person in PEOPLE:
            self.bench.accept(person)
        for person, node, role in (("ann", self.root, MemberRole.MANAGER), ("bob", parts[0], MemberRole.MEMBER)):
            join(self.bench.services.members, Actor("lead"), node, person, role)
            self.places[node][person] = Place(role)

    def teardown(self) -> None:
        try:
            self.bench.assert_clean()
        finally:
            self._stack.close()

    @property
    def now_ms(self) -> int:
        return self.bench.clock.at_ms

    def subtree(self, node: str) -> list[str]:
        return self.nodes if node == self.root else [node]

    def path(self, node: str) -> list[str]:
        return [self.root] if node == self.root else [self.root, node]

    def manages(self, person: str, node: str) -> bool:
        places = [self.places[above].get(person) for above in self.path(node)]
        return any(place is not None and place.role in MANAGING for place in places)

    def waiting(self) -> dict[str, tuple[str, str, MemberRole, int]]:
        return {key: value for key, value in self.pending.items() if value[3] > self.now_ms}

    def has_another_lead(self, node: str, person: str) -> bool:
        return any(one.role is MemberRole.LEAD for name, one in self.places[node].items() if name != person)

    def leads(self, node: str, person: str) -> bool:
        place = self.places[node].get(person)
        return place is not None and place.role is MemberRole.LEAD

    def used(self, node: str) -> int:
        return sum(run.used for run in self.runs.values() if run.node in self.subtree(node))

    def is_conflicted(self, reviewer: str, request: Asked) -> bool:
        belongs = any(reviewer in self.places[node] for node in self.nodes)
        return belongs or reviewer in request.conflicts or reviewer == request.applicant

    def refusal(self, node: str, person: str) -> type[AllocationsError] | None:
        """Say how a new server would be refused."""
        place = self.places[node].get(person)
        own = sum(run.person == person and run.lived is None for run in self.runs.values())
        if person not in self.accepted:
            return AgreementRequiredError
        if place is None:
            return NotAMemberError
        if self.closed & set(self.path(node)):
            return AllocationNotActiveError
        most = min(cap for cap in (SERVERS_PER_PERSON, place.servers_max, place.cores_max) if cap is not None)
        return AtOnceLimitError if own + 1 > most else None

    def try_it(self, verb: str, allowed: bool, act: Callable[[], Any]) -> Any:
        """Do something: it must succeed when the oracle allows it, and be refused otherwise; return what it gave."""
        refused, answer = None, None
        try:
            answer = act()
        except AllocationsError as error:
            refused = error.detail
        assert (refused is None) == allowed, (verb, refused)
        self.note(verb if allowed else f"{verb}, refused")
        return answer

    def note(self, what: str) -> None:
        event(what)
        self.ran[what] += 1
