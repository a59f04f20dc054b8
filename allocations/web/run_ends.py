"""What the end of a run means on its page: the sentences for it, and the name of the link that leads on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.runs.ends import EndCode, meaning_of

if TYPE_CHECKING:
    from allocations.runs.models import RunView

LARGER = "Run it again with a larger size"
LONGER = "Run it again with a longer maximum"
AGAIN = "Run it again"
CORRECTED = "Run it again with other parameters"
_LINKS = {
    EndCode.OUT_OF_MEMORY: LARGER,
    EndCode.KERNEL_DIED: LARGER,
    EndCode.KERNEL_DID_NOT_START: LARGER,
    EndCode.TIMED_OUT: LONGER,
    EndCode.UNKNOWN_PARAMETER: CORRECTED,
    EndCode.NOTEBOOK_ERROR: CORRECTED,
}


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended that did not succeed: a title, what it means, what to do, and the name of the link to do it.

    The platform's own message, where there is one, stands beside it and is not repeated.
    """

    title: str
    meaning: str
    remedy: str
    again: str


def end_of(run: RunView) -> RunEnd | None:
    """Return what the end of a run means; None for one that succeeded or has not ended."""
    meaning = meaning_of(run.end_code, started=run.started_at is not None) if run.end_code else None
    if run.end_code is None or meaning is None:
        return None
    title = meaning.title
    if run.end_code is EndCode.NOTEBOOK_ERROR:
        cell = run.error.cell if run.error else None
        title = f"{title} in {'its cell of parameters' if cell is None else f'cell {cell}'}"
    return RunEnd(title, meaning.meaning, meaning.remedy, _LINKS.get(run.end_code, AGAIN))
