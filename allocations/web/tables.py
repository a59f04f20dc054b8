"""Tables as CSV, for spreadsheets: written as they are read, and with nothing in them that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from fastapi.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fastapi.responses import Response

# What spreadsheets take for the beginning of a formula.
FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")
LINES_AT_ONCE = 500

Cell = str | int | float | None


def csv_file(name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Response:
    """Return rows below their columns' names as a file to be kept under a name."""
    headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
    return StreamingResponse(_lines(columns, rows), media_type="text/csv; charset=utf-8", headers=headers)


def _lines(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    for number, row in enumerate(rows, start=1):
        writer.writerow([_harmless(cell) for cell in row])
        if number % LINES_AT_ONCE == 0:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


def _harmless(cell: Cell) -> Cell:
    """Return a cell with people's text kept text: names are chosen by people, and a formula could send data away."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_BEGINNINGS) else cell
