"""What does not fit in memory is noted in a file of its own, without a name, that goes with whoever made it."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_ROOM = "There is no room for temporary files: make some where TMPDIR says, or say another place, then go on"


def scratch_database() -> sqlite3.Connection:
    """Open an empty one; filling it raises as `raising` says."""
    # An empty name: in memory as long as it is small, then in a file.
    return sqlite3.connect("")


@contextmanager
def raising(error: type[Exception]) -> Iterator[None]:
    """Raise an error with a sentence that says what to do where there is no room for a scratch database."""
    try:
        yield
    except sqlite3.OperationalError as full:
        if full.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise error(NO_ROOM) from full
