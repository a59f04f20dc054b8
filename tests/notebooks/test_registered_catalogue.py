"""The registered catalogue: each detector's pointing error is found, and what is stored is what was recorded."""

from pathlib import Path

import pandas as pd
import pytest

from tests.notebooks.notebook_runs import NotebookRun, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> NotebookRun:
    return run("registered-catalogue", tmp_path_factory.mktemp("registered"), detectors=["WFI05", "WFI07"])


def test_the_shift_and_the_roll_of_each_detector_are_found(registered: NotebookRun) -> None:
    found = pd.read_parquet(registered.output / "registration.parquet").set_index("detector")
    assert "All checks passed." in registered.printed
    assert registered.images == 2
    assert list(found.index) == ["WFI05", "WFI07"]
    # The pointing that the notebook makes wrong: 0.24" east, 0.20" south, 20" of roll.
    assert found["east"].to_numpy() == pytest.approx([0.24, 0.24], abs=0.01)
    assert found["north"].to_numpy() == pytest.approx([-0.20, -0.20], abs=0.01)
    assert ((found["roll"] - 20).abs() < 4 * found["roll_err"]).all()


def test_what_is_recorded_is_what_is_in_the_files(registered: NotebookRun) -> None:
    sources = pd.read_parquet(registered.output / "catalogue.parquet")
    assert registered.recorded["sources"] == len(sources) > 300
    assert registered.recorded["left_mas"] < 2
    assert sources["source_id"].is_unique
    assert {"ra", "dec", "mag", "detector", "clean"} <= set(sources.columns)
    assert "ra_before" not in sources.columns


def test_images_and_a_reference_that_are_given_are_registered_alike(registered: NotebookRun, tmp_path: Path) -> None:
    images = sorted(map(str, registered.output.glob("*.asdf")))
    # Against its own registered places the same images are found to be off by the same.
    reference = registered.output / "catalogue.parquet"

    again = run("registered-catalogue", tmp_path, image_uris=images, reference_uri=str(reference))

    assert again.recorded["sources"] == registered.recorded["sources"]
    for name in ("shift_east_arcsec", "shift_north_arcsec"):
        assert again.recorded[name] == pytest.approx(registered.recorded[name], abs=0.005)
