"""Make `roman_synthetic` importable from the checkout, here and in the kernels that run the notebooks."""

import os
import sys
from pathlib import Path

import pytest

EXAMPLE_NOTEBOOKS = Path(__file__).parents[2] / "example-notebooks"
sys.path.insert(0, str(EXAMPLE_NOTEBOOKS))


@pytest.fixture
def example_notebooks(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the example notebooks, whose package kernels started by the test can import."""
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE_NOTEBOOKS), prepend=os.pathsep)
    return EXAMPLE_NOTEBOOKS
