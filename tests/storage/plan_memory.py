"""A program: plans for so many entries that are made up as they are asked for, and prints its peak memory in KiB."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from allocations.clock import MS_PER_DAY
from allocations.storage.purge import plan as planning_whole
from allocations.storage.tree.statuses import ROW_WORDS, fields
from tests.storage.test_plan import MUCH_LATER_MS, rules_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from allocations.storage.tree.scan import Collector
    from allocations.storage.tree.statuses import Statuses

IN_A_FOLDER = 100
AT_ONCE = 1_000


def folder_status(inode: int) -> os.stat_result:
    """Make the status of a folder that was modified in 1970."""
    times = {"st_mtime_ns": inode, "st_atime_ns": inode, "st_ctime_ns": inode, "st_blocks": 8}
    return os.stat_result((stat.S_IFDIR, inode, 1, 1, 1000, 1000, 4096, 0, 0, 0), times)


def file_statuses(first: int, count: int) -> Statuses:
    """Make the statuses of files of 4 KiB that were modified in 1970, with inodes that follow each other."""
    statuses = np.zeros((count, ROW_WORDS), dtype=np.uint64)
    named = fields(statuses)
    numbers = np.arange(count)
    named["inode"] = named["mtime_ns"] = named["ctime_ns"] = named["atime_ns"] = first + numbers
    named["mode"], named["uid"], named["size"], named["blocks"] = stat.S_IFREG, 1000, 4096, 8
    named["links"] = 1 + (numbers % 10 == 0)
    named["device_minor"] = 1
    return statuses


def made_up(count: int) -> Callable[..., list[Any]]:
    """Return what stands for a scan: half of the entries in one folder, half in many, each tenth with two names."""

    def scan(_path: str, make: Callable[[int], Collector[Any]], **_how: object) -> list[Any]:
        collector = make(0)
        collector.folder("", folder_status(1))
        collector.folder("one", folder_status(2))
        inode = 10
        for path, entries, folders in (("one", AT_ONCE, 0), ("many", IN_A_FOLDER, 1)):
            for part in range(count // 2 // entries):
                folder = f"{path}/{part % 97}/{part}" if folders else path
                if folders:
                    inode += 1
                    collector.folder(folder, folder_status(inode))
                first = inode + 1
                inode += entries
                names = [f"roman_wfi_{first + number:010d}_{number:04d}_cal.asdf" for number in range(entries)]
                collector.entries(folder, names, file_statuses(first, entries))
        return [collector.result()]

    return scan


def main() -> None:
    """Plan twice, the second time with a record of all."""
    count, place = int(sys.argv[1]), sys.argv[2]
    vars(planning_whole)["scan"] = made_up(count)
    for now_ms, planned in ((MUCH_LATER_MS, 0), (MUCH_LATER_MS + 40 * MS_PER_DAY, count)):
        rules = rules_of({"age_days": 30}, as_of_ms=now_ms)
        sums, _digest = planning_whole.plan(place, rules, f"{place}/plan", arrivals=f"{place}/arrivals", now_ms=now_ms)
        assert (sums.seen_files, sums.files.entries) == (count, planned), sums
    with open("/proc/self/status", encoding="ascii") as lines:
        peak = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    print(peak)  # noqa: T201 (what it is for)


if __name__ == "__main__":
    main()
