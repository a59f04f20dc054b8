"""What most tests begin with, made once in a process: a migrated SQLite database, the policy."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from allocations.db.database import Database
from allocations.db.migrate import upgrade
from allocations.policy.loader import load_policy

if TYPE_CHECKING:
    from allocations.policy.models import Policy

POLICIES = Path(__file__).parents[1] / "policies"


def fresh_sqlite(directory: Path) -> str:
    """Return the URL of a new database in the directory, migrated and without content."""
    path = directory / "allocations.sqlite"
    path.write_bytes(_migrated_sqlite())
    return f"sqlite:///{path}"


@cache
def shipped_policy() -> Policy:
    """Return the policy of this checkout, which nothing can change."""
    return load_policy(POLICIES)


@cache
def _migrated_sqlite() -> bytes:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "allocations.sqlite"
        database = Database(f"sqlite:///{path}")
        upgrade(database)
        database.dispose()  # which puts the whole journal into the one file
        return path.read_bytes()
