"""`meridian batch …` and `meridian login`: what people type, over the client that their scripts use."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from hub.batch.client import BatchClient, NotebookError, ServiceError, SettingsError, parse_parameter
from hub.batch.parameters import ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hub.batch.model import Parameter, Run

MICROCREDITS_PER_CREDIT = 1_000_000
# A pipe has no width to fit into: ids must stay whole there.
PIPE_WIDTH = 200
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH)
err = Console(stderr=True)


def _credentials() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config"))) / "meridian" / "credentials.json"


@contextmanager
def _client() -> Iterator[BatchClient]:
    """Open the client by the environment, else by what `meridian login` kept; errors become one sentence."""
    environment = dict(os.environ)
    kept = _credentials()
    if "MERIDIAN_TOKEN" not in environment and "JUPYTERHUB_API_TOKEN" not in environment and kept.exists():
        environment |= json.loads(kept.read_text())
    try:
        with BatchClient.from_environment(environment) as client:
            yield client
    except SettingsError as error:
        _fail(f"{error} Or sign in once with `meridian login`.")
    except (ServiceError, NotebookError, ParameterError) as error:
        _fail(str(error))


def _fail(sentence: str) -> None:
    err.print(f"meridian: {sentence}", highlight=False, soft_wrap=True)
    sys.exit(1)


@click.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The platform's address.")
def login(url: str) -> None:
    """Keep a token for the command line, privately. The token is read from the terminal or from standard input."""
    err.print(f"Make a token at {url.rstrip('/')}/hub/token and paste it here.")
    token = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    if not token:
        _fail("No token was given.")
    path = _credentials()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"MERIDIAN_URL": url, "MERIDIAN_TOKEN": token}, file)
    err.print(f"Kept in {path}.")


@click.group()
def batch() -> None:
    """Run notebooks in batch, charged to an allocation."""


@batch.command()
@click.argument("notebook")
@click.option("--allocation", required=True, help="The id of the allocation to charge.")
@click.option("--size", required=True, help="The size to run on, such as small or standard.")
@click.option("-p", "--parameter", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter.")
@click.option("--image", help="The image; the platform's default when left out.")
@click.option("--max-minutes", type=click.IntRange(min=1), help="The longest it may run; its whole price is held.")
@click.option(
    "--retries", type=click.IntRange(min=0), default=0, help="How often to try again if it fails; each costs."
)
@click.option("--wait/--no-wait", default=False, help="Follow the run until it ends; exit status 1 if it fails.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def submit(  # click passes options by name
    notebook: str,
    allocation: str,
    size: str,
    parameters: tuple[tuple[str, str], ...],
    image: str | None,
    max_minutes: int | None,
    retries: int,
    wait: bool,
    as_json: bool,
) -> None:
    """Queue a run of NOTEBOOK: a file, or git+https://host/group/repository@revision#path/to.ipynb."""
    with _client() as client:
        run = client.submit(
            notebook,
            allocation,
            size,
            parameters=_values(client, notebook, parameters),
            image=image,
            max_seconds=None if max_minutes is None else max_minutes * 60,
            retries=retries,
        )
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
    with _client() as client:
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
    with _client() as client:
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


@batch.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def list_runs(as_json: bool) -> None:
    """List your runs, newest first."""
    with _client() as client:
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
    with _client() as client:
        _show(client.get(run_id), as_json=as_json)


@batch.command()
@click.argument("run_id")
def logs(run_id: str) -> None:
    """Print what a run has written so far."""
    with _client() as client:
        click.echo(client.log(run_id), nl=False)


@batch.command()
@click.argument("run_id")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(), help="A file or a folder.")
def output(run_id: str, output: Path) -> None:
    """Save the executed notebook, as far as it is."""
    with _client() as client:
        click.echo(client.output(run_id, output))


@batch.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def wait(run_id: str, as_json: bool) -> None:
    """Follow a run until it ends; exit status 1 if it does not succeed."""
    with _client() as client:
        run = _follow(client, client.get(run_id), quiet=as_json)
    _show(run, as_json=as_json)
    sys.exit(0 if run.state == "succeeded" else 1)


@batch.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def cancel(run_id: str, as_json: bool) -> None:
    """Cancel a run; what it used until it stops is charged."""
    with _client() as client:
        _show(client.cancel(run_id), as_json=as_json)


def _values(client: BatchClient, notebook: str, given: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """What `-p name value` means: where the notebook takes text, the value as it was typed."""
    if not given:
        return {}
    kinds = {one.name: one.kind for one in client.parameters(notebook) or []}
    return {name: value if kinds.get(name) == "str" else parse_parameter(value) for name, value in given}


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
    if run.error:
        where = f"cell {run.error.cell}: " if run.error.cell is not None else ""
        table.add_row("Error", f"{where}{run.error.name}: {run.error.message}")
    out.print(table, highlight=False)
    if run.error and run.error.traceback:
        out.print(run.error.traceback, highlight=False, markup=False)


def _credits(run: Run) -> str:
    return f"{run.charged_microcredits / MICROCREDITS_PER_CREDIT:.6f} credits"
