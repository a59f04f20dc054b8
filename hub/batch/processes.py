"""Processes on Linux, read from /proc: who they are, who descends from whom, and how to end them all."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_PASSES = 40
KILL_PASS_SECONDS = 0.05

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class ProcessStat:
    """The fields of /proc/PID/stat that matter here."""

    pid: int
    state: str
    parent: int
    group: int
    start_ticks: int


def read_stat(pid: int) -> ProcessStat | None:
    """The process, or None when there is none of this number."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in brackets and may itself hold spaces and brackets.
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[19]))


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()]


def living_descendants(ancestor: int) -> list[ProcessStat]:
    """Every process below this one that is not a zombie, in no order."""
    stats = [stat for pid in _all_pids() if (stat := read_stat(pid))]
    family = {ancestor}
    found: list[ProcessStat] = []
    while members := [stat for stat in stats if stat.parent in family and stat.pid not in family]:
        family.update(stat.pid for stat in members)
        found.extend(members)
    return [stat for stat in found if stat.state not in "ZX"]


def living_marked(variable: str, value: str | None = None) -> dict[int, str]:
    """Living processes that were given this environment variable (with this value), by number.

    Children inherit it through any number of forks and sessions, and keep it when their parent dies.
    """
    prefix = f"{variable}=".encode()
    found: dict[int, str] = {}
    for pid in _all_pids():
        try:
            environment = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for entry in environment:
            if entry.startswith(prefix):
                text = os.fsdecode(entry[len(prefix) :])
                stat = read_stat(pid)
                if stat and stat.state not in "ZX" and value in (None, text):
                    found[pid] = text
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Send the signal; a process that has just ended is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def kill_descendants(ancestor: int) -> None:
    """End every process below this one. New ones may be forked meanwhile: look again until none is left."""
    for _ in range(KILL_PASSES):
        living = living_descendants(ancestor)
        if not living:
            return
        for stat in living:
            send(stat.pid, signal.SIGKILL)
        time.sleep(KILL_PASS_SECONDS)


def kill_marked(variable: str, value: str) -> None:
    """End every process with this environment variable except this one; looks again until none is left."""
    for _ in range(KILL_PASSES):
        living = [pid for pid in living_marked(variable, value) if pid != os.getpid()]
        if not living:
            return
        for pid in living:
            send(pid, signal.SIGKILL)
        time.sleep(KILL_PASS_SECONDS)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that none is out of reach."""
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent(parent: int) -> None:
    """In a child that has just been forked: be killed when the parent's forking thread ends."""
    if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have died before the call above, which then never fires: look once.
    if os.getppid() != parent:
        os._exit(1)
