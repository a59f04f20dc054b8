"""The runner's record: what is in it, and that the hash of an output is of what counts alone."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from allocations.runs.provenance import ended_record, submitted_record
from hub.batch.provenance import (
    FILES,
    WIDGET,
    cell_hashes,
    declared,
    describe,
    environment_hash,
    git_revision,
    installed,
    make_record,
)
from tests.batch.batch_harness import notebook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.batch.batch_harness import RunnerOfTest

    MakeRun = Callable[..., RunnerOfTest]


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data: Any) -> dict[str, Any]:
    kinds = {kind.replace("__", "/"): content for kind, content in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": kinds}


def executed(*outputs: dict[str, Any], source: str = "x", **cell: Any) -> dict[str, Any]:
    made = {"cell_type": "code", "metadata": {}, "source": source, "execution_count": 1, "outputs": list(outputs)}
    return {"cells": [made | cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


SAME = {
    "a count": (executed(), executed(execution_count=7)),
    "metadata": (executed(), executed(metadata={"papermill": {"start_time": "now"}, "tags": ["mine"]})),
    "pieces of stdout": (executed(stream("ab")), executed(stream("a"), stream("b"))),
    "stderr": (executed(stream("a")), executed(stream("a"), stream("\r50%", "stderr"))),
    "lines": (executed(shown(text__plain="a\nb")), executed(shown(text__plain=["a\n", "b"]))),
    "addresses": (
        executed(shown(text__plain="<Line2D at 0x7f3a12b4c5d0>")),
        executed(shown(text__plain="<Line2D at 0x7f00ffb4c5d0>")),
    ),
    "widgets": (executed(shown(**{WIDGET: {"model_id": "a"}})), executed(shown(**{WIDGET: {"model_id": "b"}}))),
    "source as lines": (executed(source="a\nb"), executed(source=["a\n", "b"])),  # type: ignore[arg-type]
}
OTHER = {
    "source": (executed(source="x"), executed(source="y")),
    "stdout": (executed(stream("a")), executed(stream("b"))),
    "an image": (executed(shown(image__png="aaaa")), executed(shown(image__png="bbbb"))),
    "a number": (executed(shown(text__plain="0.1")), executed(shown(text__plain="0.2"))),
    "JSON": (executed(shown(application__json={"a": 1})), executed(shown(application__json={"a": 2}))),
    "an error": (
        executed({"output_type": "error", "ename": "A", "evalue": "", "traceback": []}),
        executed({"output_type": "error", "ename": "B", "evalue": "", "traceback": []}),
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_what_says_nothing_of_the_result_does_not_count(what):
    one, two = SAME[what]
    assert cell_hashes(one) == cell_hashes(two)


@pytest.mark.parametrize("what", OTHER)
def test_whatever_a_cell_put_out_counts(what):
    one, two = OTHER[what]
    assert cell_hashes(one) != cell_hashes(two)


def test_papermills_own_cells_are_not_among_those_of_the_notebook():
    plain = executed(stream("a"))
    injected = copy.deepcopy(plain)
    injected["cells"].insert(0, executed(source="n = 2", metadata={"tags": ["injected-parameters"]})["cells"][0])
    assert cell_hashes(injected) == cell_hashes(plain)


def test_what_is_nested_in_odd_ways_is_hashed_all_the_same():
    assert len(cell_hashes({"cells": [{}, {"source": None, "outputs": [{}]}, {"outputs": [{"data": None}]}]})) == 3


def test_packages_are_known_by_their_folders_and_of_two_the_first_counts(tmp_path):
    for name in ("first/Foo_Bar-1.2.dist-info", "first/baz-2.0+local.dist-info", "second/foo.bar-9.dist-info"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "first/plain").mkdir()
    found = installed([str(tmp_path / "first"), str(tmp_path / "second"), str(tmp_path / "none")])
    assert found == ["baz==2.0+local", "foo-bar==1.2"]


def test_the_packages_are_those_that_the_interpreter_itself_names():
    code = "import importlib.metadata as m, json; print(json.dumps([[d.name, d.version] for d in m.distributions()]))"
    said = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    found = dict(one.split("==") for one in installed(sys.path))
    named = {name.lower().replace("_", "-").replace(".", "-"): version for name, version in said}
    assert found.keys() >= named.keys() - {"meridian-platform"}
    assert {name: found[name] for name in ("numpy", "papermill")} == {
        name: named[name] for name in ("numpy", "papermill")
    }


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_revision_of_a_repository_is_read_loose_packed_and_detached(tmp_path):
    assert git_revision(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert git_revision(tmp_path) is None, "there is no commit"
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "a")
    revision = git(tmp_path, "rev-parse", "HEAD")
    assert git_revision(tmp_path) == revision
    git(tmp_path, "pack-refs", "--all")
    assert git_revision(tmp_path) == revision
    git(tmp_path, "checkout", "--quiet", "--detach")
    assert git_revision(tmp_path) == revision


@pytest.mark.parametrize("head", ["ref: ../../secret", "ref: /etc/passwd", "nonsense", "\xff"])
def test_a_head_that_points_elsewhere_is_no_revision(tmp_path, head):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_text(head, encoding="latin-1")
    assert git_revision(tmp_path) is None


def test_files_are_declared_with_their_hashes_and_addresses_without(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert describe(str(path)) == {"path": str(path), "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert describe("s3://bucket/key")["sha256"] is None
    with pytest.raises(FileNotFoundError):
        describe(str(tmp_path / "none"))
    book = executed(
        shown(**{FILES: {"inputs": [{"path": "a", "bytes": 1, "sha256": "x"}, "odd", {"path": 7}]}}),
        shown(**{FILES: {"inputs": [{"path": "a", "bytes": 2, "sha256": "y"}], "outputs": None}}),
    )
    assert declared(book, "inputs") == [{"path": "a", "bytes": 2, "sha256": "y"}]
    assert declared(book, "outputs") == []


def test_the_service_takes_what_the_runner_wrote(tmp_path):
    book = b'{"cells": []}'
    said = json.dumps(make_record(1, book, executed(stream("a")), tmp_path, sys.executable)).encode()
    stored = json.loads(ended_record(submitted_record(book), said, 1, "image@sha256:1", None) or "")
    assert stored["notebook_sha256"] == hashlib.sha256(book).hexdigest()
    assert (stored["image_id"], stored["packages_count"] > 100, len(stored["cells"])) == ("image@sha256:1", True, 1)
    assert "packages" not in stored, "ten thousand runs have one list"


@pytest.mark.slow
def test_a_run_leaves_the_record_of_what_it_was_made_of(make_run: MakeRun) -> None:
    code = "from hub.batch.provenance import inputs, outputs\nopen('made', 'w').write('abc')\noutputs('made')\ninputs('s3://b/k')"
    run = make_run(notebook(code, "n * 2", defaults="n = 1"), parameters={"n": 21})
    run.start()
    assert run.finish()["outcome"] == "succeeded"
    record = json.loads(run.directory.provenance.read_text())
    assert record["notebook_sha256"] == hashlib.sha256(run.directory.input.read_bytes()).hexdigest()
    assert record["outputs"] == [{"path": "made", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}]
    assert record["inputs"][0]["path"] == "s3://b/k"
    assert len(record["cells"]) == 3, "the injected cell is not the person's"
    assert record["environment_sha256"] == environment_hash(record["interpreter"], record["packages"])
    assert any(one.startswith("papermill==") for one in record["packages"])
    again = nbformat.read(run.directory.output, 4)
    assert record["output_sha256"] == hashlib.sha256("".join(cell_hashes(again)).encode()).hexdigest()


@pytest.mark.slow
def test_a_failed_run_has_a_record_as_well(make_run: MakeRun) -> None:
    run = make_run(notebook("print('a')", "1 / 0"))
    run.start()
    assert run.finish()["outcome"] == "failed"
    record = json.loads(run.directory.provenance.read_text())
    assert (len(record["cells"]), bool(record["output_sha256"])) == (2, True)
