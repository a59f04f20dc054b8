"""Who asks for more, reviews, decides, revises and withdraws."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import RequestAction, RequestKind
from tests.allocations.conftest import START_MS
from tests.allocations.team_oracle import (
    CREDIT,
    DAY_MS,
    KINDS,
    MANAGING,
    OPEN,
    OPENS_DAYS,
    PANEL,
    PEOPLE,
    REVIEWERS,
    TERM_DAYS,
    Asked,
    Team,
    actors,
    sometimes,
)


class Requests(Team):
    """Requests and their reviews."""

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
