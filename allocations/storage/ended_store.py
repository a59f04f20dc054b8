"""Stores which areas have ended, and finds what became of their archives; decides nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from allocations.db.schema import purge_runs, purges, storage_ends
from allocations.storage.purge.models import PurgeState, RunKind

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from allocations.storage.models import StorageClass


@dataclass(frozen=True, slots=True)
class End:
    """That no allocation that goes on gives an area to its owner any more.

    `ended_at_ms`: since when; `seen_at_ms`: since when we know and owners were told; `archive_at_ms`: from when on the
    whole of it is archived and removed, as they were told; `limit_bytes`: what it may take meanwhile (None: it was not
    measured yet); `reminded_days`: how many days ahead the last reminder was to be that was sent.
    """

    area_id: str
    ended_at_ms: int
    seen_at_ms: int
    archive_at_ms: int
    limit_bytes: int | None = None
    reminded_days: int | None = None


@dataclass(frozen=True, slots=True)
class Archiving:
    """The last time that the whole of an area was, or is, being archived: see `Purge`."""

    area_id: str
    purge_id: str
    state: PurgeState
    left_files: int
    changed_at_ms: int
    begun_at_ms: int


class EndStore:
    """Ends of areas."""

    def add(self, connection: Connection, end: End) -> None:
        """Insert one; IntegrityError where the area has one."""
        connection.execute(insert(storage_ends).values(asdict(end)))

    def get(self, connection: Connection, area_id: str) -> End | None:
        """Return that of an area, or None."""
        row = connection.execute(select(storage_ends).where(storage_ends.c.area_id == area_id)).one_or_none()
        return End(*row) if row else None

    def lock(self, connection: Connection, area_id: str) -> End | None:
        """Return that of an area, which nobody else changes until the transaction ends, or None."""
        row = connection.execute(
            select(storage_ends).where(storage_ends.c.area_id == area_id).with_for_update()
        ).one_or_none()
        return End(*row) if row else None

    def all(self, connection: Connection) -> dict[str, End]:
        """Return every one, by the areas' ids."""
        rows = connection.execute(select(storage_ends).order_by(storage_ends.c.archive_at_ms, storage_ends.c.area_id))
        return {row.area_id: End(*row) for row in rows}

    def change(self, connection: Connection, area_id: str, **values: Any) -> None:
        """Set columns of one."""
        connection.execute(update(storage_ends).where(storage_ends.c.area_id == area_id).values(**values))

    def remove(self, connection: Connection, area_id: str) -> None:
        """Delete one: the area is given to its owner again."""
        connection.execute(delete(storage_ends).where(storage_ends.c.area_id == area_id))

    def archivings(self, connection: Connection, area_ids: Collection[str]) -> dict[str, list[Archiving]]:
        """Return how the whole of some areas was archived, by their ids, the last one first."""
        rows = connection.execute(
            select(
                purges.c.area_id,
                purges.c.id,
                purges.c.state,
                purges.c.left_files,
                purges.c.changed_at_ms,
                purge_runs.c.created_at_ms,
            )
            .join(purge_runs, purge_runs.c.id == purges.c.run_id)
            .where(purges.c.area_id.in_(list(area_ids)), purge_runs.c.kind == RunKind.ENDED, ~purges.c.dry_run)
            .order_by(purge_runs.c.created_at_ms.desc(), purges.c.id.desc())
        )
        found: dict[str, list[Archiving]] = {}
        for row in rows:
            archiving = Archiving(row[0], row[1], PurgeState(row[2]), row[3], row[4], row[5])
            found.setdefault(row.area_id, []).append(archiving)
        return found

    def runs_since(self, connection: Connection, storage_class: StorageClass, since_ms: int) -> int:
        """Return how many runs over areas of a class that ended were begun since a moment."""
        counted = select(func.count()).where(
            purge_runs.c.kind == RunKind.ENDED,
            purge_runs.c.storage_class == storage_class,
            purge_runs.c.created_at_ms >= since_ms,
        )
        return int(connection.execute(counted).scalar_one())
