"""Ends as calendar events (RFC 5545): in a personal feed, and attached to the mail that speaks of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from icalendar import Calendar, Event

from allocations.clock import MS_PER_DAY, MS_PER_SECOND
from allocations.errors import NotFoundError
from allocations.lifecycle.models import USABLE_STATES, AllocationState
from allocations.notify.links import Purpose
from allocations.notify.texts import one_line
from allocations.policy.notices import NoticeKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, RowMapping

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.stores.agreements import AgreementStore
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.notify.links import LinkStore
    from allocations.notify.models import StoredNotice
    from allocations.notify.store import NoticeStore
    from allocations.policy.models import Policy

REFRESH = timedelta(hours=12)
# The kinds whose mail brings the end that they speak of.
_OF_AN_END = frozenset({NoticeKind.ENDS_SOON, NoticeKind.RENEWED})
_OF_A_PURGE = frozenset({NoticeKind.PURGE_PLANNED, NoticeKind.PURGE_REMINDER})
# Where an end still counts: what has ended is shown until it is archived.
_SHOWN_STATES = USABLE_STATES | {AllocationState.PENDING, AllocationState.SUSPENDED, AllocationState.GRACE}


@dataclass(frozen=True, slots=True)
class CalendarEvent:
    """Something that happens at a moment. The same `uid` is the same event, in a mail and in the feed."""

    uid: str
    at_ms: int
    summary: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarService:
    """Each person's calendar, and the secret address under which a calendar program reads it."""

    database: Database
    clock: Clock
    policy: Policy
    allocations: AllocationStore
    agreements: AgreementStore
    notices: NoticeStore
    links: LinkStore

    def token(self, person: str) -> str | None:
        """Return the token of a person's calendar, None when they have not asked for one."""
        with self.database.read() as connection:
            return self.links.token(connection, person, Purpose.CALENDAR)

    def renew(self, person: str) -> str:
        """Give a person's calendar a new token, after which the old one is nobody's."""
        with self.database.write() as connection:
            self.links.revoke(connection, person, Purpose.CALENDAR)
            return self.links.make(connection, person, Purpose.CALENDAR, self.clock.now_ms())

    def revoke(self, person: str) -> None:
        """Take a person's calendar from its address."""
        with self.database.write() as connection:
            self.links.revoke(connection, person, Purpose.CALENDAR)

    def feed(self, token: str) -> bytes:
        """Return the calendar of a token as iCalendar; NotFoundError when it is nobody's."""
        with self.database.read() as connection:
            person = self.links.person(connection, token, Purpose.CALENDAR)
            if person is None:
                raise NotFoundError(
                    "There is no calendar at this address.",
                    "It may have been revoked. Its owner finds the present address beside their notices.",
                )
            return to_icalendar(self._events(connection, person), self.clock.now_ms())

    def of_notices(self, connection: Connection, notices: Sequence[StoredNotice], stamp_ms: int) -> bytes | None:
        """Return the ends that some notices speak of as iCalendar, as of a time; None when they speak of none."""
        subjects = dict.fromkeys(notice.subject for notice in notices if notice.kind in _OF_AN_END)
        found = self.notices.allocations(connection, subjects)
        rows = [found[subject] for subject in subjects if subject in found]
        events = [_end(row["id"], row["name"], row["ends_at_ms"]) for row in rows]
        announced = dict.fromkeys(notice.subject for notice in notices if notice.kind in _OF_A_PURGE)
        purges = [self.notices.purge(connection, subject) for subject in announced]
        events += [_purge(row) for row in purges if row is not None and row["window_ends_at_ms"] is not None]
        return to_icalendar(events, stamp_ms) if events else None

    # ------------------------------------------------------------------ inside

    def _events(self, connection: Connection, person: str) -> list[CalendarEvent]:
        theirs = [found for found, _role in self.allocations.of_person(connection, person)]
        events = [
            _end(found.id, found.name, found.ends_at_ms)
            for found in theirs
            # What is renewed already goes on at its end.
            if found.state in _SHOWN_STATES and found.renewal is None
        ]
        announced = self.notices.announced_purges(connection, person, [found.id for found in theirs])
        events += [_purge(row) for row in announced]
        agreement = self.policy.agreement
        accepted_at_ms = self.agreements.accepted_at_ms(connection, person, agreement.version)
        if accepted_at_ms is not None:
            events.append(
                CalendarEvent(
                    f"agreement-{person}@meridian",
                    accepted_at_ms + agreement.valid_days * MS_PER_DAY,
                    f"Accept “{agreement.title}” again",
                    "Until you do, nothing new can be started.",
                )
            )
        return events


def _end(allocation_id: str, name: str, ends_at_ms: int) -> CalendarEvent:
    return CalendarEvent(
        f"end-{allocation_id}@meridian",
        ends_at_ms,
        f"“{one_line(name)}” ends",
        "From then on nothing new can be started on this allocation, unless it is renewed before.",
    )


def _purge(row: RowMapping) -> CalendarEvent:
    whose = (
        f"your {row['storage_class']}"
        if row["name"] is None
        else f"{row['storage_class']} of “{one_line(row['name'])}”"
    )
    return CalendarEvent(
        f"purge-{row['id']}@meridian",
        row["window_ends_at_ms"],
        f"{row['files']:,} old files are purged: {whose}",
        "What is changed before then stays. To keep something as it is, ask for an exemption on the storage page.",
    )


def to_icalendar(events: Sequence[CalendarEvent], stamp_ms: int) -> bytes:
    """Return events as an iCalendar object that was made at a time; they block nobody's time."""
    calendar = Calendar()
    calendar.add("prodid", "-//Meridian//Allocations//EN")
    calendar.add("version", "2.0")
    calendar.add("method", "PUBLISH")
    calendar.add("name", "Meridian")
    calendar.add("x-wr-calname", "Meridian")  # the name as older programs know it
    calendar.add("refresh-interval", REFRESH, parameters={"VALUE": "DURATION"})
    for one in events:
        event = Event()
        event.add("uid", one.uid)
        event.add("dtstamp", _moment(stamp_ms))
        event.add("dtstart", _moment(one.at_ms))
        event.add("summary", one.summary)
        event.add("description", one.description)
        event.add("transp", "TRANSPARENT")
        calendar.add_component(event)
    return bytes(calendar.to_ical())


def _moment(at_ms: int) -> datetime:
    """Return a time in UTC to the second, as iCalendar has it."""
    return datetime.fromtimestamp(at_ms // MS_PER_SECOND, tz=UTC)
