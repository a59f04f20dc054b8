"""Turns what people type into forms into values, or says which field is wrong and how to mend it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import yaml

from allocations.errors import AllocationsError, IdempotencyConflictError, InvalidInputError
from allocations.web.formats import MICROCREDITS_PER_CREDIT, SECONDS_PER_MINUTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CREDITS_MAX = 10**9
PARAMETERS_LENGTH_MAX = 20_000
PARAMETER_LINE_LENGTH_MAX = 2_000
GRID_RANGE_MAX = 10_000
_RANGE = re.compile(r"(-?\d{1,9})\.\.(-?\d{1,9})(?:\.\.(\d{1,9}))?")


class FormSentBeforeError(AllocationsError):
    """A form was gone back to, changed and sent again: its key has been used."""

    code = "form_sent_before"
    status = 409
    title = "Sent before"

    def __init__(self) -> None:
        super().__init__(
            "This form was sent before with other values, and carried out then.",
            "Send it once more if you want a second one with these values.",
        )


class _ParameterLoader(yaml.SafeLoader):
    """YAML without dates: a parameter `2026-01-01` stays the text that a notebook expects."""


_ParameterLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def in_words_of_forms(error: AllocationsError) -> AllocationsError:
    """Return the error as it is put to whoever fills in a form, and knows no keys."""
    return FormSentBeforeError() if isinstance(error, IdempotencyConflictError) else error


def to_microcredits(text: str, field: str) -> int:
    """Read credits with up to six decimals."""
    try:
        amount = Decimal(text.strip()) * MICROCREDITS_PER_CREDIT
    except InvalidOperation:
        raise _wrong(field, "is not a number", "Write it like 250 or 12.5, without separators.") from None
    if not amount.is_finite() or not 0 < amount <= CREDITS_MAX * MICROCREDITS_PER_CREDIT:
        raise _wrong(field, f"must be above 0 and at most {CREDITS_MAX:,}", "Enter another number.")
    if amount != amount.to_integral_value():
        raise _wrong(field, "has more than six decimals", "Round it.")
    return int(amount)


def to_whole(text: str, field: str) -> int:
    """Read a whole number."""
    cleaned = text.strip()
    digits_max = 12
    if not (cleaned.isascii() and cleaned.isdigit() and len(cleaned) <= digits_max):
        raise _wrong(field, "is not a whole number", "Write it in digits, without separators.")
    return int(cleaned)


def to_whole_or_none(text: str, field: str) -> int | None:
    """Read a whole number, or nothing."""
    return to_whole(text, field) if text.strip() else None


def to_whole_between(text: str, field: str, least: int, most: int) -> int | None:
    """Read a whole number within bounds, or nothing."""
    whole = to_whole_or_none(text, field)
    if whole is not None and not least <= whole <= most:
        raise _wrong(field, f"must lie between {least:,} and {most:,}", "Enter a number within that, or nothing.")
    return whole


def to_seconds(minutes: str, field: str) -> int:
    """Read whole minutes, above 0."""
    whole = to_whole(minutes, field)
    if whole == 0:
        raise _wrong(field, "must be at least 1 minute", "Enter how long the run may take.")
    return whole * SECONDS_PER_MINUTE


def to_parameters(text: str) -> dict[str, Any]:
    """Read `name = value` lines; a value is a YAML scalar, or a list of them in brackets."""
    if len(text) > PARAMETERS_LENGTH_MAX:
        raise _wrong("Parameters", f"are longer than {PARAMETERS_LENGTH_MAX:,} characters", "Shorten them.")
    return {name: to_value(value, where) for name, value, where in _lines(text, "Parameters")}


def to_grid(text: str) -> dict[str, list[Any]]:
    """Read `name = values` lines: values separated by commas, a list in brackets, or a range such as 1..18."""
    grid: dict[str, list[Any]] = {}
    for name, value, where in _lines(text, "Grid"):
        found = _RANGE.fullmatch(value)
        if found is None:
            values = to_value(value if value.startswith("[") else f"[{value}]", where)
            grid[name] = values if isinstance(values, list) else [values]
            continue
        first, last, step = (int(one or 1) for one in found.groups())
        if step < 1 or not 0 <= last - first <= GRID_RANGE_MAX * step:
            raise _wrong(where, "is no range", "Write for example 1..18, or 0..90..10 with a step.")
        grid[name] = list(range(first, last + 1, step))
    return grid


def to_rows(text: str) -> list[dict[str, Any]]:
    """Read a table as CSV with a line of names; an empty cell is left out, so that the notebook's default counts."""
    rows: list[dict[str, Any]] = []
    # A table says the same again and again, and to read a value takes long.
    known: dict[str, Any] = {}
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff")), skipinitialspace=True)
    try:
        heading = [cell.strip() for cell in next(reader, [])]
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"Table, line {reader.line_num}"
            if len(cells) != len(heading):
                raise _wrong(where, f"has {len(cells)} cells under {len(heading)} names", "Give each name its cell.")
            for cell in {cell.strip() for cell in cells} - known.keys():
                known[cell] = to_value(cell, where)
            pairs = zip(heading, (cell.strip() for cell in cells), strict=True)
            rows.append({name: known[cell] for name, cell in pairs if cell})
    except csv.Error as error:
        raise _wrong(f"Table, line {reader.line_num}", "is not CSV", "Save the table as CSV in UTF-8.") from error
    if not heading or not all(name.isidentifier() for name in heading) or len(set(heading)) < len(heading):
        raise _wrong("Table", "must begin with a line of the parameters' names", "Give each column another name.")
    return rows


def to_parameter_lines(parameters: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Write parameters as the lines that `to_parameters` reads, with the names of those that no line can say."""
    lines: list[str] = []
    left_out: list[str] = []
    room = PARAMETERS_LENGTH_MAX
    for name, value in parameters.items():
        line = next((line for line in _possible_lines(name, value) if _says(line, name, value)), None)
        if line is None or len(line) >= room:
            left_out.append(name)
        else:
            lines.append(line)
            room -= len(line) + 1
    return "\n".join(lines), left_out


def to_notebook(content: bytes, bytes_max: int) -> dict[str, Any]:
    """Read the JSON of a notebook; whether it is a good one, the queue of runs decides."""
    if len(content) > bytes_max:
        raise _wrong("Notebook", f"is larger than {bytes_max // 1_000_000} MB", "Clear its outputs and save it again.")
    try:
        notebook = json.loads(content)
    # Brackets nested a thousand deep exhaust the parser's stack: that is no notebook either.
    except (ValueError, RecursionError):
        notebook = None
    if not isinstance(notebook, dict):
        raise _wrong("Notebook", "is not an .ipynb file", "Save it in JupyterLab and choose that file.")
    return notebook


def _lines(text: str, field: str) -> Iterator[tuple[str, str, str]]:
    """Return name, value and place of each `name = value` line; comments and empty lines are passed over."""
    known: set[str] = set()
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{field}, line {number}"
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not name.isidentifier():
            raise _wrong(where, "is not of the form name = value", "Write for example n_cutouts = 100.")
        if name in known:
            raise _wrong(where, f"gives {name} again", "Keep one of the two.")
        known.add(name)
        yield name, value, where


def _possible_lines(name: str, value: object) -> Iterator[str]:
    """Spell a value, the plainest way first: text without quotes where it stays text."""
    if isinstance(value, str):
        yield f"{name} = {value}"
    quoted = [
        yaml.safe_dump(item, default_style='"' if isinstance(item, str) else None, allow_unicode=True, width=math.inf)
        .removesuffix("...\n")
        .strip()
        for item in (value if isinstance(value, list) else [value])
    ]
    yield f"{name} = [{', '.join(quoted)}]" if isinstance(value, list) else f"{name} = {quoted[0]}"


def _says(line: str, name: str, value: object) -> bool:
    """Whether a line is read as this value, of the same types: `1` is neither `1.0` nor `true`."""
    try:
        return json.dumps(to_parameters(line)) == json.dumps({name: value})
    except InvalidInputError:
        return False


def to_value(text: str, where: str) -> Any:
    """Read a YAML scalar, or a list of them in brackets."""
    unreadable = _wrong(where, "has a value that cannot be read", "Put text with special characters in quotes.")
    if len(text) > PARAMETER_LINE_LENGTH_MAX:
        raise _wrong(where, f"is longer than {PARAMETER_LINE_LENGTH_MAX:,} characters", "Shorten it.")
    try:
        value = yaml.load(text, Loader=_ParameterLoader)  # noqa: S506  # a SafeLoader without dates
    except (yaml.YAMLError, ValueError, RecursionError):
        raise unreadable from None
    items = value if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, str | int | float | bool | None):
            raise unreadable
        if isinstance(item, float) and not math.isfinite(item):
            raise _wrong(where, "is not a finite number", "Put it in quotes to give it as text.")
    return value


def _wrong(field: str, what: str, remedy: str) -> InvalidInputError:
    return InvalidInputError(f"{field}: {what}.", remedy)
