"""How a run ended, as a code that never changes its meaning, and what that means in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from allocations.runs.states import ENDED_STATES, RunState

if TYPE_CHECKING:
    from allocations.runs.models import Run


class EndCode(StrEnum):
    """How a run ended: scripts may rely on these."""

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
    NOT_ADMITTED = "not_admitted"
    AWAITED_FAILED = "awaited_failed"
    SECRET_MISSING = "secret_missing"  # noqa: S105  # a code
    OUTPUT_NOT_SAVED = "output_not_saved"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an end means: a title, whose fault it is and what was charged, and what to do next."""

    title: str
    meaning: str
    remedy: str


_AGAIN = "Run it again as it is. If it happens again, tell the operators the run's number."
_CELL_REMEDY = "Mend it in JupyterLab and submit that file, or run it again with other parameters."
_MEANINGS = {
    EndCode.CANCELLED: Meaning(
        "The run was cancelled",
        "You asked for it, or you left its allocation, or the allocation was stopped. What it used until then was "
        "charged.",
        "Its parameters are kept: it can be run again as it was.",
    ),
    EndCode.TIMED_OUT: Meaning(
        "The time was not enough",
        "The run reached its maximum time and was stopped. What it had done by then is kept.",
        "Give it longer, or divide the work into several runs.",
    ),
    EndCode.NOTEBOOK_ERROR: Meaning(
        "The notebook failed",
        "The cell raised an exception that nothing caught: the fault is in the notebook or its data, not in the "
        "platform. What the cells before it put out is kept.",
        _CELL_REMEDY,
    ),
    EndCode.OUT_OF_MEMORY: Meaning(
        "The memory was not enough",
        "The notebook asked for more memory than the run's size has. With the same size it would fail again.",
        "Choose a larger size, or load less at once.",
    ),
    EndCode.KERNEL_DIED: Meaning(
        "The notebook's kernel died",
        "The process that executes the cells ended by itself. Most often its memory ran out; sometimes a compiled "
        "library crashes.",
        "Try a larger size. If it dies in the same cell again, look at what that cell calls.",
    ),
    EndCode.KERNEL_DID_NOT_START: Meaning(
        "The notebook's kernel did not start",
        "No cell was executed. Most often the size has too little memory for the kernel and what it loads.",
        "Choose a larger size, or another image.",
    ),
    EndCode.NO_SUCH_KERNEL: Meaning(
        "The image does not have the notebook's kernel",
        "No cell was executed: the notebook names a kernel that is not installed there.",
        "Choose another image, or choose another kernel in JupyterLab, save the notebook and submit that file.",
    ),
    EndCode.INVALID_NOTEBOOK: Meaning(
        "The file is not a notebook that can be run",
        "No cell was executed.",
        "Open it in JupyterLab, save it and submit that file.",
    ),
    EndCode.UNKNOWN_PARAMETER: Meaning(
        "A parameter does not fit the notebook",
        "No cell was executed: a parameter that the notebook does not have would have changed nothing.",
        "Correct its name, or give the cell that holds the defaults the tag “parameters”.",
    ),
    EndCode.OUTPUT_LOST: Meaning(
        "The notebook's output stopped coming",
        "The kernel went on, but what it put out did not arrive for a minute. That happens on an overloaded machine.",
        "Run it again. If it happens in the same cell again, let that cell put out less.",
    ),
    EndCode.NODE_LOST: Meaning(
        "The platform lost the machine that the run was on",
        "The machine failed or was taken away before the notebook had ended, each time that it was tried. The fault "
        "is the platform's, and nothing was charged.",
        _AGAIN,
    ),
    EndCode.EVICTED: Meaning(
        "The run had to make room",
        "The cluster took the run from its machine before the notebook had ended, each time that it was tried. The "
        "fault is the platform's, and nothing was charged.",
        "Run it again later. If it happens again, tell the operators the run's number.",
    ),
    EndCode.LOST: Meaning(
        "The platform lost the run",
        "The machine or the process that it ran on went away before the notebook had ended. The fault is the "
        "platform's, and nothing was charged.",
        _AGAIN,
    ),
    EndCode.START_FAILED: Meaning(
        "The platform could not start the run",
        "No cell was executed. The fault is the platform's, and nothing was charged.",
        _AGAIN,
    ),
    EndCode.NOT_ADMITTED: Meaning(
        "The run was not admitted",
        "When its turn came, a rule stood against it. Nothing was executed and nothing was charged.",
        "The form says what can be had now, and why the rest cannot.",
    ),
    EndCode.AWAITED_FAILED: Meaning(
        "The run waited in vain",
        "A run or a sweep for whose success it waited did not succeed. Nothing was executed and nothing was charged.",
        "Mend and repeat that one first, then submit this one again to wait for it.",
    ),
    EndCode.SECRET_MISSING: Meaning(
        "A secret that the run asks for is gone",
        "No cell was executed and nothing was charged: between its submission and its start the secret was removed.",
        "Set the secret again, or submit the run without it.",
    ),
    EndCode.OUTPUT_NOT_SAVED: Meaning(
        "The output could not be saved where you chose",
        "The notebook came to its end, and nothing is lost: the platform's own copy of it stands below.",
        "Download it here. Before the next run see that the place exists and can be written to.",
    ),
}
_CANCELLED_UNSTARTED = Meaning(
    "The run was cancelled before it started",
    "You asked for it, or you left its allocation. Nothing was executed and nothing was charged.",
    "Its parameters are kept: it can be run as it was.",
)
# What a state says by itself; a failure has its reason beside it.
_BY_STATE = {
    RunState.SUCCEEDED: EndCode.SUCCEEDED,
    RunState.CANCELLED: EndCode.CANCELLED,
    RunState.TIMED_OUT: EndCode.TIMED_OUT,
}
# The names of errors from before there were codes; any other was that of a notebook's own exception.
_BY_NAME = {
    "MemoryError": EndCode.OUT_OF_MEMORY,
    "KernelDied": EndCode.KERNEL_DIED,
    "KernelDidNotStart": EndCode.KERNEL_DID_NOT_START,
    "NoSuchKernel": EndCode.NO_SUCH_KERNEL,
    "InvalidNotebook": EndCode.INVALID_NOTEBOOK,
    "UnknownParameter": EndCode.UNKNOWN_PARAMETER,
    "OutputLost": EndCode.OUTPUT_LOST,
    "Lost": EndCode.LOST,
    "StartFailed": EndCode.START_FAILED,
}


def end_code_of(run: Run, error_name: str | None) -> EndCode | None:
    """Return how a run ended by what is stored of it; None for one that has not."""
    if run.state not in ENDED_STATES:
        return None
    if run.end_code is not None:
        return EndCode(run.end_code)
    if run.state in _BY_STATE:
        return _BY_STATE[run.state]
    found = _BY_NAME.get(error_name or "Lost")
    if found is None and run.lease_id is None:
        return EndCode.NOT_ADMITTED
    return found or EndCode.NOTEBOOK_ERROR


def known_code(code: str | None, error_name: str | None) -> EndCode:
    """Return the code that a batch process reports of a failure, which may be of an older or a newer version."""
    if code is None or code not in EndCode.__members__.values():
        return _BY_NAME.get(error_name or "", EndCode.NOTEBOOK_ERROR)
    return EndCode(code)


def meaning_of(code: EndCode, *, started: bool) -> Meaning | None:
    """Return what an end means, of a run that had started or not; None for success."""
    if code is EndCode.CANCELLED and not started:
        return _CANCELLED_UNSTARTED
    return _MEANINGS.get(code)
