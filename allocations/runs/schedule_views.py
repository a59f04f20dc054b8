"""Shows schedules: their times in words, in their own zone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import to_rfc3339
from allocations.errors import InvalidInputError
from allocations.runs.cron import in_words, require_cron
from allocations.runs.models import RunSource
from allocations.runs.schedule_models import (
    PlannedView,
    PreviewView,
    ScheduleDetail,
    ScheduleState,
    ScheduleView,
    TimeView,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.runs.cron import Cron, Planned
    from allocations.runs.schedule_models import Schedule, ScheduleTime
    from allocations.runs.schedule_store import ScheduleStore

COMING = 5
TIMES_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleViewBuilder:
    """Schedules as people see them."""

    clock: Clock
    allocations: AllocationStore
    schedules: ScheduleStore

    def views(self, connection: Connection, schedules: Sequence[Schedule]) -> list[ScheduleView]:
        """Show schedules with what became of their last times."""
        last = self.schedules.last_times(connection, [schedule.id for schedule in schedules])
        return [self._view(connection, schedule, last.get(schedule.id)) for schedule in schedules]

    def detail(self, connection: Connection, schedule: Schedule) -> ScheduleDetail:
        """Show a schedule with its next times, of one that is paused as if it were not, and its last ones."""
        times = self.schedules.times(connection, schedule.id, TIMES_SHOWN)
        view = self._view(connection, schedule, times[0] if times else None)
        cron = _cron_of(schedule)
        return ScheduleDetail(
            **view.model_dump(),
            coming=[] if cron is None else [to_view(cron, one) for one in cron.coming(self._from_ms(schedule), COMING)],
            times=[_time_view(cron, time) for time in times],
        )

    def preview(self, cron: Cron) -> PreviewView:
        """Show the next times of an expression."""
        coming = [to_view(cron, one) for one in cron.coming(self.clock.now_ms(), COMING)]
        return PreviewView(cron=cron.expression, zone=cron.zone.key, words=cron.words, coming=coming)

    def _from_ms(self, schedule: Schedule) -> int:
        """Return the moment after which a schedule's times come: one that is due at this moment is among them."""
        return self.clock.now_ms() if schedule.next_at_ms is None else schedule.next_at_ms - 1

    def _view(self, connection: Connection, schedule: Schedule, last: ScheduleTime | None) -> ScheduleView:
        cron = _cron_of(schedule)
        allocation = self.allocations.get(connection, schedule.allocation_id)
        coming = None
        if cron is not None and schedule.state is ScheduleState.ACTIVE:
            coming = next(iter(cron.coming(self._from_ms(schedule), 1)), None)
        return ScheduleView(
            id=schedule.id,
            title=schedule.title,
            allocation=schedule.allocation_id,
            allocation_name=allocation.name if allocation else "",
            name=schedule.notebook_name,
            size=schedule.size,
            image=schedule.image,
            parameters=json.loads(schedule.parameters),
            max_seconds=schedule.max_seconds,
            cron=schedule.cron,
            zone=schedule.zone,
            words=schedule.cron if cron is None else cron.words,
            missed=schedule.missed,
            overlap=schedule.overlap,
            state=schedule.state,
            pause_reason=schedule.pause_reason,
            refusals=schedule.refusals,
            next=None if cron is None or coming is None else to_view(cron, coming),
            last=None if last is None else _time_view(cron, last),
            created_at=to_rfc3339(schedule.created_at_ms),
            retries=schedule.retries,
            source=RunSource.model_validate_json(schedule.source) if schedule.source else None,
            environment=json.loads(schedule.environment or "[]"),
            output=schedule.output,
        )


def to_view(cron: Cron, planned: Planned) -> PlannedView:
    """Show a planned time in UTC and in the zone of its expression."""
    return PlannedView(at=to_rfc3339(planned.at_ms), shown=in_words(planned.at_ms, cron.zone), note=planned.note)


def _time_view(cron: Cron | None, time: ScheduleTime) -> TimeView:
    at = to_rfc3339(time.planned_at_ms)
    return TimeView(
        planned_at=at,
        shown=at if cron is None else in_words(time.planned_at_ms, cron.zone),
        outcome=time.outcome,
        run=time.run_id,
        run_state=time.run_state,
        detail=time.detail,
    )


def _cron_of(schedule: Schedule) -> Cron | None:
    """Return the expression of a schedule; None where the platform does not know its zone any more."""
    try:
        return require_cron(schedule.cron, schedule.zone)
    except InvalidInputError:
        return None
