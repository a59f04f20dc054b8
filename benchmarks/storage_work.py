"""A program: does one thing with a tree, as the process does that has the mounts, and prints what that took as JSON.

The start of the interpreter is left out of the time: that process is there already.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocations.clock import MS_PER_DAY
from allocations.policy.loader import load_policy
from allocations.storage.archive.format import read_commit
from allocations.storage.archive.restore import restore
from allocations.storage.archive.stores import Folder
from allocations.storage.archive.verify import verify
from allocations.storage.archive.write import write
from allocations.storage.purge.archived import archived_lines, to_wanted
from allocations.storage.purge.delete import delete
from allocations.storage.purge.plan import plan
from allocations.storage.purge.planfile import PlanReader
from allocations.storage.purge.rules import AreaRules
from allocations.storage.tree.beneath import Root
from allocations.storage.tree.usage import measure
from benchmarks.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

POLICIES = Path(__file__).parents[1] / "policies"
MUCH_LATER_DAYS = 1_000
ARCHIVE = "bench"


def rules_at(as_of_ms: int) -> AreaRules:
    """Return the shipped rule for scratch of the first tier, at a moment: what is older than 14 days goes."""
    return AreaRules(load_policy(POLICIES).storage, storage="scratch", tier="entry", state="active", as_of_ms=as_of_ms)


def plan_purge(tree: str, output: str, arrivals: str, now_ms: str) -> dict[str, Any]:
    """Plan, and bring the record of arrivals up to date."""
    rules = rules_at(int(now_ms))
    with Watch() as watch:
        sums, _digest = plan(tree, rules, output, arrivals=arrivals, now_ms=int(now_ms))
    return {**asdict(watch.spent), "files": sums.files.entries}


def plan_all(tree: str, output: str, now_ms: str) -> dict[str, Any]:
    """Plan for a moment at which all of a tree will be old, folders too."""
    rules = rules_at(int(now_ms) + MUCH_LATER_DAYS * MS_PER_DAY)
    with Watch() as watch:
        sums, _digest = plan(tree, rules, output, arrivals=f"{output}.none", now_ms=int(now_ms), dry_run=True)
    return {**asdict(watch.spent), "files": sums.files.entries}


def plan_bounded(tree: str, output: str, now_ms: str, entries_per_second: str) -> dict[str, Any]:
    """Plan, held to a load."""
    rules, bound = rules_at(int(now_ms)), float(entries_per_second)
    none = f"{output}.none"
    with Watch() as watch:
        plan(tree, rules, output, arrivals=none, now_ms=int(now_ms), dry_run=True, entries_per_second=bound)
    return asdict(watch.spent)


def measure_use(tree: str) -> dict[str, Any]:
    """Add up what a tree takes."""
    with Watch() as watch:
        usage = measure(tree)
    return {**asdict(watch.spent), "bytes": usage.bytes, "files": usage.files}


def write_archive(tree: str, planned: str, archive: str) -> dict[str, Any]:
    """Archive what is planned, in parts that are on the disk afterwards."""
    store = Folder(archive)
    with Watch() as watch, Root(tree) as root:
        written = write(store, root, to_wanted(root, PlanReader(planned)), name=ARCHIVE, made_at="now", about={})
    size = sum(store.size(name) or 0 for name in store.names())
    return {**asdict(watch.spent), "bytes": size, "members": written.members, "left": written.left}


def verify_archive(archive: str) -> dict[str, Any]:
    """Read an archive back."""
    with Watch() as watch:
        verified = verify(Folder(archive))
    return {**asdict(watch.spent), "members": verified.members}


def restore_archive(archive: str, tree: str) -> dict[str, Any]:
    """Restore all of an archive into an empty folder."""
    with Watch() as watch, Root(tree) as root:
        restored = restore(Folder(archive), root, token=ARCHIVE, owner=(os.getuid(), os.getgid()))
    return {**asdict(watch.spent), "members": restored.members, "problems": restored.problem_count}


def delete_planned(tree: str, planned: str, archive: str) -> dict[str, Any]:
    """Delete what is planned and stands in a verified archive, as fast as it goes."""
    store = Folder(archive)
    with Watch() as watch, Root(tree) as root:
        deleted = delete(root, PlanReader(planned), archived_lines(store, read_commit(store)))
    return {
        **asdict(watch.spent),
        "files": deleted.files,
        "left": deleted.left_count,
        "unguarded": deleted.unguarded,
    }


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    "plan": plan_purge,
    "plan-all": plan_all,
    "plan-bounded": plan_bounded,
    "measure": measure_use,
    "write": write_archive,
    "verify": verify_archive,
    "restore": restore_archive,
    "delete": delete_planned,
}

if __name__ == "__main__":
    print(json.dumps(WORK[sys.argv[1]](*sys.argv[2:])))
