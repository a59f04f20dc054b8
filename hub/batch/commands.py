"""`meridian batch …` and `meridian login`: what people type, over the client that their scripts use."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from hub.batch.submit_options import values_of, with_terms
from hub.batch.sweep_commands import sweep
from hub.batch.terminal import MICROCREDITS_PER_CREDIT, credentials, err, fail, open_client, out

if TYPE_CHECKING:
    from hub.batch.client import BatchClient
    from hub.batch.model import Parameter, Run
    from hub.batch.submissions import Terms


@click.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The platform's address.")
def login(url: str) -> None:
    """Keep a token for the command line, privately. The token is read from the terminal or from standard input."""
    err.print(f"Make a token at {url.rstrip('/')}/hub/token and paste it here.")
    token = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    if not token:
        fail("No token was given.")
    path = credentials()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"MERIDIAN_URL": url, "MERIDIAN_TOKEN": token}, file)
    err.print(f"Kept in {path}.")


@click.group()
def batch() -> None:
    """Run notebooks in batch, charged to an allocation."""


batch.add_command(sweep)


@batch.command()
@click.argument("notebook")
@click.option("--allocation", required=True, help="The id of the allocation to charge.")
@click.option("--size", required=True, help="The size to run on, such as small or standard.")
@with_terms
@click.option("--wait/--no-wait", default=False, help="Follow the run until it ends; exit status 1 if it fails.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def submit(  # click passes options by name
    notebook: str,
    allocation: str,
    size: str,
    given: tuple[tuple[str, str], ...],
    terms: Terms,
    wait: bool,
    as_json: bool,
) -> None:
    """Queue a run of NOTEBOOK: a file, or git+https://host/group/repository@revision#path/to.ipynb."""
    with open_client() as client:
        terms["parameters"] = values_of(client, notebook, given)
        run = client.submit(notebook, allocation, size, **terms)
        if not wait:
            _show(run, as_json=as_json)
            return
        if not as_json:
            err.print(f"Queued as {run.id}.")
        run = _follow(client, run, quiet=as_json)
        _show(run, as_json=as_json)
        sys.exit(0 if run.state == "succeeded" else 1)


@batch.command("parameters")
@click.argument("notebook")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def show_parameters(notebook: str, as_json: bool) -> None:
    """List the parameters that NOTEBOOK takes, with their types and defaults."""
    with open_client() as client:
        found = client.parameters(notebook)
    if as_json:
        click.echo(json.dumps(None if found is None else [asdict(one) for one in found]))
        return
    if found is None:
        out.print("The parameters of this notebook can only be told when it runs: its cell is not Python.")
        return
    table = Table(Column("Name", no_wrap=True), "Type", "Default", "")
    for one in found:
        table.add_row(one.name, _type(one), one.source, one.help)
    out.print(table, highlight=False)


@batch.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def options(as_json: bool) -> None:
    """List the allocations and sizes that you may run on, with prices, and why not the rest."""
    with open_client() as client:
        found = client.options()
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found["agreement"]["accepted"]:
        out.print("Accept the user agreement first: open the platform's home page.")
    table = Table(Column("Id", no_wrap=True), "Allocation", "Size", "Cores", "GiB", "Credits an hour", "Hours left", "")
    for allocation in found["allocations"]:
        for size in allocation["sizes"]:
            price = size["microcredits_per_hour"] / MICROCREDITS_PER_CREDIT
            cells = (str(size["cores"]), str(size["memory_gib"]), f"{price:.4f}", f"{size['hours_available']:,.0f}")
            table.add_row(allocation["id"], allocation["name"], size["name"], *cells, size["reason"] or "")
    out.print(table)


@batch.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def images(as_json: bool) -> None:
    """List the images that you may start, in their versions, the recommended first."""
    with open_client() as client:
        found = client.options()
    if as_json:
        click.echo(json.dumps({"images": found["images"], "custom_images": found.get("custom_images")}))
        return
    table = Table(Column("Image", no_wrap=True), "What it is", "Channel", "Since", "Until", "What changed")
    for image in found["images"]:
        for version in image["versions"]:
            days = (version["released"] or "", version["ends"] or "")
            table.add_row(version["choice"], version["title"], version["channel"], *days, "; ".join(version["changes"]))
    out.print(table, highlight=False)
    if custom := found.get("custom_images"):
        out.print(f"Or a container image of your own, from: {', '.join(custom['registries'])}.", highlight=False)


@batch.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def list_runs(as_json: bool) -> None:
    """List your runs, newest first."""
    with open_client() as client:
        runs = client.list()
    if as_json:
        click.echo(json.dumps([_to_json(run) for run in runs]))
        return
    table = Table(Column("Run", no_wrap=True), "Notebook", "State", "Cells", "Size", "Allocation", "Charged")
    for run in runs:
        cells = f"{run.cells_done}/{run.cells_total}"
        table.add_row(run.id, run.name, run.state, cells, run.size, run.allocation_name, _credits(run))
    out.print(table)


@batch.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def show(run_id: str, as_json: bool) -> None:
    """Show a run."""
    with open_client() as client:
        _show(client.get(run_id), as_json=as_json)


@batch.command()
@click.argument("run_id")
def logs(run_id: str) -> None:
    """Print what a run has written so far."""
    with open_client() as client:
        click.echo(client.log(run_id), nl=False)


@batch.command()
@click.argument("run_id")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(), help="A file or a folder.")
def output(run_id: str, output: Path) -> None:
    """Save the executed notebook, as far as it is."""
    with open_client() as client:
        click.echo(client.output(run_id, output))


@batch.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def wait(run_id: str, as_json: bool) -> None:
    """Follow a run until it ends; exit status 1 if it does not succeed."""
    with open_client() as client:
        run = _follow(client, client.get(run_id), quiet=as_json)
    _show(run, as_json=as_json)
    sys.exit(0 if run.state == "succeeded" else 1)


@batch.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def cancel(run_id: str, as_json: bool) -> None:
    """Cancel a run; what it used until it stops is charged."""
    with open_client() as client:
        _show(client.cancel(run_id), as_json=as_json)


@batch.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="For machines: the whole record.")
def provenance(run_id: str, as_json: bool) -> None:
    """Show what a run was made of and what it made; of a replay, whether it made the same."""
    with open_client() as client:
        record = client.provenance(run_id)
    if as_json:
        click.echo(json.dumps(record))
        return
    _show_record(record)


@batch.command()
@click.argument("run_id")
@click.option("--wait/--no-wait", default=False, help="Follow it until it ends; exit status 1 unless it made the same.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def replay(run_id: str, wait: bool, as_json: bool) -> None:
    """Submit a run again as it was, to see whether it makes the same."""
    with open_client() as client:
        run = client.replay(run_id)
        if not wait:
            _show(run, as_json=as_json)
            return
        if not as_json:
            err.print(f"Queued as {run.id}.")
        run = _follow(client, run, quiet=as_json)
        record = client.provenance(run.id)
    if as_json:
        click.echo(json.dumps(record))
    else:
        _show_record(record)
    sys.exit(0 if (record["comparison"] or {}).get("same_output") else 1)


def _show_record(record: dict[str, Any]) -> None:
    """Print a record; the packages by their number alone, which is what fits."""
    kept, compared = record["provenance"] or {}, record["comparison"]
    table = Table(show_header=False, box=None)
    table.add_row("Run", record["run"]["id"])
    for title, name in (
        ("Notebook", "notebook_sha256"),
        ("Output", "output_sha256"),
        ("Image", "image_id"),
        ("Environment", "environment_sha256"),
        ("Python", "interpreter"),
        ("Packages", "packages_count"),
        ("Git revision", "git_revision"),
        ("Machine", "node"),
    ):
        if kept.get(name):
            table.add_row(title, str(kept[name]))
    for title, files in (("Input", kept.get("inputs")), ("Output file", kept.get("outputs"))):
        for one in files or []:
            table.add_row(title, f"{one['path']}  {one['sha256'] or ''}".rstrip())
    if compared:
        table.add_row("Replay of", compared["original"])
        table.add_row("Verdict", compared["sentence"])
        for one in compared["differences"]:
            table.add_row("", one["sentence"])
    out.print(table, highlight=False)


def _type(parameter: Parameter) -> str:
    return f"{parameter.kind} or null" if parameter.nullable and parameter.kind != "any" else parameter.kind


def _follow(client: BatchClient, run: Run, *, quiet: bool) -> Run:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=quiet) as progress:
        task = progress.add_task(run.state, total=run.cells_total or None)
        return client.wait(
            run.id,
            lambda seen: progress.update(
                task,
                description=seen.waiting_reason or seen.state,
                completed=seen.cells_done,
                total=seen.cells_total or None,
            ),
        )


def _to_json(run: Run) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(asdict(run), default=str))
    return data


def _show(run: Run, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_to_json(run)))
        return
    table = Table(show_header=False, box=None)
    table.add_row("Run", run.id)
    table.add_row("Notebook", run.name)
    table.add_row("State", run.state + (f": {run.waiting_reason}" if run.waiting_reason else ""))
    if run.retries:
        table.add_row("Retries", f"{run.retried} of {run.retries}")
    if run.source:
        table.add_row("Notebook from", str(run.source))
    table.add_row("Cells", f"{run.cells_done} of {run.cells_total}")
    table.add_row("Allocation", f"{run.allocation_name} ({run.allocation})")
    table.add_row("Charged", _credits(run))
    for title, chained in (("After", run.after), ("Followed by", run.followed_by)):
        if chained:
            table.add_row(title, "\n".join(map(str, chained)))
    if run.error:
        where = f"cell {run.error.cell}: " if run.error.cell is not None else ""
        table.add_row("Error", f"{where}{run.error.name}: {run.error.message}")
    if run.end_code and run.end_code != run.state:
        table.add_row("End", run.end_code)
    if run.remedy:
        table.add_row("Next", run.remedy)
    out.print(table, highlight=False)
    if run.error and run.error.traceback:
        out.print(run.error.traceback, highlight=False, markup=False)


def _credits(run: Run) -> str:
    return f"{run.charged_microcredits / MICROCREDITS_PER_CREDIT:.6f} credits"
