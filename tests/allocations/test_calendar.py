"""Calendars: what ends, as iCalendar that a strict parser takes, at an address that its owner can revoke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import vobject

from allocations.clock import to_rfc3339
from allocations.errors import NotFoundError
from allocations.lifecycle.models import Award, MemberRole
from allocations.notify.calendar import CalendarEvent, to_icalendar
from allocations.notify.links import LinkStore, Purpose
from allocations.outbox import Notice, NoticeKind
from tests.allocations.test_mail import DAY, end_of, mailer_of, news, server
from tests.allocations.test_notices import ADMIN, change, queue, research
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench
    from tests.allocations.test_mail import Server

__all__ = ["server"]

HOSTILE = "Stars; of, a\\kind\r\nEND:VCALENDAR\r\nX-EVIL:1 " + "ü" * 120


def parsed(content: bytes) -> Any:
    """Read iCalendar as RFC 5545 has it: CRLF, no line above 75 octets, every component whole."""
    lines = content.split(b"\r\n")
    assert lines[-1] == b""
    assert not any(b"\n" in line or b"\r" in line for line in lines)
    assert all(len(line) <= 75 for line in lines)
    calendar = vobject.readOne(content.decode(), allowQP=False, ignoreUnreadable=False)
    calendar.validate(raiseException=True)
    return calendar


def ends(calendar: Any) -> dict[str, str]:
    """Return what happens when."""
    return {
        event.summary.value: to_rfc3339(round(event.dtstart.value.timestamp() * 1000))
        for event in getattr(calendar, "vevent_list", [])
    }


def feed(bench: Bench, person: str) -> Any:
    token = bench.services.calendar.token(person) or bench.services.calendar.renew(person)
    return parsed(bench.services.calendar.feed(token))


def test_a_calendar_holds_the_ends_of_ones_allocations_and_of_the_agreement(bench: Bench) -> None:
    bench.accept("ann")
    allocation = research(bench)
    join(bench.services.members, ADMIN, allocation, "bob", MemberRole.MEMBER)
    research(bench, "eve", "Not for ann")
    at_ms = bench.clock.at_ms
    year = to_rfc3339(at_ms + 365 * DAY * 1000)
    agreement = bench.services.policy.agreement
    assert ends(feed(bench, "ann")) == {
        "“Entry allocation of ann” ends": year,
        "“Dark stars” ends": year,
        f"Accept “{agreement.title}” again": to_rfc3339(at_ms + agreement.valid_days * DAY * 1000),
    }
    assert ends(feed(bench, "bob")) == {"“Dark stars” ends": year}
    assert ends(feed(bench, "nobody")) == {}


@pytest.mark.parametrize("values", [{"renewal": Award().model_dump_json()}, {"state": "archived"}, {"state": "closed"}])
def test_what_is_renewed_or_over_is_not_in_it(bench: Bench, values: dict[str, object]) -> None:
    change(bench, research(bench), **values)
    assert ends(feed(bench, "ann")) == {}


def test_an_end_that_moves_is_the_same_event(bench: Bench) -> None:
    allocation = research(bench)
    before = feed(bench, "ann").vevent
    bench.clock.pass_seconds(60)
    change(bench, allocation, ends_at_ms=bench.clock.at_ms + 400 * DAY * 1000)
    after = feed(bench, "ann").vevent
    assert before.uid.value == after.uid.value
    assert before.dtstamp.value < after.dtstamp.value
    assert after.dtstart.value > before.dtstart.value
    assert after.transp.value == "TRANSPARENT"


def test_an_address_is_secret_and_can_be_replaced_and_revoked(bench: Bench) -> None:
    calendar = bench.services.calendar
    assert calendar.token("ann") is None
    first, of_bob = calendar.renew("ann"), calendar.renew("bob")
    assert (calendar.token("ann"), len(first), first == of_bob) == (first, 32, False)
    second = calendar.renew("ann")
    assert second != first
    calendar.feed(second)
    calendar.revoke("ann")
    assert calendar.token("ann") is None
    with bench.services.database.write() as connection:
        of_mail = LinkStore().make(connection, "ann", Purpose.UNSUBSCRIBE, 0)
    for gone in (first, second, of_mail, "x" * 32, "\x00" * 32, ""):
        with pytest.raises(NotFoundError):
            calendar.feed(gone)
    calendar.feed(of_bob)


def test_whatever_a_name_holds_stays_within_its_line() -> None:
    [event] = parsed(to_icalendar([CalendarEvent("1", 0, HOSTILE.replace("\r\n", " "), HOSTILE)], 0)).vevent_list
    assert event.summary.value == HOSTILE.replace("\r\n", " ")
    assert event.description.value.splitlines() == HOSTILE.splitlines()


def test_a_hostile_name_of_an_allocation_breaks_no_calendar(bench: Bench) -> None:
    change(bench, research(bench), name=HOSTILE)
    [event] = feed(bench, "ann").vevent_list
    assert event.summary.value.startswith("“Stars; of, a\\kind END:VCALENDAR X-EVIL:1 üü")


def test_the_mail_of_an_end_brings_it_as_an_event(bench: Bench, server: Server) -> None:
    allocation = end_of(bench, 7)
    queue(bench, Notice("ann", NoticeKind.RENEWED, allocation, "1"), news("bob"))
    assert mailer_of(bench, server.transport()).deliver() == 2
    mails = {recipients[0].split("@")[0]: mail for recipients, mail in server.received()}
    assert [part.get_content_type() for part in mails["bob"].walk()] == [
        "multipart/alternative",
        "text/plain",
        "text/html",
    ]
    assert [part.get_content_type() for part in mails["ann"].walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "text/calendar",
    ]
    [attached] = mails["ann"].iter_attachments()
    assert (attached.get_filename(), attached.get_param("method")) == ("ends.ics", "PUBLISH")
    sent = parsed(attached.get_content().encode())
    assert sent.method.value == "PUBLISH"
    assert ends(sent) == ends(feed(bench, "ann"))
    assert sent.vevent.uid.value == feed(bench, "ann").vevent.uid.value
