"""`meridian batch schedule …`: notebooks that are submitted at planned times."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Column, Table

from hub.batch.parameters import parse_parameter
from hub.batch.terminal import open_client, out

if TYPE_CHECKING:
    from hub.batch.schedules import Schedule

as_json_option = click.option("--json", "as_json", is_flag=True, help="For machines.")
title_option = click.option("--title", help="What you call it; the notebook's name when left out.")
image_option = click.option("--image", help="The image; the platform's default when left out.")
max_option = click.option("--max-minutes", type=click.IntRange(min=1), help="The longest that each run may take.")
parameter_option = click.option(
    "-p", "--parameter", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter."
)
missed_option = click.option(
    "--missed",
    type=click.Choice(["skip", "once", "all"]),
    help="What becomes of times at which the platform did not run.",
)
overlap_option = click.option(
    "--overlap",
    type=click.Choice(["skip", "queue"]),
    help="What becomes of a time when the run of an earlier one has not ended.",
)
file_type = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def schedule() -> None:
    """Submit notebooks at planned times."""


@schedule.command()
@click.argument("notebook", type=file_type)
@click.option("--allocation", required=True, help="The id of the allocation to charge.")
@click.option("--size", required=True, help="The size to run on, such as small or standard.")
@click.option("--cron", required=True, help="Minute, hour, day of month, month, day of week: '30 6 * * MON-FRI'.")
@click.option("--zone", default="UTC", show_default=True, help="The time zone whose clock counts: Europe/Berlin.")
@title_option
@missed_option
@overlap_option
@parameter_option
@image_option
@max_option
@as_json_option
def add(notebook: Path, parameters: tuple[tuple[str, str], ...], as_json: bool, **given: Any) -> None:
    """Submit NOTEBOOK at planned times from now on."""
    with open_client() as client:
        _show(client.schedules.add(notebook, **_terms(parameters, given)), as_json=as_json)


@schedule.command("list")
@as_json_option
def list_schedules(as_json: bool) -> None:
    """List your schedules, newest first."""
    with open_client() as client:
        schedules = client.schedules.list()
    if as_json:
        click.echo(json.dumps([asdict(one) for one in schedules]))
        return
    table = Table(Column("Schedule", no_wrap=True), "Title", "State", "When", "Next", "Last")
    for one in schedules:
        last = f"{one.last.outcome}, {one.last.shown}" if one.last else ""
        table.add_row(one.id, one.title, one.state, one.words, one.next.shown if one.next else "", last)
    out.print(table)


@schedule.command()
@click.argument("schedule_id")
@as_json_option
def show(schedule_id: str, as_json: bool) -> None:
    """Show a schedule, its next times and what became of the last ones."""
    with open_client() as client:
        _show(client.schedules.get(schedule_id), as_json=as_json)


@schedule.command()
@click.argument("schedule_id")
@click.option("--notebook", type=file_type, help="Another notebook, or the same one as it is now.")
@click.option("--allocation", help="The id of the allocation to charge.")
@click.option("--size", help="The size to run on, such as small or standard.")
@click.option("--cron", help="Minute, hour, day of month, month, day of week: '30 6 * * MON-FRI'.")
@click.option("--zone", help="The time zone whose clock counts: Europe/Berlin.")
@title_option
@missed_option
@overlap_option
@parameter_option
@image_option
@max_option
@as_json_option
def edit(
    schedule_id: str, notebook: Path | None, parameters: tuple[tuple[str, str], ...], as_json: bool, **given: Any
) -> None:
    """Change a schedule; what is left out stays. Parameters, when given, replace all that there were."""
    with open_client() as client:
        changed = client.schedules.edit(schedule_id, notebook=notebook, **_terms(parameters, given))
        _show(changed, as_json=as_json)


@schedule.command()
@click.argument("schedule_id")
@as_json_option
def pause(schedule_id: str, as_json: bool) -> None:
    """Submit nothing until the schedule is resumed."""
    with open_client() as client:
        _show(client.schedules.pause(schedule_id), as_json=as_json)


@schedule.command()
@click.argument("schedule_id")
@as_json_option
def resume(schedule_id: str, as_json: bool) -> None:
    """Submit again, from the next time on."""
    with open_client() as client:
        _show(client.schedules.resume(schedule_id), as_json=as_json)


@schedule.command()
@click.argument("schedule_id")
def remove(schedule_id: str) -> None:
    """Remove a schedule; its runs stay."""
    with open_client() as client:
        client.schedules.remove(schedule_id)
        click.echo(f"Removed {schedule_id}.")


def _terms(parameters: tuple[tuple[str, str], ...], given: dict[str, Any]) -> dict[str, Any]:
    """Return the terms that were given, by the names of the client."""
    minutes = given.pop("max_minutes")
    terms = {name: value for name, value in given.items() if value is not None}
    if parameters:
        terms["parameters"] = {name: parse_parameter(value) for name, value in parameters}
    if minutes is not None:
        terms["max_seconds"] = minutes * 60
    return terms


def _show(one: Schedule, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(one)))
        return
    table = Table(show_header=False, box=None)
    table.add_row("Schedule", one.id)
    table.add_row("Title", one.title)
    table.add_row("State", one.state + (f": {one.pause_reason}" if one.pause_reason else ""))
    table.add_row("Notebook", f"{one.name}, {one.size}, on {one.allocation_name} ({one.allocation})")
    table.add_row("When", f"{one.cron}: {one.words}")
    table.add_row("Missed times", one.missed)
    table.add_row("Overlapping", one.overlap)
    for number, planned in enumerate(one.coming):
        note = f" {planned.note}" if planned.note else ""
        table.add_row("" if number else "Next" if one.state == "active" else "Would be next", planned.shown + note)
    for number, past in enumerate(one.times):
        what = " ".join(filter(None, (past.run, past.run_state, past.detail)))
        table.add_row("" if number else "Last", f"{past.shown}: {past.outcome} {what}".rstrip())
    out.print(table, highlight=False)
