"""Every kind of notice comes from something that people or the calendar do, in whole words, and holds until undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.db.schema import mails, notices
from allocations.factory import make_mailer
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award, MemberRole, OverrideLimits, OverrideSubject, RequestAction, RequestKind
from allocations.notify.texts import GONE
from allocations.notify.transports import DeliveryError
from allocations.outbox import NoticeKind
from tests.allocations.test_notices import ADMIN, DAY, research
from tests.allocations.test_requests import ANN, REVIEWER
from tests.places import join

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import EmailMessage

    from allocations.notify.mailer import Mailer
    from tests.allocations.conftest import Bench

REQUEST_KINDS = frozenset(
    {
        NoticeKind.REQUEST_SUBMITTED,
        NoticeKind.REVISION_REQUESTED,
        NoticeKind.REQUEST_APPROVED,
        NoticeKind.REQUEST_DECLINED,
    }
)
LIMITS = OverrideLimits(servers_per_person=5)


class Keeping:
    """A way out that keeps what it is given, or is closed."""

    def __init__(self) -> None:
        self.closed = False
        self.taken: list[EmailMessage] = []

    def send(self, message: EmailMessage, name: str) -> None:
        if self.closed:
            raise DeliveryError("closed", everybody=True)
        assert name in str(message["Message-ID"])
        self.taken.append(message)


def pass_days(bench: Bench, days: int) -> None:
    bench.clock.pass_seconds(days * DAY)
    bench.services.lifecycle.advance()
    bench.services.reminders.remind()


def happen(bench: Bench, kind: NoticeKind) -> Callable[[], object]:
    """Let something of a kind be told to ann; return what undoes it, or makes it too old to tell."""
    if kind is NoticeKind.OVERRIDE_GRANTED:
        override = bench.services.overrides.grant(ADMIN, OverrideSubject.PERSON, "ann", LIMITS, "A deadline", 30)
        return lambda: bench.services.overrides.revoke(ADMIN, override.id, "Over")
    if kind in {NoticeKind.INVITED, NoticeKind.INVITATION_ANSWERED, NoticeKind.MEMBER_REMOVED}:
        return happen_to_members(bench, kind)
    if kind in REQUEST_KINDS:
        return happen_to_request(bench, kind)
    return happen_to_allocation(bench, kind, research(bench))


def happen_to_request(bench: Bench, kind: NoticeKind) -> Callable[[], object]:
    requests = bench.services.requests
    request = requests.submit(ANN, tier="research", title="Dark stars", justification="We look.").id
    if kind is NoticeKind.REQUEST_SUBMITTED:
        return lambda: requests.act(ANN, request, RequestAction.WITHDRAW)
    if kind is NoticeKind.REVISION_REQUESTED:
        requests.act(REVIEWER, request, RequestAction.REQUEST_REVISION, "Say which stars")
        return lambda: requests.act(ANN, request, RequestAction.SUBMIT)
    action = RequestAction.DECLINE if kind is NoticeKind.REQUEST_DECLINED else RequestAction.APPROVE
    requests.act(REVIEWER, request, action, "As the panel says")
    return lambda: bench.clock.pass_seconds(15 * DAY)


def happen_to_members(bench: Bench, kind: NoticeKind) -> Callable[[], object]:
    members = bench.services.members
    allocation = research(bench, "bob")
    if kind is NoticeKind.INVITED:
        invitation = members.invite(Actor("bob"), allocation, "ann", MemberRole.MEMBER)
        return lambda: members.revoke(Actor("bob"), invitation.id)
    join(members, ADMIN, allocation, "ann", MemberRole.MANAGER)
    if kind is NoticeKind.MEMBER_REMOVED:
        members.remove(Actor("bob"), allocation, "ann")
        return lambda: join(members, ADMIN, allocation, "ann", MemberRole.MEMBER)
    invitation = members.invite(ANN, allocation, "eve", MemberRole.MEMBER)
    members.answer(Actor("eve"), invitation.id, accept=True)
    return lambda: bench.clock.pass_seconds(15 * DAY)


def happen_to_allocation(bench: Bench, kind: NoticeKind, allocation: str) -> Callable[[], object]:
    lifecycle, members, requests = bench.services.lifecycle, bench.services.members, bench.services.requests
    join(members, ADMIN, allocation, "bob", MemberRole.LEAD)

    def leave() -> None:
        members.remove(Actor("bob"), allocation, "ann")

    if kind in {NoticeKind.SUSPENDED, NoticeKind.RESUMED}:
        lifecycle.suspend(ADMIN, allocation, "The hardware moves")
        if kind is NoticeKind.SUSPENDED:
            return lambda: lifecycle.resume(ADMIN, allocation, "It is back")
        lifecycle.resume(ADMIN, allocation, "It is back")
        return lambda: lifecycle.suspend(ADMIN, allocation, "It moves again")
    if kind is NoticeKind.CLOSED:
        lifecycle.close(ADMIN, allocation, "Done")
        return leave
    if kind is NoticeKind.ENDS_SOON:
        pass_days(bench, 358)
        return leave
    if kind is NoticeKind.RENEWED:
        asked = requests.ask(ANN, allocation, RequestKind.EXTENSION, "We need it.", None, Award(term_days=30)).id
        requests.act(REVIEWER, asked, RequestAction.APPROVE, "Sound")
        return lambda: lifecycle.archive(ADMIN, allocation, "Nobody needs it")
    pass_days(bench, 366 if kind is NoticeKind.ENDED else 365 + 200)
    return leave


def mailer(bench: Bench, out: Keeping) -> Mailer:
    return make_mailer(bench.services, out, "Meridian <meridian@platform.example>", "people.example")


def states(bench: Bench, kind: NoticeKind) -> set[str]:
    """Return the states of ann's notices of a kind, but for the reminders of thresholds that were passed long ago."""
    with bench.services.database.read() as connection:
        rows = connection.execute(
            select(notices.c.state).where(
                notices.c.person == "ann", notices.c.kind == kind, notices.c.threshold.not_like("%/__")
            )
        )
        return set(rows.scalars())


@pytest.mark.parametrize("kind", NoticeKind)
def test_each_kind_comes_from_an_event_and_is_mailed_in_whole_words(bench: Bench, kind: NoticeKind) -> None:
    happen(bench, kind)
    out = Keeping()
    assert mailer(bench, out).deliver() >= 1
    assert states(bench, kind) == {"sent"}
    [item] = [item for item in bench.services.inbox.inbox("ann").notices if item.kind is kind]
    [told] = [mail.get_content() for mail in out.taken if mail["To"] == "ann@people.example"]
    assert f"{item.title}\n{item.text}" in told
    assert not {GONE, "{", "}"} & set(told)


@pytest.mark.parametrize("kind", NoticeKind)
def test_what_is_undone_while_the_worker_sleeps_is_skipped(bench: Bench, kind: NoticeKind) -> None:
    undo = happen(bench, kind)
    undo()
    mailer(bench, Keeping()).deliver()
    assert states(bench, kind) == {"skipped"}


@pytest.mark.parametrize("kind", NoticeKind)
def test_what_is_undone_while_the_mail_server_is_away_is_taken_out_of_the_mail(bench: Bench, kind: NoticeKind) -> None:
    undo = happen(bench, kind)
    out = Keeping()
    out.closed = True
    mailer(bench, out).deliver()
    assert states(bench, kind) == {"pending"}
    undo()
    bench.clock.pass_seconds(DAY / 2)
    out.closed = False
    mailer(bench, out).deliver()
    assert states(bench, kind) == {"skipped"}
    with bench.services.database.read() as connection:
        left = connection.execute(select(mails.c.sent_at_ms).where(mails.c.person == "ann")).scalars().all()
    assert len(left) == sum(mail["To"] == "ann@people.example" for mail in out.taken)
    assert None not in left


def test_a_reminder_is_for_those_who_still_lead_or_manage(bench: Bench) -> None:
    allocation = research(bench)
    join(bench.services.members, ADMIN, allocation, "bob", MemberRole.MANAGER)
    pass_days(bench, 358)
    bench.services.members.change(ANN, allocation, "bob", role=MemberRole.MEMBER)
    out = Keeping()
    assert mailer(bench, out).deliver() == 1
    assert [str(mail["To"]) for mail in out.taken] == ["ann@people.example"]


def test_a_mail_that_waited_says_the_days_that_are_left(bench: Bench) -> None:
    research(bench)
    pass_days(bench, 358)
    out = Keeping()
    out.closed = True
    mailer(bench, out).deliver()
    bench.clock.pass_seconds(3 * DAY)
    out.closed = False
    mailer(bench, out).deliver()
    [mail] = out.taken
    assert mail["Subject"] == "“Dark stars” ends in 4 days"
    assert mail["Date"].datetime.timestamp() * 1000 == bench.clock.at_ms


def test_what_a_person_reads_later_is_as_it_was_told(bench: Bench) -> None:
    allocation = research(bench)
    pass_days(bench, 358)
    bench.services.lifecycle.suspend(ADMIN, allocation, "The hardware moves")
    pass_days(bench, 100)
    titles = [item.title for item in bench.services.inbox.inbox("ann").notices]
    assert "“Dark stars” ends in 7 days" in titles


def test_what_was_read_on_the_page_is_not_mailed_and_stays_on_it(bench: Bench) -> None:
    research(bench)
    pass_days(bench, 358)
    [reminder] = bench.services.inbox.inbox("ann").notices
    bench.services.inbox.mark_read("ann", reminder.id)
    assert mailer(bench, Keeping()).deliver() == 0
    assert [item.id for item in bench.services.inbox.inbox("ann").notices] == [reminder.id]
