"""Where a notebook to be submitted is taken from: a file, or a file of a git repository at a revision."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hub.batch.model import Source


class NotebookError(Exception):
    """What was given is not a notebook, or cannot be had; the message says why."""


def notebook_at(place: Path | str) -> tuple[dict[str, Any], Source]:
    """The notebook of a file, or of a repository (git+https://…@revision#path), as JSON, and where it came from.

    Raises NotebookError.
    """
    if str(place).startswith("git+"):
        return _of_repository(str(place))
    path = Path(place)
    return read_notebook(path), _source_of(path)


def name_of(place: Path | str) -> str:
    """The file name of a notebook, as `notebook_at` takes it, without reading it. Raises NotebookError."""
    if not str(place).startswith("git+"):
        return Path(place).name
    from hub.batch.repositories import RepositoryError, RepositoryPlace  # noqa: PLC0415  as below

    try:
        return Path(RepositoryPlace.parse(str(place)).path).name
    except RepositoryError as error:
        raise NotebookError(str(error)) from error


def _of_repository(text: str) -> tuple[dict[str, Any], Source]:
    # Only now: submitting a file needs none of it, and works where there is no git.
    from hub.batch.repositories import RepositoryError, RepositoryPlace, fetch  # noqa: PLC0415

    try:
        place = RepositoryPlace.parse(text)
        fetched = fetch(place)
    except RepositoryError as error:
        raise NotebookError(str(error)) from error
    notebook = parse_notebook(fetched.content, place.path)
    return notebook, Source("repository", place.address, fetched.commit, place.path)


def read_notebook(path: Path) -> dict[str, Any]:
    """The notebook in the file as JSON. Raises NotebookError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}."
        raise NotebookError(msg) from error
    except ValueError as error:
        msg = f"{path} is not a Jupyter notebook: it is not JSON."
        raise NotebookError(msg) from error
    return parse_notebook(text, str(path))


def parse_notebook(text: str | bytes, place: str) -> dict[str, Any]:
    """The notebook in a file's text; `place` names the file. Raises NotebookError."""
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{place} is not a Jupyter notebook: it is not JSON."
        raise NotebookError(msg) from error
    if not isinstance(notebook, dict) or "cells" not in notebook:
        msg = f"{place} is not a Jupyter notebook of format 4: it has no cells. Open and save it in JupyterLab."
        raise NotebookError(msg)
    return notebook


def _source_of(path: Path) -> Source:
    """A path in the home where the person's server reads it; elsewhere no more than the file's name."""
    if os.environ.get("JUPYTERHUB_USER"):
        try:
            return Source("home", path=str(path.resolve().relative_to(Path.home().resolve())))
        except ValueError:
            pass
    return Source("upload", path=path.name)
