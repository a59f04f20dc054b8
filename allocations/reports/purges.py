"""What people see of purges: what goes when, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import to_rfc3339
from allocations.leases.views import View
from allocations.storage.paths import in_sight
from allocations.storage.purge.listing import list_place
from allocations.storage.purge.models import OVER_STATES, PurgeState  # pydantic reads it at run time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.authority import Actor
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy
    from allocations.storage.access import AreaAccess
    from allocations.storage.models import StoredArea
    from allocations.storage.purge.models import Amount, Purge, Run
    from allocations.storage.purge.store import PurgeStore
    from allocations.storage.scratch_store import ScratchLeaseStore
    from allocations.storage.store import StorageStore

# Purges of an area that are told, the latest first.
PURGES_TOLD = 20


class AmountView(View):
    """A part of what is purged: a rule, a user's number, or a folder (`""`: files right in the area)."""

    name: str
    files: int
    bytes: int


class RuleAmountView(AmountView):
    """What a rule takes, and the days without a change after which it does, with what a lead has extended; None for a
    rule that is no more."""

    age_days: int | None


class PlannedPathView(View):
    """A path that is purged, as people read it (what is not printable is escaped), and the rule that takes it."""

    path: str
    bytes: int
    rule: str


class PurgeInfo(View):
    """What a purge does to an area. Files that are changed before `window_ends_at` stay, and so does what is exempt.

    `full_list` says where in the area the list of all is, after a purge the report on each. `files`, `bytes` and
    (empty) `folders` are what is planned; `paths` the first of them. `left_files` were planned and not deleted.
    `archive` holds what was deleted. `problem` is for administrators.
    """

    id: str
    run: str
    area: str
    area_title: str
    person: str | None
    allocation: str | None
    allocation_name: str | None
    dry_run: bool
    state: PurgeState
    files: int
    bytes: int
    folders: int
    window_ends_at: str | None
    reminded_at: str | None
    changed_at: str
    archive: str | None
    deleted_files: int
    deleted_bytes: int
    left_files: int
    full_list: str
    by_rule: list[RuleAmountView]
    by_owner: list[AmountView]
    largest: list[AmountView]
    paths: list[PlannedPathView]
    problem: str | None


class PurgeList(View):
    """Purges, those changed last first."""

    purges: list[PurgeInfo]


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeReportService:
    """Reads, each answer from one consistent view of the database."""

    database: Database
    clock: Clock
    policy: Policy
    allocations: AllocationStore
    areas: StorageStore
    access: AreaAccess
    purges: PurgeStore
    leases: ScratchLeaseStore

    def of_area(self, actor: Actor, area_id: str) -> list[PurgeInfo]:
        """Return the latest purges of an area that are no dry runs, to those who may know of it; NotFoundError."""
        with self.database.read() as connection:
            area = self.access.seen(connection, actor, area_id)
            found = self.purges.of_areas(connection, [area.id], PURGES_TOLD)
            return self._shown(connection, found, is_admin=actor.admin)

    def under_way(self, person: str) -> dict[str, PurgeInfo]:
        """Return the purges under way of a person's areas and those of their allocations, by area."""
        with self.database.read() as connection:
            theirs = [found.id for found, _role in self.allocations.of_person(connection, person)]
            areas = self.areas.of_owners(connection, person, theirs)
            found = self.purges.under_way(connection, [area.id for area in areas])
            return {one.area: one for one in self._shown(connection, found, is_admin=False)}

    def of_run(self, purges: Sequence[Purge]) -> list[PurgeInfo]:
        """Return the purges of a run as administrators see them, those with most bytes first."""
        with self.database.read() as connection:
            shown = self._shown(connection, purges, is_admin=True)
        return sorted(shown, key=lambda one: (-one.bytes, one.area))

    # ------------------------------------------------------------------ inside

    def _shown(self, connection: Connection, purges: Sequence[Purge], *, is_admin: bool) -> list[PurgeInfo]:
        areas = {one: self.areas.find(connection, one) for one in {purge.area_id for purge in purges}}
        owners = {area.owner.allocation_id for area in areas.values() if area and area.owner.allocation_id}
        names = {one: found.name for one, found in self.allocations.with_ancestors(connection, owners).items()}
        runs = {one: self.purges.run(connection, one) for one in {purge.run_id for purge in purges}}
        return [
            self._view(purge, run, area, names, self._extended_days(connection, purge, run), is_admin=is_admin)
            for purge in purges
            if (area := areas[purge.area_id]) is not None and (run := runs[purge.run_id]) is not None
        ]

    def _extended_days(self, connection: Connection, purge: Purge, run: Run) -> int | None:
        """Return the age that a lead has extended: a purge goes by the greater of that of its plan and that of now."""
        when_planned = self.leases.longest(connection, purge.area_id, run.created_at_ms)
        if purge.state in OVER_STATES:
            last = self.leases.longest(connection, purge.area_id, purge.changed_at_ms)
        else:
            at_ms = max(run.as_of_ms, self.clock.now_ms())
            lease = self.leases.in_force(connection, purge.area_id, at_ms)
            last = lease.age_days if lease else None
        return max((days for days in (when_planned, last) if days is not None), default=None)

    def _view(
        self,
        purge: Purge,
        run: Run,
        area: StoredArea,
        names: dict[str, str],
        extended_days: int | None,
        *,
        is_admin: bool,
    ) -> PurgeInfo:
        rules = {rule.name: rule.age_for(extended_days) for rule in self.policy.storage.rules}
        classes = {one.name: one.title for one in self.policy.storage.classes}
        return PurgeInfo(
            id=purge.id,
            run=purge.run_id,
            area=purge.area_id,
            area_title=classes.get(area.storage_class.value, area.storage_class.value),
            person=area.owner.person,
            allocation=area.owner.allocation_id,
            allocation_name=names.get(area.owner.allocation_id or ""),
            dry_run=purge.dry_run,
            state=purge.state,
            files=purge.files,
            bytes=purge.bytes,
            folders=purge.folders,
            window_ends_at=_moment(purge.window_ends_at_ms),
            reminded_at=_moment(purge.reminded_at_ms),
            changed_at=to_rfc3339(purge.changed_at_ms),
            archive=purge.archive_id if purge.state is PurgeState.DONE else None,
            deleted_files=purge.deleted_files,
            deleted_bytes=purge.deleted_bytes,
            left_files=purge.left_files,
            full_list=list_place(run, purge, is_report=purge.state is PurgeState.DONE),
            by_rule=[
                RuleAmountView(name=one.name, files=one.files, bytes=one.bytes, age_days=rules.get(one.name))
                for one in purge.summary.by_rule
            ],
            by_owner=_amounts(purge.summary.by_owner),
            largest=_amounts(purge.summary.folders),
            paths=[
                PlannedPathView(path=in_sight(one.path), bytes=one.bytes, rule=one.rule) for one in purge.summary.paths
            ],
            problem=purge.problem if is_admin else None,
        )


def _amounts(amounts: Sequence[Amount]) -> list[AmountView]:
    return [AmountView(name=in_sight(one.name), files=one.files, bytes=one.bytes) for one in amounts]


def _moment(at_ms: int | None) -> str | None:
    return None if at_ms is None else to_rfc3339(at_ms)
