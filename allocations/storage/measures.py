"""Keeps account of areas: whose they are, what they take each day, what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

from allocations.clock import MS_PER_DAY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.storage.models import Owner, StorageClass, StoredArea
    from allocations.storage.quotas.backends import Found, Use
    from allocations.storage.quotas.reconcile import Reconciled
    from allocations.storage.store import StorageStore

NOT_THERE = "is not there: make it, or mount what it is on"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureService:
    """Areas and what is measured of them."""

    database: Database
    clock: Clock
    new_id: IdFactory
    store: StorageStore

    def open(self, storage_class: StorageClass, owner: Owner, place: str) -> StoredArea:
        """Give an owner an area of a class, at a place that is nobody else's; one who has it keeps it as it is."""
        try:
            return self._open(storage_class, owner, place)
        except IntegrityError:
            # Another process was faster, and theirs is the one; or the place is somebody else's, and it fails again.
            return self._open(storage_class, owner, place)

    def areas(self, storage_class: StorageClass) -> list[StoredArea]:
        """Return every area of a class."""
        with self.database.read() as connection:
            return self.store.areas(connection, storage_class)

    def record(self, areas: Sequence[StoredArea], found: Found[Use], limits_bytes: Mapping[str, int | None]) -> None:
        """Note a measure of areas as of now: the last one of a day counts for it.

        `limits_bytes`, by area, say since when one is over its limit (soft or hard). Days without any measure count as
        the lesser of what was measured before and after: nobody pays for more than they were seen to have.
        """
        for area in areas:
            with self.database.write() as connection:
                use = found.of.get(area.id)
                if use is None:
                    problem = NOT_THERE if area.id in found.missing else found.problems.get(area.id)
                    self.store.change(connection, area.id, problem=problem)
                    continue
                self._record(connection, area, use, limits_bytes.get(area.id))

    def note(self, done: Reconciled) -> None:
        """Note the limits that are in force, and why others are not."""
        with self.database.write() as connection:
            for area_id, limit_bytes in done.in_force.items():
                self.store.change(connection, area_id, limit_bytes=limit_bytes, problem=done.problems.get(area_id))
            for area_id in done.problems.keys() - done.in_force.keys():
                self.store.change(connection, area_id, problem=done.problems[area_id])

    def _record(self, connection: Connection, area: StoredArea, use: Use, limit_bytes: int | None) -> None:
        now_ms = self.clock.now_ms()
        today = now_ms // MS_PER_DAY
        over_since_ms = None
        if limit_bytes is not None and use.bytes > limit_bytes:
            known = self.store.get(connection, area.storage_class, area.owner)
            over_since_ms = known.over_since_ms if known and known.over_since_ms is not None else now_ms
        self.store.measured(connection, area.id, use, now_ms, over_since_ms)
        if area.problem is not None:
            self.store.change(connection, area.id, problem=None)
        before = self.store.last_before(connection, area.id, today)
        if before is not None:
            for day in range(before.day + 1, today):
                lesser = min(before.bytes, use.bytes)
                self.store.put_day(connection, area.id, day, lesser, None)
        self.store.put_day(connection, area.id, today, use.bytes, use.files)

    def _open(self, storage_class: StorageClass, owner: Owner, place: str) -> StoredArea:
        with self.database.write() as connection:
            area = self.store.get(connection, storage_class, owner)
            if area is None:
                self.store.add(connection, self.new_id("s"), storage_class, owner, place, self.clock.now_ms())
                area = self.store.get(connection, storage_class, owner)
        assert area is not None, "it was made, if it was not there"
        return area
