"""`meridian purge …`: begin purges, look at them, confirm what is beyond the ceiling, stop them and let them go on."""

from __future__ import annotations

import getpass
import json
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from allocations.clock import MS_PER_SECOND, from_datetime
from allocations.commands.options import database_option, open_database, policies_option
from allocations.errors import InvalidInputError
from allocations.lifecycle.authority import Actor
from allocations.policy.loader import load_policy
from allocations.storage.models import StorageClass
from allocations.storage.purge.telling import told_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from allocations.storage.purge.models import Run, RunView
    from allocations.storage.purge.service import PurgeService

RUNS_SHOWN = 50
PATHS_SHOWN = 20
ALL = "all"
out = Console()
json_option = click.option("--json", "as_json", is_flag=True, help="For machines.")
why_option = click.option("--why", required=True, help="The reason, which the audit log keeps.")


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its database, its policy and --json."""
    return database_option(policies_option(json_option(command)))


@contextmanager
def purging(database: str | None, state: Path, policies: Path) -> Iterator[tuple[PurgeService, Actor]]:
    """Open the service on a database, for whoever may run commands on it: as the administrator of their own name."""
    from allocations.factory import make_services  # noqa: PLC0415  # the other commands start faster without it

    opened = open_database(database, state)
    try:
        services = make_services(opened, load_policy(policies), state / "runs")
        yield services.purges, Actor(getpass.getuser(), admin=True)
    finally:
        opened.dispose()


@click.group()
def purge() -> None:
    """Purges of old files: what is planned, what goes on, and the switch that stops it.

    `meridian storage`, which has the mounts, carries them out; nothing is taken before its owners were told and had
    their time, and all of it is archived before.
    """


@purge.command("plan")
@click.argument("storage_class", metavar="CLASS", type=click.Choice([one.value for one in StorageClass]))
@click.option("--dry-run", is_flag=True, help="Look and say what would go; nobody is told, and nothing is taken.")
@click.option("--as-of", help="Files are as old as on this day or moment (ISO 8601, UTC); now by default.")
@common
def plan(
    storage_class: str,
    dry_run: bool,
    as_of: str | None,
    database: str | None,
    state: Path,
    policies: Path,
    as_json: bool,
) -> None:
    """Begin a run over the storage of a CLASS. A moment to come needs --dry-run."""
    as_of_ms = _moment(as_of) if as_of else None
    with purging(database, state, policies) as (service, actor):
        run = service.plan(actor, StorageClass(storage_class), as_of_ms=as_of_ms, dry_run=dry_run)
        view = service.run(actor, run.id)
    if as_json:
        click.echo(json.dumps(asdict(run)))
        return
    click.echo(f"{'Dry run' if dry_run else 'Run'} {run.id} of {len(view.purges)} areas begins.")
    click.echo(f"`meridian purge show {run.id}` shows how far it is.")


@purge.command("list")
@common
def list_(database: str | None, state: Path, policies: Path, as_json: bool) -> None:
    """List the newest runs, newest first."""
    with purging(database, state, policies) as (service, actor):
        runs, stop = service.runs(actor, RUNS_SHOWN), service.stopped()
    if as_json:
        click.echo(json.dumps({"stopped": asdict(stop) if stop else None, "runs": [asdict(one) for one in runs]}))
        return
    if stop:
        out.print(f"[red]All purges are stopped[/] by {escape(stop.stopped_by)}: {escape(stop.why)}", highlight=False)
    table = Table("Run", "Class", "As of", "State", "Files", "Bytes", "By")
    for one in runs:
        state_shown = f"{one.state}{' (dry run)' if one.dry_run else ''}"
        size = told_bytes(one.bytes)
        table.add_row(
            one.id, one.storage_class, _day(one.as_of_ms), state_shown, f"{one.files:,}", size, escape(one.made_by)
        )
    out.print(table)


@purge.command("show")
@click.argument("run_id", metavar="RUN")
@common
def show(run_id: str, database: str | None, state: Path, policies: Path, as_json: bool) -> None:
    """Show a run, what it does to each area, and the first of its files."""
    with purging(database, state, policies) as (service, actor):
        view = service.run(actor, run_id)
    if as_json:
        click.echo(json.dumps(_view(view)))
    else:
        _show(view)


@purge.command("confirm")
@click.argument("run_id", metavar="RUN")
@click.option("--files", required=True, type=int, help="As many as it shows.")
@click.option("--bytes", "bytes_", required=True, type=int, help="As many as it shows.")
@why_option
@common
def confirm(
    run_id: str,
    files: int,
    bytes_: int,
    why: str,
    database: str | None,
    state: Path,
    policies: Path,
    as_json: bool,
) -> None:
    """Let a RUN delete more than the policy's ceiling: just what it has planned, which is to be named."""
    with purging(database, state, policies) as (service, actor):
        view = service.confirm(actor, run_id, files=files, bytes_=bytes_, why=why)
    click.echo(json.dumps(_view(view)) if as_json else f"Run {run_id} may delete {files:,} files.")


@purge.command("stop")
@click.argument("run_id", metavar=f"RUN|{ALL}")
@why_option
@common
def stop(run_id: str, why: str, database: str | None, state: Path, policies: Path, as_json: bool) -> None:
    """Stop a RUN where it is, or every purge there is and will be."""
    with purging(database, state, policies) as (service, actor):
        run = None if run_id == ALL else service.stop(actor, run_id, why)
        if run is None:
            service.stop_all(actor, why)
    _say(run, "Every purge is stopped." if run is None else f"Run {run_id} is stopped.", as_json=as_json)


@purge.command("resume")
@click.argument("run_id", metavar=f"RUN|{ALL}")
@why_option
@common
def resume(run_id: str, why: str, database: str | None, state: Path, policies: Path, as_json: bool) -> None:
    """Let a stopped RUN go on, or purges at all: those of stopped runs stay where they are."""
    with purging(database, state, policies) as (service, actor):
        run = None if run_id == ALL else service.resume(actor, run_id, why)
        if run is None:
            service.resume_all(actor, why)
    _say(run, "Purges go on." if run is None else f"Run {run_id} goes on.", as_json=as_json)


@purge.command("cancel")
@click.argument("run_id", metavar="RUN")
@why_option
@common
def cancel(run_id: str, why: str, database: str | None, state: Path, policies: Path, as_json: bool) -> None:
    """End a RUN for good. Where it deletes already, it goes on to its end: stop it to prevent that."""
    with purging(database, state, policies) as (service, actor):
        run = service.cancel(actor, run_id, why)
    _say(run, f"Run {run_id} is {run.state}.", as_json=as_json)


def _say(run: Run | None, sentence: str, *, as_json: bool) -> None:
    click.echo(json.dumps(asdict(run) if run else {"run": ALL}) if as_json else sentence)


def _show(view: RunView) -> None:
    run = view.run
    dry = " (dry run)" if run.dry_run else ""
    out.print(f"Run {run.id} of {run.storage_class} as of {_day(run.as_of_ms)}{dry}: {run.state}", highlight=False)
    out.print(f"{run.files:,} files, {run.bytes} bytes ({told_bytes(run.bytes)}) are planned.", highlight=False)
    if view.awaits:
        out.print(
            "[red]That is beyond the ceiling[/]: it goes on after "
            f"`meridian purge confirm {run.id} --files {run.files} --bytes {run.bytes} --why …`.",
            highlight=False,
        )
    table = Table("Purge", "Area", "State", "Files", "Bytes", "Until", "Deleted", "Problem")
    for one in view.purges:
        until = _day(one.window_ends_at_ms) if one.window_ends_at_ms is not None else ""
        numbers = (f"{one.files:,}", told_bytes(one.bytes), until, f"{one.deleted_files:,}")
        table.add_row(one.id, one.area_id, one.state, *numbers, escape(one.problem or ""))
    out.print(table)
    for one in view.purges:
        for path in one.summary.paths[:PATHS_SHOWN]:
            click.echo(f"{one.area_id}\t{path.bytes}\t{path.rule}\t{path.path}")


def _view(view: RunView) -> dict[str, Any]:
    return {**asdict(view.run), "awaits": view.awaits, "purges": [asdict(one) for one in view.purges]}


def _moment(text: str) -> int:
    try:
        return from_datetime(datetime.fromisoformat(text))
    except ValueError as error:
        raise InvalidInputError(f"{text!r} is no moment.", "Write 2027-01-31, or 2027-01-31T12:00.") from error


def _day(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms // MS_PER_SECOND, UTC):%Y-%m-%d}"
