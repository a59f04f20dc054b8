"""Stores purges, exemptions, archives and what is asked back of them; decides nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, exists, func, insert, or_, select, update

from allocations.db.schema import archives, exemptions, purge_runs, purge_stop, purges, restores
from allocations.storage.models import StorageClass
from allocations.storage.purge.models import (
    OVER_STATES,
    Amount,
    ArchiveKind,
    ArchiveState,
    ExemptionState,
    PlannedPath,
    Purge,
    PurgeState,
    Restore,
    RestoreState,
    RestoreTarget,
    Run,
    RunKind,
    RunState,
    Stop,
    StoredArchive,
    StoredExemption,
    Summary,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import ColumnElement, Connection, Exists, Row

_THE_SWITCH = 1
# A summary is long, and many purges are looked at for what can go on.
_WITHOUT_SUMMARY = [column for column in purges.columns if column is not purges.c.summary]


class PurgeStore:
    """Runs, their purges, and the switch that stops them all."""

    def add_run(self, connection: Connection, run: Run) -> None:
        """Insert a run."""
        connection.execute(insert(purge_runs).values(asdict(run)))

    def run(self, connection: Connection, run_id: str) -> Run | None:
        """Return a run, or None."""
        row = connection.execute(select(purge_runs).where(purge_runs.c.id == run_id)).one_or_none()
        return _run(row) if row else None

    def runs(self, connection: Connection, count_max: int) -> list[Run]:
        """Return the newest runs, newest first."""
        newest = select(purge_runs).order_by(purge_runs.c.created_at_ms.desc(), purge_runs.c.id.desc())
        return [_run(row) for row in connection.execute(newest.limit(count_max))]

    def lock_run(self, connection: Connection, run_id: str) -> Run | None:
        """Return a run, which nobody else changes until the transaction ends, or None."""
        row = connection.execute(select(purge_runs).where(purge_runs.c.id == run_id).with_for_update()).one_or_none()
        return _run(row) if row else None

    def change_run(self, connection: Connection, run_id: str, states: Collection[RunState], **values: object) -> bool:
        """Set columns of a run that is in one of some states; False when it is not."""
        here = (purge_runs.c.id == run_id, purge_runs.c.state.in_(list(states)))
        return connection.execute(update(purge_runs).where(*here).values(**values)).rowcount == 1

    def add(self, connection: Connection, purge: Purge) -> None:
        """Insert a purge; IntegrityError where the area has one under way."""
        connection.execute(insert(purges).values({**asdict(purge), "summary": None}))

    def get(self, connection: Connection, purge_id: str) -> Purge | None:
        """Return a purge, or None."""
        row = connection.execute(select(purges).where(purges.c.id == purge_id)).one_or_none()
        return _purge(row) if row else None

    def of_run(self, connection: Connection, run_id: str) -> list[Purge]:
        """Return the purges of a run, by their areas."""
        rows = connection.execute(select(purges).where(purges.c.run_id == run_id).order_by(purges.c.area_id))
        return [_purge(row) for row in rows]

    def of_areas(self, connection: Connection, area_ids: Collection[str], count_max: int) -> list[Purge]:
        """Return the purges of some areas that are no dry runs, those changed last first."""
        newest = (
            select(purges)
            .where(purges.c.area_id.in_(list(area_ids)), ~purges.c.dry_run)
            .order_by(purges.c.changed_at_ms.desc(), purges.c.id)
        )
        return [_purge(row) for row in connection.execute(newest.limit(count_max))]

    def over(self, connection: Connection, area_id: str) -> list[str]:
        """Return the ids of an area's purges that are over, dry runs included."""
        is_over = or_(
            purges.c.state.in_(list(OVER_STATES)), and_(purges.c.dry_run, purges.c.state == PurgeState.PLANNED)
        )
        return list(connection.execute(select(purges.c.id).where(purges.c.area_id == area_id, is_over)).scalars())

    def under_way(self, connection: Connection, area_ids: Collection[str] | None = None) -> list[Purge]:
        """Return the purges that are not over and no dry runs, of some areas or of all; those changed first first."""
        wanted = [~purges.c.dry_run, purges.c.state.not_in(list(OVER_STATES))]
        if area_ids is not None:
            wanted.append(purges.c.area_id.in_(list(area_ids)))
        rows = connection.execute(select(purges).where(*wanted).order_by(purges.c.changed_at_ms, purges.c.id))
        return [_purge(row) for row in rows]

    def in_open_runs(self, connection: Connection, states: Collection[PurgeState]) -> list[tuple[Purge, Run]]:
        """Return the purges in some states whose run is open, with it, without their summaries; those changed first
        first."""
        found = (
            select(*_WITHOUT_SUMMARY, *(column.label(f"of_run_{column.name}") for column in purge_runs.columns))
            .join(purge_runs, purge_runs.c.id == purges.c.run_id)
            .where(purges.c.state.in_(list(states)), purge_runs.c.state == RunState.OPEN)
            .order_by(purges.c.changed_at_ms, purges.c.id)
        )
        return [(_purge(row), _run(row, "of_run_")) for row in connection.execute(found)]

    def change(self, connection: Connection, purge_id: str, state: PurgeState, /, **values: object) -> bool:
        """Set columns of a purge that is in a state; False when it is not."""
        if isinstance(summary := values.get("summary"), Summary):
            values["summary"] = json.dumps(asdict(summary))
        here = (purges.c.id == purge_id, purges.c.state == state)
        return connection.execute(update(purges).where(*here).values(**values)).rowcount == 1

    def progress(self, connection: Connection, purge: Purge, position: int, files: int, bytes_: int) -> bool:
        """Note how far deletion is, and what it has deleted; False where it is not where it was seen to be."""
        here = (
            purges.c.id == purge.id,
            purges.c.state == PurgeState.DELETING,
            purges.c.position == purge.position,
            purges.c.deleted_files == purge.deleted_files,
        )
        values = {"position": position, "deleted_files": files, "deleted_bytes": bytes_}
        return connection.execute(update(purges).where(*here).values(values)).rowcount == 1

    def count(self, connection: Connection, run_id: str, states: Collection[PurgeState]) -> int:
        """Return how many purges of a run are in one of some states."""
        counted = select(func.count()).where(purges.c.run_id == run_id, purges.c.state.in_(list(states)))
        return int(connection.execute(counted).scalar_one())

    def stop(self, connection: Connection) -> Stop | None:
        """Return what stops every purge, None when nothing does."""
        row = connection.execute(select(purge_stop)).one_or_none()
        return Stop(row.stopped_by, row.stopped_at_ms, row.why) if row else None

    def set_stop(self, connection: Connection, stop: Stop | None) -> None:
        """Stop every purge, or let them go on."""
        connection.execute(delete(purge_stop))
        if stop is not None:
            connection.execute(insert(purge_stop).values(number=_THE_SWITCH, **asdict(stop)))


class ExemptionStore:
    """What owners of files asked to be left alone."""

    def add(self, connection: Connection, exemption: StoredExemption) -> None:
        """Insert one."""
        connection.execute(insert(exemptions).values(asdict(exemption)))

    def get(self, connection: Connection, exemption_id: str) -> StoredExemption | None:
        """Return one, or None."""
        row = connection.execute(select(exemptions).where(exemptions.c.id == exemption_id)).one_or_none()
        return _exemption(row) if row else None

    def of_areas(self, connection: Connection, area_ids: Collection[str]) -> list[StoredExemption]:
        """Return those of some areas, those asked for last first."""
        rows = connection.execute(
            select(exemptions)
            .where(exemptions.c.area_id.in_(list(area_ids)))
            .order_by(exemptions.c.asked_at_ms.desc(), exemptions.c.id)
        )
        return [_exemption(row) for row in rows]

    def in_force(self, connection: Connection, area_id: str, now_ms: int) -> list[StoredExemption]:
        """Return those of an area that are granted and not over."""
        rows = connection.execute(
            select(exemptions)
            .where(
                exemptions.c.area_id == area_id,
                exemptions.c.state == ExemptionState.GRANTED,
                exemptions.c.until_ms > now_ms,
            )
            .order_by(exemptions.c.folder, exemptions.c.id)
        )
        return [_exemption(row) for row in rows]

    def asked(self, connection: Connection) -> list[StoredExemption]:
        """Return those that nobody has decided on, those that wait longest first."""
        rows = connection.execute(
            select(exemptions)
            .where(exemptions.c.state == ExemptionState.ASKED)
            .order_by(exemptions.c.asked_at_ms, exemptions.c.id)
        )
        return [_exemption(row) for row in rows]

    def change(self, connection: Connection, exemption_id: str, state: ExemptionState, /, **values: object) -> bool:
        """Set columns of one that is in a state; False when it is not."""
        here = (exemptions.c.id == exemption_id, exemptions.c.state == state)
        return connection.execute(update(exemptions).where(*here).values(**values)).rowcount == 1


class ArchiveStore:
    """Archives, and what is asked back of them."""

    def add(self, connection: Connection, archive: StoredArchive) -> None:
        """Insert an archive."""
        connection.execute(insert(archives).values(asdict(archive)))

    def get(self, connection: Connection, archive_id: str) -> StoredArchive | None:
        """Return an archive, or None."""
        row = connection.execute(select(archives).where(archives.c.id == archive_id)).one_or_none()
        return _archive(row) if row else None

    def of_areas(
        self, connection: Connection, area_ids: Collection[str], states: Collection[ArchiveState] = (ArchiveState.KEPT,)
    ) -> list[StoredArchive]:
        """Return the archives of some areas that are in one of some states, the newest first."""
        rows = connection.execute(
            select(archives)
            .where(archives.c.area_id.in_(list(area_ids)), archives.c.state.in_(list(states)))
            .order_by(archives.c.created_at_ms.desc(), archives.c.id)
        )
        return [_archive(row) for row in rows]

    def in_states(self, connection: Connection, states: Collection[ArchiveState]) -> list[StoredArchive]:
        """Return the archives of all areas that are in one of some states; those that are kept shortest first."""
        rows = connection.execute(
            select(archives)
            .where(archives.c.state.in_(list(states)))
            .order_by(archives.c.keep_until_ms, archives.c.created_at_ms, archives.c.id)
        )
        return [_archive(row) for row in rows]

    def due(self, connection: Connection, now_ms: int) -> list[StoredArchive]:
        """Return the archives that are kept, and need not be any more."""
        rows = connection.execute(
            select(archives)
            .where(archives.c.state == ArchiveState.KEPT, archives.c.keep_until_ms <= now_ms)
            .order_by(archives.c.keep_until_ms, archives.c.id)
        )
        return [_archive(row) for row in rows]

    def change(self, connection: Connection, archive_id: str, state: ArchiveState, /, **values: object) -> bool:
        """Set columns of an archive that is in a state; False when it is not."""
        here = (archives.c.id == archive_id, archives.c.state == state)
        return connection.execute(update(archives).where(*here).values(**values)).rowcount == 1

    def give_up(self, connection: Connection, archive_id: str) -> None:
        """Note that an archive is of no use: what is in it was not deleted."""
        states = [ArchiveState.WRITING, ArchiveState.KEPT]
        here = (archives.c.id == archive_id, archives.c.state.in_(states))
        connection.execute(update(archives).where(*here).values(state=ArchiveState.BROKEN))

    def ask(self, connection: Connection, restore: Restore) -> None:
        """Insert a restore."""
        values = {**asdict(restore), "paths": json.dumps(restore.paths), "changed_at_ms": restore.asked_at_ms}
        connection.execute(insert(restores).values(values))

    def restore(self, connection: Connection, restore_id: str) -> Restore | None:
        """Return a restore, or None."""
        row = connection.execute(select(restores).where(restores.c.id == restore_id)).one_or_none()
        return _restore(row) if row else None

    def restores_of(self, connection: Connection, archive_ids: Iterable[str]) -> list[Restore]:
        """Return what was asked back of some archives, what was asked last first."""
        rows = connection.execute(
            select(restores)
            .where(restores.c.archive_id.in_(list(archive_ids)))
            .order_by(restores.c.asked_at_ms.desc(), restores.c.id)
        )
        return [_restore(row) for row in rows]

    def restores_due(self, connection: Connection) -> list[tuple[Restore, StoredArchive]]:
        """Return what is asked back and not there yet, with its archive; what was asked first first."""
        found = (
            select(restores, *(column.label(f"of_archive_{column.name}") for column in archives.columns))
            .join(archives, archives.c.id == restores.c.archive_id)
            .where(restores.c.state.in_([RestoreState.ASKED, RestoreState.RUNNING]))
            .order_by(restores.c.asked_at_ms, restores.c.id)
        )
        return [(_restore(row), _archive(row, "of_archive_")) for row in connection.execute(found)]

    def change_restore(
        self, connection: Connection, restore_id: str, states: Collection[RestoreState], **values: object
    ) -> bool:
        """Set columns of a restore that is in one of some states; False when it is not."""
        here = and_(restores.c.id == restore_id, or_(*(restores.c.state == state for state in states)))
        return connection.execute(update(restores).where(here).values(**values)).rowcount == 1

    def lock(self, connection: Connection, archive_id: str) -> StoredArchive | None:
        """Return an archive, which nobody changes or asks something of until the transaction ends, or None."""
        row = connection.execute(select(archives).where(archives.c.id == archive_id).with_for_update()).one_or_none()
        return _archive(row) if row else None

    def is_used(self, connection: Connection, archive_id: str) -> bool:
        """Say whether a purge that is not over writes an archive, or deletes by it."""
        return connection.execute(select(_users(archive_id))).scalar_one()

    def abandoned(self, connection: Connection) -> list[StoredArchive]:
        """Return the archives that are not finished, and that no purge writes any more."""
        rows = connection.execute(
            select(archives)
            .where(archives.c.state == ArchiveState.WRITING, ~_users(archives.c.id))
            .order_by(archives.c.created_at_ms, archives.c.id)
        )
        return [_archive(row) for row in rows]


def _users(archive_id: str | ColumnElement[str]) -> Exists:
    return exists().where(purges.c.archive_id == archive_id, purges.c.state.not_in(list(OVER_STATES)))


def _fields(row: Row[Any], prefix: str = "") -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in row._mapping.items()  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
        if name.startswith(prefix) and (prefix or not name.startswith("of_"))
    }


def _run(row: Row[Any], prefix: str = "") -> Run:
    fields = _fields(row, prefix)
    fields |= {"storage_class": StorageClass(fields["storage_class"]), "state": RunState(fields["state"])}
    return Run(**{**fields, "kind": RunKind(fields["kind"])})


def _purge(row: Row[Any]) -> Purge:
    fields = _fields(row)
    told = json.loads(fields.get("summary") or "{}")
    summary = Summary(
        **{name: tuple(Amount(*one) for one in told.get(name, ())) for name in ("by_rule", "by_owner", "folders")},
        paths=tuple(PlannedPath(*one) for one in told.get("paths", ())),
    )
    return Purge(**{**fields, "state": PurgeState(fields["state"]), "summary": summary})


def _exemption(row: Row[Any]) -> StoredExemption:
    fields = _fields(row)
    return StoredExemption(**{**fields, "state": ExemptionState(fields["state"])})


def _archive(row: Row[Any], prefix: str = "") -> StoredArchive:
    fields = _fields(row, prefix)
    fields |= {"kind": ArchiveKind(fields["kind"]), "state": ArchiveState(fields["state"])}
    return StoredArchive(**fields)


def _restore(row: Row[Any]) -> Restore:
    fields = _fields(row)
    del fields["changed_at_ms"]
    return Restore(
        **{
            **fields,
            "paths": tuple(json.loads(fields["paths"])),
            "target": RestoreTarget(fields["target"]),
            "state": RestoreState(fields["state"]),
        }
    )
