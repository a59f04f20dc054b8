"""Stores sweeps, and looks at their runs together; decides nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import case, func, insert, select, tuple_, update

from allocations.clock import MS_PER_SECOND, to_rfc3339
from allocations.db.bulk import BulkInsert, BulkUpdate
from allocations.db.schema import holds, runs, sweeps
from allocations.leases.models import LeaseState
from allocations.ledger.models import Unit
from allocations.runs.models import ACTIVE_STATES, Condition, Run, RunError, RunState
from allocations.runs.store import to_run
from allocations.runs.sweep_models import Sweep, SweepResult, Tally

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Row

_ADD_RUNS = BulkInsert(runs)
_RETRY = BulkUpdate(runs, ["id"], ["retried_as"])
_COLUMNS = [column.name for column in runs.columns]
# How many runs are written by one statement.
TOGETHER = 1000
_LAST = runs.c.retried_as.is_(None)
_OF_CREDITS = (holds.c.lease_id == runs.c.lease_id) & (holds.c.unit == Unit.CREDITS)


class SweepStore:
    """Sweeps by id and by person, and their runs."""

    def add(self, connection: Connection, sweep: Sweep) -> None:
        """Insert a sweep."""
        connection.execute(insert(sweeps), asdict(sweep))

    def add_runs(self, connection: Connection, made: Iterable[Run]) -> int:
        """Insert runs, so many at a time that neither memory nor a statement grows with them; return how many."""
        count, some = 0, []
        for run in made:
            some.append({name: getattr(run, name) for name in _COLUMNS})
            if len(some) == TOGETHER:
                count += _ADD_RUNS.run(connection, some)
                some = []
        return count + _ADD_RUNS.run(connection, some)

    def get(self, connection: Connection, sweep_id: str, *, lock: bool = False) -> Sweep | None:
        """Return a sweep, locked against other writers when asked, or None."""
        query = select(sweeps).where(sweeps.c.id == sweep_id)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        return _sweep(row) if row else None

    def locked(self, connection: Connection, sweep_id: str) -> Sweep:
        """Return a sweep that there is, locked."""
        return _sweep(connection.execute(select(sweeps).where(sweeps.c.id == sweep_id).with_for_update()).one())

    def change(self, connection: Connection, sweep_id: str, **values: object) -> None:
        """Set columns of a sweep."""
        connection.execute(update(sweeps).where(sweeps.c.id == sweep_id).values(**values))

    def explain_waiting(self, connection: Connection, sweep_id: str, reason: str | None) -> None:
        """Say why the queued runs of a sweep wait."""
        changed = sweeps.c.waiting_reason.is_distinct_from(reason)
        connection.execute(update(sweeps).where(sweeps.c.id == sweep_id, changed).values(waiting_reason=reason))

    def waiting_reasons(self, connection: Connection, sweep_ids: Collection[str]) -> dict[str, str | None]:
        """Return why the queued runs of sweeps wait, by sweep."""
        query = select(sweeps.c.id, sweeps.c.waiting_reason).where(sweeps.c.id.in_(sweep_ids))
        return {row.id: row.waiting_reason for row in connection.execute(query)}

    def of_person(self, connection: Connection, person: str, limit: int, before: Sweep | None) -> list[Sweep]:
        """Return a person's sweeps, newest first, those older than another of theirs when it is given."""
        query = select(sweeps).where(sweeps.c.person == person)
        if before is not None:
            query = query.where(tuple_(sweeps.c.submitted_at_ms, sweeps.c.id) < (before.submitted_at_ms, before.id))
        newest = query.order_by(sweeps.c.submitted_at_ms.desc(), sweeps.c.id.desc()).limit(limit)
        return [_sweep(row) for row in connection.execute(newest)]

    def cancel(self, connection: Connection, sweep_id: str, now_ms: int) -> int:
        """Cancel the queued runs of a sweep that is locked and ask for the stop of the active ones; return how many.

        One statement: a run that is lost and queued again meanwhile is met as what it is by then.
        """
        is_queued = runs.c.state == RunState.QUEUED
        cancelled = connection.execute(
            update(runs)
            .where(
                runs.c.sweep_id == sweep_id,
                runs.c.state.in_([RunState.QUEUED, *ACTIVE_STATES]),
                runs.c.cancel_requested.is_(False),
            )
            .values(
                cancel_requested=True,
                state=case((is_queued, RunState.CANCELLED.value), else_=runs.c.state),
                ended_at_ms=case((is_queued, now_ms), else_=runs.c.ended_at_ms),
                waiting_reason=None,
            )
        )
        return cancelled.rowcount

    def last_in(self, connection: Connection, sweep_id: str, states: Collection[RunState]) -> list[Run]:
        """Return the last runs of the rows of a sweep that are in any of the states, by row."""
        query = select(runs).where(runs.c.sweep_id == sweep_id, _LAST, runs.c.state.in_(states))
        return [to_run(row) for row in connection.execute(query.order_by(runs.c.sweep_row))]

    def retry(self, connection: Connection, failed: Sequence[Run], again: Sequence[Run]) -> None:
        """Queue a run in the place of each that failed."""
        self.add_runs(connection, again)
        for begin in range(0, len(failed), TOGETHER):
            pairs = zip(failed[begin : begin + TOGETHER], again[begin : begin + TOGETHER], strict=True)
            _RETRY.run(connection, [{"id": one.id, "retried_as": other.id} for one, other in pairs])

    def tallies(self, connection: Connection, sweep_ids: Collection[str]) -> dict[str, Tally]:
        """Add up the last runs of each row of sweeps."""
        found = {sweep_id: Tally({}, 0, None, None) for sweep_id in sweep_ids}
        ran_ms = case((runs.c.state == RunState.SUCCEEDED, runs.c.ended_at_ms - runs.c.started_at_ms), else_=0)
        rows = connection.execute(
            select(
                runs.c.sweep_id,
                runs.c.state,
                func.count(),
                func.sum(ran_ms),
                func.min(runs.c.started_at_ms),
                func.max(runs.c.ended_at_ms),
            )
            .where(runs.c.sweep_id.in_(sweep_ids), _LAST)
            .group_by(runs.c.sweep_id, runs.c.state)
        )
        for sweep_id, state, count, ran, started_at_ms, ended_at_ms in rows:
            so_far = found[sweep_id]
            found[sweep_id] = Tally(
                {**so_far.counts, RunState(state): int(count)},
                so_far.ran_ms + int(ran or 0),
                min((at for at in (so_far.first_started_at_ms, started_at_ms) if at is not None), default=None),
                max((at for at in (so_far.last_ended_at_ms, ended_at_ms) if at is not None), default=None),
            )
        return found

    def amounts(self, connection: Connection, sweep_ids: Collection[str]) -> dict[str, tuple[int, int]]:
        """Return (held now, charged so far) in microcredits by sweep, of all attempts of all runs that it ever had."""
        before = select(runs.c.sweep_id, func.sum(runs.c.charged_before_microcredits))
        earlier = connection.execute(before.where(runs.c.sweep_id.in_(sweep_ids)).group_by(runs.c.sweep_id))
        found = {row[0]: (0, int(row[1])) for row in earlier}
        held = func.sum(case((holds.c.state == LeaseState.OPEN, holds.c.amount), else_=0))
        rows = connection.execute(
            select(runs.c.sweep_id, held, func.sum(holds.c.charged))
            .join(holds, _OF_CREDITS)
            .where(runs.c.sweep_id.in_(sweep_ids))
            .group_by(runs.c.sweep_id)
        )
        return found | {row[0]: (int(row[1]), found[row[0]][1] + int(row[2])) for row in rows}

    def results(self, connection: Connection, sweep_id: str, after_row: int, limit: int) -> Iterator[SweepResult]:
        """Return rows of a sweep from after `after_row` on, by row, each with its last run."""
        return self._results(connection, sweep_id, runs.c.sweep_row > after_row, limit)

    def results_at(self, connection: Connection, sweep_id: str, rows: Collection[int]) -> Iterator[SweepResult]:
        """Return some rows of a sweep, by row, each with its last run."""
        return self._results(connection, sweep_id, runs.c.sweep_row.in_(rows), len(rows))

    def _results(
        self, connection: Connection, sweep_id: str, wanted: ColumnElement[bool], limit: int
    ) -> Iterator[SweepResult]:
        charged = select(func.sum(holds.c.charged)).where(_OF_CREDITS).scalar_subquery()
        page = (
            select(runs, func.coalesce(charged, 0).label("charged"))
            .where(runs.c.sweep_id == sweep_id, _LAST, wanted)
            .order_by(runs.c.sweep_row)
            .limit(limit)
        )
        found = connection.execute(page).all()
        before: dict[int, int] = {}
        if found:
            earlier = connection.execute(
                select(runs.c.sweep_row, func.sum(runs.c.charged_before_microcredits + func.coalesce(charged, 0)))
                .where(
                    runs.c.sweep_id == sweep_id,
                    runs.c.sweep_row.between(found[0].sweep_row, found[-1].sweep_row),
                    runs.c.retried_as.is_not(None),
                )
                .group_by(runs.c.sweep_row)
            )
            before = {row[0]: int(row[1]) for row in earlier}
        for row in found:
            yield _result(row, before.get(row.sweep_row, 0))

    def earlier(self, connection: Connection, person: str, name: str, size: str, limit: int) -> tuple[int, int, int]:
        """Return how many of a person's last runs of a notebook on a size succeeded, their charges and milliseconds."""
        last = (
            select(
                runs.c.lease_id,
                runs.c.charged_before_microcredits.label("before"),
                (runs.c.ended_at_ms - runs.c.started_at_ms).label("ran_ms"),
            )
            .where(
                runs.c.person == person,
                runs.c.name == name,
                runs.c.size == size,
                runs.c.state == RunState.SUCCEEDED,
                runs.c.started_at_ms.is_not(None),
            )
            .order_by(runs.c.submitted_at_ms.desc())
            .limit(limit)
            .subquery()
        )
        of_credits = (holds.c.lease_id == last.c.lease_id) & (holds.c.unit == Unit.CREDITS)
        charged = (last.c.before + func.sum(holds.c.charged)).label("charged")
        charges = select(last.c.ran_ms, charged).join(holds, of_credits)
        each = charges.group_by(last.c.lease_id, last.c.before, last.c.ran_ms).subquery()
        row = connection.execute(select(func.count(), func.sum(each.c.charged), func.sum(each.c.ran_ms))).one()
        return int(row[0]), int(row[1] or 0), int(row[2] or 0)


def _sweep(row: Row[Any]) -> Sweep:
    fields = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
    fields["waits_for"] = Condition(fields["waits_for"]) if fields["waits_for"] else None
    return Sweep(**fields)


def _result(row: Row[Any], before: int) -> SweepResult:
    error = RunError.model_validate_json(row.error) if row.error else None
    ran_ms = None if row.started_at_ms is None or row.ended_at_ms is None else row.ended_at_ms - row.started_at_ms
    return SweepResult(
        row=row.sweep_row,
        run=row.id,
        state=RunState(row.state),
        attempt=row.attempt,
        parameters=json.loads(row.parameters),
        recorded=json.loads(row.recorded) if row.recorded else {},
        error=f"{error.name}: {error.message}" if error else None,
        seconds=None if ran_ms is None else ran_ms / MS_PER_SECOND,
        started_at=None if row.started_at_ms is None else to_rfc3339(row.started_at_ms),
        ended_at=None if row.ended_at_ms is None else to_rfc3339(row.ended_at_ms),
        charged_microcredits=row.charged_before_microcredits + int(row.charged),
        charged_microcredits_before=before,
    )
