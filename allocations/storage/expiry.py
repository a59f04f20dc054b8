"""Lets archives expire: their owners are told ahead, then they are nobody's to restore any more, then they are removed.

Invariants kept here:

- TOLD_AHEAD: an archive expires when its owners were sent each of the policy's reminders as many days ahead as it says,
  whatever the clock did and however long nobody looked: the end is put off then, and never put forward.
- NOT_WHILE_NEEDED: one that something is being restored from, or that a purge still deletes by, does not expire.
- EXPIRED_FIRST: objects are removed of what the database says has expired, or was given up, and of nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY
from allocations.lifecycle.authority import PLATFORM
from allocations.outbox import Notice, NoticeKind
from allocations.storage.ahead import due_reminder, is_told
from allocations.storage.archive.removal import remove_archive
from allocations.storage.archive.stores import StoreError
from allocations.storage.purge.models import ArchiveState, RestoreState
from allocations.storage.purge.run import area_duty
from allocations.storage.purge.telling import told_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.duties import Duties
    from allocations.lifecycle.authority import Authority
    from allocations.policy.models import Policy
    from allocations.storage.access import AreaAccess
    from allocations.storage.purge.models import Places, StoredArchive
    from allocations.storage.purge.store import ArchiveStore

OPEN_STATES = frozenset({RestoreState.ASKED, RestoreState.RUNNING})
TO_BE_REMOVED = (ArchiveState.EXPIRED, ArchiveState.BROKEN)
# For how long an area is kept from others before the removal of one object of its archive.
LOCK_SECONDS = 600


class _LostError(Exception):
    """Somebody else has the area."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryService:
    """The ends of archives."""

    database: Database
    clock: Clock
    policy: Policy
    access: AreaAccess
    archives: ArchiveStore
    authority: Authority

    def look(self) -> int:
        """Send the reminders that are due, let what has had its time expire, and give up what nobody writes any more;
        return of how many archives that was. To be called again and again, by anybody, as often as they like."""
        reminders_days = self.policy.storage.archives.reminders_days
        ahead_ms = max(reminders_days, default=0) * MS_PER_DAY
        with self.database.read() as connection:
            due = self.archives.due(connection, self.clock.now_ms() + ahead_ms)
            abandoned = self.archives.abandoned(connection)
        done = 0
        for archive in due:
            with self.database.write() as connection:
                done += self._look_at(connection, archive.id)
        for archive in abandoned:
            with self.database.write() as connection:
                done += self._give_up(connection, archive)
        return done

    # ------------------------------------------------------------------ inside

    def _look_at(self, connection: Connection, archive_id: str) -> bool:
        # Who asks for a restore refers to the row: either they come first, and are seen here, or they wait and find out
        # when the restore begins that it has expired.
        archive = self.archives.lock(connection, archive_id)
        if archive is None or archive.state is not ArchiveState.KEPT or archive.keep_until_ms is None:
            return False
        now_ms, reminders_days = self.clock.now_ms(), self.policy.storage.archives.reminders_days
        due = due_reminder(reminders_days, archive.keep_until_ms, archive.reminded_days, now_ms)
        if due is not None:
            self._remind(connection, archive, *due)
            return True
        if now_ms < archive.keep_until_ms or not is_told(reminders_days, archive.reminded_days):
            return False
        if self._is_needed(connection, archive):
            return False
        self.archives.change(connection, archive.id, archive.state, state=ArchiveState.EXPIRED)
        self._record(connection, "archive.expire", archive, files=archive.files, bytes=archive.bytes)
        return True

    def _is_needed(self, connection: Connection, archive: StoredArchive) -> bool:
        restores = self.archives.restores_of(connection, [archive.id])
        return any(one.state in OPEN_STATES for one in restores) or self.archives.is_used(connection, archive.id)

    def _remind(self, connection: Connection, archive: StoredArchive, days: int, until_ms: int) -> None:
        self.archives.change(connection, archive.id, archive.state, reminded_days=days, keep_until_ms=until_ms)
        self._record(connection, "archive.reminder", archive, days=days, keep_until_ms=until_ms)
        area = self.access.areas.find(connection, archive.area_id)
        assert area is not None, "an archive is of an area"
        details: dict[str, str | int] = {
            "area": self.access.name(connection, area),
            "files": archive.files,
            "size": told_bytes(archive.bytes),
            "ends_at_ms": until_ms,
        }
        people = self.access.concerned(connection, area)
        notices = [Notice(person, NoticeKind.ARCHIVE_EXPIRES, archive.id, str(days), details) for person in people]
        self.authority.tell(connection, *notices)

    def _give_up(self, connection: Connection, archive: StoredArchive) -> bool:
        if self.archives.is_used(connection, archive.id):
            return False
        if not self.archives.change(connection, archive.id, ArchiveState.WRITING, state=ArchiveState.BROKEN):
            return False
        self._record(connection, "archive.give-up", archive)
        return True

    def _record(self, connection: Connection, action: str, archive: StoredArchive, **details: object) -> None:
        self.authority.record(connection, PLATFORM, action, archive.id, "", area=archive.area_id, **details)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRemover:
    """Removes the objects of archives: for a process that has the places where they are."""

    database: Database
    archives: ArchiveStore
    authority: Authority
    duties: Duties

    def waiting(self) -> list[StoredArchive]:
        """Return the archives whose objects are to be removed."""
        with self.database.read() as connection:
            return self.archives.in_states(connection, TO_BE_REMOVED)

    def remove(
        self,
        holder: str,
        places: Places,
        goes_on: Callable[[], bool] = lambda: True,
        reached: Callable[[str], None] = lambda _point: None,
    ) -> tuple[int, list[str]]:
        """Remove what waits, as long as `goes_on` says so; returns of how many archives, and what went wrong.

        Killed anywhere, it goes on with what is there. What a store or a lock holds up is for the next time. `reached`
        is told the points of `allocations.storage.archive.removal`, and "removed".
        """
        done, problems = 0, []
        for archive in self.waiting():
            if not goes_on():
                break
            try:
                done += self._remove(holder, archive, places, goes_on, reached)
            except StoreError as error:
                problems.append(f"{archive.id}: {error}")
        return done, problems

    # ------------------------------------------------------------------ inside

    def _remove(
        self,
        holder: str,
        archive: StoredArchive,
        places: Places,
        goes_on: Callable[[], bool],
        reached: Callable[[str], None],
    ) -> bool:
        duty = area_duty(archive.area_id)

        def before_each() -> None:
            if not goes_on() or not self.duties.take(duty, holder, LOCK_SECONDS):
                raise _LostError

        try:
            before_each()
            # Since we looked, a restore may have begun that was asked for at the same moment.
            with self.database.read() as connection:
                current = self.archives.get(connection, archive.id)
                if current is None or current.state not in TO_BE_REMOVED:
                    return False
            count = remove_archive(places.open(archive.place), archive.id, before_each=before_each, reached=reached)
        except _LostError:
            return False
        finally:
            self.duties.lay_down(duty, holder)
        with self.database.write() as connection:
            removed = self.archives.change(connection, archive.id, current.state, state=ArchiveState.REMOVED)
            if removed:
                self.authority.record(
                    connection, PLATFORM, "archive.remove", archive.id, area=archive.area_id, objects=count
                )
        reached("removed")
        return removed
