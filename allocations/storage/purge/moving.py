"""Moves a purge from one state to the next, with its audit entry, the news where it is called off and, at its end, its
run's entry, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from allocations.errors import TransitionError
from allocations.lifecycle.authority import PLATFORM
from allocations.storage.purge.models import OVER_STATES, PurgeState, RunState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.lifecycle.authority import Authority
    from allocations.storage.purge.models import Purge, Run
    from allocations.storage.purge.store import PurgeStore
    from allocations.storage.purge.telling import PurgeNotices

_NOTHING: Mapping[str, object] = MappingProxyType({})


class MovedError(TransitionError):
    """Somebody else has taken the purge on meanwhile."""

    code = "purge_moved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """The one way in which purges change their state."""

    clock: Clock
    purges: PurgeStore
    authority: Authority
    notices: PurgeNotices

    def move(
        self,
        connection: Connection,
        purge: Purge,
        to: PurgeState,
        *,
        actor: str = PLATFORM,
        why: str = "",
        told: Mapping[str, object] = _NOTHING,
        sets: Mapping[str, object] = _NOTHING,
    ) -> None:
        """Take a purge from the state that it was seen in to another, and set columns to what `sets` says.

        `told` is for the audit log.

        Raises MovedError when it is not in that state any more. The run is locked first: of two purges that end at
        once, each would else take the other for unfinished, and nobody would end the run.
        """
        run = self.purges.lock_run(connection, purge.run_id)
        assert run is not None, "a purge is of a run"
        now_ms = self.clock.now_ms()
        values = {"problem": None, "again_at_ms": None, **sets, "state": to, "changed_at_ms": now_ms}
        if not self.purges.change(connection, purge.id, purge.state, **values):
            raise MovedError("The purge has gone on meanwhile.", "Look at it again.")
        about: dict[str, object] = {"run": purge.run_id, "area": purge.area_id, **told}
        self.authority.record(connection, actor, f"purge.{to}", purge.id, why, **about)
        if to in {PurgeState.CANCELLED, PurgeState.FAILED}:
            self.notices.called_off(connection, purge, to)
        if to is PurgeState.PLANNED:
            moved = replace(purge, **sets)  # type: ignore[arg-type]  # columns are named as fields are
            sums = {"files": run.files + moved.files, "bytes": run.bytes + moved.bytes}
            self.purges.change_run(connection, run.id, tuple(RunState), **sums)
        if to in self._last_states(run):
            self.end_if_over(connection, run)

    def end_if_over(self, connection: Connection, run: Run) -> None:
        """End a run, which is locked, when each of its purges has."""
        last = self._last_states(run)
        if not self.purges.count(connection, run.id, frozenset(PurgeState) - last) and self.purges.change_run(
            connection, run.id, (RunState.OPEN, RunState.STOPPED), state=RunState.DONE
        ):
            self.authority.record(connection, PLATFORM, "purge.run-done", run.id)

    def _last_states(self, run: Run) -> frozenset[PurgeState]:
        return OVER_STATES | {PurgeState.PLANNED} if run.dry_run else OVER_STATES
