"""Which runs are tried again: what the platform lost, free of charge, and what failed by itself, if asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allocations.runs.ends import EndCode
from allocations.runs.models import Outcome, RunState

if TYPE_CHECKING:
    from allocations.runs.models import Run, RunError

# With the same notebook on the same size these come again for certain, or, where only the output could not be saved,
# the whole notebook would be paid for once more to make what is there already.
NOT_AGAIN = frozenset(
    (
        EndCode.INVALID_NOTEBOOK,
        EndCode.UNKNOWN_PARAMETER,
        EndCode.NO_SUCH_KERNEL,
        EndCode.OUT_OF_MEMORY,
        EndCode.SECRET_MISSING,
        EndCode.OUTPUT_NOT_SAVED,
    )
)


def is_retried(run: Run, outcome: Outcome, failed_by: EndCode) -> bool:
    """Say whether a run that ended so is tried again at its person's cost, as they asked.

    One that was cancelled or took all of its time is not: the next attempt would be no different.
    """
    return (
        outcome is Outcome.FAILED
        and not run.cancel_requested
        and run.retried < run.retries
        and failed_by not in NOT_AGAIN
    )


def is_repeated(run: Run, attempts: int) -> bool:
    """Say whether a lost run is tried again; `attempts`: how often the platform tries in all, retries not counted."""
    return not run.cancel_requested and run.attempt - run.retried < attempts


def queued_again(run: Run) -> dict[str, Any]:
    """Return what changes of a run that goes back into the queue for another attempt."""
    return {
        "state": RunState.QUEUED,
        "attempt": run.attempt + 1,
        "executor": None,
        "lease_id": None,
        "started_at_ms": None,
        "cells_done": 0,
        "current_cell": None,
    }


def retry(run: Run, charged_microcredits: int, error: RunError | None) -> dict[str, Any]:
    """Return what changes of a run whose notebook failed; `charged_microcredits`: what this attempt was charged."""
    cell = f" in cell {error.cell}" if error and error.cell else ""
    why = f" ({error.name}{cell})" if error else ""
    return queued_again(run) | {
        "retried": run.retried + 1,
        "charged_before_microcredits": run.charged_before_microcredits + charged_microcredits,
        "waiting_reason": f"The notebook failed{why}; it is tried again, retry {run.retried + 1} of {run.retries}.",
    }
