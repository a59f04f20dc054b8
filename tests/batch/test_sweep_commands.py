"""`meridian batch sweep …` against the real service: submitted, shown, gathered, retried, cancelled."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from click.testing import CliRunner

from allocations.runs.models import Outcome, RunError
from allocations.runs.service import Finish
from hub.batch.client import BatchClient, ServiceRefusalError
from hub.batch.commands import batch
from hub.batch.terminal import out
from tests.batch.batch_harness import notebook
from tests.batch.test_sweep_local import place  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from tests.batch.test_sweep_local import Place

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal into which every column fits, whatever the environment said when its module was loaded."""
    monkeypatch.setattr(out, "width", 200)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "detector.ipynb"
    nbformat.write(notebook("print(x)", defaults="x = 0\nband = field = name = None"), file)
    return file


class Typed:
    """What ada types."""

    def __init__(self, place: Place) -> None:  # noqa: F811  # as above
        self._environment = {"MERIDIAN_URL": place.url, "MERIDIAN_TOKEN": "ada"}
        self.allocation = place.services.reports.allocations_of("ada")[0].id

    def __call__(self, *arguments: str, status: int = 0) -> Result:
        found = CliRunner().invoke(batch, ["sweep", *arguments], env=self._environment)
        assert found.exit_code == status, found.output
        return found

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)


def end(place: Place, *, failed: set[int]) -> None:  # noqa: F811  # as above
    """End the runs that can run as an executor would report them."""
    for run in place.services.runs.claim("batch", 100):
        now_ms = place.services.runs.clock.now_ms()
        row = run.sweep_row or 0
        error = RunError(name="ValueError", message="bad") if row in failed else None
        outcome = Outcome.FAILED if row in failed else Outcome.SUCCEEDED
        recorded = {} if row in failed else {"completeness": row / 10}
        place.services.runs.finish(
            run.id, Finish(run.attempt, outcome, now_ms, now_ms + 1000, error, recorded=recorded)
        )


def test_a_grid_is_estimated_submitted_gathered_and_retried(place: Place, path: Path, tmp_path: Path) -> None:  # noqa: F811
    typed = Typed(place)
    common = (str(path), "--allocation", typed.allocation, "--size", "small", "-g", "x", "0..3", "-g", "band", "F158,J")
    assert "It suffices" in typed("submit", *common, "--estimate").stdout.replace("\n", " ")
    assert typed.json("list") == []
    made = typed.json("submit", *common, "-p", "field", "m31", "--max-minutes", "5", "--at-once", "4")
    assert (made["rows"], made["at_once"], made["max_seconds"]) == (8, 4, 300)
    end(place, failed={1})
    end(place, failed=set())
    shown = typed.json("show", made["id"])
    assert (shown["state"], shown["failed"], shown["ended"]) == ("failed", 1, 8)
    assert made["id"] in typed("list").stdout
    assert "1 failed" in typed("show", made["id"]).stdout
    results = typed.json("results", made["id"])
    assert results[0]["parameters"] == {"field": "m31", "x": 0, "band": "F158"}
    rows = list(csv.DictReader(io.StringIO(typed("results", made["id"], "--csv").stdout)))
    assert [row["completeness"] for row in rows][:3] == ["0.0", "", "0.2"]
    typed("results", made["id"], "-o", str(tmp_path / "results.parquet"))
    assert (tmp_path / "results.parquet").stat().st_size > 100
    assert "completeness" in typed("results", made["id"]).stdout
    retried = typed.json("retry", made["id"], "--size", "standard", "--max-minutes", "9")
    assert (retried["ended"], retried["counts"]["queued"]) == (7, 1)
    cancelled = typed.json("cancel", made["id"])
    assert (cancelled["counts"]["cancelled"], cancelled["ended"]) == (1, 8)
    typed("show", made["id"], "--wait", status=1)


def test_a_sweep_takes_the_options_of_a_run(place: Place, path: Path) -> None:  # noqa: F811
    typed = Typed(place)
    place.services.secrets.put("ada", "TOKEN", "a")
    common = (str(path), "--allocation", typed.allocation, "--size", "small", "-g", "x", "0,1")
    first = typed.json("submit", *common)
    options = ("--retries", "2", "--secret", "TOKEN", "--save-to", "scratch:swept", "-p", "name", "007")
    made = typed.json("submit", *common, *options, "--after", first["id"], "--even-if-failed")
    assert (made["retries"], made["environment"], made["output"]) == (2, ["TOKEN"], "scratch:swept")
    assert made["source"] == {"kind": "upload", "path": path.name, "address": None, "revision": None}
    assert (made["waits_for"], made["after"][0]["sweep"]) == ("ended", first["id"])
    shown = typed("show", made["id"]).stdout
    for part in ("2 of each run", "TOKEN", "scratch:swept", f"sweep {first['id']}", "Waits until this sweep has ended"):
        assert part in shown
    assert made["id"] in typed("show", first["id"]).stdout
    estimate = typed("submit", *common, "--retries", "1", "--estimate").stdout
    assert "With all retries" in estimate
    assert "no secret OTHER" in typed("submit", *common, "--secret", "OTHER", status=1).stderr


def test_what_is_wrong_is_said_in_one_sentence(place: Place, path: Path, tmp_path: Path) -> None:  # noqa: F811
    typed = Typed(place)
    table = tmp_path / "t.csv"
    table.write_text("x,x\n1,2\n")
    common = (str(path), "--allocation", typed.allocation, "--size", "small")
    for arguments in ((), ("-g", "x", "1", "--table", str(table)), ("--table", str(table)), ("-g", "x", "5..1")):
        found = typed("submit", *common, *arguments, status=1)
        assert found.stderr.startswith("meridian: "), found.output
    assert "no sweep" in typed("show", "s-0", status=1).stderr
    assert "No run of this sweep" in typed(
        "retry", typed.json("submit", *common, "-g", "x", "1")["id"], status=1
    ).stderr.replace("\n", " ")


def test_the_client_reads_tables_and_an_id_leads_nowhere_else(place: Place, path: Path, tmp_path: Path) -> None:  # noqa: F811
    table = tmp_path / "t.csv"
    table.write_text("x,name\n1,a\n2,\n")
    with BatchClient(place.url, "ada") as client:
        allocation = client.options()["allocations"][0]["id"]
        sweep = client.sweeps.submit(path, allocation, "small", rows=table, idempotency_key="one")
        assert client.sweeps.submit(path, allocation, "small", rows=table, idempotency_key="one") == sweep
        assert [one["parameters"] for one in client.sweeps.results(sweep.id)] == [{"x": 1, "name": "a"}, {"x": 2}]
        with pytest.raises(ServiceRefusalError):
            client.sweeps.get("../runs")
        with pytest.raises(ServiceRefusalError):
            client.sweeps.get(f"{sweep.id}?x")
