"""A team against a dictionary: who joins, leaves, leads, asks, decides, moves budget and runs, in any order and time.

The oracle is plain dictionaries of people, invitations, requests, limits and servers, and follows the rules by itself.
Each rule says whether it may succeed, and must then succeed or be refused; every step compares all that is stored.
What goes on in a server is the worker's: a tick must stop, settle and charge just what the oracle expects.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, run_state_machine_as_test
from sqlalchemy import select

from allocations.db.schema import leases
from allocations.lifecycle.models import MemberRole
from tests.allocations.machines import come_everywhere
from tests.allocations.team_budget import Budget
from tests.allocations.team_oracle import PEOPLE, RATE, Place
from tests.allocations.team_requests import Requests


class MembersMachine(Budget, Requests):
    """All of it together, and what holds after every step."""

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
