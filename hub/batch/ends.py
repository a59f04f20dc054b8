"""How attempts end, as codes that never change their meaning. Pure functions of what was seen.

The service has the same codes (allocations/runs/ends.py) with the sentences for people; one that it does not know, it
takes for the outcome's plainest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hub.batch.model import Outcome, RunError

SUCCEEDED = "succeeded"
CANCELLED = "cancelled"
TIMED_OUT = "timed_out"
NOTEBOOK_ERROR = "notebook_error"
OUT_OF_MEMORY = "out_of_memory"
KERNEL_DIED = "kernel_died"
KERNEL_DID_NOT_START = "kernel_did_not_start"
NO_SUCH_KERNEL = "no_such_kernel"
INVALID_NOTEBOOK = "invalid_notebook"
UNKNOWN_PARAMETER = "unknown_parameter"
OUTPUT_LOST = "output_lost"
NODE_LOST = "node_lost"
EVICTED = "evicted"
LOST = "lost"
START_FAILED = "start_failed"
SECRET_MISSING = "secret_missing"  # noqa: S105  a code
OUTPUT_NOT_SAVED = "output_not_saved"

CODES = frozenset(
    (
        SUCCEEDED,
        CANCELLED,
        TIMED_OUT,
        NOTEBOOK_ERROR,
        OUT_OF_MEMORY,
        KERNEL_DIED,
        KERNEL_DID_NOT_START,
        NO_SUCH_KERNEL,
        INVALID_NOTEBOOK,
        UNKNOWN_PARAMETER,
        OUTPUT_LOST,
        NODE_LOST,
        EVICTED,
        LOST,
        START_FAILED,
        SECRET_MISSING,
        OUTPUT_NOT_SAVED,
    )
)
# What an outcome means by itself.
_PLAINEST: dict[Outcome, str] = {
    "succeeded": SUCCEEDED,
    "failed": NOTEBOOK_ERROR,
    "timed_out": TIMED_OUT,
    "cancelled": CANCELLED,
    "lost": LOST,
}
# Why the API server says that a pod was ended from outside: reasons of its status and of its DisruptionTarget.
# https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
_NODE_GONE = frozenset({"NodeLost", "NodeShutdown", "Shutdown", "DeletionByTaintManager", "DeletionByPodGC"})
_MADE_ROOM = frozenset({"Evicted", "Preempting", "Preempted", "PreemptionByScheduler", "EvictionByEvictionAPI"})
# Kills for want of memory in this container, in either version of cgroups.
_KILLS = (("memory.events", "oom_kill "), ("memory/memory.oom_control", "oom_kill "))


def end_code(outcome: Outcome, error: RunError | None) -> str:
    """The code of an attempt's end: the error's own where it says more than the outcome does."""
    if outcome in {"failed", "lost"} and error and error.code in CODES:
        return error.code
    return _PLAINEST[outcome]


def code_of_lost_pod(pod: Mapping[str, Any]) -> str:
    """Why a pod ended without a result: its node went away, it had to make room, or nobody knows."""
    status = pod.get("status") or {}
    disrupted = [
        one.get("reason") or ""
        for one in status.get("conditions") or []
        if one.get("type") == "DisruptionTarget" and one.get("status") == "True"
    ]
    reasons = {status.get("reason") or "", *disrupted}
    if reasons & _NODE_GONE:
        return NODE_LOST
    return EVICTED if reasons & _MADE_ROOM else LOST


def memory_kills(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """How often a process of this container was killed for want of memory; 0 where the machine does not say."""
    for name, mark in _KILLS:
        try:
            lines = (cgroup / name).read_text(encoding="ascii").splitlines()
            return next(int(line.removeprefix(mark)) for line in lines if line.startswith(mark))
        except (OSError, ValueError, StopIteration):
            continue
    return 0
