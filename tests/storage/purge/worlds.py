"""An area with old and young files, the platform around it, and a process that purges, killed where a test says so."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import text

from allocations.clock import MS_PER_DAY
from allocations.db.database import Database
from allocations.factory import make_services
from allocations.ids import random_id
from allocations.lifecycle.authority import Actor
from allocations.storage.archive.stores import Folder
from allocations.storage.archive.verify import manifest, verify
from allocations.storage.measures import MeasureService
from allocations.storage.models import Owner, StorageClass
from allocations.storage.purge.models import Mount, PurgeState
from allocations.storage.purge.plan import plan
from allocations.storage.purge.rules import AreaRules
from allocations.storage.store import StorageStore
from tests.allocations.conftest import START_MS, Bench, TestClock
from tests.fresh import shipped_policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from allocations.policy.models import Policy
    from allocations.storage.models import StoredArea
    from allocations.storage.purge.models import Purge, Run

ADMIN = Actor("root", admin=True)
ANN = Actor("ann")
DAY = 86_400
# The age at which the scratch of an entry allocation is purged.
AGE_DAYS = 14
WINDOW_DAYS = 7
LONG_AGO_DAYS = 100
_fork = multiprocessing.get_context("fork")


@dataclass
class FolderPlaces:
    """Archives in folders."""

    path: str

    def place_of(self, archive_id: str) -> str:
        return f"{self.path}/{archive_id}"

    def open(self, place: str) -> Folder:
        return Folder(place)


class World:
    """Ann's scratch, its purges, and what becomes of its files."""

    def __init__(self, bench: Bench, path: Path, owner: str = "ann") -> None:
        self.bench, self.path, self.owner, self.holder = bench, path, owner, "agent"
        self.area = path / f"scratch-{owner}"
        self.area.mkdir()
        self.mount = Mount(str(self.area), str(path / "ours"), FolderPlaces(str(path / "archives")))
        for name in ("plans", "arrivals"):
            (path / "ours" / name).mkdir(parents=True, exist_ok=True)
        self.allocation = bench.accept(owner)
        self.stored = self._open_area()

    # ------------------------------------------------------------------ files

    def plant(self, *names: str, days: int = LONG_AGO_DAYS, content: bytes = b"light") -> None:
        """Make files that were last changed so many days ago, and arrived then."""
        then_ns = (self.clock.now_ms() - days * MS_PER_DAY) * 1_000_000
        for name in names:
            file = self.area / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            os.utime(file, ns=(then_ns, then_ns))
        long_ago_ns = (START_MS - LONG_AGO_DAYS * MS_PER_DAY) * 1_000_000
        for folder, _folders, _names in os.walk(self.area):
            os.utime(folder, ns=(long_ago_ns, long_ago_ns))
        self.arrive(days)

    def arrive(self, days: int) -> None:
        """Let what is there have been seen first so many days ago."""
        then_ms = self.clock.now_ms() - days * MS_PER_DAY
        rules = AreaRules(shipped_policy().storage, storage="scratch", tier="entry", state="active", as_of_ms=then_ms)
        output = str(self.path / "ours" / "before.zst")
        plan(
            str(self.area),
            rules,
            output,
            arrivals=f"{self.mount.state}/arrivals/{self.stored.id}",
            now_ms=then_ms,
            processes=1,
        )

    def files(self) -> set[str]:
        """The files of the area that are its owner's."""
        found = set()
        for folder, _folders, names in os.walk(self.area):
            at = os.path.relpath(folder, self.area)
            found |= {os.path.normpath(f"{at}/{name}") for name in names}
        return {name for name in found if not name.startswith(".meridian")}

    def archived(self) -> set[str]:
        """The files in verified archives."""
        found: set[str] = set()
        with self.bench.services.database.read() as connection:
            rows = connection.execute(text("SELECT place FROM archives WHERE state = 'kept'")).scalars().all()
        for place in rows:
            store = Folder(place)
            archive = verify(store)
            found |= {line.path for line in manifest(store, archive) if not line.left and line.type in {"file", "link"}}
        return found

    # ------------------------------------------------------------------ purges

    @property
    def clock(self) -> TestClock:
        return self.bench.clock

    def begin(self, **how: object) -> Run:
        """Begin a run over scratch."""
        return self.bench.services.purges.plan(ADMIN, StorageClass.SCRATCH, **how)  # type: ignore[arg-type]

    def step(self, reached: Callable[[str], None] = lambda _point: None) -> PurgeState | None:
        """Take one step; None where there is none to be taken."""
        self.bench.services.purges.look()
        runner = self.bench.services.purge_runner
        view = runner.next_step(self.holder, [StorageClass.SCRATCH])
        if view is None:
            return None
        return runner.advance(self.holder, view, replace(self.mount, area=view.area.place), reached)

    def work(self, reached: Callable[[str], None] = lambda _point: None) -> None:
        """Take every step that can be taken now."""
        for _ in range(50):
            if self.step(reached) is None:
                return
        raise AssertionError("it goes on without an end")

    def window_passes(self) -> None:
        """Let the days go by, looked at every half of one."""
        for _ in range(2 * WINDOW_DAYS + 1):
            self.clock.pass_seconds(DAY / 2)
            self.bench.services.purges.look()

    def purge(self, run: Run) -> Purge:
        """The run's purge of this area."""
        purges = self.bench.services.purges.run(ADMIN, run.id).purges
        return next(one for one in purges if one.area_id == self.stored.id)

    def exempt(self, folder: str = "", days: int = 100) -> None:
        """Let Ann ask for an exemption, and somebody grant it."""
        exemptions = self.bench.services.exemptions
        asked = exemptions.ask(Actor(self.owner), self.stored.id, folder, days, "the thesis")
        exemptions.grant(ADMIN, asked.id, days)

    def notices(self, person: str = "ann") -> Counter[str]:
        """How many notices of each kind a person has."""
        with self.bench.services.database.read() as connection:
            rows = connection.execute(text("SELECT kind FROM notices WHERE person = :person"), {"person": person})
            return Counter(kind for kind in rows.scalars() if kind.startswith("purge"))

    def told_until_ms(self, purge: Purge) -> int:
        """The latest end of the window that anybody was told."""
        with self.bench.services.database.read() as connection:
            rows = connection.execute(
                text(
                    "SELECT details FROM notices WHERE subject = :purge AND kind IN ('purge planned', 'purge reminder')"
                ),
                {"purge": purge.id},
            ).scalars()
            return max(int(json.loads(details)["ends_at_ms"]) for details in rows)

    def audited(self, subject: str) -> list[str]:
        """What was done to something, in its order."""
        with self.bench.services.database.read() as connection:
            rows = connection.execute(
                text("SELECT action FROM audit WHERE subject = :subject ORDER BY id"), {"subject": subject}
            )
            return list(rows.scalars())

    def lists(self) -> list[str]:
        """The names of the lists in the area."""
        folder = self.area / ".meridian" / "purges"
        return sorted(os.listdir(folder)) if folder.exists() else []

    def use_ceiling(self, files: int) -> None:
        """Let a run delete so many files without a person who confirms it."""
        policy = self.bench.services.policy
        times = policy.storage.purge
        times = times.model_copy(update={"ceiling": times.ceiling.model_copy(update={"files": files})})
        self.use_policy(policy.model_copy(update={"storage": policy.storage.model_copy(update={"purge": times})}))

    def use_policy(self, policy: Policy) -> None:
        """Have another policy from now on."""
        services = make_services(self.bench.services.database, policy, self.path / "runs", self.clock)
        self.bench = Bench(services, self.clock)

    def killed_at(self, point: str, time: int = 1) -> bool:
        """Work in a process of its own, which is killed when it comes by a point for the so-manieth time; return
        whether it did."""
        url = self.bench.services.database.url.render_as_string(hide_password=False)
        self.bench.services.database.dispose()
        process = _fork.Process(target=_die, args=(self, url, point, time))
        process.start()
        process.join(200)
        assert process.exitcode in {0, -signal.SIGKILL}, process.exitcode
        return process.exitcode != 0

    # ------------------------------------------------------------------ inside

    def _open_area(self) -> StoredArea:
        services = self.bench.services
        measures = MeasureService(database=services.database, clock=self.clock, new_id=random_id, store=StorageStore())
        return measures.open(StorageClass.SCRATCH, Owner(allocation_id=self.allocation), str(self.area))


def _die(world: World, url: str, point: str, time: int) -> None:
    seen: Counter[str] = Counter()

    def reached(at: str) -> None:
        seen[at] += 1
        if at == point and seen[at] == time:
            os.kill(os.getpid(), signal.SIGKILL)

    services = make_services(Database(url), world.bench.services.policy, world.path / "runs", world.clock)
    world.bench = Bench(services, world.clock)
    world.work(reached)
    os._exit(0)
