"""Carries purges out, a step at a time: where the files are, by a process that may be killed at any moment.

A step begins with what the database says, writes files that are there whole or not at all, and ends with a transaction
that takes the purge to its next state and tells of it. Killed before that, it is done again, and finds what is there.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND
from allocations.errors import AllocationsError
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.stores import StoreError
from allocations.storage.archive.write import OtherPlanError
from allocations.storage.purge.files import PlanLostError
from allocations.storage.purge.guarding import LOCK_SECONDS, HaltError, Held, area_duty
from allocations.storage.purge.models import PurgeState, PurgeView
from allocations.storage.purge.moving import MovedError
from allocations.storage.purge.service import awaits_confirmation
from allocations.storage.purge.steps import AGAIN_SECONDS, AbsentAreaError, Steps
from allocations.storage.tree.scan import ScanError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.duties import Duties
    from allocations.policy.models import Policy
    from allocations.storage.access import AreaAccess
    from allocations.storage.models import StorageClass
    from allocations.storage.purge.models import Mount, Purge, Run
    from allocations.storage.purge.moving import Moves
    from allocations.storage.purge.store import PurgeStore

__all__ = ["POINTS", "PurgeRunner", "area_duty"]

# What `reached` is told, in the order in which a purge comes by; those of `delete` stand between the last but three.
POINTS = (
    "plan written",
    "planned",
    "list written",
    "noticed",
    "begun",
    "chosen",
    "archive written",
    "archive verified",
    "verified",
    "deleting",
    "batch begun",
    "deleted",
    "report written",
    "done",
)
NO_ROOM = (
    "There is no room for plans: make some where `state` of the settings of storage says. Nothing is lost; it is tried "
    "again every few minutes."
)
_WORKED_ON = (
    PurgeState.PLANNING,
    PurgeState.PLANNED,
    PurgeState.DUE,
    PurgeState.ARCHIVING,
    PurgeState.VERIFIED,
    PurgeState.DELETING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeRunner:
    """What a process with the mounts does: `next_step` until there is none, and `advance` on each."""

    database: Database
    clock: Clock
    policy: Policy
    access: AreaAccess
    purges: PurgeStore
    moves: Moves
    steps: Steps
    duties: Duties

    def next_step(self, holder: str, classes: Collection[StorageClass]) -> PurgeView | None:
        """Return the purge that can go on and has waited longest, its area locked for `holder`; None: there is none.

        `classes` are those whose areas the process has; `holder` is a name that no other process has. What is stopped,
        waits for its window, for a confirmation or for a problem to pass, or is locked by another, is passed over.
        """
        with self.database.read() as connection:
            if self.purges.stop(connection) is not None:
                return None
            waiting = self.purges.in_open_runs(connection, _WORKED_ON)
            ready = [
                purge for purge, run in waiting if run.storage_class in classes and self._may(connection, purge, run)
            ]
        for purge in ready:
            if not self.duties.take(area_duty(purge.area_id), holder, LOCK_SECONDS):
                continue
            # Whoever had the lock before may have taken it on since we looked.
            with self.database.read() as connection:
                view = self._view(connection, purge.id)
            if view is not None and view.purge.state is purge.state:
                return view
            self.duties.lay_down(area_duty(purge.area_id), holder)
        return None

    def areas_deleted_from(self) -> frozenset[str]:
        """Return the areas whose files are being deleted, so that there may have to be room for that."""
        with self.database.read() as connection:
            deleting = self.purges.in_open_runs(connection, [PurgeState.DELETING])
        return frozenset(purge.area_id for purge, _run in deleting)

    def advance(
        self, holder: str, step: PurgeView, mount: Mount, reached: Callable[[str], None] = lambda _point: None
    ) -> PurgeState:
        """Take a purge one state further and unlock its area; returns the state that it is in then.

        What can be tried again (a store that is away, a lock that was lost, a stop) leaves it in its state, with
        `problem` where there is one. What cannot (a plan that is gone or damaged) makes it `failed`. Only a broken
        database, or the end of the process, raises. `reached` is told the POINTS as they are come by, and those of
        `allocations.storage.purge.delete`.
        """
        purge = step.purge
        with Held(
            database=self.database,
            purges=self.purges,
            duties=self.duties,
            area_id=purge.area_id,
            run_id=purge.run_id,
            holder=holder,
        ) as held:
            try:
                held.check()
                self.steps.take(step, mount, held, reached)
            except (HaltError, MovedError):
                pass
            except (PlanLostError, AbsentAreaError) as error:
                self._fail(purge, f"{error.detail} {error.remedy}")
            except (OtherPlanError, DamagedError) as error:
                self.steps.give_archive_up(purge, str(error))
            except (StoreError, ScanError) as error:
                self._note(purge, str(error))
            except OSError as error:
                # Stores and areas tell by errors of their own that they are full.
                self._note(purge, NO_ROOM if error.errno in {errno.ENOSPC, errno.EDQUOT} else str(error))
            except AllocationsError as error:
                self._note(purge, f"{error.detail} {error.remedy}")
        with self.database.read() as connection:
            view = self._view(connection, purge.id)
        assert view is not None, "purges are never removed"
        return view.purge.state

    # ------------------------------------------------------------------ inside

    def _may(self, connection: Connection, purge: Purge, run: Run) -> bool:
        now_ms = self.clock.now_ms()
        wait_ms = (purge.again_at_ms or now_ms) - now_ms
        # One that is far ahead was written by a clock that was.
        if 0 < wait_ms <= AGAIN_SECONDS * MS_PER_SECOND or purge.is_within_window(now_ms):
            return False
        if purge.state is PurgeState.PLANNED:
            return not run.dry_run
        if purge.state is PurgeState.DUE:
            planning = self.purges.count(connection, run.id, [PurgeState.PLANNING])
            return not planning and not awaits_confirmation(run, self.policy.storage.purge)
        return True

    def _view(self, connection: Connection, purge_id: str) -> PurgeView | None:
        purge = self.purges.get(connection, purge_id)
        if purge is None:
            return None
        area, run = self.access.areas.find(connection, purge.area_id), self.purges.run(connection, purge.run_id)
        assert area is not None, "a purge is of an area"
        assert run is not None, "a purge is of a run"
        return PurgeView(purge, area, run)

    def _fail(self, purge: Purge, problem: str) -> None:
        with self.database.write() as connection:
            current = self.purges.get(connection, purge.id)
            if current is not None and current.state is purge.state:
                self.moves.move(connection, current, PurgeState.FAILED, why=problem, sets={"problem": problem})

    def _note(self, purge: Purge, problem: str) -> None:
        again_at_ms = self.clock.now_ms() + AGAIN_SECONDS * MS_PER_SECOND
        with self.database.write() as connection:
            self.purges.change(connection, purge.id, purge.state, problem=problem, again_at_ms=again_at_ms)
