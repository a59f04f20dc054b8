"""The example notebooks that can be run without uploading anything, with their titles."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from allocations.errors import InvalidInputError
from allocations.runs.notebook_parameters import parameters_of

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Example:
    """An example notebook; `parameters`: those that it takes with their defaults, one a line."""

    name: str
    title: str
    parameters: str


class ExampleNotebooks:
    """The notebooks of one directory, read when asked for: a new one shows at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def all(self) -> list[Example]:
        """Return the examples by name; none when there is no such directory."""
        return [_example(path.name, _read(path)) for path in sorted(self._directory.glob("*.ipynb"))]

    def notebook(self, name: str) -> dict[str, Any]:
        """Return an example by its name, which is looked up in the directory and never used as a path."""
        for path in self._directory.glob("*.ipynb"):
            if path.name == name:
                return _read(path)
        raise InvalidInputError(f"There is no example {name!r}.", "Choose one of the list.")


def _read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_bytes())
    return notebook


def _example(name: str, notebook: dict[str, Any]) -> Example:
    title = name
    for cell in reversed(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and source.startswith("# "):
            title = source.splitlines()[0].removeprefix("# ")
    taken = parameters_of(notebook).parameters
    return Example(name, title, "\n".join(f"{one.name} = {one.source}" for one in taken))
