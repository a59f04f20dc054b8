"""Archives as those see them whose files are in them: which there are, and what each holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import AllocationsError, InvalidInputError, NotFoundError
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.stores import StoreError
from allocations.storage.listing import Listing, check_manifest, list_lines
from allocations.storage.purge.models import ArchiveState

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.storage.access import AreaAccess
    from allocations.storage.archive.stores import Store
    from allocations.storage.models import StoredArea
    from allocations.storage.purge.models import Restore, StoredArchive
    from allocations.storage.purge.store import ArchiveStore

WANTED_LENGTH_MAX = 500


class ArchiveUnreadableError(AllocationsError):
    """The archive's store does not answer, or what it gives is damaged."""

    code = "archive_unreadable"
    status = 503
    title = "The archive cannot be read now"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveService:
    """Reads archives; `open_store` opens one by its place."""

    database: Database
    clock: Clock
    access: AreaAccess
    archives: ArchiveStore
    authority: Authority
    open_store: Callable[[str], Store]

    def archive(self, actor: Actor, archive_id: str) -> tuple[StoredArchive, StoredArea]:
        """Return an archive that is kept, with its area, to those who may know of that; NotFoundError.

        One whose time is over is not there any more, though it may not have been removed yet.
        """
        with self.database.read() as connection:
            return self._seen(connection, actor, archive_id)

    def listing(self, actor: Actor, archive_id: str, wanted: str, start: int, count_max: int) -> Listing:
        """Return a page of what is in an archive; as `list_lines`, and ArchiveUnreadableError. Who as `archive`."""
        archive, _area = self.archive(actor, archive_id)
        if len(wanted) > WANTED_LENGTH_MAX:
            raise InvalidInputError(f"What is looked for has {WANTED_LENGTH_MAX} characters at most.", "Shorten it.")
        try:
            store = self.open_store(archive.place)
            check_manifest(store, archive.sha256)
            return list_lines(store, wanted, start, count_max)
        except (StoreError, DamagedError) as error:
            raise ArchiveUnreadableError(
                "What is in the archive cannot be listed now.",
                "Try again in some minutes; if that does not help, write to the administrators.",
            ) from error

    def may_ask(self, actor: Actor, archive_id: str) -> bool:
        """Say whether a person who sees an archive may ask something back of it."""
        with self.database.read() as connection:
            _archive, area = self._seen(connection, actor, archive_id)
            owner = area.owner.allocation_id
            return owner is None or self.authority.manages(connection, actor, owner)

    def restore(self, actor: Actor, restore_id: str) -> Restore:
        """Return what was asked back, to those who may know of its area; raises NotFoundError."""
        with self.database.read() as connection:
            return self._restore(connection, actor, restore_id)[0]

    def area_of_restore(self, actor: Actor, restore_id: str) -> str:
        """Return the id of the area of which something was asked back; as `restore`."""
        with self.database.read() as connection:
            return self._restore(connection, actor, restore_id)[1].id

    # ------------------------------------------------------------------ inside

    def _restore(self, connection: Connection, actor: Actor, restore_id: str) -> tuple[Restore, StoredArea]:
        missing = NotFoundError(f"There is no restore {restore_id!r}.", "Choose one of your own.")
        restore = self.archives.restore(connection, restore_id)
        if restore is None:
            raise missing
        archive = self.archives.get(connection, restore.archive_id)
        assert archive is not None, "a restore is of an archive"
        try:
            return restore, self.access.seen(connection, actor, archive.area_id)
        except NotFoundError:
            raise missing from None

    def _seen(self, connection: Connection, actor: Actor, archive_id: str) -> tuple[StoredArchive, StoredArea]:
        archive = self.archives.get(connection, archive_id)
        missing = NotFoundError(
            f"There is no archive {archive_id!r}.", "Choose one on your storage page; none is kept for ever."
        )
        if archive is None or archive.state is not ArchiveState.KEPT:
            raise missing
        if archive.keep_until_ms is not None and archive.keep_until_ms <= self.clock.now_ms():
            raise missing
        try:
            return archive, self.access.seen(connection, actor, archive.area_id)
        except NotFoundError:
            raise missing from None
