"""Who accepts agreements, and moves budget between parts and closes them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from allocations.factory import make_services
from allocations.lifecycle.authority import Actor
from allocations.worker import Worker
from tests.allocations.team_oracle import CREDIT, LUCKY, actors, people, sometimes
from tests.allocations.team_people import People


class Budget(People):
    """Agreements and budget. What runs there goes by both."""

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
