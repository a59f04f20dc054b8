"""Planning a purge, measuring, archiving, restoring and deleting, against find, du, tar with zstd, and rm."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.report import Comparison, Report, Section
from benchmarks.spent import module, peak_mib, spend
from benchmarks.storage_trees import NS_PER_DAY, OLD_DAYS, age, check_room, make_bare, make_empty, make_filled
from benchmarks.watch import Spent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.report import Step

MS_PER_DAY = NS_PER_DAY // 1_000_000
# As the rule says that `benchmarks.storage_work` plans by.
AGE_DAYS = 14
PERCENTS = (10, 75)
PRINTED = r"%p\t%D\t%i\t%s\t%T@\t%C@\t%U\t%b\n"
OURS = "ours"
PIPE = "set -o pipefail; "
# The parts of ours are on the disk when it is done.
PACK = PIPE + 'tar -C "$0" --format=posix --xattrs -cf - . | zstd -q -3 -T2 -f -o "$1" && sync "$1"'
SUM = PIPE + 'zstd -q -dc "$0" | sha256sum'
UNPACK = PIPE + 'zstd -q -dc "$0" | tar -C "$1" --xattrs -xf -'
COMPARES = (
    "trees of files planned, measured, archived, verified, restored and deleted by allocations.storage, against the "
    "tool that everybody has for it; in rounds, the sides of each in random order."
)
PAGE_CACHE = (
    "Every tree and archive was in the page cache, but where a title says cold, and what had to be made before a "
    "measurement was on the disk; a first round is not counted. Memory was looked at once more, by itself: that of all "
    "processes of a side together."
)
NOT_COLD = "Nothing was measured cold: only root may have the kernel forget what it has read."
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
# What the memory of a plan must stay below, however many entries there are.
MEMORY_GOAL_MIB = 200


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: files of the bare tree, of the archived one (with large ones beside), of the deleted, and
    of the one that is planned for its memory; `bound` is the load that a scan is held to, in entries a second."""

    rounds: int
    bare_files: int
    archived_files: int
    large: int
    large_bytes: int
    deleted_files: int
    many_files: int
    bound: int


FULL = Size(3, 1_000_000, 40_000, 4, 64 << 20, 20_000, 10_000_000, 100_000)
QUICK = Size(2, 20_000, 2_000, 1, 16 << 20, 1_000, 50_000, 10_000)
Sides = dict[str, "Callable[[], Spent]"]


def steps(*, quick: bool) -> int:
    """Return how many steps of the progress bar `run` makes."""
    rounds = 1 + _size(quick=quick).rounds
    # Trees made and aged; rounds of plans, of measuring, of the archive's three, of deleting; cold; bounded; many.
    warm = 1 + len(PERCENTS) + rounds * (len(PERCENTS) + 1) + ((1 + rounds * 3) if _has_zstd() else 0) + rounds
    return warm + (rounds if _may_forget() else 0) + 1 + 2


def run(step: Step, *, quick: bool) -> Report:
    """Measure; what is left out for want of a tool is said."""
    size = _size(quick=quick)
    report = Report("storage", COMPARES, "the tool", notes=[PAGE_CACHE])
    with TemporaryDirectory(prefix="meridian-bench-") as name:
        place = Path(name)
        check_room(place, size.bare_files * 2 + size.many_files)
        bench = _Bench(place, size, step)
        report.sections += bench.bare()
        if _has_zstd():
            report.sections += bench.archive()
        else:
            report.notes.append("Archives were left out: there is no zstd. Install Debian's package of that name.")
        report.sections += [bench.deletion(), bench.many()]
    if not _may_forget():
        report.notes.append(NOT_COLD)
    return report


def _size(*, quick: bool) -> Size:
    return QUICK if quick else FULL


def _may_forget() -> bool:
    return os.access(DROP_CACHES, os.W_OK)


def _forget() -> None:
    """Have the kernel forget all folders and inodes that it has read."""
    os.sync()
    DROP_CACHES.write_text("3", encoding="ascii")


def _has_zstd() -> bool:
    return shutil.which("zstd") is not None


@dataclass(frozen=True, slots=True)
class Done:
    """What our side, or another program of ours, took and what it tells of its work."""

    spent: Spent
    told: dict[str, Any]


def work(name: str, *arguments: object) -> Done:
    """Do one thing in a process of its own."""
    return tell(_work(name, *arguments))


def tell(command: Sequence[str]) -> Done:
    """Run a program that says itself what its work took."""
    told = json.loads(spend(command).output)
    return Done(Spent(told.pop("seconds"), told.pop("processor_seconds")), told)


def _work(name: str, *arguments: object) -> list[str]:
    return module("benchmarks.storage_work", name, *arguments)


def expect(what: str, found: object, expected: object) -> None:
    """Raise RuntimeError where a side has not done the work that it is measured by."""
    if found != expected:
        raise RuntimeError(f"{what}: {found}, and not {expected}")


class _Bench:
    """Measures in one place."""

    def __init__(self, place: Path, size: Size, step: Step) -> None:
        self._place, self._size, self._step = place, size, step
        self._order = random.Random(size.rounds)  # noqa: S311  # the same order in each run
        self._numbers = count()

    def bare(self) -> list[Section]:
        """Plan purges of one tree, and measure it."""
        size, tree = self._size, self._place / "bare"
        self._step(f"making {size.bare_files:,} files")
        make_bare(tree, size.bare_files)
        sections = [section for percent in PERCENTS for section in self._plans(tree, percent)]
        sections += [self._measuring(tree), self._bounded(tree)]
        shutil.rmtree(tree)
        return sections

    def archive(self) -> list[Section]:
        """Write, verify and restore an archive."""
        size, tree = self._size, self._place / "filled"
        self._step(f"making {size.archived_files:,} files with content")
        make_filled(tree, size.archived_files, size.large, size.large_bytes)
        plan = self._place / "archive-plan"
        planned = work("plan-all", tree, plan, _now_ms())
        expect("files planned", planned.told["files"], size.archived_files + size.large)
        ours, theirs = self._place / "archive", self._place / "archive.tar.zst"
        os.sync()

        def write() -> Spent:
            shutil.rmtree(ours, ignore_errors=True)
            done = work("write", tree, plan, ours)
            expect("members left out", done.told["left"], 0)
            return done.spent

        def pack() -> Spent:
            theirs.unlink(missing_ok=True)
            return spend(["bash", "-c", PACK, tree, theirs])

        def restore() -> Spent:
            target = self._new()
            target.mkdir()
            os.sync()
            done = work("restore", ours, target)
            expect("files not restored", done.told["problems"], 0)
            shutil.rmtree(target)
            return done.spent

        def unpack() -> Spent:
            target = self._new()
            target.mkdir()
            os.sync()
            spent = spend(["bash", "-c", UNPACK, theirs, target])
            shutil.rmtree(target)
            return spent

        found = [
            self._rounds("writing archives", {OURS: write, "tar | zstd -3": pack}),
            self._rounds(
                "verifying", {OURS: lambda: work("verify", ours).spent, "zstd -d | sha256sum": self._sum(theirs)}
            ),
            self._rounds("restoring", {OURS: restore, "zstd -d | tar -x": unpack}),
        ]
        sections = [_section(title, spent) for title, spent in zip(self._titles(), found, strict=True)]
        mib = [sum(one.stat().st_size for one in ours.iterdir()) / 2**20], [theirs.stat().st_size / 2**20]
        sections[0].comparisons.append(Comparison("size", "MiB", *mib))
        shutil.rmtree(tree)
        shutil.rmtree(ours)
        theirs.unlink()
        return sections

    def deletion(self) -> Section:
        """Delete a tree that is archived, which is not measured."""
        sides: Sides = {
            OURS: self._delete_ours,
            "rm -rf": lambda: self._delete("rm", "-rf"),
            "find -delete": lambda: self._delete("find", after=("-delete",)),
        }
        found = self._rounds("deleting", sides)
        return _section(f"Deleting {self._size.deleted_files:,} files", found)

    def many(self) -> Section:
        """Plan for a tree of very many files, all of them old: only its memory counts."""
        files, tree, plan = self._size.many_files, self._place / "many", self._place / "many-plan"
        self._step(f"making {files:,} files")
        make_empty(tree, files)
        self._step(f"planning for {files:,} files")
        peak = peak_mib(_work("plan-all", tree, plan, _now_ms()))
        spend(["rm", "-rf", tree])
        return Section(
            f"A plan for {files:,} files, all of them old",
            [Comparison("memory, against the goal", "MiB", [peak], [MEMORY_GOAL_MIB])],
        )

    # ------------------------------------------------------------------ planning and measuring

    def _plans(self, tree: Path, percent: int) -> list[Section]:
        self._step(f"making {percent} % old")
        old = age(tree, self._size.bare_files, percent)
        now_ms = _now_ms()
        plan, arrivals = self._place / "plan", self._place / f"arrivals-{percent}"
        listed, walked = self._place / "found", self._place / "walked"
        # What is there has been there: on the first day that an area is looked at, nothing in it is old.
        work("plan", tree, plan, arrivals, now_ms - OLD_DAYS * MS_PER_DAY)
        os.sync()
        find = ["find", str(tree), "-type", "f", "-mtime", f"+{AGE_DAYS}", "-fprintf", str(listed), PRINTED]
        planning = _work("plan", tree, plan, arrivals, now_ms)
        walking = module("benchmarks.plain_walk", tree, walked, (now_ms - AGE_DAYS * MS_PER_DAY) * 1_000_000)

        def ours() -> Spent:
            done = tell(planning)
            expect("files planned", done.told["files"], old)
            return done.spent

        def found() -> Spent:
            spent = spend(find)
            with listed.open("rb") as lines:
                expect("files found by find", sum(1 for _line in lines), old)
            return spent

        def plainly() -> Spent:
            done = tell(walking)
            expect("files found by os.walk", done.told["files"], old)
            return done.spent

        sides: Sides = {OURS: ours, "find -printf": found, "os.walk": plainly}
        title = f"A plan for {self._size.bare_files:,} files, {percent} % of them old"
        section = _section(title, self._rounds(f"planning, {percent} % old", sides))
        peak = peak_mib(planning)
        section.comparisons += [
            Comparison(f"memory, {name}", "MiB", [peak], [peak_mib(command)])
            for name, command in (("find -printf", find), ("os.walk", walking))
        ]
        if percent != PERCENTS[0] or not _may_forget():
            return [section]
        cold = self._rounds(f"planning, {percent} % old, cold", sides, before_each=_forget)
        return [section, _section(f"{title}, cold", cold)]

    def _measuring(self, tree: Path) -> Section:
        command = ["du", "-s", "--block-size=1", str(tree)]
        expected = int(spend(command).output.split()[0])

        def ours() -> Spent:
            done = work("measure", tree)
            expect("bytes measured", done.told["bytes"], expected)
            return done.spent

        sides: Sides = {OURS: ours, "du -s": lambda: spend(command)}
        section = _section(f"Measuring {self._size.bare_files:,} files", self._rounds("measuring", sides))
        section.comparisons.append(
            Comparison("memory, du -s", "MiB", [peak_mib(_work("measure", tree))], [peak_mib(command)])
        )
        return section

    def _bounded(self, tree: Path) -> Section:
        """Plan once more, held to a load."""
        self._step("planning, with a bound on the load")
        bound, entries = self._size.bound, self._size.bare_files
        done = work("plan-bounded", tree, self._place / "plan", _now_ms(), bound)
        rate = entries / done.spent.seconds
        return Section(
            f"A plan for {entries:,} files, held to {bound:,} entries a second",
            [Comparison("entries a second, against the bound", "/s", [rate], [bound])],
        )

    # ------------------------------------------------------------------ deleting

    def _delete_ours(self) -> Spent:
        tree, plan, archive = self._new(), self._new(), self._new()
        make_filled(tree, self._size.deleted_files, 0, 0)
        work("plan-all", tree, plan, _now_ms())
        work("write", tree, plan, archive)
        work("verify", archive)
        os.sync()
        done = work("delete", tree, plan, archive)
        expect("files deleted", done.told["files"], self._size.deleted_files)
        expect("what is left of the tree", list(tree.iterdir()), [])
        shutil.rmtree(archive)
        return done.spent

    def _delete(self, *command: str, after: Sequence[str] = ()) -> Spent:
        tree = self._new()
        make_filled(tree, self._size.deleted_files, 0, 0)
        os.sync()
        return spend([*command, tree, *after])

    # ------------------------------------------------------------------ inside

    def _rounds(
        self, doing: str, sides: Sides, *, before_each: Callable[[], None] = lambda: None
    ) -> dict[str, list[Spent]]:
        """Measure all sides in each round, in random order; the first round only warms up."""
        spent: dict[str, list[Spent]] = {name: [] for name in sides}
        for number in range(1 + self._size.rounds):
            self._step(doing)
            for name in self._order.sample(list(sides), len(sides)):
                before_each()
                one = sides[name]()
                if number:
                    spent[name].append(one)
        return spent

    def _sum(self, path: Path) -> Callable[[], Spent]:
        return lambda: spend(["bash", "-c", SUM, path])

    def _titles(self) -> Sequence[str]:
        size = self._size
        what = f"{size.archived_files:,} files of 6 kB on average and {size.large} of {size.large_bytes >> 20} MiB"
        return (f"An archive of {what}: writing it", "Verifying it", "Restoring it")

    def _new(self) -> Path:
        return self._place / f"made-{next(self._numbers)}"


def _section(title: str, spent: dict[str, list[Spent]]) -> Section:
    """Compare ours with each other side."""
    section = Section(title)
    ours = spent[OURS]
    for name, theirs in spent.items():
        if name != OURS:
            section.comparisons += [
                Comparison(name, "s", [one.seconds for one in ours], [one.seconds for one in theirs]),
                Comparison(
                    f"{name}, processor",
                    "s",
                    [one.processor_seconds for one in ours],
                    [one.processor_seconds for one in theirs],
                ),
            ]
    return section


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
