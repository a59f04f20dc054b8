"""Reads the notebooks that people submit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class NotebookError(Exception):
    """The file given is not a notebook; the message says why."""


def read_notebook(path: Path) -> dict[str, Any]:
    """The notebook in the file as JSON. Raises NotebookError."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}."
        raise NotebookError(msg) from error
    except ValueError as error:
        msg = f"{path} is not a Jupyter notebook: it is not JSON."
        raise NotebookError(msg) from error
    if not isinstance(notebook, dict) or "cells" not in notebook:
        msg = f"{path} is not a Jupyter notebook of format 4: it has no cells. Open and save it in JupyterLab."
        raise NotebookError(msg)
    return notebook
