"""Archives expire with notice ahead, not while something is restored from them, and their objects after their rows."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.db.schema import audit, notices
from allocations.duties import Duties
from allocations.ids import random_id
from allocations.storage.archive.format import COMMIT, MANIFEST, Archive, Stored, part_name
from allocations.storage.archive.places import open_place
from allocations.storage.archive.removal import POINTS
from allocations.storage.measures import MeasureService
from allocations.storage.models import Owner, StorageClass
from allocations.storage.purge.models import (
    ArchiveKind,
    ArchiveState,
    Restore,
    RestoreState,
    RestoreTarget,
    StoredArchive,
)
from allocations.storage.purge.run import area_duty
from allocations.storage.purge.store import ArchiveStore
from allocations.storage.store import StorageStore

if TYPE_CHECKING:
    from allocations.storage.archive.stores import Store
    from tests.allocations.conftest import Bench

DAY = 86_400
DAY_MS = DAY * 1000
STORE = ArchiveStore()
SHA256 = "0" * 64


@dataclass
class Folders:
    """Places of archives: folders of one folder."""

    root: Path

    def place_of(self, archive_id: str) -> str:
        return str(self.root / archive_id)

    def open(self, place: str) -> Store:
        return open_place(place)


def make_archive(
    bench: Bench, places: Folders, *, keep_days: float = 40, parts: int = 3, state: ArchiveState = ArchiveState.KEPT
) -> StoredArchive:
    """An archive of ann's home with objects at its place, kept for some days from now."""
    bench.accept("ann")
    services = bench.services
    measures = MeasureService(database=services.database, clock=bench.clock, new_id=random_id, store=StorageStore())
    area = measures.open(StorageClass.HOME, Owner(person="ann"), "ann")
    archive_id = random_id("ar")
    place = places.place_of(archive_id)
    objects = {MANIFEST: Stored(4, SHA256), **{part_name(number): Stored(4, SHA256) for number in range(parts)}}
    for name in objects:
        put(place, name, b"data")
    put(place, COMMIT, Archive(archive_id, "now", objects, 7, 70, 0, {}).to_json())
    now_ms = bench.clock.now_ms()
    archive = StoredArchive(
        id=archive_id,
        area_id=area.id,
        kind=ArchiveKind.PURGE,
        place=place,
        state=state,
        files=7,
        bytes=70,
        sha256=SHA256,
        created_at_ms=now_ms,
        keep_until_ms=now_ms + round(keep_days * DAY_MS),
    )
    with services.database.write() as connection:
        STORE.add(connection, archive)
    return archive


def put(place: str, name: str, data: bytes) -> None:
    with open_place(place).create(name) as sink:
        sink.write(data)
        sink.commit()


def state_of(bench: Bench, archive: StoredArchive) -> ArchiveState:
    with bench.services.database.read() as connection:
        found = STORE.get(connection, archive.id)
    assert found is not None
    return found.state


def keep_until_ms(bench: Bench, archive: StoredArchive) -> int:
    with bench.services.database.read() as connection:
        found = STORE.get(connection, archive.id)
    assert found is not None
    assert found.keep_until_ms is not None
    return found.keep_until_ms


def told(bench: Bench, archive: StoredArchive) -> list[tuple[str, int]]:
    """Thresholds and ends of what ann was told of an archive, in order."""
    with bench.services.database.read() as connection:
        rows = connection.execute(
            select(notices.c.threshold, notices.c.details, notices.c.person)
            .where(notices.c.subject == archive.id)
            .order_by(notices.c.id)
        ).all()
    assert {row.person for row in rows} <= {"ann"}
    return [(row.threshold, json.loads(row.details)["ends_at_ms"]) for row in rows]


def audited(bench: Bench, archive: StoredArchive) -> list[str]:
    with bench.services.database.read() as connection:
        rows = connection.execute(select(audit.c.action).where(audit.c.subject == archive.id).order_by(audit.c.id))
        return list(rows.scalars())


def names_at(archive: StoredArchive) -> list[str]:
    place = Path(archive.place)
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


def ask(bench: Bench, archive: StoredArchive, state: RestoreState = RestoreState.ASKED) -> Restore:
    asked = Restore(
        random_id("b"), archive.id, "ann", bench.clock.now_ms(), (), RestoreTarget.BESIDE, RestoreState.ASKED
    )
    with bench.services.database.write() as connection:
        STORE.ask(connection, asked)
        STORE.change_restore(connection, asked.id, [RestoreState.ASKED], state=state)
    return asked


def pass_days(bench: Bench, days: float, looks: int = 1) -> None:
    for _ in range(looks):
        bench.clock.pass_seconds(days * DAY / looks)
        bench.services.expiry.look()


def test_owners_are_told_30_and_7_days_ahead_and_then_it_expires(bench: Bench, tmp_path: Path) -> None:
    archive = make_archive(bench, Folders(tmp_path), keep_days=40)
    end_ms = keep_until_ms(bench, archive)
    pass_days(bench, 9.99, looks=5)
    assert told(bench, archive) == []
    pass_days(bench, 0.01)
    assert told(bench, archive) == [("30", end_ms)]
    pass_days(bench, 23, looks=20)
    assert told(bench, archive) == [("30", end_ms), ("7", end_ms)]
    pass_days(bench, 6.99, looks=9)
    assert state_of(bench, archive) is ArchiveState.KEPT
    pass_days(bench, 0.01)
    assert state_of(bench, archive) is ArchiveState.EXPIRED
    assert audited(bench, archive) == ["archive.reminder", "archive.reminder", "archive.expire"]
    assert (Path(archive.place) / COMMIT).exists(), "who looks removes nothing"


def test_when_nobody_looked_for_years_owners_still_have_the_days_that_they_are_told(
    bench: Bench, tmp_path: Path
) -> None:
    archive = make_archive(bench, Folders(tmp_path), keep_days=40)
    pass_days(bench, 1000)
    end_ms = bench.clock.now_ms() + 7 * DAY_MS
    assert told(bench, archive) == [("7", end_ms)]
    assert keep_until_ms(bench, archive) == end_ms
    pass_days(bench, 6.9, looks=10)
    assert state_of(bench, archive) is ArchiveState.KEPT
    pass_days(bench, 0.2)
    assert state_of(bench, archive) is ArchiveState.EXPIRED


@pytest.mark.parametrize("state", [RestoreState.ASKED, RestoreState.RUNNING])
def test_what_is_being_restored_from_does_not_expire(bench: Bench, tmp_path: Path, state: RestoreState) -> None:
    archive = make_archive(bench, Folders(tmp_path), keep_days=40)
    pass_days(bench, 39, looks=20)
    asked = ask(bench, archive, state)
    pass_days(bench, 30, looks=30)
    assert state_of(bench, archive) is ArchiveState.KEPT
    with bench.services.database.write() as connection:
        STORE.change_restore(connection, asked.id, [state], state=RestoreState.DONE)
    bench.services.expiry.look()
    assert state_of(bench, archive) is ArchiveState.EXPIRED


def test_objects_go_after_the_row_and_only_those_of_archives(bench: Bench, tmp_path: Path) -> None:
    places = Folders(tmp_path)
    kept, ended = make_archive(bench, places, keep_days=400), make_archive(bench, places)
    (Path(ended.place) / "notes of an administrator").write_text("why is this here")
    pass_days(bench, 50, looks=50)
    assert bench.services.archive_remover.remove("one", places) == (1, [])
    assert names_at(ended) == ["notes of an administrator"]
    assert len(names_at(kept)) == 5
    assert (state_of(bench, kept), state_of(bench, ended)) == (ArchiveState.KEPT, ArchiveState.REMOVED)
    assert audited(bench, ended)[-1] == "archive.remove"
    assert bench.services.archive_remover.remove("one", places) == (0, [])


def test_a_place_at_which_another_archive_is_stays_as_it_is(bench: Bench, tmp_path: Path) -> None:
    places = Folders(tmp_path)
    other, ended = make_archive(bench, places), make_archive(bench, places, state=ArchiveState.EXPIRED)
    shutil.rmtree(ended.place)
    Path(other.place).rename(ended.place)
    done, problems = bench.services.archive_remover.remove("one", places)
    assert (done, len(problems)) == (0, 1)
    assert f"is {other.id}" in problems[0]
    assert len(names_at(ended)) == 5
    assert state_of(bench, ended) is ArchiveState.EXPIRED


def test_nothing_is_removed_of_an_area_that_another_process_has(bench: Bench, tmp_path: Path) -> None:
    places = Folders(tmp_path)
    archive = make_archive(bench, places, state=ArchiveState.EXPIRED)
    taken = Duties(bench.services.database, bench.clock)
    assert taken.take(area_duty(archive.area_id), "another", 100)
    assert bench.services.archive_remover.remove("one", places) == (0, [])
    assert len(names_at(archive)) == 5
    taken.lay_down(area_duty(archive.area_id), "another")
    assert bench.services.archive_remover.remove("one", places) == (1, [])
    assert not Path(archive.place).exists()


def test_what_nobody_writes_any_more_is_given_up_and_removed(bench: Bench, tmp_path: Path) -> None:
    places = Folders(tmp_path)
    archive = make_archive(bench, places, state=ArchiveState.WRITING)
    bench.services.expiry.look()
    assert state_of(bench, archive) is ArchiveState.BROKEN
    assert bench.services.archive_remover.remove("one", places) == (1, [])
    assert not Path(archive.place).exists()


_REMOVE = """
import os, signal, sys
from pathlib import Path
from allocations.clock import SystemClock
from allocations.db.database import Database
from allocations.factory import make_services
from tests.allocations.test_expiry import Folders
from tests.fresh import shipped_policy

url, root, point, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
left = count

def reached(name):
    global left
    left -= name == point
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

services = make_services(Database(url), shipped_policy(), root / "runs", SystemClock())
print(services.archive_remover.remove(f"process {os.getpid()}", Folders(root), reached=reached))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "count"),
    [("commit removed", 1), *(("object removed", count) for count in range(1, 5)), ("all removed", 1), ("removed", 1)],
)
def test_killed_at_any_point_the_next_process_goes_on(
    bench: Bench, tmp_path: Path, database_url: str, point: str, count: int
) -> None:
    places = Folders(tmp_path)
    kept = make_archive(bench, places)
    ended = make_archive(bench, places, state=ArchiveState.EXPIRED)
    argv = [sys.executable, "-c", _REMOVE, database_url, str(tmp_path), point, str(count)]
    killed = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert COMMIT not in names_at(ended), "what is left is taken for no archive"
    assert state_of(bench, ended) is (ArchiveState.REMOVED if point == "removed" else ArchiveState.EXPIRED)
    # The lock of who was killed is over in time.
    bench.clock.at_ms = max(bench.clock.at_ms, locked_until_ms(bench, ended))
    bench.clock.pass_seconds(1)
    done, problems = bench.services.archive_remover.remove("the next", places)
    assert (done, problems) == (int(point != "removed"), [])
    assert not Path(ended.place).exists()
    assert state_of(bench, ended) is ArchiveState.REMOVED
    assert audited(bench, ended) == ["archive.remove"]
    assert len(names_at(kept)) == 5


def locked_until_ms(bench: Bench, archive: StoredArchive) -> int:
    from allocations.db.schema import duties  # noqa: PLC0415

    with bench.services.database.read() as connection:
        return int(
            connection.execute(
                select(duties.c.until_ms).where(duties.c.name == area_duty(archive.area_id))
            ).scalar_one()
        )


def test_the_points_are_those_that_are_reached(bench: Bench, tmp_path: Path) -> None:
    places, reached = Folders(tmp_path), list[str]()
    make_archive(bench, places, parts=1, state=ArchiveState.EXPIRED)
    bench.services.archive_remover.remove("one", places, reached=reached.append)
    assert reached == ["commit removed", "object removed", "object removed", "all removed", "removed"]
    assert list(dict.fromkeys(reached)) == [*POINTS, "removed"]
