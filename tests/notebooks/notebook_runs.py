"""Runs of the example notebooks by papermill, and what they drew, printed and recorded."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill

from hub.batch.record import OURS

ROOT = Path(__file__).parents[2]
EXAMPLE_NOTEBOOKS = ROOT / "example-notebooks"
KERNEL_START_SECONDS = 300
OUTPUT_LAG_SECONDS = 60


@dataclass(frozen=True)
class NotebookRun:
    """An executed notebook and the folder that it wrote to."""

    book: nbformat.NotebookNode
    output: Path

    @property
    def images(self) -> int:
        return sum("image/png" in data for data in self._data())

    @property
    def recorded(self) -> dict[str, Any]:
        """The values that the notebook recorded, by name."""
        values: dict[str, Any] = {}
        for data in self._data():
            values.update(data.get(OURS, {}))
        return values

    @property
    def printed(self) -> str:
        return "".join(one.get("text", "") for one in self._outputs())

    def json(self, name: str) -> Any:
        return json.loads((self.output / name).read_text())

    def _outputs(self) -> list[Any]:
        return [one for cell in self.book.cells if cell.cell_type == "code" for one in cell.outputs]

    def _data(self) -> list[Mapping[str, Any]]:
        return [one.get("data", {}) for one in self._outputs()]


def run(name: str, output: Path, **parameters: Any) -> NotebookRun:
    """Run a notebook, with its defaults but for these parameters, into a folder."""
    book = papermill.execute_notebook(
        str(EXAMPLE_NOTEBOOKS / f"{name}.ipynb"),
        str(output / "executed.ipynb"),
        parameters={"output_dir": str(output), **parameters},
        cwd=str(output),
        progress_bar=False,
        start_timeout=KERNEL_START_SECONDS,
        # As the platform runs it.
        iopub_timeout=OUTPUT_LAG_SECONDS,
    )
    return NotebookRun(book, output)


def kernel_environment() -> dict[str, str]:
    """The packages of the checkout, and one thread for linear algebra: its threads only wait for each other here."""
    paths = [str(EXAMPLE_NOTEBOOKS), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
