"""The world of a purge, in which allocations end and come back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import select

from allocations.db.schema import notices
from allocations.ids import random_id
from allocations.storage.ended_store import EndStore
from allocations.storage.measures import MeasureService
from allocations.storage.models import Owner, StorageClass
from allocations.storage.purge.models import ArchiveState, PurgeState
from allocations.storage.purge.store import ArchiveStore
from allocations.storage.quotas.backends import Found, Use
from allocations.storage.store import StorageStore
from tests.storage.purge.worlds import DAY, World

if TYPE_CHECKING:
    from allocations.storage.ended_store import End
    from allocations.storage.models import StoredArea
    from allocations.storage.purge.models import StoredArchive

DAY_MS = DAY * 1000
TERM_DAYS = 365
ARCHIVE_AFTER_DAYS = 90
KINDS = ("storage", "purge", "archive expires")


class EndedWorld(World):
    """Ann's scratch, given by an allocation of a term of a year."""

    def look(self) -> None:
        """What the worker does again and again."""
        services = self.bench.services
        services.lifecycle.advance()
        services.ends.look()
        services.purges.look()
        services.expiry.look()

    def days_pass(self, days: float, *, step: float = 1, works: bool = True) -> None:
        """Let days go by, looked at and worked on after each step."""
        left = days
        while left > 0:
            self.clock.pass_seconds(min(step, left) * DAY)
            left -= step
            self.look()
            if works:
                self.work()

    def term_ends(self) -> None:
        """Go to the end of the term, at once."""
        self.clock.pass_seconds(TERM_DAYS * DAY)
        self.look()

    def returns(self) -> None:
        """Ann accepts the agreement again, and has her allocation again for a year from now."""
        services = self.bench.services
        services.agreements.accept("ann", services.policy.agreement.version)
        self.look()

    def end(self) -> End | None:
        """What is noted of the end of the area."""
        with self.bench.services.database.read() as connection:
            return EndStore().get(connection, self.stored.id)

    def archives(self, *states: ArchiveState) -> list[StoredArchive]:
        """The archives of the area in some states, the newest first."""
        with self.bench.services.database.read() as connection:
            return ArchiveStore().of_areas(connection, [self.stored.id], states or (ArchiveState.KEPT,))

    def told(self, person: str = "ann") -> list[tuple[str, int | None]]:
        """What a person was told of storage, in order, each with the end that it tells."""
        with self.bench.services.database.read() as connection:
            rows = connection.execute(
                select(notices.c.kind, notices.c.details).where(notices.c.person == person).order_by(notices.c.id)
            ).all()
        found = [(row.kind, json.loads(row.details).get("ends_at_ms")) for row in rows]
        return [(kind, at_ms) for kind, at_ms in found if kind.startswith(KINDS)]

    def measure(self, used_bytes: int) -> None:
        """Note what the area takes now."""
        self.measures.record([self.fresh()], Found(of={self.stored.id: Use(used_bytes, 1)}), {})

    def fresh(self) -> StoredArea:
        """The area as it is noted now."""
        with self.bench.services.database.read() as connection:
            found = StorageStore().find(connection, self.stored.id)
        assert found is not None
        return found

    def last_state(self) -> PurgeState | None:
        """Where the last archive of the whole area is, None where there was none."""
        with self.bench.services.database.read() as connection:
            found = EndStore().archivings(connection, [self.stored.id]).get(self.stored.id, [])
        return found[0].state if found else None

    def go_on_to(self, state: PurgeState) -> None:
        """Work and let hours pass until the archive of the whole area is in a state."""
        for _ in range(ARCHIVE_AFTER_DAYS * 4 + 100):
            if self.last_state() is state:
                return
            if self.step() is None:
                self.clock.pass_seconds(DAY / 4)
                self.look()
        raise AssertionError(f"it never was {state}")

    @property
    def measures(self) -> MeasureService:
        services = self.bench.services
        return MeasureService(database=services.database, clock=self.clock, new_id=random_id, store=StorageStore())

    def open_home(self, person: str) -> StoredArea:
        """Give a person a home."""
        return self.measures.open(StorageClass.HOME, Owner(person=person), str(self.path / f"home-{person}"))
