"""What a submission must be made of, before any rule of the policy is asked."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from allocations.errors import InvalidInputError
from allocations.runs.models import RunSource, RunSourceKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allocations.policy.models import RunRules

NOTEBOOK_FORMAT = 4
PLACE_LENGTH_MAX = 500
SCHEMES = ("https", "http", "ssh", "git")
UPLOADED = RunSource(kind=RunSourceKind.UPLOAD)
# What a notebook recorded is kept with its run up to this much: results are read by the ten thousand.
RECORDED_BYTES_MAX = 16_384
RECORDED_NAME_LENGTH_MAX = 100


def require_notebook(notebook: Mapping[str, Any], bytes_max: int) -> bytes:
    """Return a notebook as it is kept; InvalidInputError for one of another format, or larger than `bytes_max`."""
    cells = notebook.get("cells")
    well_formed = isinstance(cells, list) and all(isinstance(cell, dict) for cell in cells)
    if notebook.get("nbformat") != NOTEBOOK_FORMAT or not well_formed:
        raise InvalidInputError(
            "This is not a notebook of format 4.", "Open it in JupyterLab, save it, and submit that file."
        )
    content = json.dumps(notebook, separators=(",", ":")).encode()
    if len(content) > bytes_max:
        raise InvalidInputError(
            f"The notebook is larger than {bytes_max // 1_000_000} MB.",
            "Clear its outputs and submit it again.",
        )
    return content


def require_parameters(parameters: Mapping[str, Any]) -> str:
    """Return parameters as JSON; InvalidInputError for a name or a value that cannot be given to a notebook."""
    if not all(name.isidentifier() for name in parameters):
        raise InvalidInputError(
            "Parameter names must be Python identifiers.", "Name them as in the notebook's parameters cell."
        )
    try:
        # What every later answer could not spell as JSON in UTF-8: half of a surrogate pair, NaN, an infinity.
        json.dumps(parameters, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise InvalidInputError(
            "A parameter holds what JSON in UTF-8 cannot say: NaN, an infinity, or half of a surrogate pair.",
            "Send another value, or None.",
        ) from error
    return json.dumps(parameters)


def require_max_seconds(max_seconds: int | None, rules: RunRules) -> int:
    """Return the longest that a run may take, the policy's default for None; InvalidInputError when it is too long."""
    seconds = max_seconds or rules.default_max_seconds
    if not 0 < seconds <= rules.longest_seconds:
        raise InvalidInputError(
            f"The maximum time must lie between 1 second and {rules.longest_seconds // 3600} hours.",
            "Enter another maximum, or split the work into several runs.",
        )
    return seconds


def to_recorded(values: Mapping[str, Any]) -> str | None:
    """Return what a notebook recorded as JSON, or None for nothing.

    A value that JSON in UTF-8 cannot say, or that is too much to keep beside the others, is left out: by then the
    run has ended, and its end must be noted whatever the notebook wrote.
    """
    kept: dict[str, Any] = {}
    free_bytes = RECORDED_BYTES_MAX
    for name, value in values.items():
        try:
            bytes_taken = len(json.dumps({name: value}, allow_nan=False)) + 2
            json.dumps({name: value}, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            continue
        if 0 < len(name) <= RECORDED_NAME_LENGTH_MAX and bytes_taken <= free_bytes:
            kept[name] = value
            free_bytes -= bytes_taken
    return json.dumps(kept) if kept else None


def require_file_name(name: str) -> str:
    """Return the file name of what may be a path of another machine; InvalidInputError unless it is a notebook's."""
    base = PurePath(name.replace("\\", "/")).name
    if not base.endswith(".ipynb") or not base.isprintable() or len(base) > len(".ipynb") + 120:
        raise InvalidInputError("The notebook's name must end in .ipynb.", "Rename the file.")
    return base


def require_retries(retries: int, retries_max: int) -> int:
    """Return how often a run is tried again; InvalidInputError for more often than the policy allows."""
    if not 0 <= retries <= retries_max:
        raise InvalidInputError(
            f"A run whose notebook fails is tried again at most {retries_max} times.",
            f"Ask for 0 to {retries_max} retries.",
        )
    return retries


def require_source(source: RunSource | None) -> str:
    """Return where a notebook came from as JSON, without credentials; InvalidInputError for what is no such place."""
    source = source or UPLOADED
    places = (source.address, source.revision, source.path)
    if any(place is not None and not _is_place(place) for place in places):
        raise InvalidInputError(
            "An address, revision or path of a notebook is empty, or longer than one line.",
            f"Name the place in up to {PLACE_LENGTH_MAX} printable characters, or leave it out.",
        )
    if source.kind is RunSourceKind.REPOSITORY and None in places:
        raise InvalidInputError(
            "A notebook of a repository needs the address, the revision and the path.", "Give all three."
        )
    if source.address is not None:
        source = source.model_copy(update={"address": _without_credentials(source.address)})
    return source.model_dump_json(exclude_none=True)


def _is_place(text: str) -> bool:
    return 0 < len(text) <= PLACE_LENGTH_MAX and text.isprintable()


def _without_credentials(address: str) -> str:
    """Return an address without the name, password, query and fragment in which secrets may be written."""
    try:
        parts = urlsplit(address)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise InvalidInputError(
            "The repository's address cannot be read.", "Write it like https://example.org/group/project."
        )
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
