"""Areas on a file system that keeps no accounts: every entry is looked at, and no limit can be enforced."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from allocations.storage.quotas.backends import BackendError, Found, Use, name_of, sentence
from allocations.storage.quotas.making import make_folder
from allocations.storage.tree.scan import CORES, ScanError
from allocations.storage.tree.usage import measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allocations.storage.quotas.backends import Area


class ScannedFolders:
    """Areas that are folders of one folder, which only administrators can change."""

    enforces = False
    grain_bytes = 1

    def __init__(
        self, folder: str, *, owner: tuple[int, int], processes: int = CORES, entries_per_second: float | None = None
    ) -> None:
        """`owner`: numbers of the account and group that new areas are given to; `entries_per_second` bounds the
        load of a scan on the file system."""
        self._folder = folder
        self._owner = owner
        self._processes = processes
        self._entries_per_second = entries_per_second

    def usage(self, areas: Sequence[Area]) -> Found[Use]:
        """Look at every entry of each area."""
        found: Found[Use] = Found()
        for area in areas:
            try:
                seen = measure(
                    os.path.join(self._folder, name_of(area)),
                    processes=self._processes,
                    entries_per_second=self._entries_per_second,
                )
            except FileNotFoundError:
                found.missing.add(area.id)
            except (OSError, ScanError, BackendError) as error:
                found.problems[area.id] = sentence(error)
            else:
                found.of[area.id] = Use(seen.bytes, seen.files, seen.largest, seen.problem_count)
        return found

    def limits(self, areas: Sequence[Area]) -> Found[int | None]:
        """Say which areas are there; none has a limit."""
        found: Found[int | None] = Found()
        for area in areas:
            try:
                os.stat(os.path.join(self._folder, name_of(area)), follow_symlinks=False)
            except FileNotFoundError:
                found.missing.add(area.id)
            except (OSError, BackendError) as error:
                found.problems[area.id] = sentence(error)
            else:
                found.of[area.id] = None
        return found

    def apply(self, area: Area, limit_bytes: int | None) -> None:
        """Refuse a limit, with BackendError; that there is none is so already."""
        if limit_bytes is not None:
            raise BackendError(f"{area.place}: this file system enforces no limits")

    def make(self, area: Area) -> None:
        """Make the folder, open to its owner alone."""
        make_folder(self._folder, area, self._owner)
