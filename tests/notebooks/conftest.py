"""Make the example notebooks' packages importable from the checkout, here and in the kernels that run the notebooks."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.notebooks.notebook_runs import EXAMPLE_NOTEBOOKS, kernel_environment

sys.path.insert(0, str(EXAMPLE_NOTEBOOKS))


@pytest.fixture(scope="module")
def example_notebooks() -> Path:
    """The folder of the example notebooks."""
    return EXAMPLE_NOTEBOOKS


@pytest.fixture(autouse=True, scope="module")
def _environment_of_kernels() -> Iterator[None]:
    """What kernels that these tests start find in their environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in kernel_environment().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def without_truth() -> Callable[[Path, Path], Path]:
    """Copy a Parquet table without what only a made-up one can have, as a stand-in for real data."""

    def copy(source: Path, target: Path) -> Path:
        table = pd.read_parquet(source)
        table.drop(columns=[name for name in table if name.startswith("true_")]).to_parquet(target, index=False)
        return target

    return copy
