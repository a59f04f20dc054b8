"""What people see of storage: their areas with limits, states and cost, and how these grew."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, MS_PER_SECOND, to_rfc3339
from allocations.lifecycle.authority import unknown_allocation
from allocations.reports.storage_views import (
    AreaPage,
    AreaView,
    FolderView,
    StorageDay,
    StorageTrend,
    to_json_path,
)
from allocations.storage.models import (
    PAYING_STATES,
    Owner,
    StorageClass,
    Thresholds,
    due_microcredits,
    payer_of_home,
    state_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.authority import Actor
    from allocations.lifecycle.models import Allocation
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy
    from allocations.storage.access import AreaAccess
    from allocations.storage.models import StoredArea
    from allocations.storage.owners import OwnerService
    from allocations.storage.store import StorageStore

TREND_DAYS = 90
# A month as the prices of clouds mean it.
DAYS_PER_MONTH = 30
AREAS_PAGE = 50
PROBLEMS_MAX = 50
_CLASSES = list(StorageClass)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageReportService:
    """Reads, each answer from one consistent view of the database."""

    database: Database
    clock: Clock
    policy: Policy
    allocations: AllocationStore
    store: StorageStore
    access: AreaAccess
    owners: OwnerService

    def areas_of(self, person: str) -> list[AreaView]:
        """Return a person's own areas and those of the allocations that they are a member of."""
        with self.database.read() as connection:
            theirs = [found for found, _role in self.allocations.of_person(connection, person)]
            areas = self.store.of_owners(connection, person, [one.id for one in theirs])
            order = {one.id: number for number, one in enumerate(theirs)}
            areas.sort(
                key=lambda one: (order.get(one.owner.allocation_id or "", -1), _CLASSES.index(one.storage_class))
            )
            return self._views(connection, areas)

    def area(self, actor: Actor, area_id: str) -> AreaView:
        """Return an area to those who may know of it; raises NotFoundError."""
        with self.database.read() as connection:
            return self._views(connection, [self.access.seen(connection, actor, area_id)], with_problems=actor.admin)[0]

    def trend(self, actor: Actor, area_id: str) -> StorageTrend:
        """Return the last days of an area; as `area`."""
        with self.database.read() as connection:
            return self._trend(connection, self.access.seen(connection, actor, area_id).id)

    def trends(self, areas: Sequence[AreaView]) -> dict[str, StorageTrend]:
        """Return the last days of areas that somebody sees, by id."""
        with self.database.read() as connection:
            return {area.id: self._trend(connection, area.id) for area in areas}

    def largest(self, storage_class: StorageClass | None, start: int = 0, count_max: int = AREAS_PAGE) -> AreaPage:
        """Return all areas (of a class) by their size, a page of them, for administrators."""
        with self.database.read() as connection:
            areas, count = self.store.largest(connection, storage_class, start, count_max)
            following = start + len(areas)
            return AreaPage(
                areas=self._views(connection, areas, with_problems=True),
                count=count,
                next_start=following if areas and following < count else None,
            )

    def shown(self, area_ids: Collection[str]) -> dict[str, AreaView]:
        """Return areas by their ids, for those who decide on what was asked about them."""
        with self.database.read() as connection:
            found = [self.store.find(connection, area_id) for area_id in sorted(area_ids)]
            return {view.id: view for view in self._views(connection, [area for area in found if area is not None])}

    def failing(self) -> list[AreaView]:
        """Return the first areas that could not be measured or limited the last time, for administrators."""
        with self.database.read() as connection:
            areas = self.store.with_problems(connection, PROBLEMS_MAX)
            return self._views(connection, areas, with_problems=True)

    # ------------------------------------------------------------------ inside

    def _trend(self, connection: Connection, area_id: str) -> StorageTrend:
        today = self.clock.now_ms() // MS_PER_DAY
        days = self.store.days(connection, area_id, today - TREND_DAYS + 1)
        return StorageTrend(
            area=area_id,
            days=[
                StorageDay(
                    day=to_date(one.day),
                    bytes=one.bytes,
                    files=one.files,
                    due_microcredits=one.due_microcredits,
                    charged_microcredits=one.charged_microcredits,
                )
                for one in days
            ],
        )

    def _views(
        self, connection: Connection, areas: Sequence[StoredArea], *, with_problems: bool = False
    ) -> list[AreaView]:
        owned: dict[Owner, list[Allocation]] = {}
        for area in areas:
            if area.owner not in owned:
                owned[area.owner] = self._owned(connection, area.owner)
        prices = self._prices()
        return [self._view(area, owned[area.owner], prices, with_problems=with_problems) for area in areas]

    def _owned(self, connection: Connection, owner: Owner) -> list[Allocation]:
        """Return the allocations that give an area to its owner, the oldest first."""
        if owner.person is not None:
            return [found for found, _role in self.allocations.of_person(connection, owner.person)]
        assert owner.allocation_id is not None, "an area has an owner"
        found = self.allocations.get(connection, owner.allocation_id)
        if found is None:
            raise unknown_allocation(owner.allocation_id)
        return [found]

    def _payer(self, area: StoredArea, owned: Sequence[Allocation]) -> Allocation | None:
        if area.owner.person is not None:
            return payer_of_home(owned, self.owners.tier_bytes(StorageClass.HOME))
        return next((one for one in owned if one.state in PAYING_STATES), None)

    def _prices(self) -> Mapping[str, int]:
        try:
            now = datetime.fromtimestamp(self.clock.now_ms() / MS_PER_SECOND, tz=UTC)
            return {str(name): price for name, price in self.policy.prices_at(now).microcredits_per_gb_day.items()}
        except ValueError:
            return {}

    def _title(self, storage_class: StorageClass) -> str:
        try:
            return self.policy.storage.storage_class(storage_class.value).title
        except KeyError:
            return storage_class.value.capitalize()

    def _view(
        self, area: StoredArea, owned: Sequence[Allocation], prices: Mapping[str, int], *, with_problems: bool
    ) -> AreaView:
        limits, since_ms = self.policy.storage.thresholds, area.over_since_ms
        limit_bytes = self.owners.given_bytes(area.storage_class, owned)
        payer = self._payer(area, owned)
        price = prices.get(area.storage_class.value, 0) if payer else 0
        thresholds = Thresholds(limits.nearing_percent, limits.locked_after_days)
        return AreaView(
            id=area.id,
            storage_class=area.storage_class,
            title=self._title(area.storage_class),
            person=area.owner.person,
            allocation=area.owner.allocation_id,
            allocation_name=owned[0].name if area.owner.allocation_id else None,
            state=state_of(area.bytes or 0, limit_bytes, since_ms, self.clock.now_ms(), thresholds),
            bytes=area.bytes,
            files=area.files,
            passed_over=area.passed_over,
            measured_at=_moment(area.measured_at_ms),
            limit_bytes=limit_bytes,
            hard_limit_bytes=area.limit_bytes,
            over_since=_moment(since_ms),
            locks_at=_moment(None if since_ms is None else since_ms + limits.locked_after_days * MS_PER_DAY),
            microcredits_per_month=None if area.bytes is None else DAYS_PER_MONTH * due_microcredits(area.bytes, price),
            payer=payer.id if payer else None,
            largest=[FolderView(path=to_json_path(one.path), bytes=one.bytes, files=one.files) for one in area.largest],
            problem=area.problem if with_problems else None,
        )


def to_date(day: int) -> date:
    """Return the date of a day since the epoch."""
    return date(1970, 1, 1) + timedelta(days=day)


def _moment(at_ms: int | None) -> str | None:
    return None if at_ms is None else to_rfc3339(at_ms)
