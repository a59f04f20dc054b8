"""The command line: `meridian …`. Everything that lists or reports takes `--json`."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from allocations import __version__
from allocations.db.database import Database
from allocations.db.migrate import revision_of, upgrade
from allocations.errors import AllocationsError
from allocations.ledger.audit import audit_ledger
from allocations.ledger.explain import explain
from allocations.ledger.invariants import Invariant
from allocations.ledger.telling import tell
from allocations.policy.loader import load_policy, policy_schema
from allocations.settings import ROOT
from hub.batch.commands import batch, login

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

DEFAULT_STATE = Path("state")
out = Console()


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


@click.group(cls=Commands)
@click.version_option(__version__, prog_name="meridian")
def main() -> None:
    """Meridian: a science platform with allocations accounted to the second."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address to bind to.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--state", default=DEFAULT_STATE, show_default=True, type=click.Path(path_type=Path))
def up(host: str, port: int, state: Path) -> None:
    """Run the whole platform on this machine, in the foreground, until Ctrl-C."""
    from allocations.up import Platform  # noqa: PLC0415  # the other commands start faster without it

    sys.exit(Platform(host, port, state, click.echo).run())


@main.command(hidden=True)
def serve() -> None:
    """Serve the allocations API and pages, as the environment says."""
    from allocations.app import serve as run  # noqa: PLC0415  # as above

    run()


@main.command(hidden=True)
def worker() -> None:
    """Run the worker, as the environment says."""
    from allocations.worker import run  # noqa: PLC0415  # as above

    run()


@main.command("api-reference", hidden=True)
def print_api_reference() -> None:
    """Print the table of the API's routes and scopes."""
    from allocations.api.reference import api_reference  # noqa: PLC0415  # as above

    click.echo(api_reference(), nl=False)


@main.group()
def policy() -> None:
    """The policy files: tiers, prices, sizes, images, agreement."""


@policy.command("check")
@click.argument("directory", type=click.Path(path_type=Path), default=ROOT / "policies", envvar="MERIDIAN_POLICIES")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def policy_check(directory: Path, as_json: bool) -> None:
    """Check the policy files; name every file and field that is wrong."""
    try:
        loaded = load_policy(directory)
    except AllocationsError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"ok": False, "problems": error.detail.splitlines()}))
        sys.exit(1)
    if as_json:
        click.echo(json.dumps({"ok": True, "version": loaded.version}))
        return
    tiers = ", ".join(tier.name for tier in loaded.tiers)
    click.echo(f"The policy is valid (version {loaded.version}): tiers {tiers}; {len(loaded.sizes)} sizes.")


@policy.command("schema")
def policy_print_schema() -> None:
    """Print the JSON Schema of the policy."""
    click.echo(policy_schema(), nl=False)


@main.group()
def ledger() -> None:
    """The ledger of allocations."""


@ledger.command("audit")
@database_option
@policies_option
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def ledger_audit(database: str | None, state: Path, policies: Path, as_json: bool) -> None:
    """Rebuild every balance from the journal and check each invariant; exit status 1 on a difference."""
    stop_grace_seconds = load_policy(policies).leases.stop_grace_seconds
    with reading(database, state) as connection:
        report = audit_ledger(connection, stop_grace_seconds)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "clean": not report.violations,
                    "journal_entries": report.journal_entries,
                    "allocations": report.allocations,
                    "leases": report.leases,
                    "leases_awaiting_worker": report.leases_awaiting_worker,
                    "violations": [
                        {"invariant": one.invariant.name, "subject": one.subject, "detail": one.detail}
                        for one in report.violations
                    ],
                }
            )
        )
    else:
        broken = {one.invariant for one in report.violations}
        table = Table("", "Invariant", "")
        for invariant in Invariant:
            table.add_row(
                str(invariant.number),
                invariant.sentence,
                "[red]broken[/]" if invariant in broken else "[green]holds[/]",
            )
        out.print(table)
        out.print(f"{report.journal_entries} journal entries, {report.allocations} allocations, {report.leases} leases")
        if report.leases_awaiting_worker:
            out.print(f"The worker is behind: {report.leases_awaiting_worker} leases past their end wait for it")
        for one in report.violations[:1]:
            out.print(f"[red]First difference[/]: {one.invariant.name}: {one.subject}: {one.detail}", highlight=False)
    sys.exit(1 if report.violations else 0)


@ledger.command("explain")
@click.argument("of_id", metavar="LEASE|ALLOCATION")
@database_option
@policies_option
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def ledger_explain(of_id: str, database: str | None, state: Path, policies: Path, as_json: bool) -> None:
    """Tell the story of a lease's charge or of an allocation's balance; exit status 1 when a sum does not come out."""
    with reading(database, state) as connection:
        story = explain(connection, of_id, load_policy(policies))
    if as_json:
        click.echo(json.dumps(asdict(story)))
    else:
        tell(out, story)
    sys.exit(0 if all(check.holds for check in story.checks) else 1)


@main.group()
def db() -> None:
    """The database."""


@db.command("upgrade")
@click.option("--database", envvar="MERIDIAN_DATABASE_URL", required=True, help="Database URL.")
def db_upgrade(database: str) -> None:
    """Create or migrate the database to this version's schema."""
    opened = Database(database)
    upgrade(opened)
    click.echo(f"The database is at revision {revision_of(opened)}.")


main.add_command(batch)
main.add_command(login)

if __name__ == "__main__":
    main()
