"""Writes rows as files, a few at a time: CSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
import io
import json
from enum import StrEnum
from importlib.util import find_spec
from itertools import islice
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from allocations.errors import AllocationsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

CHUNK_ROWS = 1_000
CHUNK_BYTES = 65_536
# A spreadsheet takes a text that begins like this for a formula, and would carry it out.
_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


class FileFormat(StrEnum):
    """What a report is written as; its value is the ending of the file's name."""

    CSV = "csv"
    JSON_LINES = "jsonl"
    PARQUET = "parquet"


MEDIA_TYPES = {
    FileFormat.CSV: "text/csv; charset=utf-8",
    FileFormat.JSON_LINES: "application/jsonl",
    FileFormat.PARQUET: "application/vnd.apache.parquet",
}


class NoParquetError(AllocationsError):
    """This installation has nothing that writes Parquet."""

    code = "no_parquet"
    status = 422
    title = "No Parquet here"

    def __init__(self) -> None:
        super().__init__("This installation does not write Parquet: pyarrow is not in it.", "Take the CSV instead.")


def writes_parquet() -> bool:
    """Say whether pyarrow is installed: where people's servers run beside the service it is, in its image it is not."""
    return find_spec("pyarrow") is not None


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table as CSV (RFC 4180), with a line of titles; texts that look like formulas get an apostrophe."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(columns)
    for chunk in _chunks(rows):
        writer.writerows([_cell(row[name]) for name in columns] for row in chunk)
        yield lines.getvalue()
        lines.seek(0)
        lines.truncate()
    yield lines.getvalue()


def to_json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a JSON object a line."""
    for chunk in _chunks(rows):
        yield "".join(f"{json.dumps(row, ensure_ascii=False, default=str)}\n" for row in chunk)


def to_parquet(kinds: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield a table as Parquet; `kinds` are Arrow's names of the columns' types. NoParquetError without pyarrow."""
    if not writes_parquet():
        raise NoParquetError
    return _parquet(kinds, rows)


# ---------------------------------------------------------------------- inside


def _parquet(kinds: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    import pyarrow as pa  # noqa: PLC0415  # 60 MiB that only these files need
    from pyarrow import parquet  # noqa: PLC0415  # as above

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in kinds.items()])
    # The file's end says where its parts begin, so it is whole before it is sent: on disk, not in memory.
    with TemporaryFile() as file:
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            for chunk in _chunks(rows):
                writer.write_table(pa.Table.from_pylist([dict(row) for row in chunk], schema))
        file.seek(0)
        while part := file.read(CHUNK_BYTES):
            yield part


def _chunks(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], ...]]:
    left = iter(rows)
    while chunk := tuple(islice(left, CHUNK_ROWS)):
        yield chunk


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_BEGINS) else value
