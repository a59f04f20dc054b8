"""Stores runs; decides nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, insert, select, tuple_, update

from allocations.db.schema import allocations, leases, members, runs, suspensions
from allocations.runs.models import ACTIVE_STATES, Condition, Run, RunFilter, RunState

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row


def to_run(row: Row[Any]) -> Run:
    """Make a run of a row with all columns of the table."""
    fields = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
    fields["state"] = RunState(fields["state"])
    fields["waits_for"] = Condition(fields["waits_for"]) if fields["waits_for"] else None
    return Run(**fields)


class RunStore:
    """Runs, by id, by person, and as a queue."""

    def add(self, connection: Connection, run: Run) -> None:
        """Insert a run."""
        connection.execute(insert(runs), asdict(run))

    def get(self, connection: Connection, run_id: str, *, lock: bool = False) -> Run | None:
        """Return a run, locked against other writers when asked, or None."""
        query = select(runs).where(runs.c.id == run_id)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        return to_run(row) if row else None

    def change(self, connection: Connection, run_id: str, **values: object) -> None:
        """Set columns of a run."""
        connection.execute(update(runs).where(runs.c.id == run_id).values(**values))

    def cancel_departed(self, connection: Connection, now_ms: int) -> int:
        """Cancel queued runs, and ask for the stop of active ones, whose person is not a member; return how many."""
        is_member = exists().where(members.c.allocation_id == runs.c.allocation_id, members.c.person == runs.c.person)
        departed = runs.c.cancel_requested.is_(False) & ~is_member
        waiting = connection.execute(
            update(runs)
            .where(departed, runs.c.state == RunState.QUEUED)
            .values(cancel_requested=True, state=RunState.CANCELLED, ended_at_ms=now_ms, waiting_reason=None)
        )
        active = connection.execute(
            update(runs).where(departed, runs.c.state.in_(ACTIVE_STATES)).values(cancel_requested=True)
        )
        return int(waiting.rowcount + active.rowcount)

    def cancel_of(self, connection: Connection, person: str, now_ms: int) -> int:
        """Cancel a person's queued runs, and ask for the stop of their active ones; return how many.

        The queued first: one that is admitted in between is among the active then.
        """
        theirs = (runs.c.person == person, runs.c.cancel_requested.is_(False))
        waiting = connection.execute(
            update(runs)
            .where(*theirs, runs.c.state == RunState.QUEUED)
            .values(cancel_requested=True, state=RunState.CANCELLED, ended_at_ms=now_ms, waiting_reason=None)
        )
        active = connection.execute(
            update(runs).where(*theirs, runs.c.state.in_(ACTIVE_STATES)).values(cancel_requested=True)
        )
        return int(waiting.rowcount + active.rowcount)

    def people_with_runs(self, connection: Connection, after: str, limit: int) -> list[str]:
        """Return who has runs that wait or go on and are not being cancelled, by name, from after `after` on."""
        rows = connection.execute(
            select(runs.c.person)
            .where(
                runs.c.state.in_([RunState.QUEUED, *ACTIVE_STATES]),
                runs.c.cancel_requested.is_(False),
                runs.c.person > after,
            )
            .distinct()
            .order_by(runs.c.person)
            .limit(limit)
        )
        return [row.person for row in rows]

    def cancel_suspended(self, connection: Connection, now_ms: int) -> int:
        """Cancel the queued runs of suspended people; return how many. Active ones end with their leases."""
        held = select(suspensions.c.person).where(suspensions.c.lifted_at_ms.is_(None))
        cancelled = connection.execute(
            update(runs)
            .where(runs.c.state == RunState.QUEUED, runs.c.person.in_(held))
            .values(cancel_requested=True, state=RunState.CANCELLED, ended_at_ms=now_ms, waiting_reason=None)
        )
        return int(cancelled.rowcount)

    def cancel_cut_short(self, connection: Connection, now_ms: int) -> int:
        """Ask for the stop of active runs whose lease was cut short and is past its end now; return how many."""
        cut_short = exists().where(
            leases.c.id == runs.c.lease_id,
            leases.c.ends_at_ms < leases.c.latest_end_at_ms,
            leases.c.ends_at_ms <= now_ms,
        )
        asked = connection.execute(
            update(runs)
            .where(runs.c.state.in_(ACTIVE_STATES), runs.c.cancel_requested.is_(False), cut_short)
            .values(cancel_requested=True)
        )
        return int(asked.rowcount)

    def of_person(
        self, connection: Connection, person: str, limit: int, wanted: RunFilter, before: Run | None
    ) -> list[Run]:
        """Return a person's runs, newest first, those older than another of theirs when it is given.

        They are read in the order of an index, so that a page of them costs no more when there are many.
        """
        query = select(runs).where(runs.c.person == person, runs.c.sweep_id == wanted.sweep)
        if wanted.states:
            query = query.where(runs.c.state.in_(wanted.states))
        if wanted.allocation:
            query = query.where(runs.c.allocation_id == wanted.allocation)
        if wanted.name:
            query = query.where(runs.c.name.icontains(wanted.name, autoescape=True))
        if before is not None:
            query = query.where(tuple_(runs.c.submitted_at_ms, runs.c.id) < (before.submitted_at_ms, before.id))
        newest = query.order_by(runs.c.submitted_at_ms.desc(), runs.c.id.desc()).limit(limit)
        return [to_run(row) for row in connection.execute(newest)]

    def allocations_of(self, connection: Connection, person: str) -> list[tuple[str, str]]:
        """Return ids and names of the allocations that a person's runs are on, by name."""
        theirs = select(runs.c.allocation_id).where(runs.c.person == person)
        rows = connection.execute(
            select(allocations.c.id, allocations.c.name)
            .where(allocations.c.id.in_(theirs))
            .order_by(allocations.c.name, allocations.c.id)
        )
        return [(row.id, row.name) for row in rows]

    def active(self, connection: Connection, executor: str | None = None) -> list[Run]:
        """Return the runs that are admitted or running, of one executor or of all, oldest first."""
        query = select(runs).where(runs.c.state.in_(ACTIVE_STATES)).order_by(runs.c.submitted_at_ms)
        if executor is not None:
            query = query.where(runs.c.executor == executor)
        return [to_run(row) for row in connection.execute(query)]
