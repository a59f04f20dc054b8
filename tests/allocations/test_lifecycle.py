"""The life of allocations and requests: who may do what, in which state, and what it leaves in the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.errors import (
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    TransitionError,
    UnknownAllocationError,
)
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, RequestAction, RequestState
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
DAY = 86_400
ANN, LEAD, ADMIN = Actor("ann"), Actor("lead"), Actor("admin", reviewer=True, admin=True)
REVIEWER, SECOND = Actor("rev", reviewer=True), Actor("rev2", reviewer=True)


def audit_of(bench: Bench, subject: str) -> list[str]:
    return [entry.action for entry in reversed(bench.services.reports.audit_log(subject=subject))]


def test_the_agreement_opens_one_entry_allocation_and_is_asked_once_per_version(bench: Bench) -> None:
    with pytest.raises(InvalidInputError):
        bench.services.agreements.accept("ann", "an older one")
    bench.accept("ann")
    bench.accept("ann")
    views = bench.services.reports.allocations_of("ann")
    assert [(view.tier, view.limit_microcredits, view.role) for view in views] == [("entry", 30 * CREDIT, "lead")]
    assert bench.services.offers.start_options("ann").agreement.accepted
    assert not bench.services.offers.start_options("bob").agreement.accepted


def test_entry_is_refilled_daily_up_to_the_cap_and_missed_days_count_once(bench: Bench) -> None:
    entry = bench.accept("ann")
    lease = bench.acquire(entry, size="standard")
    bench.services.leases.start(lease.id)
    for _ in range(140):
        bench.clock.pass_seconds(600)
        bench.services.leases.renew(lease.id)
    spent = bench.services.leases.settle(lease.id).charged_microcredits
    assert spent == 84_000 * 34
    bench.clock.pass_seconds(DAY - 84_000 + 5)
    for _ in range(3):
        bench.services.lifecycle.advance()
    view = bench.services.reports.allocations_of("ann")[0]
    assert view.available_microcredits == 30 * CREDIT - spent + CREDIT
    bench.clock.pass_seconds(10 * DAY)
    bench.services.lifecycle.advance()
    assert bench.services.reports.allocations_of("ann")[0].available_microcredits == 30 * CREDIT
    bench.assert_clean()


def test_research_needs_one_reviewer_who_is_not_the_applicant(bench: Bench) -> None:
    requests = bench.services.requests
    request = requests.submit(ANN, tier="research", title="Dark stars", justification="We look for them.")
    with pytest.raises(NotAllowedError):
        requests.act(ANN, request.id, RequestAction.APPROVE)
    with pytest.raises(NotAllowedError):
        requests.act(Actor("ann", reviewer=True), request.id, RequestAction.APPROVE)
    approved = requests.act(REVIEWER, request.id, RequestAction.APPROVE, "sound")
    assert approved.state is RequestState.APPROVED
    view = bench.services.reports.allocations_of("ann")[0]
    assert (view.name, view.limit_microcredits) == ("Dark stars", 500 * CREDIT)
    assert audit_of(bench, request.id) == ["request.submit", "request.approve"]
    with pytest.raises(TransitionError):
        requests.act(REVIEWER, request.id, RequestAction.APPROVE)
    assert len(bench.services.reports.allocations_of("ann")) == 1


def test_the_second_half_comes_after_a_report(bench: Bench) -> None:
    requests = bench.services.requests
    first = requests.submit(ANN, tier="research", title="Dark stars", justification="We look for them.")
    allocation = requests.act(REVIEWER, first.id, RequestAction.APPROVE).allocation_id
    assert allocation is not None
    with pytest.raises(UnknownAllocationError):
        requests.report_progress(Actor("bob"), allocation, "mine")
    report = requests.report_progress(ANN, allocation, "Found two.")
    requests.act(REVIEWER, report.id, RequestAction.APPROVE)
    assert bench.services.reports.allocations_of("ann")[0].limit_microcredits == 1000 * CREDIT
    with pytest.raises(TransitionError):
        requests.report_progress(ANN, allocation, "Found three.")
    bench.assert_clean()


def test_a_consortium_needs_a_panel_and_conflicts_are_enforced(bench: Bench) -> None:
    requests = bench.services.requests
    request = requests.submit(LEAD, tier="consortium", title="All sky", justification="Everything.", credits=8000)
    with pytest.raises(InvalidInputError):
        requests.review(REVIEWER, request.id, comment="fine")
    requests.review(REVIEWER, request.id, comment="fine", score=4)
    with pytest.raises(TransitionError, match="panel"):
        requests.act(REVIEWER, request.id, RequestAction.APPROVE)
    requests.review(SECOND, request.id, comment="I am a co-author", conflict=True)
    with pytest.raises(NotAllowedError, match="conflict"):
        requests.act(SECOND, request.id, RequestAction.APPROVE)
    with pytest.raises(TransitionError, match="panel"):
        requests.act(REVIEWER, request.id, RequestAction.APPROVE)
    requests.review(ADMIN, request.id, comment="good", score=5)
    requests.act(REVIEWER, request.id, RequestAction.APPROVE)
    assert bench.services.reports.allocations_of("lead")[0].limit_microcredits == 8000 * CREDIT


def test_revision_is_a_state_of_its_own(bench: Bench) -> None:
    requests = bench.services.requests
    request = requests.submit(ANN, tier="research", title="Dark stars", justification="We look.", draft=True)
    with pytest.raises(TransitionError):
        requests.act(REVIEWER, request.id, RequestAction.APPROVE)
    requests.act(ANN, request.id, RequestAction.SUBMIT)
    with pytest.raises(InvalidInputError):
        requests.act(REVIEWER, request.id, RequestAction.REQUEST_REVISION)
    requests.act(REVIEWER, request.id, RequestAction.REQUEST_REVISION, "How many?")
    assert requests.revise(ANN, request.id, "Dark stars", "We look for two.").state is RequestState.REVISION_REQUESTED
    requests.act(ANN, request.id, RequestAction.SUBMIT)
    with pytest.raises(TransitionError):
        requests.revise(ANN, request.id, "Dark stars", "For three.")
    requests.act(ANN, request.id, RequestAction.WITHDRAW)
    with pytest.raises(TransitionError):
        requests.act(REVIEWER, request.id, RequestAction.APPROVE)


def test_requests_are_seen_by_their_applicant_and_reviewers_only(bench: Bench) -> None:
    request = bench.services.requests.submit(ANN, tier="research", title="T", justification="J")
    assert bench.services.reports.request(REVIEWER, request.id).title == "T"
    with pytest.raises(NotFoundError):
        bench.services.reports.request(Actor("bob"), request.id)
    assert bench.services.reports.requests_of("bob") == []
    with pytest.raises(InvalidInputError):
        bench.services.requests.submit(ANN, tier="entry", title="T", justification="J")


def test_a_repeated_submission_makes_one_request(bench: Bench) -> None:
    made = {
        bench.services.requests.submit(ANN, tier="research", title="T", justification="J", idempotency_key="form-1").id
        for _ in range(3)
    }
    assert len(made) == 1


def test_guaranteed_shares_stay_within_the_parent_and_capped_ones_within_the_ratio(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    join(bench.services.members, LEAD, root, "bob", MemberRole.MEMBER)
    tree = bench.services.tree

    def divide(microcredits: int, *, guaranteed: bool, actor: Actor = LEAD) -> str:
        return tree.divide(actor, root, name="Group", microcredits=microcredits, guaranteed=guaranteed, lead="bob")

    with pytest.raises(NotAllowedError):
        divide(CREDIT, guaranteed=True, actor=Actor("bob"))
    first = divide(60 * CREDIT, guaranteed=True)
    with pytest.raises(InvalidInputError, match=r"40\.00 credits are left"):
        divide(41 * CREDIT, guaranteed=True)
    divide(90 * CREDIT, guaranteed=False)
    with pytest.raises(InvalidInputError, match="150 %"):
        divide(CREDIT, guaranteed=False)
    tree.change_share(LEAD, first, 10 * CREDIT)
    with pytest.raises(InvalidInputError):
        tree.change_share(LEAD, first, 70 * CREDIT)
    with pytest.raises(NotAllowedError):
        tree.change_share(LEAD, root, 70 * CREDIT)
    assert tree.divide(
        Actor("bob"), first, name="Sub", microcredits=CREDIT, guaranteed=True, lead="eve", idempotency_key="k"
    ) == tree.divide(
        Actor("bob"), first, name="Sub", microcredits=CREDIT, guaranteed=True, lead="eve", idempotency_key="k"
    )
    bench.assert_clean()


def test_a_tier_without_sub_allocations_is_not_divided(bench: Bench) -> None:
    entry = bench.accept("ann")
    with pytest.raises(NotAllowedError):
        bench.services.tree.divide(ANN, entry, name="x", microcredits=1, guaranteed=True, lead="ann")


def test_members_are_managed_by_leads_and_managers(bench: Bench) -> None:
    root = bench.consortium()
    members, reports = bench.services.members, bench.services.reports
    with pytest.raises(UnknownAllocationError):
        join(members, ANN, root, "ann", MemberRole.MEMBER)
    join(members, LEAD, root, "ann", MemberRole.MANAGER)
    join(members, ANN, root, "bob", MemberRole.MEMBER)
    with pytest.raises(NotAllowedError, match="needs a lead"):
        members.remove(ANN, root, "lead")
    with pytest.raises(NotAllowedError):
        members.remove(Actor("bob"), root, "ann")
    members.remove(ANN, root, "bob")
    with pytest.raises(UnknownAllocationError):
        reports.allocation(Actor("bob"), root)
    assert not reports.allocation(Actor("admin", admin=True), root).leases
    entry = bench.accept("eve")
    with pytest.raises(NotAllowedError, match="room for 1"):
        join(members, Actor("eve"), entry, "ann", MemberRole.MEMBER)


def test_members_see_their_own_leases_and_leads_see_all(bench: Bench) -> None:
    root = bench.consortium()
    for person in ("ann", "bob"):
        bench.accept(person)
        join(bench.services.members, LEAD, root, person, MemberRole.MEMBER)
        bench.acquire(root, person)
    seen = {
        name: [lease.person for lease in bench.services.reports.allocation(Actor(name), root).leases]
        for name in ("ann", "lead")
    }
    assert seen == {"ann": ["ann"], "lead": ["ann", "bob"]}


def test_the_calendar_moves_allocations_on(bench: Bench) -> None:
    request = bench.services.requests.submit(ANN, tier="research", title="T", justification="J")
    bench.services.requests.act(REVIEWER, request.id, RequestAction.APPROVE)
    seen = []
    for days in (304, 2, 59, 89, 2):
        bench.clock.pass_seconds(days * DAY)
        bench.services.lifecycle.advance()
        seen.append(bench.services.reports.allocations_of("ann")[0].state)
    assert seen == ["active", "expiring", "grace", "grace", "archived"]


def test_only_administrators_suspend_and_they_say_why(bench: Bench) -> None:
    entry = bench.accept("ann")
    with pytest.raises(NotAllowedError):
        bench.services.lifecycle.suspend(ANN, entry, "because")
    with pytest.raises(InvalidInputError):
        bench.services.lifecycle.suspend(ADMIN, entry, "  ")
    bench.services.lifecycle.suspend(ADMIN, entry, "misuse")
    with pytest.raises(TransitionError):
        bench.services.lifecycle.suspend(ADMIN, entry, "misuse")
    bench.services.lifecycle.resume(ADMIN, entry, "a mistake")
    assert audit_of(bench, entry) == ["allocation.open", "allocation.suspend", "allocation.resume"]


def test_allocations_are_found_by_what_they_are_called_and_are(bench: Bench) -> None:
    bench.accept("lead")
    bench.clock.pass_seconds(1)
    root = bench.consortium()
    for name in ("50 % of_it", "Shear"):
        bench.clock.pass_seconds(1)
        bench.services.tree.divide(LEAD, root, name=name, microcredits=1, guaranteed=True, lead="lead")
    find = bench.services.reports.find_allocations
    found, number = find("")
    assert ([view.name for view in found][1:], number) == (["Deep fields", "50 % of_it", "Shear"], 4)
    assert ([view.name for view in find("", 3)[0]], find("", 3)[1]) == (["Shear"], 4)
    for wanted in ("sHEAR", "% OF_", "50 %"):
        assert find(wanted)[1] == 1, wanted
    assert find(root[2:])[1] == 1
    assert find("consortium")[1] == 3
    assert find("Sh_ar") == find("none") == ([], 0)
