"""What became of each cell of a run, by the notebook that was submitted and what its runner noted while it went.

Both are files that a notebook may write over: what is not of the expected form is passed over, and all is bounded.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from allocations.clock import MS_PER_SECOND, from_datetime
from allocations.runs.models import RunError, RunState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from allocations.runs.models import Run

# Of a larger notebook the cells are known by their numbers alone; of longer events the last are not known.
OUTLINE_BYTES_MAX = 8_000_000
EVENTS_BYTES_MAX = 2_000_000
CELLS_MAX = 10_000
LINE_LENGTH_MAX = 80
KINDS = frozenset({"code", "markdown", "raw"})


class CellState(StrEnum):
    """Where a cell is. Stopped: it was running when the run was ended from outside."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    NOT_REACHED = "not reached"


_UNFINISHED = {
    RunState.FAILED: CellState.FAILED,
    RunState.TIMED_OUT: CellState.STOPPED,
    RunState.CANCELLED: CellState.STOPPED,
    # `sys.exit()` ends a notebook well, in a cell that never returns.
    RunState.SUCCEEDED: CellState.DONE,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the submitted notebook, counted from 1; `kind` is code, markdown or raw, `seconds` how long it ran."""

    number: int
    kind: str
    first_line: str
    state: CellState
    seconds: float | None


@dataclass(slots=True)
class _Noted:
    """What the runner noted of one cell."""

    started_at_ms: int | None = None
    is_finished: bool = False
    seconds: float | None = None


def cells_of(run: Run, notebook: bytes, events: bytes, now_ms: int) -> list[Cell]:
    """Return the cells of a run, at most CELLS_MAX, from the beginnings of its notebook and of its events.

    Before its attempt runs, the events are those of an earlier one, and no cell has begun.
    """
    outline = _outline(notebook) or [("code", "")] * run.cells_total
    noted = {} if run.state in {RunState.QUEUED, RunState.ADMITTED} else _read_events(events)
    failed = RunError.model_validate_json(run.error).cell if run.error and run.state is RunState.FAILED else None
    cells = []
    for number, (kind, line) in enumerate(outline[:CELLS_MAX], start=1):
        note = noted.get(number)
        state = CellState.FAILED if number == failed else _state(run, note)
        cells.append(Cell(number, kind, line, state, _seconds(run, note, now_ms)))
    return cells


def _state(run: Run, note: _Noted | None) -> CellState:
    if note is None:
        return CellState.NOT_REACHED if run.ended_at_ms is not None else CellState.WAITING
    return CellState.DONE if note.is_finished else _UNFINISHED.get(run.state, CellState.RUNNING)


def _seconds(run: Run, note: _Noted | None, now_ms: int) -> float | None:
    """Return how long a cell ran, or has run; never longer than its run may."""
    if note is None:
        return None
    seconds = note.seconds
    if not note.is_finished and note.started_at_ms is not None:
        seconds = ((run.ended_at_ms or now_ms) - note.started_at_ms) / MS_PER_SECOND
    return None if seconds is None else min(max(0.0, seconds), float(run.max_seconds))


def _outline(notebook: bytes) -> list[tuple[str, str]]:
    """Return kind and first line of each cell; none when the notebook is not whole or not one."""
    try:
        cells = json.loads(notebook)["cells"]
        return [
            (cell["cell_type"] if cell["cell_type"] in KINDS else "raw", _first_line(cell["source"])) for cell in cells
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _first_line(source: str | list[str]) -> str:
    text = source if isinstance(source, str) else "".join(source)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = line[: LINE_LENGTH_MAX + 1].encode("utf-8", "replace").decode()  # JSON can spell half of a surrogate pair
    return line if len(line) <= LINE_LENGTH_MAX else f"{line[: LINE_LENGTH_MAX - 1]}…"


def _read_events(events: bytes) -> dict[int, _Noted]:
    noted: dict[int, _Noted] = {}
    # The last line may be half written, or cut by the bound: only what ends in a newline counts.
    for event in _objects(events.split(b"\n")[:-1]):
        number, what = event.get("cell"), event.get("event")
        if type(number) is not int or what not in {"cell_started", "cell_finished"}:
            continue
        note = noted.setdefault(number, _Noted())
        if what == "cell_started":
            note.started_at_ms = _to_ms(event.get("at"))
        else:
            note.is_finished, note.seconds = True, _to_seconds(event.get("seconds"))
    return noted


def _objects(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def _to_ms(at: object) -> int | None:
    try:
        return from_datetime(datetime.fromisoformat(at)) if isinstance(at, str) else None
    except (ValueError, OverflowError):
        return None


def _to_seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None
