"""The table of a sweep's results as its page shows it: columns, order, a page of rows, and what is plotted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import Query

from allocations.web.formats import MICROCREDITS_PER_CREDIT
from allocations.web.plots import Scatter, is_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from allocations.runs.sweep_models import SweepResult, SweepView
    from allocations.runs.sweeps import SweepService

ROWS_PAGE = 50
# More columns than this nobody compares: all are in the file.
COLUMNS_MAX = 12
NAMES_MAX = 100
MISSING = 2
PARAMETER, RECORDED = "p.", "r."


@dataclass(frozen=True, slots=True)
class Shown:
    """What is asked to be shown, as the address says it: the order, the page, and the axes of the plot."""

    sort: str = "row"
    down: bool = False
    start: int = 0
    x: str = ""
    y: str = ""

    def query(self, **changes: Any) -> str:
        """Return the query of an address that asks for the same but for what changes."""
        fields = {"sort": self.sort, "down": self.down, "start": self.start, "x": self.x, "y": self.y} | changes
        return urlencode({name: int(value) if isinstance(value, bool) else value for name, value in fields.items()})

    def sorted_by(self, column: str) -> str:
        """Return the query that sorts by a column, the other way round where it does already."""
        return self.query(sort=column, down=column == self.sort and not self.down, start=0)


@dataclass(frozen=True, slots=True)
class ResultPage:
    """A page of the table: `parameters` and `recorded` are the columns' names, `plottable` those for the y axis."""

    rows: list[SweepResult]
    count: int
    parameters: list[str]
    recorded: list[str]
    left_out: int
    plottable: list[str]
    x: str
    y: str
    scatter: Scatter | None


def read_page(sweeps: SweepService, sweep: SweepView, shown: Shown) -> ResultPage:
    """Look through all results of a sweep once; only what the page shows is kept of them."""
    keys: list[tuple[tuple[int, float, str], int]] = []
    # Whether any value of a recorded name is a number.
    names: dict[str, bool] = {}
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for one in sweeps.all_results(sweep.person, sweep.id):
        numbers = {name: value for name, value in one.recorded.items() if is_number(value)}
        for name in one.recorded:
            if name in names or len(names) < NAMES_MAX:
                names[name] = names.get(name, False) or name in numbers
        keys.append((_key(one, shown.sort), one.row))
        pairs.append(({name: one.parameters.get(name) for name in sweep.varied}, numbers))
    plottable = sorted(name for name, has_number in names.items() if has_number)
    x = shown.x if shown.x in sweep.varied else next(iter(sweep.varied), "")
    y = shown.y if shown.y in plottable else next(iter(plottable), "")
    parameters = sweep.varied[:COLUMNS_MAX]
    recorded = sorted(names)[: max(1, COLUMNS_MAX - len(parameters))]
    return ResultPage(
        rows=sweeps.results_at(sweep.person, sweep.id, _in_order(keys, shown)),
        count=len(keys),
        parameters=parameters,
        recorded=recorded,
        left_out=len(sweep.varied) + len(names) - len(parameters) - len(recorded),
        plottable=plottable,
        x=x,
        y=y,
        scatter=Scatter.of([(of_row[x], numbers[y]) for of_row, numbers in pairs if x in of_row and y in numbers]),
    )


def wanted_of(
    sort: Annotated[str, Query(max_length=130)] = "row",
    down: bool = False,
    start: Annotated[int, Query(ge=0, lt=100_000)] = 0,
    x: Annotated[str, Query(max_length=130)] = "",
    y: Annotated[str, Query(max_length=130)] = "",
) -> Shown:
    """Read from the address what is asked to be shown."""
    return Shown(sort, down, start, x, y)


def csv_names(results: Iterable[SweepResult]) -> list[str]:
    """Return the names that the results recorded, in the order of their coming, for a file's columns."""
    return list(dict.fromkeys(name for one in results for name in one.recorded))


def csv_row(sweep: SweepView, recorded: Sequence[str], one: SweepResult) -> list[str | int | float | None]:
    """Return a result as a row of a file."""
    values = [one.parameters.get(name) for name in sweep.varied] + [one.recorded.get(name) for name in recorded]
    charged = one.charged_microcredits + one.charged_microcredits_before
    fixed = (one.run, one.state.value, one.error, one.seconds, charged / MICROCREDITS_PER_CREDIT)
    return [one.row, *(_cell(value) for value in values), *fixed]


CSV_AFTER = ("run", "state", "error", "seconds", "credits")


def _cell(value: Any) -> str | int | float | None:
    return value if value is None or isinstance(value, str) or is_number(value) else json.dumps(value)


def _key(one: SweepResult, column: str) -> tuple[int, float, str]:
    """Return by what a result is sorted: numbers before texts, and what is not there last."""
    value: Any
    if column.startswith(PARAMETER):
        value = one.parameters.get(column.removeprefix(PARAMETER))
    elif column.startswith(RECORDED):
        value = one.recorded.get(column.removeprefix(RECORDED))
    else:
        credits_spent = one.charged_microcredits + one.charged_microcredits_before
        value = {"state": one.state.value, "seconds": one.seconds, "credits": credits_spent}.get(column, one.row)
    if value is None:
        return MISSING, 0.0, ""
    return (
        (0, float(value), "") if is_number(value) else (1, 0.0, value if isinstance(value, str) else json.dumps(value))
    )


def _in_order(keys: list[tuple[tuple[int, float, str], int]], shown: Shown) -> list[int]:
    """Return the rows of a page; what has no value in the column comes last, whichever way it is sorted."""
    there = sorted((one for one in keys if one[0][0] < MISSING), reverse=shown.down)
    missing = sorted(one for one in keys if one[0][0] == MISSING)
    return [row for _, row in [*there, *missing][shown.start : shown.start + ROWS_PAGE]]
