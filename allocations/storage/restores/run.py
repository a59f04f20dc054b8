"""Brings back what was asked for, where the files are, by a process that may be killed at any moment.

A restore that was begun is gone on with by whoever looks next: what is back already is found, and nothing is put
anywhere twice. Nobody else changes the area meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sqlalchemy.exc import SQLAlchemyError

from allocations.outbox import Notice, NoticeKind
from allocations.storage.access import AreaAccess
from allocations.storage.archive.format import COMMIT, COMMIT_BYTES, read_bounded
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.restore import NoRoomError, restore
from allocations.storage.archive.stores import StoreError
from allocations.storage.archive.target import InTheWayError
from allocations.storage.purge.models import ArchiveState, RestoreState, RestoreTarget
from allocations.storage.purge.run import area_duty
from allocations.storage.purge.telling import told_bytes
from allocations.storage.restores.service import OPEN_STATES
from allocations.storage.tree.beneath import Root

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.duties import Duties
    from allocations.lifecycle.authority import Authority
    from allocations.storage.archive.restore import Restored
    from allocations.storage.archive.stores import Store
    from allocations.storage.models import StorageClass, StoredArea
    from allocations.storage.purge.models import Mount, Restore, StoredArchive
    from allocations.storage.purge.store import ArchiveStore
    from allocations.storage.store import StorageStore

# In this folder of the area, each archive has one of its own.
BESIDE = "restored"
ALL_BACK = "All of it is back."
# For how long an area is taken, and how often that is renewed; after two failures the third would come too late.
HELD_SECONDS = 60
RENEWAL_SECONDS = 20.0
FAILURES_MAX = 2
PROBLEMS_SHOWN = 10
ACTOR = "storage"
# What `reached` is told, in order.
POINTS = ("running", "restored", "over")


class Mounted(Protocol):
    """Says how an area is mounted here."""

    def __call__(self, area: StoredArea, /) -> Mount: ...


class _BrokenOffError(Exception):
    """The process is to stop, or has lost the area."""


class _Watch(NamedTuple):
    """Ends the work where it is no longer ours to do, as progress of it is told."""

    goes_on: Callable[[], bool]
    is_held: Callable[[], bool]

    def __call__(self, _done_bytes: int, _total_bytes: int, /) -> None:
        if not (self.goes_on() and self.is_held()):
            raise _BrokenOffError


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRunner:
    """Carries out what was asked."""

    database: Database
    clock: Clock
    areas: StorageStore
    archives: ArchiveStore
    authority: Authority
    duties: Duties

    def carry_out(
        self,
        holder: str,
        classes: Collection[StorageClass],
        mounted: Mounted,
        goes_on: Callable[[], bool] = lambda: True,
        reached: Callable[[str], None] = lambda _point: None,
    ) -> bool:
        """Bring back what was asked for from areas of some classes, what was asked first first, each once.

        Returns whether nothing is left that could be tried again: what a store that is away, an area that is locked or
        an end of `goes_on` held up stays `running`, with its problem. Only a broken database raises.
        """
        is_whole = True
        with self.database.read() as connection:
            due = self.archives.restores_due(connection)
            areas = {archive.area_id: self.areas.find(connection, archive.area_id) for _asked, archive in due}
        for asked, archive in due:
            area = areas[archive.area_id]
            if area is None or area.storage_class not in classes:
                continue
            if not goes_on():
                return False
            with held(self.duties, holder, area.id) as is_held:
                if is_held is None:
                    is_whole = False
                else:
                    is_whole &= self._carry_out(asked, archive, area, mounted, _Watch(goes_on, is_held), reached)
        return is_whole

    # ------------------------------------------------------------------ inside

    def _carry_out(
        self,
        asked: Restore,
        archive: StoredArchive,
        area: StoredArea,
        mounted: Mounted,
        watch: _Watch,
        reached: Callable[[str], None],
    ) -> bool:
        """Carry one out; returns whether it is over."""
        if not self._change(asked, RestoreState.RUNNING):
            return True  # it is over: another had it meanwhile
        reached("running")
        if archive.state is not ArchiveState.KEPT:
            self._end(asked, RestoreState.FAILED, "The archive is not kept any more: choose another one.")
            return True
        try:
            restored = self._restore(asked, archive, mounted(area), watch)
        except _BrokenOffError:
            return False
        except NoRoomError as error:
            self._end(asked, RestoreState.FAILED, f"{error}. Then ask for it again: what is back already stays.")
        except (DamagedError, InTheWayError) as error:
            self._end(asked, RestoreState.FAILED, str(error))
        except (StoreError, OSError) as error:
            # An archive that is not there, too: more often than not it is a mount that is not there.
            self._change(asked, RestoreState.RUNNING, problem=f"{error}: it is tried again")
            return False
        else:
            reached("restored")
            back = restored.members + restored.there
            state = RestoreState.FAILED if restored.problem_count and not back else RestoreState.DONE
            size = restored.bytes + restored.there_bytes
            self._end(asked, state, _told(restored), files=back, bytes=size)
        reached("over")
        return True

    def _restore(self, asked: Restore, archive: StoredArchive, mount: Mount, watch: _Watch) -> Restored:
        into = "" if asked.target is RestoreTarget.IN_PLACE else f"{BESIDE}/{archive.id}"
        # The same for whatever is asked of an archive, so that what one leaves unfinished the next one finishes.
        token = hashlib.sha256(f"{archive.id}\0{into}".encode()).hexdigest()[:16]
        store = mount.places.open(archive.place)
        _check_commit(store, archive.sha256)
        with Root(mount.area) as root:
            status = os.fstat(root.fd)
            owner = (status.st_uid, status.st_gid)
            return restore(store, root, token=token, owner=owner, into=into, paths=asked.paths or None, progress=watch)

    def _change(self, asked: Restore, state: RestoreState, problem: str | None = None) -> bool:
        with self.database.write() as connection:
            now_ms = self.clock.now_ms()
            return self.archives.change_restore(
                connection, asked.id, OPEN_STATES, state=state, problem=problem, changed_at_ms=now_ms
            )

    def _end(self, asked: Restore, state: RestoreState, problem: str | None, **figures: int) -> None:
        with self.database.write() as connection:
            now_ms = self.clock.now_ms()
            if self.archives.change_restore(
                connection, asked.id, OPEN_STATES, state=state, problem=problem, changed_at_ms=now_ms, **figures
            ):
                self.authority.record(
                    connection, ACTOR, f"restore.{state}", asked.id, problem or "", archive=asked.archive_id, **figures
                )
                self._tell(connection, asked, state, problem or "", figures)

    def _tell(
        self, connection: Connection, asked: Restore, state: RestoreState, problem: str, figures: Mapping[str, int]
    ) -> None:
        """Tell who asked what came of it."""
        archive = self.archives.get(connection, asked.archive_id)
        area = self.areas.find(connection, archive.area_id) if archive else None
        assert area is not None, "a restore is of an archive of an area"
        details: dict[str, str | int] = {
            "area": AreaAccess(areas=self.areas, authority=self.authority).name(connection, area),
            "files": figures.get("files", 0),
            "size": told_bytes(figures.get("bytes", 0)),
            "where": f"in the folder {BESIDE}" if asked.target is RestoreTarget.BESIDE else "where they were",
            "why": problem or ALL_BACK,
        }
        kind = NoticeKind.RESTORE_DONE if state is RestoreState.DONE else NoticeKind.RESTORE_FAILED
        self.authority.tell(connection, Notice(asked.asked_by, kind, asked.id, details=details))


@contextmanager
def held(duties: Duties, holder: str, area_id: str) -> Iterator[Callable[[], bool] | None]:
    """Hold an area, renewed beside the work; yields what says whether it is still ours, or None: another has it."""
    name = area_duty(area_id)
    if not duties.take(name, holder, HELD_SECONDS):
        yield None
        return
    ended, lost = threading.Event(), threading.Event()

    def renew() -> None:
        failures = 0
        while not ended.wait(RENEWAL_SECONDS):
            try:
                is_ours = duties.take(name, holder, HELD_SECONDS)
                failures = 0
            except SQLAlchemyError:
                failures += 1
                is_ours = failures < FAILURES_MAX
            if not is_ours:
                lost.set()
                return

    renewal = threading.Thread(target=renew, name=name, daemon=True)
    renewal.start()
    try:
        yield lambda: not lost.is_set()
    finally:
        ended.set()
        renewal.join()
        duties.lay_down(name, holder)


def _check_commit(store: Store, sha256: str | None) -> None:
    """Raise DamagedError where an archive is another one than was verified."""
    with store.read(COMMIT) as stream:
        found = hashlib.sha256(read_bounded(stream, COMMIT_BYTES)).hexdigest()
    if sha256 is not None and found != sha256:
        raise DamagedError(f"{COMMIT} is not the one that was recorded: restore from another copy of the archive")


def _told(restored: Restored) -> str | None:
    if not restored.problem_count:
        return None
    told = [f"{_plain(path)}: {why}" for path, why in restored.problems[:PROBLEMS_SHOWN]]
    if more := restored.problem_count - len(told):
        told.append(f"and {more:,} more")
    return f"{restored.problem_count:,} could not be restored: " + "; ".join(told)


def _plain(path: str) -> str:
    """As a database takes it: bytes that are no UTF-8 escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace("\0", "")
