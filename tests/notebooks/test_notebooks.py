"""The example notebooks run at full size, pass their own checks and leave what they promise."""

import json
from collections.abc import Callable
from pathlib import Path

import asdf
import numpy as np
import pandas as pd
import papermill
import pytest
from astropy.io import fits
from roman_datamodels import datamodels
from roman_synthetic import make_external_catalogue, make_survey_catalogue

from tests.notebooks.notebook_runs import EXAMPLE_NOTEBOOKS, run

NOTEBOOKS = sorted(path.stem for path in EXAMPLE_NOTEBOOKS.glob("*.ipynb"))
FULL_DETECTOR = (4088, 4088)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_without_outputs_and_with_its_parameters(example_notebooks: Path, name: str) -> None:
    notebook = json.loads((example_notebooks / f"{name}.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]

    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert [cell["metadata"].get("tags") for cell in code].count(["parameters"]) == 1
    parameters = papermill.inspect_notebook(str(example_notebooks / f"{name}.ipynb"))
    assert parameters.get("seed", {"default": "20270501"})["default"] == "20270501"
    assert parameters["output_dir"]["default"] == f'"output/{name}"'


@pytest.mark.slow
def test_the_crossmatch_finds_the_injected_offset_in_a_million_rows(tmp_path: Path) -> None:
    executed = run("catalogue-crossmatch", tmp_path)

    assert executed.images == 3
    assert len(pd.read_parquet(tmp_path / "survey.parquet", columns=["source_id"])) == 1_000_000
    assert len(pd.read_parquet(tmp_path / "external.parquet", columns=["external_id"])) == 100_000
    matches = pd.read_parquet(tmp_path / "matches.parquet")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(matches) == summary["matches"]
    assert matches["source_id"].is_unique
    assert matches["external_id"].is_unique
    assert matches["separation_arcsec"].max() < 0.5
    assert len(summary["selected_rows"]) == 12
    assert summary["offset_east_arcsec"] == pytest.approx(0.120, abs=0.002)
    assert summary["offset_north_arcsec"] == pytest.approx(-0.080, abs=0.002)


@pytest.mark.slow
def test_the_cutouts_are_a_thousand_and_their_photometry_is_right(tmp_path: Path) -> None:
    executed = run("wfi-cutouts", tmp_path)

    assert executed.images == 3
    with datamodels.open(tmp_path / "image.asdf") as image:
        image.validate()
        assert image.shape == FULL_DETECTOR
    with asdf.open(tmp_path / "cutouts.asdf") as stamps:
        assert all(stamps[name].shape == (1000, 65, 65) for name in ("data", "err", "dq"))
    index = pd.read_parquet(tmp_path / "cutouts.parquet")
    photometry = pd.read_parquet(tmp_path / "photometry.parquet")
    assert len(index) == len(photometry) == 1000
    assert index["source_id"].is_unique
    assert photometry["source_id"].equals(index["source_id"])
    fair = photometry[photometry["fair_comparison"]]
    assert (fair["flux"] / fair["true_flux"]).median() == pytest.approx(1.0, abs=0.02)
    files = sorted(tmp_path.glob("cutout_*.fits"))
    assert len(files) == 5
    with fits.open(files[0]) as hdus:
        assert hdus["SCI"].header["CTYPE1"] == "RA---TAN-SIP"
        assert [hdu.name for hdu in hdus[1:]] == ["SCI", "ERR", "DQ"]


@pytest.mark.slow
def test_given_catalogues_are_matched_without_a_truth(
    tmp_path: Path, without_truth: Callable[[Path, Path], Path]
) -> None:
    rng = np.random.default_rng(9)
    survey = make_survey_catalogue(rng, 40_000)
    survey.to_parquet(tmp_path / "made.parquet")
    make_external_catalogue(rng, survey, 4_000, offset_arcsec=(0.05, 0.1)).to_parquet(tmp_path / "other.parquet")
    uris = {
        "survey_uri": str(without_truth(tmp_path / "made.parquet", tmp_path / "mine.parquet")),
        "external_uri": str(without_truth(tmp_path / "other.parquet", tmp_path / "theirs.parquet")),
    }

    executed = run("catalogue-crossmatch", tmp_path, **uris)

    assert executed.images == 3
    assert not (tmp_path / "survey.parquet").exists()
    summary = executed.json("summary.json")
    assert summary["rows"] == 40_000
    assert summary["offset_north_arcsec"] == pytest.approx(0.1, abs=0.005)
    assert "actual_false_matches" not in summary


@pytest.mark.slow
def test_given_targets_are_cut_from_a_given_image(tmp_path: Path, a_level2_image: Path) -> None:
    with datamodels.open(a_level2_image) as image:
        x, y = np.random.default_rng(2).uniform(40, 470, (2, 30))
        # One of them lies on another detector.
        ra, dec = image.meta.wcs(np.append(x, 3000.0), np.append(y, 3000.0), with_bounding_box=False)
    targets = pd.DataFrame({"source_id": np.arange(31) + 500, "ra": ra, "dec": dec})
    targets.to_parquet(tmp_path / "targets.parquet")

    executed = run(
        "wfi-cutouts", tmp_path, image_uri=str(a_level2_image), targets_uri=str(tmp_path / "targets.parquet")
    )

    index = pd.read_parquet(tmp_path / "cutouts.parquet")
    assert executed.images == 2
    assert list(index["source_id"]) == list(range(500, 530))
    assert np.allclose(index["x"], x, atol=1e-3)
    assert not (tmp_path / "truth.parquet").exists()
    assert "true_flux" not in pd.read_parquet(tmp_path / "photometry.parquet")
