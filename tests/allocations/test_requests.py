"""What is asked for on an allocation, by whom it is decided, and what an approval does to limits and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.db.schema import journal, notices
from allocations.errors import InvalidInputError, NotAllowedError, TransitionError
from allocations.ledger.models import Unit
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import (
    REQUEST_TRANSITIONS,
    AllocationState,
    Award,
    MemberRole,
    RequestAction,
    RequestKind,
    RequestState,
)
from allocations.policy.models import Shape
from tests.places import join

if TYPE_CHECKING:
    from allocations.ledger.models import Balance
    from allocations.lifecycle.models import Allocation
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
DAY = 86_400
ANN, LEAD = Actor("ann"), Actor("lead")
REVIEWER, SECOND, THIRD = (Actor(name, reviewer=True) for name in ("rev", "rev2", "rev3"))
APPROVE, DECLINE = RequestAction.APPROVE, RequestAction.DECLINE


def pass_days(bench: Bench, days: float) -> None:
    bench.clock.pass_seconds(days * DAY)
    bench.services.lifecycle.advance()


def found(bench: Bench, allocation: str) -> Allocation:
    with bench.services.database.read() as connection:
        return bench.services.lifecycle.authority.find(connection, allocation)


def balance(bench: Bench, allocation: str, unit: Unit = Unit.CREDITS) -> Balance:
    with bench.services.database.read() as connection:
        return bench.services.lifecycle.ledger.balance(connection, allocation, unit)


def research(bench: Bench, award: Award | None = None) -> str:
    """An allocation of Ann's in the research tier."""
    bench.accept("ann")
    asked = bench.services.requests.submit(ANN, tier="research", title="Dark stars", justification="We look.")
    opened = bench.services.requests.act(REVIEWER, asked.id, APPROVE, "sound", award).allocation_id
    assert opened is not None
    return opened


def ask(bench: Bench, allocation: str, kind: RequestKind, credits: int | None = None, **asked: object) -> str:  # noqa: A002  # the unit's name
    award = Award.model_validate(asked)
    return bench.services.requests.ask(ANN, allocation, kind, "We need it.", credits, award).id


def ends_in_days(bench: Bench, allocation: str) -> float:
    return (found(bench, allocation).ends_at_ms - bench.clock.at_ms) / (DAY * 1000)


def test_an_award_differs_from_what_was_asked(bench: Bench) -> None:
    award = Award(credits=300, gpu_hours=20, core_hours=100, term_days=100, largest=(Shape(cores=32, memory_gib=64),))
    allocation = research(bench, award)
    assert found(bench, allocation).award == award
    assert balance(bench, allocation).limit == 150 * CREDIT
    assert balance(bench, allocation, Unit.GPU_SECONDS).limit == 20 * 3600
    assert balance(bench, allocation, Unit.CORE_SECONDS).limit == 100 * 3600
    assert ends_in_days(bench, allocation) == 100
    report = bench.services.requests.report_progress(ANN, allocation, "Found two.")
    bench.services.requests.act(REVIEWER, report.id, APPROVE)
    assert balance(bench, allocation).limit == 300 * CREDIT
    bench.assert_clean()


def test_an_award_comes_with_an_approval_and_makes_sense(bench: Bench) -> None:
    requests = bench.services.requests
    asked = requests.submit(ANN, tier="research", title="T", justification="J")
    with pytest.raises(InvalidInputError, match="Only an approval"):
        requests.act(REVIEWER, asked.id, DECLINE, "no", Award(credits=1))
    with pytest.raises(InvalidInputError, match="between 1 and"):
        requests.act(REVIEWER, asked.id, APPROVE, "", Award(credits=10**9))
    with pytest.raises(InvalidInputError, match="Instalments"):
        requests.act(REVIEWER, asked.id, APPROVE, "", Award(instalments_released=2))
    with pytest.raises(InvalidInputError, match="differs"):
        requests.act(REVIEWER, asked.id, APPROVE, " ", Award(renewable=False))
    approved = requests.act(REVIEWER, asked.id, APPROVE, "Once.", Award(renewable=False))
    assert approved.awarded == Award(credits=1000, renewable=False)
    entry = bench.services.reports.audit_log(subject=asked.id)[0]
    assert entry.details["asked"] == {"credits": 1000}
    assert entry.details["awarded"] == {"credits": 1000, "renewable": False}


def test_only_leads_and_managers_ask_and_not_twice(bench: Bench) -> None:
    allocation = research(bench)
    join(bench.services.members, ANN, allocation, "bob", MemberRole.MEMBER)
    with pytest.raises(NotAllowedError):
        bench.services.requests.ask(Actor("bob"), allocation, RequestKind.SUPPLEMENT, "More.", 1)
    ask(bench, allocation, RequestKind.SUPPLEMENT, 5)
    with pytest.raises(TransitionError, match="already"):
        ask(bench, allocation, RequestKind.SUPPLEMENT, 6)
    with pytest.raises(InvalidInputError, match="Nothing more"):
        ask(bench, allocation, RequestKind.EXTENSION)
    with pytest.raises(InvalidInputError, match="term_days"):
        ask(bench, allocation, RequestKind.SUPPLEMENT, term_days=3)
    entry = next(view.id for view in bench.services.reports.allocations_of("ann") if view.tier == "entry")
    with pytest.raises(NotAllowedError, match="user agreement"):
        ask(bench, entry, RequestKind.SUPPLEMENT, 5)


def test_a_supplement_raises_limits_and_sizes_of_the_running_term(bench: Bench) -> None:
    allocation = research(bench)
    larger = [{"cores": 32, "memory_gib": 128, "gpus": 1}]
    asked = ask(bench, allocation, RequestKind.SUPPLEMENT, 200, gpu_hours=50, largest=larger)
    bench.services.requests.act(REVIEWER, asked, APPROVE)
    assert balance(bench, allocation).limit == 700 * CREDIT
    assert balance(bench, allocation, Unit.GPU_SECONDS).limit == 50 * 3600
    assert found(bench, allocation).award.largest == (Shape(cores=32, memory_gib=128, gpus=1),)
    again = ask(bench, allocation, RequestKind.SUPPLEMENT, gpu_hours=10)
    bench.services.requests.act(REVIEWER, again, APPROVE, "half", Award(gpu_hours=5))
    assert found(bench, allocation).award.gpu_hours == 55
    assert balance(bench, allocation, Unit.GPU_SECONDS).limit == 55 * 3600
    bench.assert_clean()


def test_an_extension_moves_the_end_of_the_whole_tree(bench: Bench) -> None:
    root = bench.consortium()
    child = bench.services.tree.divide(LEAD, root, name="G", microcredits=1, guaranteed=True, lead="lead")
    join(bench.services.members, LEAD, child, "ann", MemberRole.LEAD)
    with pytest.raises(NotAllowedError, match="part of another"):
        ask(bench, child, RequestKind.EXTENSION, term_days=30)
    pass_days(bench, 370)
    assert found(bench, root).state is AllocationState.GRACE
    asked = bench.services.requests.ask(LEAD, root, RequestKind.EXTENSION, "Late data.", None, Award(term_days=90))
    bench.services.requests.act(REVIEWER, asked.id, APPROVE)
    for node in (root, child):
        assert found(bench, node).state is AllocationState.ACTIVE
        assert ends_in_days(bench, node) == 85


def test_a_renewal_opens_before_the_end_and_begins_once_at_the_end(bench: Bench) -> None:
    allocation = research(bench)
    lease = bench.acquire(allocation)
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(600)
    charged = bench.services.leases.settle(lease.id).charged_microcredits
    with pytest.raises(TransitionError, match="60 days"):
        ask(bench, allocation, RequestKind.RENEWAL)
    pass_days(bench, 310)
    asked = ask(bench, allocation, RequestKind.RENEWAL, 800, gpu_hours=3)
    bench.services.requests.act(REVIEWER, asked, APPROVE)
    assert balance(bench, allocation).limit == 500 * CREDIT
    with pytest.raises(TransitionError, match="renewed already"):
        bench.services.requests.act(REVIEWER, ask(bench, allocation, RequestKind.RENEWAL), APPROVE)
    pass_days(bench, 65)
    bench.services.lifecycle.advance()
    assert balance(bench, allocation).limit == charged + 400 * CREDIT
    assert balance(bench, allocation, Unit.GPU_SECONDS).limit == 3 * 3600
    node = found(bench, allocation)
    assert (node.state, node.renewal) == (AllocationState.ACTIVE, None)
    assert node.award.instalments_released == 1
    assert node.ends_at_ms - node.starts_at_ms == 730 * DAY * 1000
    with bench.services.database.read() as connection:
        kinds = select(journal.c.kind).where(journal.c.allocation_id == allocation, journal.c.unit == Unit.CREDITS)
        assert connection.execute(kinds.order_by(journal.c.id)).scalars().all()[-2:] == ["lapse", "renewal"]
    bench.assert_clean()


def test_a_renewal_in_grace_begins_at_once_and_an_archived_allocation_has_none(bench: Bench) -> None:
    allocation = research(bench)
    pass_days(bench, 370)
    bench.services.requests.act(REVIEWER, ask(bench, allocation, RequestKind.RENEWAL), APPROVE)
    assert found(bench, allocation).state is AllocationState.ACTIVE
    assert ends_in_days(bench, allocation) == 365
    pass_days(bench, 365 + 91)
    with pytest.raises(TransitionError, match="archived"):
        ask(bench, allocation, RequestKind.RENEWAL)


@pytest.mark.parametrize(
    ("days", "kinds", "remedy"),
    [
        (0, {*RequestKind} - {RequestKind.NEW, RequestKind.RENEWAL}, ""),
        (370, {RequestKind.EXTENSION, RequestKind.RENEWAL}, "renewal or an extension"),
        (456, set(), "new allocation"),
        (900, set(), "new allocation"),
    ],
    ids=["active", "grace", "archived", "closed"],
)
def test_what_cannot_be_granted_any_more_is_refused_when_it_is_asked(
    bench: Bench, days: int, kinds: set[RequestKind], remedy: str
) -> None:
    allocation = research(bench)
    pass_days(bench, days)
    asked = {RequestKind.SUPPLEMENT: {"gpu_hours": 5}, RequestKind.EXTENSION: {"term_days": 9}}
    for kind in sorted({*RequestKind} - {RequestKind.NEW} - kinds):
        with pytest.raises(TransitionError) as refused:
            ask(bench, allocation, kind, **asked.get(kind, {}))
        assert kind is RequestKind.RENEWAL or remedy in refused.value.remedy
    for kind in sorted(kinds):
        bench.services.requests.act(REVIEWER, ask(bench, allocation, kind, **asked.get(kind, {})), APPROVE)


def test_what_was_asked_in_time_is_not_granted_to_what_is_over(bench: Bench) -> None:
    allocation = research(bench)
    report = bench.services.requests.report_progress(ANN, allocation, "Found two.").id
    waiting = [report, ask(bench, allocation, RequestKind.SUPPLEMENT, 5)]
    waiting.append(ask(bench, allocation, RequestKind.EXTENSION, term_days=9))
    pass_days(bench, 456)
    for one in waiting:
        with pytest.raises(TransitionError, match="archived"):
            bench.services.requests.act(REVIEWER, one, APPROVE)
    assert balance(bench, allocation).limit == 500 * CREDIT


def test_an_award_that_is_not_renewable_says_so(bench: Bench) -> None:
    allocation = research(bench, Award(renewable=False))
    pass_days(bench, 310)
    with pytest.raises(NotAllowedError, match="awarded once"):
        ask(bench, allocation, RequestKind.RENEWAL)


def test_a_panel_decides_either_way_and_again_after_a_revision(bench: Bench) -> None:
    requests = bench.services.requests
    asked = requests.submit(LEAD, tier="consortium", title="All sky", justification="Everything.")
    with pytest.raises(TransitionError, match="panel"):
        requests.act(REVIEWER, asked.id, DECLINE, "weak")
    for reviewer in (REVIEWER, SECOND):
        requests.review(reviewer, asked.id, comment="fair", score=3)
    requests.act(REVIEWER, asked.id, RequestAction.REQUEST_REVISION, "Which filters?")
    requests.revise(LEAD, asked.id, "All sky", "Everything, in two filters.")
    requests.act(LEAD, asked.id, RequestAction.SUBMIT)
    entry = bench.services.reports.audit_log(subject=asked.id)[0]
    assert entry.details["scores_to_be_given_again"] == {"rev": 3, "rev2": 3}
    requests.review(REVIEWER, asked.id, comment="better", score=5)
    with pytest.raises(TransitionError, match="it has 1"):
        requests.act(REVIEWER, asked.id, APPROVE)
    requests.review(THIRD, asked.id, comment="good", score=4)
    assert requests.act(THIRD, asked.id, APPROVE).state is RequestState.APPROVED
    with bench.services.database.read() as connection:
        kinds = connection.execute(select(notices.c.kind).where(notices.c.subject == asked.id).order_by(notices.c.id))
        assert kinds.scalars().all() == ["request submitted", "revision requested", "request approved"]


def test_a_conflict_bars_from_reviewing_and_deciding_declared_or_by_membership(bench: Bench) -> None:
    requests = bench.services.requests
    allocation = research(bench)
    asked = ask(bench, allocation, RequestKind.SUPPLEMENT, 5)
    requests.review(REVIEWER, asked, comment="I am a co-author", conflict=True)
    with pytest.raises(NotAllowedError, match="conflict"):
        requests.review(REVIEWER, asked, comment="and yet")
    join(bench.services.members, ANN, allocation, "rev2", MemberRole.MEMBER)
    with pytest.raises(NotAllowedError, match="member"):
        requests.review(SECOND, asked, comment="good")
    for reviewer in (REVIEWER, SECOND, Actor("ann", reviewer=True)):
        for action in (APPROVE, DECLINE):
            with pytest.raises(NotAllowedError):
                requests.act(reviewer, asked, action, "why")
    requests.act(THIRD, asked, APPROVE)


@pytest.mark.parametrize("state", list(RequestState))
@pytest.mark.parametrize("action", list(RequestAction))
def test_nothing_is_done_to_a_request_from_a_state_that_it_does_not_lead_from(
    bench: Bench, action: RequestAction, state: RequestState
) -> None:
    bench.accept("ann")
    request = bench.services.requests.submit(ANN, tier="research", title="Dark stars", justification="We look.")
    with bench.services.database.write() as connection:
        bench.services.requests.requests.change(connection, request.id, state=state)
    is_applicants = action in {RequestAction.SUBMIT, RequestAction.WITHDRAW}

    def act() -> None:
        if action is RequestAction.REVIEW:
            bench.services.requests.review(REVIEWER, request.id, comment="c")
        else:
            bench.services.requests.act(ANN if is_applicants else REVIEWER, request.id, action, "why")

    if state in REQUEST_TRANSITIONS[action].sources:
        act()
    else:
        with pytest.raises(TransitionError):
            act()


def test_a_revision_asks_for_something_else(bench: Bench) -> None:
    requests, allocation = bench.services.requests, research(bench)
    asked = ask(bench, allocation, RequestKind.SUPPLEMENT, 900, gpu_hours=50)
    requests.act(REVIEWER, asked, RequestAction.REQUEST_REVISION, "Rather less.")
    with pytest.raises(InvalidInputError, match="term_days"):
        requests.revise(ANN, asked, "More", "We need it.", Award(term_days=3))
    with pytest.raises(InvalidInputError, match="Nothing more"):
        requests.revise(ANN, asked, "More", "We need it.", Award())
    revised = requests.revise(ANN, asked, "More", "We need it.", Award(gpu_hours=20))
    assert (revised.credits, revised.asked.gpu_hours) == (0, 20)
    assert bench.services.reports.audit_log(subject=asked)[0].details == {"asked": {"gpu_hours": 20}}
    requests.revise(ANN, asked, "More", "In other words.")
    requests.act(ANN, asked, RequestAction.SUBMIT)
    requests.act(REVIEWER, asked, APPROVE)
    assert found(bench, allocation).award.gpu_hours == 20
    assert balance(bench, allocation).limit == 500 * CREDIT


def test_an_instalment_is_not_asked_for_otherwise_and_a_renewal_has_its_tiers_credits(bench: Bench) -> None:
    requests, allocation = bench.services.requests, research(bench)
    report = requests.report_progress(ANN, allocation, "Half done.")
    requests.act(REVIEWER, report.id, RequestAction.REQUEST_REVISION, "Which half?")
    with pytest.raises(InvalidInputError, match="instalment"):
        requests.revise(ANN, report.id, "Report", "The first.", Award(credits=9))
    pass_days(bench, 310)
    renewal = ask(bench, allocation, RequestKind.RENEWAL, 700)
    requests.act(REVIEWER, renewal, RequestAction.REQUEST_REVISION, "As much as the tier has?")
    assert requests.revise(ANN, renewal, "Renewal", "Yes.", Award()).credits == 1000
