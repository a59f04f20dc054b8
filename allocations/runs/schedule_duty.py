"""The worker's part of schedules: submits each run when its time has come, once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from allocations.clock import MS_PER_SECOND, to_rfc3339
from allocations.errors import AllocationsError
from allocations.outbox import Notice, NoticeKind
from allocations.runs.cron import Cron, in_words, require_cron
from allocations.runs.models import Condition
from allocations.runs.schedule_models import MissedPolicy, OverlapPolicy, ScheduleState, ScheduleTime, TimeOutcome
from allocations.runs.schedules import submission_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.outbox import Outbox
    from allocations.policy.models import Policy
    from allocations.runs.schedule_models import Schedule
    from allocations.runs.schedule_store import ScheduleStore
    from allocations.runs.schedules import ScheduleService
    from allocations.runs.service import Prepared, RunService

log = logging.getLogger(__name__)
# A time that the worker comes to later than this is missed; one that the next has overtaken is, too.
LATE_MS = 300 * MS_PER_SECOND
# Of one tick, which has leases to renew: what is left is done in the next.
TIMES_MAX = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about the times that are due: one to run, or none; those passed over; what comes next."""

    run_at_ms: int | None
    is_made_up: bool
    passed_from_ms: int | None
    passed_until_ms: int | None
    next_at_ms: int | None


def plan(cron: Cron, due_ms: int, now_ms: int, missed: MissedPolicy, made_up_max: int) -> Plan:
    """Decide about the times from `due_ms`, which is one, until now. Of several to be run the first is given."""
    coming = cron.next(now_ms)
    after_ms = None if coming is None else coming.at_ms
    # Where the rules of a zone have been changed since, what was planned may be no time of the expression any more.
    last = cron.last(due_ms, now_ms, made_up_max if missed is MissedPolicy.ALL else 1) or [due_ms]
    if missed is MissedPolicy.SKIP and now_ms - last[-1] > LATE_MS:
        return Plan(
            run_at_ms=None, is_made_up=False, passed_from_ms=due_ms, passed_until_ms=last[-1], next_at_ms=after_ms
        )
    run_at_ms = last[0]
    passed = cron.last(due_ms, run_at_ms - 1, 1)
    return Plan(
        run_at_ms=run_at_ms,
        is_made_up=len(last) > 1 or now_ms - run_at_ms > LATE_MS,
        passed_from_ms=due_ms if passed else None,
        passed_until_ms=passed[-1] if passed else None,
        next_at_ms=last[1] if len(last) > 1 else after_ms,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDuty:
    """Submits what is due."""

    database: Database
    clock: Clock
    policy: Policy
    runs: RunService
    schedules: ScheduleStore
    service: ScheduleService
    outbox: Outbox

    def submit_due(self) -> int:
        """Deal with the times that have come; return with how many."""
        dealt_with = 0
        while dealt_with < TIMES_MAX:
            with self.database.read() as connection:
                due = self.schedules.due(connection, self.clock.now_ms(), TIMES_MAX - dealt_with)
            done = sum(self._deal_with(schedule) for schedule in due)
            if not done:
                break
            dealt_with += done
        return dealt_with

    # ------------------------------------------------------------------ inside

    def _deal_with(self, seen: Schedule) -> bool:
        """Deal with the first due time of a schedule; return whether this call did.

        Of two workers, and of a worker and an owner who changes the schedule, the second finds the row changed under
        its lock and leaves it. The run, what is noted of the time and the next time are committed together: a worker
        killed before has done nothing, one killed after has done all.
        """
        prepared: Prepared | AllocationsError
        try:
            cron = require_cron(seen.cron, seen.zone)
        except AllocationsError as error:
            return self._stop(seen, f"{error.detail} {error.remedy}")
        try:
            prepared = self.runs.prepare(submission_of(seen.person, self.service.terms_of(seen)))
        except AllocationsError as error:
            prepared = error
        except OSError:
            log.exception("the notebook of a schedule cannot be read; trying again", extra={"schedule": seen.id})
            return False
        try:
            with self.database.write() as connection:
                if self.schedules.get(connection, seen.id, lock=True) != seen:
                    return False
                self._decide(connection, seen, cron, prepared)
                return True
        except OSError:
            log.exception("the notebook of a run cannot be written; trying again", extra={"schedule": seen.id})
            return False

    def _decide(
        self, connection: Connection, schedule: Schedule, cron: Cron, prepared: Prepared | AllocationsError
    ) -> None:
        assert schedule.next_at_ms is not None  # it is due
        now_ms = self.clock.now_ms()
        rules = self.policy.runs
        planned = plan(cron, schedule.next_at_ms, now_ms, schedule.missed, rules.schedule_runs_max)
        changes: dict[str, Any] = {"next_at_ms": planned.next_at_ms}
        # A clock that a new process found behind could lead to a time again: what is noted of it stays.
        if planned.passed_until_ms is not None and not self._is_known(connection, schedule, planned.passed_until_ms):
            self._note(connection, schedule, planned.passed_until_ms, TimeOutcome.MISSED, _missed(cron, planned))
        if planned.run_at_ms is not None and not self._is_known(connection, schedule, planned.run_at_ms):
            changes |= self._run(connection, schedule, planned, prepared)
        if changes["next_at_ms"] is None and "state" not in changes:
            changes |= {"state": ScheduleState.PAUSED, "pause_reason": "None of its times comes within the next years."}
        self.schedules.change(connection, schedule.id, **changes)

    def _run(
        self, connection: Connection, schedule: Schedule, planned: Plan, prepared: Prepared | AllocationsError
    ) -> dict[str, Any]:
        """Submit the run of a time, or note why not; return what changes of the schedule."""
        assert planned.run_at_ms is not None  # asked by the caller
        unended = self.schedules.unended_runs(connection, schedule.id)
        if unended:
            may_queue = planned.is_made_up or schedule.overlap is OverlapPolicy.QUEUE
            if not may_queue or len(unended) >= self.policy.runs.schedule_runs_max:
                one = f"The run {unended[0]} of an earlier time had not ended."
                detail = one if len(unended) == 1 else f"{len(unended)} runs of earlier times had not ended."
                self._note(connection, schedule, planned.run_at_ms, TimeOutcome.SKIPPED, detail)
                return {}
        try:
            if isinstance(prepared, AllocationsError):
                raise prepared
            after = replace(prepared.submission, after=tuple(unended[:1]), waits_for=Condition.ENDED)
            run = self.runs.submit_within(connection, replace(prepared, submission=after))
        except AllocationsError as error:
            return self._refused(connection, schedule, planned.run_at_ms, f"{error.detail} {error.remedy}".strip())
        self._note(connection, schedule, planned.run_at_ms, TimeOutcome.SUBMITTED, None, run.id)
        log.info(
            "run queued by schedule",
            extra={"person": run.person, "allocation": run.allocation_id, "run": run.id, "schedule": schedule.id},
        )
        return {"refusals": 0}

    def _refused(self, connection: Connection, schedule: Schedule, at_ms: int, why: str) -> dict[str, Any]:
        self._note(connection, schedule, at_ms, TimeOutcome.REFUSED, why)
        refusals = schedule.refusals + 1
        if refusals < self.policy.runs.schedule_refusals_max:
            self._tell(connection, schedule, NoticeKind.SCHEDULE_REFUSED, at_ms, why)
            return {"refusals": refusals}
        reason = f"It was refused {refusals} times in a row, the last time because: {why}"
        self._tell(connection, schedule, NoticeKind.SCHEDULE_PAUSED, at_ms, reason)
        return {
            "refusals": refusals,
            "state": ScheduleState.PAUSED,
            "pause_reason": reason,
            "next_at_ms": None,
        }

    def _stop(self, seen: Schedule, reason: str) -> bool:
        """Pause a schedule whose times cannot be told any more."""
        with self.database.write() as connection:
            if self.schedules.get(connection, seen.id, lock=True) != seen:
                return False
            assert seen.next_at_ms is not None  # it is due
            self._tell(connection, seen, NoticeKind.SCHEDULE_PAUSED, seen.next_at_ms, reason)
            self.schedules.change(connection, seen.id, state=ScheduleState.PAUSED, pause_reason=reason, next_at_ms=None)
            return True

    def _is_known(self, connection: Connection, schedule: Schedule, planned_at_ms: int) -> bool:
        return self.schedules.is_known(connection, schedule.id, planned_at_ms)

    def _note(
        self,
        connection: Connection,
        schedule: Schedule,
        planned_at_ms: int,
        outcome: TimeOutcome,
        detail: str | None,
        run_id: str | None = None,
    ) -> None:
        time = ScheduleTime(schedule.id, planned_at_ms, self.clock.now_ms(), outcome, run_id, detail)
        self.schedules.note(connection, time)

    def _tell(self, connection: Connection, schedule: Schedule, kind: NoticeKind, at_ms: int, why: str) -> None:
        details: dict[str, str | int] = {"title": schedule.title, "ends_at_ms": at_ms, "why": why}
        notice = Notice(schedule.person, kind, schedule.id, to_rfc3339(at_ms), details)
        self.outbox.queue(connection, [notice], self.clock.now_ms())


def _missed(cron: Cron, planned: Plan) -> str:
    assert planned.passed_from_ms is not None  # with its end
    if planned.passed_from_ms == planned.passed_until_ms:
        return "The platform came to it too late."
    return f"The platform came too late to all times from {in_words(planned.passed_from_ms, cron.zone)} on."
