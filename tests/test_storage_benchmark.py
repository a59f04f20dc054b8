"""The storage benchmark compares sides that do the same work, and is no measurement where one does not."""

from __future__ import annotations

import os

import pytest

from benchmarks import storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # some seventy processes


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "QUICK", storage.Size(1, 300, 200, 1, 1 << 20, 200, 400, 1_000))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_every_side_is_measured_and_nothing_stays(tmp_path):
    told: list[str] = []

    def step(doing: str) -> None:
        told.append(doing)

    report = storage.run(step, quick=True)
    assert len(told) == storage.steps(quick=True)
    assert list(tmp_path.iterdir()) == []
    sides = [{one.what.partition(",")[0] for one in section.comparisons} - {"memory"} for section in report.sections]
    assert sides == [
        {"find -printf", "os.walk"},
        *([{"find -printf", "os.walk"}] if os.geteuid() == 0 else []),
        {"find -printf", "os.walk"},
        {"du -s"},
        {"entries a second"},
        {"tar | zstd -3", "size"},
        {"zstd -d | sha256sum"},
        {"zstd -d | tar -x"},
        {"rm -rf", "find -delete"},
        set(),
    ]
    figures = [
        value for section in report.sections for one in section.comparisons for value in (*one.ours, *one.theirs)
    ]
    assert min(figures) > 0


def test_a_side_that_finds_other_files_is_no_measurement(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "AGE_DAYS", 500)
    with pytest.raises(RuntimeError, match=r"found by (find|os\.walk): 0, and not 30"):
        storage.run(lambda _doing: None, quick=True)
    assert list(tmp_path.iterdir()) == []
