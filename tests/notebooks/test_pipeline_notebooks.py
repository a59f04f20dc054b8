"""The notebooks that need the calibration pipeline: romancal runs unmodified on made-up ramps, and gets them right."""

from pathlib import Path

import pandas as pd
import pytest

from tests.notebooks.notebook_runs import NotebookRun
from tests.notebooks.pipeline_environment import run_in_pipeline

# Making the environment takes half a minute, and minutes where the packages must be downloaded first.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> NotebookRun:
    return run_in_pipeline("detector-processing", tmp_path_factory.mktemp("detector"), detector="WFI03", npix=600)


def test_a_detector_is_calibrated_from_ramps_with_the_pipelines_steps(detector: NotebookRun) -> None:
    assert detector.images == 4
    assert "All checks passed." in detector.printed
    assert detector.recorded["detector"] == "WFI03"
    assert detector.recorded["sky_dn_per_s"] == pytest.approx(0.34 / 1.8, rel=0.02)
    assert detector.recorded["shift_mas"] == pytest.approx(300, abs=15)
    assert 25.5 < detector.recorded["depth_5_sigma_mag"] < 27.5
    assert 0.001 < detector.recorded["jump_fraction"] < 0.01


def test_its_products_carry_the_name_and_the_corrected_places(detector: NotebookRun) -> None:
    name = "r0000101001001001001_0001_wfi03_f158"
    assert (detector.output / f"{name}_cal.asdf").stat().st_size > 1_000_000
    sources = pd.read_parquet(detector.output / f"{name}_cat.parquet")
    assert len(sources) == detector.recorded["sources"] > 50
    assert sources[["ra", "dec"]].notna().all(axis=None)


def test_sources_injected_into_ramps_come_back_through_the_pipeline(tmp_path: Path) -> None:
    executed = run_in_pipeline("injection-run", tmp_path, method="ramps", npix=400, n_injected=64, magnitude=23.5)

    assert executed.recorded["injected"] == 64
    assert executed.recorded["completeness"] > 0.85
    assert abs(executed.recorded["bias_mag"]) < 0.1
    assert executed.images == 1
