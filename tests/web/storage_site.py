"""A site with storage on it: what is measured, planned and archived, as by the process that has the mounts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.ids import random_id
from allocations.storage.accrual import AccrualService
from allocations.storage.archive.stores import Folder
from allocations.storage.archive.write import write
from allocations.storage.measures import MeasureService
from allocations.storage.models import Owner, StorageClass
from allocations.storage.purge.archived import to_wanted
from allocations.storage.purge.models import (
    Amount,
    ArchiveKind,
    ArchiveState,
    PlannedPath,
    PurgeState,
    Run,
    StoredArchive,
    Summary,
)
from allocations.storage.purge.store import ArchiveStore, PurgeStore
from allocations.storage.quotas.backends import Found, Use
from allocations.storage.store import StorageStore
from allocations.storage.tree.beneath import Root
from tests.storage.purging import planned

if TYPE_CHECKING:
    from pathlib import Path

    from allocations.lifecycle.authority import Actor
    from allocations.storage.models import StoredArea
    from tests.web.conftest import Site

GB = 1_000_000_000
DAY_MS = 86_400_000
# A new line, a change of direction, HTML, bytes that are not UTF-8, an escape, and a name that a form would change.
HOSTILE = {
    "two\nlines": "two\\x0alines",
    "\u202egnp.exe": "\\u202egnp.exe",
    "<script>alert(1)<": "&lt;script&gt;alert(1)&lt;",
    os.fsdecode(b"caf\xe9"): "caf\\xe9",
    "back\\x0aslash": "back\\\\x0aslash",
    " spaces ": " spaces ",
}


@dataclass
class StorageSite:
    """Areas of a site, and what becomes of them."""

    site: Site

    @property
    def measures(self) -> MeasureService:
        return MeasureService(
            database=self.site.services.database, clock=self.site.clock, new_id=random_id, store=StorageStore()
        )

    def home(self, person: str) -> StoredArea:
        return self.measures.open(StorageClass.HOME, Owner(person=person), person)

    def area(self, storage_class: StorageClass, allocation: str) -> StoredArea:
        return self.measures.open(storage_class, Owner(allocation_id=allocation), allocation)

    def record(self, area: StoredArea, used: int, limit: int | None = None, **more: object) -> None:
        """Measure an area."""
        use = Use(used, 1234, **more)  # type: ignore[arg-type]  # what the test gives
        self.measures.record([area], Found(of={area.id: use}), {area.id: limit})

    def assess(self) -> None:
        """Assess the days that are over."""
        services = self.site.services
        AccrualService(
            database=services.database,
            clock=self.site.clock,
            new_id=random_id,
            policy=services.policy,
            ledger=services.lifecycle.ledger,
            allocations=services.lifecycle.allocations,
            store=StorageStore(),
            home_bytes={"entry": 10 * GB},
        ).assess()

    def plan(self, admin: Actor, *, files: int = 1_200, count: int = 40 * GB, dry_run: bool = False) -> Run:
        """Plan a run over all scratch, each area of which has as many files as given and is told of."""
        run = self.site.services.purges.plan(admin, StorageClass.SCRATCH, dry_run=dry_run)
        summary = Summary(
            by_rule=(Amount("scratch-consortium", files, count),),
            by_owner=(Amount("1000", files, count),),
            folders=(Amount("old/runs", files - 1, count - 5), *(Amount(name, 1, 5) for name in HOSTILE)),
            paths=tuple(PlannedPath(name, 5, "scratch-consortium") for name in HOSTILE),
        )
        with self.site.services.database.write() as connection:
            store = PurgeStore()
            purges = store.of_run(connection, run.id)
            for purge in purges:
                values = {"files": files, "bytes": count, "summary": summary, "state": PurgeState.NOTICED}
                ends_at_ms = self.site.clock.at_ms + 7 * DAY_MS
                assert store.change(connection, purge.id, purge.state, window_ends_at_ms=ends_at_ms, **values)
            sums = {"files": files * len(purges), "bytes": count * len(purges)}
            assert store.change_run(connection, run.id, (run.state,), **sums)
        return run

    def archive(self, area: StoredArea, folder: Path, names: list[str], kept_days: int = 180) -> StoredArchive:
        """Archive files of these names, each with its own name in it."""
        tree, place = folder / f"tree-{area.id}", folder / f"archive-{area.id}"
        tree.mkdir(parents=True)
        for name in names:
            path = tree / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.fsencode(name))
        with Root(str(tree)) as root:
            made = write(
                Folder(str(place)),
                root,
                to_wanted(root, planned(tree, folders=False)),
                name="a",
                made_at="now",
                about={},
            )
        archive = StoredArchive(
            id=random_id("ar"),
            area_id=area.id,
            kind=ArchiveKind.PURGE,
            place=str(place),
            state=ArchiveState.KEPT,
            files=len(names),
            bytes=made.total_bytes,
            sha256=None,
            created_at_ms=self.site.clock.at_ms,
            keep_until_ms=self.site.clock.at_ms + kept_days * DAY_MS,
        )
        with self.site.services.database.write() as connection:
            ArchiveStore().add(connection, archive)
        return archive
