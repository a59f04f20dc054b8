"""Membership against a dictionary: invitations, answers, roles, leaving and removal, in any order and over time."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from allocations.errors import AllocationsError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from tests.allocations.conftest import START_MS, Bench, make_bench

PEOPLE = ("lead", "ann", "bob", "eve")
DAY_MS = 86_400_000
people, roles = st.sampled_from(PEOPLE), st.sampled_from(MemberRole)
# Mostly somebody who may: what is refused leads nowhere.
actors = st.sampled_from(("lead", "lead", "lead", *PEOPLE))
MANAGING = {MemberRole.LEAD, MemberRole.MANAGER}


class MembersMachine(RuleBasedStateMachine):
    """A consortium and a group in it; the oracle keeps roles and pending invitations in dictionaries."""

    invitations = Bundle("invitations")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.bench: Bench = make_bench(f"sqlite:///{self.folder.name}/members.sqlite", Path(self.folder.name))
        self.members = self.bench.services.members
        self.root = self.bench.consortium()
        self.bench.clock.at_ms += 1
        self.group = self.bench.services.tree.divide(
            Actor("lead"), self.root, name="Group", microcredits=1_000_000, guaranteed=True, lead="lead"
        )
        self.bench.clock.at_ms += 1
        self.roles: dict[str, dict[str, MemberRole]] = {
            self.root: {"lead": MemberRole.LEAD},
            self.group: {"lead": MemberRole.LEAD},
        }
        self.invited: dict[str, str] = {}
        self.pending: dict[str, tuple[str, str, MemberRole, int]] = {}

    def teardown(self) -> None:
        self.bench.services.database.dispose()
        self.folder.cleanup()

    def node(self, *, below: bool) -> str:
        return self.group if below else self.root

    def manages(self, person: str, node: str) -> bool:
        return any(self.roles[above].get(person) in MANAGING for above in {self.root, node})

    def waiting(self) -> dict[str, tuple[str, str, MemberRole, int]]:
        return {key: value for key, value in self.pending.items() if value[3] > self.bench.clock.at_ms}

    def has_another_lead(self, node: str, person: str) -> bool:
        return any(role is MemberRole.LEAD for name, role in self.roles[node].items() if name != person)

    @rule(target=invitations, actor=actors, below=st.booleans(), person=people, role=roles)
    def invite(self, actor: str, below: bool, person: str, role: MemberRole):
        node = self.node(below=below)
        same = [(key, value[2]) for key, value in self.waiting().items() if value[:2] == (node, person)]
        allowed = (
            self.manages(actor, node) and person not in self.roles[node] and all(found is role for _, found in same)
        )
        try:
            made = self.members.invite(Actor(actor), node, person, role)
        except AllocationsError:
            assert not allowed
            return multiple()
        assert allowed
        if same:
            assert made.id == same[0][0]
            return multiple()
        self.invited[made.id] = person
        self.pending[made.id] = (node, person, role, made.ends_at_ms)
        return made.id

    @rule(invitation=invitations, stranger=st.none() | people, accept=st.sampled_from((True, True, False)))
    def answer(self, invitation: str, stranger: str | None, accept: bool) -> None:
        actor = stranger or self.invited[invitation]
        found = self.waiting().get(invitation)
        allowed = found is not None and found[1] == actor
        try:
            self.members.answer(Actor(actor), invitation, accept)
        except AllocationsError:
            assert not allowed
            return
        assert allowed
        assert found is not None
        del self.pending[invitation]
        if accept:
            self.roles[found[0]][actor] = found[2]

    @rule(invitation=invitations, actor=actors)
    def revoke(self, invitation: str, actor: str) -> None:
        found = self.waiting().get(invitation)
        allowed = found is not None and self.manages(actor, found[0])
        try:
            self.members.revoke(Actor(actor), invitation)
        except AllocationsError:
            assert not allowed
            return
        assert allowed
        del self.pending[invitation]

    @rule(actor=actors, below=st.booleans(), person=people, role=roles)
    def change_role(self, actor: str, below: bool, person: str, role: MemberRole) -> None:
        node = self.node(below=below)
        before = self.roles[node].get(person)
        keeps_lead = role is MemberRole.LEAD or before is not MemberRole.LEAD or self.has_another_lead(node, person)
        allowed = self.manages(actor, node) and before is not None and keeps_lead
        try:
            self.members.change(Actor(actor), node, person, role=role)
        except AllocationsError:
            assert not allowed
            return
        assert allowed
        self.roles[node][person] = role

    @rule(actor=actors, below=st.booleans(), person=people)
    def remove(self, actor: str, below: bool, person: str) -> None:
        node = self.node(below=below)
        subtree = [self.group] if below else [self.root, self.group]
        keep_leads = all(
            self.roles[one].get(person) is not MemberRole.LEAD or self.has_another_lead(one, person) for one in subtree
        )
        allowed = (actor == person or self.manages(actor, node)) and person in self.roles[node] and keep_leads
        try:
            self.members.remove(Actor(actor), node, person)
        except AllocationsError:
            assert not allowed
            return
        assert allowed
        for one in subtree:
            self.roles[one].pop(person, None)
        self.pending = {
            key: value for key, value in self.pending.items() if value[0] not in subtree or value[1] != person
        }

    @rule(days=st.integers(1, 12))
    def days_pass(self, days: int) -> None:
        # Within the year of the allocation: what is archived is not joined.
        if self.bench.clock.at_ms + days * DAY_MS < START_MS + 360 * DAY_MS:
            self.bench.clock.at_ms += days * DAY_MS

    @invariant()
    def what_is_stored_is_what_the_oracle_says(self) -> None:
        with self.bench.services.database.read() as connection:
            stored = self.members.allocations.members(connection, [self.root, self.group])
        for node in (self.root, self.group):
            found = {member.person: member.role for member in stored if member.allocation_id == node}
            assert found == self.roles[node]
            assert MemberRole.LEAD in found.values()

    @invariant()
    def each_sees_the_invitations_that_wait(self) -> None:
        waiting = self.waiting()
        for person in PEOPLE:
            found = {invitation.id for invitation in self.members.invitations_of(person)}
            assert found == {key for key, value in waiting.items() if value[1] == person}


MembersMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMembersMachine = MembersMachine.TestCase
