"""What the end of a run means, in sentences: whose fault it is, what was charged, what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.runs.chains import AWAITED_FAILED
from allocations.runs.models import RunState

if TYPE_CHECKING:
    from allocations.runs.models import RunView

LARGER = "Run it again with a larger size"
LONGER = "Run it again with a longer maximum"
AGAIN = "Run it again"
CORRECTED = "Run it again with other parameters"


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended that did not succeed: a title, what it means, what to do, and the name of the link to do it.

    The platform's own message, where there is one, stands beside it and is not repeated.
    """

    title: str
    meaning: str
    remedy: str
    again: str


# By the names that the batch process gives to what it finds; any other name is that of a notebook's own exception.
_ENDS = {
    "MemoryError": RunEnd(
        "The memory was not enough",
        "The notebook asked for more memory than the run's size has. With the same size it would fail again.",
        "Choose a larger size, or load less at once.",
        LARGER,
    ),
    "KernelDied": RunEnd(
        "The notebook's kernel died",
        "The process that executes the cells ended by itself. Most often its memory ran out; sometimes a compiled "
        "library crashes.",
        "Try a larger size. If it dies in the same cell again, look at what that cell calls.",
        LARGER,
    ),
    "KernelDidNotStart": RunEnd(
        "The notebook's kernel did not start",
        "No cell was executed. Most often the size has too little memory for the kernel and what it loads.",
        "Choose a larger size, or another image.",
        LARGER,
    ),
    "NoSuchKernel": RunEnd(
        "The image does not have the notebook's kernel",
        "No cell was executed: the notebook names a kernel that is not installed there.",
        "Choose another image, or choose another kernel in JupyterLab, save the notebook and submit that file.",
        AGAIN,
    ),
    "InvalidNotebook": RunEnd(
        "The file is not a notebook that can be run",
        "No cell was executed.",
        "Open it in JupyterLab, save it and submit that file.",
        AGAIN,
    ),
    "UnknownParameter": RunEnd(
        "A parameter does not fit the notebook",
        "No cell was executed: a parameter that the notebook does not have would have changed nothing.",
        "Correct its name, or give the cell that holds the defaults the tag “parameters”.",
        CORRECTED,
    ),
    "OutputLost": RunEnd(
        "The notebook's output stopped coming",
        "The kernel went on, but what it put out did not arrive for a minute. That happens on an overloaded machine.",
        "Run it again. If it happens in the same cell again, let that cell put out less.",
        AGAIN,
    ),
    "Lost": RunEnd(
        "The platform lost the run",
        "The machine or the process that it ran on went away before the notebook had ended. The fault is the "
        "platform's, and nothing was charged.",
        "Run it again as it is. If it is lost again, tell the operators its number.",
        AGAIN,
    ),
    "StartFailed": RunEnd(
        "The platform could not start the run",
        "No cell was executed. The fault is the platform's, and nothing was charged.",
        "Run it again as it is. If it fails again, tell the operators its number.",
        AGAIN,
    ),
}
_TIMED_OUT = RunEnd(
    "The time was not enough",
    "The run reached its maximum time and was stopped. What it had done by then is kept.",
    "Give it longer, or divide the work into several runs.",
    LONGER,
)
_NOT_ADMITTED = RunEnd(
    "The run was not admitted",
    "When its turn came, a rule stood against it. Nothing was executed and nothing was charged.",
    "The form says what can be had now, and why the rest cannot.",
    AGAIN,
)
_CANCELLED = RunEnd(
    "The run was cancelled",
    "You asked for it, or you left its allocation, or the allocation was stopped. What it used until then was charged.",
    "Its parameters are kept: it can be run again as it was.",
    AGAIN,
)
_CANCELLED_UNSTARTED = RunEnd(
    "The run was cancelled before it started",
    "You asked for it, or you left its allocation. Nothing was executed and nothing was charged.",
    "Its parameters are kept: it can be run as it was.",
    AGAIN,
)
_IN_VAIN = RunEnd(
    "The run waited in vain",
    "A run for whose success it waited did not succeed. Nothing was executed and nothing was charged.",
    "Mend and repeat that run first, and let this one wait for the new one.",
    AGAIN,
)
_CELL_REMEDY = "Mend it in JupyterLab and submit that file, or run it again with other parameters."


def end_of(run: RunView) -> RunEnd | None:
    """Return what the end of a run means; None for one that succeeded or has not ended."""
    if run.ended_at is None or run.state is RunState.SUCCEEDED:
        return None
    if run.state is RunState.CANCELLED:
        return _cancelled(run)
    if run.state is RunState.TIMED_OUT:
        return _TIMED_OUT
    name = run.error.name if run.error else "Lost"
    if name in _ENDS:
        return _ENDS[name]
    if run.lease is None:
        return _NOT_ADMITTED
    return _notebook_failed(run)


def _cancelled(run: RunView) -> RunEnd:
    if run.error and run.error.name == AWAITED_FAILED:
        return _IN_VAIN
    return _CANCELLED if run.started_at else _CANCELLED_UNSTARTED


def _notebook_failed(run: RunView) -> RunEnd:
    cell = run.error.cell if run.error else None
    where = "its cell of parameters" if cell is None else f"cell {cell}"
    return RunEnd(
        f"The notebook failed in {where}",
        "The cell raised an exception that nothing caught: the fault is in the notebook or its data, not in the "
        "platform. What the cells before it put out is kept.",
        _CELL_REMEDY,
        CORRECTED,
    )
