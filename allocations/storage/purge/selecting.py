"""Looks at a plan again before anything is archived, and later deleted: what is left, and why.

Device, inode, size and times are compared by who archives and who deletes, each at the moment of doing so. Here it is
what has been decided since: exemptions, kept folders, rules that do not hold any more, longer ages; and what was read,
where the mount keeps the time of the last access.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Self

from allocations.clock import NS_PER_MS
from allocations.storage.purge.planfile import json_path
from allocations.storage.purge.rules import EXEMPT, KEPT, NS_PER_DAY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allocations.storage.purge.planfile import Planned
    from allocations.storage.purge.rules import AreaRules, FolderRules
    from allocations.storage.tree.beneath import Root

EXEMPT_SINCE = "an exemption was granted"
KEPT_SINCE = "its folder is kept"
NO_RULE_SINCE = "no rule holds for it any more"
AGE_SINCE = "it may be older now"
READ_SINCE = "it was read since it was planned"
_EPOCH = date(1970, 1, 1)


class Decided:
    """What policy and exemptions say of planned entries now; `ages` are those of the rules when it was planned.

    Without rules nothing is purged.
    """

    def __init__(self, rules: AreaRules | None, ages: Mapping[str, int]) -> None:
        """Begin with no folder."""
        self._rules = rules
        self._ages = ages
        self._path: str | None = None
        self._folder: FolderRules | None = None

    def why_left(self, one: Planned) -> str | None:
        """Say why an entry stays, or None."""
        if self._rules is None:
            return NO_RULE_SINCE
        if one.type == "folder":
            number = self._rules.folder(one.path).itself
        else:
            folder, _slash, name = one.path.rpartition("/")
            if folder != self._path or self._folder is None:
                self._path, self._folder = folder, self._rules.folder(folder)
            number = self._folder.rule_of(name, one.size)
        if number == EXEMPT:
            return EXEMPT_SINCE
        if number < 0:
            return KEPT_SINCE if number == KEPT else NO_RULE_SINCE
        days = self._rules.ages_days[number]
        if days > self._ages.get(one.rule, 0) and not self._is_older(one, number):
            return AGE_SINCE
        return None

    def _is_older(self, one: Planned, number: int) -> bool:
        """Say whether an entry is certainly old enough for another age: the plan tells the day only."""
        assert self._rules is not None
        day = (date.fromisoformat(one.why.rpartition(" ")[2]) - _EPOCH).days
        # The margins of a day that the plan took off again, and what the day was rounded down from.
        return max((day + 2) * NS_PER_DAY, one.mtime_ns) <= self._rules.newest_ns[number]


class LastReads:
    """Says what was read since a plan was made; a context manager. Keeps the folder of the last one open."""

    def __init__(self, root: Root, made_ms: int) -> None:
        """Begin."""
        self._root = root
        self._made_ns = made_ms * NS_PER_MS
        self._path: str | None = None
        self._fd = -1

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the folder."""
        if self._path is not None:
            os.close(self._fd)

    def why_left(self, one: Planned) -> str | None:
        """Say why an entry stays, or None; what cannot be looked at is for who archives to tell."""
        if one.type != "file":
            return None
        folder, _slash, name = one.path.rpartition("/")
        try:
            if folder != self._path:
                fd = self._root.open_folder(folder)
                if self._path is not None:
                    os.close(self._fd)
                self._path, self._fd = folder, fd
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return None
        return READ_SINCE if status.st_atime_ns > self._made_ns else None


def to_line(one: Planned) -> str:
    """Return an entry as a plan's file has it."""
    rest = {name: value for name, value in asdict(one).items() if name != "path"}
    return f'{{"path":{json_path(one.path)},{json.dumps(rest)[1:]}'
