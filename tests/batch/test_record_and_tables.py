"""What notebooks record is read again however odd they are; tables of parameters are read as they were meant."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.batch import record
from hub.batch.parameters import ParameterError
from hub.batch.record import BYTES_MAX, OURS, SCRAPBOOK, read_recorded, read_recorded_file
from hub.batch.tables import (
    TableError,
    flat_results,
    grid_rows,
    parse_csv,
    parse_grid,
    read_table,
    to_csv,
    write_parquet,
)

if TYPE_CHECKING:
    from pathlib import Path

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def book(*data: Any) -> dict[str, Any]:
    return {"cells": [{"outputs": [{"output_type": "display_data", "data": one}]} for one in data]}


def test_what_is_recorded_is_read_and_the_last_of_a_name_counts() -> None:
    recorded = read_recorded(
        book(
            {OURS: {"completeness": 0.5}, "text/plain": "…"},
            {OURS: {"completeness": 0.93, "curve": [1, 2.5, None]}},
            {SCRAPBOOK: {"name": "depth", "data": {"mag": 26.1}, "encoder": "json", "version": 1}},
            {"text/plain": "3"},
        )
    )
    assert recorded == {"completeness": 0.93, "curve": [1, 2.5, None], "depth": {"mag": 26.1}}


@given(JSON, st.dictionaries(st.text(max_size=120), JSON, max_size=4))
def test_a_notebook_of_any_form_is_read_and_what_is_kept_can_be_sent(anything: Any, values: dict[str, Any]) -> None:
    for one in (
        {"cells": anything},
        {"cells": [anything]},
        {"cells": [{"outputs": anything}]},
        book(anything),
        book({OURS: anything, SCRAPBOOK: anything}),
        book({OURS: values}, {SCRAPBOOK: {"name": "n", "data": anything}}),
    ):
        kept = json.dumps(read_recorded(one), allow_nan=False)
        assert len(kept) <= BYTES_MAX
        json.loads(kept)


def test_too_much_is_left_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    much = book({OURS: {"image": "x" * BYTES_MAX, "small": 1}}, {OURS: {f"n{n}": "y" * 900 for n in range(40)}})
    kept = read_recorded(much)
    assert "image" not in kept
    assert kept["small"] == 1
    assert 10 < len(kept) < 20
    path = tmp_path / "output.ipynb"
    assert read_recorded_file(path) == {}
    path.write_text(json.dumps(much))
    assert read_recorded_file(path) == kept
    (tmp_path / "link.ipynb").symlink_to(path)
    assert read_recorded_file(tmp_path / "link.ipynb") == {}
    path.write_text("[" * 100_000 + OURS)
    assert read_recorded_file(path) == {}


def test_record_takes_what_the_fields_packages_give(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display  # noqa: PLC0415  # where it goes is replaced: there is no kernel here

    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))
    record("a", np.float64(0.25))
    record("b", np.array([1, 2]))
    record("c", {"nan": math.nan, "yes": np.bool_(True), "n": np.int64(3)})
    assert read_recorded(book(*shown)) == {"a": 0.25, "b": [1, 2], "c": {"nan": None, "yes": True, "n": 3}}
    for name, value, error in (
        ("", 1, ValueError),
        ("n" * 101, 1, ValueError),
        ("x", "y" * BYTES_MAX, ValueError),
        ("x", {1}, TypeError),
        ("x", {1: 2}, TypeError),
    ):
        with pytest.raises(error):
            record(name, value)


def test_a_table_is_typed_as_parameters_are_and_its_faults_are_placed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('﻿detector, filter,gain,cut\r\n1,F158,1.5,"[1, 2]"\r\n\r\n02,no,,12:30:00\r\n', encoding="utf-8")
    assert read_table(path) == [
        {"detector": 1, "filter": "F158", "gain": 1.5, "cut": [1, 2]},
        {"detector": 2, "filter": "no", "cut": "12:30:00"},
    ]
    for text, said in (
        ("", "must begin"),
        ("a,,b\n", "must begin"),
        ("a,a\n1,2\n", "two columns"),
        ("a,b\n1\n", "line 2"),
        ("a\n1\n[1\n", "line 3"),
        ("a\nnan\n", "line 2"),
    ):
        with pytest.raises(TableError, match=said):
            parse_csv(text)
    (tmp_path / "latin.csv").write_bytes("é\n1\n".encode("latin-1"))
    for bad in ("latin.csv", "absent.csv", "absent.parquet"):
        with pytest.raises(TableError):
            read_table(tmp_path / bad)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2, 3", [1, 2, 3]),
        ("1..4", [1, 2, 3, 4]),
        ("-1..1", [-1, 0, 1]),
        ("0..1..0.25", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("0..0.3..0.1", [0.0, 0.1, 0.2, 0.3]),
        ("1..9..4", [1, 5, 9]),
        ("F158", ["F158"]),
        ("[a, [1, 2]]", ["a", [1, 2]]),
        ('"a,b",c', ["a,b", "c"]),
        ("5..1", []),
    ],
)
def test_a_grid_is_what_was_meant(text: str, values: list[Any]) -> None:
    assert parse_grid([("x", text)]) == {"x": values}


def test_a_grid_that_is_none_is_refused() -> None:
    for bad in ("1..2..0", "0..1e9..1e-9", "1..99999"):
        with pytest.raises(TableError):
            parse_grid([("x", bad)])
    with pytest.raises(TableError, match="twice"):
        parse_grid([("x", "1"), ("x", "2")])
    with pytest.raises(ParameterError):
        parse_grid([("x", "[1")])
    assert grid_rows({"a": [1, 2], "b": "xy"}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def result(row: int, **recorded: Any) -> dict[str, Any]:
    return {
        "row": row,
        "run": f"r-{row}",
        "state": "succeeded",
        "error": None,
        "seconds": 1.5,
        "parameters": {"x": row, "state": "dark"},
        "recorded": recorded,
        "charged_microcredits": 13,
        "charged_microcredits_before": 7,
    }


def test_results_are_a_table_in_which_no_name_hides_another(tmp_path: Path) -> None:
    results = [result(0, x=0.5, curve=[1, 2]), result(1, mixed="a"), result(2, mixed=1)]
    columns, rows = flat_results(results)
    assert columns[:6] == ["row", "x", "parameter_state", "recorded_x", "curve", "mixed"]
    assert (rows[0]["x"], rows[0]["recorded_x"], rows[0]["credits"]) == (0, 0.5, 0.00002)
    assert to_csv(results).splitlines()[1] == '0,0,dark,0.5,"[1, 2]",,r-0,succeeded,,1.5,2e-05'
    path = tmp_path / "results.parquet"
    write_parquet(results, path)
    read = read_table(path)
    assert [row.get("mixed") for row in read] == [None, '"a"', "1"]
    assert read[0]["curve"] == [1, 2]
