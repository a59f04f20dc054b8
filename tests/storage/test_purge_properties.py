"""Whatever the tree, the policy and what the owner does between the steps: what goes is what a plain reading says."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allocations.storage.archive.stores import Folder
from allocations.storage.purge.plan import plan
from allocations.storage.purge.planfile import Planned, PlanReader
from tests.storage.archive.trees import everything, told
from tests.storage.purging import archive, remove
from tests.storage.test_plan import FEW_NAMES, NOW_MS, PATTERNS, TREES, Oracle, every_file_arrived, make, rules_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
STATES = ["active", "expiring", "grace", "archived"]
TIERS = ["entry", "research"]
RULES = st.lists(
    st.fixed_dictionaries(
        {"age_days": st.sampled_from([10, 20])},
        optional={
            "storage": st.sampled_from(["scratch", "scratch", "home"]),
            "tiers": st.lists(st.sampled_from(TIERS), min_size=1, max_size=2),
            "states": st.lists(st.sampled_from(STATES), min_size=1, max_size=3),
            "longest_days": st.just(30),
            "paths": st.lists(PATTERNS, min_size=1, max_size=2),
            "sizes": st.sampled_from([["small"], ["large"]]),
        },
    ),
    max_size=2,
)
# Mostly everything that is old goes by some rule, in the end.
LAST = st.sampled_from([[], [{"age_days": 10, "states": STATES}], [{"age_days": 10, "states": STATES}]])
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["touch", "write", "rewrite", "chmod", "unlink", "rename", "new", "again", "link"]),
        st.integers(0, 1000),
    ),
    max_size=6,
)


def in_force(rule: dict[str, Any], tier: str, state: str, extended_days: int | None) -> dict[str, Any]:
    """The rule as it stands for an area of scratch: of no path where it does not hold, of the age that it has there."""
    holds = (
        rule.get("storage", "scratch") == "scratch"
        and tier in rule.get("tiers", TIERS)
        and state in rule.get("states", ["active", "expiring", "grace"])
    )
    if not holds:
        return {**rule, "paths": []}
    if extended_days is None or "longest_days" not in rule:
        return rule
    return {**rule, "age_days": sorted([rule["age_days"], extended_days, rule["longest_days"]])[1]}


class Owner:
    """Does things to a tree; `made_again` are the folders that were removed and made once more."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self.made_again: set[bytes] = set()

    def act(self, what: str, where: int) -> None:
        paths = sorted(everything(self._tree))
        if not paths:
            return
        path = paths[where % len(paths)]
        status = os.lstat(path)
        is_file, is_folder = stat.S_ISREG(status.st_mode), stat.S_ISDIR(status.st_mode)
        times = (status.st_atime_ns, status.st_mtime_ns)
        # Not everything can be done to everything.
        with suppress(OSError):
            if what == "touch":
                os.utime(path, follow_symlinks=False)
            elif what == "chmod" and not stat.S_ISLNK(status.st_mode):
                os.chmod(path, 0o604)
            elif what == "unlink":
                (os.rmdir if is_folder else os.unlink)(path)
            elif what == "rename":
                os.rename(path, path + b"~")
            elif what == "new":
                os.close(os.open(path + (b"/new" if is_folder else b"-new"), os.O_CREAT | os.O_EXCL))
            elif what == "again" and is_folder:
                os.rmdir(path)
                os.mkdir(path)
                os.utime(path, ns=times)
                self.made_again.add(path)
            elif is_file:
                self._to_file(what, path, status)

    def _to_file(self, what: str, path: bytes, status: os.stat_result) -> None:
        if what == "link":
            os.link(path, path + b"+")
            return
        if what == "again":
            os.unlink(path)
        with open(path, "ab" if what == "write" else "wb") as file:
            file.write(b"y" * (1 if what == "write" else status.st_size))
        if what != "write":
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def seen(status: os.stat_result | Planned) -> tuple[int, ...]:
    if isinstance(status, Planned):
        return status.inode, status.size, status.mtime_ns, status.ctime_ns
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def statuses(tree: Path, entries: list[Planned]) -> dict[str, os.stat_result]:
    found = {}
    for one in entries:
        with suppress(FileNotFoundError):
            found[one.path] = os.lstat(tree / one.path)
    return found


def contents(tree: Path) -> dict[bytes, bytes]:
    return {path: entry[5] for path, entry in told(tree).items() if entry[5] is not None}


def that_go(
    tree: Path,
    entries: list[Planned],
    archived: dict[str, os.stat_result],
    had: dict[bytes, bytes],
    made_again: set[bytes],
) -> set[str]:
    """What is to go: what was archived as it was planned, and is now as it was archived.

    A file of which a name has gone since may have another ctime, if nothing else of it is other than it was.
    """
    now, has = statuses(tree, entries), contents(tree)
    go: set[str] = set()
    for one in entries:
        before, after = archived.get(one.path), now.get(one.path)
        if before is None or after is None or seen(before) != seen(one):
            continue
        if one.type == "folder":
            inside = {f"{one.path}/{name}" for name in os.listdir(tree / one.path)}
            if after.st_ino == one.inode and os.fsencode(tree / one.path) not in made_again and inside <= go:
                go.add(one.path)
            continue
        raw = os.fsencode(one.path)
        is_same = (
            seen(after)[:3] == seen(before)[:3]
            and (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
            and has.get(raw) == had.get(raw)
        )
        if seen(after) == seen(before) or (is_same and after.st_nlink < before.st_nlink):
            go.add(one.path)
    return go


def lasting(tree: Path) -> dict[bytes, Any]:
    """All of a tree but what changes as others go: mtimes of folders, and which name of a file is the first."""
    found = {}
    for path, (mode, owner, mtime_ns, size, _first, *rest) in told(tree).items():
        found[path] = (mode, owner, None if mode.startswith("0o4") else mtime_ns, size, *rest)
    return found


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    tree=st.dictionaries(FEW_NAMES, TREES, min_size=1, max_size=5),
    rules=st.builds(list.__add__, RULES, LAST),
    tier=st.sampled_from(TIERS),
    state=st.sampled_from(STATES),
    extended_days=st.sampled_from([None, 5, 15, 25, 40]),
    before_archive=ACTS,
    before_delete=ACTS,
)
def test_what_goes_is_what_was_planned_archived_and_not_touched(
    tmp_path_factory, tree, rules, tier, state, extended_days, before_archive, before_delete
):
    base = tmp_path_factory.mktemp("purge")
    area = base / "area"
    area.mkdir()
    make(os.fsencode(area), ("folder", 40, tree), [])
    arrivals = every_file_arrived(area, base)
    area_rules = rules_of(*rules, tier=tier, state=state, extended_days=extended_days)
    plan(str(area), area_rules, str(base / "plan"), arrivals=arrivals, now_ms=NOW_MS, processes=1)
    entries = list(PlanReader(str(base / "plan")))
    days = dict.fromkeys(((one.inode, one.mtime_ns, one.size) for one in entries), 0)
    for path in everything(area):
        status = os.lstat(path)
        days[status.st_ino, status.st_mtime_ns, status.st_size] = 0
    oracle = Oracle(area, [in_force(rule, tier, state, extended_days) for rule in rules], [], [], days)
    assert {one.path: one.rule for one in entries} == oracle.goes
    owner = Owner(area)
    for what, where in before_archive:
        owner.act(what, where)
    archived, had = statuses(area, entries), contents(area)
    store = Folder(str(base / "archive"))
    archive(area, store, entries)
    for what, where in before_delete:
        owner.act(what, where)
    go = that_go(area, entries, archived, had, owner.made_again)
    gone = [
        one
        for one in entries
        if one.path in archived and seen(archived[one.path]) == seen(one) and not os.path.lexists(area / one.path)
    ]
    stays = {path: entry for path, entry in lasting(area).items() if os.fsdecode(path) not in go}
    deleted = remove(area, store, entries)
    assert lasting(area) == stays
    assert deleted.files + deleted.folders == len(go)
    assert deleted.gone == len(gone)
    assert deleted.left_count == len(entries) - len(go) - len(gone)
