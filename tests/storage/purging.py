"""A purge of a tree from its plan to its end, without the policy: for tests of what it does to the tree."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from allocations.storage.archive.verify import verify
from allocations.storage.archive.write import write
from allocations.storage.purge.archived import archived_lines, to_wanted
from allocations.storage.purge.delete import delete
from allocations.storage.purge.planfile import Planned
from allocations.storage.tree.beneath import Root
from tests.storage.archive.trees import everything

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from allocations.storage.archive.format import Archive, Line
    from allocations.storage.archive.stores import Folder
    from allocations.storage.purge.delete import Deleted

_TYPES = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo", stat.S_IFDIR: "folder"}


def planned(tree: Path, *, folders: bool = True) -> list[Planned]:
    """Plan all of a tree that can be archived, what is in a folder before the folder itself."""
    found = []
    for path in sorted(everything(tree), key=lambda path: (path.count(b"/"), path), reverse=True):
        status = os.lstat(path)
        kind = _TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is not None and (folders or kind != "folder"):
            name = os.fsdecode(path[len(os.fsencode(tree)) + 1 :])
            found.append(plan_of(name, kind, status))
    return sorted(found, key=lambda one: one.type == "folder")


def plan_of(path: str, kind: str, status: os.stat_result) -> Planned:
    """Plan one entry."""
    return Planned(
        path=path,
        type=kind,
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        uid=status.st_uid,
        rule="all",
        why="old",
        bytes=status.st_blocks * 512,
    )


def archive(tree: Path, store: Folder, plan: list[Planned]) -> Archive:
    """Archive what is planned, and verify it."""
    with Root(str(tree)) as root:
        write(store, root, to_wanted(root, plan), name="a", made_at="now", about={})
    return verify(store)


def lines(store: Folder) -> list[Line]:
    """What the manifest of a verified archive tells."""
    return list(archived_lines(store, verify(store)))


def remove(tree: Path, store: Folder, plan: list[Planned], **how) -> Deleted:
    """Delete what is planned and archived."""
    with Root(str(tree)) as root:
        return delete(root, plan, archived_lines(store, verify(store)), **how)


def made(tree: Path, store: Folder, *names: str, text: str = "text") -> list[Planned]:
    """Make files, plan and archive them."""
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(f"{text} of {name}")
    plan = planned(tree)
    archive(tree, store, plan)
    return plan


def at(point: str, act: Callable[[], object]) -> Callable[[str], None]:
    """Do something once, when a point is reached."""
    waiting = [act]

    def reached(now: str) -> None:
        if now == point and waiting:
            waiting.pop()()

    return reached
