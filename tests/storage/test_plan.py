"""A plan names what the plainest reading of the rules names, whatever the tree, and nothing else."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zstandard import ZstdDecompressor

from allocations.clock import MS_PER_DAY
from allocations.policy.patterns import parse
from allocations.policy.storage import StoragePolicy
from allocations.storage.purge import emptied, planning
from allocations.storage.purge.arrivals import Arrivals, keys_of, record
from allocations.storage.purge.plan import plan
from allocations.storage.purge.planfile import PlanError, Planned, PlanReader
from allocations.storage.purge.rules import NS_PER_DAY, AreaRules, Exemption
from allocations.storage.purge.spool import SPOOLS
from allocations.storage.tree import statuses
from tests.storage.file_systems import unmount
from tests.storage.test_policy import SHIPPED
from tests.storage.test_walk import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

TODAY = 20_000  # days since 1970
NOW_MS = TODAY * MS_PER_DAY + MS_PER_DAY // 2
LONG_AGO = 1_000
MUCH_LATER_MS = NOW_MS + 5_000 * MS_PER_DAY  # when what a test has just made is old


def rules_of(*rules: dict[str, Any], atime: bool = False, kept: tuple[str, ...] = (), **how: Any) -> AreaRules:
    classes = [{**one, "keeps_atime": atime} if one["name"] == "scratch" else one for one in SHIPPED["classes"]]
    sizes = [{"name": "small", "from_bytes": 0}, {"name": "large", "from_bytes": 100}]
    policy = StoragePolicy.model_validate(
        {
            **SHIPPED,
            "classes": classes,
            "size_classes": sizes,
            "rules": [{"name": f"r{number}", "storage": "scratch", **rule} for number, rule in enumerate(rules)],
            "kept": [{"classes": ["scratch"], "folders": kept, "why": "needed"}] if kept else [],
        }
    )
    return AreaRules(policy, **{"storage": "scratch", "tier": "entry", "state": "active", "as_of_ms": NOW_MS, **how})


def age(path: Path | bytes, days: float, *, read_days: float | None = None) -> None:
    """Make an entry as old as that at NOW_MS, by modification and by reading (the same without `read_days`)."""
    modified = NOW_MS * 1_000_000 - int(days * NS_PER_DAY)
    read = modified if read_days is None else NOW_MS * 1_000_000 - int(read_days * NS_PER_DAY)
    os.utime(path, ns=(read, modified), follow_symlinks=False)


def every_file_arrived(root: Path, where: Path, day: int = LONG_AGO) -> str:
    """Write a record in which all that there is arrived on a day."""
    spool = where / "spool"
    statuses = [os.lstat(root)]
    for folder, folders, names in os.walk(os.fsencode(root)):
        statuses += [os.lstat(folder + b"/" + name) for name in folders + names]
    keys_of(*planning._columns(statuses)).tofile(spool)
    record(str(where / "arrivals"), [str(spool)], day)
    return str(where / "arrivals")


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "area").mkdir()
    (tmp_path / "ours").mkdir()
    return tmp_path / "area", tmp_path / "ours"


@dataclass
class Whole:
    """All of a plan."""

    header: dict[str, Any]
    entries: list[Planned]
    sums: dict[str, Any]


def planned(root: Path, ours: Path, rules: AreaRules, **how: Any) -> Whole:
    """Make a plan and read it."""
    options = {"arrivals": str(ours / "arrivals"), "now_ms": NOW_MS, "processes": 1, **how}
    plan(str(root), rules, str(ours / "plan"), **options)
    reader = PlanReader(str(ours / "plan"))
    entries = list(reader)
    assert reader.sums is not None
    return Whole(reader.header, entries, reader.sums)


def paths(reader: Whole) -> list[str]:
    return sorted(one.path for one in reader.entries)


class Oracle:
    """The plainest evaluation: every entry by its full path, every folder by what is left in it."""

    def __init__(
        self, root: Path, rules: list[dict[str, Any]], kept: list[str], exempt: list[str], days: dict[Any, Any]
    ) -> None:
        self.root, self.rules, self.exempt, self.days = os.fsencode(root), rules, exempt, days
        self.kept = kept
        self.goes: dict[str, str] = {}
        self.stays_in(b"")

    def stays_in(self, folder: bytes) -> int:
        """Evaluate what is in a folder; returns how many entries stay."""
        stay = 0
        for name in os.listdir(self.root + b"/" + folder):
            path = folder + b"/" + name if folder else name
            status = os.lstat(self.root + b"/" + path)
            inner = self.stays_in(path) if stat.S_ISDIR(status.st_mode) else 0
            rule = self.rule_of(path, status)
            if inner or rule is None or stat.S_ISSOCK(status.st_mode):
                stay += 1
            else:
                self.goes[os.fsdecode(path)] = rule
        return stay

    def rule_of(self, path: bytes, status: os.stat_result) -> str | None:
        is_folder = stat.S_ISDIR(status.st_mode)
        for one in self.exempt:
            if path == os.fsencode(one) or path.startswith(os.fsencode(one) + b"/") or one == "":
                return None
        full = path + b"/" if is_folder else path
        if self.some(self.kept, full):
            return None
        for number, rule in enumerate(self.rules):
            if rule.get("sizes") and (is_folder or rule["sizes"] != ["large" if status.st_size >= 100 else "small"]):
                continue
            if not self.some(rule.get("paths", ["**"]), full) or self.some(rule.get("not_paths", []), full):
                continue
            young = NOW_MS * 1_000_000 - rule["age_days"] * NS_PER_DAY
            arrived = self.days.get((status.st_ino, status.st_mtime_ns, status.st_size), TODAY)
            since = [status.st_mtime_ns, (arrived + 1) * NS_PER_DAY]
            if not is_folder and self.days.get("atime"):
                since.append(status.st_atime_ns + NS_PER_DAY)
            return f"r{number}" if max(since) <= young else None
        return None

    @staticmethod
    def some(patterns: list[str], path: bytes) -> bool:
        return any(re.compile(parse(one).regex(), re.DOTALL).fullmatch(path) for one in patterns)


LEAVES = st.tuples(
    st.sampled_from(["small", "large", "link", "fifo", "hard", "socket"]), st.integers(0, 40), st.integers(0, 40)
)
FEW_NAMES = st.one_of(st.sampled_from([b"a", b"b", b"ab", b"keep", b"\xff", b"n\nl", b'"\\']), NAMES)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.tuples(st.just("folder"), st.integers(0, 40), st.dictionaries(FEW_NAMES, inner, max_size=4)),
)
PATTERNS = st.sampled_from(["/a", "a", "b/", "*b", "a*", "/a/b", "**/b", "a/**", "?", "**", r"\xff", "*\n*", "/*/a"])
RULES = st.lists(
    st.fixed_dictionaries(
        {"age_days": st.sampled_from([10, 20, 30])},
        optional={
            "paths": st.lists(PATTERNS, min_size=1, max_size=2),
            "not_paths": st.lists(PATTERNS, max_size=2),
            "sizes": st.sampled_from([["small"], ["large"]]),
        },
    ),
    max_size=3,
)


def make(path: bytes, tree: Any, made: list[bytes]) -> None:
    kind, days, rest = tree
    if kind == "folder":
        os.makedirs(path, exist_ok=True)
        for name, inner in rest.items():
            make(path + b"/" + name, inner, made)
        age(path, days)
        return
    if kind == "link":
        os.symlink(b"/etc", path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket" and len(path) < 100:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
    elif kind == "hard" and made:
        os.link(made[-1], path)
    else:
        with open(path, "wb") as file:
            file.write(b"x" * (200 if kind == "large" else 9))
        made.append(path)
    age(path, days, read_days=rest)


@settings(max_examples=120, deadline=None)
@given(
    tree=st.dictionaries(FEW_NAMES, TREES, max_size=6),
    rules=RULES,
    kept=st.lists(st.sampled_from(["keep/", "/a/b/", "ab/"]), max_size=1),
    exempt=st.lists(st.sampled_from(["a", "a/b", "keep", "b/a", ""]), max_size=2),
    arrived=st.integers(TODAY - 40, TODAY),
    atime=st.booleans(),
)
def test_a_plan_is_that_of_the_oracle(tmp_path_factory, tree, rules, kept, exempt, arrived, atime):
    base = tmp_path_factory.mktemp("plan")
    (base / "area").mkdir()
    (base / "ours").mkdir()
    make(os.fsencode(base / "area"), ("folder", 40, tree), [])
    half = dict(list(tree.items())[::2])
    days: dict[Any, Any] = {"atime": atime}
    statuses = []
    for name in half:
        top = os.fsencode(base / "area") + b"/" + name
        statuses.append(os.lstat(top))
        for folder, folders, names in os.walk(top):
            statuses += [os.lstat(folder + b"/" + one) for one in folders + names]
    days.update({(one.st_ino, one.st_mtime_ns, one.st_size): arrived for one in statuses})
    columns = np.array([list(key) for key in days if key != "atime"], dtype=np.int64).reshape(-1, 3)
    keys_of(columns[:, 0], columns[:, 1], columns[:, 2]).tofile(base / "ours" / "spool")
    record(str(base / "ours" / "arrivals"), [str(base / "ours" / "spool")], arrived)
    oracle = Oracle(base / "area", rules, kept, exempt, days)
    area_rules = rules_of(
        *rules, atime=atime, kept=tuple(kept), exemptions=[Exemption(path, NOW_MS + 1) for path in exempt]
    )
    reader = planned(base / "area", base / "ours", area_rules)
    assert {one.path: one.rule for one in reader.entries} == oracle.goes
    assert len(reader.entries) == len(oracle.goes)
    check_lines(base / "area", reader)


def check_lines(root: Path, reader: Whole) -> None:
    """What a line says is what lstat says; folders come after what is in them; sums are those of the lines."""
    seen: set[str] = set()
    names_of: dict[int, int] = {}
    for one in reader.entries:
        names_of[one.inode] = names_of.get(one.inode, 0) + 1
    by_inode: dict[int, int] = {}
    for one in reader.entries:
        status = os.lstat(root / one.path)
        assert (one.device, one.inode, one.uid) == (status.st_dev, status.st_ino, status.st_uid)
        assert (one.size, one.mtime_ns, one.ctime_ns) == (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        assert one.path.rpartition("/")[0] not in seen
        if one.type == "folder":
            seen.add(one.path)
        else:
            by_inode[one.inode] = by_inode.get(one.inode, 0) + one.bytes
            whole = names_of[one.inode] == status.st_nlink
            assert one.bytes in (0, status.st_blocks * 512 if whole else 0)
    for one in reader.entries:
        status = os.lstat(root / one.path)
        if one.type != "folder" and names_of[one.inode] == status.st_nlink:
            assert by_inode[one.inode] == status.st_blocks * 512
    files = [one for one in reader.entries if one.type != "folder"]
    assert reader.sums["files"] == {"entries": len(files), "bytes": sum(one.bytes for one in files)}
    for rule, count in reader.sums["by_rule"].items():
        of_rule = [one for one in files if one.rule == rule]
        assert count == {"entries": len(of_rule), "bytes": sum(one.bytes for one in of_rule)}
    for uid, count in reader.sums["by_uid"].items():
        of_uid = [one for one in files if one.uid == int(uid)]
        assert count == {"entries": len(of_uid), "bytes": sum(one.bytes for one in of_uid)}


def test_several_processes_plan_what_one_plans_in_any_portions(place, monkeypatch):
    area, ours = place
    for number in range(600):
        folder = area / f"{number % 7}" / f"{number % 31}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(b"x" * number)
        if number % 3 == 0:
            os.link(folder / f"{number}", folder / f"{number} too")
        age(folder / f"{number}", number % 60)
    for number in range(7 * 31):
        folder = area / f"{number % 7}" / f"{number % 31}"
        age(folder, 50 if number % 2 else 5)
    for number in range(0, 7, 2):
        age(area / f"{number}", 50)
    every_file_arrived(area, ours)
    rules = rules_of({"age_days": 30})
    alone = {(one.path, one.inode, one.why) for one in planned(area, ours, rules, dry_run=True).entries}
    assert {path.count("/") for path, _inode, _why in alone} == {1, 2}
    monkeypatch.setattr(planning, "ENTRIES_SIFTED", 2)
    monkeypatch.setattr(planning, "ENTRIES_HELD", 7)
    monkeypatch.setattr(planning, "SEEN_HELD", 11)
    monkeypatch.setattr(planning, "FOLDERS_HELD", 3)
    monkeypatch.setattr(emptied, "FOLDERS_HELD", 5)
    monkeypatch.setattr(emptied, "READ_TOGETHER", 2)
    for processes in (1, 3):
        reader = planned(area, ours, rules, dry_run=True, processes=processes)
        assert {(one.path, one.inode, one.why) for one in reader.entries} == alone
        check_lines(area, reader)


def test_a_file_unpacked_with_old_dates_is_not_old(place):
    area, ours = place
    (area / "old").write_text("x")
    age(area / "old", 400)
    every_file_arrived(area, ours, day=TODAY - 100)
    (area / "unpacked").write_text("x")
    (area / "folder").mkdir()
    age(area / "unpacked", 400)
    age(area / "folder", 400)
    rules = rules_of({"age_days": 30})
    assert paths(planned(area, ours, rules)) == ["old"]
    # It is old when it has been there for so long; the day of its arrival is counted to its end.
    later = NOW_MS + 30 * MS_PER_DAY
    assert paths(planned(area, ours, rules_of({"age_days": 30}, as_of_ms=later), now_ms=later)) == ["old"]
    later += MS_PER_DAY
    reader = planned(area, ours, rules_of({"age_days": 30}, as_of_ms=later), now_ms=later)
    assert {one.path: one.why for one in reader.entries} == {
        "old": "arrived 2024-06-26",
        "unpacked": "arrived 2024-10-04",
        "folder": "arrived 2024-10-04",
    }


def test_a_file_that_was_changed_arrives_anew_and_ctime_is_no_age(place):
    area, ours = place
    for name in ("changed", "touched back", "chmod"):
        (area / name).write_text("x")
        age(area / name, 400)
    every_file_arrived(area, ours, day=TODAY - 100)
    (area / "changed").write_text("more")
    age(area / "changed", 400)
    age(area / "touched back", 399)
    (area / "chmod").chmod(0o600)
    assert paths(planned(area, ours, rules_of({"age_days": 30}))) == ["chmod"]


def test_reading_keeps_a_file_where_the_mount_notes_it(place):
    area, ours = place
    for name, read_days in {"read": 10, "read at the edge": 30.5, "unread": 40}.items():
        (area / name).write_text("x")
        age(area / name, 40, read_days=read_days)
    every_file_arrived(area, ours)
    assert paths(planned(area, ours, rules_of({"age_days": 30}), dry_run=True)) == [
        "read",
        "read at the edge",
        "unread",
    ]
    reader = planned(area, ours, rules_of({"age_days": 30}, atime=True), dry_run=True)
    assert [(one.path, one.why) for one in reader.entries] == [("unread", "read 2024-08-25")]


def test_a_moment_to_come_is_for_dry_runs_which_record_nothing(place):
    area, ours = place
    (area / "file").write_text("x")
    age(area / "file", 0)
    later = rules_of({"age_days": 30}, as_of_ms=NOW_MS + 32 * MS_PER_DAY)
    with pytest.raises(PlanError, match="moment to come"):
        planned(area, ours, later)
    reader = planned(area, ours, later, dry_run=True)
    assert paths(reader) == ["file"]
    assert reader.header["dry_run"] is True
    assert sorted(os.listdir(ours)) == [SPOOLS, "plan"]
    assert planned(area, ours, rules_of({"age_days": 30})).header["dry_run"] is False
    assert len(Arrivals(str(ours / "arrivals"))) == 2


def test_an_exemption_ends(place):
    area, ours = place
    (area / "kept").mkdir()
    (area / "kept" / "file").write_text("x")
    age(area / "kept" / "file", 40)
    age(area / "kept", 40)
    every_file_arrived(area, ours)
    for until_ms, expected in ((NOW_MS + 1, []), (NOW_MS, ["kept", "kept/file"])):
        rules = rules_of({"age_days": 30}, exemptions=[Exemption("kept", until_ms)])
        reader = planned(area, ours, rules, dry_run=True)
        assert paths(reader) == expected
        assert reader.sums["old_exempt"] == 1 - len(expected) // 2


def test_an_exempt_file_stays_and_what_is_beside_it_goes(place):
    area, ours = place
    (area / "folder").mkdir()
    names = ("kept", "other", "folder/kept", "folder/other")
    for name in names:
        (area / name).write_text("x")
        age(area / name, 40)
    age(area / "folder", 40)
    every_file_arrived(area, ours)
    exempt = [Exemption("kept", NOW_MS + 1), Exemption("folder/kept", NOW_MS + 1)]
    reader = planned(area, ours, rules_of({"age_days": 30}, exemptions=exempt), dry_run=True)
    assert paths(reader) == ["folder/other", "other"]
    assert reader.sums["old_exempt"] == 2


def test_of_files_that_are_alike_those_go_that_are_old_by_their_own_rule(place):
    area, ours = place
    for folder in ("slow", "fast"):
        (area / folder).mkdir()
        for days in (5, 20, 40):
            (area / folder / f"{days}").write_text("x")
            age(area / folder / f"{days}", days)
    every_file_arrived(area, ours)
    rules = rules_of({"age_days": 30, "paths": ["slow/"]}, {"age_days": 10, "paths": ["fast/"]})
    assert paths(planned(area, ours, rules, dry_run=True)) == ["fast/20", "fast/40", "slow/40"]


def test_dates_out_of_all_range_and_to_come_stay(place):
    area, ours = place
    dates = {"to come": NOW_MS // 1000 + 10, "very far": 2**34 - 1, "before 1970": -(2**31), "1900": -2_208_988_800}
    for name, seconds in dates.items():
        (area / name).write_text("x")
        os.utime(area / name, (seconds, seconds))
    age(area, 1)
    every_file_arrived(area, ours)
    reader = planned(area, ours, rules_of({"age_days": 30}))
    assert paths(reader) == ["1900", "before 1970"]
    assert reader.sums["future"] == 2


def test_numbers_beyond_64_bits_do_not_make_a_file_old():
    class Status:
        st_ino, st_mtime_ns, st_size = (1 << 64) - 1, 1 << 70, 5

    statuses = cast("list[os.stat_result]", [Status])
    (inode,), (mtime_ns,), (size,) = planning._columns(statuses).tolist()
    assert (inode % (1 << 64), size) == ((1 << 64) - 1, 5)
    assert mtime_ns > NOW_MS * 1_000_000


def test_deep_paths_beyond_the_kernels_longest(place):
    area, ours = place
    fd = os.open(area, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=fd)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT, dir_fd=fd))
    os.utime("file", ns=(0, 0), dir_fd=fd)
    os.close(fd)
    reader = planned(area, ours, rules_of({"age_days": 30}, as_of_ms=MUCH_LATER_MS), dry_run=True)
    assert len(reader.entries) == 41
    assert reader.entries[0].path == "/".join(["d" * 200] * 40 + ["file"])
    assert [len(one.path) for one in reader.entries[1:]] == [201 * depth - 1 for depth in range(40, 0, -1)]


def test_what_cannot_be_read_stays_with_the_folders_above(place):
    area, ours = place
    (area / "above" / "beside").mkdir(parents=True)
    image = ours / "mounted"
    image.mkdir()
    for name in ("above", "above/beside"):
        age(area / name, 40)
    reader_before = planned(area, ours, rules_of({"age_days": 30}, as_of_ms=MUCH_LATER_MS), dry_run=True)
    assert paths(reader_before) == ["above", "above/beside"]
    subprocess.run(["mount", "-t", "tmpfs", "none", area / "above" / "beside"], check=True)
    try:
        reader = planned(area, ours, rules_of({"age_days": 30}, as_of_ms=MUCH_LATER_MS), dry_run=True)
    finally:
        unmount(area / "above" / "beside")
    assert paths(reader) == []
    assert [path for path, _why in reader.sums["problems"]] == ["above/beside"]


def test_what_cannot_be_looked_at_stays_with_the_folders_above_and_hides_nothing(place, monkeypatch):
    area, ours = place
    (area / "above").mkdir()
    # What was seen of the first is where the others are looked at then.
    for name in ("a", "b", "above/broken", "above/whole"):
        (area / name).write_text("x")
    statx = statuses._statx

    def fails(folder: int, path: bytes, *rest: Any) -> int:
        if path == b"broken":
            ctypes.set_errno(errno.EIO)
            return -1
        return int(statx(folder, path, *rest))

    monkeypatch.setattr(statuses, "_statx", fails)
    reader = planned(area, ours, rules_of({"age_days": 30}, as_of_ms=MUCH_LATER_MS), dry_run=True)
    assert paths(reader) == ["a", "above/whole", "b"]
    assert reader.sums["problems"] == [["above/broken", "Input/output error"]]


def test_a_folder_that_cannot_be_read_to_its_end_stays(place, monkeypatch):
    area, ours = place
    (area / "folder").mkdir()
    for name in ("one", "two"):
        (area / "folder" / name).write_text("x")
    broken, scandir = os.stat(area / "folder").st_ino, os.scandir

    @contextmanager
    def fails(folder: Any) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(folder) as scan:
            yield first_of(scan) if isinstance(folder, int) and os.fstat(folder).st_ino == broken else scan

    def first_of(scan: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        yield next(scan)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "scandir", fails)
    reader = planned(area, ours, rules_of({"age_days": 30}, as_of_ms=MUCH_LATER_MS), dry_run=True)
    assert [one.path.partition("/")[0] for one in reader.entries] == ["folder"]
    assert reader.entries[0].type == "file"
    assert reader.sums["problems"] == [["folder", "Input/output error"]]


def test_a_file_that_is_mounted_over_stays(place):
    area, ours = place
    (area / "file").write_text("x")
    other = Path("/dev/shm") / f"meridian-{os.getpid()}"
    other.write_text("y")
    os.utime(other, ns=(0, 0))
    subprocess.run(["mount", "--bind", other, area / "file"], check=True)
    try:
        reader = planned(area, ours, rules_of({"age_days": 30}, as_of_ms=MUCH_LATER_MS), dry_run=True)
    finally:
        unmount(area / "file")
        other.unlink()
    assert paths(reader) == []


def test_a_plan_that_is_not_whole_is_none(place):
    area, ours = place
    (area / "file").write_text("x")
    later = rules_of({"age_days": 30}, as_of_ms=MUCH_LATER_MS)
    sums, digest = plan(str(area), later, str(ours / "plan"), arrivals=str(ours / "a"), now_ms=NOW_MS, dry_run=True)
    assert sums.files.entries == 1
    whole = (ours / "plan").read_bytes()
    assert subprocess.run(["sha256sum", ours / "plan"], capture_output=True, check=True).stdout[:64].decode() == digest
    for cut in range(len(whole)):
        (ours / "plan").write_bytes(whole[:cut])
        with pytest.raises(PlanError, match="not whole"):
            list(PlanReader(str(ours / "plan")))


def test_a_scan_that_fails_leaves_no_plan_and_the_record_as_it_was(place):
    area, ours = place
    with pytest.raises(FileNotFoundError):
        planned(area / "gone", ours, rules_of({"age_days": 30}))
    assert os.listdir(ours) == [SPOOLS]
    assert os.listdir(ours / SPOOLS) == ["lock"]


def test_lines_are_json_for_every_name(place):
    area, ours = place
    names = [b"caf\xc3\xa9", b"\xff\xfe", b"new\nline", b'quo"te\\', "😀".encode(), b"\x01\x7f"]
    for name in names:
        os.close(os.open(os.fsencode(area) + b"/" + name, os.O_CREAT))
    later = rules_of({"age_days": 30}, as_of_ms=MUCH_LATER_MS)
    reader = planned(area, ours, later, dry_run=True)
    assert {os.fsencode(one.path) for one in reader.entries} == set(names)
    with open(ours / "plan", "rb") as file:
        lines = ZstdDecompressor().stream_reader(file, read_across_frames=True).read().split(b"\n")
    as_written = [json.loads(line)["path"] for line in lines[1:-2]]
    assert {"b64": "//4="} in as_written
    assert "café" in as_written


def test_files_that_are_alike_are_written_as_they_are_with_any_ascii_name(place):
    area, ours = place
    names = ["plain", 'quo"te\\', "new\nline", "\x01\x7f", "\\u0041", ", ", '","path":"', "%s{}"]
    for folder in ("", 'fol"der\\%d'):
        (area / folder).mkdir(exist_ok=True)
        for number, name in enumerate(names):
            (area / folder / name).write_bytes(b"x" * 5_000 * number)
            age(area / folder / name, 40 + number)
        age(area / folder, 1)
    every_file_arrived(area, ours)
    reader = planned(area, ours, rules_of({"age_days": 30}))
    expected = {f"{folder}{name}" for folder in ("", 'fol"der\\%d/') for name in names}
    assert {one.path for one in reader.entries} == expected
    assert len({one.why for one in reader.entries}) == len(names)
    check_lines(area, reader)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_entries_take_little_memory(tmp_path):
    """All old, half of them in one folder, a tenth with several names; ten million entries are to take below 200 MB."""
    peaks_kib = [
        int(
            subprocess.run(
                [sys.executable, "-m", "tests.storage.plan_memory", str(count), tmp_path],
                capture_output=True,
                check=True,
                cwd=Path(__file__).parents[2],
            ).stdout
        )
        for count in (100_000, 1_000_000)
    ]
    assert max(peaks_kib) < 150_000
    # What grows is bounded: keys that are sorted together, pages of the record that were looked up.
    assert peaks_kib[1] - peaks_kib[0] < 35_000
