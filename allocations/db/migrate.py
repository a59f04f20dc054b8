"""Brings a database to this version's schema, and says plainly when the database is newer than the code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from allocations.errors import StateVersionError

if TYPE_CHECKING:
    from allocations.db.database import Database


MIGRATIONS = Path(__file__).parent / "migrations"


def revision_of(database: Database) -> str | None:
    """Return the revision that the database is at, or None for an empty one."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def known_revisions(scripts: Path) -> set[str]:
    """Return every revision of a folder of migrations."""
    return {script.revision for script in ScriptDirectory(str(scripts)).walk_revisions()}


def upgrade(database: Database) -> None:
    """Migrate to the newest revision; StateVersionError when the database is from a newer version."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    found = revision_of(database)
    if found is not None and found not in known_revisions(MIGRATIONS):
        raise StateVersionError(
            f"This database was written by a newer version of Meridian (revision {found}).",
            "Install that version or a later one, or choose another state directory.",
        )
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
