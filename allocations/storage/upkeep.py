"""Keeps the areas of one class: opens and makes those that are wanted, brings limits in force, and measures.

A folder is made for an area that was never measured, and only where some of those that were are still there: with
another disk in its place, or none, everybody would find a new and empty home.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

from allocations.clock import MS_PER_SECOND
from allocations.storage.measures import NOT_THERE
from allocations.storage.owners import hard_limit, place_of
from allocations.storage.quotas.backends import BackendError
from allocations.storage.quotas.reconcile import reconcile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from allocations.clock import Clock
    from allocations.storage.measures import MeasureService
    from allocations.storage.models import Owner, StorageClass, StoredArea
    from allocations.storage.owners import OwnerService
    from allocations.storage.quotas.backends import Backend
    from allocations.storage.quotas.reconcile import Reconciled

log = logging.getLogger(__name__)

PROGRESS_MS = 30 * MS_PER_SECOND
# Tells a limit's problem from a measure's, so that the success of the one does not hide the failure of the other.
OF_LIMIT = "Place or limit: "
# What an area gets beyond what it takes while it is purged: without, btrfs lets no name be moved in one that is full.
ROOM_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """What one round has done: areas `opened` and `made`, limits `applied`, and areas with a problem."""

    opened: int
    made: int
    applied: int
    problems: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What one round has measured: areas, their bytes, areas with a problem; `whole`: nothing that was due is left."""

    areas: int
    bytes: int
    problems: int
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassUpkeep:
    """The areas of one class on one backend.

    `prefix` stands before each area's name, as in a bucket; `plain_names`: see `place_of`. `one_by_one`: a measure
    takes long for each area, so that it is recorded at once. `hard_percent`: where writing fails, in percent of what
    the policy gives. `purged` returns the ids of areas of which files are being deleted; `ended_bytes`: what areas may
    take that have ended, which take nothing new (see `EndService`).
    """

    storage_class: StorageClass
    backend: Backend
    clock: Clock
    owners: OwnerService
    measures: MeasureService
    hard_percent: int
    prefix: str = ""
    plain_names: bool = False
    one_by_one: bool = True
    purged: Callable[[], Collection[str]] = frozenset
    ended_bytes: Callable[[Sequence[StoredArea]], Mapping[str, int]] = lambda _areas: {}

    def keep(self) -> Kept:
        """Open areas for whom they are wanted, make them, and bring the intended limits in force.

        Raises BackendError or OSError where nothing can be done for the class at all.
        """
        opened = self._open()
        areas = self.measures.areas(self.storage_class)
        there = self._without_lost(areas)
        limits = self.owners.limits_bytes(self.storage_class, there)
        ended = self.ended_bytes(there)
        # What the policy gives nothing to, any more, is left as it is: its files stay, and so does its limit.
        given = [area for area in there if limits[area.id] is not None or area.id in ended]
        purged = self.purged()
        intended = {
            area.id: self._limit(area, limits[area.id], ended.get(area.id), is_purged=area.id in purged)
            for area in given
        }
        done = reconcile(self.backend, [area.area for area in given], intended)
        self._note(given, done)
        return Kept(opened, len(done.made), len(done.applied), len(done.problems) + len(areas) - len(there))

    def measure(self, goes_on: Callable[[], bool], older_than_seconds: float) -> Measured:
        """Measure what was not measured for so long, the oldest first, for as long as `goes_on` says so.

        Raises BackendError or OSError where nothing can be measured at all.
        """
        before_ms = self.clock.now_ms() - older_than_seconds * MS_PER_SECOND
        due = [
            area
            for area in self.measures.areas(self.storage_class)
            if area.measured_at_ms is None or area.measured_at_ms <= before_ms
        ]
        due.sort(key=lambda area: (area.measured_at_ms or 0, area.number))
        limits = self.owners.limits_bytes(self.storage_class, due)
        done = total = problems = 0
        told_ms = self.clock.now_ms()
        for part in _parts(due, 1 if self.one_by_one else len(due)):
            if not goes_on():
                break
            found = self.backend.usage([area.area for area in part])
            self.measures.record(part, found, limits)
            done += len(part)
            total += sum(use.bytes for use in found.of.values())
            problems += len(part) - len(found.of)
            if self.clock.now_ms() - told_ms >= PROGRESS_MS:
                told_ms = self.clock.now_ms()
                log.info("%s: %d of %d areas are measured", self.storage_class, done, len(due), extra={"count": done})
        return Measured(done, total, problems, whole=done == len(due))

    def _limit(
        self, area: StoredArea, limit_bytes: int | None, ended_bytes: int | None, *, is_purged: bool
    ) -> int | None:
        limit = _least(hard_limit(limit_bytes, self.hard_percent), ended_bytes)
        return limit if limit is None or not is_purged else max(limit, area.bytes or 0) + ROOM_BYTES

    def _open(self) -> int:
        have = {area.owner for area in self.measures.areas(self.storage_class)}
        opened = 0
        for owner in self.owners.entitled(self.storage_class):
            if owner in have:
                continue
            try:
                self.measures.open(self.storage_class, owner, self._place(owner))
            except IntegrityError:
                # Opened elsewhere in the same moment, which the next round sees; or its place is somebody else's.
                log.warning("%s: the place of %s is taken: see `storage_areas`", self.storage_class, owner)
            else:
                opened += 1
        return opened

    def _place(self, owner: Owner) -> str:
        name = place_of(owner, plain=self.plain_names)
        return f"{self.prefix}/{name}" if self.prefix else name

    def _without_lost(self, areas: Sequence[StoredArea]) -> list[StoredArea]:
        """Leave out what was there and is not any more; BackendError where nothing is."""
        known = [area for area in areas if area.measured_at_ms is not None]
        if not known:
            return list(areas)
        lost = self.backend.limits([area.area for area in known]).missing
        if len(lost) == len(known):
            raise BackendError(f"none of the {len(known)} areas of {self.storage_class} {NOT_THERE}")
        return [area for area in areas if area.id not in lost]

    def _note(self, areas: Sequence[StoredArea], done: Reconciled) -> None:
        """Note what has changed: leases wait for nobody who writes thousands of areas as they were."""
        for area_id, problem in done.problems.items():
            done.problems[area_id] = f"{OF_LIMIT}{problem}"
        changed = {area.id for area in areas if _has_changed(area, done.in_force, done.problems)}
        self.measures.note(
            replace(
                done,
                in_force={id_: limit for id_, limit in done.in_force.items() if id_ in changed},
                problems={id_: problem for id_, problem in done.problems.items() if id_ in changed},
            )
        )


def _has_changed(area: StoredArea, in_force: Mapping[str, int | None], problems: Mapping[str, str]) -> bool:
    if area.id in problems:
        return problems[area.id] != area.problem or in_force.get(area.id, area.limit_bytes) != area.limit_bytes
    is_over = area.problem is not None and area.problem.startswith(OF_LIMIT)
    return area.id in in_force and (is_over or in_force[area.id] != area.limit_bytes)


def _least(*limits_bytes: int | None) -> int | None:
    return min((one for one in limits_bytes if one is not None), default=None)


def _parts(areas: Sequence[StoredArea], size: int) -> Iterable[Sequence[StoredArea]]:
    for start in range(0, len(areas), max(size, 1)):
        yield areas[start : start + size]
