"""Records of runs, and replays: the same notebook again, and a true word on whether it made the same."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from allocations.errors import InvalidInputError, NotFoundError
from allocations.runs.files import INPUT, PROVENANCE
from allocations.runs.models import Outcome
from allocations.runs.provenance import ended_record, submitted_record
from allocations.runs.service import Finish
from tests.allocations.test_runs import NOTEBOOK, PARAMETRIC, submit

if TYPE_CHECKING:
    from pathlib import Path

    from allocations.runs.models import RunView
    from allocations.runs.provenance import Comparison
    from tests.allocations.conftest import Bench

PACKAGES = ["astropy==7.1.0", "numpy==2.3.1"]


def said(cells: tuple[str, ...] = ("a", "b"), packages: list[str] = PACKAGES, **changes: Any) -> dict[str, Any]:
    """What a runner writes down."""
    environment = hashlib.sha256("\n".join(["3.12.3", *packages]).encode()).hexdigest()
    hashes = [hashlib.sha256(cell.encode()).hexdigest() for cell in cells]
    return {
        "format": 1,
        "attempt": 1,
        "notebook_sha256": "0" * 64,
        "interpreter": "3.12.3",
        "platform": "Linux",
        "packages": packages,
        "environment_sha256": environment,
        "node": "here",
        "git_revision": None,
        "inputs": [],
        "outputs": [],
        "output_sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
        "cells": [one[:16] for one in hashes],
        **changes,
    }


def end(
    bench: Bench, store: Path, run_id: str, record: dict[str, Any] | bytes | None, image_id: str | None = None
) -> RunView:
    """Let a run begin and end, leaving a record."""
    bench.services.runs.claim("batch", 5)
    if record is not None:
        content = record if isinstance(record, bytes) else json.dumps(record).encode()
        (store / run_id / PROVENANCE).write_bytes(content)
    now = bench.clock.at_ms
    finish = Finish(1, Outcome.SUCCEEDED, now, now, image_id=image_id, node="node-7")
    return bench.services.runs.finish(run_id, finish)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_a_record_is_taken_in_at_the_end_and_the_clusters_word_counts(bench: Bench, store: Path) -> None:
    run = submit(bench, bench.accept("ann"))
    before = bench.services.records.of("ann", run.id).provenance
    assert before is not None
    kept = (store / run.id / INPUT).read_bytes()
    assert before.notebook_sha256 == hashlib.sha256(kept).hexdigest()
    end(bench, store, run.id, said(), image_id="base@sha256:1")
    record = bench.services.records.of("ann", run.id)
    assert record.provenance is not None
    assert record.provenance.notebook_sha256 == before.notebook_sha256, "not what the runner says of it"
    assert (record.provenance.image_id, record.provenance.node) == ("base@sha256:1", "node-7")
    assert record.packages == PACKAGES
    assert record.comparison is None
    with pytest.raises(NotFoundError):
        bench.services.records.of("bob", run.id)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"attempt": 1}',
        json.dumps(said(attempt=2)).encode(),
        json.dumps(said(output_sha256="<b>")).encode(),
        json.dumps(said(cells=())).replace('"node": "here"', '"node": "\\ud800"').encode(),
        json.dumps(said(platform="x" * 10_000)).encode(),
    ],
)
def test_what_a_notebook_wrote_over_its_record_is_not_taken(bench: Bench, store: Path, content: bytes | None) -> None:
    run = submit(bench, bench.accept("ann"))
    assert end(bench, store, run.id, content).state == "succeeded"
    record = bench.services.records.of("ann", run.id)
    assert record.provenance is not None
    assert (record.provenance.output_sha256, record.provenance.node) == (None, "node-7")


def test_packages_that_were_written_over_later_are_not_shown(bench: Bench, store: Path) -> None:
    run = submit(bench, bench.accept("ann"))
    end(bench, store, run.id, said())
    (store / run.id / PROVENANCE).write_text(json.dumps(said(packages=["numpy==1.0"])))
    assert bench.services.records.of("ann", run.id).packages is None


def test_a_run_from_before_there_were_records_gets_the_runners_hash() -> None:
    stored = json.loads(ended_record(None, json.dumps(said()).encode(), 1, None, None) or "")
    assert stored["notebook_sha256"] == "0" * 64
    assert ended_record(None, b"", 1, "image", "node") is None


def replayed(bench: Bench, store: Path, original: dict[str, Any] | None, again: dict[str, Any] | None) -> Comparison:
    run = submit(bench, bench.accept("ann"), notebook=PARAMETRIC, parameters={"n": 1}, max_seconds=77)
    end(bench, store, run.id, original, "base@sha256:1")
    replay = bench.services.records.replay("ann", run.id, bench.key())
    assert (replay.replay_of, replay.parameters, replay.max_seconds) == (run.id, {"n": 1}, 77)
    assert (replay.image, replay.size, replay.name) == (run.image, run.size, run.name)
    assert (store / replay.id / INPUT).read_bytes() == (store / run.id / INPUT).read_bytes()
    assert bench.services.records.of("ann", replay.id).comparison is None, "it has not ended"
    end(bench, store, replay.id, again, "base@sha256:1")
    comparison = bench.services.records.of("ann", replay.id).comparison
    assert comparison is not None
    assert comparison.original == run.id
    return comparison


def test_a_replay_with_the_same_output_says_so(bench: Bench, store: Path) -> None:
    found = replayed(bench, store, said(), said())
    assert (found.same_output, found.differences) == (True, [])
    assert found.sentence.startswith("Same output")


def test_a_replay_with_another_output_names_the_cell(bench: Bench, store: Path) -> None:
    found = replayed(bench, store, said(), said(("a", "c")))
    assert found.same_output is False
    assert found.sentence == "Another output: cell 2 put out something else."
    assert [(one.what, one.cell) for one in found.differences] == [("cell", 2)]


def test_a_replay_names_what_it_was_made_of_otherwise(bench: Bench, store: Path) -> None:
    inputs = [{"path": "m31", "bytes": 1, "sha256": "1" * 64}]
    changed = [{"path": "m31", "bytes": 1, "sha256": "2" * 64}]
    newer = ["astropy==7.1.0", "numpy==2.4.0", "scipy==1.17"]
    found = replayed(bench, store, said(inputs=inputs), said(packages=newer, inputs=changed))
    told = {one.what: one.sentence for one in found.differences}
    assert told["packages"] == "Installed packages differ: numpy 2.3.1 → 2.4.0, scipy absent → 1.17."
    assert told["inputs"] == "Declared inputs differ: m31."
    assert found.same_output is True, "and still it made the same"


def test_without_an_output_there_is_no_verdict(bench: Bench, store: Path) -> None:
    found = replayed(bench, store, said(), None)
    assert (found.same_output, found.sentence) == (None, "The replay left no executed notebook to compare.")


def test_a_notebook_that_was_written_over_is_not_replayed(bench: Bench, store: Path) -> None:
    run = submit(bench, bench.accept("ann"))
    end(bench, store, run.id, said())
    (store / run.id / INPUT).write_text(json.dumps(NOTEBOOK | {"metadata": {"other": 1}}))
    with pytest.raises(InvalidInputError, match="changed since"):
        bench.services.records.replay("ann", run.id, bench.key())


def test_nobody_replays_anothers_run_and_a_repeated_request_queues_one(bench: Bench, store: Path) -> None:
    run = submit(bench, bench.accept("ann"))
    end(bench, store, run.id, said())
    with pytest.raises(NotFoundError):
        bench.services.records.replay("bob", run.id, bench.key())
    key = bench.key(key="once")
    assert bench.services.records.replay("ann", run.id, key).id == bench.services.records.replay("ann", run.id, key).id
    assert len(bench.services.runs.list_of("ann")) == 2
    assert submitted_record(b"a") != submitted_record(b"b")
