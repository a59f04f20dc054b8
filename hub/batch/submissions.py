"""What a script says of a run, of each run of a sweep, or of a schedule's, as the service takes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from hub.batch.sources import notebook_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class RunTerms(TypedDict, total=False):
    """What `BatchClient.submit`, `SweepClient.submit` and `Schedules.add` take; each may be left out.

    parameters: by their names. max_seconds: the longest a run may take, the policy's default if None. name: the
    notebook's own file name if None. retries: how often a run is tried again if its notebook fails, each attempt
    charged. environment: names of your secrets, each of which is a variable of the notebook. save_to: where the output
    goes as well: home:FOLDER, scratch:FOLDER or s3://BUCKET/PREFIX, a folder of its own for each run.
    """

    parameters: Mapping[str, Any] | None
    image: str | None
    max_seconds: int | None
    name: str | None
    retries: int
    environment: Iterable[str]
    save_to: str | None


class Terms(RunTerms, total=False):
    """What `BatchClient.submit` and `SweepClient.submit` take beside: what is waited for.

    after: ids of one's own runs and sweeps that must have succeeded first; if one of them does not, what waits is
    cancelled, or with even_if_failed begins all the same.
    """

    after: Sequence[str]
    even_if_failed: bool


def to_body(notebook: Path | str, allocation: str, size: str, terms: Terms) -> dict[str, Any]:
    """The fields of a request that runs and sweeps have in common. Raises NotebookError, TypeError for other terms."""
    _require_known(terms, Terms.__optional_keys__)
    return _of_runs(notebook, allocation, size, terms) | {
        "after": list(terms.get("after") or ()),
        "waits_for": "ended" if terms.get("even_if_failed") else "succeeded",
    }


def to_schedule_body(notebook: Path | str, allocation: str, size: str, terms: RunTerms) -> dict[str, Any]:
    """What each run of a schedule gets, in a request. Raises NotebookError, TypeError for others (after)."""
    _require_known(terms, RunTerms.__optional_keys__)
    return _of_runs(notebook, allocation, size, terms)


def to_changes(terms: RunTerms) -> dict[str, Any]:
    """Some of the terms, by the names that a request has for them."""
    changes: dict[str, Any] = dict(terms)
    if "save_to" in changes:
        changes["output"] = changes.pop("save_to")
    if "environment" in changes:
        changes["environment"] = list(changes["environment"] or ())
    return changes


def _require_known(terms: RunTerms, known: frozenset[str]) -> None:
    """A term that is spelt wrong would be left out in silence otherwise."""
    unknown = sorted(terms.keys() - known)
    if unknown:
        msg = f"There is no term {', '.join(unknown)} here. There are: {', '.join(sorted(known))}."
        raise TypeError(msg)


def _of_runs(notebook: Path | str, allocation: str, size: str, terms: RunTerms) -> dict[str, Any]:
    content, source = notebook_at(notebook)
    return {
        "allocation": allocation,
        "size": size,
        "image": terms.get("image"),
        "name": terms.get("name") or Path(source.path or "").name,
        "notebook": content,
        "parameters": dict(terms.get("parameters") or {}),
        "max_seconds": terms.get("max_seconds"),
        "retries": terms.get("retries") or 0,
        "source": source.to_json(),
        "environment": list(terms.get("environment") or ()),
        "output": terms.get("save_to"),
    }
