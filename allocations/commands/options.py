"""What commands share: how errors are shown, and which database and policy they use."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allocations.db.database import Database
from allocations.errors import AllocationsError
from allocations.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

DEFAULT_STATE = Path("state")


class Commands(click.Group):
    """A group that shows our errors as one sentence and a remedy, with exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except AllocationsError as error:
            click.echo(f"meridian: {error.detail}", err=True)
            if error.remedy:
                click.echo(f"  {error.remedy}", err=True)
            sys.exit(1)


def database_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command choose its database: by URL, or by the state directory of a local installation."""
    command = click.option(
        "--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, help="State directory of `make up`."
    )(command)
    return click.option(
        "--database", envvar="MERIDIAN_DATABASE_URL", help="Database URL, in place of a state directory."
    )(command)


policies_option = click.option(
    "--policies",
    envvar="MERIDIAN_POLICIES",
    type=click.Path(path_type=Path),
    default=ROOT / "policies",
    help="Policy files: the prices and the grace of leases are in them.",
)


def open_database(database: str | None, state: Path) -> Database:
    """Open an existing database; a missing one is an error, not an empty one."""
    if database is None:
        path = state / "allocations.sqlite"
        if not path.exists():
            raise click.UsageError(f"There is no database in {state}: give --state or --database.")
        database = f"sqlite:///{path}"
    return Database(database)


@contextmanager
def reading(database: str | None, state: Path) -> Iterator[Connection]:
    """Open an existing database for one reading transaction, and close it."""
    opened = open_database(database, state)
    try:
        with opened.read() as connection:
            yield connection
    finally:
        opened.dispose()
