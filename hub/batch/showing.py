"""How far runs are, shown in a notebook while it waits for them, or on a terminal's lines."""

from __future__ import annotations

import sys
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub.batch.model import Run

MICROCREDITS_PER_CREDIT = 1_000_000


def sentence(run: Run) -> str:
    """What a run does, in one line."""
    cells = f", {run.cells_done} of {run.cells_total} cells" if run.cells_total and run.started_at else ""
    why = f": {run.error.message}" if run.error and not run.active else ""
    waits = f": {run.waiting_reason}" if run.waiting_reason else ""
    return f"{run.name}: {run.state.replace('_', ' ')}{cells}{waits or why}"


class _Table:
    """The same, for a browser: each run with a bar of its cells."""

    def __init__(self, runs: list[Run]) -> None:
        self._runs = runs

    def __repr__(self) -> str:
        return "\n".join(sentence(run) for run in self._runs)

    def _repr_html_(self) -> str:
        return f"<table>{''.join(map(_row, self._runs))}</table>"


def _row(run: Run) -> str:
    name, total = escape(run.name), max(1, run.cells_total or 1)
    bar = f'<progress max="{total}" value="{run.cells_done}" aria-label="Cells of {name}"></progress>'
    cost = f"{run.charged_microcredits / MICROCREDITS_PER_CREDIT:.4f} credits" if run.charged_microcredits else ""
    cells = (bar, escape(sentence(run).removeprefix(f"{run.name}: ")), cost)
    return f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


class Display:
    """Shows runs in one place that is updated; in a plain interpreter a line for each change."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._said: dict[str, str] = {}

    def show(self, runs: list[Run]) -> None:
        if _in_notebook():
            # Only there: nothing else needs IPython.
            from IPython.display import display  # noqa: PLC0415

            if self._handle is None:
                self._handle = display(_Table(runs), display_id=True)  # type: ignore[no-untyped-call]  # IPython's
            else:
                self._handle.update(_Table(runs))
            return
        for run in runs:
            line = sentence(run)
            if self._said.get(run.id) != line:
                self._said[run.id] = line
                sys.stderr.write(f"{line}\n")


def _in_notebook() -> bool:
    """Whether a kernel runs this: what is displayed goes to a browser, and can be replaced there."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if get_ipython else None
    return shell is not None and hasattr(shell, "kernel")
