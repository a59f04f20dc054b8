"""A team against a dictionary: who joins, leaves, leads, asks, decides, moves budget and runs, in any order and time.

The oracle is plain dictionaries of people, invitations, requests, limits and servers, and follows the rules by itself.
Each rule says whether it may succeed, and must then succeed or be refused; every step compares all that is stored.
What goes on in a server is the worker's: a tick must stop, settle and charge just what the oracle expects.
"""

from __future__ import annotations

import tempfile
import uuid
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from allocations.db.schema import leases
from allocations.errors import (
    AgreementRequiredError,
    AllocationNotActiveError,
    AllocationsError,
    AtOnceLimitError,
    NotAMemberError,
)
from allocations.factory import make_services
from allocations.leases.watch import ServerKey, ServerStatus
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, RequestAction, RequestKind
from allocations.worker import Worker
from tests.allocations.conftest import START_MS, Bench, make_bench
from tests.allocations.machines import come_everywhere
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

    machine: MembersMachine
    running: dict[ServerKey, str] = field(default_factory=dict)

    def active(self) -> dict[ServerKey, ServerStatus]:
        now_ms = self.machine.bench.clock.at_ms
        return {key: ServerStatus(ready=True, last_activity_ms=now_ms) for key in self.running}

    def stop(self, key: ServerKey) -> None:
        self.machine.bench.services.leases.settle(self.running.pop(key))


class MembersMachine(RuleBasedStateMachine):
    """A consortium with two parts."""

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

    # ------------------------------------------------------------------ the oracle

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

    # ------------------------------------------------------------------ people

    @rule(actor=actors, place=places, person=people, role=roles)
    def invite(self, actor: str, place: int, person: str, role: MemberRole) -> None:
        node = self.nodes[place]
        same = [(key, value[2]) for key, value in self.waiting().items() if value[:2] == (node, person)]
        allowed = (
            self.manages(actor, node)
            and node not in self.closed
            and person not in self.places[node]
            and all(found is role for _, found in same)
        )
        made = self.try_it(
            "invite", allowed, lambda: self.bench.services.members.invite(Actor(actor), node, person, role)
        )
        if same and allowed:
            assert made.id == same[0][0]
        elif allowed:
            self.pending[made.id] = (node, person, role, made.ends_at_ms)

    def any_invitation(self, data: st.DataObject) -> str:
        """Mostly one that waits; also one that was answered or revoked."""
        waiting = list(self.waiting())
        return data.draw(st.sampled_from(waiting * 3 + self.answered or list(self.pending)))

    @precondition(lambda self: self.pending or self.answered)
    @rule(data=st.data(), stranger=st.sampled_from((None, None, None, *PEOPLE)), accept=st.integers(0, 3))
    def answer(self, data: st.DataObject, stranger: str | None, accept: int) -> None:
        invitation = self.any_invitation(data)
        found = self.waiting().get(invitation)
        actor = stranger or (found[1] if found else "ann")
        self.answer_as(actor, invitation, taken=accept > 0)

    @rule(place=places, person=people, role=roles, accept=st.integers(0, 3))
    def invite_and_answer(self, place: int, person: str, role: MemberRole, accept: int) -> None:
        """The way as it mostly goes."""
        before = set(self.pending)
        self.invite("lead", place, person, role)
        for invitation in self.pending.keys() - before:
            self.answer_as(person, invitation, taken=accept > 0)

    def answer_as(self, actor: str, invitation: str, *, taken: bool) -> None:
        found = self.waiting().get(invitation)
        allowed = found is not None and found[1] == actor and not (taken and found[0] in self.closed)
        self.try_it(
            "answer", allowed, lambda: self.bench.services.members.answer(Actor(actor), invitation, accept=taken)
        )
        if allowed and found is not None:
            self.answered.append(invitation)
            del self.pending[invitation]
            if taken:
                self.places[found[0]][actor] = Place(found[2])

    @precondition(lambda self: self.pending or self.answered)
    @rule(data=st.data(), actor=actors)
    def revoke(self, data: st.DataObject, actor: str) -> None:
        invitation = self.any_invitation(data)
        found = self.waiting().get(invitation)
        allowed = found is not None and self.manages(actor, found[0])
        self.try_it("revoke", allowed, lambda: self.bench.services.members.revoke(Actor(actor), invitation))
        if allowed:
            self.answered.append(invitation)
            del self.pending[invitation]

    @rule(actor=actors, place=places, person=people, role=st.none() | roles, servers=caps, cores=caps)
    def change(
        self, actor: str, place: int, person: str, role: MemberRole | None, servers: int | None, cores: int | None
    ) -> None:
        """The role, and what a member may run at once: also below what runs."""
        node = self.nodes[place]
        before = self.places[node].get(person)
        loses_lead = role not in {None, MemberRole.LEAD} and self.leads(node, person)
        allowed = (
            self.manages(actor, node)
            and before is not None
            and not (loses_lead and not self.has_another_lead(node, person))
        )
        self.try_it(
            "change",
            allowed,
            lambda: self.bench.services.members.change(
                Actor(actor), node, person, role=role, servers_max=servers, cores_max=cores
            ),
        )
        if allowed and before is not None:
            self.places[node][person] = Place(role or before.role, servers, cores)

    @rule(actor=st.none() | actors, place=places, person=people)
    def remove(self, actor: str | None, place: int, person: str) -> None:
        """By those who manage, or (actor None) by leaving: access ends with it, the servers at the next tick."""
        node, subtree = self.nodes[place], self.subtree(self.nodes[place])
        keep_leads = all(
            not self.leads(one, person) or one in self.closed or self.has_another_lead(one, person) for one in subtree
        )
        may = actor is None or actor == person or self.manages(actor, node)
        allowed = may and person in self.places[node] and keep_leads
        self.try_it(
            "leave" if actor is None else "remove",
            allowed,
            lambda: self.bench.services.members.remove(Actor(actor or person), node, person),
        )
        if not allowed:
            return
        for one in subtree:
            self.places[one].pop(person, None)
        self.forget_invitations(subtree, person)
        for one in subtree:
            expected = NotAMemberError if person in self.accepted else AgreementRequiredError
            with pytest.raises(expected):
                self.bench.acquire(one, person)

    @precondition(lambda self: any(run.lived is None for run in self.runs.values()))
    @rule(data=st.data(), leaves=st.booleans(), seconds=st.integers(0, 600))
    def remove_who_runs(self, data: st.DataObject, leaves: bool, seconds: int) -> None:
        """A person who runs something loses access at once, and at the next tick the server is stopped and settled."""
        running = dict.fromkeys((run.node, run.person) for run in self.runs.values() if run.lived is None)
        able = [
            (node, person)
            for node, person in running
            if all(not self.leads(one, person) or self.has_another_lead(one, person) for one in self.subtree(node))
            and person in self.places[node]
        ]
        if not able:
            return
        node, person = data.draw(st.sampled_from(able))
        self.remove(None if leaves else "lead", self.nodes.index(node), person)
        self.tick(seconds)

    def forget_invitations(self, nodes: list[str], person: str | None = None) -> None:
        gone = [key for key, value in self.pending.items() if value[0] in nodes and person in {None, value[1]}]
        for key in gone:
            del self.pending[key]
            self.answered.append(key)

    # ------------------------------------------------------------------ the agreement

    @rule(person=people)
    def accept(self, person: str) -> None:
        self.bench.services.agreements.accept(person, self.version)
        self.note("accept")
        self.accepted.add(person)

    @rule(luck=sometimes)
    def publish_an_agreement(self, luck: bool) -> None:
        """A new version asks everybody again; who runs, runs on."""
        if luck:
            services = self.bench.services
            self.version = f"{self.version}+"
            agreement = services.policy.agreement.model_copy(update={"version": self.version})
            policy = services.policy.model_copy(update={"agreement": agreement})
            self.bench.services = make_services(
                services.database, policy, Path(tempfile.gettempdir()), self.bench.clock
            )
            self.worker = Worker(self.bench.services, self.hub, "w")
            self.accepted = set()
            self.note("agreement")
            self.accept("lead")
            self.start(0, "ann")
            self.accept("bob")

    # ------------------------------------------------------------------ budget

    @rule(
        actor=actors,
        between=st.sampled_from(((1, 2), (2, 1), (1, 2), (2, 1), (1, 1), (2, 0))),
        credits=st.integers(1, 21),
    )
    def move(self, actor: str, between: tuple[int, int], credits: int) -> None:  # noqa: A002  # the unit's name
        one, other, amount = self.nodes[between[0]], self.nodes[between[1]], credits * CREDIT
        allowed = (
            self.manages(actor, self.root)
            and other not in {self.root, one}
            and not self.closed & {one, other}
            and amount <= self.limits[one] - self.used(one)
        )
        self.try_it("move", allowed, lambda: self.bench.services.tree.move(Actor(actor), one, other, amount))
        if allowed:
            self.limits[one] -= amount
            self.limits[other] += amount

    @rule(actor=actors, place=st.integers(1, 2), luck=st.integers(0, 9))
    def close(self, actor: str, place: int, luck: int) -> None:
        """What it has not used is the whole's again; what runs there is not renewed."""
        if luck == LUCKY or self.nodes[place] in self.closed:
            self.close_part(actor, self.nodes[place])

    @precondition(lambda self: any(run.lived is None and run.node in self.nodes[1:] for run in self.runs.values()))
    @rule(luck=st.booleans())
    def close_what_runs(self, luck: bool) -> None:
        """And let the worker come by until nothing runs there any more."""
        if luck:
            node = next(run.node for run in self.runs.values() if run.lived is None and run.node in self.nodes[1:])
            self.close_part("lead", node)
            for _ in range(16):
                self.tick(60)

    def close_part(self, actor: str, node: str) -> None:
        allowed = self.manages(actor, self.root) and node not in self.closed
        self.try_it("close", allowed, lambda: self.bench.services.tree.close(Actor(actor), node, "over"))
        if allowed:
            self.closed.add(node)
            self.limits[node] = self.used(node)
            self.forget_invitations([node])
            for person in self.places[node]:
                self.start(self.nodes.index(node), person)

    # ------------------------------------------------------------------ requests

    def open_requests(self) -> list[str]:
        return [key for key, one in self.asked.items() if one.state in OPEN]

    @rule(actor=actors, kind=st.sampled_from(KINDS), credits=st.integers(1, 50))
    def ask(self, actor: str, kind: RequestKind, credits: int) -> None:  # noqa: A002  # the unit's name
        place = self.places[self.root].get(actor)
        is_expiring = self.now_ms >= START_MS + (TERM_DAYS - OPENS_DAYS) * DAY_MS
        waits = any(one.kind is kind and one.state in OPEN | {"revision requested"} for one in self.asked.values())
        allowed = (
            place is not None
            and place.role in MANAGING
            and not waits
            and (kind is not RequestKind.RENEWAL or is_expiring)
        )
        made = self.try_it(
            f"ask for a {kind}",
            allowed,
            lambda: self.bench.services.requests.ask(Actor(actor), self.root, kind, "For science.", credits),
        )
        if allowed:
            self.asked[made.id] = Asked(kind, actor, credits)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), name=st.sampled_from((*REVIEWERS, *PEOPLE)), conflict=sometimes)
    def review(self, data: st.DataObject, name: str, conflict: bool) -> None:
        """Members have a conflict of interest by being that, whether they declare it or not."""
        self.review_as(name, data.draw(st.sampled_from(list(self.asked))), conflict=conflict)

    def review_as(self, name: str, request_id: str, *, conflict: bool) -> None:
        request = self.asked[request_id]
        allowed = request.state in OPEN and not self.is_conflicted(name, request)
        self.try_it(
            "declare a conflict" if conflict else "review",
            allowed,
            lambda: self.bench.services.requests.review(
                Actor(name, reviewer=True), request_id, comment="c", score=3, conflict=conflict
            ),
        )
        if allowed:
            request.state = "in review"
            request.scores.discard(name)
            (request.conflicts if conflict else request.scores).add(name)

    @precondition(lambda self: self.open_requests())
    @rule(
        data=st.data(),
        name=st.sampled_from((*REVIEWERS, *REVIEWERS, *PEOPLE)),
        action=st.sampled_from((RequestAction.APPROVE, RequestAction.DECLINE, RequestAction.REQUEST_REVISION)),
    )
    def decide(self, data: st.DataObject, name: str, action: RequestAction) -> None:
        self.decide_on(data.draw(st.sampled_from(list(self.asked))), name, action)

    def decide_on(self, request_id: str, name: str, action: RequestAction) -> None:
        request = self.asked[request_id]
        needs_panel = action is not RequestAction.REQUEST_REVISION
        allowed = (
            request.state in OPEN
            and not self.is_conflicted(name, request)
            and not (needs_panel and len(request.scores) < PANEL)
        )
        is_renewal = request.kind is RequestKind.RENEWAL
        if allowed and action is RequestAction.APPROVE and is_renewal:
            allowed = self.renewal is None
        self.try_it(
            action,
            allowed,
            lambda: self.bench.services.requests.act(Actor(name, reviewer=True), request_id, action, "why"),
        )
        if not allowed:
            return
        request.state = {"approve": "approved", "decline": "declined"}.get(action, "revision requested")
        if action is RequestAction.APPROVE and is_renewal:
            self.renewal = request.credits
        elif action is RequestAction.APPROVE:
            self.limits[self.root] += request.credits * CREDIT

    @rule(data=st.data(), declares=st.sampled_from((None, *REVIEWERS)), approve=st.booleans())
    def score_and_decide(self, data: st.DataObject, declares: str | None, approve: bool) -> None:
        """The way as it mostly goes: random steps would seldom take all of it. Who leads has no say."""
        if not self.open_requests():
            self.ask("lead", RequestKind.SUPPLEMENT, 5)
        if not self.open_requests():
            return
        request_id = data.draw(st.sampled_from(self.open_requests()))
        self.decide_on(request_id, "lead", RequestAction.APPROVE)
        for name in ("lead", *REVIEWERS):
            self.review_as(name, request_id, conflict=name == declares)
        able = [name for name in REVIEWERS if not self.is_conflicted(name, self.asked[request_id])]
        self.decide_on(
            request_id, able[0] if able else "rev", RequestAction.APPROVE if approve else RequestAction.DECLINE
        )

    @precondition(lambda self: self.open_requests())
    @rule(data=st.data())
    def revise(self, data: st.DataObject) -> None:
        """Asked to revise, the applicant submits it again, and every score is to be given again."""
        request_id = data.draw(st.sampled_from(self.open_requests()))
        self.decide_on(request_id, "rev", RequestAction.REQUEST_REVISION)
        self.apply(request_id, self.asked[request_id].applicant, RequestAction.SUBMIT)

    @precondition(lambda self: self.asked)
    @rule(
        data=st.data(),
        stranger=st.sampled_from((None, None, *PEOPLE)),
        action=st.sampled_from((RequestAction.SUBMIT, RequestAction.WITHDRAW)),
    )
    def applicant(self, data: st.DataObject, stranger: str | None, action: RequestAction) -> None:
        request_id = data.draw(st.sampled_from(self.open_requests() or list(self.asked)))
        self.apply(request_id, stranger or self.asked[request_id].applicant, action)

    def apply(self, request_id: str, actor: str, action: RequestAction) -> None:
        request = self.asked[request_id]
        from_states = {"revision requested"} | (OPEN if action is RequestAction.WITHDRAW else set())
        allowed = actor == request.applicant and request.state in from_states
        self.try_it(action, allowed, lambda: self.bench.services.requests.act(Actor(actor), request_id, action))
        if allowed and action is RequestAction.SUBMIT:
            request.state, request.scores = "submitted", set()
        elif allowed:
            request.state = "withdrawn"

    # ------------------------------------------------------------------ servers

    @rule(place=places, person=people)
    def start(self, place: int, person: str) -> None:
        node, name = self.nodes[place], f"s{len(self.runs)}"
        refusal = self.refusal(node, person)
        if refusal is not None:
            with pytest.raises(refusal):
                self.bench.acquire(node, person, server=name)
            self.note(f"start, {refusal.__name__}")
            return
        if min(self.limits[one] - self.used(one) for one in self.path(node)) < 100 * RATE * QUANTUM:
            return
        lease = self.bench.acquire(node, person, server=name)
        self.bench.services.leases.start(lease.id)
        self.hub.running[person, name] = lease.id
        self.runs[lease.id] = Run(node, person, self.now_ms)
        self.note("start")

    @rule(data=st.data(), times=st.integers(1, SERVERS_PER_PERSON + 1))
    def start_where_possible(self, data: st.DataObject, times: int) -> None:
        able = [
            (place, person)
            for place, node in enumerate(self.nodes)
            for person in PEOPLE
            if self.refusal(node, person) is None
        ]
        # A lead mostly cannot leave, which is what comes of it.
        able = [one for one in able if one[1] != "lead"] or able
        if able:
            place, person = data.draw(st.sampled_from(able))
            for _ in range(times):
                self.start(place, person)

    @precondition(lambda self: self.hub.running)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.hub.running)))
        self.end(self.hub.running[key])
        self.hub.stop(key)
        self.note("stop")

    def end(self, lease: str) -> None:
        run = self.runs[lease]
        run.lived, run.state = (self.now_ms - run.started_ms) // 1000, "settled"
        if run.node in self.closed:
            # What was closed has nothing left to charge a late stop to: only what was held.
            run.lived = min(run.lived, run.held_to)

    @rule(seconds=st.integers(0, 600))
    def tick(self, seconds: int) -> None:
        """The worker ends at once what somebody runs who left, and renews all but what was closed."""
        self.bench.clock.at_ms += seconds * 1000
        self.worker.tick()
        for lease, run in self.runs.items():
            if run.lived is not None:
                continue
            if run.person not in self.places[run.node]:
                self.note("tick ends the server of somebody who left")
                self.end(lease)
            elif self.now_ms < run.ends_ms - RENEW_BEFORE * 1000:
                continue
            elif not self.closed & set(self.path(run.node)):
                self.note("tick renews")
                run.held_to = (self.now_ms - run.started_ms) // 1000 + QUANTUM
            elif self.now_ms >= run.ends_ms + STOP_GRACE * 1000:
                self.note("tick expires what nobody stopped")
                run.lived, run.state = run.held_to, "expired"
            elif self.now_ms >= run.ends_ms:
                self.note("tick ends a server on what was closed")
                self.end(lease)

    @rule(days=st.integers(1, 12))
    def days_pass(self, days: int) -> None:
        """Within the year of the allocation: what has ended is not joined. Servers are stopped before."""
        if self.now_ms + days * DAY_MS < START_MS + (TERM_DAYS - 5) * DAY_MS:
            for key, lease in list(self.hub.running.items()):
                self.end(lease)
                self.hub.stop(key)
            self.bench.clock.at_ms += days * DAY_MS
            self.worker.tick()

    @rule()
    def come_near_the_end(self) -> None:
        """Random days seldom meet the weeks in which a renewal is asked for."""
        days = (START_MS + (TERM_DAYS - OPENS_DAYS + 5) * DAY_MS - self.now_ms) // DAY_MS
        if days > 0:
            self.days_pass(days)

    # ------------------------------------------------------------------ what holds after every step

    @invariant()
    def people_are_who_the_oracle_says(self) -> None:
        with self.bench.services.database.read() as connection:
            stored = self.bench.services.members.allocations.members(connection, self.nodes)
        for node in self.nodes:
            found = {
                one.person: Place(one.role, one.servers_max, one.cores_max)
                for one in stored
                if one.allocation_id == node
            }
            assert found == self.places[node]
            assert node in self.closed or any(place.role is MemberRole.LEAD for place in found.values())

    @invariant()
    def each_sees_the_invitations_that_wait(self) -> None:
        waiting = self.waiting()
        with self.bench.services.database.read() as connection:
            pending = self.bench.services.members.invitations.pending_of
            for person in PEOPLE:
                found = {invitation.id for invitation in pending(connection, person, self.now_ms)}
                assert found == {key for key, value in waiting.items() if value[1] == person}

    @invariant()
    def budgets_and_servers_are_the_oracles(self) -> None:
        services = self.bench.services
        with services.database.read() as connection:
            for node in self.nodes:
                balance = services.lifecycle.ledger.balance(connection, node)
                assert (balance.limit, balance.posted + balance.held) == (self.limits[node], self.used(node))
            root = services.lifecycle.authority.find(connection, self.root)
            assert (root.renewal.credits if root.renewal else None) == self.renewal
            stored = connection.execute(select(leases.c.id, leases.c.state).where(leases.c.id.in_(self.runs)))
            states = {row.id: row.state for row in stored}
            amounts = services.lease_store.amounts(connection, self.runs)
        assert states == {key: run.state for key, run in self.runs.items()}
        for lease, run in self.runs.items():
            assert run.lived is None or amounts[lease] == (0, RATE * run.lived)

    @invariant()
    def requests_are_the_oracles(self) -> None:
        services = self.bench.services
        with services.database.read() as connection:
            for request_id, request in self.asked.items():
                stored = services.requests.requests.get(connection, request_id)
                assert stored is not None
                assert stored.state == request.state


_SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))
VERBS = {
    *("invite", "answer", "revoke", "change", "remove", "leave", "accept", "agreement", "move", "close"),
    *("ask for a supplement", "ask for a renewal", "review", "declare a conflict", "approve", "decline"),
    *("request-revision", "submit", "withdraw", "start", "stop", "tick renews"),
    *("tick ends the server of somebody who left", "tick ends a server on what was closed"),
    *("start, AgreementRequiredError", "start, NotAMemberError", "start, AllocationNotActiveError"),
    *("start, AtOnceLimitError", "invite, refused", "answer, refused", "revoke, refused", "remove, refused"),
    *("move, refused", "review, refused", "approve, refused"),
}


@pytest.mark.parametrize("examples", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_team_agrees_with_the_oracle(examples: int) -> None:
    run_state_machine_as_test(
        MembersMachine, settings=settings(_SETTINGS, max_examples=examples, stateful_step_count=30)
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_team_agrees_with_the_oracle_in_every_way() -> None:
    MembersMachine.ran = Counter()
    come_everywhere(MembersMachine, MembersMachine.ran, VERBS, 4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_team_agrees_with_the_oracle_on_postgresql(postgres_server: str) -> None:
    class OnPostgres(MembersMachine):
        postgres = postgres_server
        ran: ClassVar[Counter[str]] = Counter()

    come_everywhere(OnPostgres, OnPostgres.ran, VERBS, 4)
