"""Deletes what a verified archive holds, in batches that are noted before they begin.

Nobody can delete a file and note it in the database at once. So a batch is noted before it begins, with what was
deleted up to then. Killed in a batch, the next process begins it again: what is gone in it counts as deleted there, and
is counted once. Two that delete at once cannot both note: the second finds another position than it knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from allocations.storage.purge.archived import archived_lines
from allocations.storage.purge.delete import GONE, delete
from allocations.storage.purge.files import Left, LeftWriter
from allocations.storage.purge.moving import MovedError
from allocations.storage.purge.planfile import PlanReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from allocations.db.database import Database
    from allocations.storage.archive.format import Archive
    from allocations.storage.archive.stores import Store
    from allocations.storage.purge.files import PurgeFiles
    from allocations.storage.purge.models import Purge
    from allocations.storage.purge.planfile import Planned
    from allocations.storage.purge.store import PurgeStore
    from allocations.storage.tree.beneath import Root
    from allocations.storage.tree.walk import Pace

BATCH_ENTRIES = 200
# Before the points that each file comes by.
OF_A_FILE = "delete: "


@dataclass(kw_only=True)
class Deletion:
    """Deletes for one purge, and keeps count; `before_batch` raises where it is not to go on, and returns what says
    of entries why they stay."""

    database: Database
    purges: PurgeStore
    files: PurgeFiles
    purge: Purge
    before_batch: Callable[[], Callable[[Planned], str | None]]
    reached: Callable[[str], None]
    _number: int = -1

    def __post_init__(self) -> None:
        self._begun_before = self.purge.position
        self._first = max(0, self.purge.position - BATCH_ENTRIES)
        self._files, self._bytes = self.purge.deleted_files, self.purge.deleted_bytes
        self._why_left: Callable[[Planned], str | None] | None = None

    def run(self, root: Root, store: Store, archive: Archive, pace: Pace) -> Purge:
        """Delete; returns the purge as it is then, with what is not noted yet. Raises as `delete` and `before_batch`,
        and MovedError."""
        self.files.keep_left(self._first)
        left = LeftWriter(self.files.left)
        with left.file:

            def told(one: Planned, why: str | None) -> None:
                # What is gone in the batch that a killed process had begun, that process has deleted.
                if why is None or (why == GONE and self._number < self._begun_before):
                    if one.type != "folder":
                        self._files += 1
                        self._bytes += one.bytes
                else:
                    left.add(Left(self._number, one.path, why))

            delete(
                root,
                self._planned(left),
                archived_lines(store, archive, self.files.state),
                pace=pace,
                first=self._first,
                keeps=self._keeps,
                told=told,
                reached=lambda point: self.reached(f"{OF_A_FILE}{point}"),
            )
            left.sync()
        return replace(self.purge, deleted_files=self._files, deleted_bytes=self._bytes)

    def _planned(self, left: LeftWriter) -> Iterator[Planned]:
        for number, one in zip(count(), PlanReader(self.files.chosen), strict=False):
            # By now the entry before is done with.
            if number >= self._first and (number - self._first) % BATCH_ENTRIES == 0:
                left.sync()
                self._begin_batch(number)
            self._number = number
            yield one

    def _keeps(self, one: Planned) -> str | None:
        assert self._why_left is not None, "its batch has begun"
        return self._why_left(one)

    def _begin_batch(self, number: int) -> None:
        self._why_left = self.before_batch()
        position = number + BATCH_ENTRIES
        with self.database.write() as connection:
            if not self.purges.progress(connection, self.purge, position, self._files, self._bytes):
                raise MovedError("The purge has gone on meanwhile.", "Look at it again.")
        self.purge = replace(self.purge, position=position, deleted_files=self._files, deleted_bytes=self._bytes)
        self.reached("batch begun")
