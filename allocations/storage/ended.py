"""Follows areas whose owner has no allocation any more that goes on: told, limited, archived whole, or given back.

What is enforced, and where: from the end on the file system refuses what goes beyond what is there and the policy's
room (see `limits_bytes`), where its backend enforces limits (btrfs, XFS); within that, files can still be written over.
Nothing here mounts an area read-only, and where limits are only measured nothing refuses a write. Buckets are left as
they are: nothing archives them, so nobody is told that it does.

Invariants kept here:

- RETURNED: an area is not archived, and nothing more is deleted of it, once an allocation gives it to its owner again
  (the rules of a run that takes whole areas hold only as long as this is so; see `Standing`).
- TOLD_AHEAD: the archive of the whole area begins with its owners told at the end, by each of the policy's reminders
  as many days ahead as it says, and by the purge's own notice with the list; what they were told is never put forward.
- ONE_RUN_A_DAY: of a class one run is begun a day, so that the ceiling is that of all areas that come due together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

from allocations.clock import MS_PER_DAY
from allocations.lifecycle.authority import PLATFORM
from allocations.outbox import Notice, NoticeKind
from allocations.storage.ahead import due_reminder, is_told
from allocations.storage.ended_store import End
from allocations.storage.models import StorageClass
from allocations.storage.purge.models import (
    OVER_STATES,
    UNTOUCHED_STATES,
    ArchiveState,
    PurgeState,
    Run,
    RunKind,
    RunState,
)
from allocations.storage.purge.moving import MovedError
from allocations.storage.purge.service import new_purge
from allocations.storage.purge.standing import ENDED_STATES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.policy.models import Policy
    from allocations.storage.access import AreaAccess
    from allocations.storage.ended_store import Archiving, EndStore
    from allocations.storage.models import StoredArea
    from allocations.storage.purge.moving import Moves
    from allocations.storage.purge.standing import Standing
    from allocations.storage.purge.store import ArchiveStore, PurgeStore

TREES = (StorageClass.HOME, StorageClass.SCRATCH, StorageClass.SHARED)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndService:
    """Ends of areas: `look` follows them, the rest tells of them."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    access: AreaAccess
    ends: EndStore
    purges: PurgeStore
    archives: ArchiveStore
    moves: Moves
    standing: Standing
    authority: Authority

    def look(self, classes: Collection[StorageClass] = TREES) -> int:
        """Note what has ended and what has come back, remind, and begin runs over what is due; return how many areas
        something was done for. To be called again and again, by anybody, as often as they like.

        `classes` are those whose areas can be archived where this is installed: of others nobody is told that they are.
        """
        trees = [one for one in TREES if one in classes]
        with self.database.read() as connection:
            areas = [area for one in trees for area in self.access.areas.areas(connection, one)]
            ends = self.ends.all(connection)
            allocations = {one.id: one for one in self.authority.allocations.all(connection)}
            of_person = self.access.areas.memberships(connection)
        done = 0
        for area in areas:
            ended = all(allocations[one].state in ENDED_STATES for one in _ids_of(area, of_person))
            end = ends.get(area.id)
            if ended != (end is not None) or (end is not None and self._news(area, end)):
                done += self._look_at(area)
        return done + sum(self._begin(storage_class) for storage_class in trees)

    def limits_bytes(self, areas: Sequence[StoredArea]) -> dict[str, int]:
        """Return what those areas that have ended may take, in bytes, by their ids: the least that was measured of them
        since, and the policy's room. What was not measured since then is left out."""
        with self.database.read() as connection:
            ends = self.ends.all(connection)
        return {
            area.id: end.limit_bytes
            for area in areas
            if (end := ends.get(area.id)) is not None and end.limit_bytes is not None
        }

    def of_area(self, actor: Actor, area_id: str) -> End | None:
        """Return since when an area takes nothing new and when it is archived, None when it goes on; NotFoundError."""
        with self.database.read() as connection:
            return self.ends.get(connection, self.access.seen(connection, actor, area_id).id)

    # ------------------------------------------------------------------ inside

    def _look_at(self, area: StoredArea) -> bool:
        try:
            with self.database.write() as connection:
                end = self.ends.lock(connection, area.id)
                if not self.standing.has_ended(connection, area):
                    return end is not None and self._return(connection, area)
                if end is None:
                    return self._note_end(connection, area)
                return self._go_on(connection, area, end)
        except (IntegrityError, MovedError):
            # Another, or who carries the purge out, was faster: the next look sees what is left to do.
            return False

    def _note_end(self, connection: Connection, area: StoredArea) -> bool:
        now_ms, rules = self.clock.now_ms(), self.policy.storage.ended
        # A home may have been left by who was a member no longer, of which no date is known: it ends when that is seen.
        # What was archived or closed before its end has ended when it was.
        ended_at_ms = now_ms
        if area.owner.person is None:
            ended_at_ms = min(now_ms, *(one.ends_at_ms for one in self.standing.owned(connection, area)))
        end = End(
            area_id=area.id,
            ended_at_ms=ended_at_ms,
            seen_at_ms=now_ms,
            archive_at_ms=max(
                ended_at_ms + rules.archive_after_days * MS_PER_DAY, now_ms + rules.reminders_days[0] * MS_PER_DAY
            ),
            limit_bytes=self._limit_bytes(area, None),
        )
        self.ends.add(connection, end)
        self._record(connection, "storage.end", area, ended_at_ms=ended_at_ms, archive_at_ms=end.archive_at_ms)
        self._tell(connection, NoticeKind.STORAGE_ENDED, area, str(now_ms), end.archive_at_ms)
        return True

    def _news(self, area: StoredArea, end: End) -> dict[str, int]:
        """Return what is to be noted of an area that has ended still."""
        values: dict[str, int] = {}
        limit_bytes = self._limit_bytes(area, end.limit_bytes)
        if limit_bytes is not None and limit_bytes != end.limit_bytes:
            values["limit_bytes"] = limit_bytes
        reminders_days = self.policy.storage.ended.reminders_days
        due = due_reminder(reminders_days, end.archive_at_ms, end.reminded_days, self.clock.now_ms())
        if due is not None:
            values["reminded_days"], values["archive_at_ms"] = due
        return values

    def _go_on(self, connection: Connection, area: StoredArea, end: End) -> bool:
        values = self._news(area, end)
        if not values:
            return False
        self.ends.change(connection, area.id, **values)
        if "reminded_days" in values:
            days, archive_at_ms = values["reminded_days"], values["archive_at_ms"]
            self._record(connection, "storage.end-reminder", area, days=days, archive_at_ms=archive_at_ms)
            threshold = f"{end.seen_at_ms} {days}"
            self._tell(connection, NoticeKind.STORAGE_ARCHIVED_SOON, area, threshold, archive_at_ms)
        return True

    def _limit_bytes(self, area: StoredArea, limit_bytes: int | None) -> int | None:
        """Return what an area may take: less with each measure that finds less, never more."""
        if area.bytes is None:
            return limit_bytes
        measured = area.bytes + self.policy.storage.ended.room_bytes
        return measured if limit_bytes is None else min(limit_bytes, measured)

    def _return(self, connection: Connection, area: StoredArea) -> bool:
        """Give an area back: what is under way ends where it is, and what was not deleted stays."""
        self.ends.remove(connection, area.id)
        for archiving in self.ends.archivings(connection, [area.id]).get(area.id, []):
            if archiving.state in UNTOUCHED_STATES:
                purge = self.purges.get(connection, archiving.purge_id)
                assert purge is not None, "it was found"
                self.moves.move(connection, purge, PurgeState.CANCELLED, why="an allocation gives the area again")
                # Nothing was deleted by it: all that is in it is where it was.
                if purge.archive_id is not None:
                    for state in (ArchiveState.WRITING, ArchiveState.KEPT):
                        self.archives.change(connection, purge.archive_id, state, state=ArchiveState.BROKEN)
        self._record(connection, "storage.return", area)
        self._tell(connection, NoticeKind.STORAGE_RETURNED, area, str(self.clock.now_ms()), None)
        return True

    # ------------------------------------------------------------------ archive

    def _begin(self, storage_class: StorageClass) -> int:
        """Begin a run over the areas of a class that are due, unless one was begun today; return how many they are."""
        with self.database.read() as connection:
            if not self._due(connection, storage_class):
                return 0
        try:
            with self.database.write() as connection:
                due = self._due(connection, storage_class)
                if due:
                    self._add_run(connection, storage_class, due)
                return len(due)
        except IntegrityError:
            # Two that begin at once, of which neither saw the other: the table lets one of them in.
            return 0

    def _due(self, connection: Connection, storage_class: StorageClass) -> list[StoredArea]:
        now_ms = self.clock.now_ms()
        begun_today = self.ends.runs_since(connection, storage_class, now_ms - now_ms % MS_PER_DAY)
        if begun_today or self.purges.stop(connection) is not None:
            return []
        ends = self.ends.all(connection)
        areas = [one for one in self.access.areas.areas(connection, storage_class) if one.id in ends]
        ids = [one.id for one in areas]
        busy = {one.area_id for one in self.purges.under_way(connection, ids)}
        before = self.ends.archivings(connection, ids)
        return [
            area
            for area in areas
            if area.id not in busy
            and self._is_due(area, ends[area.id], now_ms, before.get(area.id, ()))
            and self.standing.has_ended(connection, area)
        ]

    def _is_due(self, area: StoredArea, end: End, now_ms: int, archivings: Sequence[Archiving]) -> bool:
        rules, window_ms = self.policy.storage.ended, self.policy.storage.purge.window_days * MS_PER_DAY
        if not is_told(rules.reminders_days, end.reminded_days) or now_ms < end.archive_at_ms - window_ms:
            return False
        last = next((one for one in archivings if one.begun_at_ms >= end.seen_at_ms), None)
        if last is None:
            return True
        if last.state not in OVER_STATES or now_ms < last.changed_at_ms + rules.again_days * MS_PER_DAY:
            return False
        # What is there after all was archived are our own lists, unless somebody had something open for long.
        written_since = (area.measured_at_ms or 0) > last.changed_at_ms and (area.bytes or 0) > rules.room_bytes
        return last.state is not PurgeState.DONE or last.left_files > 0 or written_since

    def _add_run(self, connection: Connection, storage_class: StorageClass, areas: Sequence[StoredArea]) -> None:
        now_ms = self.clock.now_ms()
        run = Run(
            id=self.new_id("pr"),
            storage_class=storage_class,
            as_of_ms=now_ms,
            dry_run=False,
            state=RunState.OPEN,
            made_by=PLATFORM,
            files=0,
            bytes=0,
            confirmed_by=None,
            confirmed_at_ms=None,
            stopped_by=None,
            stopped_at_ms=None,
            created_at_ms=now_ms,
            kind=RunKind.ENDED,
        )
        self.purges.add_run(connection, run)
        for area in areas:
            self.purges.add(connection, new_purge(self.new_id("p"), run, area.id))
        self.authority.record(
            connection, PLATFORM, "purge.run", run.id, storage_class=storage_class, kind=run.kind, areas=len(areas)
        )

    # ------------------------------------------------------------------ telling

    def _record(self, connection: Connection, action: str, area: StoredArea, **details: object) -> None:
        self.authority.record(connection, PLATFORM, action, area.id, "", **details)

    def _tell(
        self, connection: Connection, kind: NoticeKind, area: StoredArea, threshold: str, ends_at_ms: int | None
    ) -> None:
        details: dict[str, str | int] = {"area": self.access.name(connection, area)}
        if ends_at_ms is not None:
            details["ends_at_ms"] = ends_at_ms
        people = self.access.concerned(connection, area)
        self.authority.tell(connection, *(Notice(person, kind, area.id, threshold, details) for person in people))


def _ids_of(area: StoredArea, of_person: Mapping[str, set[str]]) -> set[str]:
    if area.owner.person is not None:
        return of_person.get(area.owner.person, set())
    assert area.owner.allocation_id is not None, "an area has an owner"
    return {area.owner.allocation_id}
