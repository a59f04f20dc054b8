"""The outbox: what people are told, written in the transaction of what happened and delivered later by the worker."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy.dialects import postgresql, sqlite

from allocations.db.schema import notices
from allocations.policy.notices import NoticeKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection

__all__ = ["Notice", "NoticeKind", "NoticeState", "Outbox"]


class NoticeState(StrEnum):
    """Pending, or what became of it: sent; skipped when it was no longer true at its time; unmailed by choice."""

    PENDING = "pending"
    SENT = "sent"
    SKIPPED = "skipped"
    UNMAILED = "unmailed"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that one person is told once: `kind`, `subject` (an id) and `threshold` tell notices apart.

    `subject` is the id of an allocation, an invitation, a request, an override, a lease or an area of storage.
    `threshold` is the end and the days before it for reminders, otherwise what makes a repetition a new notice (such as
    the time of the event).
    The text's placeholders are filled from `details` (`name`, `ends_at_ms`, `why` and others that `notify/texts.py`
    lists), and from what the subject's row says where they are silent.
    """

    person: str
    kind: NoticeKind
    subject: str
    threshold: str = ""
    details: Mapping[str, str | int] = field(default_factory=dict)


class Outbox:
    """Where services leave notices."""

    def queue(
        self,
        connection: Connection,
        new: Iterable[Notice],
        at_ms: int,
        state: NoticeState = NoticeState.PENDING,
    ) -> None:
        """Add notices, in the transaction of what they tell; one that is there already stays as it is.

        Two that write the same notice at once: the second waits for the first and then adds nothing. They write in one
        order, so that none waits for the other in a circle.
        """
        values = [
            {
                "person": notice.person,
                "kind": notice.kind,
                "subject": notice.subject,
                "threshold": notice.threshold,
                "details": json.dumps(dict(notice.details), sort_keys=True),
                "state": state,
                "created_at_ms": at_ms,
            }
            for notice in sorted(new, key=lambda notice: (notice.person, notice.kind, notice.subject, notice.threshold))
        ]
        if not values:
            return
        if connection.dialect.name == "sqlite":
            connection.execute(sqlite.insert(notices).on_conflict_do_nothing(), values)
        else:
            connection.execute(postgresql.insert(notices).on_conflict_do_nothing(), values)
