"""Tables of parameters as people bring them (CSV, Parquet, a grid on the command line), and of results as they go."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from typing import TYPE_CHECKING, Any

from hub.batch.parameters import ParameterError, parse_parameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

# A grid's range, both ends belonging to it: 1..18, 0..1..0.25
NUMBER = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"
RANGE = re.compile(rf"{NUMBER}\.\.{NUMBER}(?:\.\.{NUMBER})?", re.IGNORECASE)
VALUES_MAX = 10_000
FIXED = ("row", "run", "state", "error", "seconds", "credits")
MICROCREDITS_PER_CREDIT = 1_000_000
NEEDS_PYARROW = "Parquet needs the package pyarrow: install it (pip install pyarrow), or use CSV."


class TableError(ValueError):
    """The table cannot be read or written; the message says where and why."""


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV or Parquet file, by its suffix, each a mapping of parameters. Raises TableError."""
    if path.suffix.lower() in (".parquet", ".pq"):
        return _read_parquet(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}."
        raise TableError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path} is not UTF-8: save it as CSV in UTF-8."
        raise TableError(msg) from error
    return parse_csv(text, str(path))


def parse_csv(text: str, name: str = "The table") -> list[dict[str, Any]]:
    """The rows of a CSV text with a heading, their cells typed as `-p` types them; an empty cell is left out.

    Raises TableError with the line.
    """
    reader = csv.reader(io.StringIO(text))
    try:
        heading = [cell.strip() for cell in next(reader, [])]
        _check_heading(heading, name)
        rows = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(heading):
                msg = f"{name}, line {reader.line_num}: {len(cells)} cells under {len(heading)} headings."
                raise TableError(msg)
            rows.append({one: _typed(cell) for one, cell in zip(heading, cells, strict=True) if cell.strip()})
    except (csv.Error, ParameterError) as error:
        msg = f"{name}, line {reader.line_num}: {error}"
        raise TableError(msg) from error
    return rows


def parse_grid(texts: Iterable[tuple[str, str]]) -> dict[str, list[Any]]:
    """The grid of `-g NAME VALUES`: values separated by commas, a [list], or a range such as 1..18 or 0..1..0.25.

    Raises TableError and ParameterError.
    """
    grid: dict[str, list[Any]] = {}
    for name, text in texts:
        if name in grid:
            msg = f"The parameter {name} is given twice: write all its values once, separated by commas."
            raise TableError(msg)
        grid[name] = _values(name, text.strip())
    return grid


def grid_rows(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the grid's values, the last name changing fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def flat_results(results: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Results as a table: the columns, and the rows by column.

    A parameter or a recorded value of a name that a column has already is called `parameter_…` or `recorded_…`.
    """
    parameters = _names(results, "parameters")
    recorded = _names(results, "recorded")
    of_parameter = {name: f"parameter_{name}" if name in FIXED else name for name in parameters}
    taken = {*FIXED, *of_parameter.values()}
    of_recorded = {name: f"recorded_{name}" if name in taken else name for name in recorded}
    columns = ["row", *of_parameter.values(), *of_recorded.values(), *FIXED[1:]]
    rows = []
    for one in results:
        charged = one["charged_microcredits"] + one["charged_microcredits_before"]
        fixed = {name: one[name] for name in ("row", "run", "state", "error", "seconds")}
        rows.append(
            {
                **fixed,
                "credits": charged / MICROCREDITS_PER_CREDIT,
                **{of_parameter[name]: value for name, value in one["parameters"].items()},
                **{of_recorded[name]: value for name, value in one["recorded"].items()},
            }
        )
    return columns, rows


def to_csv(results: Sequence[Mapping[str, Any]]) -> str:
    """Results as CSV; a list or a mapping is written as JSON."""
    columns, rows = flat_results(results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def write_parquet(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write results as Parquet; a column of mixed values is written as JSON. Raises TableError without pyarrow."""
    try:
        import pyarrow as pa  # noqa: PLC0415  # only those who want Parquet need it
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise TableError(NEEDS_PYARROW) from error
    columns, rows = flat_results(results)
    arrays = {}
    for column in columns:
        values = [row.get(column) for row in rows]
        try:
            arrays[column] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            arrays[column] = pa.array([None if value is None else json.dumps(value) for value in values])
    parquet.write_table(pa.table(arrays), path)


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow as pa  # noqa: PLC0415  # as above
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise TableError(NEEDS_PYARROW) from error
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        msg = f"{path} cannot be read as Parquet: {error}"
        raise TableError(msg) from error
    made = [{name: value for name, value in row.items() if value is not None} for row in rows]
    _check_heading(list(rows[0]) if rows else [], str(path))
    for number, row in enumerate(made, start=1):
        for name, value in row.items():
            if not isinstance(value, bool | int | float | str | list | dict) or value != value:  # noqa: PLR0124  NaN
                msg = f"{path}, row {number}: {name} is {value!r}; give a number, a text or a list of them."
                raise TableError(msg)
    return made


def _check_heading(heading: list[str], name: str) -> None:
    if not heading or not all(heading):
        msg = f"{name} must begin with a line of the parameters' names."
        raise TableError(msg)
    twice = {one for one in heading if heading.count(one) > 1}
    if twice:
        msg = f"{name} has two columns {sorted(twice)[0]!r}."
        raise TableError(msg)


def _typed(cell: str) -> Any:
    return parse_parameter(cell.strip())


def _values(name: str, text: str) -> list[Any]:
    if text.startswith("["):
        values = parse_parameter(text)
        assert isinstance(values, list), "a text in brackets is a list, or no parameter"
        return values
    if found := RANGE.fullmatch(text):
        try:
            return _range(*found.groups())
        except (ValueError, OverflowError) as error:
            msg = f"{text!r} is no range for {name}: write 1..18, or 0..1..0.25 with a step above 0."
            raise TableError(msg) from error
    return [parse_parameter(one.strip()) for one in next(csv.reader([text], skipinitialspace=True), [])]


def _range(first: str, last: str, step: str | None) -> list[int] | list[float]:
    """Both ends belong to it. Whole numbers stay whole; others are rounded to the step's digits, not added up."""
    if all(re.fullmatch(r"-?\d+", one) for one in (first, last, step or "1")):
        numbers = range(int(first), int(last) + 1, int(step or 1))
        if len(numbers) > VALUES_MAX:
            raise ValueError(numbers)
        return list(numbers)
    begin, end, each = float(first), float(last), float(step or 1)
    count = math.floor((end - begin) / each + 1e-9) + 1 if each > 0 else -1
    if not 0 <= count <= VALUES_MAX:
        raise ValueError(count)
    return [round(begin + number * each, 12) for number in range(count)]


def _names(results: Sequence[Mapping[str, Any]], part: str) -> list[str]:
    return list(dict.fromkeys(name for one in results for name in one[part]))


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, list | dict | bool) else value
