"""The command line: `python -m benchmarks [--quick] [--json] [NAME …]`."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import admission, audit, batch, fleet, http, pages, pods, spawn, storage, sweeps, tick
from benchmarks.machine import machine_facts

if TYPE_CHECKING:
    from benchmarks.report import Report, Step


class Benchmark(Protocol):
    """A module that measures."""

    def steps(self, *, quick: bool) -> int:
        """Return how many steps of the progress bar `run` makes."""

    def run(self, step: Step, *, quick: bool) -> Report:
        """Measure, and clean up."""


COLUMNS = 120
BENCHMARKS: dict[str, Benchmark] = {
    "http": http,
    "admission": admission,
    "audit": audit,
    "tick": tick,
    "pages": pages,
    "spawn": spawn,
    "batch": batch,
    "sweeps": sweeps,
    "pods": pods,
    "fleet": fleet,
    "storage": storage,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--quick", is_flag=True, help="Few pairs: to see that it works, not to quote.")
@click.option("--json", "as_json", is_flag=True, help="For machines: every single measurement.")
def main(names: tuple[str, ...], *, quick: bool, as_json: bool) -> None:
    """Compare the platform with the alternative in the same run; all of NAMES, or every benchmark."""
    # A terminated run cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    facts = machine_facts()
    reports = [_measure(name, quick=quick) for name in names or BENCHMARKS]
    if as_json:
        click.echo(json.dumps({"machine": facts, "quick": quick, "benchmarks": [one.to_json() for one in reports]}))
        return
    # In a file or a pipe there is no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else COLUMNS)
    console.print("; ".join(f"{name}: {value}" for name, value in facts.items()), highlight=False)
    for report in reports:
        report.show(console)


def _measure(name: str, *, quick: bool) -> Report:
    columns = (
        TextColumn("{task.fields[benchmark]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    # On standard error: what is piped is the result alone.
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=BENCHMARKS[name].steps(quick=quick), benchmark=name, start=True)
        begun = False

        def step(doing: str) -> None:
            nonlocal begun
            progress.update(task, advance=1 if begun else 0, description=doing)
            begun = True

        return BENCHMARKS[name].run(step, quick=quick)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit("Interrupted; everything that was started has been stopped and removed.")
