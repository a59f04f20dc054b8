"""The options with which runs and sweeps are submitted from the command line: the same ones, by the same names."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

from hub.batch.parameters import parse_parameter

if TYPE_CHECKING:
    from collections.abc import Callable

    from hub.batch.client import BatchClient
    from hub.batch.submissions import Terms

SECONDS_PER_MINUTE = 60
_OPTIONS = (
    click.option("-p", "--parameter", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter."),
    click.option("--image", help="The image, as `meridian batch images` names it; the size's default when left out."),
    click.option("--max-minutes", type=click.IntRange(min=1), help="The longest a run may take; its price is held."),
    click.option(
        "--after", multiple=True, metavar="ID", help="Begin when this run or sweep of yours has succeeded; repeatable."
    ),
    click.option("--even-if-failed", is_flag=True, help="With --after: begin however those end."),
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        default=0,
        help="How often to try a run again if its notebook fails; each costs.",
    ),
    click.option("--secret", "secrets", multiple=True, metavar="NAME", help="A secret of yours for the notebook."),
    click.option("--save-to", metavar="PLACE", help="home:FOLDER, scratch:FOLDER or s3://BUCKET/PREFIX, as well."),
)


def with_terms(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; it gets `given`, the parameters as they were typed, and `terms`, the rest."""

    @functools.wraps(command)
    def called(
        *,
        parameters: tuple[tuple[str, str], ...],
        image: str | None,
        max_minutes: int | None,
        after: tuple[str, ...],
        even_if_failed: bool,
        retries: int,
        secrets: tuple[str, ...],
        save_to: str | None,
        **others: Any,
    ) -> None:
        terms: Terms = {
            "image": image,
            "max_seconds": None if max_minutes is None else max_minutes * SECONDS_PER_MINUTE,
            "after": after,
            "even_if_failed": even_if_failed,
            "retries": retries,
            "environment": secrets,
            "save_to": save_to,
        }
        command(given=parameters, terms=terms, **others)

    for option in reversed(_OPTIONS):
        option(called)
    return called


def values_of(client: BatchClient, notebook: str, given: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """What `-p name value` means: where the notebook takes text, the value as it was typed."""
    if not given:
        return {}
    kinds = {one.name: one.kind for one in client.parameters(notebook) or []}
    return {name: value if kinds.get(name) == "str" else parse_parameter(value) for name, value in given}
