"""`meridian secrets …`: values come from the terminal or from standard input, and are never arguments."""

from __future__ import annotations

import json
import sys

import click
from rich.table import Column, Table

from hub.batch.terminal import err, fail, open_client, out


@click.group()
def secrets() -> None:
    """Keep tokens and keys for your batch runs; their values are never shown again."""


@secrets.command("set")
@click.argument("name")
def set_secret(name: str) -> None:
    """Keep the secret NAME. The value is asked for, or read from standard input to its end."""
    if sys.stdin.isatty():
        value = click.prompt("Value", hide_input=True, err=True)
    else:
        # What `echo` adds is no part of it.
        value = sys.stdin.read().removesuffix("\n")
    if not value:
        fail("No value was given.")
    with open_client() as client:
        client.set_secret(name, value)
    err.print(f"Kept. A run gets it with --secret {name}.", highlight=False)


@secrets.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def list_secrets(as_json: bool) -> None:
    """List your secrets by name."""
    with open_client() as client:
        found = client.secrets()
    if as_json:
        click.echo(json.dumps(found))
        return
    table = Table(Column("Name", no_wrap=True), "Set", "Last given to a run")
    for one in found:
        table.add_row(one["name"], one["changed_at"], one["used_at"] or "never")
    out.print(table, highlight=False)


@secrets.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Remove the secret NAME; runs that ask for it and have not begun will fail."""
    with open_client() as client:
        client.remove_secret(name)
    err.print("Removed.")
