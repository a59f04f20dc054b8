"""Stores how old leads let files of scratch become; decides nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, or_, select, update

from allocations.db.schema import scratch_leases

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class ScratchLease:
    """That files of an area may become `age_days` old until a moment, which may have been put forward since."""

    id: str
    area_id: str
    age_days: int
    until_ms: int
    reason: str
    made_by: str
    made_at_ms: int
    ended_by: str | None = None
    ended_at_ms: int | None = None


class ScratchLeaseStore:
    """Leases of scratch; of those of an area, the one that was made last counts."""

    def add(self, connection: Connection, lease: ScratchLease) -> None:
        """Insert one."""
        connection.execute(insert(scratch_leases).values(asdict(lease)))

    def of_area(self, connection: Connection, area_id: str) -> list[ScratchLease]:
        """Return those of an area, the one made last first."""
        rows = connection.execute(
            select(scratch_leases)
            .where(scratch_leases.c.area_id == area_id)
            .order_by(scratch_leases.c.made_at_ms.desc(), scratch_leases.c.id.desc())
        )
        return [ScratchLease(*row) for row in rows]

    def in_force(self, connection: Connection, area_id: str, at_ms: int) -> ScratchLease | None:
        """Return that of an area which counts at a moment, None where none does."""
        row = connection.execute(
            select(scratch_leases)
            .where(
                scratch_leases.c.area_id == area_id,
                scratch_leases.c.ended_at_ms.is_(None),
                scratch_leases.c.until_ms > at_ms,
            )
            .order_by(scratch_leases.c.made_at_ms.desc(), scratch_leases.c.id.desc())
            .limit(1)
        ).one_or_none()
        return ScratchLease(*row) if row else None

    def longest(self, connection: Connection, area_id: str, at_ms: int) -> int | None:
        """Return the greatest age in days that those of an area gave which counted at a moment that is over, or None.

        Of several that were in force at once the last counts, but they are ended when another is made.
        """
        leases = scratch_leases.c
        found: int | None = connection.execute(
            select(func.max(leases.age_days)).where(
                leases.area_id == area_id,
                leases.made_at_ms <= at_ms,
                leases.until_ms > at_ms,
                or_(leases.ended_at_ms.is_(None), leases.ended_at_ms > at_ms),
            )
        ).scalar_one()
        return found

    def end(self, connection: Connection, area_id: str, ended_by: str, at_ms: int) -> int:
        """End all that are in force of an area; return how many that were."""
        return connection.execute(
            update(scratch_leases)
            .where(
                scratch_leases.c.area_id == area_id,
                scratch_leases.c.ended_at_ms.is_(None),
                scratch_leases.c.until_ms > at_ms,
            )
            .values(ended_by=ended_by, ended_at_ms=at_ms)
        ).rowcount
