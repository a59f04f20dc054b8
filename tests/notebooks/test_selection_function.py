"""Injected sources: their light is in the image, what is bright comes back, and many runs make a selection function."""

from pathlib import Path

import pandas as pd
import pytest

from tests.notebooks.notebook_runs import EXAMPLE_NOTEBOOKS, NotebookRun, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MAGNITUDES = [23.0, 26.5, 27.5, 28.5]


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> NotebookRun:
    """A sweep of four runs made by the notebook itself, gathered and fitted."""
    return run(
        "selection-function",
        tmp_path_factory.mktemp("selection"),
        magnitudes=MAGNITUDES,
        run_parameters={"npix": 512, "n_injected": 144},
        notebook=str(EXAMPLE_NOTEBOOKS / "injection-run.ipynb"),
    )


def test_the_curve_falls_from_a_plateau_to_nothing_at_the_noise_limit(selection: NotebookRun) -> None:
    curve = pd.read_parquet(selection.output / "selection_function.parquet")

    assert selection.images == 2
    assert 0.9 < selection.recorded["plateau"] <= 1
    # A source of this magnitude peaks at the threshold of 4.5 times the noise.
    assert selection.recorded["half_way_mag"] == pytest.approx(27.6, abs=0.3)
    assert curve["completeness"].is_monotonic_decreasing
    assert (curve["low"] <= curve["high"]).all()


def test_each_run_recorded_what_its_own_list_says(selection: NotebookRun) -> None:
    runs = pd.read_parquet(selection.output / "runs.parquet")

    assert list(runs["magnitude"]) == MAGNITUDES
    for number, row in runs.iterrows():
        injected = pd.read_parquet(selection.output / f"run-{number:03d}" / "injected.parquet")
        assert len(injected) == row["injected"] == 144
        assert injected["recovered"].sum() == row["recovered"]
        assert row["by_chance"] < 0.05
    assert runs["recovered"].is_monotonic_decreasing


def test_sources_are_injected_into_an_image_that_is_given(tmp_path: Path, a_level2_image: Path) -> None:
    executed = run("injection-run", tmp_path, image_uri=str(a_level2_image), n_injected=36, magnitude=23.5)

    assert executed.recorded["completeness"] > 0.85
    assert abs(executed.recorded["bias_mag"]) < 0.1
