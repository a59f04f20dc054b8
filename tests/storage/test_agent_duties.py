"""Which duties a process has by its settings, and that it never takes its own lock of an area for another's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from allocations.factory import make_storage_services
from allocations.lifecycle.authority import Actor
from allocations.storage.models import Owner, StorageClass
from allocations.storage.purge.spool import SPOOLS
from allocations.storage.settings import StorageSettings
from allocations.storage_agent import make_duties
from tests.allocations.conftest import bench, database_url, postgres_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.allocations.conftest import Bench

__all__ = ["bench", "database_url", "postgres_server"]


@dataclass
class Carrying:
    """In the place of those who carry purges and restores out: notes by whom they were asked."""

    holders: list[str] = field(default_factory=list)

    def next_step(self, holder: str, _classes: object) -> None:
        self.holders.append(holder)

    def areas_deleted_from(self) -> frozenset[str]:
        return frozenset()

    def carry_out(self, holder: str, *_others: object) -> bool:
        self.holders.append(holder)
        return True


def settings_of(path: Path, **changes: Any) -> StorageSettings:
    folder = {"backend": "scan", "uid": 0, "gid": 0}
    classes = {name: folder | {"folder": f"{path}/{name}"} for name in ("home", "scratch")}
    return StorageSettings.model_validate(
        {"classes": classes, "archive": f"{path}/archives", "state": f"{path}/state"} | changes
    )


def test_what_needs_folders_and_a_place_for_archives_is_there_with_them_only(bench: Bench, tmp_path: Path) -> None:
    def names(settings: StorageSettings) -> set[str]:
        duties = make_duties(bench.services, make_storage_services(bench.services), settings, "one")
        assert len({duty.name for duty in duties}) == len(duties)
        return {duty.name.removeprefix("storage-") for duty in duties}

    measured = {"limits-home", "measure-home", "limits-scratch", "measure-scratch", "charges"}
    assert names(settings_of(tmp_path, archive=None)) == measured
    purged = {f"{what}-{name}" for what in ("purges", "restores") for name in ("home", "scratch")}
    assert names(settings_of(tmp_path)) == measured | purged | {"calendar", "archives", "spools"}


def test_each_purge_and_restore_holds_areas_by_a_name_of_its_own(bench: Bench, tmp_path: Path) -> None:
    carrying: Any = Carrying()
    services = replace(bench.services, purge_runner=carrying)
    storage = replace(make_storage_services(services), restores=carrying)
    for process in ("one", "two"):
        for duty in make_duties(services, storage, settings_of(tmp_path), process):
            if duty.is_shared:
                assert duty.work(lambda: True)
    assert len(carrying.holders) == len(set(carrying.holders)) == 8


def test_a_purge_halts_at_its_next_point_when_the_process_is_to_stop(bench: Bench, tmp_path: Path) -> None:
    """And lets its area go, so that the next process goes on at once."""
    storage = make_storage_services(bench.services)
    settings = settings_of(tmp_path)
    owner = Owner(allocation_id=bench.accept("ann"))
    area = storage.measures.open(StorageClass.SCRATCH, owner, "ann")
    (tmp_path / "scratch" / "ann").mkdir(parents=True)
    (tmp_path / "state").mkdir()
    run = bench.services.purges.plan(Actor("root", admin=True), area.storage_class)

    def state() -> str:
        (purge,) = bench.services.purges.run(Actor("root", admin=True), run.id).purges
        return purge.state.value

    def attend(process: str, goes_on: Callable[[], bool]) -> bool:
        duties = make_duties(bench.services, storage, settings, process)
        (purge,) = [duty for duty in duties if duty.name == "storage-purges-scratch"]
        return purge.work(goes_on)

    asked = iter([True])
    assert not attend("one", lambda: next(asked, False))
    assert state() == "planning"
    assert attend("two", lambda: True)
    assert state() == "done"


def test_what_plans_left_that_were_killed_goes_when_the_process_begins(bench: Bench, tmp_path: Path) -> None:
    left = tmp_path / "state" / "plans" / SPOOLS / "of one who was killed"
    left.mkdir(parents=True)
    duties = make_duties(bench.services, make_storage_services(bench.services), settings_of(tmp_path), "one")
    (tidy,) = [duty for duty in duties if duty.name == "storage-spools"]
    # Each process, as it may have a folder of its own; and it is due at once.
    assert tidy.is_shared
    assert tidy.work(lambda: True)
    assert not left.exists()
