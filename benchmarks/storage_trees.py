"""Trees of files as people leave them: many small ones a hundred to a folder, and a few large."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

NS_PER_DAY = 86_400_000_000_000
OLD_DAYS = 400
IN_A_FOLDER = 100
PERCENT = 100
# One of so many files of a bare tree has something in it, so that there is something to add up.
FILLED_EACH = 100
SMALL_BYTES = 6_000
SEED = 7
SKY = 100


def check_room(place: Path, files: int) -> None:
    """Raise RuntimeError where so many files cannot be made."""
    room = os.statvfs(place)
    # btrfs has no number of inodes.
    if room.f_files and room.f_favail < files:
        raise RuntimeError(
            f"{place} takes only {room.f_favail:,} more files, not {files:,}: set TMPDIR to another place"
        )


def make_bare(tree: Path, files: int) -> None:
    """Make a tree of so many files, nearly all of them empty: what is looked at, and not read."""
    tree.mkdir()
    for first in range(0, files, IN_A_FOLDER):
        folder = _folder(tree, first)
        folder.mkdir(parents=True)
        for number in range(first, min(first + IN_A_FOLDER, files)):
            (folder / _name(number)).write_bytes(b"light" if number % FILLED_EACH == 0 else b"")


def make_empty(tree: Path, files: int) -> None:
    """Make a tree of so many empty files, as fast as one process makes them."""
    tree.mkdir()
    for first in range(0, files, IN_A_FOLDER):
        folder = _folder(tree, first)
        folder.mkdir(parents=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(first, min(first + IN_A_FOLDER, files)):
            os.close(os.open(_name(number), os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
        os.close(fd)


def age(tree: Path, files: int, percent: int) -> int:
    """Make so many of each hundred files of a bare tree old; returns how many are."""
    then_ns = time.time_ns() - OLD_DAYS * NS_PER_DAY
    old = 0
    for number in range(files):
        if number % PERCENT < percent:
            os.utime(_folder(tree, number) / _name(number), ns=(then_ns, then_ns))
            old += 1
    return old


def make_filled(tree: Path, files: int, large: int, large_bytes: int) -> None:
    """Make a tree of so many files of 6 kB on average, and `large` ones of so many bytes, of counts as a detector has
    them: photons of an even sky, of which a compressor can leave out about half."""
    chance = np.random.default_rng(SEED)
    tree.mkdir()
    for first in range(0, files, IN_A_FOLDER):
        folder = _folder(tree, first)
        folder.mkdir(parents=True)
        for number in range(first, min(first + IN_A_FOLDER, files)):
            (folder / _name(number)).write_bytes(_counts(chance, int(chance.exponential(SMALL_BYTES))))
    for number in range(large):
        (tree / f"mosaic-{number}.asdf").write_bytes(_counts(chance, large_bytes))


def _counts(chance: np.random.Generator, size: int) -> bytes:
    return chance.poisson(SKY, size // 2).astype(">u2").tobytes()


def _folder(tree: Path, number: int) -> Path:
    folder = number // IN_A_FOLDER
    return tree / f"night-{folder // IN_A_FOLDER:04}" / f"visit-{folder % IN_A_FOLDER:02}"


def _name(number: int) -> str:
    return f"roman_wfi_{number:010}_cal.asdf"
