"""What a person was told, for their page and the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import NotFoundError
from allocations.notify.models import PERISHABLE, InboxItem

if TYPE_CHECKING:
    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.notify.store import NoticeStore
    from allocations.notify.texts import TextService

PAGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxService:
    """The notices of one person."""

    database: Database
    clock: Clock
    notices: NoticeStore
    texts: TextService

    def inbox(self, person: str, before_id: int | None = None, limit: int = PAGE) -> list[InboxItem]:
        """Return a person's notices, newest first, from below an id on; without those that were no longer true."""
        with self.database.read() as connection:
            items = []
            for notice in self.notices.inbox(connection, person, PERISHABLE, before_id, limit):
                words = self.texts.words(connection, notice, notice.created_at_ms)
                items.append(
                    InboxItem(
                        id=notice.id,
                        kind=notice.kind,
                        subject=notice.subject,
                        title=words.title,
                        text=words.text,
                        created_at_ms=notice.created_at_ms,
                        read_at_ms=notice.read_at_ms,
                    )
                )
            return items

    def mark_read(self, person: str, notice_id: int) -> None:
        """Keep that a person has read a notice; NotFoundError when they have none of that id."""
        with self.database.write() as connection:
            if not self.notices.mark_read(connection, person, notice_id, self.clock.now_ms()):
                raise NotFoundError(f"You have no notice {notice_id}.", "Choose one from the list of your notices.")
