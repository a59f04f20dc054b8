"""Migrations make exactly the schema that the code speaks of, on both databases, and refuse a newer one."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from allocations.db.database import Database
from allocations.db.migrate import revision_of, upgrade
from allocations.db.schema import metadata
from allocations.errors import StateVersionError
from tests.postgres import fresh_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the test's own in which nothing is."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'allocations.sqlite'}"
    else:
        with fresh_database(request.getfixturevalue("postgres_server"), f"t{uuid.uuid4().hex}") as url:
            yield url


def test_migrating_gives_the_schema_of_the_code_and_again_changes_nothing(empty_url: str) -> None:
    database = Database(empty_url)
    upgrade(database)
    revision = revision_of(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    upgrade(database)
    assert revision_of(database) == revision
    database.dispose()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(empty_url: str) -> None:
    database = Database(empty_url)
    upgrade(database)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StateVersionError, match="newer version of Meridian"):
        upgrade(database)
    assert revision_of(database) == "9999"
    database.dispose()
