"""The switch to real data at archives: MAST by astroquery and TAP services by pyvo, as in the pipeline image.

The services are stand-ins, see `archive_services`: the real ones cannot be reached from where tests run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord

from tests.notebooks.archive_services import Mast, MastHandler, Tap, TapHandler, running
from tests.notebooks.asking import Asking, a_port, prepared
from tests.notebooks.pipeline_environment import run_in_pipeline
from tests.notebooks.public_bucket import OPEN, environment_of, store_of_buckets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

GAIA = "gaiadr3.gaia_source"
IMPATIENT = "from roman_access import sessions\nsessions.SILENCE_SECONDS = 1.0\n"
PREPARED_QUERY = """
import os
from roman_access import query_region
def query(radius_deg, columns=["source_id", "ra", "dec", "pmra"], limit=350):
    return query_region(os.environ["SERVICE"], "gaiadr3.gaia_source", columns, 10.0, -44.0, radius_deg, limit=limit)
"""


@pytest.fixture
def tap() -> Tap:
    """A service with 400 stars within half a degree of (10, -44) that answers with 100 at once and 300 later."""
    rng = np.random.default_rng(1)
    stars = pd.DataFrame({"source_id": np.arange(400) + 4_000_000_000_000_000_000})
    stars["ra"], stars["dec"] = 10 + rng.uniform(-0.5, 0.5, 400), -44 + rng.uniform(-0.35, 0.35, 400)
    stars["pmra"] = np.where(stars.index % 2, 3.5, np.nan)
    return Tap(tables={GAIA: stars}, most_rows=100, most_rows_later=300)


@pytest.fixture
def querying(tap: Tap) -> Iterator[Asking]:
    with running(TapHandler, tap) as url:
        yield Asking({"SERVICE": f"{url}/tap"})
    assert tap.refused == []


def stars_within(tap: Tap, radius_deg: float) -> set[int]:
    stars = tap.tables[GAIA]
    places = SkyCoord(stars["ra"].to_numpy(), stars["dec"].to_numpy(), unit="deg")
    return set(stars["source_id"][places.separation(SkyCoord(10, -44, unit="deg")).deg < radius_deg])


def test_the_rows_of_a_circle_come_with_their_types(tap: Tap, querying: Asking) -> None:
    found = pd.DataFrame(querying.answer(f"{PREPARED_QUERY}print(query(0.1).to_json(orient='records'))"))
    expected = tap.tables[GAIA].set_index("source_id")
    assert set(found["source_id"]) == stars_within(tap, 0.1) != set()
    for row in found.to_dict("records"):
        star = expected.loc[row["source_id"]]
        assert (row["ra"], row["dec"]) == pytest.approx((star["ra"], star["dec"]), abs=1e-9)
        assert row["pmra"] == pytest.approx(star["pmra"], nan_ok=True)
    assert tap.asked == ["POST /tap/sync"]


def test_a_service_that_cuts_off_what_it_gives_at_once_is_asked_for_it_later(tap: Tap, querying: Asking) -> None:
    found = querying.answer(f"{PREPARED_QUERY}print(query(0.25)['source_id'].to_json(orient='values'))")
    assert set(found) == stars_within(tap, 0.25)
    assert 100 < len(found) < 300
    # No job is left behind.
    assert tap.asked[-1].startswith("DELETE")
    assert tap.jobs == {}


def test_a_cut_off_list_and_an_unknown_name_are_errors(querying: Asking) -> None:
    expected = {
        "query(9)": "ValueError: .* gives only 300 of the rows of .*: take a smaller radius",
        "query(0.2, limit=20)": "ValueError: more than 20 rows of .*: take a smaller radius or a larger limit",
        "query(0.1, ['teff'])": "ValueError: .* refused the query .*teff is not known here.*check the names of the tab",
    }
    for pattern, said in zip(expected.values(), querying.faults(PREPARED_QUERY, *expected), strict=True):
        assert re.match(pattern, said), said


@pytest.mark.parametrize("kind", ["dead", "silent", "another"])
def test_what_is_no_tap_service_or_does_not_answer_is_given_up(tap: Tap, kind: str) -> None:
    with a_port(answers=kind == "silent") as port, running(TapHandler, tap) as url:
        service = f"{url}/elsewhere" if kind == "another" else port
        (said,) = Asking({"SERVICE": service}).faults(IMPATIENT + PREPARED_QUERY, "query(0.1)")
    assert re.match("ConnectionError: .* gave no table .*check that this is the address of a TAP service", said), said


@pytest.fixture
def mast(tmp_path: Path) -> Mast:
    """One exposure at (10, -44) of three files, one of them for its owners only."""
    products = {}
    for name in ("wfi01_cal.asdf", "wfi02_cal.asdf", "wfi01_uncal.asdf"):
        products[f"r0001/r0001_{name}"] = tmp_path / name
        (tmp_path / name).write_bytes(name.encode() * 1000)
    owned, token = frozenset({"r0001/r0001_wfi02_cal.asdf"}), frozenset({"of-the-owner"})
    return Mast(position=(10.0, -44.0), products=products, exclusive=owned, tokens=token)


def where_mast_is(url: str, folder: Path) -> dict[str, str]:
    """The environment in which astroquery takes an address for MAST's."""
    (folder / "astropy").mkdir(parents=True)
    (folder / "astropy" / "astroquery.cfg").write_text(f"[mast]\nserver = {url}\n")
    return {"XDG_CONFIG_HOME": str(folder), "MAST_API_TOKEN": ""}


@pytest.fixture
def searching(mast: Mast, tmp_path: Path) -> Iterator[Asking]:
    with running(MastHandler, mast) as url:
        yield Asking(where_mast_is(url, tmp_path / "config"))


def test_files_of_a_place_are_found_and_downloaded_once(mast: Mast, searching: Asking, tmp_path: Path) -> None:
    # Half a degree away, so 30 arcminutes.
    found, nothing, paths = searching.answer(
        prepared(tmp_path / "input")
        + """
found = find_mast_files(10, -44.5, 30.1)
(ramps,) = find_mast_files(10, -44.5, 30.1, suffix="_uncal.asdf")
paths = [str(copy(ramps.uri)) for _ in range(2)]
print(json.dumps([[[one.name, one.uri, one.size_bytes] for one in found], find_mast_files(10, -44.5, 29.9), paths]))
"""
    )
    assert found == [
        ["r0001_wfi01_cal.asdf", "mast://roman/r0001/r0001_wfi01_cal.asdf", 14_000],
        # It does not say how large the other one is.
        ["r0001_wfi02_cal.asdf", "mast://roman/r0001/r0001_wfi02_cal.asdf", None],
    ]
    assert nothing == []
    assert paths == [str(tmp_path / "input" / "r0001_wfi01_uncal.asdf")] * 2
    assert (tmp_path / "input" / "r0001_wfi01_uncal.asdf").read_bytes() == b"wfi01_uncal.asdf" * 1000
    assert len([1 for asked in mast.asked if "retrieve_product" in asked]) == 1
    assert mast.refused == []


def test_a_token_of_the_environment_opens_restricted_files(mast: Mast, searching: Asking, tmp_path: Path) -> None:
    start, code = prepared(tmp_path / "input"), "copy('mast://roman/r0001/r0001_wfi02_cal.asdf')"
    (said,) = searching.faults(start, code)
    assert re.match("PermissionError: mast://.* is restricted: set MAST_API_TOKEN to a token of yours", said), said
    (said,) = searching.faults(start, code, MAST_API_TOKEN="of-nobody")
    assert re.match("PermissionError: MAST does not know the token in MAST_API_TOKEN: make another", said), said
    assert list((tmp_path / "input").iterdir()) == []
    assert searching.answer(f"{start}print({code}.stat().st_size)", MAST_API_TOKEN="of-the-owner") == 14_000
    assert mast.refused == []


def test_what_mast_does_not_have_says_what_to_do(mast: Mast, searching: Asking, tmp_path: Path) -> None:
    mast.more_exposures = 5000
    expected = {
        "find_mast_files(10, -44, 1)": "ValueError: 5000 exposures or more, .*: take a smaller radius",
        "find_mast_files(1, 2, 3, mission='rome')": "ConnectionError: MAST did not give .*check the mission's name",
        "copy('mast://roman/r0001/none_cal.asdf')": "FileNotFoundError: MAST has no mast://.*find it again",
        "copy('mast://roman')": "ValueError: mast://roman is no address at MAST: take one that",
    }
    for pattern, said in zip(expected.values(), searching.faults(prepared(tmp_path), *expected), strict=True):
        assert re.match(pattern, said), said


@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_mast_s_silence_is_given_up(tmp_path: Path, kind: str) -> None:
    with a_port(answers=kind == "silent") as url:
        said = Asking(where_mast_is(url, tmp_path / "config")).faults(
            IMPATIENT + prepared(tmp_path), "find_mast_files(10, -44, 3)", "copy('mast://roman/r0001/r0001_cal.asdf')"
        )
    assert len(said) == 2
    for one in said:
        assert re.match("ConnectionError: MAST did not give .*the network, then try again later", one), one


def test_a_notebook_takes_its_images_from_mast_and_a_bucket_and_its_reference_from_tap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images and places as local files give the same registration."""
    made, again = tmp_path / "made", tmp_path / "again"
    made.mkdir()
    again.mkdir()
    first = run_in_pipeline("registered-catalogue", made, detectors=["WFI05", "WFI07"])
    one, other = sorted(made.glob("*.asdf"))
    stars = pd.read_parquet(made / "catalogue.parquet").rename(columns={"mag": "phot_g_mean_mag"})
    stars = stars.assign(pmra=0.0, pmdec=0.0)
    tap = Tap(tables={GAIA: stars}, most_rows=len(stars) // 2)
    mast = Mast(products={f"exposure/{one.name}": one})
    with store_of_buckets() as store, running(TapHandler, tap) as tap_url, running(MastHandler, mast) as mast_url:
        store.put(OPEN, f"l2/{other.name}", other)
        environment = environment_of(store.url) | where_mast_is(mast_url, tmp_path / "config")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        second = run_in_pipeline(
            "registered-catalogue",
            again,
            image_uris=[f"mast://roman/exposure/{one.name}", f"s3://{OPEN}/l2/{other.name}"],
            reference_uri=f"tap:{tap_url}/tap",
        )
    assert (mast.refused, tap.refused) == ([], [])
    assert tap.asked[-1].startswith("DELETE")
    assert second.recorded["sources"] == first.recorded["sources"]
    for name in ("shift_east_arcsec", "shift_north_arcsec"):
        assert second.recorded[name] == pytest.approx(first.recorded[name], abs=0.005)
