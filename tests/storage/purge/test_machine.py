"""Whatever happens in whatever order, files go only as they may, each into an archive, and are counted once."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from allocations.clock import MS_PER_DAY
from allocations.errors import TransitionError
from allocations.storage.archive.stores import Folder
from allocations.storage.archive.verify import manifest, verify
from allocations.storage.purge import deleting
from allocations.storage.purge.models import OVER_STATES, PurgeState, RunState
from allocations.storage.purge.run import POINTS
from tests.allocations.conftest import make_bench
from tests.fresh import fresh_sqlite
from tests.storage.purge.worlds import ADMIN, AGE_DAYS, DAY, WINDOW_DAYS, World

NAMES = [f"{folder}/{name}" for folder in ("a", "a/deep", "b") for name in ("x", "y", "z")]
CRASHES = [*POINTS, "delete: checked", "delete: moved", "delete: removed"]
CEILING_FILES = 6
TINY_BATCH = 2


class _Crash(BaseException):
    """The process ends here."""


@dataclass
class _File:
    """What the model knows of a file: when it was last used, by the time that really passed."""

    used_at: float
    content: bytes


class Purging(RuleBasedStateMachine):
    """People use files, ask for exemptions and steer; the clock leaps; the process that purges dies now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(make_bench(fresh_sqlite(self.folder), self.folder / "runs"), self.folder)
        self.world.use_ceiling(CEILING_FILES)
        self.batch, deleting.BATCH_ENTRIES = deleting.BATCH_ENTRIES, TINY_BATCH
        self.files: dict[str, _File] = {}
        self.exempt: set[str] = set()
        self.days = 0.0  # that really passed
        self.leapt = False
        self.noticed_at: dict[str, float] = {}
        self.removed_by_owner = 0
        self.purged = 0
        self.number = 0

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            deleting.BATCH_ENTRIES = self.batch
            self.world.bench.services.database.dispose()
            shutil.rmtree(self.folder)

    # ------------------------------------------------------------------ what people do

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def unpack_old_files(self, names: set[str]) -> None:
        """They came a hundred days ago, as the record of arrivals tells."""
        new = sorted(name for name in names if not (self.world.area / name).exists())
        if not new:
            return
        self.number += 1
        content = f"content {self.number}".encode()
        self.world.plant(*new, content=content)
        for name in new:
            self.files[name] = _File(self.days - 100, content)

    @rule(name=st.sampled_from(NAMES), content=st.booleans())
    def use(self, name: str, content: bool) -> None:
        path = self.world.area / name
        if name not in self.files or not path.exists():
            return
        if content:
            self.number += 1
            self.files[name].content = f"content {self.number}".encode()
            path.write_bytes(self.files[name].content)
        now_ns = self.world.clock.now_ms() * 1_000_000
        os.utime(path, ns=(now_ns, now_ns))
        self.files[name].used_at = self.days

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        if name in self.files and (self.world.area / name).exists():
            (self.world.area / name).unlink()
            del self.files[name]
            self.removed_by_owner += 1

    @rule(folder=st.sampled_from(["a", "a/deep", "b", "a/x", ""]))
    def ask_for_an_exemption(self, folder: str) -> None:
        self.world.exempt(folder, days=180)
        self.exempt.add(folder)

    # ------------------------------------------------------------------ what administrators do

    @rule()
    def begin(self) -> None:
        busy = self.under_way()
        try:
            self.world.begin()
        except TransitionError:
            assert busy
        else:
            assert not busy

    @rule(what=st.sampled_from(["stop", "resume", "cancel"]))
    def steer(self, what: str) -> None:
        purges = self.world.bench.services.purges
        for run in purges.runs(ADMIN)[:1]:
            try:
                getattr(purges, what)(ADMIN, run.id, "as I like")
            except TransitionError:
                assert run.state in ({RunState.OPEN} if what == "resume" else {RunState.STOPPED}) | {
                    RunState.DONE,
                    RunState.CANCELLED,
                }

    @rule(on=st.booleans())
    def switch(self, on: bool) -> None:
        purges = self.world.bench.services.purges
        if on:
            purges.stop_all(ADMIN, "wait")
        elif purges.stopped() is not None:
            purges.resume_all(ADMIN, "go on")

    @rule()
    def confirm(self) -> None:
        purges = self.world.bench.services.purges
        # The newest of them is not the first where the clock went back.
        for run in purges.runs(ADMIN):
            if purges.run(ADMIN, run.id).awaits:
                try:
                    purges.confirm(ADMIN, run.id, files=run.files, bytes_=run.bytes, why="seen")
                except TransitionError:
                    assert run.state not in {RunState.OPEN, RunState.STOPPED}

    # ------------------------------------------------------------------ what time does

    @rule(half_days=st.integers(1, 8))
    def time_passes(self, half_days: int) -> None:
        for _ in range(half_days):
            self.world.clock.pass_seconds(DAY / 2)
            self.days += 0.5
            self.world.bench.services.purges.look()

    @rule(days=st.sampled_from([-40, -3, 3, 40]))
    def the_clock_leaps(self, days: int) -> None:
        self.leapt = True
        self.world.clock.pass_seconds(days * DAY)

    # ------------------------------------------------------------------ what the process does

    @rule()
    def work(self) -> None:
        self.carry_out(None, 0)

    @rule(point=st.sampled_from(CRASHES), time=st.integers(1, 4))
    def work_and_crash(self, point: str, time: int) -> None:
        self.carry_out(point, time)

    def carry_out(self, point: str | None, time: int) -> None:
        before = self.world.files()
        exempt = set(self.exempt)
        seen = 0

        def reached(at: str) -> None:
            nonlocal seen
            if at == "batch begun":
                self.check_told()
            seen += at == point
            if seen == time and at == point:
                raise _Crash

        try:
            self.world.work(reached)
        except _Crash:
            self.settle_trash()
        for purge in self.purges():
            if purge.state is not PurgeState.PLANNING and purge.window_ends_at_ms is not None:
                self.noticed_at.setdefault(purge.id, self.days)
        self.check_gone(before - self.world.files(), exempt)

    def check_told(self) -> None:
        """Nothing goes while the clock, however it leapt, is before the end that people were told."""
        for purge in self.purges():
            if purge.state is PurgeState.DELETING:
                assert self.world.told_until_ms(purge) <= self.world.clock.now_ms()

    def settle_trash(self) -> None:
        """One file may be in the trash, which the next step settles: it is there for whoever looks."""
        trash = self.world.area / ".meridian-trash"
        assert not trash.exists() or len(os.listdir(trash)) <= 1

    def check_gone(self, gone: set[str], exempt: set[str]) -> None:
        contents = self.archived_contents()
        for name in gone:
            file = self.files[name]
            assert file.content in contents.get(name, set()), f"{name} is in no archive"
            assert not any(covers(folder, name) for folder in exempt), f"{name} was exempt"
            told = [at for at in self.noticed_at.values() if at > file.used_at]
            assert told, f"{name} was used since it was announced"
            assert self.days - min(told) >= (1 if self.leapt else WINDOW_DAYS), f"{name} went too early"
            if not self.leapt:
                assert min(told) - file.used_at >= AGE_DAYS, f"{name} was not old"
            in_trash = self.world.area / ".meridian-trash"
            if not in_trash.exists():
                del self.files[name]
                self.purged += 1

    def archived_contents(self) -> dict[str, set[bytes]]:
        found: dict[str, set[bytes]] = {}
        archives = self.folder / "archives"
        for place in archives.iterdir() if archives.exists() else ():
            if not (place / "archive.json").exists():
                continue
            store = Folder(str(place))
            for line in manifest(store, verify(store)):
                if not line.left and line.type == "file":
                    known = {one.content for one in self.files.values()}
                    digests = {hashlib.sha256(content).hexdigest(): content for content in known}
                    found.setdefault(line.path, set()).update(filter(None, [digests.get(line.sha256)]))
        return found

    # ------------------------------------------------------------------ what always holds

    def purges(self):
        purges = self.world.bench.services.purges
        return [one for run in purges.runs(ADMIN) for one in purges.run(ADMIN, run.id).purges]

    def under_way(self) -> bool:
        return any(one.state not in OVER_STATES for one in self.purges())

    @invariant()
    def each_is_told_once(self) -> None:
        noticed = [one for one in self.purges() if one.window_ends_at_ms is not None]
        told = self.world.notices()
        assert told["purge planned"] == len(noticed)
        assert told["purge reminder"] <= 2 * len(noticed)
        assert told["purge done"] == len([one for one in noticed if one.state is PurgeState.DONE])
        called_off = [one for one in noticed if one.state in {PurgeState.CANCELLED, PurgeState.FAILED}]
        assert told["purge called off"] == len(called_off)

    @invariant()
    def nothing_goes_beyond_the_ceiling_unless_somebody_confirms_it(self) -> None:
        purges = self.world.bench.services.purges
        for run in purges.runs(ADMIN):
            deleted = sum(one.deleted_files for one in purges.run(ADMIN, run.id).purges)
            assert deleted <= CEILING_FILES or run.confirmed_by == "root"

    def catch_up(self) -> None:
        """Let the clock come near the ends that people were told, which its leaps may have put far off."""
        ends = [one.window_ends_at_ms for one in self.purges() if one.state not in OVER_STATES]
        ahead_ms = min((end for end in ends if end is not None), default=0) - self.world.clock.now_ms()
        if ahead_ms > (WINDOW_DAYS + 1) * MS_PER_DAY:
            assert self.leapt
            self.world.clock.at_ms += ahead_ms - WINDOW_DAYS * MS_PER_DAY

    def finish(self) -> None:
        """Let everything come to its end, and count."""
        purges = self.world.bench.services.purges
        if purges.stopped() is not None:
            purges.resume_all(ADMIN, "the end")
        for run in purges.runs(ADMIN):
            if run.state is RunState.STOPPED:
                purges.resume(ADMIN, run.id, "the end")
        for _ in range(60):
            self.confirm()
            self.catch_up()
            self.carry_out(None, 0)
            if not self.under_way():
                break
            for _ in range(2):
                self.world.clock.pass_seconds(DAY)
                self.days += 1
                purges.look()
        assert not self.under_way()
        self.each_is_told_once()
        deleted = sum(one.deleted_files for one in self.purges())
        assert self.purged <= deleted <= self.purged + self.removed_by_owner
        assert not (self.world.area / ".meridian-trash").exists()


def covers(folder: str, name: str) -> bool:
    """Whether an exemption is for a file."""
    return not folder or name == folder or name.startswith(f"{folder}/")


TestPurging = pytest.mark.slow(Purging.TestCase)
TestPurging.settings = settings(
    max_examples=int(os.environ.get("MERIDIAN_PURGE_EXAMPLES", "25")),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
