"""Make the example notebooks' packages importable from the checkout, here and in the kernels that run the notebooks."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.time import Time

from tests.notebooks.notebook_runs import EXAMPLE_NOTEBOOKS, kernel_environment

sys.path.insert(0, str(EXAMPLE_NOTEBOOKS))

from roman_synthetic import (
    Pointing,
    PointSpreadFunction,
    make_level2_model,
    make_sources,
    render_sources,
)


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


@pytest.fixture(scope="session")
def a_level2_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Level 2 file with sources, as a stand-in for a real one."""
    rng = np.random.default_rng(4)
    sources = make_sources(rng, 15, 60, 512)
    rate = render_sources(sources, PointSpreadFunction("F158"), 512)
    path = tmp_path_factory.mktemp("image") / "r0000101001001001001_0001_wfi01_f158_cal.asdf"
    make_level2_model(rng, rate, Pointing(), Time("2027-05-01T00:00:00", scale="utc")).save(path)
    return path
