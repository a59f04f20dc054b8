"""Reminds leads and managers of the end of their allocations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY
from allocations.lifecycle.models import MANAGING_ROLES, USABLE_STATES, Allocation
from allocations.notify.texts import to_date
from allocations.outbox import Notice, NoticeKind, NoticeState

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.notify.store import NoticeStore
    from allocations.outbox import Outbox
    from allocations.policy.models import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class ReminderService:
    """Finds the allocations whose end has come within a threshold of their tier."""

    database: Database
    clock: Clock
    policy: Policy
    allocations: AllocationStore
    notices: NoticeStore
    outbox: Outbox

    def remind(self) -> int:
        """Queue the reminders that are due, each once; return for how many allocations there were any.

        Of several thresholds that were passed since the last look, only the one nearest to the end is told.
        """
        with self.database.read() as connection:
            now_ms = self.clock.now_ms()
            due = [seen for seen in self.allocations.all(connection) if self._passed(seen, now_ms)]
            told = self.notices.existing(connection, NoticeKind.ENDS_SOON, [seen.id for seen in due])
            news = [seen.id for seen in due if self._reminders(connection, seen, now_ms, told)]
        for allocation_id in news:
            with self.database.write() as connection:
                self._queue(connection, allocation_id)
        return len(news)

    # ------------------------------------------------------------------ inside

    def _queue(self, connection: Connection, allocation_id: str) -> None:
        """Queue an allocation's reminders from what it is now: it may have been renewed or closed since the look.

        A change after this is seen when the mail is written. Another worker that does the same adds nothing.
        """
        now_ms = self.clock.now_ms()
        allocation = self.allocations.get(connection, allocation_id)
        if allocation is None:
            return
        told = self.notices.existing(connection, NoticeKind.ENDS_SOON, [allocation_id])
        nearest = min(self._passed(allocation, now_ms), default=0)
        reminders = self._reminders(connection, allocation, now_ms, told)
        current = [reminder for reminder, days in reminders if days == nearest]
        missed = [reminder for reminder, days in reminders if days != nearest]
        self.outbox.queue(connection, current, now_ms)
        self.outbox.queue(connection, missed, now_ms, NoticeState.SKIPPED)

    def _passed(self, allocation: Allocation, now_ms: int) -> list[int]:
        """Return the thresholds (days) that lie behind, of those that fell into the term; none when renewed."""
        if allocation.state not in USABLE_STATES or allocation.renewal is not None or allocation.ends_at_ms <= now_ms:
            return []
        return [
            days
            for days in self.policy.tier(allocation.tier).reminders_days
            if allocation.starts_at_ms < allocation.ends_at_ms - days * MS_PER_DAY <= now_ms
        ]

    def _reminders(
        self, connection: Connection, allocation: Allocation, now_ms: int, told: set[tuple[str, str, str]]
    ) -> list[tuple[Notice, int]]:
        """Return the reminders of passed thresholds that are not in the outbox yet, each with its days."""
        managing = [
            member.person
            for member in self.allocations.members(connection, [allocation.id])
            if member.role in MANAGING_ROLES
        ]
        candidates = [
            (
                Notice(
                    person,
                    NoticeKind.ENDS_SOON,
                    allocation.id,
                    threshold(allocation.ends_at_ms, days),
                    {"name": allocation.name, "ends_at_ms": allocation.ends_at_ms},
                ),
                days,
            )
            for person in managing
            for days in self._passed(allocation, now_ms)
        ]
        return [
            (notice, days)
            for notice, days in candidates
            if (notice.person, notice.subject, notice.threshold) not in told
        ]


def threshold(ends_at_ms: int, days: int) -> str:
    """Return what tells reminders apart, such as 2027-01-31/30: the next term's end makes new ones."""
    return f"{to_date(ends_at_ms)}/{days}"
