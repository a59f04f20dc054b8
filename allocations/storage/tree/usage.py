"""Adds up what a tree takes on its file system: bytes, files, and where the most of it is."""

from __future__ import annotations

import os
import stat
import tempfile
from array import array
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

from allocations.storage.tree.scan import CORES, scan
from allocations.storage.tree.statuses import fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from allocations.storage.tree.statuses import Statuses

# st_blocks counts in these, whatever the file system's own blocks are (stat(2)).
BLOCK_BYTES = 512
# How deep folders are told apart, and how many of the largest are told.
DEPTH = 3
LARGEST = 20
# Beyond this many folders, those with least are given up: the largest are right but for what came before they grew.
FOLDERS_COUNTED = 50_000
PROBLEMS_TOLD = 100
# Names of files with several: so many are held before they go to a file, and so many are looked at together.
LINKS_HELD = 100_000
LINKS_COMPARED = 1_000_000
_TYPE_BITS = stat.S_IFMT(0o777_777)
# Inode, bytes on the file system, apparent bytes.
_LINK = np.dtype([("inode", "u8"), ("bytes", "u8"), ("apparent_bytes", "u8")])


@dataclass(frozen=True, slots=True)
class FolderUse:
    """What is beneath a folder: bytes that it takes on the file system, and files."""

    path: str
    bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree takes. `bytes` on the file system (a sparse file takes what is written of it), each file once
    however many names it has; `apparent_bytes` as `ls` shows them; `problems`: (path, sentence), the first of them."""

    bytes: int
    apparent_bytes: int
    files: int
    folders: int
    largest: tuple[FolderUse, ...]
    problems: tuple[tuple[str, str], ...]
    problem_count: int


@dataclass(frozen=True, slots=True)
class _Part:
    """What one process has seen; `links` names a file of (inode, bytes) of files with several names."""

    bytes: int
    apparent_bytes: int
    files: int
    folders: int
    by_folder: dict[str, list[int]]
    links: str
    problems: list[tuple[str, str]]
    problem_count: int


class _Adder:
    """Collects a part of a tree; see `allocations.storage.tree.scan.Collector`."""

    def __init__(self, spool: str) -> None:
        self._bytes = self._apparent_bytes = self._files = self._folders = 0
        self._by_folder: dict[str, list[int]] = {}
        self._problems: list[tuple[str, str]] = []
        self._problem_count = 0
        self._links = array("Q")
        self._spool: IO[bytes] = tempfile.NamedTemporaryFile(dir=spool, delete=False)  # noqa: SIM115 (until the result)

    def folder(self, path: str, status: os.stat_result) -> None:
        self._folders += 1
        self._add(path, status.st_blocks * BLOCK_BYTES, 0)

    def entries(self, path: str, names: Sequence[str], statuses: Statuses) -> None:
        named = fields(statuses)
        blocks, sizes = named["blocks"], named["size"]
        # A file with several names is counted at the end, once.
        alone = named["links"] == 1
        if not alone.all():
            self._add_links(named[~alone & (named["mode"] & _TYPE_BITS == stat.S_IFREG)])
            blocks, sizes = blocks[alone], sizes[alone]
        self._apparent_bytes += int(sizes.sum())
        self._files += len(names)
        self._add(path, int(blocks.sum()) * BLOCK_BYTES, len(names))

    def problem(self, path: str, error: OSError) -> None:
        self._problem_count += 1
        if len(self._problems) < PROBLEMS_TOLD:
            self._problems.append((path, error.strerror or type(error).__name__))

    def result(self) -> _Part:
        self._spill()
        self._spool.close()
        return _Part(
            self._bytes,
            self._apparent_bytes,
            self._files,
            self._folders,
            self._by_folder,
            self._spool.name,
            self._problems,
            self._problem_count,
        )

    def _add(self, path: str, count: int, files: int) -> None:
        self._bytes += count
        parts = path.split("/", DEPTH)[:DEPTH] if path else []
        above = ""
        for part in parts:
            above = f"{above}/{part}" if above else part
            of_folder = self._by_folder.get(above)
            if of_folder is None:
                self._by_folder[above] = [count, files]
            else:
                of_folder[0] += count
                of_folder[1] += files
        if len(self._by_folder) > FOLDERS_COUNTED:
            kept = sorted(self._by_folder.items(), key=lambda item: -item[1][0])[: FOLDERS_COUNTED // 2]
            self._by_folder = dict(kept)

    def _add_links(self, named: NDArray[np.void]) -> None:
        columns = (named["inode"], named["blocks"] * np.uint64(BLOCK_BYTES), named["size"])
        self._links.frombytes(np.stack(columns, axis=1).tobytes())
        if len(self._links) >= 3 * LINKS_HELD:
            self._spill()

    def _spill(self) -> None:
        self._links.tofile(self._spool)
        self._links = array("Q")


class _Adders:
    """Makes adders in the processes of a scan."""

    def __init__(self, spool: str) -> None:
        self._spool = spool

    def __call__(self, _number: int) -> _Adder:
        return _Adder(self._spool)


def measure(path: str, *, processes: int = CORES, entries_per_second: float | None = None) -> Usage:
    """Add up a tree by looking at every entry; raises OSError where its root cannot be opened, and ScanError."""
    with tempfile.TemporaryDirectory() as spool:
        parts = scan(path, _Adders(spool), processes=processes, entries_per_second=entries_per_second)
        linked_bytes, linked_apparent_bytes = _each_once([part.links for part in parts])
    by_folder: dict[str, list[int]] = {}
    for part in parts:
        for folder, (count, files) in part.by_folder.items():
            of_folder = by_folder.setdefault(folder, [0, 0])
            of_folder[0] += count
            of_folder[1] += files
    largest = sorted((FolderUse(folder, *counts) for folder, counts in by_folder.items()), key=_size)[:LARGEST]
    return Usage(
        bytes=sum(part.bytes for part in parts) + linked_bytes,
        apparent_bytes=sum(part.apparent_bytes for part in parts) + linked_apparent_bytes,
        files=sum(part.files for part in parts),
        folders=sum(part.folders for part in parts),
        largest=tuple(largest),
        problems=tuple(problem for part in parts for problem in part.problems)[:PROBLEMS_TOLD],
        problem_count=sum(part.problem_count for part in parts),
    )


def _each_once(names: Sequence[str]) -> tuple[int, int]:
    """Add up (bytes, apparent bytes) of the files that are named in some files of links, each once.

    In passes, each over the inodes with one remainder, so that memory does not grow with the names; the remainder is of
    the inode's hash, for file systems give their numbers in steps.
    """
    count = sum(os.path.getsize(name) for name in names) // _LINK.itemsize
    passes = -(-count // LINKS_COMPARED)
    total = apparent_total = 0
    for number in range(passes):
        seen = np.concatenate([part for name in names for part in _of_pass(name, number, passes)])
        _inodes, first = np.unique(seen["inode"], return_index=True)
        total += int(seen["bytes"][first].sum())
        apparent_total += int(seen["apparent_bytes"][first].sum())
    return total, apparent_total


def _of_pass(name: str, number: int, passes: int) -> Iterator[NDArray[np.void]]:
    """Yield the links of a file whose inodes belong to a pass, piece by piece."""
    # From Knuth's multiplicative hash, the upper bits.
    spread = np.uint64(0x9E3779B97F4A7C15)
    with open(name, "rb") as links:
        while len(piece := np.fromfile(links, dtype=_LINK, count=LINKS_HELD)):
            yield piece[(piece["inode"] * spread >> np.uint64(32)) % np.uint64(passes) == number]


def _size(folder: FolderUse) -> tuple[int, str]:
    return -folder.bytes, folder.path
