"""What a person was told, for their page and the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import to_rfc3339
from allocations.errors import NotFoundError
from allocations.notify.models import NoticeList, NoticeView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.notify.models import StoredNotice
    from allocations.notify.preferences import PreferenceService
    from allocations.notify.store import NoticeStore
    from allocations.notify.texts import TextService

PAGE = 50
CURSOR_PATTERN = r"^(unread|read)-[0-9]{1,18}$"


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxService:
    """The notices of one person, without those that were no longer true when they were to be told."""

    database: Database
    clock: Clock
    notices: NoticeStore
    texts: TextService
    preferences: PreferenceService

    def inbox(self, person: str, before: str | None = None, limit: int = PAGE) -> NoticeList:
        """Return a page of a person's notices; `before` is another page's `next_before`, of CURSOR_PATTERN."""
        part, _, number = (before or "").partition("-")
        with self.database.read() as connection:
            hidden = self.preferences.hidden(connection, person)
            found: list[StoredNotice] = []
            if part != "read":
                before_id = int(number) if number else None
                found += self.notices.inbox(connection, person, before_id, limit + 1, unread=True, hidden=hidden)
            if len(found) <= limit:
                before_id = int(number) if part == "read" else None
                rest = limit + 1 - len(found)
                found += self.notices.inbox(connection, person, before_id, rest, unread=False, hidden=hidden)
            shown = found[:limit]
            return NoticeList(
                notices=self._views(connection, shown),
                unread=self.notices.count_unread(connection, person, hidden),
                next_before=_cursor(shown[-1]) if len(found) > limit else None,
            )

    def unread(self, person: str) -> int:
        """Return how many notices a person has not read."""
        with self.database.read() as connection:
            return self.notices.count_unread(connection, person, self.preferences.hidden(connection, person))

    def mark_read(self, person: str, notice_id: int) -> NoticeView:
        """Keep when a person first read a notice of theirs; NotFoundError when they have none of that id."""
        with self.database.write() as connection:
            self.notices.mark_read(connection, person, self.clock.now_ms(), notice_id)
            notice = self.notices.notice(connection, person, notice_id)
            if notice is None:
                raise NotFoundError(f"You have no notice {notice_id}.", "Choose one from the list of your notices.")
            return self._views(connection, [notice])[0]

    def mark_all_read(self, person: str, up_to_id: int) -> None:
        """Keep that a person read their notices up to an id: what came since they looked stays unread."""
        with self.database.write() as connection:
            self.notices.mark_read(connection, person, self.clock.now_ms(), 0, up_to_id)

    # ------------------------------------------------------------------ inside

    def _views(self, connection: Connection, notices: Sequence[StoredNotice]) -> list[NoticeView]:
        """Return notices, each in the words of its day."""
        return [
            NoticeView(
                id=notice.id,
                kind=notice.kind,
                subject=notice.subject,
                title=words.title,
                text=words.text,
                created_at=to_rfc3339(notice.created_at_ms),
                read_at=None if notice.read_at_ms is None else to_rfc3339(notice.read_at_ms),
            )
            for notice, words in zip(notices, self.texts.words(connection, notices), strict=True)
        ]


def _cursor(last: StoredNotice) -> str:
    return f"{'unread' if last.read_at_ms is None else 'read'}-{last.id}"
