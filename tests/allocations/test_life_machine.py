"""A machine that asks, reviews, decides, renews and lets days pass, in any order, on a tree of two levels.

The oracle is a plain dictionary of states, ends and limits that follows the rules of the policy by itself.
"""

from __future__ import annotations

import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from allocations.errors import AllocationsError
from allocations.ledger.audit import audit_ledger
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award, RequestAction, RequestKind
from tests.allocations.conftest import Bench, make_bench
from tests.fresh import fresh_sqlite
from tests.postgres import fresh_database

if TYPE_CHECKING:
    from collections.abc import Callable

CREDIT = 1_000_000
DAY = 86_400
DAY_MS = DAY * 1000
TERM, OPENS, ARCHIVED_AFTER, CLOSED_AFTER, PANEL = 365, 60, 90, 455, 2
WHOLE = 4000
LEAD, ADMIN = Actor("lead"), Actor("admin", reviewer=True, admin=True)
REVIEWERS = ("rev", "rev2", "rev3")
OPEN = {"submitted", "in review"}
ASKED = {
    RequestKind.SUPPLEMENT: (7, Award()),
    RequestKind.EXTENSION: (None, Award(term_days=20)),
    RequestKind.RENEWAL: (900, Award()),
}
ASKED_IN = {
    RequestKind.SUPPLEMENT: {"active", "expiring"},
    RequestKind.EXTENSION: {"active", "expiring", "grace"},
    RequestKind.RENEWAL: {"expiring", "grace"},
}
PANEL_KINDS = {RequestKind.SUPPLEMENT, RequestKind.RENEWAL}


class LifeMachine(RuleBasedStateMachine):
    """A consortium with a part, its lead, and three reviewers."""

    postgres: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        if self.postgres is None:
            url = fresh_sqlite(directory)
        else:
            url = self._stack.enter_context(fresh_database(self.postgres, f"t{uuid.uuid4().hex}", "migrated"))
        self.bench: Bench = make_bench(url, directory / "runs")
        self.services = self.bench.services
        self._stack.callback(self.services.database.dispose)
        self.root = self.bench.consortium()
        self.part = self.services.tree.divide(
            LEAD, self.root, name="part", microcredits=CREDIT, guaranteed=True, lead="ann"
        )
        self.life: dict[str, Any] = {
            "end": self.bench.clock.at_ms + TERM * DAY_MS,
            "limit": WHOLE * CREDIT,
            "renewal": None,
            "fixed": None,
        }
        self.asked: dict[str, dict[str, Any]] = {}

    def teardown(self) -> None:
        self._stack.close()

    # ------------------------------------------------------------------ the oracle

    def calendar(self) -> str:
        past = self.bench.clock.at_ms - self.life["end"]
        if self.life["fixed"]:
            return str(self.life["fixed"])
        for state, days in (
            ("active", -OPENS),
            ("expiring", 0),
            ("grace", ARCHIVED_AFTER),
            ("archived", CLOSED_AFTER),
        ):
            if past < days * DAY_MS:
                return state
        return "closed"

    def settle(self) -> None:
        """What the worker does by the calendar: a renewal begins at the end, what is closed stays closed."""
        if self.life["renewal"] and self.life["fixed"] != "closed" and self.bench.clock.at_ms >= self.life["end"]:
            self.life |= {
                "limit": self.life["renewal"] * CREDIT,
                "end": self.life["end"] + TERM * DAY_MS,
                "renewal": None,
            }
        if self.calendar() == "closed":
            self.life["fixed"] = "closed"

    def begin(self, request: dict[str, Any]) -> bool:
        """Do what an approval does; say whether it may be done now."""
        state, kind = self.calendar(), request["kind"]
        if kind is RequestKind.SUPPLEMENT and state in {"active", "expiring"}:
            self.life["limit"] += request["credits"] * CREDIT
        elif kind is RequestKind.EXTENSION and state in {"active", "expiring", "grace"}:
            self.life["end"] += 20 * DAY_MS
        elif kind is RequestKind.RENEWAL and state in {"expiring", "grace"} and not self.life["renewal"]:
            if state == "expiring":
                self.life["renewal"] = request["credits"]
            else:
                self.life |= {
                    "limit": request["credits"] * CREDIT,
                    "end": self.bench.clock.at_ms + TERM * DAY_MS,
                }
        else:
            return False
        return True

    def try_it(self, allowed: bool, act: Callable[[], object]) -> None:
        """Do something; it must succeed when the oracle allows it, and be refused otherwise."""
        refused = None
        try:
            act()
        except AllocationsError as error:
            refused = error.detail
        assert (refused is None) == allowed, refused

    # ------------------------------------------------------------------ what happens

    @rule(days=st.integers(0, 100), times=st.integers(1, 3))
    def pass_days(self, days: int, times: int) -> None:
        self.bench.clock.pass_seconds(days * DAY)
        for _ in range(times):
            self.services.lifecycle.advance()
        self.settle()

    @precondition(lambda self: self.life["fixed"] is None)
    @rule(before=st.integers(-50, 59))
    def come_near_the_end(self, before: int) -> None:
        """Random days seldom meet the weeks in which a renewal is asked for."""
        days = (self.life["end"] - self.bench.clock.at_ms) // DAY_MS - before
        self.pass_days(max(0, days), 2)

    @rule(kind=st.sampled_from(list(ASKED)))
    def ask(self, kind: RequestKind) -> None:
        waiting = any(
            request["kind"] is kind and request["state"] in OPEN | {"revision requested"}
            for request in self.asked.values()
        )
        allowed = not waiting and self.calendar() in ASKED_IN[kind]
        amount, asked = ASKED[kind]

        def act() -> None:
            request = self.services.requests.ask(LEAD, self.root, kind, "For science.", amount, asked)
            self.asked[request.id] = {
                "kind": kind,
                "credits": amount,
                "state": "submitted",
                "scores": set(),
                "conflicts": set(),
            }

        self.try_it(allowed, act)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), name=st.sampled_from([*REVIEWERS, "lead"]), conflict=st.integers(0, 5))
    def review(self, data: st.DataObject, name: str, conflict: int) -> None:
        request_id, request = self._any(data)
        barred = name == "lead" or name in request["conflicts"]
        allowed = request["state"] in OPEN and not barred
        reviewer = Actor(name, reviewer=True)
        self.try_it(
            allowed,
            lambda: self.services.requests.review(reviewer, request_id, comment="c", score=3, conflict=conflict == 0),
        )
        if allowed:
            request["state"] = "in review"
            request["scores"].discard(name)
            request["conflicts" if conflict == 0 else "scores"].add(name)

    @precondition(lambda self: self.asked)
    @rule(
        data=st.data(),
        name=st.sampled_from([*REVIEWERS, "lead"]),
        action=st.sampled_from([RequestAction.APPROVE, RequestAction.DECLINE, RequestAction.REQUEST_REVISION]),
        award=st.booleans(),
    )
    def decide(self, data: st.DataObject, name: str, action: RequestAction, award: bool) -> None:
        request_id, request = self._any(data)
        panel = request["kind"] in PANEL_KINDS and action is not RequestAction.REQUEST_REVISION
        allowed = (
            request["state"] in OPEN
            and name != "lead"
            and name not in request["conflicts"]
            and not (panel and len(request["scores"]) < PANEL)
        )
        given = None
        if award and action is RequestAction.APPROVE and request["kind"] in PANEL_KINDS:
            given = Award(credits=11)
        if allowed and action is RequestAction.APPROVE:
            allowed = self.begin(request | ({"credits": 11} if given else {}))
        self.try_it(
            allowed,
            lambda: self.services.requests.act(Actor(name, reviewer=True), request_id, action, "why", given),
        )
        if allowed:
            request["state"] = {"approve": "approved", "decline": "declined"}.get(action, "revision requested")

    @precondition(lambda self: any(request["state"] in OPEN for request in self.asked.values()))
    @rule(data=st.data())
    def approve_with_a_full_panel(self, data: st.DataObject) -> None:
        """Go the whole way at once, so that renewals are not rare, and then once more."""
        waiting = [request_id for request_id, request in self.asked.items() if request["state"] in OPEN]
        self._approve(data.draw(st.sampled_from(waiting)))

    @precondition(lambda self: self.life["fixed"] is None)
    @rule(before=st.integers(-50, 59))
    def renew(self, before: int) -> None:
        """The way of a renewal as it mostly goes: random steps would seldom take all of it."""
        self.come_near_the_end(before)
        self.ask(RequestKind.RENEWAL)
        for request_id, request in self.asked.items():
            if request["kind"] is RequestKind.RENEWAL and request["state"] in OPEN:
                self._approve(request_id)

    def _approve(self, request_id: str) -> None:
        request = self.asked[request_id]
        able = [name for name in REVIEWERS if name not in request["conflicts"]]
        if len(able) < PANEL:
            return
        for name in able:
            self.services.requests.review(Actor(name, reviewer=True), request_id, comment="c", score=4)
            request["scores"].add(name)
        request["state"] = "in review"
        for _ in range(2):
            allowed = request["state"] in OPEN and self.begin(request)
            self.try_it(
                allowed,
                lambda: self.services.requests.act(
                    Actor(able[0], reviewer=True), request_id, RequestAction.APPROVE, "good"
                ),
            )
            if allowed:
                request["state"] = "approved"

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), action=st.sampled_from([RequestAction.SUBMIT, RequestAction.WITHDRAW]))
    def applicant(self, data: st.DataObject, action: RequestAction) -> None:
        request_id, request = self._any(data)
        allowed = request["state"] == "revision requested" or (
            action is RequestAction.WITHDRAW and request["state"] in OPEN
        )
        self.try_it(allowed, lambda: self.services.requests.act(LEAD, request_id, action))
        if allowed and action is RequestAction.SUBMIT:
            request |= {"state": "submitted", "scores": set()}
        elif allowed:
            request["state"] = "withdrawn"

    @rule()
    def suspend_or_resume(self) -> None:
        if self.life["fixed"] == "suspended":
            self.services.lifecycle.resume(ADMIN, self.root, "a mistake")
            self.life["fixed"] = None
            self.settle()
        else:
            allowed = self.calendar() in {"active", "expiring", "grace"}
            self.try_it(allowed, lambda: self.services.lifecycle.suspend(ADMIN, self.root, "misuse"))
            if allowed:
                self.life["fixed"] = "suspended"

    def _any(self, data: st.DataObject) -> tuple[str, dict[str, Any]]:
        request_id = data.draw(st.sampled_from(list(self.asked)))
        return request_id, self.asked[request_id]

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def the_platform_agrees_with_the_oracle(self) -> None:
        with self.services.database.read() as connection:
            root = self.services.lifecycle.authority.find(connection, self.root)
            part = self.services.lifecycle.authority.find(connection, self.part)
            ledger = self.services.lifecycle.ledger
            assert root.state == self.calendar()
            assert root.ends_at_ms == part.ends_at_ms == self.life["end"]
            assert (root.renewal.credits if root.renewal else None) == self.life["renewal"]
            assert ledger.balance(connection, self.root).limit == self.life["limit"]
            assert ledger.balance(connection, self.part).limit == CREDIT
            if root.state != "suspended":
                assert part.state is root.state
            for request_id, request in self.asked.items():
                stored = self.services.requests.requests.get(connection, request_id)
                assert stored is not None
                assert stored.state == request["state"]

    @invariant()
    def the_audit_is_clean(self) -> None:
        with self.services.database.read() as connection:
            assert audit_ledger(connection).violations == ()


_SETTINGS = settings(stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_the_life_of_an_allocation_agrees_with_the_oracle(examples: int) -> None:
    run_state_machine_as_test(LifeMachine, settings=settings(_SETTINGS, max_examples=examples))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_life_machine_on_postgresql(postgres_server: str) -> None:
    class OnPostgres(LifeMachine):
        postgres = postgres_server

    run_state_machine_as_test(OnPostgres, settings=settings(_SETTINGS, max_examples=10, stateful_step_count=20))
