"""Facts about the machine, without which no figure means anything."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

from tests.postgres import server_binaries

SYNCS = 50
BLOCK = b"\0" * 4096
KIB_PER_MIB = 1024


def machine_facts() -> dict[str, str]:
    """Return what to print above the tables."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _processor(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "one synced write of 4 KiB": f"{_sync_milliseconds():.2f} ms",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "PostgreSQL": _postgres_version(),
    }


def memory_mib(pid: int, field: str) -> float:
    """Return a figure of a process's memory: VmRSS is what it has now, VmHWM its most so far."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / KIB_PER_MIB


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _sync_milliseconds() -> float:
    """Measure what every commit waits for: the median time of a write and its fsync, where the databases will be."""
    times = []
    with TemporaryFile(buffering=0) as file:
        for _ in range(SYNCS):
            begin = time.perf_counter()
            file.write(BLOCK)
            os.fsync(file.fileno())
            times.append((time.perf_counter() - begin) * 1000)
    return median(times)


def _postgres_version() -> str:
    try:
        server = server_binaries() / "postgres"
    except RuntimeError:
        return "not installed"
    return subprocess.run([server, "--version"], check=True, capture_output=True, text=True).stdout.split()[2]
