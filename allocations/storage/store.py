"""Stores areas, their days and what was charged for them; decides nothing."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, func, insert, or_, select, update

from allocations.db.schema import members, storage_areas, storage_charges, storage_days
from allocations.storage.models import Day, Owner, StorageClass, StoredArea
from allocations.storage.tree.usage import FolderUse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Row

    from allocations.storage.quotas.backends import Use


_DAYS_WITH_AREAS = select(
    storage_days, *(column.label(f"of_area_{column.name}") for column in storage_areas.columns)
).join(storage_areas, storage_areas.c.id == storage_days.c.area_id)

# Built once: every admission asks, and making a statement costs more than running it.
_MEASURED_OF = select(storage_areas).where(
    storage_areas.c.measured_at_ms.is_not(None),
    or_(
        and_(
            storage_areas.c.storage_class == StorageClass.HOME,
            storage_areas.c.person.in_(bindparam("people", expanding=True)),
        ),
        storage_areas.c.allocation_id.in_(bindparam("allocations", expanding=True)),
    ),
)


class StorageStore:
    """Areas and their days."""

    def add(
        self,
        connection: Connection,
        area_id: str,
        storage_class: StorageClass,
        owner: Owner,
        place: str,
        at_ms: int,
    ) -> None:
        """Insert an area."""
        connection.execute(
            insert(storage_areas).values(
                id=area_id,
                storage_class=storage_class,
                person=owner.person,
                allocation_id=owner.allocation_id,
                place=place,
                created_at_ms=at_ms,
            )
        )

    def get(self, connection: Connection, storage_class: StorageClass, owner: Owner) -> StoredArea | None:
        """Return the one area of a class that an owner has, or None."""
        is_owners = (
            storage_areas.c.person == owner.person
            if owner.person is not None
            else storage_areas.c.allocation_id == owner.allocation_id
        )
        row = connection.execute(
            select(storage_areas).where(storage_areas.c.storage_class == storage_class, is_owners)
        ).one_or_none()
        return _area(row) if row else None

    def find(self, connection: Connection, area_id: str) -> StoredArea | None:
        """Return an area by its id, or None."""
        row = connection.execute(select(storage_areas).where(storage_areas.c.id == area_id)).one_or_none()
        return _area(row) if row else None

    def of_owners(self, connection: Connection, person: str, allocation_ids: Sequence[str]) -> list[StoredArea]:
        """Return a person's own areas and those of some allocations, oldest first."""
        theirs = or_(storage_areas.c.person == person, storage_areas.c.allocation_id.in_(list(allocation_ids)))
        rows = connection.execute(select(storage_areas).where(theirs).order_by(storage_areas.c.number))
        return [_area(row) for row in rows]

    def largest(
        self, connection: Connection, storage_class: StorageClass | None, start: int, count_max: int
    ) -> tuple[list[StoredArea], int]:
        """Return some of the areas (of a class), those with most bytes first, and how many there are."""
        of_class = [] if storage_class is None else [storage_areas.c.storage_class == storage_class]
        number = connection.execute(select(func.count()).select_from(storage_areas).where(*of_class)).scalar_one()
        rows = connection.execute(
            select(storage_areas)
            .where(*of_class)
            .order_by(func.coalesce(storage_areas.c.bytes, -1).desc(), storage_areas.c.number)
            .offset(start)
            .limit(count_max)
        )
        return [_area(row) for row in rows], number

    def with_problems(self, connection: Connection, count_max: int) -> list[StoredArea]:
        """Return some of the areas that could not be measured or limited the last time, oldest first."""
        failing = select(storage_areas).where(storage_areas.c.problem.is_not(None))
        rows = connection.execute(failing.order_by(storage_areas.c.number).limit(count_max))
        return [_area(row) for row in rows]

    def areas(self, connection: Connection, storage_class: StorageClass) -> list[StoredArea]:
        """Return every area of a class, oldest first."""
        rows = connection.execute(
            select(storage_areas).where(storage_areas.c.storage_class == storage_class).order_by(storage_areas.c.number)
        )
        return [_area(row) for row in rows]

    def memberships(self, connection: Connection) -> dict[str, set[str]]:
        """Return the ids of the allocations of everybody who is a member of some."""
        found: dict[str, set[str]] = defaultdict(set)
        for person, allocation_id in connection.execute(select(members.c.person, members.c.allocation_id)):
            found[person].add(allocation_id)
        return found

    def measured_of(
        self, connection: Connection, people: Iterable[str], allocations: Iterable[str]
    ) -> list[StoredArea]:
        """Return the homes of people and all areas of allocations, as far as they have been measured."""
        wanted = {"people": list(people), "allocations": list(allocations)}
        return [_area(row) for row in connection.execute(_MEASURED_OF, wanted)]

    def last_day_below(self, connection: Connection, area_id: str, at_least_bytes: int) -> int | None:
        """Return the last day on which an area took less than that, None when it took as much on all that are known."""
        day: int | None = connection.execute(
            select(func.max(storage_days.c.day)).where(
                storage_days.c.area_id == area_id, storage_days.c.bytes < at_least_bytes
            )
        ).scalar_one()
        return day

    def change(self, connection: Connection, area_id: str, **values: object) -> None:
        """Set columns of an area."""
        connection.execute(update(storage_areas).where(storage_areas.c.id == area_id).values(**values))

    def measured(self, connection: Connection, area_id: str, use: Use, at_ms: int, over_since_ms: int | None) -> None:
        """Note what an area takes now."""
        self.change(
            connection,
            area_id,
            bytes=use.bytes,
            files=use.files,
            passed_over=use.passed_over,
            largest=json.dumps([[one.path, one.bytes, one.files] for one in use.largest]),
            measured_at_ms=at_ms,
            over_since_ms=over_since_ms,
        )

    def put_day(self, connection: Connection, area_id: str, day: int, used_bytes: int, files: int | None) -> None:
        """Note what an area took on a day; one that is assessed stays as it is."""
        here = (storage_days.c.area_id == area_id, storage_days.c.day == day)
        if connection.execute(select(storage_days.c.day).where(*here)).one_or_none() is None:
            connection.execute(
                insert(storage_days).values(
                    area_id=area_id, day=day, bytes=used_bytes, files=files, charged_microcredits=0
                )
            )
            return
        connection.execute(
            update(storage_days)
            .where(*here, storage_days.c.due_microcredits.is_(None))
            .values(bytes=used_bytes, files=files)
        )

    def last_before(self, connection: Connection, area_id: str, day: int) -> Day | None:
        """Return the last day before another of which an area's use is known, or None."""
        row = connection.execute(
            select(storage_days)
            .where(storage_days.c.area_id == area_id, storage_days.c.day < day)
            .order_by(storage_days.c.day.desc())
            .limit(1)
        ).one_or_none()
        return _day(row) if row else None

    def days(self, connection: Connection, area_id: str, from_day: int) -> list[Day]:
        """Return an area's days, the first one first."""
        rows = connection.execute(
            select(storage_days)
            .where(storage_days.c.area_id == area_id, storage_days.c.day >= from_day)
            .order_by(storage_days.c.day)
        )
        return [_day(row) for row in rows]

    def unassessed(self, connection: Connection, before_day: int, count_max: int) -> list[tuple[StoredArea, Day]]:
        """Return some days that are over and not assessed, with their areas, the first ones first."""
        rows = connection.execute(
            _DAYS_WITH_AREAS.where(storage_days.c.due_microcredits.is_(None), storage_days.c.day < before_day)
            .order_by(storage_days.c.day, storage_areas.c.number)
            .limit(count_max)
        )
        return [(_area(row, "of_area_"), _day(row)) for row in rows]

    def assess(
        self,
        connection: Connection,
        day: Day,
        payer: str | None,
        microcredits_per_gb_day: int,
        due: int,
        policy_version: str,
    ) -> bool:
        """Note who pays for a day and how much; False when that was noted already, which stays."""
        assessed = connection.execute(
            update(storage_days)
            .where(
                storage_days.c.area_id == day.area_id,
                storage_days.c.day == day.day,
                storage_days.c.due_microcredits.is_(None),
            )
            .values(
                allocation_id=payer,
                microcredits_per_gb_day=microcredits_per_gb_day,
                due_microcredits=due,
                policy_version=policy_version,
            )
        )
        return assessed.rowcount == 1

    def owing(self, connection: Connection) -> list[str]:
        """Return the allocations that owe something."""
        rows = connection.execute(
            select(storage_days.c.allocation_id)
            .where(
                storage_days.c.charged_microcredits < storage_days.c.due_microcredits,
                storage_days.c.allocation_id.is_not(None),
            )
            .distinct()
            .order_by(storage_days.c.allocation_id)
        )
        return list(rows.scalars())

    def owed(self, connection: Connection, payer: str) -> list[tuple[StoredArea, Day]]:
        """Return what an allocation owes, the first days first, locked."""
        rows = connection.execute(
            _DAYS_WITH_AREAS.where(
                storage_days.c.allocation_id == payer,
                storage_days.c.charged_microcredits < storage_days.c.due_microcredits,
            )
            .order_by(storage_days.c.day, storage_areas.c.number)
            .with_for_update(of=storage_days)
        )
        return [(_area(row, "of_area_"), _day(row)) for row in rows]

    def owed_by(self, connection: Connection, payers: Sequence[str]) -> int:
        """Return what allocations owe together, in microcredits."""
        owed = func.coalesce(func.sum(storage_days.c.due_microcredits - storage_days.c.charged_microcredits), 0)
        return int(
            connection.execute(
                select(owed).where(
                    storage_days.c.allocation_id.in_(list(payers)),
                    storage_days.c.charged_microcredits < storage_days.c.due_microcredits,
                )
            ).scalar_one()
        )

    def charge(self, connection: Connection, day: Day, transaction_id: str, amount: int) -> None:
        """Note that a transaction charged an amount of what is owed for a day."""
        connection.execute(
            update(storage_days)
            .where(storage_days.c.area_id == day.area_id, storage_days.c.day == day.day)
            .values(charged_microcredits=storage_days.c.charged_microcredits + amount)
        )
        connection.execute(
            insert(storage_charges).values(
                area_id=day.area_id, day=day.day, transaction_id=transaction_id, amount=amount
            )
        )


def _area(row: Row[Any], prefix: str = "") -> StoredArea:
    fields = {
        name.removeprefix(prefix): value
        for name, value in row._mapping.items()  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
        if name.startswith(prefix)
    }
    return StoredArea(
        number=fields["number"],
        id=fields["id"],
        storage_class=StorageClass(fields["storage_class"]),
        owner=Owner(fields["person"], fields["allocation_id"]),
        place=fields["place"],
        measured_at_ms=fields["measured_at_ms"],
        bytes=fields["bytes"],
        files=fields["files"],
        passed_over=fields["passed_over"],
        largest=tuple(FolderUse(*one) for one in json.loads(fields["largest"] or "[]")),
        over_since_ms=fields["over_since_ms"],
        limit_bytes=fields["limit_bytes"],
        problem=fields["problem"],
    )


def _day(row: Row[Any]) -> Day:
    return Day(
        area_id=row.area_id,
        day=row.day,
        bytes=row.bytes,
        files=row.files,
        payer=row.allocation_id,
        microcredits_per_gb_day=row.microcredits_per_gb_day,
        due_microcredits=row.due_microcredits,
        charged_microcredits=row.charged_microcredits,
    )
