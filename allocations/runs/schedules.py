"""People's schedules: made, changed, paused, resumed, removed and looked at. The worker submits their runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from allocations.db.idempotency import answered_once
from allocations.errors import InvalidInputError, NotFoundError, TransitionError
from allocations.runs.cron import require_cron
from allocations.runs.files import INPUT
from allocations.runs.models import RunSource
from allocations.runs.schedule_models import Schedule, ScheduleDetail, ScheduleState, ScheduleTerms
from allocations.runs.service import Submission

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.db.idempotency import IdempotencyKey
    from allocations.ids import IdFactory
    from allocations.policy.models import Policy
    from allocations.runs.files import RunFiles
    from allocations.runs.schedule_models import PreviewView, ScheduleView
    from allocations.runs.schedule_store import ScheduleStore
    from allocations.runs.schedule_views import ScheduleViewBuilder
    from allocations.runs.service import Prepared, RunService

TITLE_LENGTH_MAX = 100
# What decides whether a run may be submitted; another title or time does not.
_OF_RUNS = frozenset({"allocation", "size", "image", "max_seconds", "environment", "output"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleService:
    """The life of a schedule in its owner's hands."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    runs: RunService
    schedules: ScheduleStore
    files: RunFiles
    shown: ScheduleViewBuilder

    @answered_once
    def add(self, person: str, terms: ScheduleTerms, idempotency: IdempotencyKey) -> ScheduleDetail:
        """Make a schedule; what could not be submitted now is refused with the AllocationsError that says why."""
        schedule, prepared = self._checked(person, terms)
        with self.database.write() as connection:
            answer = idempotency.recall(connection)
            if answer is not None:
                return ScheduleDetail.model_validate_json(answer)
            # Two that are added at once may both see room for the last one: a limit against clutter bears that.
            if self.schedules.count_of(connection, person) >= self.policy.runs.schedules_max:
                raise TransitionError(
                    f"You have {self.policy.runs.schedules_max} schedules, as many as one may have.",
                    "Remove one that you need no more.",
                )
            self.runs.check_within(connection, prepared)
            self.files.write_input(schedule.id, prepared.content)
            self.schedules.add(connection, schedule)
            detail = self.shown.detail(connection, schedule)
            idempotency.remember(connection, detail.model_dump_json(), schedule.created_at_ms)
            return detail

    def edit(self, person: str, schedule_id: str, changes: Mapping[str, Any]) -> ScheduleDetail:
        """Change some of the terms of a schedule of one's own, by the names that ScheduleTerms has for them.

        The time that has come, and is not dealt with yet, is given up when the expression or its zone changes. Another
        notebook of which nothing is said but what it holds was uploaded, wherever the one before came from.
        """
        if "notebook" in changes:
            changes = {"source": None, **changes}
        with self.database.write() as connection:
            schedule = self._found(connection, person, schedule_id, lock=True)
            wanted, prepared = self._checked(person, replace(self.terms_of(schedule), **changes))
            if _OF_RUNS & changes.keys():
                self.runs.check_within(connection, prepared)
            is_retimed = (wanted.cron, wanted.zone) != (schedule.cron, schedule.zone)
            if schedule.state is ScheduleState.PAUSED:
                next_at_ms = None
            else:
                next_at_ms = wanted.next_at_ms if is_retimed else schedule.next_at_ms
            changed = replace(
                wanted,
                id=schedule.id,
                state=schedule.state,
                pause_reason=schedule.pause_reason,
                refusals=schedule.refusals,
                next_at_ms=next_at_ms,
                created_at_ms=schedule.created_at_ms,
            )
            if "notebook" in changes:
                self.files.write_input(schedule.id, prepared.content)
            values = {name: getattr(changed, name) for name in Schedule.__slots__ if name != "id"}
            self.schedules.change(connection, schedule.id, **values)
            return self.shown.detail(connection, changed)

    def pause(self, person: str, schedule_id: str) -> ScheduleDetail:
        """Let no time of a schedule of one's own count until it is resumed."""
        with self.database.write() as connection:
            schedule = self._found(connection, person, schedule_id, lock=True)
            if schedule.state is ScheduleState.PAUSED:
                return self.shown.detail(connection, schedule)
            changes: dict[str, Any] = {"state": ScheduleState.PAUSED, "pause_reason": None, "next_at_ms": None}
            self.schedules.change(connection, schedule_id, **changes)
            return self.shown.detail(connection, replace(schedule, **changes))

    def resume(self, person: str, schedule_id: str) -> ScheduleDetail:
        """Let the times of a schedule count again from now on: those that passed in between are not missed."""
        with self.database.write() as connection:
            schedule = self._found(connection, person, schedule_id, lock=True)
            if schedule.state is ScheduleState.ACTIVE:
                return self.shown.detail(connection, schedule)
            changes: dict[str, Any] = {
                "state": ScheduleState.ACTIVE,
                "pause_reason": None,
                "refusals": 0,
                "next_at_ms": self._next_at_ms(schedule.cron, schedule.zone),
            }
            self.schedules.change(connection, schedule_id, **changes)
            return self.shown.detail(connection, replace(schedule, **changes))

    def remove(self, person: str, schedule_id: str) -> None:
        """Remove a schedule of one's own; its runs stay, those that wait or go on too."""
        with self.database.write() as connection:
            self._found(connection, person, schedule_id, lock=True)
            self.schedules.remove(connection, schedule_id)
        self.files.remove_input(schedule_id)

    def get(self, person: str, schedule_id: str) -> ScheduleDetail:
        """Return a schedule of one's own; NotFoundError for those of others too."""
        with self.database.read() as connection:
            return self.shown.detail(connection, self._found(connection, person, schedule_id))

    def list_of(self, person: str) -> list[ScheduleView]:
        """Return a person's schedules, newest first."""
        with self.database.read() as connection:
            return self.shown.views(connection, self.schedules.of_person(connection, person))

    def of_run(self, person: str, run_id: str) -> tuple[str, str] | None:
        """Return id and title of the schedule of one's own that submitted a run; None when there is none."""
        with self.database.read() as connection:
            schedule = self.schedules.of_run(connection, run_id)
        return None if schedule is None or schedule.person != person else (schedule.id, schedule.title)

    def preview(self, expression: str, zone: str) -> PreviewView:
        """Show the next times of an expression; InvalidInputError when there are none."""
        cron = require_cron(expression, zone)
        self._next_at_ms(expression, zone)
        return self.shown.preview(cron)

    def terms_of(self, schedule: Schedule) -> ScheduleTerms:
        """Return what a person said of a schedule, with its notebook."""
        return ScheduleTerms(
            title=schedule.title,
            allocation=schedule.allocation_id,
            size=schedule.size,
            name=schedule.notebook_name,
            notebook=json.loads(self.files.read(schedule.id, INPUT)),
            parameters=json.loads(schedule.parameters),
            cron=schedule.cron,
            zone=schedule.zone,
            image=schedule.image,
            max_seconds=schedule.max_seconds,
            retries=schedule.retries,
            source=RunSource.model_validate_json(schedule.source) if schedule.source else None,
            environment=json.loads(schedule.environment or "[]"),
            output=schedule.output,
            missed=schedule.missed,
            overlap=schedule.overlap,
        )

    # ------------------------------------------------------------------ inside

    def _checked(self, person: str, terms: ScheduleTerms) -> tuple[Schedule, Prepared]:
        """Return a new active schedule of these terms, and what it would submit."""
        prepared = self.runs.prepare(submission_of(person, terms))
        cron = require_cron(terms.cron, terms.zone)
        schedule = Schedule(
            id=self.new_id("sc"),
            person=person,
            allocation_id=terms.allocation,
            title=_require_title(terms.title),
            notebook_name=prepared.name,
            size=terms.size,
            image=terms.image,
            parameters=prepared.parameters,
            max_seconds=terms.max_seconds,
            cron=cron.expression,
            zone=cron.zone.key,
            missed=terms.missed,
            overlap=terms.overlap,
            state=ScheduleState.ACTIVE,
            pause_reason=None,
            refusals=0,
            next_at_ms=self._next_at_ms(terms.cron, terms.zone),
            created_at_ms=self.clock.now_ms(),
            retries=prepared.retries,
            source=prepared.source,
            environment=prepared.environment,
            output=prepared.output,
        )
        return schedule, prepared

    def _next_at_ms(self, expression: str, zone: str) -> int:
        planned = require_cron(expression, zone).next(self.clock.now_ms())
        if planned is None:
            raise InvalidInputError(
                f"The times of {expression!r} do not come within the next years.", "Choose days that there are."
            )
        return planned.at_ms

    def _found(self, connection: Connection, person: str, schedule_id: str, *, lock: bool = False) -> Schedule:
        schedule = self.schedules.get(connection, schedule_id, lock=lock)
        if schedule is None or schedule.person != person:
            raise NotFoundError(f"There is no schedule {schedule_id!r}.", "Look it up in the list of schedules.")
        return schedule


def submission_of(person: str, terms: ScheduleTerms) -> Submission:
    """Return what a schedule submits."""
    return Submission(
        person=person,
        allocation=terms.allocation,
        size=terms.size,
        name=terms.name,
        notebook=terms.notebook,
        parameters=terms.parameters,
        image=terms.image,
        max_seconds=terms.max_seconds,
        retries=terms.retries,
        source=terms.source,
        environment=terms.environment,
        output=terms.output,
    )


def _require_title(title: str) -> str:
    title = title.strip()
    if not 0 < len(title) <= TITLE_LENGTH_MAX or not title.isprintable():
        raise InvalidInputError(
            f"The title of a schedule must be one line of 1 to {TITLE_LENGTH_MAX} characters.", "Write another title."
        )
    return title
