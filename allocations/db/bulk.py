"""Writes many rows of a table at once: by one statement on PostgreSQL, by a prepared one repeated on SQLite.

PostgreSQL is sent the rows as one JSON value, which costs it and its driver far less than as many statements; SQLite
has no round trips to save.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, Integer, Text, and_, bindparam, cast, column, func, insert, select, update

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Table, TableValuedAlias

Row = dict[str, Any]
# Fewer rows than this cost less as statements that the server has prepared.
TOGETHER_MIN = 4
_PLACE = "place_in_order"


class BulkInsert:
    """Inserts rows, all with the same columns; serial keys are given in their order."""

    def __init__(self, table: Table) -> None:
        names = [one.name for one in table.columns if one is not table.autoincrement_column]
        sent = _sent(table, names)
        self._each = insert(table)
        self._together = insert(table).from_select(
            names, select(*(sent.c[name] for name in names)).order_by(sent.c[_PLACE])
        )

    def run(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Insert rows."""
        if _together(connection, rows):
            connection.execute(self._together, _as_json(rows))
        elif rows:
            connection.execute(self._each, list(rows))


class BulkUpdate:
    """Sets columns of rows that are found by their keys, each to values of its own."""

    def __init__(self, table: Table, key: Sequence[str], values: Sequence[str], *also: ColumnElement[bool]) -> None:
        """`also` is what must hold of each row besides."""
        sent = _sent(table, [*key, *values])
        # SQLAlchemy keeps the columns' own names for values to set, hence others for those to look for.
        self._names = {name: f"sent_{name}" for name in (*key, *values)}
        self._each = (
            update(table)
            .where(and_(*(table.c[name] == bindparam(self._names[name]) for name in key), *also))
            .values({name: bindparam(self._names[name]) for name in values})
        )
        self._together = (
            update(table)
            .where(and_(*(table.c[name] == sent.c[name] for name in key), *also))
            .values({name: sent.c[name] for name in values})
        )

    def run(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Update rows, each with its key and values; return how many were found."""
        if _together(connection, rows):
            return int(connection.execute(self._together, _as_json(rows)).rowcount)
        if not rows:
            return 0
        each = [{sent: row[name] for name, sent in self._names.items()} for row in rows]
        return int(connection.execute(self._each, each).rowcount)


def _together(connection: Connection, rows: Sequence[Row]) -> bool:
    return connection.dialect.name == "postgresql" and len(rows) >= TOGETHER_MIN


def _as_json(rows: Sequence[Row]) -> dict[str, str]:
    return {"sent": json.dumps([{**row, _PLACE: place} for place, row in enumerate(rows)])}


def _sent(table: Table, names: Sequence[str]) -> TableValuedAlias:
    """Return what is sent as JSON as a table: the named columns with their types, and the row's place."""
    columns = [column(name, table.c[name].type) for name in names]
    sent = func.json_to_recordset(cast(bindparam("sent", type_=Text), JSON))
    return sent.table_valued(*columns, column(_PLACE, Integer), name="sent").render_derived(with_types=True)
