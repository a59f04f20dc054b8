"""Stores the queue of runs: what waits, and what runs beside it; decides nothing.

However many wait, they are not read: of the single runs the oldest of each kind, of each sweep its first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, func, literal_column, select, update

from allocations.db.schema import allocations, runs
from allocations.runs.chains import sweep_waits, waits
from allocations.runs.models import ACTIVE_STATES, Run
from allocations.runs.store import to_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Connection

# What a run's admission depends on: runs of a kind are admitted or refused alike.
_KIND = (runs.c.allocation_id, runs.c.person, runs.c.size, runs.c.image, runs.c.max_seconds)
# Spelt out, as the partial index of the queue is.
_IS_QUEUED: ColumnElement[str] = literal_column("'queued'")
# What waits for other runs has no place in the queue yet.
_QUEUED = and_(runs.c.state == _IS_QUEUED, ~waits())
# The sweeps of which something waits, one after the other along the index, however many runs wait of each.
_OTHER, _FIRST = runs.alias("other").c, runs.alias("first").c
_SWEEPS = (
    select(func.min(runs.c.sweep_id).label("id"))
    .where(runs.c.state == _IS_QUEUED, runs.c.sweep_id.is_not(None))
    .cte("waiting_sweeps", recursive=True)
)
_NEXT_SWEEP = (
    select(func.min(_OTHER.sweep_id))
    .where(_OTHER.state == _IS_QUEUED, _OTHER.sweep_id > _SWEEPS.c.id)
    .scalar_subquery()
)
_ALL_SWEEPS = _SWEEPS.union_all(select(_NEXT_SWEEP).where(_SWEEPS.c.id.is_not(None)))
_FIRST_OF_SWEEP = (
    select(_FIRST.id)
    .where(_FIRST.state == _IS_QUEUED, _FIRST.sweep_id == _ALL_SWEEPS.c.id)
    .order_by(_FIRST.submitted_at_ms, _FIRST.sweep_row)
    .limit(1)
    .scalar_subquery()
)
_FIRSTS_OF_SWEEPS = select(_FIRST_OF_SWEEP).select_from(_ALL_SWEEPS).where(_ALL_SWEEPS.c.id.is_not(None))


def _of_kind(run: Run) -> ColumnElement[bool]:
    """Choose the runs that wait as this one does: of its sweep, or single ones of its kind."""
    same = (column == getattr(run, column.name) for column in _KIND)
    return and_(_QUEUED, runs.c.sweep_id == run.sweep_id, *same)


class RunQueueStore:
    """The queue, by its heads: the first runs of each kind and of each sweep."""

    def heads(self, connection: Connection, limit: int) -> list[Run]:
        """Return the oldest queued run of each kind of single runs, up to `limit` kinds, and the first of each sweep.

        However many runs of a kind wait, they do not hide those of other kinds.
        """
        place = func.row_number().over(partition_by=_KIND, order_by=(runs.c.submitted_at_ms, runs.c.id))
        ranked = select(runs.c.id, place.label("place")).where(_QUEUED, runs.c.sweep_id.is_(None)).subquery()
        singles = (
            select(runs)
            .where(runs.c.id.in_(select(ranked.c.id).where(ranked.c.place == 1)))
            .order_by(runs.c.submitted_at_ms)
            .limit(limit)
        )
        firsts = list(connection.execute(_FIRSTS_OF_SWEEPS).scalars())
        of_sweeps = select(runs).where(runs.c.id.in_(firsts), ~sweep_waits(runs.c.sweep_id))
        found = [*connection.execute(singles), *connection.execute(of_sweeps)]
        return [to_run(row) for row in found]

    def first(self, connection: Connection, head: Run, *, lock: bool = False) -> Run | None:
        """Return the oldest queued run of a head's kind; when locked, those that others have locked are passed over."""
        order = runs.c.id if head.sweep_id is None else runs.c.sweep_row
        query = select(runs).where(_of_kind(head)).order_by(runs.c.submitted_at_ms, order).limit(1)
        row = connection.execute(query.with_for_update(skip_locked=True) if lock else query).one_or_none()
        return to_run(row) if row else None

    def explain_waiting(self, connection: Connection, run: Run, reason: str) -> None:
        """Say of the queued runs of a run's kind why they wait; those locked by others are told another time."""
        of_kind = (
            select(runs.c.id)
            .where(_of_kind(run), runs.c.waiting_reason.is_distinct_from(reason))
            .with_for_update(skip_locked=True)
        )
        connection.execute(update(runs).where(runs.c.id.in_(of_kind)).values(waiting_reason=reason))

    def refuse(self, connection: Connection, run: Run, **values: object) -> int:
        """Set columns of all queued runs of a run's kind, but those locked by others; return of how many."""
        of_kind = select(runs.c.id).where(_of_kind(run)).with_for_update(skip_locked=True)
        return connection.execute(update(runs).where(runs.c.id.in_(of_kind)).values(**values)).rowcount

    def active(self, connection: Connection) -> dict[tuple[str, str], int]:
        """Count the active runs of each person on each allocation."""
        rows = connection.execute(
            select(runs.c.allocation_id, runs.c.person, func.count())
            .where(runs.c.state.in_(ACTIVE_STATES))
            .group_by(runs.c.allocation_id, runs.c.person)
        )
        return {(row[0], row[1]): int(row[2]) for row in rows}

    def roots(self, connection: Connection, allocation_ids: Iterable[str]) -> dict[str, str]:
        """Return the root of each allocation's tree."""
        query = select(allocations.c.id, allocations.c.root_id).where(allocations.c.id.in_(set(allocation_ids)))
        return {row.id: row.root_id for row in connection.execute(query)}

    def taken_by_sweeps(self, connection: Connection) -> dict[tuple[str, str], tuple[int, int]]:
        """Return the (cores, GPUs) that active runs of sweeps take, by tree and person."""
        rows = connection.execute(
            select(allocations.c.root_id, runs.c.person, func.sum(runs.c.cores), func.sum(runs.c.gpus))
            .join(allocations, allocations.c.id == runs.c.allocation_id)
            .where(runs.c.state.in_(ACTIVE_STATES), runs.c.sweep_id.is_not(None))
            .group_by(allocations.c.root_id, runs.c.person)
        )
        return {(row[0], row[1]): (int(row[2]), int(row[3])) for row in rows}

    def active_of(self, connection: Connection, sweep_id: str) -> int:
        """Count the active runs of a sweep."""
        query = select(func.count()).where(runs.c.sweep_id == sweep_id, runs.c.state.in_(ACTIVE_STATES))
        return int(connection.execute(query).scalar_one())
