"""Writes many rows of a table at once: by one statement on PostgreSQL, by a prepared one repeated on SQLite.

PostgreSQL is sent the rows as one JSON value, which costs it and its driver far less than as many statements; SQLite
has no round trips to save.
"""

from __future__ import annotations

import json
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, Integer, Text, and_, bindparam, cast, column, func, insert, select, update

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Insert, Table, TableValuedAlias, Update

Row = dict[str, Any]
# Fewer rows than this cost less as statements that the server has prepared.
TOGETHER_MIN = 4
_PLACE = "place_in_order"


class _Bulk:
    """A statement for one row, and one for all rows that are sent together."""

    def __init__(self, each: Insert | Update, together: Insert | Update, names: Mapping[str, str]) -> None:
        """`names` are those of a row's fields, with their names in `each`."""
        self._each, self._together, self._names = each, together, names
        self._raw: tuple[str, list[str]] | None = None

    def run(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Write rows; return how many were found, or made."""
        if not rows:
            return 0
        if len(rows) < TOGETHER_MIN:
            each = [{sent: row[name] for name, sent in self._names.items()} for row in rows]
            return connection.execute(self._each, each).rowcount
        if connection.dialect.name == "postgresql":
            sent = json.dumps([{**row, _PLACE: place} for place, row in enumerate(rows)])
            return connection.execute(self._together, {"sent": sent}).rowcount
        # Straight to the driver, which takes these values as they are: preparing each row would cost more than it.
        if self._raw is None:
            fields = {sent: name for name, sent in self._names.items()}
            compiled = self._each.compile(dialect=connection.dialect, column_keys=list(fields))
            self._raw = str(compiled), [fields[sent] for sent in compiled.positiontup or ()]
        statement, order = self._raw
        get = itemgetter(*order)
        return connection.exec_driver_sql(statement, [get(row) for row in rows]).rowcount


class BulkInsert(_Bulk):
    """Inserts rows, all with the same columns; serial keys are given in their order."""

    def __init__(self, table: Table) -> None:
        names = [one.name for one in table.columns if one is not table.autoincrement_column]
        sent = _sent(table, names)
        together = select(*(sent.c[name] for name in names)).order_by(sent.c[_PLACE])
        super().__init__(insert(table), insert(table).from_select(names, together), {name: name for name in names})


class BulkUpdate(_Bulk):
    """Sets columns of rows that are found by their keys, each to values of its own."""

    def __init__(self, table: Table, key: Sequence[str], values: Sequence[str], *also: ColumnElement[bool]) -> None:
        """`also` is what must hold of each row besides, without parameters."""
        sent = _sent(table, [*key, *values])
        # SQLAlchemy keeps the columns' own names for values to set, hence others for those to look for.
        names = {name: f"sent_{name}" for name in (*key, *values)}
        super().__init__(
            update(table)
            .where(and_(*(table.c[name] == bindparam(names[name]) for name in key), *also))
            .values({name: bindparam(names[name]) for name in values}),
            update(table)
            .where(and_(*(table.c[name] == sent.c[name] for name in key), *also))
            .values({name: sent.c[name] for name in values}),
            names,
        )


def _sent(table: Table, names: Sequence[str]) -> TableValuedAlias:
    """Return what is sent as JSON as a table: the named columns with their types, and the row's place."""
    columns = [column(name, table.c[name].type) for name in names]
    sent = func.json_to_recordset(cast(bindparam("sent", type_=Text), JSON))
    return sent.table_valued(*columns, column(_PLACE, Integer), name="sent").render_derived(with_types=True)
