"""Takes note of what people want back of archives; `RestoreRunner` (in run.py) brings it back where the files are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import InvalidInputError, NotFoundError, TransitionError
from allocations.storage.archive.format import check_path
from allocations.storage.archive.members import DamagedError
from allocations.storage.purge.models import ArchiveState, Restore, RestoreState, RestoreTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.storage.access import AreaAccess
    from allocations.storage.purge.models import StoredArchive
    from allocations.storage.purge.store import ArchiveStore

PATHS_MAX = 1_000
# As long as an archive's own paths are.
PATH_BYTES_MAX = 8_192
# Of an archive, asked for and not over.
OPEN_MAX = 20
OPEN_STATES = (RestoreState.ASKED, RestoreState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreService:
    """Archives as their owners see them, and what they ask back."""

    database: Database
    clock: Clock
    new_id: IdFactory
    access: AreaAccess
    archives: ArchiveStore
    authority: Authority

    def archives_of(self, actor: Actor, area_id: str) -> list[StoredArchive]:
        """Return the archives of an area from which something can be had back, the newest first; NotFoundError."""
        with self.database.read() as connection:
            area = self.access.seen(connection, actor, area_id)
            now_ms = self.clock.now_ms()
            return [one for one in self.archives.of_areas(connection, [area.id]) if _is_there(one, now_ms)]

    def asked_of(self, actor: Actor, area_id: str) -> list[Restore]:
        """Return what was asked back of an area's archives, what was asked last first; raises NotFoundError."""
        with self.database.read() as connection:
            area = self.access.seen(connection, actor, area_id)
            kept = self.archives.of_areas(connection, [area.id], tuple(ArchiveState))
            return self.archives.restores_of(connection, [one.id for one in kept])

    def ask(self, actor: Actor, archive_id: str, paths: Sequence[str], target: RestoreTarget) -> Restore:
        """Ask for files and folders of an archive, none for all of it, to be brought back; nothing is overwritten.

        For the area's person, leads and managers of its allocation, and administrators. What is asked for already, and
        not back yet, is returned as it is. Raises NotFoundError, NotAllowedError; InvalidInputError for a path that is
        none, TransitionError where the archive is not kept any more, or too much is asked for at once.
        """
        wanted = _checked(paths)
        with self.database.write() as connection:
            archive = self._managed(connection, actor, archive_id)
            now_ms = self.clock.now_ms()
            if not _is_there(archive, now_ms):
                raise TransitionError("This archive is not kept any more.", "Choose another one of the same storage.")
            open_ = [one for one in self.archives.restores_of(connection, [archive.id]) if one.state in OPEN_STATES]
            same = next((one for one in open_ if (one.paths, one.target) == (wanted, target)), None)
            if same is not None:
                return same
            if len(open_) >= OPEN_MAX:
                raise TransitionError(
                    f"{OPEN_MAX} restores of this archive are under way.", "Wait for one, or ask for a whole folder."
                )
            asked = Restore(
                id=self.new_id("b"),
                archive_id=archive.id,
                asked_by=actor.name,
                asked_at_ms=now_ms,
                paths=wanted,
                target=target,
                state=RestoreState.ASKED,
            )
            self.archives.ask(connection, asked)
            self.authority.record(
                connection, actor.name, "restore.ask", asked.id, archive=archive.id, paths=len(wanted), target=target
            )
            return asked

    # ------------------------------------------------------------------ inside

    def _managed(self, connection: Connection, actor: Actor, archive_id: str) -> StoredArchive:
        """Return an archive to who may ask for it; to who may not know of its area it is one that is not there."""
        archive = self.archives.get(connection, archive_id)
        unknown = NotFoundError(f"There is no archive {archive_id!r}.", "Choose one of your own storage.")
        if archive is None:
            raise unknown
        try:
            self.access.managed(connection, actor, archive.area_id)
        except NotFoundError as error:
            raise unknown from error
        return archive


def _is_there(archive: StoredArchive, now_ms: int) -> bool:
    is_over = archive.keep_until_ms is not None and archive.keep_until_ms <= now_ms
    return archive.state is ArchiveState.KEPT and not is_over


def _checked(paths: Sequence[str]) -> tuple[str, ...]:
    """Return paths without slashes at their ends, in order and each once."""
    wanted = sorted({path.strip("/") for path in paths})
    if len(wanted) > PATHS_MAX:
        raise InvalidInputError(f"More than {PATHS_MAX:,} paths.", "Ask for the folder that they are in.")
    for path in wanted:
        try:
            check_path(path)
            is_short = len(os.fsencode(path)) <= PATH_BYTES_MAX
        except (DamagedError, UnicodeEncodeError) as error:
            raise InvalidInputError(
                f"{path!r} is no path in an archive.", "Give it as the archive lists it, from its top."
            ) from error
        if not is_short:
            raise InvalidInputError("A path is too long.", "Ask for the folder that it is in.")
    return tuple(wanted)
