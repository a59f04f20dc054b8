"""What a submission must be made of, before any rule of the policy is asked."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from allocations.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTEBOOK_FORMAT = 4


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


def require_file_name(name: str) -> str:
    """Return the file name of what may be a path of another machine; InvalidInputError unless it is a notebook's."""
    base = PurePath(name.replace("\\", "/")).name
    if not base.endswith(".ipynb") or not base.isprintable() or len(base) > len(".ipynb") + 120:
        raise InvalidInputError("The notebook's name must end in .ipynb.", "Rename the file.")
    return base
