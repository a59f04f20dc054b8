"""Chains: runs and sweeps that wait for other runs and sweeps of the same person.

Each names only what exists already, so no circle can be made. Nothing is told from one to another: which wait, which
may begin and which never will is read off the states of those that they wait for, by whatever way these came to their
ends. A sweep counts as a whole: it has succeeded when the last run of each of its rows has, and as long as any of it
waits or runs it has not ended, so that what failed in it can be queued again meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, exists, insert, or_, select, update

from allocations.db.schema import chain_links, runs, sweeps
from allocations.errors import InvalidInputError, NotFoundError, TransitionError
from allocations.runs.ends import EndCode
from allocations.runs.models import ACTIVE_STATES, ENDED_STATES, ChainedRun, Condition, RunError, RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.runs.sweep_store import SweepStore

# How many one may wait for, how many neighbours are shown, and how many runs one transaction cancels.
AWAITED_MAX = 100
SHOWN_MAX = 100
SLICE = 200
NAMED_MAX = 3
AWAITED_FAILED = "AwaitedRunFailed"
_FAILED_STATES = ENDED_STATES - {RunState.SUCCEEDED}
_UNENDED_STATES = ACTIVE_STATES | {RunState.QUEUED}
_ENDS = {
    RunState.FAILED: "failed",
    RunState.CANCELLED: "was cancelled",
    RunState.TIMED_OUT: "reached its maximum time",
}
_awaited = runs.alias("awaited")
_links = chain_links.c


def _run_in(states: Collection[RunState]) -> ColumnElement[bool]:
    return exists().where(_awaited.c.id == _links.awaited_id, _awaited.c.state.in_(states))


def _sweep_in(states: Collection[RunState]) -> ColumnElement[bool]:
    """Say that the last run of any row of an awaited sweep is in one of the states."""
    is_last = _awaited.c.retried_as.is_(None)
    return exists().where(_awaited.c.sweep_id == _links.awaited_id, _awaited.c.state.in_(states), is_last)


_UNENDED = or_(_run_in(_UNENDED_STATES), _sweep_in(_UNENDED_STATES))
_FAILED = or_(_run_in(_FAILED_STATES), _sweep_in(_FAILED_STATES))
_FAILED_FOR_GOOD = or_(_run_in(_FAILED_STATES), and_(_sweep_in(_FAILED_STATES), ~_sweep_in(_UNENDED_STATES)))


def _awaits(waiting_id: ColumnElement[str], condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(_links.waiting_id == waiting_id, condition)


def _is_unmet(waits_for: ColumnElement[str | None], waiting_id: ColumnElement[str]) -> ColumnElement[bool]:
    failed = and_(waits_for == Condition.SUCCEEDED, _FAILED)
    return and_(waits_for.is_not(None), _awaits(waiting_id, or_(_UNENDED, failed)))


def waits() -> ColumnElement[bool]:
    """Return the condition that a single run of `runs` waits for another run or for a sweep still.

    A success is for good: what a claim finds ready cannot become unready before the claim is committed. Of a sweep
    that had ended otherwise, runs may be queued again meanwhile; whoever waits for no more than its end may begin
    beside these.
    """
    return and_(runs.c.sweep_id.is_(None), _is_unmet(runs.c.waits_for, runs.c.id))


def sweep_waits(sweep_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that a sweep, as a whole, waits still."""
    return exists().where(sweeps.c.id == sweep_id, _is_unmet(sweeps.c.waits_for, sweeps.c.id))


@dataclass(frozen=True, slots=True)
class ChainStore:
    """Which run or sweep waits for which; decides nothing."""

    sweeps: SweepStore

    def add(self, connection: Connection, waiting_id: str, awaited: Collection[str]) -> None:
        """Let a new run or sweep wait for others, however often each is named."""
        if awaited:
            links = [{"waiting_id": waiting_id, "awaited_id": awaited_id} for awaited_id in dict.fromkeys(awaited)]
            connection.execute(insert(chain_links), links)

    def awaited(self, connection: Connection, ids: Collection[str]) -> dict[str, list[ChainedRun]]:
        """Return what each of some runs and sweeps waits for or waited for, in the order of submission."""
        return self._neighbours(connection, ids, _links.waiting_id, _links.awaited_id)

    def waiting(self, connection: Connection, ids: Collection[str]) -> dict[str, list[ChainedRun]]:
        """Return what waits or waited for each of some runs and sweeps, in the order of submission."""
        return self._neighbours(connection, ids, _links.awaited_id, _links.waiting_id)

    def of_person(self, connection: Connection, person: str, ids: Collection[str]) -> dict[str, ChainedRun]:
        """Return those of some runs and sweeps that are a person's, by id, in the order of submission."""
        return self._found(connection, ids, person)

    def lock_hopeless(self, connection: Connection) -> list[str]:
        """Return single queued runs, locked, that wait for the success of what has not succeeded; some, if many do."""
        query = (
            select(runs.c.id)
            .where(
                runs.c.state == RunState.QUEUED,
                runs.c.sweep_id.is_(None),
                runs.c.waits_for == Condition.SUCCEEDED,
                _awaits(runs.c.id, _FAILED_FOR_GOOD),
            )
            .order_by(runs.c.id)
            .limit(SLICE)
        )
        return list(connection.execute(query.with_for_update(skip_locked=True)).scalars())

    def lock_hopeless_sweep(self, connection: Connection) -> list[str]:
        """Return a sweep, locked, of which runs are queued that wait for the success of what has not succeeded."""
        query = (
            select(sweeps.c.id)
            .where(
                sweeps.c.waits_for == Condition.SUCCEEDED,
                exists().where(runs.c.sweep_id == sweeps.c.id, runs.c.state == RunState.QUEUED),
                _awaits(sweeps.c.id, _FAILED_FOR_GOOD),
            )
            .order_by(sweeps.c.id)
            .limit(1)
        )
        return list(connection.execute(query.with_for_update(skip_locked=True)).scalars())

    def cancel(self, connection: Connection, waiting_id: str, **values: object) -> int:
        """Set columns of a run, or of all runs of a sweep, where queued; return of how many."""
        of_it = or_(runs.c.id == waiting_id, runs.c.sweep_id == waiting_id)
        query = update(runs).where(of_it, runs.c.state == RunState.QUEUED)
        return connection.execute(query.values(state=RunState.CANCELLED, waiting_reason=None, **values)).rowcount

    def _neighbours(
        self, connection: Connection, ids: Collection[str], own: ColumnElement[str], other: ColumnElement[str]
    ) -> dict[str, list[ChainedRun]]:
        links: dict[str, set[str]] = defaultdict(set)
        if ids:
            for row in connection.execute(select(own, other).where(own.in_(ids))):
                links[row[0]].add(row[1])
        found = self._found(connection, {one for linked in links.values() for one in linked})
        return {one: [found[other_id] for other_id in found if other_id in links[one]] for one in ids}

    def _found(self, connection: Connection, ids: Collection[str], person: str | None = None) -> dict[str, ChainedRun]:
        if not ids:
            return {}
        found: dict[str, tuple[int, ChainedRun]] = {}
        query = select(runs.c.id, runs.c.name, runs.c.state, runs.c.submitted_at_ms).where(runs.c.id.in_(ids))
        for row in connection.execute(query if person is None else query.where(runs.c.person == person)):
            found[row.id] = row.submitted_at_ms, ChainedRun(run=row.id, name=row.name, state=RunState(row.state))
        whole = select(sweeps.c.id, sweeps.c.name, sweeps.c.submitted_at_ms).where(sweeps.c.id.in_(ids))
        of_sweeps = connection.execute(whole if person is None else whole.where(sweeps.c.person == person)).all()
        tallies = self.sweeps.tallies(connection, [one.id for one in of_sweeps]) if of_sweeps else {}
        for one in of_sweeps:
            state = RunState(tallies[one.id].state().value)
            found[one.id] = one.submitted_at_ms, ChainedRun(sweep=one.id, name=one.name, state=state)
        in_order = sorted(found, key=lambda found_id: (found[found_id][0], found_id))
        return {found_id: found[found_id][1] for found_id in in_order}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainService:
    """Ends the runs and sweeps that wait in vain."""

    database: Database
    clock: Clock
    chains: ChainStore

    def cancel_hopeless(self) -> int:
        """Cancel the queued runs whose condition can never be met any more, and those that wait for them in turn.

        Return how many. Whoever changes such a run or sweep meanwhile has it locked: it is passed over, and met by the
        next call if it still waits then. A sweep's runs are cancelled in a transaction without single ones: whoever
        locks several runs of both kinds does so in another order.
        """
        cancelled = 0
        while some := self._cancel(self.chains.lock_hopeless_sweep) + self._cancel(self.chains.lock_hopeless):
            cancelled += some
        return cancelled

    def _cancel(self, lock: Callable[[Connection], list[str]]) -> int:
        cancelled = 0
        with self.database.write() as connection:
            hopeless = lock(connection)
            awaited = self.chains.awaited(connection, hopeless)
            for waiting_id in hopeless:
                failed = next((one for one in awaited[waiting_id] if one.state in _FAILED_STATES), None)
                if failed is not None:  # else it was queued again between the two looks
                    cancelled += self.chains.cancel(
                        connection,
                        waiting_id,
                        ended_at_ms=self.clock.now_ms(),
                        end_code=EndCode.AWAITED_FAILED,
                        error=_in_vain(failed).model_dump_json(),
                    )
        return cancelled


def require_awaited(ids: Sequence[str], found: Mapping[str, ChainedRun], condition: Condition) -> None:
    """Raise the AllocationsError for which one cannot wait for `ids`, of which `found` are the person's.

    NotFoundError for one that is not; TransitionError for one that has ended in a way that the condition does not
    allow. One that ends meanwhile is not waited for in vain: what becomes of the new run is read off its state later.
    """
    for one in ids:
        if one not in found:
            raise NotFoundError(
                f"There is no run or sweep {one!r} of yours to wait for.", "Look its id up in the list of your runs."
            )
        awaited = found[one]
        if condition is Condition.SUCCEEDED and awaited.state in _FAILED_STATES:
            raise TransitionError(
                f"The {_kind(awaited)} {one} ({awaited.name}) {_ENDS[awaited.state]}: what waits for its success would "
                "never begin.",
                "Name one that has not ended otherwise, or let it be enough that it has ended.",
            )


def require_few(ids: Sequence[str]) -> tuple[str, ...]:
    """Return the ids of what is awaited, each once; InvalidInputError when there are too many."""
    once = tuple(dict.fromkeys(ids))
    if len(once) > AWAITED_MAX:
        raise InvalidInputError(
            f"A run or sweep can wait for {AWAITED_MAX} others at most.",
            "Let a run in between wait for a part of them.",
        )
    return once


def waiting_sentence(awaited: Sequence[ChainedRun], condition: Condition) -> str | None:
    """Return what is waited for still, in words; None when nothing is."""
    met = {RunState.SUCCEEDED} if condition is Condition.SUCCEEDED else ENDED_STATES
    unmet = [one for one in awaited if one.state not in met]
    if not unmet:
        return None
    named = ", ".join(f"{one.id} ({one.name})" for one in unmet[:NAMED_MAX])
    more = f" and {len(unmet) - NAMED_MAX} more" if len(unmet) > NAMED_MAX else ""
    what = "succeeded" if condition is Condition.SUCCEEDED else "ended"
    kinds = {_kind(one) for one in unmet}
    which = kinds.pop() if len(kinds) == 1 else ""
    these = f"this {which} has" if len(unmet) == 1 else f"these {which}s have" if which else "these have"
    return f"Waits until {these} {what}: {named}{more}."


def _kind(awaited: ChainedRun) -> str:
    return "run" if awaited.run else "sweep"


def _in_vain(awaited: ChainedRun) -> RunError:
    return RunError(
        name=AWAITED_FAILED,
        message=f"The {_kind(awaited)} {awaited.id} ({awaited.name}), for whose success this one "
        f"waited, {_ENDS[awaited.state]}. Nothing was executed and nothing was charged.",
    )
