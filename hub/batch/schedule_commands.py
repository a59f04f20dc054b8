"""`meridian batch schedule …`: notebooks that are submitted at planned times."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.table import Column, Table

from hub.batch.parameters import parse_parameter
from hub.batch.submit_options import values_of, with_run_terms
from hub.batch.terminal import open_client, out

if TYPE_CHECKING:
    from hub.batch.schedules import Changes, Schedule
    from hub.batch.submissions import RunTerms

as_json_option = click.option("--json", "as_json", is_flag=True, help="For machines.")
title_option = click.option("--title", help="What you call it; the notebook's name when left out.")
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


def _refuse(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        msg = "A schedule does not wait for runs or sweeps. --overlap queue lets its runs wait for each other."
        raise click.UsageError(msg)


# What runs and sweeps take: said here, where click would only guess which option was meant.
no_after_option = click.option("--after", hidden=True, expose_value=False, callback=_refuse)


@click.group()
def schedule() -> None:
    """Submit notebooks at planned times."""


@schedule.command()
@click.argument("notebook")
@click.option("--allocation", required=True, help="The id of the allocation to charge.")
@click.option("--size", required=True, help="The size to run on, such as small or standard.")
@click.option("--cron", required=True, help="Minute, hour, day of month, month, day of week: '30 6 * * MON-FRI'.")
@click.option("--zone", default="UTC", show_default=True, help="The time zone whose clock counts: Europe/Berlin.")
@title_option
@missed_option
@overlap_option
@with_run_terms
@no_after_option
@as_json_option
def add(notebook: str, given: tuple[tuple[str, str], ...], terms: RunTerms, as_json: bool, **times: str | None) -> None:
    """Submit NOTEBOOK at planned times from now on, as it is now.

    NOTEBOOK is a file, or git+https://host/group/repository@revision#path/to.ipynb.
    """
    with open_client() as client:
        terms["parameters"] = values_of(client, notebook, given)
        _show(client.schedules.add(notebook, **terms, **_given(times)), as_json=as_json)


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
@click.option("--notebook", help="Another notebook, or the same one as it is now.")
@click.option("--allocation", help="The id of the allocation to charge.")
@click.option("--size", help="The size to run on, such as small or standard.")
@click.option("--cron", help="Minute, hour, day of month, month, day of week: '30 6 * * MON-FRI'.")
@click.option("--zone", help="The time zone whose clock counts: Europe/Berlin.")
@title_option
@missed_option
@overlap_option
@with_run_terms
@no_after_option
@click.option("--no-secrets", is_flag=True, help="Give its runs no secrets any more.")
@as_json_option
def edit(
    schedule_id: str,
    notebook: str | None,
    given: tuple[tuple[str, str], ...],
    terms: Changes,
    no_secrets: bool,
    as_json: bool,
    **others: str | None,
) -> None:
    """Change a schedule; what is left out stays.

    Parameters, when given, replace all that there were, and so do secrets. An empty --save-to saves no more.
    """
    if no_secrets:
        if "environment" in terms:
            msg = "Give --secret or --no-secrets, one of the two."
            raise click.UsageError(msg)
        terms["environment"] = ()
    with open_client() as client:
        if given and notebook is not None:
            terms["parameters"] = values_of(client, notebook, given)
        elif given:
            terms["parameters"] = {name: parse_parameter(value) for name, value in given}
        changed = client.schedules.edit(schedule_id, notebook=notebook, **terms, **_given(others))
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


def _given(options: dict[str, str | None]) -> Any:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _show(one: Schedule, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(one)))
        return
    table = Table(show_header=False, box=None)
    table.add_row("Schedule", one.id)
    table.add_row("Title", one.title)
    table.add_row("State", one.state + (f": {one.pause_reason}" if one.pause_reason else ""))
    table.add_row("Notebook", f"{one.name}, {one.size}, on {one.allocation_name} ({one.allocation})")
    if one.retries:
        table.add_row("Retries", f"{one.retries} of each run")
    if one.source:
        table.add_row("Notebook from", str(one.source))
    if one.environment:
        table.add_row("Secrets", ", ".join(one.environment))
    if one.output:
        table.add_row("Saved also to", one.output)
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
