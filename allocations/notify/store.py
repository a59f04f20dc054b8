"""Stores notices and mails, and looks up what a notice is about; decides nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, func, insert, or_, select, update

from allocations.db.schema import allocations, invitations, mails, members, notices, overrides, people, requests
from allocations.notify.models import PERISHABLE, Mail, StoredNotice
from allocations.outbox import NoticeState
from allocations.policy.notices import NoticeKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import ColumnElement, Connection, Row, RowMapping

_WAITING = and_(notices.c.state == NoticeState.PENDING, notices.c.mail_id.is_(None))

# What was no longer true when it was to be told is not listed either, if it is of a kind that ends by itself.
_SHOWN = or_(
    notices.c.state != NoticeState.SKIPPED,
    notices.c.kind.not_in(list(PERISHABLE)),
    notices.c.read_at_ms.is_not(None),
)


def _notice(row: Row[Any]) -> StoredNotice:
    fields = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
    fields["kind"] = NoticeKind(fields["kind"])
    fields["state"] = NoticeState(fields["state"])
    fields["details"] = json.loads(fields["details"])
    return StoredNotice(**fields)


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

    def people_with_news(self, connection: Connection, mailed_after_ms: int) -> list[str]:
        """Return who has waiting notices, and no mail that was sent since a time or is still on its way."""
        busy = select(mails.c.person).where(_busy(mailed_after_ms))
        rows = connection.execute(
            select(notices.c.person)
            .where(_WAITING, notices.c.person.not_in(busy))
            .distinct()
            .order_by(notices.c.person)
        )
        return [row.person for row in rows]

    def lock_waiting(self, connection: Connection, person: str) -> list[StoredNotice]:
        """Lock and return a person's waiting notices, oldest first."""
        rows = connection.execute(
            select(notices).where(notices.c.person == person, _WAITING).order_by(notices.c.id).with_for_update()
        )
        return [_notice(row) for row in rows]

    def has_mail(self, connection: Connection, person: str, mailed_after_ms: int) -> bool:
        """Say whether a person got a mail since a time, or has one on its way."""
        found = select(mails.c.id).where(mails.c.person == person, _busy(mailed_after_ms))
        return connection.execute(found.limit(1)).first() is not None

    def of_mail(self, connection: Connection, mail_id: str) -> list[StoredNotice]:
        """Return the notices that an unsent mail tells, oldest first."""
        told = (notices.c.mail_id == mail_id, notices.c.state == NoticeState.PENDING)
        return [_notice(row) for row in connection.execute(select(notices).where(*told).order_by(notices.c.id))]

    def skip(self, connection: Connection, ids: Collection[int]) -> None:
        """Mark notices as skipped, out of any mail."""
        if ids:
            skipped = notices.c.id.in_(list(ids))
            connection.execute(update(notices).where(skipped).values(state=NoticeState.SKIPPED, mail_id=None))

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
        self, connection: Connection, person: str, before_id: int | None, limit: int, *, unread: bool
    ) -> list[StoredNotice]:
        """Return a person's unread or read notices, newest first, from below an id on."""
        part = notices.c.read_at_ms.is_(None) if unread else notices.c.read_at_ms.is_not(None)
        query = select(notices).where(notices.c.person == person, part, _SHOWN)
        if before_id is not None:
            query = query.where(notices.c.id < before_id)
        return [_notice(row) for row in connection.execute(query.order_by(notices.c.id.desc()).limit(limit))]

    def count_unread(self, connection: Connection, person: str) -> int:
        """Return how many notices a person has not read."""
        unread = (notices.c.person == person, notices.c.read_at_ms.is_(None), _SHOWN)
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

    def allocation(self, connection: Connection, allocation_id: str) -> RowMapping | None:
        """Return the row of an allocation, or None."""
        return connection.execute(select(allocations).where(allocations.c.id == allocation_id)).mappings().one_or_none()

    def invitation(self, connection: Connection, invitation_id: str) -> RowMapping | None:
        """Return the row of an invitation with its allocation's name, or None."""
        query = (
            select(invitations, allocations.c.name.label("allocation"))
            .join(allocations, allocations.c.id == invitations.c.allocation_id)
            .where(invitations.c.id == invitation_id)
        )
        return connection.execute(query).mappings().one_or_none()

    def request(self, connection: Connection, request_id: str) -> RowMapping | None:
        """Return the row of a request, or None."""
        return connection.execute(select(requests).where(requests.c.id == request_id)).mappings().one_or_none()

    def override(self, connection: Connection, override_id: str) -> RowMapping | None:
        """Return the row of an override, or None."""
        return connection.execute(select(overrides).where(overrides.c.id == override_id)).mappings().one_or_none()

    def role(self, connection: Connection, allocation_id: str, person: str) -> str | None:
        """Return a person's role in an allocation, None when they have none."""
        mine = and_(members.c.allocation_id == allocation_id, members.c.person == person)
        return connection.execute(select(members.c.role).where(mine)).scalar_one_or_none()


def _busy(mailed_after_ms: int) -> ColumnElement[bool]:
    return or_(mails.c.sent_at_ms > mailed_after_ms, mails.c.sent_at_ms.is_(None))
