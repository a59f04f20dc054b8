"""What people ask back of archives is theirs, comes back once, and goes on wherever it was killed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from sqlalchemy import update

from allocations.cli import main
from allocations.clock import SystemClock
from allocations.db.database import Database
from allocations.db.schema import archives as archive_rows
from allocations.duties import Duties
from allocations.errors import InvalidInputError, NotAllowedError, NotFoundError, TransitionError
from allocations.ids import random_id
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.storage.archive.format import COMMIT
from allocations.storage.archive.places import ArchivePlaces
from allocations.storage.archive.write import write
from allocations.storage.measures import MeasureService
from allocations.storage.models import Owner, StorageClass, StoredArea
from allocations.storage.purge.models import (
    ArchiveKind,
    ArchiveState,
    Mount,
    Restore,
    RestoreState,
    RestoreTarget,
    StoredArchive,
)
from allocations.storage.purge.run import area_duty
from allocations.storage.purge.store import ArchiveStore
from allocations.storage.restores.run import HELD_SECONDS, POINTS, RestoreRunner
from allocations.storage.restores.service import OPEN_MAX, PATHS_MAX
from allocations.storage.store import StorageStore
from allocations.storage.tree.beneath import Root
from tests.places import join
from tests.storage.archive.trees import make_everything, told, wanted
from tests.storage.file_systems import unmount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

    from tests.allocations.conftest import Bench, TestClock

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root restores owners")
ANN, BEN, ADMIN = Actor("ann"), Actor("ben"), Actor("root", admin=True)
CLASSES = frozenset(StorageClass)


@dataclass
class Site:
    """A tree, its archive, and the rows that tell of them."""

    bench: Bench
    area: StoredArea
    tree: Path
    archive: StoredArchive
    whole: dict[bytes, object]

    def runner(self, database: Database | None = None, clock: TestClock | None = None) -> RestoreRunner:
        database, clock = database or self.bench.services.database, clock or self.bench.clock
        return RestoreRunner(
            database=database,
            clock=clock,
            areas=StorageStore(),
            archives=ArchiveStore(),
            authority=self.bench.services.restores.authority,
            duties=Duties(database, clock),
        )

    def mounted(self, _area: StoredArea) -> Mount:
        return Mount(area=str(self.tree), state="", places=ArchivePlaces(str(self.tree.parent / "archives")))

    def carry_out(self, holder: str = "agent", goes_on: Callable[[], bool] = lambda: True) -> bool:
        return self.runner().carry_out(holder, CLASSES, self.mounted, goes_on)

    def ask(self, *paths: str, target: RestoreTarget = RestoreTarget.IN_PLACE) -> Restore:
        return self.bench.services.restores.ask(ANN, self.archive.id, paths, target)

    def now(self, asked: Restore) -> Restore:
        with self.bench.services.database.read() as connection:
            found = ArchiveStore().restore(connection, asked.id)
        assert found is not None
        return found

    def change(self, **values: object) -> None:
        with self.bench.services.database.write() as connection:
            connection.execute(update(archive_rows).where(archive_rows.c.id == self.archive.id).values(**values))


def owner_of(site: Site, path: bytes) -> tuple[int, int]:
    told_of = site.whole[path]
    assert isinstance(told_of, tuple)
    return int(told_of[1][0]), int(told_of[1][1])


def archived(bench: Bench, owner: Owner, tree: Path) -> Site:
    measures = MeasureService(
        database=bench.services.database, clock=bench.clock, new_id=random_id, store=StorageStore()
    )
    area = measures.open(StorageClass.HOME if owner.person else StorageClass.SHARED, owner, str(tree))
    tree.mkdir()
    make_everything(tree)
    whole = told(tree)
    places = ArchivePlaces(str(tree.parent / "archives"))
    place = places.place_of("a-1")
    with Root(str(tree)) as root:
        made = write(places.open(place), root, wanted(tree), name="a-1", made_at="", about={}, part_paths=5)
    archive = StoredArchive(
        id="a-1",
        area_id=area.id,
        kind=ArchiveKind.PURGE,
        place=place,
        state=ArchiveState.KEPT,
        files=made.members,
        bytes=made.total_bytes,
        sha256=hashlib.sha256(Path(place, COMMIT).read_bytes()).hexdigest(),
        created_at_ms=bench.clock.now_ms(),
        keep_until_ms=bench.clock.now_ms() + 1_000_000,
    )
    with bench.services.database.write() as connection:
        ArchiveStore().add(connection, archive)
    shutil.rmtree(tree / "data")
    return Site(bench, area, tree, archive, whole)


@pytest.fixture
def site(bench: Bench, tmp_path: Path) -> Site:
    bench.accept("ann")
    return archived(bench, Owner(person="ann"), tmp_path / "tree")


def test_a_home_is_asked_back_by_its_person_and_administrators_only(site: Site) -> None:
    restores = site.bench.services.restores
    assert [one.id for one in restores.archives_of(ANN, site.area.id)] == ["a-1"]
    with pytest.raises(NotFoundError) as of_ben:
        restores.ask(BEN, "a-1", (), RestoreTarget.BESIDE)
    with pytest.raises(NotFoundError) as of_none:
        restores.ask(BEN, "a-2", (), RestoreTarget.BESIDE)
    # What is somebody else's is, word for word, not there.
    assert str(of_ben.value).replace("a-1", "a-2") == str(of_none.value)
    for look in (restores.archives_of, restores.asked_of):
        with pytest.raises(NotFoundError):
            look(BEN, site.area.id)
    asked = site.ask("data/plain")
    by_admin = restores.ask(ADMIN, "a-1", (), RestoreTarget.BESIDE)
    assert {one.id for one in restores.asked_of(ANN, site.area.id)} == {asked.id, by_admin.id}


def test_a_shared_folder_is_asked_back_by_who_manages_its_allocation(bench: Bench, tmp_path: Path) -> None:
    allocation = bench.consortium()
    bench.accept("ben")
    join(bench.services.members, Actor("lead"), allocation, "ben", MemberRole.MEMBER)
    site = archived(bench, Owner(allocation_id=allocation), tmp_path / "tree")
    restores = bench.services.restores
    assert restores.archives_of(BEN, site.area.id)
    with pytest.raises(NotAllowedError):
        restores.ask(BEN, "a-1", (), RestoreTarget.BESIDE)
    assert restores.ask(Actor("lead"), "a-1", (), RestoreTarget.BESIDE).state is RestoreState.ASKED


def test_the_same_is_asked_for_once_and_too_much_is_refused(site: Site) -> None:
    restores = site.bench.services.restores
    first = site.ask("data/plain", "/data/deep/")
    assert first.paths == ("data/deep", "data/plain")
    assert site.ask("data/deep", "data/plain").id == first.id
    assert site.ask("data/deep", "data/plain", target=RestoreTarget.BESIDE).id != first.id
    for path in ("../x", "a//b", "", "x" * 9000, "a\0b"):
        with pytest.raises(InvalidInputError):
            site.ask(path)
    with pytest.raises(InvalidInputError):
        restores.ask(ANN, "a-1", [str(number) for number in range(PATHS_MAX + 1)], RestoreTarget.BESIDE)
    for number in range(OPEN_MAX - 2):
        site.ask(str(number))
    with pytest.raises(TransitionError, match="under way"):
        site.ask("one more")


def test_an_archive_whose_time_is_over_is_not_offered(site: Site) -> None:
    asked = site.ask()
    site.bench.clock.pass_seconds(2_000)
    assert site.bench.services.restores.archives_of(ANN, site.area.id) == []
    with pytest.raises(TransitionError):
        site.ask("data")
    # What was asked for in time is brought back, as long as the objects are there.
    site.change(state=ArchiveState.EXPIRED)
    assert site.carry_out()
    assert (site.now(asked).state, [*site.tree.iterdir()]) == (RestoreState.FAILED, [])


def test_everything_comes_back_in_place_and_a_file_beside(site: Site) -> None:
    beside, in_place = site.ask("data/plain", target=RestoreTarget.BESIDE), site.ask()
    assert site.carry_out()
    done = site.now(in_place)
    assert (done.state, done.files, done.bytes) == (RestoreState.DONE, site.archive.files, site.archive.bytes)
    assert done.problem is None
    assert (site.now(beside).state, site.now(beside).files) == (RestoreState.DONE, 1)
    assert (site.tree / "restored" / "a-1" / "data" / "plain").read_bytes() == b"text\n" * 1000
    shutil.rmtree(site.tree / "restored")
    assert told(site.tree) == site.whole
    assert site.carry_out()
    assert site.now(in_place) == done
    with site.bench.services.database.read() as connection:
        assert site.bench.services.restores.authority.last_action(connection, in_place.id) == "restore.done"


def test_what_could_not_be_restored_is_told_and_nothing_is_overwritten(site: Site) -> None:
    (site.tree / "data").mkdir()
    os.chown(site.tree / "data", *owner_of(site, b"data"))
    (site.tree / "data" / "large").write_text("newer")
    some, nothing = site.ask(), site.ask("data/large", "nowhere\udcff")
    assert site.carry_out()
    assert site.now(some).state is RestoreState.DONE
    assert site.now(some).problem == "1 could not be restored: data/large: something else is there, and was left"
    assert site.now(nothing).state is RestoreState.FAILED
    assert r"nowhere\xff: it is not in the archive" in (site.now(nothing).problem or "")
    assert (site.tree / "data" / "large").read_text() == "newer"


def test_another_archive_in_its_place_is_refused(site: Site) -> None:
    asked = site.ask()
    site.change(sha256="0" * 64)
    assert site.carry_out()
    assert site.now(asked).state is RestoreState.FAILED
    assert "another copy" in (site.now(asked).problem or "")
    assert [*site.tree.iterdir()] == []


def test_an_archive_that_is_away_is_waited_for(site: Site) -> None:
    asked = site.ask()
    away = Path(site.archive.place)
    away.rename(away.with_name("away"))
    assert not site.carry_out()
    assert site.now(asked).state is RestoreState.RUNNING
    assert "it is tried again" in (site.now(asked).problem or "")
    away.with_name("away").rename(away)
    assert site.carry_out()
    assert (site.now(asked).state, site.now(asked).problem) == (RestoreState.DONE, None)


def test_an_area_that_another_works_on_is_left_alone(site: Site) -> None:
    asked = site.ask()
    duties = site.runner().duties
    assert duties.take(area_duty(site.area.id), "a purge", 100)
    assert not site.carry_out()
    assert (site.now(asked).state, [*site.tree.iterdir()]) == (RestoreState.ASKED, [])
    duties.lay_down(area_duty(site.area.id), "a purge")
    assert site.carry_out()
    # It is laid down again.
    assert duties.take(area_duty(site.area.id), "a purge", 100)


def test_it_ends_when_the_process_is_to_and_goes_on_later(site: Site) -> None:
    asked = site.ask()
    left = 3

    def goes_on() -> bool:
        nonlocal left
        left -= 1
        return left > 0

    assert not site.carry_out(goes_on=goes_on)
    assert site.now(asked).state is RestoreState.RUNNING
    assert site.carry_out("another")
    assert site.now(asked).files == site.archive.files
    assert told(site.tree) == site.whole


def killed(site: Site, point: str, step: int) -> int:
    """Carry out in a process that is killed at a point, or at the n-th piece of a file; returns how it ended."""
    process = os.fork()
    if process == 0:
        try:
            # Connections cannot be shared with a parent.
            database = Database(site.bench.services.database.url.render_as_string(hide_password=False))
            pieces = 0

            def die(at: str) -> None:
                if at == point:
                    os.kill(os.getpid(), signal.SIGKILL)

            def goes_on() -> bool:
                nonlocal pieces
                pieces += 1
                if pieces == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return True

            site.runner(database).carry_out("killed", CLASSES, site.mounted, goes_on, die)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "step"), [*((point, 0) for point in POINTS), *(("", step) for step in (2, 4, 9, 20))]
)
def test_killed_anywhere_it_is_gone_on_with_and_nothing_comes_twice(site: Site, point: str, step: int) -> None:
    asked = site.ask()
    assert killed(site, point, step) == -signal.SIGKILL
    if point != "over":
        assert not site.carry_out("another"), "the area is still the dead one's"
        site.bench.clock.pass_seconds(HELD_SECONDS + 1)
        assert site.carry_out("another")
    done = site.now(asked)
    assert (done.state, done.files, done.bytes) == (RestoreState.DONE, site.archive.files, site.archive.bytes)
    assert told(site.tree) == site.whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", path], check=True)
    yield path
    unmount(path)


def test_a_full_area_is_told_and_asked_again_it_goes_on(site: Site, small_disk: Path) -> None:
    full = replace(site, tree=small_disk)
    full.mounted = lambda _area: replace(site.mounted(_area), area=str(small_disk))  # type: ignore[method-assign]
    asked = full.ask(target=RestoreTarget.BESIDE)
    assert full.carry_out()
    assert full.now(asked).state is RestoreState.FAILED
    assert "make some" in (full.now(asked).problem or "")
    assert "ask for it again" in (full.now(asked).problem or "")
    subprocess.run(["mount", "-o", "remount,size=30m", small_disk], check=True)
    again = full.ask(target=RestoreTarget.BESIDE)
    assert again.id != asked.id
    assert full.carry_out()
    assert full.now(again).state is RestoreState.DONE
    assert told(small_disk / "restored" / "a-1") == site.whole
    assert [path.name for path in small_disk.iterdir()] == ["restored"]


def meridian(bench: Bench, *arguments: str) -> Result:
    url = bench.services.database.url.render_as_string(hide_password=False)
    return CliRunner().invoke(main, ["archive", *arguments, "--database", url])


def test_the_command_line_knows_archives_by_their_ids(site: Site, tmp_path: Path) -> None:
    (row,) = (json.loads(line) for line in meridian(site.bench, "list", "--json").stdout.splitlines())
    assert (row["id"], row["person"], row["storage"], row["state"]) == ("a-1", "ann", "home", "kept")
    assert "a-1" in meridian(site.bench, "list", "--person", "ann").stdout
    for of in (("--person", "ben"), ("--allocation", "x"), ("--area", "x")):
        assert meridian(site.bench, "list", *of, "--json").stdout == ""
    assert len(meridian(site.bench, "list", "a-1").stdout.splitlines()) == site.archive.files
    assert meridian(site.bench, "verify", "a-1").exit_code == 0
    refused = meridian(site.bench, "verify", "a-2")
    assert (refused.exit_code, "meridian archive list" in refused.stderr) == (1, True)
    (tmp_path / "here").mkdir()
    # Purges and restores of the area wait for this one, as it for them; both clocks are to agree.
    site.bench.clock.at_ms = SystemClock().now_ms()
    duties = site.runner().duties
    assert duties.take(area_duty(site.area.id), "a purge", 100)
    refused = meridian(site.bench, "restore", "a-1", "--to", str(tmp_path / "here"))
    assert (refused.exit_code, "Another process" in refused.stderr) == (1, True)
    duties.lay_down(area_duty(site.area.id), "a purge")
    assert meridian(site.bench, "restore", "a-1", "--to", str(tmp_path / "here"), "--in-place").exit_code == 0
    assert told(tmp_path / "here") == site.whole


def test_the_command_line_asks_who_has_the_mounts(site: Site) -> None:
    asked = json.loads(meridian(site.bench, "restore", "a-1", "data/plain", "--in-place", "--json").stdout)
    assert asked["state"] == "asked"
    assert site.carry_out()
    assert (site.tree / "data" / "plain").exists()
    assert meridian(site.bench, "restore", "/a/place").exit_code == 2
    site.change(state=ArchiveState.EXPIRED)
    refused = meridian(site.bench, "restore", "a-1")
    assert (refused.exit_code, "Choose another" in refused.stderr) == (1, True)
    assert meridian(site.bench, "list", "--json").stdout == ""
    assert json.loads(meridian(site.bench, "list", "--gone", "--json").stdout)["state"] == "expired"
