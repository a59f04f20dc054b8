"""Stores schedules and what became of their times; decides nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from allocations.db.schema import runs, schedule_times, schedules
from allocations.runs.models import ACTIVE_STATES, RunState
from allocations.runs.schedule_models import (
    MissedPolicy,
    OverlapPolicy,
    Schedule,
    ScheduleState,
    ScheduleTime,
    TimeOutcome,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row

# Older ones are forgotten; the runs themselves stay.
TIMES_KEPT = 500


def _schedule(row: Row[Any]) -> Schedule:
    fields = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
    for name, kind in (("missed", MissedPolicy), ("overlap", OverlapPolicy), ("state", ScheduleState)):
        fields[name] = kind(fields[name])
    return Schedule(**fields)


def _time(row: Row[Any]) -> ScheduleTime:
    fields = dict(row._mapping)  # noqa: SLF001  # as above
    fields["outcome"] = TimeOutcome(fields["outcome"])
    fields["run_state"] = RunState(fields["run_state"]) if fields["run_state"] else None
    return ScheduleTime(**fields)


_TIMES = select(schedule_times, runs.c.state.label("run_state")).outerjoin(runs, runs.c.id == schedule_times.c.run_id)


class ScheduleStore:
    """Schedules by id, by person and by what is due; their times."""

    def add(self, connection: Connection, schedule: Schedule) -> None:
        """Insert a schedule."""
        connection.execute(insert(schedules), asdict(schedule))

    def get(self, connection: Connection, schedule_id: str, *, lock: bool = False) -> Schedule | None:
        """Return a schedule, locked against other writers when asked, or None."""
        query = select(schedules).where(schedules.c.id == schedule_id)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        return _schedule(row) if row else None

    def change(self, connection: Connection, schedule_id: str, **values: object) -> None:
        """Set columns of a schedule."""
        connection.execute(update(schedules).where(schedules.c.id == schedule_id).values(**values))

    def remove(self, connection: Connection, schedule_id: str) -> None:
        """Remove a schedule and what became of its times; the runs stay."""
        connection.execute(delete(schedule_times).where(schedule_times.c.schedule_id == schedule_id))
        connection.execute(delete(schedules).where(schedules.c.id == schedule_id))

    def of_person(self, connection: Connection, person: str) -> list[Schedule]:
        """Return a person's schedules, newest first."""
        query = select(schedules).where(schedules.c.person == person)
        rows = connection.execute(query.order_by(schedules.c.created_at_ms.desc(), schedules.c.id))
        return [_schedule(row) for row in rows]

    def count_of(self, connection: Connection, person: str) -> int:
        """Return how many schedules a person has."""
        query = select(func.count()).select_from(schedules).where(schedules.c.person == person)
        return connection.execute(query).scalar_one()

    def due(self, connection: Connection, now_ms: int, limit: int) -> list[Schedule]:
        """Return the active schedules whose next time has come, the longest due first."""
        rows = connection.execute(
            select(schedules)
            .where(schedules.c.state == ScheduleState.ACTIVE, schedules.c.next_at_ms <= now_ms)
            .order_by(schedules.c.next_at_ms, schedules.c.id)
            .limit(limit)
        )
        return [_schedule(row) for row in rows]

    def pause_of(self, connection: Connection, person: str, reason: str) -> int:
        """Pause the active schedules of a person; return how many."""
        active = (schedules.c.person == person, schedules.c.state == ScheduleState.ACTIVE)
        paused = {"state": ScheduleState.PAUSED, "pause_reason": reason, "next_at_ms": None}
        return int(connection.execute(update(schedules).where(*active).values(paused)).rowcount)

    def people_with_active(self, connection: Connection, after: str, limit: int) -> list[str]:
        """Return who has an active schedule, by name, from after `after` on."""
        rows = connection.execute(
            select(schedules.c.person)
            .where(schedules.c.state == ScheduleState.ACTIVE, schedules.c.person > after)
            .distinct()
            .order_by(schedules.c.person)
            .limit(limit)
        )
        return [row.person for row in rows]

    def is_known(self, connection: Connection, schedule_id: str, planned_at_ms: int) -> bool:
        """Say whether a time was dealt with."""
        key = (schedule_times.c.schedule_id == schedule_id, schedule_times.c.planned_at_ms == planned_at_ms)
        return connection.execute(select(schedule_times.c.at_ms).where(*key)).first() is not None

    def note(self, connection: Connection, time: ScheduleTime) -> None:
        """Keep what became of a time, once: IntegrityError when that is known already. The oldest are forgotten."""
        values = asdict(time)
        values.pop("run_state")
        connection.execute(insert(schedule_times), values)
        of_schedule = schedule_times.c.schedule_id == time.schedule_id
        oldest = (
            select(schedule_times.c.planned_at_ms)
            .where(of_schedule)
            .order_by(schedule_times.c.planned_at_ms.desc())
            .offset(TIMES_KEPT)
            .limit(1)
            .scalar_subquery()
        )
        connection.execute(delete(schedule_times).where(of_schedule, schedule_times.c.planned_at_ms <= oldest))

    def times(self, connection: Connection, schedule_id: str, limit: int) -> list[ScheduleTime]:
        """Return what became of the last times of a schedule, newest first."""
        query = _TIMES.where(schedule_times.c.schedule_id == schedule_id)
        rows = connection.execute(query.order_by(schedule_times.c.planned_at_ms.desc()).limit(limit))
        return [_time(row) for row in rows]

    def last_times(self, connection: Connection, schedule_ids: Sequence[str]) -> dict[str, ScheduleTime]:
        """Return what became of the last time of each of some schedules that had one."""
        last = (
            select(schedule_times.c.schedule_id, func.max(schedule_times.c.planned_at_ms).label("planned_at_ms"))
            .where(schedule_times.c.schedule_id.in_(schedule_ids))
            .group_by(schedule_times.c.schedule_id)
            .subquery()
        )
        rows = connection.execute(
            _TIMES.join(
                last,
                (last.c.schedule_id == schedule_times.c.schedule_id)
                & (last.c.planned_at_ms == schedule_times.c.planned_at_ms),
            )
        )
        return {row.schedule_id: _time(row) for row in rows}

    def unended_runs(self, connection: Connection, schedule_id: str) -> list[str]:
        """Return the runs of a schedule that wait or go on, the one of the latest time first."""
        rows = connection.execute(
            select(runs.c.id)
            .join(schedule_times, schedule_times.c.run_id == runs.c.id)
            .where(schedule_times.c.schedule_id == schedule_id, runs.c.state.in_([RunState.QUEUED, *ACTIVE_STATES]))
            .order_by(schedule_times.c.planned_at_ms.desc())
        )
        return [row.id for row in rows]

    def of_run(self, connection: Connection, run_id: str) -> Schedule | None:
        """Return the schedule that submitted a run, None when a person did, or when the schedule is gone."""
        of_run = select(schedule_times.c.schedule_id).where(schedule_times.c.run_id == run_id)
        row = connection.execute(select(schedules).where(schedules.c.id.in_(of_run))).one_or_none()
        return _schedule(row) if row else None
