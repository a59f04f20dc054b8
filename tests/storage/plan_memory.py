"""A program: plans for so many entries that are made up as they are asked for, and prints its peak memory in KiB."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from allocations.clock import MS_PER_DAY
from allocations.storage.purge import plan as planning_whole
from tests.storage.test_plan import MUCH_LATER_MS, rules_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from allocations.storage.tree.scan import Collector

IN_A_FOLDER = 100
AT_ONCE = 1_000


def status(inode: int, mode: int, links: int = 1) -> os.stat_result:
    """Make the status of an entry of 4 KiB that was modified in 1970."""
    times = {"st_mtime_ns": inode, "st_atime_ns": inode, "st_ctime_ns": inode, "st_blocks": 8}
    return os.stat_result((mode, inode, 1, links, 1000, 1000, 4096, 0, 0, 0), times)


def made_up(count: int) -> Callable[..., list[Any]]:
    """Return what stands for a scan: half of the entries in one folder, half in many, each tenth with two names."""

    def scan(_path: str, make: Callable[[int], Collector[Any]], **_how: object) -> list[Any]:
        collector = make(0)
        collector.folder("", status(1, stat.S_IFDIR))
        collector.folder("one", status(2, stat.S_IFDIR))
        inode = 10
        for path, entries, folders in (("one", AT_ONCE, 0), ("many", IN_A_FOLDER, 1)):
            for part in range(count // 2 // entries):
                folder = f"{path}/{part % 97}/{part}" if folders else path
                if folders:
                    inode += 1
                    collector.folder(folder, status(inode, stat.S_IFDIR))
                found = []
                for number in range(entries):
                    inode += 1
                    name = f"roman_wfi_{inode:010d}_{number:04d}_cal.asdf"
                    found.append((name, status(inode, stat.S_IFREG, 1 + (number % 10 == 0))))
                collector.entries(folder, found)
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
