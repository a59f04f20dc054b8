"""`meridian batch sweep …`: a notebook over a table or a grid of parameters, from the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from hub.batch.sources import name_of
from hub.batch.submit_options import SECONDS_PER_MINUTE, values_of, with_terms
from hub.batch.tables import TableError, flat_results, grid_rows, parse_grid, read_table, to_csv
from hub.batch.terminal import MICROCREDITS_PER_CREDIT, err, open_client, out

if TYPE_CHECKING:
    from hub.batch.client import BatchClient
    from hub.batch.submissions import Terms
    from hub.batch.sweeps import Sweep

SHOWN_ROWS = 40


@click.group()
def sweep() -> None:
    """Run a notebook over many sets of parameters."""


@sweep.command()
@click.argument("notebook")
@click.option("--allocation", required=True, help="The id of the allocation to charge.")
@click.option("--size", required=True, help="The size that each run gets, such as small or standard.")
@click.option(
    "--table",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A CSV or Parquet file: a row for each run, a column for each parameter.",
)
@click.option(
    "-g",
    "--grid",
    "grid",
    nargs=2,
    multiple=True,
    metavar="NAME VALUES",
    help="A parameter and its values, such as 1,2,3 or 1..18; every combination of several is run.",
)
@with_terms
@click.option("--at-once", type=click.IntRange(min=1), help="How many may run together.")
@click.option("--estimate", is_flag=True, help="Only say what it would cost.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, even when the credits may not suffice.")
@click.option("--wait/--no-wait", default=False, help="Follow it until all have ended; exit status 1 if any fails.")
@click.option("--json", "as_json", is_flag=True, help="For machines; asks nothing.")
def submit(  # click passes options by name
    notebook: str,
    allocation: str,
    size: str,
    table: Path | None,
    grid: tuple[tuple[str, str], ...],
    given: tuple[tuple[str, str], ...],
    terms: Terms,
    at_once: int | None,
    estimate: bool,
    yes: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Queue a run of NOTEBOOK for each row of a table, or each combination of a grid.

    NOTEBOOK is a file, or git+https://host/group/repository@revision#path/to.ipynb. Parameters given with -p are common
    to all runs.
    """
    with open_client() as client:
        rows = _rows(table, grid)
        price = client.sweeps.estimate(
            allocation,
            size,
            len(rows),
            name=name_of(notebook),
            max_seconds=terms.get("max_seconds"),
            retries=terms.get("retries", 0),
        )
        if estimate:
            _show_estimate(price, as_json=as_json)
            return
        if not as_json:
            err.print(price["advice"], highlight=False, soft_wrap=True)
            if not price["suffices"] and not yes and sys.stdin.isatty():
                click.confirm(f"Submit {len(rows)} runs?", abort=True, err=True)
        terms["parameters"] = values_of(client, notebook, given)
        made = client.sweeps.submit(notebook, allocation, size, rows=rows, at_once=at_once, **terms)
        if wait:
            if not as_json:
                err.print(f"Queued as {made.id}.")
            made = _follow(client, made, quiet=as_json)
        _show(made, as_json=as_json)
        sys.exit(1 if wait and made.state != "succeeded" else 0)


@sweep.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def list_sweeps(as_json: bool) -> None:
    """List your sweeps, newest first."""
    with open_client() as client:
        sweeps = client.sweeps.list()
    if as_json:
        click.echo(json.dumps([asdict(one) for one in sweeps]))
        return
    table = Table(Column("Sweep", no_wrap=True), "Notebook", "State", "Ended", "Failed", "Size", "Charged")
    for one in sweeps:
        ended = f"{one.ended}/{one.rows}"
        table.add_row(one.id, one.name, one.state, ended, str(one.failed), one.size, _credits(one.charged_microcredits))
    out.print(table)


@sweep.command()
@click.argument("sweep_id")
@click.option("--wait/--no-wait", default=False, help="Follow it until all have ended; exit status 1 if any fails.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def show(sweep_id: str, wait: bool, as_json: bool) -> None:
    """Show how a sweep does as a whole."""
    with open_client() as client:
        found = client.sweeps.get(sweep_id)
        if wait:
            found = _follow(client, found, quiet=as_json)
    _show(found, as_json=as_json)
    sys.exit(1 if wait and found.state != "succeeded" else 0)


@sweep.command()
@click.argument("sweep_id")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A .csv or .parquet file.")
@click.option("--csv", "as_csv", is_flag=True, help="As CSV, to the terminal.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def results(sweep_id: str, output: Path | None, as_csv: bool, as_json: bool) -> None:
    """Show the table of results: parameters, what was recorded, state and cost of each run."""
    with open_client() as client:
        if output is not None:
            click.echo(client.sweeps.save_results(sweep_id, output))
            return
        found = list(client.sweeps.results(sweep_id))
    if as_json:
        click.echo(json.dumps(found))
    elif as_csv:
        click.echo(to_csv(found), nl=False)
    else:
        columns, rows = flat_results(found)
        table = Table(*columns)
        for row in rows[:SHOWN_ROWS]:
            table.add_row(*("" if row.get(column) is None else str(row[column]) for column in columns))
        out.print(table)
        if len(rows) > SHOWN_ROWS:
            err.print(f"{len(rows) - SHOWN_ROWS} more rows: write them to a file with -o results.csv.")


@sweep.command()
@click.argument("sweep_id")
@click.option("--size", help="Another size, such as one with more memory.")
@click.option("--max-minutes", type=click.IntRange(min=1), help="Another maximum for each.")
@click.option("--cancelled", is_flag=True, help="The cancelled ones too.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def retry(sweep_id: str, size: str | None, max_minutes: int | None, cancelled: bool, as_json: bool) -> None:
    """Queue the runs that failed or timed out again, and no others."""
    max_seconds = None if max_minutes is None else max_minutes * SECONDS_PER_MINUTE
    with open_client() as client:
        made = client.sweeps.retry(sweep_id, size=size, max_seconds=max_seconds, include_cancelled=cancelled)
    _show(made, as_json=as_json)


@sweep.command()
@click.argument("sweep_id")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def cancel(sweep_id: str, as_json: bool) -> None:
    """Cancel all of a sweep; what its runs used until they stop is charged."""
    with open_client() as client:
        _show(client.sweeps.cancel(sweep_id), as_json=as_json)


def _rows(table: Path | None, grid: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    if (table is None) == (not grid):
        msg = "Give --table or --grid, one of the two."
        raise TableError(msg)
    return read_table(table) if table is not None else grid_rows(parse_grid(grid))


def _follow(client: BatchClient, followed: Sweep, *, quiet: bool) -> Sweep:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=quiet) as progress:
        task = progress.add_task(followed.state, total=followed.rows)
        return client.sweeps.wait(
            followed.id, lambda seen: progress.update(task, description=_told(seen), completed=seen.ended)
        )


def _told(seen: Sweep) -> str:
    """How a sweep does, in a few words."""
    running = seen.counts["running"] + seen.counts["admitted"]
    words = [f"{running} running"] + ([f"{seen.failed} failed"] if seen.failed else [])
    if seen.seconds_left:
        words.append(f"about {max(1, round(seen.seconds_left / SECONDS_PER_MINUTE))} min left")
    return ", ".join([*words, f"{_credits(seen.charged_microcredits)} spent"])


def _show_estimate(price: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(price))
        return
    table = Table(show_header=False, box=None)
    table.add_row("Runs", f"{price['runs']:,}")
    table.add_row(
        "Held at most",
        f"{_credits(price['held_microcredits'])}, by each while it runs {_credits(price['held_microcredits_each'])}",
    )
    if price["most_microcredits"] > price["held_microcredits"]:
        table.add_row("With all retries", f"at most {_credits(price['most_microcredits'])}")
    if price["likely_microcredits"] is not None:
        by = f"by {price['likely_from_runs']} earlier runs of {price['likely_seconds_each']} s"
        table.add_row("Likely cost", f"{_credits(price['likely_microcredits'])}, {by}")
    table.add_row("Free", _credits(price["free_microcredits"]))
    out.print(table, highlight=False)
    out.print(price["advice"], highlight=False)


def _show(shown: Sweep, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(shown)))
        return
    table = Table(show_header=False, box=None)
    table.add_row("Sweep", shown.id)
    table.add_row("Notebook", shown.name)
    table.add_row("State", shown.state + (f": {shown.waiting_reason}" if shown.waiting_reason else ""))
    counts = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in shown.counts.items() if count)
    table.add_row("Runs", f"{shown.rows}: {counts}")
    table.add_row("At once", str(shown.at_once or "as many as the allocation allows"))
    if shown.retries:
        table.add_row("Retries", f"{shown.retries} of each run")
    if shown.source:
        table.add_row("Notebook from", str(shown.source))
    if shown.environment:
        table.add_row("Secrets", ", ".join(shown.environment))
    if shown.output:
        table.add_row("Saved also to", shown.output)
    for title, chained in (("After", shown.after), ("Followed by", shown.followed_by)):
        if chained:
            table.add_row(title, "\n".join(map(str, chained)))
    if shown.active and shown.seconds_left is not None:
        table.add_row("Time left", f"about {max(1, round(shown.seconds_left / SECONDS_PER_MINUTE))} min")
    table.add_row("Allocation", f"{shown.allocation_name} ({shown.allocation})")
    table.add_row("Charged", _credits(shown.charged_microcredits))
    out.print(table, highlight=False)


def _credits(microcredits: int) -> str:
    return f"{microcredits / MICROCREDITS_PER_CREDIT:.6f} credits"
