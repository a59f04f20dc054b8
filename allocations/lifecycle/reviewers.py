"""Who reviews requests: the hub says so of each session, and the service remembers it to tell them what waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY

if TYPE_CHECKING:
    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.authority import Actor
    from allocations.lifecycle.stores.reviewers import ReviewerStore

# Whoever was not seen with the role for so long is told nothing more.
REMEMBERED_MS = 90 * MS_PER_DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewerService:
    """People with the role of a reviewer, as their sessions showed."""

    database: Database
    clock: Clock
    reviewers: ReviewerStore

    def saw(self, actor: Actor) -> None:
        """Remember whether a person is a reviewer now. It is written when that changes, or once a day."""
        with self.database.read() as connection:
            seen_at_ms = self.reviewers.seen_at_ms(connection, actor.name)
        now_ms = self.clock.now_ms()
        if actor.reviewer and (seen_at_ms is None or now_ms - seen_at_ms >= MS_PER_DAY):
            with self.database.write() as connection:
                self.reviewers.put(connection, actor.name, now_ms)
        elif seen_at_ms is not None and not actor.reviewer:
            with self.database.write() as connection:
                self.reviewers.remove(connection, actor.name)
