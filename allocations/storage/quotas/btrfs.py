"""Areas as subvolumes of btrfs: the file system itself counts them and refuses what is beyond a limit.

Whoever may write into a folder of btrfs may make subvolumes there, which are counted on their own and escape the limit
of the one around them. So the limit is on a group that holds the area's subvolume and all within it. One that was made
since counts as none being in force: the next reconciliation takes it in. Between the two it is not limited.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from allocations.storage.quotas import btrfs_calls as calls
from allocations.storage.quotas.backends import BackendError, Found, Use, name_of, sentence
from allocations.storage.quotas.making import make_folder
from allocations.storage.tree.beneath import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allocations.storage.quotas.backends import Area
    from allocations.storage.quotas.btrfs_calls import Groups


class BtrfsSubvolumes:
    """Areas that are subvolumes in one folder of btrfs, which only administrators can change."""

    enforces = True
    grain_bytes = 1

    def __init__(self, folder: str, *, owner: tuple[int, int]) -> None:
        """`owner`: numbers of the account and group that new areas are given to."""
        self._folder = folder
        self._owner = owner

    def usage(self, areas: Sequence[Area]) -> Found[Use]:
        """Read what the file system has counted, after all is written that was held in memory."""
        found: Found[Use] = Found()
        with self._opened() as root:
            groups = _counted(root)
            inside = _Inside(root)
            for area, subvolume in self._subvolumes(root, areas, found):
                members = inside.all_of(subvolume)
                group = calls.group_of(subvolume)
                # As long as some are not in the group, what they share counts for each of them.
                if members <= groups.members.get(group, set()):
                    found.of[area.id] = Use(groups.bytes[group])
                else:
                    found.of[area.id] = Use(sum(groups.bytes.get(one, 0) for one in members))
        return found

    def limits(self, areas: Sequence[Area]) -> Found[int | None]:
        """Return the limits that bind everything within an area."""
        found: Found[int | None] = Found()
        with self._opened() as root:
            calls.commit(root)
            groups = calls.groups(root)
            inside = _Inside(root)
            for area, subvolume in self._subvolumes(root, areas, found):
                group = calls.group_of(subvolume)
                binds = inside.all_of(subvolume) <= groups.members.get(group, set())
                found.of[area.id] = groups.limits.get(group) if binds else None
        return found

    def apply(self, area: Area, limit_bytes: int | None) -> None:
        """Limit everything within an area, with what its owner has made there since."""
        with self._opened() as root, self._area(root, area) as fd:
            subvolume = calls.subvolume_of(fd)
            calls.commit(root)
            self._limit(root, subvolume, limit_bytes, calls.groups(root))

    def make(self, area: Area) -> None:
        """Make the subvolume, open to its owner alone."""
        make_folder(self._folder, area, self._owner, calls.make_subvolume, lambda fd: os.fchmod(fd, 0o700))

    def _limit(self, root: int, subvolume: int, limit_bytes: int | None, groups: Groups) -> None:
        group = calls.group_of(subvolume)
        if group not in groups.bytes:
            calls.make_group(root, group)
        strays = _Inside(root).all_of(subvolume) - groups.members.get(group, set())
        # The limit comes first, so that it holds as soon as something is in the group.
        calls.set_limit(root, group, limit_bytes)
        sums_are_wrong = False
        for stray in sorted(strays):
            sums_are_wrong |= calls.put_into(root, stray, group)
        if sums_are_wrong:
            calls.count_anew(root)

    def _subvolumes(
        self, root: int, areas: Sequence[Area], found: Found[Use] | Found[int | None]
    ) -> Iterator[tuple[Area, int]]:
        for area in areas:
            try:
                with self._area(root, area) as fd:
                    subvolume = calls.subvolume_of(fd)
            except FileNotFoundError:
                found.missing.add(area.id)
            except (OSError, BackendError) as error:
                found.problems[area.id] = sentence(error)
            else:
                yield area, subvolume

    @contextmanager
    def _opened(self) -> Iterator[int]:
        fd = os.open(self._folder, FOLDER)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _area(self, root: int, area: Area) -> Iterator[int]:
        fd = os.open(name_of(area), FOLDER, dir_fd=root)
        try:
            yield fd
        finally:
            os.close(fd)


class _Inside:
    """Which subvolumes lie within which."""

    def __init__(self, root: int) -> None:
        self._children: dict[int, list[int]] = defaultdict(list)
        for child, container in calls.containers(root).items():
            self._children[container].append(child)

    def all_of(self, subvolume: int) -> set[int]:
        """Return a subvolume and all within it."""
        found = [subvolume]
        for each in found:
            found.extend(self._children.get(each, ()))
        return set(found)


def _counted(root: int) -> Groups:
    """Return the groups when their sums are right."""
    calls.commit(root)
    groups = calls.groups(root)
    if not groups.is_consistent:
        calls.count_anew(root)
        calls.commit(root)
        groups = calls.groups(root)
    return groups
