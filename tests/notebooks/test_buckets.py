"""The switch to real data in buckets, read by s3fs as in the pipeline image from moto, a real S3 server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from tests.notebooks.asking import Asking, a_port, prepared
from tests.notebooks.public_bucket import CLOSED, OPEN, Store, environment_of, store_of_buckets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with store_of_buckets() as made:
        yield made


@pytest.fixture
def asking(store: Store) -> Asking:
    store.faults.choose = lambda _number, _method, _path: ""
    store.faults.requests.clear()
    return Asking(environment_of(store.url))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.parquet"
    pd.DataFrame({"number": np.arange(10), "half": np.arange(10) / 2}).to_parquet(path)
    return path


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    return tmp_path / "input"


def test_a_folder_of_parts_is_one_table_without_what_is_hidden(asking: Asking, store: Store, table: Path) -> None:
    for key in ("a.parquet", "deep/er/b.parquet", "_c.parquet", ".d/e.parquet", "_SUCCESS", "read.me"):
        store.put(OPEN, f"parts [1]/{key}", table)
    rows = """
from roman_access import open_dataset
import pyarrow.dataset as ds
table = open_dataset("s3://open/parts [1]/").to_table(columns=["number"], filter=ds.field("half") > 4)
print(json.dumps(table.to_pydict()))
"""
    assert asking.answer(rows) == {"number": [9, 9]}


def test_one_file_is_a_table_whatever_its_name_and_needs_no_listing(asking: Asking, store: Store, table: Path) -> None:
    store.put(OPEN, "release/_rows", table)
    rows = "from roman_access import open_dataset\nprint(open_dataset('s3://open/release/_rows').count_rows())"
    assert asking.answer(rows) == 10
    assert not [path for _, path in store.faults.requests if "list-type" in path]


def test_credentials_of_the_environment_open_what_is_not_public(asking: Asking, store: Store, table: Path) -> None:
    store.put(CLOSED, "rows.parquet", table)
    rows = "from roman_access import open_dataset\nprint(open_dataset('s3://closed/rows.parquet').count_rows())"
    keys = {"AWS_ACCESS_KEY_ID": "owner", "AWS_SECRET_ACCESS_KEY": "key", "ROMAN_ACCESS_ANONYMOUS": "0"}
    assert asking.answer(rows, **keys) == 10


def test_a_file_is_copied_once(asking: Asking, store: Store, table: Path, copies: Path) -> None:
    store.put(OPEN, "images/one.asdf", table)
    twice = "paths = {str(copy('s3://open/images/one.asdf')) for _ in range(2)}\nprint(json.dumps(list(paths)))"
    assert asking.answer(prepared(copies) + twice) == [str(copies / "one.asdf")]
    assert (copies / "one.asdf").read_bytes() == table.read_bytes()
    assert len([1 for method, _ in store.faults.requests if method == "GET"]) == 1


def test_what_cannot_be_read_says_what_to_do(asking: Asking, store: Store, table: Path, copies: Path) -> None:
    store.put(CLOSED, "secret", table)
    expected = {
        "open_dataset('s3://no-such/rows')": "FileNotFoundError: .*check the names of the bucket",
        "open_dataset('s3://open/nothing/')": "FileNotFoundError: .*no Parquet files lie there.*check the names",
        "open_dataset('no/such/file')": "FileNotFoundError: no/such/file is not here: give a path",
        "copy('s3://open/nothing.asdf')": "FileNotFoundError: .*check the names of the bucket",
        "copy('s3://no-such/one.asdf')": "FileNotFoundError: .*check the names of the bucket",
        "copy('nothing.asdf')": "FileNotFoundError: nothing.asdf is not here: give a path",
        "copy('s3://closed/secret')": "PermissionError: .*otherwise AWS_ACCESS_KEY_ID",
    }
    for pattern, said in zip(expected.values(), asking.faults(prepared(copies), *expected), strict=True):
        assert re.match(pattern, said), said
    assert list(copies.iterdir()) == []


def test_without_credentials_the_way_to_public_buckets_is_said(asking: Asking, copies: Path) -> None:
    codes = ["open_dataset('s3://open/images')", "copy('s3://open/images/one.asdf')"]
    for said in asking.faults(prepared(copies), *codes, ROMAN_ACCESS_ANONYMOUS="0"):
        assert re.match("PermissionError: .*set ROMAN_ACCESS_ANONYMOUS=1 for a public bucket", said), said


@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_a_store_that_does_not_answer_is_given_up(asking: Asking, copies: Path, kind: str) -> None:
    quick = "import s3fs\ns3fs.S3FileSystem.read_timeout, s3fs.S3FileSystem.retries = 1, 2\n"
    codes = ["open_dataset('s3://open/rows')", "copy('s3://open/one.asdf')"]
    with a_port(answers=kind == "silent") as url:
        for said in asking.faults(quick + prepared(copies), *codes, AWS_ENDPOINT_URL=url):
            assert re.match("ConnectionError: the store of s3://open/.* does not answer .*AWS_ENDPOINT_URL", said), said


def test_a_copy_that_breaks_off_leaves_nothing(asking: Asking, store: Store, table: Path, copies: Path) -> None:
    store.put(OPEN, "images/two.asdf", table)
    store.faults.choose = lambda _number, method, _path: "cut" if method == "GET" else ""
    quick = "import s3fs\ns3fs.S3FileSystem.retries = 2\n"
    (said,) = asking.faults(quick + prepared(copies), "copy('s3://open/images/two.asdf')")
    assert "Error: " in said
    assert list(copies.iterdir()) == []
