"""Bare connections: `sqlite3` and `psycopg`, set up as the service sets up its own."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Protocol

import psycopg

from allocations.db.database import SQLITE_BUSY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence


class Statement(Protocol):
    """A statement with its parameters, a list of them for `many`."""

    @property
    def statement(self) -> str: ...

    @property
    def parameters(self) -> Any: ...

    @property
    def many(self) -> bool: ...


class BareConnection:
    """One connection, with a cursor that keeps its statements prepared."""

    def __init__(self, connection: Any, begin: str | None) -> None:
        """`begin` opens a transaction; None where the driver does so by itself."""
        self._connection = connection
        self._cursor = connection.cursor()
        self._begin = begin

    def commit(self, writes: Sequence[Statement]) -> None:
        """Write all in one transaction."""
        if self._begin:
            self._cursor.execute(self._begin)
        for write in writes:
            run = self._cursor.executemany if write.many else self._cursor.execute
            run(write.statement, write.parameters)
        self._connection.commit()

    def read(self, statement: str, parameters: Any) -> list[Any]:
        """Return all rows of a query, in a transaction that later ones share."""
        return list(self._cursor.execute(statement, parameters).fetchall())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def connect(url: str) -> BareConnection:
    """Connect to the database of an SQLAlchemy URL."""
    if not url.startswith("sqlite:///"):
        # psycopg prepares what it has seen five times, here as below SQLAlchemy.
        return BareConnection(psycopg.connect(url.replace("+psycopg", "")), None)
    connection = sqlite3.connect(
        url.removeprefix("sqlite:///"), timeout=SQLITE_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return BareConnection(connection, "BEGIN IMMEDIATE")
