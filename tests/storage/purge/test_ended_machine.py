"""Whatever ends, returns, passes and dies in whatever order: files and archives go only as they may."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from allocations.storage.archive.removal import POINTS as REMOVAL_POINTS
from allocations.storage.archive.stores import Folder
from allocations.storage.archive.verify import manifest, verify
from allocations.storage.purge.models import ArchiveState, PurgeState, RunState
from allocations.storage.purge.run import POINTS
from tests.allocations.conftest import make_bench
from tests.fresh import fresh_sqlite
from tests.storage.purge.ends import ARCHIVE_AFTER_DAYS, EndedWorld
from tests.storage.purge.worlds import ADMIN, DAY

if TYPE_CHECKING:
    from allocations.storage.purge.models import StoredArchive

NAMES = [".ssh/id", "a", "a folder/b", "a folder/c"]
CRASHES = [*POINTS, "delete: checked", "delete: moved", "delete: removed", *REMOVAL_POINTS, "removed"]
KEPT_DAYS = 40
LOOKS = 5
LONG_DAYS = 36_500  # it ends when the machine says so
EPSILON_DAYS = 0.001
GONE = (ArchiveState.EXPIRED, ArchiveState.REMOVED)
DROPPED = (ArchiveState.BROKEN, ArchiveState.WRITING)


class _Crash(BaseException):
    """The process ends here."""


class Ending(RuleBasedStateMachine):
    """Ann's allocation ends and comes back, she writes, time passes, processes die; a dictionary knows what is hers."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = EndedWorld(make_bench(fresh_sqlite(self.folder), self.folder / "runs"), self.folder)
        policy = self.world.bench.services.policy
        archives = policy.storage.archives.model_copy(update={"ended_days": KEPT_DAYS})
        self.world.use_policy(
            policy.model_copy(update={"storage": policy.storage.model_copy(update={"archives": archives})})
        )
        self.files: dict[str, bytes] = {}
        self.ended_at: float | None = None  # in days that passed
        self.days = 0.0
        self.archived_at: dict[str, float] = {}
        self.number = 0

        self.end_in(days=LONG_DAYS)

    def end_in(self, days: int) -> None:
        """Let the allocation end so many days from now."""
        services, ends_at_ms = self.world.bench.services, self.world.clock.now_ms() + days * DAY * 1000
        with services.database.write() as connection:
            services.lifecycle.allocations.change(connection, self.world.allocation, ends_at_ms=ends_at_ms)

    def teardown(self) -> None:
        self.world.bench.services.database.dispose()
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------------ what people do

    @rule(name=st.sampled_from(NAMES))
    def write(self, name: str) -> None:
        self.number += 1
        self.files[name] = f"content {self.number}".encode()
        path = self.world.area / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.files[name])
        now_ns = self.world.clock.now_ms() * 1_000_000
        os.utime(path, ns=(now_ns, now_ns + self.number))

    @precondition(lambda self: self.ended_at is None)
    @rule()
    def end(self) -> None:
        self.end_in(days=0)
        self.world.look()
        self.ended_at = self.days
        assert self.world.end() is not None

    @precondition(lambda self: self.ended_at is not None)
    @rule()
    def come_back(self) -> None:
        event(f"comes back when it is {self.world.last_state()}")
        self.ended_at = None
        self.world.returns()
        self.end_in(days=LONG_DAYS)
        assert self.world.end() is None
        assert self.world.last_state() not in {PurgeState.NOTICED, PurgeState.DUE, PurgeState.VERIFIED}

    @rule()
    def cancel(self) -> None:
        purges = self.world.bench.services.purges
        for run in purges.runs(ADMIN)[:1]:
            if run.state is RunState.OPEN:
                purges.cancel(ADMIN, run.id, "as I like")

    # ------------------------------------------------------------------ what time and processes do

    @rule(days=st.sampled_from([1, 4, 15, 75]))
    def time_passes(self, days: int) -> None:
        # Nobody looks more often than five times: what is late is put off, and nothing comes early.
        for _ in range(min(days, LOOKS)):
            self.world.clock.pass_seconds(days * DAY / min(days, LOOKS))
            self.days += days / min(days, LOOKS)
            self.world.look()
            self.carry_out(None, 0)

    @rule(days=st.sampled_from([1, 8]), point=st.sampled_from(CRASHES), time=st.integers(1, 3))
    def time_passes_and_processes_die(self, days: int, point: str, time: int) -> None:
        for _ in range(min(days, LOOKS)):
            self.world.clock.pass_seconds(days * DAY / min(days, LOOKS))
            self.days += days / min(days, LOOKS)
            self.world.look()
            self.carry_out(point, time)

    def carry_out(self, point: str | None, time: int) -> None:
        before = self.world.files()
        seen = 0

        def reached(at: str) -> None:
            nonlocal seen
            seen += at == point
            if seen == time and at == point:
                event(f"dies when it has come to {at}")
                raise _Crash

        world = self.world
        try:
            world.work(reached)
            world.bench.services.archive_remover.remove(world.holder, world.mount.places, reached=reached)
        except _Crash:
            pass
        self.check_gone(before - self.world.files())
        self.check_archives()

    # ------------------------------------------------------------------ what always holds

    def check_gone(self, gone: set[str]) -> None:
        if not gone:
            return
        event("files are gone")
        assert self.ended_at is not None, "it is given again"
        assert self.days - self.ended_at >= ARCHIVE_AFTER_DAYS - EPSILON_DAYS
        contents = {name: set[str]() for name in gone}
        for archive in self.world.archives():
            for line in manifest(Folder(archive.place), verify(Folder(archive.place))):
                if line.path in contents and not line.left:
                    contents[line.path].add(line.sha256)
        trash = self.world.area / ".meridian-trash"
        for name in gone:
            assert hashlib.sha256(self.files[name]).hexdigest() in contents[name], f"{name} is in no archive"
            if not (trash.exists() and list(trash.iterdir())):
                del self.files[name]

    def check_archives(self) -> None:
        kept = self.world.archives(ArchiveState.KEPT)
        for archive in kept:
            self.archived_at.setdefault(archive.id, self.days)
            assert verify(Folder(archive.place)).name == archive.id
        for archive in self.world.archives(*GONE):
            assert self.days - self.archived_at[archive.id] >= KEPT_DAYS - EPSILON_DAYS
            assert self.told_of(archive) >= 1
        left = {path.name for path in (self.folder / "archives").glob("*")}
        assert left <= {one.id for one in (*kept, *self.world.archives(*DROPPED, ArchiveState.EXPIRED))}

    def told_of(self, archive: StoredArchive) -> int:
        return self.world.audited(archive.id).count("archive.reminder")

    @invariant()
    def what_is_hers_is_there(self) -> None:
        there = self.world.files()
        trash = self.world.area / ".meridian-trash"
        waiting = list(trash.iterdir()) if trash.exists() else []
        missing = self.files.keys() - there
        assert len(missing) <= len(waiting) <= 1
        for name in there:
            assert (self.world.area / name).read_bytes() == self.files[name]

    @invariant()
    def what_is_noted_is_so(self) -> None:
        end = self.world.end()
        assert (end is None) == (self.ended_at is None)


TestEnding = pytest.mark.timeout(1800)(pytest.mark.slow(Ending.TestCase))
TestEnding.settings = settings(
    max_examples=int(os.environ.get("MERIDIAN_PURGE_EXAMPLES", "15")),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
