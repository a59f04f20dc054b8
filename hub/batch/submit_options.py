"""The options with which runs, sweeps and schedules are submitted: the same ones, by the same names."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

from hub.batch.parameters import parse_parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hub.batch.client import BatchClient

SECONDS_PER_MINUTE = 60
_OF_RUNS = (
    click.option("-p", "--parameter", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter."),
    click.option("--image", help="The image, as `meridian batch images` names it; the size's default when left out."),
    click.option("--max-minutes", type=click.IntRange(min=1), help="The longest a run may take; its price is held."),
    click.option(
        "--retries", type=click.IntRange(min=0), help="How often to try a run again if its notebook fails; each costs."
    ),
    click.option("--secret", "secrets", multiple=True, metavar="NAME", help="A secret of yours for the notebook."),
    click.option("--save-to", metavar="PLACE", help="home:FOLDER, scratch:FOLDER or s3://BUCKET/PREFIX, as well."),
)
_OF_CHAINS = (
    click.option(
        "--after", multiple=True, metavar="ID", help="Begin when this run or sweep of yours has succeeded; repeatable."
    ),
    click.option("--even-if-failed", is_flag=True, help="With --after: begin however those end."),
)


def with_terms(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of runs and sweeps; it gets what `with_run_terms` gives, and what is waited for."""

    @functools.wraps(command)
    def called(*, after: tuple[str, ...], even_if_failed: bool, terms: dict[str, Any], **others: Any) -> None:
        command(terms=terms | {"after": after, "even_if_failed": even_if_failed}, **others)

    return with_run_terms(_with(called, _OF_CHAINS))


def with_run_terms(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that schedules have too.

    It gets `given`, the parameters as they were typed, and `terms`, those of the rest that were given.
    """

    @functools.wraps(command)
    def called(
        *,
        parameters: tuple[tuple[str, str], ...],
        max_minutes: int | None,
        secrets: tuple[str, ...],
        **others: Any,
    ) -> None:
        terms = {name: others.pop(name) for name in ("image", "retries", "save_to")}
        terms["max_seconds"] = None if max_minutes is None else max_minutes * SECONDS_PER_MINUTE
        terms["environment"] = secrets or None
        given = {name: value for name, value in terms.items() if value is not None}
        command(given=parameters, terms=given, **others)

    return _with(called, _OF_RUNS)


def _with(command: Callable[..., None], options: Sequence[Callable[..., Any]]) -> Callable[..., None]:
    for option in reversed(options):
        option(command)
    return command


def values_of(client: BatchClient, notebook: str, given: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """What `-p name value` means: where the notebook takes text, the value as it was typed."""
    if not given:
        return {}
    kinds = {one.name: one.kind for one in client.parameters(notebook) or []}
    return {name: value if kinds.get(name) == "str" else parse_parameter(value) for name, value in given}
