"""Begins purges, tells whose files they are of, and lets administrators confirm, stop and resume them.

Invariants kept here:

- ONE_AT_A_TIME: an area has one purge under way: an index lets no second one in.
- WINDOW: what owners were told of is not taken before the end that they were told, nor before a last reminder has been
  out for as long as it is to be ahead, whatever the clock did; and the end is never put off by planning again.
- CEILING: nothing of a run is taken before all of it is planned and, beyond the ceiling, a person confirmed the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

from allocations.clock import MS_PER_DAY
from allocations.db.idempotency import IdempotencyKey, answered_once
from allocations.errors import InvalidInputError, NotAllowedError, NotFoundError, TransitionError
from allocations.storage.models import BYTES_PER_GB, Owner, StorageClass
from allocations.storage.purge.listing import list_place
from allocations.storage.purge.models import (
    UNTOUCHED_STATES,
    Purge,
    PurgeState,
    PurgeView,
    Run,
    RunState,
    RunView,
    Stop,
    Summary,
)
from allocations.storage.purge.moving import MovedError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.policy.models import Policy
    from allocations.policy.storage import PurgeTimes
    from allocations.storage.access import AreaAccess
    from allocations.storage.purge.moving import Moves
    from allocations.storage.purge.standing import Standing
    from allocations.storage.purge.store import ArchiveStore, PurgeStore
    from allocations.storage.purge.telling import PurgeNotices


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeService:
    """Purges as people see and steer them; `PurgeRunner` (in run.py) carries them out where the files are."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    access: AreaAccess
    purges: PurgeStore
    archives: ArchiveStore
    moves: Moves
    standing: Standing
    notices: PurgeNotices
    authority: Authority

    # ------------------------------------------------------------------ for administrators

    @answered_once
    def plan(
        self,
        actor: Actor,
        storage_class: StorageClass,
        *,
        as_of_ms: int | None = None,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> Run:
        """Begin a run over the areas of a class that some rule holds for; administrators only.

        Files count as old as of `as_of_ms` (now by default); a moment to come needs a dry run, which looks and says
        what would go. Areas with a purge under way are left out. Raises NotAllowedError, InvalidInputError.
        """
        _require_admin(actor)
        now_ms = self.clock.now_ms()
        at_ms = now_ms if as_of_ms is None else as_of_ms
        if at_ms > now_ms and not dry_run:
            raise InvalidInputError("What is old at a moment to come cannot be purged now.", "Ask for a dry run.")
        if storage_class is StorageClass.OBJECT:
            raise InvalidInputError("Buckets are not purged here.", "Give the bucket a lifecycle of its own.")
        run = Run(
            id=self.new_id("pr"),
            storage_class=storage_class,
            as_of_ms=at_ms,
            dry_run=dry_run,
            state=RunState.OPEN,
            made_by=actor.name,
            files=0,
            bytes=0,
            confirmed_by=None,
            confirmed_at_ms=None,
            stopped_by=None,
            stopped_at_ms=None,
            created_at_ms=now_ms,
        )
        body = {"storage_class": storage_class, "as_of_ms": as_of_ms, "dry_run": dry_run}
        key = IdempotencyKey.for_request(actor.name, idempotency_key, "purge.run", body) if idempotency_key else None
        try:
            with self.database.write() as connection:
                known = key.recall(connection) if key else None
                if known is not None:
                    return self._found(self.purges.run(connection, known), known)
                busy = set() if dry_run else {one.area_id for one in self.purges.under_way(connection)}
                areas = [
                    area
                    for area in self.access.areas.areas(connection, storage_class)
                    if area.id not in busy and self.standing.has_rules(connection, area)
                ]
                if not areas:
                    raise TransitionError(
                        f"There is no {storage_class} that a rule holds for and no purge is under way of.",
                        "See `meridian purge list`, and the rules in storage.yaml.",
                    )
                self.purges.add_run(connection, run)
                for area in areas:
                    self.purges.add(connection, new_purge(self.new_id("p"), run, area.id))
                self.authority.record(
                    connection,
                    actor.name,
                    "purge.run",
                    run.id,
                    storage_class=storage_class,
                    as_of_ms=at_ms,
                    dry_run=dry_run,
                    areas=len(areas),
                )
                if key:
                    key.remember(connection, run.id, now_ms)
        except IntegrityError as error:
            # Two runs that begin at once, of which neither saw the other: the table lets one of them in.
            raise TransitionError("Another run begins just now.", "Look at it first.") from error
        return run

    def runs(self, actor: Actor, count_max: int = 50) -> list[Run]:
        """Return the newest runs, newest first; administrators only."""
        _require_admin(actor)
        with self.database.read() as connection:
            return self.purges.runs(connection, count_max)

    def run(self, actor: Actor, run_id: str) -> RunView:
        """Return a run with its purges; administrators only. Raises NotFoundError."""
        _require_admin(actor)
        with self.database.read() as connection:
            return self._view(connection, self._found(self.purges.run(connection, run_id), run_id))

    def confirm(self, actor: Actor, run_id: str, *, files: int, bytes_: int, why: str) -> RunView:
        """Let a run delete more than the ceiling: just as many files and bytes as it has planned, which who confirms
        has to name. Administrators only; TransitionError while it is still planning, or when the numbers are others.
        """
        self.authority.require_admin(actor, why)
        with self.database.write() as connection:
            run = self._locked(connection, run_id)
            view = self._view(connection, run)
            if run.state not in {RunState.OPEN, RunState.STOPPED} or not view.awaits:
                raise TransitionError("This run waits for nobody to confirm it.", "Nothing was changed.")
            if any(one.state is PurgeState.PLANNING for one in view.purges):
                raise TransitionError("The run is still planning.", "Wait until its sum is known.")
            if (files, bytes_) != (run.files, run.bytes):
                raise TransitionError(
                    f"The run has planned {run.files} files of {run.bytes} bytes.",
                    "Look at it again, then confirm that.",
                )
            confirmed = {"confirmed_by": actor.name, "confirmed_at_ms": self.clock.now_ms()}
            self.purges.change_run(connection, run.id, (run.state,), **confirmed)
            self.authority.record(connection, actor.name, "purge.confirm", run.id, why, files=files, bytes=bytes_)
            return self._view(connection, self._locked(connection, run_id))

    def stop(self, actor: Actor, run_id: str, why: str) -> Run:
        """Stop a run where it is, between two batches of files; administrators only. Raises TransitionError."""
        return self._steer(actor, run_id, why, RunState.OPEN, RunState.STOPPED)

    def resume(self, actor: Actor, run_id: str, why: str) -> Run:
        """Let a stopped run go on; administrators only. Raises TransitionError."""
        return self._steer(actor, run_id, why, RunState.STOPPED, RunState.OPEN)

    def cancel(self, actor: Actor, run_id: str, why: str) -> Run:
        """End a run for good, but for areas from which something was deleted already; administrators only.

        Those go on to their end, so that their owners get the report; who does not want that stops the run instead.
        Raises TransitionError when the run is over.
        """
        self.authority.require_admin(actor, why)
        with self.database.write() as connection:
            run = self._locked(connection, run_id)
            if run.state not in {RunState.OPEN, RunState.STOPPED}:
                raise TransitionError("The run is over.", "Nothing was changed.")
            self.authority.record(connection, actor.name, "purge.cancel", run.id, why)
            purges = self.purges.of_run(connection, run.id)
            if all(purge.state is not PurgeState.DELETING for purge in purges):
                by = {"stopped_by": actor.name, "stopped_at_ms": self.clock.now_ms()}
                self.purges.change_run(connection, run.id, (run.state,), state=RunState.CANCELLED, **by)
            for purge in purges:
                if purge.state in UNTOUCHED_STATES:
                    self.moves.move(connection, purge, PurgeState.CANCELLED, actor=actor.name, why=why)
                    if purge.archive_id is not None:
                        self.archives.give_up(connection, purge.archive_id)
            return self._locked(connection, run_id)

    def stop_all(self, actor: Actor, why: str) -> Stop:
        """Stop every purge there is and will be; administrators only."""
        self.authority.require_admin(actor, why)
        with self.database.write() as connection:
            stop = Stop(actor.name, self.clock.now_ms(), why.strip())
            self.purges.set_stop(connection, stop)
            self.authority.record(connection, actor.name, "purge.stop-all", "purges", why)
            return stop

    def resume_all(self, actor: Actor, why: str) -> None:
        """Let purges go on; those of stopped runs stay where they are. Administrators only; TransitionError."""
        self.authority.require_admin(actor, why)
        with self.database.write() as connection:
            if self.purges.stop(connection) is None:
                raise TransitionError("Purges are not stopped.", "Nothing was changed.")
            self.purges.set_stop(connection, None)
            self.authority.record(connection, actor.name, "purge.resume-all", "purges", why)

    def stopped(self) -> Stop | None:
        """Return what stops every purge, None when nothing does."""
        with self.database.read() as connection:
            return self.purges.stop(connection)

    # ------------------------------------------------------------------ for owners

    def of_area(self, actor: Actor, area_id: str, count_max: int = 20) -> list[PurgeView]:
        """Return the purges of an area that are no dry runs, changed last first; raises NotFoundError."""
        with self.database.read() as connection:
            area = self.access.seen(connection, actor, area_id)
            return [self._of(connection, one) for one in self.purges.of_areas(connection, [area.id], count_max)]

    def purge(self, actor: Actor, purge_id: str) -> PurgeView:
        """Return a purge to those who may know of its area; raises NotFoundError."""
        with self.database.read() as connection:
            purge = self.purges.get(connection, purge_id)
            if purge is None or (purge.dry_run and not actor.admin):
                raise NotFoundError(f"There is no purge {purge_id!r}.", "Choose one of your storage.")
            self.access.seen(connection, actor, purge.area_id)
            return self._of(connection, purge)

    def under_way(self, actor: Actor) -> list[PurgeView]:
        """Return the purges under way of the areas that a person has: their own, and those of their allocations."""
        with self.database.read() as connection:
            owners = [Owner(person=actor.name)]
            allocations = self.authority.allocations.of_person(connection, actor.name)
            owners += [Owner(allocation_id=one.id) for one, _role in allocations]
            found = [self.access.areas.get(connection, of, owner) for of in StorageClass for owner in owners]
            area_ids = [area.id for area in found if area is not None]
            return [self._of(connection, one) for one in self.purges.under_way(connection, area_ids)]

    # ------------------------------------------------------------------ for the calendar

    def look(self) -> int:
        """Send the reminders that are due, and let what its owners have had their time for go on; return how many
        purges moved. To be called again and again, by anybody, as often as they like."""
        with self.database.read() as connection:
            if self.purges.stop(connection) is not None:
                return 0
            noticed = self.purges.in_open_runs(connection, [PurgeState.NOTICED])
        moved = 0
        for purge, _run in noticed:
            try:
                with self.database.write() as connection:
                    moved += self._look_at(connection, purge)
            except MovedError:
                continue
        return moved

    # ------------------------------------------------------------------ inside

    def _look_at(self, connection: Connection, purge: Purge) -> bool:
        """Remind of a purge, or let it go on; return whether something was done."""
        now_ms, ends_at_ms = self.clock.now_ms(), purge.window_ends_at_ms
        assert ends_at_ms is not None, "its owners were told an end"
        ahead = self.policy.storage.purge.reminders_days
        reached = [days for days in ahead if now_ms >= ends_at_ms - days * MS_PER_DAY]
        if reached and (purge.reminded_days is None or reached[-1] < purge.reminded_days):
            # Late, because nobody looked or the clock leapt: the last one is nevertheless so many days ahead.
            until_ms = max(ends_at_ms, now_ms + reached[-1] * MS_PER_DAY)
            self._remind(connection, purge, reached[-1], until_ms)
            return True
        if purge.reminded_at_ms is not None and purge.reminded_at_ms > now_ms:
            # The clock was ahead when it went out, and it has been out since before now.
            self.purges.change(connection, purge.id, purge.state, reminded_at_ms=now_ms)
            return True
        if purge.is_within_window(now_ms) or (ahead and not _is_out_long_enough(purge, ahead[-1], now_ms)):
            return False
        self.moves.move(connection, purge, PurgeState.DUE)
        return True

    def _remind(self, connection: Connection, purge: Purge, days: int, ends_at_ms: int) -> None:
        now_ms = self.clock.now_ms()
        # What people were told last is what holds.
        told = {"reminded_days": days, "reminded_at_ms": now_ms, "window_ends_at_ms": ends_at_ms}
        if not self.purges.change(connection, purge.id, purge.state, **told):
            raise MovedError("The purge has gone on meanwhile.", "Look at it again.")
        view = self._of(connection, purge)
        place = list_place(view.run, purge)
        self.notices.reminder(connection, purge, view.area, days=days, ends_at_ms=ends_at_ms, place=place)

    def _steer(self, actor: Actor, run_id: str, why: str, before: RunState, after: RunState) -> Run:
        self.authority.require_admin(actor, why)
        with self.database.write() as connection:
            run = self._locked(connection, run_id)
            by = {"stopped_by": actor.name, "stopped_at_ms": self.clock.now_ms()}
            if after is RunState.OPEN:
                by = dict.fromkeys(by)
            if not self.purges.change_run(connection, run.id, (before,), state=after, **by):
                raise TransitionError(f"The run is {run.state}.", "Nothing was changed.")
            action = "purge.stop" if after is RunState.STOPPED else "purge.resume"
            self.authority.record(connection, actor.name, action, run.id, why)
            return self._locked(connection, run_id)

    def _locked(self, connection: Connection, run_id: str) -> Run:
        return self._found(self.purges.lock_run(connection, run_id), run_id)

    def _found(self, run: Run | None, run_id: str) -> Run:
        if run is None:
            raise NotFoundError(f"There is no run {run_id!r}.", "See `meridian purge list`.")
        return run

    def _view(self, connection: Connection, run: Run) -> RunView:
        purges = tuple(self.purges.of_run(connection, run.id))
        return RunView(run, purges, awaits_confirmation(run, self.policy.storage.purge))

    def _of(self, connection: Connection, purge: Purge) -> PurgeView:
        area, run = self.access.areas.find(connection, purge.area_id), self.purges.run(connection, purge.run_id)
        assert area is not None, "a purge is of an area"
        assert run is not None, "a purge is of a run"
        return PurgeView(purge, area, run)


def awaits_confirmation(run: Run, times: PurgeTimes) -> bool:
    """Say whether what a run has planned so far is beyond the ceiling, and nobody has confirmed it."""
    beyond = run.files > times.ceiling.files or run.bytes > times.ceiling.gb * BYTES_PER_GB
    return beyond and run.confirmed_at_ms is None and not run.dry_run


def _is_out_long_enough(purge: Purge, days: int, now_ms: int) -> bool:
    """Say whether the last reminder, which is to be so many days ahead, has been out for as long."""
    if purge.reminded_days is None or purge.reminded_at_ms is None or purge.reminded_days > days:
        return False
    return now_ms - purge.reminded_at_ms >= days * MS_PER_DAY


def _require_admin(actor: Actor) -> None:
    if not actor.admin:
        raise NotAllowedError("Only administrators see and steer runs of purges.", "Write to them.")


def new_purge(purge_id: str, run: Run, area_id: str) -> Purge:
    """Return what a run is to do to an area, before anything is done."""
    return Purge(
        id=purge_id,
        run_id=run.id,
        area_id=area_id,
        dry_run=run.dry_run,
        state=PurgeState.PLANNING,
        files=0,
        bytes=0,
        folders=0,
        plan_sha256=None,
        summary=Summary(),
        window_ends_at_ms=None,
        reminded_days=None,
        reminded_at_ms=None,
        archive_id=None,
        position=0,
        deleted_files=0,
        deleted_bytes=0,
        left_files=0,
        problem=None,
        again_at_ms=None,
        changed_at_ms=run.created_at_ms,
    )
