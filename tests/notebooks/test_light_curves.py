"""The light curves: features agree with plain formulas, and periods and events with the truth."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from roman_synthetic import make_light_curves
from scipy.stats import chi2

from tests.notebooks.notebook_runs import NotebookRun, run

OBJECTS = 5_000


@pytest.fixture(scope="module")
def light_curves(tmp_path_factory: pytest.TempPathFactory) -> NotebookRun:
    return run("light-curves", tmp_path_factory.mktemp("light-curves"), n_objects=OBJECTS)


@pytest.mark.slow
def test_the_notebook_finds_periods_and_events(light_curves: NotebookRun) -> None:
    truth, _ = make_light_curves(np.random.default_rng(20270501), OBJECTS, 180, 72.0)
    periods = pd.read_parquet(light_curves.output / "periods.parquet")
    events = pd.read_parquet(light_curves.output / "events.parquet")
    true_period = truth["period_days"].loc[periods.index[periods["periodic"]]]
    ratio = periods.loc[periods["periodic"], "period_days"] / true_period

    assert light_curves.images == 4
    assert ((ratio - 1).abs() < 0.02).mean() > 0.85
    assert ((ratio - 1).abs().lt(0.02) | (ratio - 0.5).abs().lt(0.01)).mean() > 0.97
    assert (truth["kind"].loc[events.index] == "microlensing").mean() > 0.9
    assert np.log(events["einstein_days"] / truth["einstein_days"].loc[events.index]).abs().median() < 0.05


@pytest.mark.slow
def test_what_is_recorded_is_what_is_in_the_files(light_curves: NotebookRun) -> None:
    features = pd.read_parquet(light_curves.output / "features.parquet")
    assert light_curves.recorded == {
        "objects": OBJECTS,
        "variable": int(features["variable"].sum()),
        "periodic": int(pd.read_parquet(light_curves.output / "periods.parquet")["periodic"].sum()),
        "events": len(pd.read_parquet(light_curves.output / "events.parquet")),
    }


@pytest.mark.slow
def test_shards_of_other_light_curves_share_out_the_objects(
    light_curves: NotebookRun, tmp_path: Path, without_truth: Callable[[Path, Path], Path]
) -> None:
    curves = without_truth(light_curves.output / "light_curves.parquet", tmp_path / "curves.parquet")

    executed = run("light-curves", tmp_path, light_curves_uri=str(curves), shard=1, n_shards=4)

    whole = pd.read_parquet(light_curves.output / "features.parquet").drop(columns=["variable", "p_value"])
    share = pd.read_parquet(tmp_path / "features.parquet")
    assert executed.images == 3
    assert list(share.index) == list(range(1, OBJECTS, 4))
    pd.testing.assert_frame_equal(share.drop(columns=["variable", "p_value"]), whole.loc[share.index])


def test_the_scatter_of_constant_objects_is_what_their_errors_say() -> None:
    objects, observations = make_light_curves(np.random.default_rng(5), 2_000, 60, 30.0)
    constant = observations[observations["object_id"].isin(objects.index[objects["kind"] == "constant"])]
    weighted = constant.assign(weight=constant["mag_err"] ** -2)
    weighted["product"] = weighted["weight"] * weighted["mag"]
    sums = weighted.groupby("object_id")[["product", "weight"]].transform("sum")
    terms = weighted["weight"] * (weighted["mag"] - sums["product"] / sums["weight"]) ** 2
    by_object = terms.groupby(weighted["object_id"]).agg(["sum", "size"])

    probability = chi2.sf(by_object["sum"], by_object["size"] - 1)

    assert np.mean(probability) == pytest.approx(0.5, abs=0.03)
    assert np.mean(probability < 0.05) == pytest.approx(0.05, abs=0.02)


def test_each_kind_is_there_and_varies_as_said() -> None:
    objects, observations = make_light_curves(np.random.default_rng(6), 4_000, 100, 72.0)
    observed = observations.groupby("object_id")["mag"].agg(["min", "max"])
    bright = objects[objects["mean_mag"] < 18]
    spread = (observed["max"] - observed["min"]).loc[bright.index]

    assert set(objects["kind"]) == {"constant", "pulsator", "eclipsing", "rotator", "microlensing"}
    assert (spread - bright["amplitude_mag"]).abs().quantile(0.9) < 0.1
    assert objects.loc[objects["kind"] == "microlensing", ["peak_days", "einstein_days"]].notna().all(axis=None)
    assert objects["period_days"].notna().equals(objects["kind"].isin(["pulsator", "eclipsing", "rotator"]))


def test_the_same_seed_gives_the_same_light_curves() -> None:
    one, other = (make_light_curves(np.random.default_rng(7), 50, 20, 10.0) for _ in range(2))
    pd.testing.assert_frame_equal(one[0], other[0])
    pd.testing.assert_frame_equal(one[1], other[1])
