"""`meridian archive …` on archives that nothing is known of but where they are."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner

from allocations.cli import main
from allocations.commands.archive import out, shown
from allocations.storage.archive.format import COMMIT
from allocations.storage.archive.places import Found, find_archives, open_place
from allocations.storage.archive.stores import Folder, StoreError
from allocations.storage.archive.write import write
from allocations.storage.tree.beneath import Root
from tests.storage.archive.buckets import s3_server
from tests.storage.archive.trees import make_everything, told, wanted

# Of its own, as all servers in a process have the same buckets.
BUCKET = "places"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root restores owners")


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    make_everything(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def place(tmp_path, tree):
    made = tmp_path / "archives" / "home" / "ann"
    archive(Folder(str(made)), tree)
    return str(made)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setattr(out, "width", 250)


def archive(store, tree):
    with Root(str(tree)) as root:
        return write(store, root, wanted(tree), name="2026-ann", made_at="now", about={"why": "age"}, part_paths=6)


def meridian(*arguments):
    return CliRunner().invoke(main, ["archive", *map(str, arguments)])


def test_archives_are_found_beneath_a_place_and_those_unfinished_or_damaged_are_told(place, tmp_path):
    for name in ("killed", "harmed"):
        shutil.copytree(place, tmp_path / "archives" / name)
    (tmp_path / "archives" / "killed" / COMMIT).unlink()
    (tmp_path / "archives" / "harmed" / COMMIT).write_text("{")
    (tmp_path / "archives" / "no archive").mkdir()
    told_of = [json.loads(line) for line in meridian("list", tmp_path / "archives", "--json").stdout.splitlines()]
    assert {Path(one["place"]).name: one["state"] for one in told_of} == {
        "ann": "kept",
        "killed": "unfinished",
        "harmed": "damaged",
    }
    (ann,) = (one for one in told_of if one["state"] == "kept")
    assert (ann["name"], ann["members"], ann["left"], ann["about"]) == ("2026-ann", 15, 0, {"why": "age"})
    shown_to_people = meridian("list", tmp_path / "archives")
    assert shown_to_people.exit_code == 0
    assert place in shown_to_people.stdout
    assert "unfinished" in shown_to_people.stdout


def test_files_are_listed_and_their_names_cannot_steer_a_terminal(place, tree):
    result = meridian("list", place)
    assert result.exit_code == 0
    rows = result.stdout.splitlines()
    assert len(rows) == len(told(tree))
    assert any(row.startswith("h") and row.endswith("data/plain -> data/deep/same") for row in rows)
    assert any(row.endswith(r"data/\xff\xfe not UTF-8\n") for row in rows)
    assert result.stdout.isascii() or "\N{GREEK SMALL LETTER ALPHA}" in result.stdout
    assert meridian("list", place, "data/deep").stdout.count("\n") == 2
    lines = [
        json.loads(line) for line in meridian("list", place, "data/plain", "data/sparse", "--json").stdout.splitlines()
    ]
    assert [(line["path"], line["type"]) for line in lines] == [("data/plain", "link"), ("data/sparse", "file")]
    refused = meridian("list", place, "data/plain", "nowhere")
    assert refused.exit_code == 1
    assert "nowhere: not in the archive" in refused.stderr


@pytest.mark.parametrize(
    ("path", "escaped"),
    [
        ("a\x1b[2J", r"a\x1b[2J"),
        ("a\\n", r"a\\n"),
        ("a\n", r"a\n"),
        ("\u202egpj.exe", r"\xe2\x80\xaegpj.exe"),
        ("ä", "ä"),
    ],
)
def test_what_steers_a_terminal_is_escaped(path, escaped):
    assert shown(path) == escaped


def test_an_archive_is_verified_and_damage_is_told(place):
    whole = meridian("verify", place)
    assert (whole.exit_code, whole.stdout[:21]) == (0, "The archive is whole:")
    assert json.loads(meridian("verify", place, "--json").stdout)["state"] == "kept"
    part = Path(place, "part-00001.tar.zst")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    damaged = meridian("verify", place)
    assert damaged.exit_code == 1
    assert damaged.stderr.startswith("meridian: part-00001.tar.zst: ")


def test_a_place_without_an_archive_is_told_and_nothing_is_made_there(tmp_path):
    place = tmp_path / "mistyped"
    for command in (["verify", place], ["restore", place, "--to", tmp_path], ["list", place]):
        refused = meridian(*command)
        assert refused.exit_code == 1
        assert "meridian: " in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not place.exists()
    (tmp_path / "empty").mkdir()
    assert "look at where archives are kept" in meridian("list", tmp_path / "empty").stderr
    with pytest.raises(StoreError, match="names no bucket"):
        open_place("s3:///x")


def test_everything_is_restored_beside_and_then_in_place(place, tree):
    before = told(tree)
    shutil.rmtree(tree / "data")
    beside = meridian("restore", place, "--to", tree)
    assert (beside.exit_code, beside.stderr) == (0, "")
    assert told(tree / "restored" / "2026-ann") == before
    shutil.rmtree(tree / "restored")
    in_place = meridian("restore", place, "--to", tree, "--in-place", "--json")
    assert json.loads(in_place.stdout)["members"] == 15
    assert told(tree) == before
    again = meridian("restore", place, "--to", tree, "--in-place")
    assert "Restored 0 files" in again.stdout
    assert "15 were there already" in again.stdout


def test_a_file_is_restored_and_what_is_in_the_way_is_told(place, tree):
    (tree / "data" / "plain").write_text("new")
    (tree / "data" / "sparse").unlink()
    result = meridian("restore", place, "data/plain", "/data/sparse", "data/none", "--to", tree, "--in-place")
    assert result.exit_code == 1
    assert "data/plain: something else is there, and was left" in result.stderr
    assert "data/none: it is not in the archive" in result.stderr
    assert (tree / "data" / "plain").read_text() == "new"
    assert (tree / "data" / "sparse").stat().st_size == 9_000_000
    refused = meridian("restore", place, "../outside", "--to", tree)
    assert (refused.exit_code, "leads out" in refused.stderr) == (1, True)


@pytest.mark.slow
def test_a_bucket_is_a_place_too(tree, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with s3_server() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        before = told(tree)
        for folder in ("home/ann", "home/ben"):
            archive(open_place(f"s3://{BUCKET}/{folder}/"), tree)
        boto3.client("s3").delete_object(Bucket=BUCKET, Key=f"home/ben/{COMMIT}")
        expected = [Found(f"s3://{BUCKET}/home/ann", True), Found(f"s3://{BUCKET}/home/ben", False)]
        for place in ("", "/", "/home", "/home/"):
            assert list(find_archives(f"s3://{BUCKET}{place}")) == expected
        assert list(find_archives(f"s3://{BUCKET}/home/an")) == []
        assert meridian("verify", f"s3://{BUCKET}/home/ann").exit_code == 0
        shutil.rmtree(tree / "data")
        assert meridian("restore", f"s3://{BUCKET}/home/ann", "--to", tree, "--in-place").exit_code == 0
        assert told(tree) == before
