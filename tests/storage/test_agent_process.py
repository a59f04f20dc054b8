"""The process with the mounts as a whole: real folders, a real btrfs, killed at random, two at a time."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from sqlalchemy import select

from allocations.db.database import Database
from allocations.db.schema import storage_charges, storage_days
from allocations.factory import make_services, make_storage_services
from allocations.lifecycle.authority import Actor
from allocations.policy.loader import load_policy
from allocations.storage.models import StorageClass
from allocations.storage.purge.models import RestoreTarget
from allocations.storage.purge.plan import plan
from allocations.storage.purge.rules import AreaRules
from allocations.storage.quotas.backends import Found, Use
from allocations.storage.rights import CAPABILITIES, FILES
from allocations.storage.settings import StorageSettings
from tests.allocations.conftest import Bench, TestClock, database_url, postgres_server
from tests.fresh import POLICIES, shipped_policy
from tests.ports import free_port
from tests.storage.file_systems import done_by, mounted, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from allocations.storage.models import StoredArea

__all__ = ["database_url", "postgres_server"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
DAY_MS = 86_400_000
MS_PER_SECOND = 1000
MIB, GB = 1 << 20, 1_000_000_000
OWNER = (65534, 65534)
PEOPLE = [f"person{number}" for number in range(25)]
PATIENCE_SECONDS = 600
KILLS = 8


class Site:
    """A database, a policy, settings of storage, and agents on them; time is the machine's but where a test says."""

    def __init__(self, url: str, directory: Path, classes: dict[str, Any], policies: Path = POLICIES) -> None:
        self._url, self._directory = url, directory
        self._databases: list[Database] = []
        self.clock = TestClock(time.time_ns() // 1_000_000)
        self.use(policies)
        settings = {
            "classes": classes,
            "state": str(directory / "state"),
            "archive": str(directory / "archive"),
            "duty_seconds": 5,
            "intervals_seconds": {"limits": 0.5, "measure": 1, "charges": 0.2, "purges": 0.5},
        }
        self.settings = StorageSettings.model_validate(settings)
        (directory / "storage.yaml").write_text(yaml.safe_dump(settings))

    def use(self, policies: Path) -> None:
        """Take another policy."""
        self.policies = policies
        self._databases.append(Database(self._url))
        services = make_services(self._databases[-1], load_policy(policies), self._directory / "runs", self.clock)
        self.bench = Bench(services, self.clock)
        self.storage = make_storage_services(services)

    def close(self) -> None:
        for database in self._databases:
            database.dispose()

    def areas(self, of: StorageClass = StorageClass.HOME) -> dict[str, StoredArea]:
        return {area.place: area for area in self.storage.measures.areas(of)}

    def charged(self) -> dict[tuple[str, int], int]:
        """What the transactions of each day come to together, by the place of its area."""
        places = {area.id: area.place for area in self.areas().values()}
        sums: dict[tuple[str, int], int] = {}
        with self.bench.services.database.read() as connection:
            for row in connection.execute(select(storage_charges)):
                key = (places[row.area_id], row.day)
                sums[key] = sums.get(key, 0) + row.amount
        return sums

    def unassessed(self, before_day: int) -> int:
        with self.bench.services.database.read() as connection:
            open_days = select(storage_days).where(
                storage_days.c.due_microcredits.is_(None), storage_days.c.day < before_day
            )
            return len(connection.execute(open_days).all())

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {
            name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "PYTHONPATH", "TMPDIR"}
        } | {
            "MERIDIAN_DATABASE_URL": self._url,
            "MERIDIAN_POLICIES": str(self.policies),
            "MERIDIAN_RUN_STORE": str(self._directory / "runs"),
            "MERIDIAN_STORAGE_CONFIG": str(self._directory / "storage.yaml"),
            "MERIDIAN_STORAGE_METRICS_PORT": str(free_port()),
        }
        with self.log(name).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "allocations.cli", "storage", *arguments],
                env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def once(self) -> None:
        """Do every duty once, in a process."""
        assert self.start("once", "--once").wait(PATIENCE_SECONDS) == 0, self.log("once").read_text()

    def log(self, name: str) -> Path:
        return self._directory / f"{name}.log"


def wait_until(what: str, is_so: Any) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < ends, what
        time.sleep(0.3)


@pytest.fixture
def open_site(database_url: str, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """How a test opens a site: with the classes of storage, and a policy if not the shipped one."""
    opened: list[Site] = []

    def open_one(classes: dict[str, Any], policies: Path = POLICIES) -> Site:
        opened.append(Site(database_url, tmp_path, classes, policies))
        return opened[-1]

    yield open_one
    for site in opened:
        site.close()


@contextmanager
def ending(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def folder_class(folder: Path, backend: str = "scan") -> dict[str, Any]:
    return {"backend": backend, "folder": str(folder), "uid": OWNER[0], "gid": OWNER[1]}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    classes = {}
    for name in ("home", "scratch", "shared"):
        (tmp_path / name).mkdir(mode=0o755)
        classes[name] = folder_class(tmp_path / name)
    return classes


def test_a_day_is_charged_once_though_two_agents_are_killed_at_random(
    open_site: Callable[..., Site], tmp_path: Path, folders: dict[str, Any]
) -> None:
    site = open_site(folders)
    today = site.clock.now_ms() // DAY_MS
    for person in PEOPLE:
        site.bench.accept(person)
        (tmp_path / "home" / person).mkdir()
    owners = {owner.person: owner for owner in site.storage.owners.entitled(StorageClass.HOME)}
    expected: dict[tuple[str, int], int] = {}

    def add_day(day: int) -> None:
        """A day that is over, of its own size for each."""
        site.clock.at_ms = day * DAY_MS + 1
        for number, person in enumerate(PEOPLE, start=1):
            area = site.storage.measures.open(StorageClass.HOME, owners[person], person)
            site.storage.measures.record([area], Found(of={area.id: Use(number * GB, 1)}), {})
            expected[person, day] = number * 10_000

    def is_charged() -> bool:
        return site.charged().keys() >= expected.keys()

    chance = random.Random(20)
    agents = {name: site.start(name) for name in ("one", "two")}
    try:
        for round_ in range(KILLS):
            for name in agents:
                wait_until(f"{name} begins", lambda name=name: site.log(name).read_text().rstrip().endswith("}"))
            # The earlier days the later, so that none lies between two that are measured.
            add_day(today - 1 - round_)
            time.sleep(chance.random() / 2)
            name = chance.choice(sorted(agents))
            agents[name].send_signal(signal.SIGKILL)
            agents[name].wait()
            site.log(name).rename(site.log(f"{name}-{round_}"))
            agents[name] = site.start(name)
        wait_until("everything is charged", is_charged)
        wait_until(
            "everything is measured",
            lambda: all((area.measured_at_ms or 0) // DAY_MS >= today for area in site.areas().values()),
        )
        # Beside them may be one that an agent was making when it was killed.
        wait_until("all have scratch", lambda: len(list((tmp_path / "scratch").glob("[!.]*"))) == len(PEOPLE))
        for name in agents:
            wait_until(f"{name} begins", lambda name=name: site.log(name).read_text().rstrip().endswith("}"))
        for process in agents.values():
            process.terminate()
        assert [process.wait(PATIENCE_SECONDS) for process in agents.values()] == [0, 0]
    finally:
        for process in agents.values():
            process.kill()
            process.wait()
    assert {key: amount for key, amount in site.charged().items() if key in expected} == expected
    assert site.unassessed(today) == 0
    site.bench.assert_clean()
    lines = [json.loads(line) for log in tmp_path.glob("*.log") for line in log.read_text().splitlines()]
    assert [line for line in lines if line["level"] in {"error", "critical"}] == []


def test_areas_are_opened_measured_and_shown_by_a_process_that_can_be_watched(
    tmp_path: Path, open_site: Callable[..., Site], folders: dict[str, Any]
) -> None:
    site = open_site(folders)
    deep = site.bench.consortium("lead")
    process = site.start("one")
    with ending(process):
        wait_until("the consortium shares", (tmp_path / "shared" / deep).is_dir)
        wait_until("the home is there", (tmp_path / "home" / "lead").is_dir)
        status = os.stat(tmp_path / "home" / "lead")
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (*OWNER, 0o700)
        (tmp_path / "home" / "lead" / "data").write_bytes(b"x" * 5_000_000)
        wait_until("it is measured", lambda: (site.areas()["lead"].bytes or 0) >= 5_000_000)
        (port,) = [
            value.decode()
            for one in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            for name, _, value in [one.partition(b"=")]
            if name == b"MERIDIAN_STORAGE_METRICS_PORT"
        ]
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'meridian_storage_areas{storage_class="shared"} 1.0' in metrics
        assert 'meridian_storage_duties_total{duty="storage-measure-home",outcome="done"}' in metrics
        # Every right but those over files is gone.
        held = Path(f"/proc/{process.pid}/status").read_text().partition("CapEff:")[2].split()[0]
        assert int(held, 16) == sum(1 << CAPABILITIES[name] for name in FILES)
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0


def test_a_purge_that_waited_is_ended_after_a_kill_and_what_it_took_comes_back(
    tmp_path: Path, open_site: Callable[..., Site], folders: dict[str, Any]
) -> None:
    """Planned and told of a week ago, by another process; then taken on by one that is killed, and the next one."""
    site = open_site(folders)
    now_ms = site.clock.at_ms
    then_ms = site.clock.at_ms = now_ms - 60 * DAY_MS
    entry = site.bench.accept("ann")
    (of_entry,) = site.storage.owners.entitled(StorageClass.SCRATCH)
    area = site.storage.measures.open(StorageClass.SCRATCH, of_entry, entry)
    scratch = tmp_path / "scratch" / entry
    scratch.mkdir()
    content = random.Random(1).randbytes(3_000_000)
    for name in ("old", "new"):
        (scratch / name).write_bytes(content)
    os.utime(scratch / "old", (site.clock.at_ms / MS_PER_SECOND,) * 2)
    admin = Actor("root", admin=True)
    services = site.bench.services

    def take_on() -> None:
        while (step := services.purge_runner.next_step("test", [StorageClass.SCRATCH])) is not None:
            services.purge_runner.advance("test", step, site.settings.mount(step.area))

    # Both files were there then.
    mount = site.settings.mount(area)
    Path(mount.state, "arrivals").mkdir(parents=True)
    rules = AreaRules(shipped_policy().storage, storage="scratch", tier="entry", state="active", as_of_ms=then_ms)
    plan(
        str(scratch),
        rules,
        str(tmp_path / "before.zst"),
        arrivals=f"{mount.state}/arrivals/{area.id}",
        now_ms=then_ms,
        processes=1,
    )
    site.clock.at_ms = now_ms - 8 * DAY_MS
    run = services.purges.plan(admin, StorageClass.SCRATCH)
    take_on()
    # Reminders go out on their days, or the window would be longer.
    for days_ago in (5, 4, 3, 2):
        site.clock.at_ms = now_ms - days_ago * DAY_MS
        services.purges.look()
    site.clock.at_ms = now_ms

    def state() -> str:
        (purge,) = services.purges.run(admin, run.id).purges
        return purge.state.value

    assert state() == "noticed"
    process = site.start("one")
    with ending(process):
        wait_until("it goes on", lambda: state() != "noticed")
        process.kill()
        process.wait()
    process = site.start("two")
    with ending(process):
        wait_until("it is done", lambda: state() == "done")
        assert not (scratch / "old").exists()
        assert (scratch / "new").read_bytes() == content
        (archive,) = services.restores.archives_of(Actor("ann"), area.id)
        services.restores.ask(Actor("ann"), archive.id, ["old"], RestoreTarget.IN_PLACE)
        wait_until("it is back", lambda: services.restores.asked_of(Actor("ann"), area.id)[0].state.value == "done")
        assert (scratch / "old").read_bytes() == content
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    site.bench.assert_clean()


def policies_with(directory: Path, home_gb: int) -> Path:
    """The shipped policy, with so much for each home of the first tier, and writing failing right there."""
    copy = directory / f"policies-{home_gb}"
    shutil.copytree(POLICIES, copy)
    path = copy / "storage.yaml"
    content = yaml.safe_load(path.read_text())
    (home,) = [one for one in content["storage"]["classes"] if one["name"] == "home"]
    home["limits_gb"]["entry"] = home_gb
    content["storage"]["thresholds"]["hard_percent"] = 100
    path.write_text(yaml.safe_dump(content))
    return copy


def fill(path: Path, begin: int, size: int) -> int:
    """Take so many bytes of room, as the owner; return 0 or the error."""

    def do() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.posix_fallocate(fd, begin, size)
        os.fsync(fd)

    return done_by(OWNER, do)


def write(path: Path, mebibytes: int) -> int:
    def do() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        for _ in range(mebibytes):
            os.write(fd, os.urandom(MIB))
            os.fsync(fd)

    return done_by(OWNER, do)


def test_on_btrfs_a_write_past_the_limit_fails_the_day_is_charged_and_more_limit_heals(
    open_site: Callable[..., Site], tmp_path: Path
) -> None:
    with mounted("btrfs", 3000) as mount:
        run("btrfs", "quota", "enable", mount)
        homes = mount / "homes"
        homes.mkdir()
        site = open_site({"home": folder_class(homes, "btrfs")}, policies_with(tmp_path, 1))
        entry = site.bench.accept("ann")
        site.once()
        ann = site.areas()["ann"]
        assert (ann.limit_bytes, ann.problem) == (GB, None)
        assert fill(homes / "ann" / "most", 0, GB - 20 * MIB) == 0
        assert write(homes / "ann" / "more", 30) == errno.EDQUOT
        site.once()
        measured = site.areas()["ann"].bytes or 0
        assert GB - 20 * MIB <= measured <= GB
        site.use(policies_with(tmp_path, 2))
        site.once()
        assert site.areas()["ann"].limit_bytes == 2 * GB
        assert write(homes / "ann" / "more", 30) == 0
        site.once()
        measured = site.areas()["ann"].bytes or 0
        assert measured >= GB
        # The day is over: what was measured last is charged, once; and if midnight passed meanwhile, the day before.
        day = (site.areas()["ann"].measured_at_ms or 0) // DAY_MS
        site.clock.at_ms = (day + 1) * DAY_MS
        days, charged = site.storage.accrual.assess(), site.storage.accrual.collect()
        of_days = site.charged()
        assert of_days["ann", day] == measured * 10_000 // GB
        assert (len(of_days), sum(of_days.values())) == (days, charged)
        assert (site.storage.accrual.assess(), site.storage.accrual.collect()) == (0, 0)
        assert site.charged() == of_days
        view = site.bench.services.reports.allocation(Actor("ann"), entry)
        assert view is not None
        site.bench.assert_clean()


def test_once_says_by_its_status_that_not_all_could_be_done(open_site: Callable[..., Site], tmp_path: Path) -> None:
    site = open_site({"home": folder_class(tmp_path / "nowhere")})
    site.bench.accept("ann")
    process = site.start("once", "--once")
    assert process.wait(PATIENCE_SECONDS) == 1
    assert "nowhere" in site.log("once").read_text()
