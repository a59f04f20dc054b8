"""The sky map: every row of many files is counted, once, in bounded memory; the faults of the survey are seen."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from roman_access import open_dataset

from tests.notebooks.notebook_runs import NotebookRun, run

pytestmark = pytest.mark.slow

ROWS = 1_500_000


@pytest.fixture(scope="module")
def sky_map(tmp_path_factory: pytest.TempPathFactory) -> NotebookRun:
    return run("catalogue-sky-map", tmp_path_factory.mktemp("sky-map"), n_rows=ROWS, n_files=5, batch_rows=100_000)


def test_every_row_of_every_file_is_counted_once(sky_map: NotebookRun) -> None:
    files = sorted((sky_map.output / "catalogue").glob("*.parquet"))
    assert len(files) == 5
    assert sky_map.images == 3
    assert sky_map.recorded["rows"] == ROWS
    with fits.open(sky_map.output / "maps.fits") as hdus:
        total = hdus["GALAXIES"].data.sum(dtype=float) + hdus["STARS"].data.sum(dtype=float)
    assert total == ROWS


def test_the_maps_say_where_their_cells_are(sky_map: NotebookRun) -> None:
    rows = pd.read_parquet(sky_map.output / "catalogue", columns=["ra", "dec", "half_light_radius"])
    stars = rows[rows["half_light_radius"] < 0.125]
    with fits.open(sky_map.output / "maps.fits") as hdus:
        counts, wcs = hdus["STARS"].data, WCS(hdus["STARS"].header)
    x, y = wcs.world_to_pixel(SkyCoord(stars["ra"], stars["dec"], unit="deg"))
    edges = [np.arange(size + 1) - 0.5 for size in counts.shape]

    assert np.array_equal(np.histogram2d(y, x, bins=edges)[0], counts)


def test_what_is_recorded_is_what_was_put_in(sky_map: NotebookRun) -> None:
    assert sky_map.recorded["slope"] == pytest.approx(0.30, abs=0.01)
    assert sky_map.recorded["area_sq_deg"] == pytest.approx(3371, rel=0.06)
    assert 0.1 < sky_map.recorded["excess_scatter"] < 0.2


def test_another_catalogue_by_address_needs_no_truth(
    sky_map: NotebookRun, tmp_path: Path, without_truth: Callable[[Path, Path], Path]
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    for part in sorted((sky_map.output / "catalogue").glob("*.parquet"))[:2]:
        without_truth(part, folder / part.name)
    (folder / "_metadata").write_text("not Parquet")

    executed = run("catalogue-sky-map", tmp_path, catalogue_uri=str(folder))

    assert executed.recorded["rows"] == open_dataset(str(folder)).count_rows() == 2 * ROWS // 5
    assert not (tmp_path / "catalogue").exists()
    assert "All checks passed." in executed.printed
