"""Who invites, answers, revokes, changes, leaves and is removed."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from allocations.errors import AgreementRequiredError, NotAMemberError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from tests.allocations.team_oracle import PEOPLE, Place, actors, caps, people, places, roles
from tests.allocations.team_servers import Servers


class People(Servers):
    """Invitations and members. Who loses access loses the servers, too."""

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
