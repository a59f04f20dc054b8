"""Chains: runs that wait for other runs of the same person. A run names only runs that exist, so no circle can be made.

Nothing is told from run to run: which runs wait, which may begin and which never will is read off the states of those
that they wait for, by whatever way these came to their ends.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, exists, insert, or_, select, update

from allocations.db.schema import run_waits, runs
from allocations.errors import InvalidInputError, NotFoundError, TransitionError
from allocations.runs.ends import EndCode
from allocations.runs.models import ENDED_STATES, ChainedRun, Condition, RunError, RunState

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement, Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.runs.models import Run

# How many runs one run may wait for, how many neighbours of a run are shown, and how many one transaction cancels.
AWAITED_MAX = 100
SHOWN_MAX = 100
SLICE = 200
NAMED_MAX = 3
AWAITED_FAILED = "AwaitedRunFailed"
_FAILED_STATES = ENDED_STATES - {RunState.SUCCEEDED}
_ENDS = {
    RunState.FAILED: "failed",
    RunState.CANCELLED: "was cancelled",
    RunState.TIMED_OUT: "reached its maximum time",
}
_awaited = runs.alias("awaited")
_MET = or_(
    _awaited.c.state == RunState.SUCCEEDED,
    and_(runs.c.waits_for == Condition.ENDED, _awaited.c.state.in_(ENDED_STATES)),
)


def waits() -> ColumnElement[bool]:
    """Return the condition that a run of `runs` waits for another one still.

    An end is for good: what a claim finds ready cannot become unready before the claim is committed.
    """
    unmet = exists().where(run_waits.c.run_id == runs.c.id, _awaited.c.id == run_waits.c.awaited_run_id, ~_MET)
    return and_(runs.c.waits_for.is_not(None), unmet)


class ChainStore:
    """Which run waits for which; decides nothing."""

    def add(self, connection: Connection, run_id: str, awaited: Collection[str]) -> None:
        """Let a new run wait for others."""
        if awaited:
            connection.execute(
                insert(run_waits), [{"run_id": run_id, "awaited_run_id": awaited_id} for awaited_id in awaited]
            )

    def awaited(self, connection: Connection, run_ids: Sequence[str]) -> dict[str, list[ChainedRun]]:
        """Return what each of some runs waits for or waited for, in the order of submission."""
        return self._neighbours(connection, run_ids, run_waits.c.run_id, run_waits.c.awaited_run_id)

    def waiting(self, connection: Connection, run_ids: Sequence[str]) -> dict[str, list[ChainedRun]]:
        """Return what waits or waited for each of some runs, in the order of submission."""
        return self._neighbours(connection, run_ids, run_waits.c.awaited_run_id, run_waits.c.run_id)

    def lock_hopeless(self, connection: Connection, at_most: int) -> list[tuple[str, ChainedRun]]:
        """Return queued runs that wait for the success of one that has not succeeded, locked, each with such a one."""
        rows = connection.execute(
            select(runs.c.id.label("waiting_id"), _awaited.c.id, _awaited.c.name, _awaited.c.state)
            .join(run_waits, run_waits.c.run_id == runs.c.id)
            .join(_awaited, _awaited.c.id == run_waits.c.awaited_run_id)
            .where(
                runs.c.state == RunState.QUEUED,
                runs.c.waits_for == Condition.SUCCEEDED,
                _awaited.c.state.in_(_FAILED_STATES),
            )
            .order_by(runs.c.id, _awaited.c.ended_at_ms, _awaited.c.id)
            .limit(at_most)
            .with_for_update(of=runs, skip_locked=True)
        )
        first: dict[str, ChainedRun] = {}
        for row in rows:
            first.setdefault(row.waiting_id, ChainedRun(run=row.id, name=row.name, state=RunState(row.state)))
        return list(first.items())

    def _neighbours(
        self, connection: Connection, run_ids: Sequence[str], own: ColumnElement[str], other: ColumnElement[str]
    ) -> dict[str, list[ChainedRun]]:
        found: dict[str, list[ChainedRun]] = defaultdict(list)
        if not run_ids:
            return found
        rows = connection.execute(
            select(own.label("own_id"), runs.c.id, runs.c.name, runs.c.state)
            .join(runs, runs.c.id == other)
            .where(own.in_(run_ids))
            .order_by(runs.c.submitted_at_ms, runs.c.id)
        )
        for row in rows:
            found[row.own_id].append(ChainedRun(run=row.id, name=row.name, state=RunState(row.state)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainService:
    """Ends the runs that wait in vain."""

    database: Database
    clock: Clock
    chains: ChainStore

    def cancel_hopeless(self) -> int:
        """Cancel the queued runs whose condition can never be met any more, and those that wait for them in turn.

        Return how many. Whoever changes such a run meanwhile has it locked: it is passed over, and met by the next
        call if it still waits then.
        """
        cancelled = 0
        while True:
            with self.database.write() as connection:
                hopeless = self.chains.lock_hopeless(connection, SLICE)
                for run_id, awaited in hopeless:
                    connection.execute(
                        update(runs)
                        .where(runs.c.id == run_id)
                        .values(
                            state=RunState.CANCELLED,
                            ended_at_ms=self.clock.now_ms(),
                            waiting_reason=None,
                            end_code=EndCode.AWAITED_FAILED,
                            error=_in_vain(awaited).model_dump_json(),
                        )
                    )
            if not hopeless:
                return cancelled
            cancelled += len(hopeless)


def require_awaited(awaited: Sequence[Run], condition: Condition) -> None:
    """Raise TransitionError when a run has ended already in a way that its condition does not allow."""
    for run in awaited:
        if condition is Condition.SUCCEEDED and run.state in _FAILED_STATES:
            raise TransitionError(
                f"The run {run.id} ({run.name}) {_ENDS[run.state]}: what waits for its success would never begin.",
                "Name a run that has not ended otherwise, or let it be enough that the run has ended.",
            )


def require_few(run_ids: Sequence[str]) -> tuple[str, ...]:
    """Return the ids of awaited runs, each once; InvalidInputError when there are too many."""
    once = tuple(dict.fromkeys(run_ids))
    if len(once) > AWAITED_MAX:
        raise InvalidInputError(
            f"A run can wait for {AWAITED_MAX} others at most.", "Let a run in between wait for a part of them."
        )
    return once


def no_awaited(run_id: str) -> NotFoundError:
    """Return the error of an awaited run that the person does not have."""
    return NotFoundError(
        f"There is no run {run_id!r} of yours to wait for.", "Look its id up in the list of your runs."
    )


def waiting_sentence(awaited: Sequence[ChainedRun], condition: Condition) -> str | None:
    """Return what a run waits for still, in words; None when it is free."""
    met = {RunState.SUCCEEDED} if condition is Condition.SUCCEEDED else ENDED_STATES
    unmet = [one for one in awaited if one.state not in met]
    if not unmet:
        return None
    named = ", ".join(f"{one.run} ({one.name})" for one in unmet[:NAMED_MAX])
    more = f" and {len(unmet) - NAMED_MAX} more" if len(unmet) > NAMED_MAX else ""
    what = "succeeded" if condition is Condition.SUCCEEDED else "ended"
    return f"Waits until {'this run has' if len(unmet) == 1 else 'these runs have'} {what}: {named}{more}."


def _in_vain(awaited: ChainedRun) -> RunError:
    return RunError(
        name=AWAITED_FAILED,
        message=f"The run {awaited.run} ({awaited.name}), for whose success this one waited, {_ENDS[awaited.state]}. "
        "Nothing was executed and nothing was charged.",
    )
