"""What a script says of a run, or of each run of a sweep, as the service takes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from hub.batch.sources import notebook_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Terms(TypedDict, total=False):
    """What both `BatchClient.submit` and `SweepClient.submit` take; each may be left out.

    parameters: by their names. max_seconds: the longest a run may take, the policy's default if None. name: the
    notebook's own file name if None. after: ids of one's own runs and sweeps that must have succeeded first; if one of
    them does not, what waits is cancelled, or with even_if_failed begins all the same. retries: how often a run is
    tried again if its notebook fails, each attempt charged. environment: names of your secrets, each of which is a
    variable of the notebook. save_to: where the output goes as well: home:FOLDER, scratch:FOLDER or
    s3://BUCKET/PREFIX, a folder of its own for each run.
    """

    parameters: Mapping[str, Any] | None
    image: str | None
    max_seconds: int | None
    name: str | None
    after: Sequence[str]
    even_if_failed: bool
    retries: int
    environment: Iterable[str]
    save_to: str | None


def to_body(notebook: Path | str, allocation: str, size: str, terms: Terms) -> dict[str, Any]:
    """The fields of a request that runs and sweeps have in common. Raises NotebookError."""
    content, source = notebook_at(notebook)
    return {
        "allocation": allocation,
        "size": size,
        "image": terms.get("image"),
        "name": terms.get("name") or Path(source.path or "").name,
        "notebook": content,
        "parameters": dict(terms.get("parameters") or {}),
        "max_seconds": terms.get("max_seconds"),
        "after": list(terms.get("after") or ()),
        "waits_for": "ended" if terms.get("even_if_failed") else "succeeded",
        "retries": terms.get("retries") or 0,
        "source": source.to_json(),
        "environment": list(terms.get("environment") or ()),
        "output": terms.get("save_to"),
    }
