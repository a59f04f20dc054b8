"""Who reviews is told what waits; the queue finds requests; drafts grow without being anybody else's business."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.db.schema import notices
from allocations.errors import NotAllowedError, NotFoundError, TransitionError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import (
    Award,
    MemberRole,
    RequestAction,
    RequestFilter,
    RequestKind,
    RequestState,
)
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

DAY = 86_400
ANN = Actor("ann")
REVIEWER, SECOND = Actor("rev", reviewer=True), Actor("rev2", reviewer=True)
ANY_STATE = frozenset(RequestState) - {RequestState.DRAFT}


def submitted(bench: Bench, title: str = "Dark stars", actor: Actor = ANN, tier: str = "research") -> str:
    return bench.services.requests.submit(actor, tier=tier, title=title, justification="We look.").id


def told(bench: Bench, request: str) -> list[str]:
    """Who was told that a request waits, once for each time."""
    with bench.services.database.read() as connection:
        query = select(notices.c.person).where(notices.c.kind == "request waits", notices.c.subject == request)
        return sorted(connection.execute(query).scalars())


def found(bench: Bench, start: int = 0, reader: Actor = REVIEWER, **wanted: object) -> list[str]:
    queue = bench.services.reports.find_requests(reader, RequestFilter(**wanted), start)  # type: ignore[arg-type]
    return [request.id for request in queue.requests]


def test_reviewers_are_told_of_each_request_that_waits_and_of_it_again_after_a_revision(bench: Bench) -> None:
    for reviewer in (REVIEWER, SECOND):
        bench.services.reviewers.saw(reviewer)
    asked = submitted(bench)
    assert told(bench, asked) == ["rev", "rev2"]
    bench.clock.pass_seconds(1)
    bench.services.requests.act(REVIEWER, asked, RequestAction.REQUEST_REVISION, "How many?")
    bench.services.requests.act(ANN, asked, RequestAction.SUBMIT)
    assert told(bench, asked) == ["rev", "rev", "rev2", "rev2"]
    draft = bench.services.requests.submit(ANN, tier="research", title="", justification="", draft=True)
    assert told(bench, draft.id) == []
    titles = [notice.title for notice in bench.services.inbox.inbox("rev").notices]
    assert titles == ["“Dark stars” waits for a review"] * 2


def test_whoever_lost_the_role_or_did_not_come_for_long_is_told_no_more(bench: Bench) -> None:
    bench.services.reviewers.saw(REVIEWER)
    bench.services.reviewers.saw(SECOND)
    bench.services.reviewers.saw(Actor("ann"))
    bench.services.reviewers.saw(Actor("rev"))
    assert told(bench, submitted(bench)) == ["rev2"]
    bench.clock.pass_seconds(89 * DAY)
    assert told(bench, submitted(bench)) == ["rev2"]
    bench.services.reviewers.saw(SECOND)
    bench.clock.pass_seconds(89 * DAY)
    assert told(bench, submitted(bench)) == ["rev2"]
    bench.clock.pass_seconds(2 * DAY)
    assert told(bench, submitted(bench)) == []


def test_who_may_not_decide_is_not_told(bench: Bench) -> None:
    for name in ("rev", "rev2", "lead"):
        bench.services.reviewers.saw(Actor(name, reviewer=True))
    consortium = bench.consortium()
    part = bench.services.tree.divide(
        Actor("lead"), consortium, name="Part", microcredits=1_000_000, guaranteed=True, lead="lead"
    )
    join(bench.services.members, Actor("lead"), part, "rev", MemberRole.MEMBER)
    asked = bench.services.requests.ask(Actor("lead"), consortium, RequestKind.SUPPLEMENT, "More.", 5)
    assert told(bench, asked.id) == ["rev2"]
    bench.services.requests.review(SECOND, asked.id, comment="A co-author.", conflict=True)
    bench.services.requests.act(Actor("rev3", reviewer=True), asked.id, RequestAction.REQUEST_REVISION, "Which?")
    bench.clock.pass_seconds(1)
    bench.services.requests.act(Actor("lead"), asked.id, RequestAction.SUBMIT)
    assert told(bench, asked.id) == ["rev2"]
    queue = bench.services.reports.find_requests(SECOND, RequestFilter())
    assert queue.in_conflict == {asked.id}
    assert bench.services.reports.find_requests(Actor("rev3", reviewer=True), RequestFilter()).in_conflict == set()


def test_a_session_that_says_the_same_writes_once_a_day(bench: Bench) -> None:
    for _ in range(2):
        bench.services.reviewers.saw(REVIEWER)
        bench.clock.pass_seconds(DAY - 1)
    with bench.services.database.read() as connection:
        seen_at_ms = bench.services.reviewers.reviewers.seen_at_ms(connection, "rev")
    assert seen_at_ms == bench.clock.at_ms - 2 * (DAY - 1) * 1000


def test_the_queue_finds_by_state_tier_kind_age_reviewer_and_words(bench: Bench) -> None:
    old = submitted(bench, "100% dark")
    bench.clock.pass_seconds(10 * DAY)
    panel = submitted(bench, "Fields", Actor("lead"), "consortium")
    bench.clock.pass_seconds(1)
    bench.services.requests.review(REVIEWER, panel, comment="Good.", score=4)
    bench.clock.pass_seconds(1)
    declined = submitted(bench, "Other")
    bench.services.requests.act(SECOND, declined, RequestAction.DECLINE, "No.")
    draft = bench.services.requests.submit(ANN, tier="research", title="D", justification="", draft=True).id
    assert found(bench) == [old, panel]
    assert found(bench, states=ANY_STATE) == [declined, panel, old]
    assert draft not in found(bench, states=ANY_STATE)
    assert found(bench, tier="consortium") == [panel]
    assert found(bench, kind=RequestKind.RENEWAL) == []
    assert found(bench, created_until_ms=bench.clock.at_ms - 7 * DAY * 1000) == [old]
    assert found(bench, reviewed_by="rev") == [panel]
    assert found(bench, to_be_reviewed_by="rev") == [old]
    assert found(bench, to_be_reviewed_by="ann") == [panel]
    assert found(bench, text="DARK") == [old]
    assert found(bench, text="0%") == [old]
    assert found(bench, text="%") == [old]
    assert found(bench, text="lead") == [panel]
    assert found(bench, text=panel) == [panel]
    assert found(bench, start=1) == [panel]
    queue = bench.services.reports.find_requests(REVIEWER, RequestFilter(), 5)
    assert (queue.requests, queue.number) == ([], 2)


def test_beside_a_request_stands_what_else_its_applicant_has_and_asked_for(bench: Bench) -> None:
    bench.accept("ann")
    bench.clock.pass_seconds(1)
    asked = submitted(bench)
    allocation = bench.services.requests.act(REVIEWER, asked, RequestAction.APPROVE).allocation_id
    assert allocation is not None
    bench.clock.pass_seconds(1)
    join(bench.services.members, ANN, allocation, "bob", MemberRole.MANAGER)
    by_bob = bench.services.requests.ask(
        Actor("bob"), allocation, RequestKind.EXTENSION, "Time.", asked=Award(term_days=9)
    )
    more = bench.services.requests.ask(ANN, allocation, RequestKind.SUPPLEMENT, "More.", 5)
    submitted(bench, "Another's", Actor("eve"))
    bench.services.requests.submit(ANN, tier="research", title="Draft", justification="", draft=True)
    beside = bench.services.reports.requester(REVIEWER, more.id)
    assert {request.id for request in beside.requests} == {asked, by_bob.id}
    assert [(held.tier, held.role) for held in beside.allocations] == [("research", "lead"), ("entry", "lead")]
    assert not beside.in_conflict
    assert bench.services.reports.requester(Actor("bob", reviewer=True), more.id).in_conflict
    with pytest.raises(NotAllowedError):
        bench.services.reports.requester(ANN, more.id)


def test_a_draft_is_its_applicants_alone(bench: Bench) -> None:
    draft = bench.services.requests.save_draft(ANN, "f", RequestKind.NEW, "research", "", "", Award())
    assert bench.services.reports.request(ANN, draft.id).title == ""
    for other in (REVIEWER, Actor("admin", admin=True), Actor("bob")):
        with pytest.raises(NotFoundError):
            bench.services.reports.request(other, draft.id)
        assert bench.services.requests.draft_of(other, "f") is None


def test_a_form_that_is_saved_twice_at_once_is_one_draft(bench: Bench) -> None:
    def save(words: str) -> str:
        requests = bench.services.requests
        return requests.save_draft(ANN, "f", RequestKind.NEW, "research", "T", words, Award(gpu_hours=3)).id

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(save, "abcd"))) == 1
    (draft,) = bench.services.reports.requests_of("ann")
    assert (draft.state, draft.asked.gpu_hours) == ("draft", 3)


def test_who_manages_no_more_does_not_submit_a_draft_for_more(bench: Bench) -> None:
    consortium = bench.consortium()
    join(bench.services.members, Actor("lead"), consortium, "ann", MemberRole.MANAGER)
    draft = bench.services.requests.save_draft(
        ANN, "f", RequestKind.SUPPLEMENT, consortium, "", "More.", Award(credits=5)
    )
    bench.services.members.remove(Actor("lead"), consortium, "ann")
    with pytest.raises(NotAllowedError, match="Only leads and managers"):
        bench.services.requests.act(ANN, draft.id, RequestAction.SUBMIT)


def test_a_decision_on_what_was_seen_before_a_change_is_refused(bench: Bench) -> None:
    asked = submitted(bench)
    seen_at_ms = bench.clock.at_ms
    bench.clock.pass_seconds(1)
    bench.services.requests.review(SECOND, asked, comment="Too much.")
    with pytest.raises(TransitionError, match="has changed since"):
        bench.services.requests.act(REVIEWER, asked, RequestAction.APPROVE, seen_at_ms=seen_at_ms)
    approved = bench.services.requests.act(REVIEWER, asked, RequestAction.APPROVE, seen_at_ms=bench.clock.at_ms)
    assert approved.state is RequestState.APPROVED
