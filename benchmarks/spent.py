"""What a command takes: seconds, processor seconds and memory, with all processes that it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import psutil

from benchmarks.machine import KIB_PER_MIB
from benchmarks.watch import Spent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOOK_SECONDS = 0.01
# A command may be over before its memory was looked at.
LOOKS_MAX = 20


def spend(command: Sequence[str | Path]) -> Spent:
    """Run a command to its end; raises RuntimeError where it fails."""
    return _run(command)


def peak_mib(command: Sequence[str | Path]) -> float:
    """Run a command, and return the most memory that it and its processes had together, each shared page once.

    ru_maxrss would be that of whoever starts it, where that is more; looking costs time, which is not to be measured
    along with it.
    """
    peak = 0

    def look(pid: int) -> None:
        nonlocal peak
        # Its own at once: to find its children takes longer than a short command.
        taken = _pss_kib(pid)
        with suppress(psutil.NoSuchProcess):
            taken += sum(_pss_kib(one.pid) for one in psutil.Process(pid).children(recursive=True))
        peak = max(peak, taken)
        time.sleep(LOOK_SECONDS)

    for _ in range(LOOKS_MAX):
        _run(command, look)
        if peak:
            return peak / KIB_PER_MIB
    raise RuntimeError(f"{command[0]} was always over before its memory was looked at")


def module(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a module of this checkout."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def _run(command: Sequence[str | Path], look: Callable[[int], None] | None = None) -> Spent:
    with TemporaryFile() as output, TemporaryFile() as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=errors,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,  # so that all of it can be ended
        )
        try:
            while (ended := os.wait4(process.pid, os.WNOHANG if look else 0))[0] == 0:
                if look:
                    look(process.pid)
            seconds = time.perf_counter() - begin
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        for file in (output, errors):
            file.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"{command[0]} ended with status {process.returncode}: {errors.read().decode()}")
        return Spent(seconds, ended[2].ru_utime + ended[2].ru_stime, output.read().decode())


def _pss_kib(pid: int) -> int:
    """Return a process's share of its memory, 0 when it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
