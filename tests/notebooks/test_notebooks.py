"""The example notebooks run at full size, pass their own checks and leave what they promise."""

import json
from pathlib import Path

import asdf
import pandas as pd
import papermill
import pytest
from astropy.io import fits
from roman_datamodels import datamodels

from tests.notebooks.notebook_runs import run

NOTEBOOKS = ("catalogue-crossmatch", "catalogue-sky-map", "light-curves", "wfi-cutouts")
FULL_DETECTOR = (4088, 4088)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_without_outputs_and_with_its_parameters(example_notebooks: Path, name: str) -> None:
    notebook = json.loads((example_notebooks / f"{name}.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]

    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert [cell["metadata"].get("tags") for cell in code].count(["parameters"]) == 1
    parameters = papermill.inspect_notebook(str(example_notebooks / f"{name}.ipynb"))
    assert parameters["seed"]["default"] == "20270501"
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
