"""A program: lists the old files of a tree as simply as Python lets one, and prints what that took as JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from benchmarks.watch import Watch


def walk(tree: str, output: str, newest_ns: int) -> dict[str, Any]:
    """Write the same list as simply as Python lets one: os.walk, os.lstat, json.dumps."""
    files = 0
    with Watch() as watch, open(output, "w", encoding="utf-8") as list_file:  # noqa: PTH123 (plainly)
        for folder, _folders, names in os.walk(tree):
            for name in names:
                path = os.path.join(folder, name)  # noqa: PTH118 (plainly)
                status = os.lstat(path)
                if status.st_mtime_ns < newest_ns:
                    list_file.write(json.dumps(_told(path, status)) + "\n")
                    files += 1
    return {**asdict(watch.spent), "files": files}


def _told(path: str, status: os.stat_result) -> dict[str, Any]:
    return {
        "path": path,
        "device": status.st_dev,
        "inode": status.st_ino,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "uid": status.st_uid,
        "blocks": status.st_blocks,
    }


if __name__ == "__main__":
    print(json.dumps(walk(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
