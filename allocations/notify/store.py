"""Stores notices and mails, and looks up what a notice is about; decides nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, func, insert, or_, select, update

from allocations.db.schema import (
    allocations,
    invitations,
    leases,
    mails,
    members,
    notice_choices,
    notices,
    overrides,
    people,
    purges,
    requests,
    schedules,
    storage_areas,
    storage_ends,
    suspensions,
)
from allocations.notify.models import PERISHABLE, Mail, StoredNotice, Waiting
from allocations.outbox import NoticeState
from allocations.policy.notices import Delivery, NoticeKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import Connection, Row, RowMapping, Select

_WAITING = and_(notices.c.state == NoticeState.PENDING, notices.c.mail_id.is_(None))

# What was no longer true when it was to be told is not listed either, if it is of a kind that ends by itself.
_SHOWN = or_(
    notices.c.state != NoticeState.SKIPPED,
    notices.c.kind.not_in(list(PERISHABLE)),
    notices.c.read_at_ms.is_not(None),
)

_PURGES = (
    select(
        purges.c.id,
        purges.c.state,
        purges.c.files,
        purges.c.window_ends_at_ms,
        storage_areas.c.storage_class,
        allocations.c.name,
    )
    .join(storage_areas, storage_areas.c.id == purges.c.area_id)
    .outerjoin(allocations, allocations.c.id == storage_areas.c.allocation_id)
)


def _notice(row: Row[Any]) -> StoredNotice:
    fields = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
    fields["kind"] = NoticeKind(fields["kind"])
    fields["state"] = NoticeState(fields["state"])
    fields["details"] = json.loads(fields["details"])
    return StoredNotice(**fields)


def _by_id(connection: Connection, query: Select[Any]) -> dict[str, RowMapping]:
    return {row["id"]: row for row in connection.execute(query).mappings()}


def _mail(row: Row[Any]) -> Mail:
    return Mail(**row._mapping)  # noqa: SLF001  # as above


class NoticeStore:
    """The outbox as its readers see it, and the mails made of it."""

    def existing(
        self, connection: Connection, kind: NoticeKind, subjects: Collection[str]
    ) -> set[tuple[str, str, str]]:
        """Return (person, subject, threshold) of the notices of a kind about some subjects."""
        rows = connection.execute(
            select(notices.c.person, notices.c.subject, notices.c.threshold).where(
                notices.c.kind == kind, notices.c.subject.in_(list(subjects))
            )
        )
        return {(row.person, row.subject, row.threshold) for row in rows}

    def waiting(self, connection: Connection, mailed_after_ms: int) -> list[Waiting]:
        """Return of whom notices of which kinds wait, those left out who have a mail on its way."""
        on_its_way = select(mails.c.person).where(mails.c.sent_at_ms.is_(None))
        mailed = select(mails.c.person).where(mails.c.sent_at_ms > mailed_after_ms)
        its = and_(notice_choices.c.person == notices.c.person, notice_choices.c.kind == notices.c.kind)
        rows = connection.execute(
            select(notices.c.person, notices.c.kind, notice_choices.c.delivery, notices.c.person.in_(mailed))
            .select_from(notices.outerjoin(notice_choices, its))
            .where(_WAITING, notices.c.person.not_in(on_its_way))
            .distinct()
            .order_by(notices.c.person, notices.c.kind)
        )
        return [
            Waiting(person, NoticeKind(kind), None if chosen is None else Delivery(chosen), bool(recently))
            for person, kind, chosen, recently in rows
        ]

    def lock_waiting(self, connection: Connection, person: str) -> list[StoredNotice]:
        """Lock and return a person's waiting notices, oldest first."""
        rows = connection.execute(
            select(notices).where(notices.c.person == person, _WAITING).order_by(notices.c.id).with_for_update()
        )
        return [_notice(row) for row in rows]

    def has_unsent(self, connection: Connection, person: str) -> bool:
        """Say whether a person has a mail on its way."""
        found = select(mails.c.id).where(mails.c.person == person, mails.c.sent_at_ms.is_(None))
        return connection.execute(found.limit(1)).first() is not None

    def was_mailed(self, connection: Connection, person: str, after_ms: int) -> bool:
        """Say whether a person was sent a mail since a time."""
        found = select(mails.c.id).where(mails.c.person == person, mails.c.sent_at_ms > after_ms)
        return connection.execute(found.limit(1)).first() is not None

    def of_mail(self, connection: Connection, mail_id: str) -> list[StoredNotice]:
        """Return the notices that an unsent mail tells, oldest first."""
        told = (notices.c.mail_id == mail_id, notices.c.state == NoticeState.PENDING)
        return [_notice(row) for row in connection.execute(select(notices).where(*told).order_by(notices.c.id))]

    def keep_from_mail(self, connection: Connection, ids: Collection[int], state: NoticeState) -> None:
        """Mark notices that are not to be mailed, out of any mail."""
        if ids:
            kept = notices.c.id.in_(list(ids))
            connection.execute(update(notices).where(kept).values(state=state, mail_id=None))

    def add_mail(self, connection: Connection, mail: Mail, notice_ids: Iterable[int]) -> None:
        """Insert a mail and link the notices that it holds."""
        connection.execute(
            insert(mails).values(
                id=mail.id,
                person=mail.person,
                subject=mail.subject,
                body=mail.body,
                created_at_ms=mail.created_at_ms,
                sent_at_ms=mail.sent_at_ms,
                attempts=mail.attempts,
                next_try_at_ms=mail.next_try_at_ms,
                last_error=mail.last_error,
            )
        )
        connection.execute(update(notices).where(notices.c.id.in_(list(notice_ids))).values(mail_id=mail.id))

    def due_mails(self, connection: Connection, now_ms: int) -> list[Mail]:
        """Return the mails whose next try has come, those that wait longest first."""
        rows = connection.execute(
            select(mails)
            .where(mails.c.sent_at_ms.is_(None), mails.c.next_try_at_ms <= now_ms)
            .order_by(mails.c.next_try_at_ms, mails.c.id)
        )
        return [_mail(row) for row in rows]

    def mail(self, connection: Connection, mail_id: str) -> Mail:
        """Return a mail that exists."""
        return _mail(connection.execute(select(mails).where(mails.c.id == mail_id)).one())

    def rewrite(self, connection: Connection, mail_id: str, subject: str, body: str, at_ms: int) -> None:
        """Give a mail other words, as if written at a time."""
        words = {"subject": subject, "body": body, "created_at_ms": at_ms}
        connection.execute(update(mails).where(mails.c.id == mail_id).values(words))

    def remove_mail(self, connection: Connection, mail_id: str) -> None:
        """Remove a mail that no notice is part of any more."""
        connection.execute(delete(mails).where(mails.c.id == mail_id))

    def claim(self, connection: Connection, mail: Mail, next_try_at_ms: int) -> bool:
        """Move a mail's next try on, if it is still where it was seen; return whether this caller did it."""
        claimed = connection.execute(
            update(mails)
            .where(mails.c.id == mail.id, mails.c.sent_at_ms.is_(None), mails.c.next_try_at_ms == mail.next_try_at_ms)
            .values(next_try_at_ms=next_try_at_ms, attempts=mails.c.attempts + 1)
        )
        return claimed.rowcount == 1

    def mark_sent(self, connection: Connection, mail_id: str, at_ms: int) -> None:
        """Mark a mail and its notices as sent."""
        connection.execute(update(mails).where(mails.c.id == mail_id).values(sent_at_ms=at_ms, last_error=None))
        connection.execute(update(notices).where(notices.c.mail_id == mail_id).values(state=NoticeState.SENT))

    def mark_failed(self, connection: Connection, mail_id: str, error: str) -> None:
        """Keep why a try failed."""
        connection.execute(update(mails).where(mails.c.id == mail_id).values(last_error=error))

    def email(self, connection: Connection, person: str) -> str | None:
        """Return where mail for a person goes, None when it is not known."""
        return connection.execute(select(people.c.email).where(people.c.name == person)).scalar_one_or_none()

    def inbox(
        self,
        connection: Connection,
        person: str,
        before_id: int | None,
        limit: int,
        *,
        unread: bool,
        hidden: Collection[NoticeKind],
    ) -> list[StoredNotice]:
        """Return a person's unread or read notices but for some kinds, newest first, from below an id on."""
        part = notices.c.read_at_ms.is_(None) if unread else notices.c.read_at_ms.is_not(None)
        query = select(notices).where(notices.c.person == person, part, _SHOWN, notices.c.kind.not_in(list(hidden)))
        if before_id is not None:
            query = query.where(notices.c.id < before_id)
        return [_notice(row) for row in connection.execute(query.order_by(notices.c.id.desc()).limit(limit))]

    def count_unread(self, connection: Connection, person: str, hidden: Collection[NoticeKind]) -> int:
        """Return how many notices, but for some kinds, a person has not read."""
        shown = notices.c.kind.not_in(list(hidden))
        unread = (notices.c.person == person, notices.c.read_at_ms.is_(None), _SHOWN, shown)
        return connection.execute(select(func.count()).select_from(notices).where(*unread)).scalar_one()

    def notice(self, connection: Connection, person: str, notice_id: int) -> StoredNotice | None:
        """Return a notice of a person's, None when they have none of that id."""
        found = select(notices).where(notices.c.id == notice_id, notices.c.person == person, _SHOWN)
        row = connection.execute(found).one_or_none()
        return None if row is None else _notice(row)

    def mark_read(
        self, connection: Connection, person: str, at_ms: int, first_id: int, last_id: int | None = None
    ) -> None:
        """Keep when a person first read one notice of theirs, or those from one id to another."""
        ids = notices.c.id.between(first_id, first_id if last_id is None else last_id)
        unread = (notices.c.person == person, ids, notices.c.read_at_ms.is_(None), _SHOWN)
        connection.execute(update(notices).where(*unread).values(read_at_ms=at_ms))

    # ------------------------------------------------- what notices are about

    def allocations(self, connection: Connection, ids: Iterable[str]) -> dict[str, RowMapping]:
        """Return the rows of the allocations that there are among some ids, by id."""
        return _by_id(connection, select(allocations).where(allocations.c.id.in_(list(ids))))

    def invitations(self, connection: Connection, ids: Iterable[str]) -> dict[str, RowMapping]:
        """Return the rows of the invitations that there are among some ids, with their allocation's name, by id."""
        query = (
            select(invitations, allocations.c.name.label("allocation"))
            .join(allocations, allocations.c.id == invitations.c.allocation_id)
            .where(invitations.c.id.in_(list(ids)))
        )
        return _by_id(connection, query)

    def requests(self, connection: Connection, ids: Iterable[str]) -> dict[str, RowMapping]:
        """Return the rows of the requests that there are among some ids, by id."""
        return _by_id(connection, select(requests).where(requests.c.id.in_(list(ids))))

    def overrides(self, connection: Connection, ids: Iterable[str]) -> dict[str, RowMapping]:
        """Return the rows of the overrides that there are among some ids, by id."""
        return _by_id(connection, select(overrides).where(overrides.c.id.in_(list(ids))))

    def lease(self, connection: Connection, lease_id: str) -> RowMapping | None:
        """Return the row of a lease, or None."""
        return connection.execute(select(leases).where(leases.c.id == lease_id)).mappings().one_or_none()

    def schedule(self, connection: Connection, schedule_id: str) -> RowMapping | None:
        """Return the row of a schedule, or None."""
        return connection.execute(select(schedules).where(schedules.c.id == schedule_id)).mappings().one_or_none()

    def suspension(self, connection: Connection, suspension_id: str) -> RowMapping | None:
        """Return the row of a suspension, or None."""
        return connection.execute(select(suspensions).where(suspensions.c.id == suspension_id)).mappings().one_or_none()

    def storage_area(self, connection: Connection, area_id: str) -> RowMapping | None:
        """Return the row of an area of storage, or None."""
        return connection.execute(select(storage_areas).where(storage_areas.c.id == area_id)).mappings().one_or_none()

    def storage_end(self, connection: Connection, area_id: str) -> RowMapping | None:
        """Return what is noted of the end of an area of storage, or None where it goes on."""
        return (
            connection.execute(select(storage_ends).where(storage_ends.c.area_id == area_id)).mappings().one_or_none()
        )

    def purge(self, connection: Connection, purge_id: str) -> RowMapping | None:
        """Return the row of a purge with whose files it is about, or None."""
        return connection.execute(_PURGES.where(purges.c.id == purge_id)).mappings().one_or_none()

    def announced_purges(
        self, connection: Connection, person: str, allocation_ids: Collection[str]
    ) -> list[RowMapping]:
        """Return, as `purge`, those whose owners have been told an end, of a person's and of allocations' storage."""
        theirs = or_(storage_areas.c.person == person, storage_areas.c.allocation_id.in_(list(allocation_ids)))
        announced = _PURGES.where(theirs, purges.c.state == "noticed", purges.c.window_ends_at_ms.is_not(None))
        return list(connection.execute(announced.order_by(purges.c.window_ends_at_ms, purges.c.id)).mappings())

    def role(self, connection: Connection, allocation_id: str, person: str) -> str | None:
        """Return a person's role in an allocation, None when they have none."""
        mine = and_(members.c.allocation_id == allocation_id, members.c.person == person)
        return connection.execute(select(members.c.role).where(mine)).scalar_one_or_none()
