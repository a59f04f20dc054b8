"""Finds the folders that are empty once a plan is carried out, when several processes have seen parts of the tree."""

from __future__ import annotations

import heapq
import os
import pickle
from itertools import chain, groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Folders that are sorted in memory, and that are read together from each sorted run.
FOLDERS_HELD = 50_000
READ_TOGETHER = 500

# A path in the order in which a folder comes right before what is in it; the rest of its line, None where it stays.
Record = tuple[bytes, str | None]


class FolderSpool:
    """Takes note of the folders that one process sees; the records go to files in sorted runs."""

    def __init__(self, path: str) -> None:
        """Write the runs to `path` and a number."""
        self._path = path
        self._held: list[Record] = []
        self.runs: list[str] = []

    def add(self, path: str, rest: str | None) -> None:
        """Note a folder that may go when all in it goes (the rest of its line), or something that stays (None)."""
        self._held.append((os.fsencode(path).replace(b"/", b"\0"), rest))
        if len(self._held) >= FOLDERS_HELD:
            self.close()

    def close(self) -> None:
        """Write what is held."""
        if not self._held:
            return
        self._held.sort(key=_path, reverse=True)
        self.runs.append(f"{self._path}.{len(self.runs)}")
        with open(self.runs[-1], "wb") as file:
            for first in range(0, len(self._held), READ_TOGETHER):
                pickle.dump(self._held[first : first + READ_TOGETHER], file, pickle.HIGHEST_PROTOCOL)
        self._held.clear()


def emptied(runs: list[str]) -> Iterator[tuple[str, str]]:
    """Yield path and rest of line of each folder in which nothing stays, what is within a folder before the folder."""
    # In this order all that is within a folder comes right before it, so that only parents on one path are remembered.
    stays: set[bytes] = set()
    ordered = heapq.merge(*(_read(run) for run in runs), key=_path, reverse=True)
    for path, records in groupby(ordered, _path):
        # What could not be read to its end is noted twice.
        rests = [rest for _path_again, rest in records]
        rest = None if None in rests else rests[0]
        blocked = path in stays
        stays.discard(path)
        if rest is None or blocked:
            if path:
                stays.add(path.rpartition(b"\0")[0])
        else:
            yield os.fsdecode(path.replace(b"\0", b"/")), rest


def _path(record: Record) -> bytes:
    return record[0]


def _read(run: str) -> Iterator[Record]:
    with open(run, "rb") as file:
        yield from chain.from_iterable(_load(file))


def _load(file: object) -> Iterator[list[Record]]:
    while True:
        try:
            yield pickle.load(file)  # type: ignore[arg-type]  # noqa: S301 (our own file, in a folder of ours)
        except EOFError:
            return
