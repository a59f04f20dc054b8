"""The command line: `meridian …`. Everything that lists or reports takes `--json`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from allocations import __version__
from allocations.clock import SystemClock
from allocations.commands.archive import archive
from allocations.commands.options import (
    DEFAULT_STATE,
    Commands,
    database_option,
    open_database,
    policies_option,
    reading,
)
from allocations.commands.purge import purge
from allocations.db.database import Database
from allocations.db.migrate import revision_of, upgrade
from allocations.errors import AllocationsError
from allocations.ledger.audit import audit_ledger
from allocations.ledger.explain import explain
from allocations.ledger.invariants import Invariant
from allocations.ledger.telling import tell
from allocations.policy.images import require_startable_recommendations
from allocations.policy.loader import load_policy, policy_schema
from allocations.reports.exports import FileFormat
from allocations.reports.platform_use import PACE_DAYS, Period, UseBy, UseStep, day_of, read_use, rebuild_use
from allocations.reports.platform_use_files import BYTES_PER_TB, MICROCREDITS_PER_CREDIT, SECONDS_PER_HOUR, use_file
from allocations.settings import ROOT
from allocations.storage.purge.deciding import decide
from hub.batch.commands import batch, login
from hub.batch.schedule_commands import schedule
from hub.batch.secret_commands import secrets

if TYPE_CHECKING:
    from allocations.reports.platform_use import UseReport

DAYS_AT_FIRST = 30
out = Console()


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


@main.command()
@click.option("--once", is_flag=True, help="Do each duty once, now, and end: status 1 when not all could be done.")
def storage(*, once: bool) -> None:
    """Keep people's files: open areas, limit, measure, charge, purge, restore, as MERIDIAN_STORAGE_CONFIG says."""
    from allocations.storage_agent import run  # noqa: PLC0415  # as above

    sys.exit(0 if run(once=once) else 1)


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
@click.option(
    "--on",
    "day",
    type=click.DateTime(["%Y-%m-%d"]),
    default=lambda: datetime.now(UTC).strftime("%Y-%m-%d"),
    help="The day (UTC) on which it has to hold; today when left out.",
)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def policy_check(directory: Path, day: datetime, as_json: bool) -> None:
    """Check the policy files; name every file and field that is wrong, and images that nobody could start that day."""
    try:
        loaded = load_policy(directory)
        require_startable_recommendations(loaded.images, day.date())
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


@policy.command("explain")
@click.argument("storage", type=click.Choice(["home", "scratch", "shared", "object"]))
@click.argument("tier")
@click.argument("path")
@click.option("--state", "state_name", default="active", help="State of the allocation.")
@click.option("--bytes", "size_bytes", default=0, help="Size of the file.")
@policies_option
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def policy_explain(
    storage: str, tier: str, path: str, state_name: str, size_bytes: int, policies: Path, as_json: bool
) -> None:
    """Say which rule of storage.yaml decides on a file: its class of storage, tier, and path within its area."""
    decision = decide(load_policy(policies), storage, tier, state_name, path, size_bytes)
    click.echo(json.dumps(asdict(decision)) if as_json else decision.sentence)


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


@ledger.command("rebuild-use")
@database_option
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def ledger_rebuild_use(database: str | None, state: Path, as_json: bool) -> None:
    """Derive the use by day, from which reports are made, anew from the journal; say what was wrong."""
    opened = open_database(database, state)
    with opened.write() as connection:
        wrong = rebuild_use(connection)
    opened.dispose()
    if as_json:
        click.echo(json.dumps({"wrong": wrong}))
    else:
        click.echo(
            f"The use by day was as the journal says, but for {wrong:,} rows, which are right now."
            if wrong
            else "The use by day is as the journal says."
        )


@main.command()
@click.option("--first", type=click.DateTime(["%Y-%m-%d"]), help="First day, by UTC; 29 days before today by default.")
@click.option("--last", type=click.DateTime(["%Y-%m-%d"]), help="Last day; today by default. A later one is forecast.")
@click.option("--by", type=click.Choice([one.value for one in UseBy]), default="tier", show_default=True)
@click.option("--step", type=click.Choice([one.value for one in UseStep]), help="As fits the period, by default.")
@click.option("--csv", "as_csv", is_flag=True, help="A table of every group in each step, for spreadsheets.")
@click.option(
    "--parquet", type=click.Path(dir_okay=False, path_type=Path), help="The same, into a file; needs pyarrow."
)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@database_option
@policies_option
def report(
    first: datetime | None,
    last: datetime | None,
    by: str,
    step: str | None,
    as_csv: bool,
    parquet: Path | None,
    as_json: bool,
    database: str | None,
    state: Path,
    policies: Path,
) -> None:
    """Report the use of a period by time and by tier, institution, country or allocation, with a forecast."""
    today = day_of(SystemClock().now_ms())
    ends = last.date() if last else today
    period = Period(first.date() if first else ends - timedelta(days=DAYS_AT_FIRST - 1), ends)
    chosen, known = UseStep(step) if step else period.step, load_policy(policies)
    opened = open_database(database, state)
    try:
        if parquet is not None:
            parts = use_file(opened, known, period, UseBy(by), chosen, FileFormat.PARQUET)
            with parquet.open("wb") as file:
                file.writelines(part for part in parts if isinstance(part, bytes))
        elif as_csv:
            for part in use_file(opened, known, period, UseBy(by), chosen, FileFormat.CSV):
                click.echo(part, nl=False)
        else:
            with opened.read() as connection:
                found = read_use(connection, known, period, UseBy(by), chosen, today)
            if as_json:
                click.echo(found.model_dump_json())
            else:
                show_use(found)
    finally:
        opened.dispose()


def show_use(found: UseReport) -> None:
    """Print the use by time and by group, and how the forecast was made."""
    for title, rows in (
        (f"by {found.step}", [(f"{one.first_day} – {one.last_day}", one) for one in found.steps]),
        (f"by {found.by}, the largest first", [(one.title, one) for one in found.groups]),
    ):
        storage = ("Storage, credits", "TB-days")
        table = Table("", "Credits", "Core-hours", "GPU-hours", "GiB-hours", *storage, title=f"Use {title}")
        for name, use in [*rows, *([("all", found.total)] if rows else [])]:
            seconds = (use.core_seconds, use.gpu_seconds, use.gib_seconds)
            hours = [f"{one / SECONDS_PER_HOUR:,.1f}" for one in seconds]
            charged, stored = (
                f"{one / MICROCREDITS_PER_CREDIT:,.2f}" for one in (use.microcredits, use.storage_microcredits)
            )
            table.add_row(name, charged, *hours, stored, f"{use.byte_days / BYTES_PER_TB:,.3f}")
        out.print(table)
    if found.groups_left_out:
        out.print(f"{found.groups_left_out} smaller ones are left out; --csv has all.")
    if found.forecast and found.forecast.days_left:
        one = found.forecast
        out.print(
            f"Forecast for the whole period: {one.microcredits / MICROCREDITS_PER_CREDIT:,.2f} credits: what was used, "
            f"and for each of the {one.days_left} days after today the mean of the {one.measured_days} whole days "
            f"before it ({PACE_DAYS} where there were as many).",
            highlight=False,
        )


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


main.add_command(archive)
main.add_command(batch)
batch.add_command(schedule)
main.add_command(login)
main.add_command(purge)
main.add_command(secrets)

if __name__ == "__main__":
    main()
