"""Notices and mails as they are stored, and as people see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.leases.views import View
from allocations.policy.notices import Delivery, NoticeKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allocations.outbox import NoticeState

# Kinds with an end of their own, after which there is nothing left in them to know.
PERISHABLE = frozenset(
    {
        NoticeKind.ENDS_SOON,
        NoticeKind.INVITED,
        NoticeKind.REQUEST_WAITS,
        NoticeKind.SERVER_STOPS,
        NoticeKind.PURGE_PLANNED,
        NoticeKind.PURGE_REMINDER,
    }
)


@dataclass(frozen=True, slots=True)
class StoredNotice:
    """A notice of the outbox."""

    id: int
    person: str
    kind: NoticeKind
    subject: str
    threshold: str
    details: Mapping[str, str | int]
    state: NoticeState
    created_at_ms: int
    read_at_ms: int | None
    mail_id: str | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """That notices of a kind wait for a person: what they chose for it, and whether they were mailed of late."""

    person: str
    kind: NoticeKind
    chosen: Delivery | None
    was_mailed: bool


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one person; `attempts` counts the tries to send it that were begun."""

    id: str
    person: str
    subject: str
    body: str
    created_at_ms: int
    next_try_at_ms: int
    sent_at_ms: int | None = None
    attempts: int = 0
    last_error: str | None = None


class NoticeView(View):
    """Something that a person was told; `subject` is the id of what it is about."""

    id: int
    kind: NoticeKind
    subject: str
    title: str
    text: str
    created_at: str
    read_at: str | None


class NoticeList(View):
    """A person's notices, the unread first, each part newest first; `next_before` continues, None at the end."""

    notices: list[NoticeView]
    unread: int
    next_before: str | None
