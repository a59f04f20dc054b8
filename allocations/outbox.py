"""The outbox: what people are told, written in the transaction of what happened and delivered later by the worker."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from allocations.db.schema import notices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection


class NoticeKind(StrEnum):
    """What a notice is about; each kind has a template."""

    ENDS_SOON = "ends soon"
    ENDED = "ended"
    ARCHIVED = "archived"
    RENEWED = "renewed"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    CLOSED = "closed"
    INVITED = "invited"
    INVITATION_ANSWERED = "invitation answered"
    MEMBER_REMOVED = "member removed"
    REQUEST_SUBMITTED = "request submitted"
    REVISION_REQUESTED = "revision requested"
    REQUEST_APPROVED = "request approved"
    REQUEST_DECLINED = "request declined"
    OVERRIDE_GRANTED = "override granted"


class NoticeState(StrEnum):
    """Pending, or what became of it: skipped when it was no longer true at its time."""

    PENDING = "pending"
    SENT = "sent"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that one person is told once: `kind`, `subject` (an id) and `threshold` tell notices apart.

    `threshold` is the days before an end for reminders, otherwise what makes a repetition a new notice (such as the
    time of the event). `details` fill the kind's template.
    """

    person: str
    kind: NoticeKind
    subject: str
    threshold: str = ""
    details: Mapping[str, str | int] = field(default_factory=dict)


class Outbox:
    """Where services leave notices."""

    def queue(self, connection: Connection, new: Iterable[Notice], at_ms: int) -> None:
        """Add notices, in the transaction of what they tell; one that is there already stays as it is."""
        for notice in new:
            same = select(notices.c.id).where(
                notices.c.person == notice.person,
                notices.c.kind == notice.kind,
                notices.c.subject == notice.subject,
                notices.c.threshold == notice.threshold,
            )
            if connection.execute(same).first() is not None:
                continue
            connection.execute(
                insert(notices).values(
                    person=notice.person,
                    kind=notice.kind,
                    subject=notice.subject,
                    threshold=notice.threshold,
                    details=json.dumps(notice.details, sort_keys=True),
                    state=NoticeState.PENDING,
                    created_at_ms=at_ms,
                )
            )
