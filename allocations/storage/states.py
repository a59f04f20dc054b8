"""How areas stand to their limits: what admission looks at, and what people are told, once for each change.

What was told is kept nowhere but in the outbox, where a notice is added once: being over a limit is told apart by when
it began, nearing one by the first day of doing so without a break.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, SECONDS_PER_DAY, to_rfc3339
from allocations.leases.storage import AreaStanding, AreaStandings
from allocations.lifecycle.models import MANAGING_ROLES
from allocations.outbox import Notice, NoticeKind
from allocations.storage.models import BYTES_PER_GB, StorageClass, StorageState, Thresholds, state_of
from allocations.storage.owners import hard_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.notify.store import NoticeStore
    from allocations.outbox import Outbox
    from allocations.policy.models import Policy
    from allocations.storage.models import StoredArea
    from allocations.storage.owners import OwnerService
    from allocations.storage.store import StorageStore

# File systems refuse a little before the last byte, and measures are some minutes old.
FULL_PERCENT = 98
KINDS = {
    StorageState.NEARING: NoticeKind.STORAGE_NEARING,
    StorageState.OVER: NoticeKind.STORAGE_OVER,
    StorageState.LOCKED: NoticeKind.STORAGE_LOCKED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StateService:
    """Compares what areas take with what the policy gives their owners."""

    database: Database
    clock: Clock
    policy: Policy
    allocations: AllocationStore
    store: StorageStore
    owners: OwnerService
    notices: NoticeStore
    outbox: Outbox

    def standings(
        self, connection: Connection, people: Iterable[str], allocations: Iterable[str], now_ms: int
    ) -> AreaStandings:
        """Return how the homes of people and the areas of allocations stand, as last measured, to the limits of now."""
        areas = self.store.measured_of(connection, people, allocations)
        limits = self._limits(connection, areas) if areas else {}
        homes: dict[str, AreaStanding] = {}
        of_allocations: dict[str, list[AreaStanding]] = {}
        for area in areas:
            limit = limits[area.id]
            if limit is None:
                continue
            standing = self._standing(area, limit, now_ms)
            if area.owner.allocation_id is not None:
                of_allocations.setdefault(area.owner.allocation_id, []).append(standing)
            elif area.owner.person is not None:
                homes[area.owner.person] = standing
        return AreaStandings(homes, of_allocations)

    def tell(self, storage_class: StorageClass) -> int:
        """Queue what the owners of a class's areas are to be told after a measure; return how many notices are new.

        To be called after `MeasureService.record`. It may be broken off, and be done by several at once. Nothing is
        told of what gets better.
        """
        with self.database.read() as connection:
            now_ms = self.clock.now_ms()
            areas = [area for area in self.store.areas(connection, storage_class) if area.bytes is not None]
            limits = self._limits(connection, areas)
            told = [
                notice
                for area in areas
                if (limit := limits[area.id]) is not None
                for notice in self._notices(connection, area, limit, now_ms)
            ]
            news = self._news(connection, told)
        if news:
            with self.database.write() as connection:
                # Measured again meanwhile: what holds no more is seen when the mail is written.
                self.outbox.queue(connection, news, now_ms)
        return len(news)

    # ------------------------------------------------------------------ inside

    @property
    def _hard_percent(self) -> int:
        return self.policy.storage.thresholds.hard_percent

    @property
    def _thresholds(self) -> Thresholds:
        of_policy = self.policy.storage.thresholds
        return Thresholds(of_policy.nearing_percent, of_policy.locked_after_days)

    def _limits(self, connection: Connection, areas: Iterable[StoredArea]) -> dict[str, int | None]:
        found = list(areas)
        people = {area.owner.person for area in found if area.owner.person is not None}
        owners = {area.owner.allocation_id for area in found if area.owner.allocation_id is not None}
        of_people = self.allocations.of_people(connection, people) if people else {}
        nodes = self.allocations.with_ancestors(connection, owners) if owners else {}
        return {
            area.id: self.owners.given_bytes(
                area.storage_class,
                of_people.get(area.owner.person, [])
                if area.owner.person is not None
                else [node for id_, node in nodes.items() if id_ == area.owner.allocation_id],
            )
            for area in found
        }

    def _standing(self, area: StoredArea, limit_bytes: int, now_ms: int) -> AreaStanding:
        used = area.bytes or 0
        state = state_of(used, limit_bytes, area.over_since_ms, now_ms, self._thresholds)
        # As in force on the file system, else where it would be.
        full_at = area.limit_bytes or hard_limit(limit_bytes, self._hard_percent) or limit_bytes
        return AreaStanding(
            storage=area.storage_class,
            state=state,
            is_locked=state is StorageState.LOCKED,
            is_full=used * 100 >= full_at * FULL_PERCENT,
            used_bytes=used,
            limit_bytes=limit_bytes,
            locks_at_ms=self._locks_at_ms(area, now_ms) if state is StorageState.OVER else None,
        )

    def _locks_at_ms(self, area: StoredArea, now_ms: int) -> int:
        since_ms = now_ms if area.over_since_ms is None else area.over_since_ms
        return since_ms + self._thresholds.locked_after_days * MS_PER_DAY

    def _notices(self, connection: Connection, area: StoredArea, limit_bytes: int, now_ms: int) -> list[Notice]:
        used = area.bytes or 0
        state = state_of(used, limit_bytes, area.over_since_ms, now_ms, self._thresholds)
        if state not in KINDS or (state is not StorageState.NEARING and area.over_since_ms is None):
            # Over a limit that was lowered since the measure: the next one notes since when.
            return []
        details: dict[str, str | int] = {"used": to_gb(used), "limit": to_gb(limit_bytes), "storage": "Your home"}
        if state is StorageState.NEARING:
            at_least = -(-limit_bytes * self._thresholds.nearing_percent // 100)
            details["at_least_bytes"] = at_least
            threshold = self._near_since(connection, area, at_least, now_ms)
        else:
            threshold = to_rfc3339(area.over_since_ms or 0)
            details["ends_at_ms"] = self._locks_at_ms(area, now_ms)
        people = [area.owner.person] if area.owner.person is not None else []
        if area.owner.allocation_id is not None:
            allocation = self.allocations.get(connection, area.owner.allocation_id)
            details["storage"] = f"The {area.storage_class} storage of “{allocation.name if allocation else ''}”"
            # What is over its limit stops everybody's work there; what only nears it is for those who divide it.
            people = [
                member.person
                for member in self.allocations.members(connection, [area.owner.allocation_id])
                if state is not StorageState.NEARING or member.role in MANAGING_ROLES
            ]
        return [Notice(person, KINDS[state], area.id, threshold, details) for person in people]

    def _near_since(self, connection: Connection, area: StoredArea, at_least_bytes: int, now_ms: int) -> str:
        """Return the first of the days without a break on which the area took that much: 2027-01-15."""
        before = self.store.last_day_below(connection, area.id, at_least_bytes)
        if before is None:
            return ""
        day = min(before + 1, now_ms // MS_PER_DAY)
        return datetime.fromtimestamp(day * SECONDS_PER_DAY, tz=UTC).date().isoformat()

    def _news(self, connection: Connection, told: Sequence[Notice]) -> list[Notice]:
        known = {
            (kind, *one)
            for kind in KINDS.values()
            for one in self.notices.existing(
                connection, kind, sorted({notice.subject for notice in told if notice.kind is kind})
            )
        }
        return [one for one in told if (one.kind, one.person, one.subject, one.threshold) not in known]


def to_gb(count_bytes: int) -> str:
    """Return bytes as people read them: in GB of 10^9 bytes, rounded up so that what is over a limit reads so."""
    tenths = -(-count_bytes * 10 // BYTES_PER_GB)
    return f"{tenths // 10:,}.{tenths % 10} GB" if tenths % 10 else f"{tenths // 10:,} GB"
