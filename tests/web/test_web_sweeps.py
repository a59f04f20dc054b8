"""The pages of sweeps: the form with a grid or a table, its estimate, progress, results, plot, retry, cancellation."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocations.db.idempotency import IdempotencyKey
from allocations.errors import InvalidInputError
from allocations.runs.models import Condition, Outcome, RunError, RunSource, RunSourceKind, RunState
from allocations.runs.service import Finish
from allocations.runs.sweeps import SweepSubmission
from allocations.web.forms import to_grid, to_rows
from allocations.web.plots import POINTS_MAX, Scatter
from tests.serving import serving
from tests.web.conftest import taking
from tests.web.looking import faults_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.web.conftest import Site

HOSTILE = '"><script>alert(1)</script>'
LONG_NAME = "Photometric_redshifts_of_faint_galaxies_in_the_deep_fields_of_the_first_season"


def form(site: Site, allocation: str, **changes: str) -> dict[str, str]:
    assert 'name="notebook" value="wfi-cutouts.ipynb"' in site.browser("ann").get("/sweeps/new").text
    return {
        "key": "k1",
        "notebook": "wfi-cutouts.ipynb",
        "choice": f"{allocation}::small",
        "minutes": "10",
        "retries": "0",
        "grid": "seed = 1..3\nn_cutouts = 100, 200",
        **changes,
    }


def queue(site: Site, allocation: str, rows: list[dict[str, Any]], **changes: Any) -> str:
    """Queue a sweep of ann's and return its id."""
    submission = SweepSubmission(
        "ann", allocation, "small", f"{LONG_NAME}.ipynb", taking("n", *rows[0]), {"n": 1}, rows=rows, **changes
    )
    key = IdempotencyKey.for_request("ann", f"sweep-{len(rows)}-{rows[0]}-{changes}"[:200], "sweep", {})
    return site.services.sweeps.submit(submission, key).id


def end_all(site: Site, sweep: str) -> None:
    """Let the runs of a sweep that can run end: each records a completeness, every fifth fails."""
    for run in site.services.runs.claim("x", 100):
        row = run.sweep_row or 0
        site.clock.at_ms += 1000
        failed = row % 5 == 4
        error = RunError(cell=1, name="ValueError", message=f"No detector {HOSTILE}.") if failed else None
        outcome = Outcome.FAILED if failed else Outcome.SUCCEEDED
        recorded = {} if failed else {"completeness": 1 - 1 / (row + 2), "note": HOSTILE, "depth": 25 + row / 10}
        finish = Finish(1, outcome, site.clock.at_ms - 60_000, site.clock.at_ms, error, recorded=recorded)
        site.services.runs.finish(run.id, finish)


def test_a_sweep_is_estimated_then_submitted_once(site: Site) -> None:
    ann, entry = site.browser("ann"), site.accept("ann")
    estimated = ann.post("/sweeps/estimate", form(site, entry))
    assert estimated.status_code == 200
    assert "What 6 runs would cost" in estimated.text
    assert "It suffices" in estimated.text
    assert "seed = 1..3" in estimated.text
    assert site.services.sweeps.list_of("ann") == []
    poor = ann.post("/sweeps/estimate", form(site, entry, minutes="2880", grid="x = 1..100"))
    assert "the rest waits" in poor.text
    for _ in range(2):
        answer = ann.post("/sweeps", form(site, entry, at_once="2"))
        assert answer.status_code == 303, answer.text
    [sweep] = site.services.sweeps.list_of("ann")
    assert (sweep.rows, sweep.at_once, sweep.varied, sweep.max_seconds) == (6, 2, ["seed", "n_cutouts"], 600)
    shown = ann.get(answer.headers["location"].removeprefix("/services/allocations"))
    assert "The sweep is queued" in shown.text
    assert "0 of 6 runs" in ann.get("/sweeps").text
    assert "/sweeps" in ann.get("/runs").text


def test_a_table_is_pasted_or_sent_as_a_file_and_is_not_lost_with_an_error(site: Site) -> None:
    ann, entry = site.browser("ann"), site.accept("ann")
    fields = form(site, entry, grid="")
    table = "detector,gain\n1,1.5\n2,\n"
    wrong = ann.post("/sweeps", fields | {"minutes": "0"}, files={"table_file": ("t.csv", table.encode(), "text/csv")})
    assert wrong.status_code == 422
    assert "detector,gain" in wrong.text
    for bad in ({"table": table, "grid": "x = 1"}, {"table": "a,a\n1,2\n"}, {"table": "a\n1,2\n"}, {"table": ""}):
        answer = ann.post("/sweeps", fields | bad)
        assert answer.status_code == 422, bad
        assert 'role="alert"' in answer.text
    notebook = ("mine.ipynb", json.dumps(taking("detector", "gain")).encode(), "application/x-ipynb+json")
    files = {"file": notebook, "table_file": ("t.csv", table.encode(), "text/csv")}
    assert ann.post("/sweeps", fields | {"notebook": "upload"}, files=files).status_code == 303
    [sweep] = site.services.sweeps.list_of("ann")
    results = site.services.sweeps.results("ann", sweep.id, -1)
    assert [one.parameters for one in results] == [{"detector": 1, "gain": 1.5}, {"detector": 2}]


def test_results_are_sorted_plotted_downloaded_and_nothing_recorded_is_markup(site: Site) -> None:
    site.accept("ann")
    root = site.open("consortium", "Deep fields", "ann")
    sweep = queue(site, root, [{"detector": number, "band": HOSTILE} for number in range(12)])
    end_all(site, sweep)
    ann = site.browser("ann")
    shown = ann.get(f"/sweeps/{sweep}").text
    assert HOSTILE not in shown
    assert "12 of 12 runs" in shown
    assert shown.count("p-scatter-point") == 10
    rows = re.findall(r'aria-label="Run of row (\d+)"', shown)
    assert rows == [str(number) for number in range(1, 13)]
    best = ann.get(f"/sweeps/{sweep}?sort=r.completeness&down=1&y=depth&x=band").text
    assert re.findall(r'aria-label="Run of row (\d+)"', best)[:2] == ["12", "11"]
    assert re.findall(r'aria-label="Run of row (\d+)"', best)[-2:] == ["5", "10"], "what failed has none, and is last"
    assert "depth</strong> against <strong>band" in best
    download = ann.get(f"/sweeps/{sweep}/results.csv")
    table = list(csv.DictReader(io.StringIO(download.text)))
    assert [row["completeness"] for row in table][:2] == ["0.5", str(1 - 1 / 3)]
    assert table[4]["error"].startswith("ValueError")
    for path in (f"/sweeps/{sweep}", f"/sweeps/{sweep}/results.csv", f"/sweeps/{sweep}/live"):
        assert site.browser("bob").get(path).status_code == 404, path
    run = site.services.sweeps.results("ann", sweep, -1)[0].run
    assert "run 1 of it" in ann.get(f"/runs/{run}").text
    assert "completeness" in ann.get(f"/runs/{run}").text


def test_the_failed_are_retried_and_the_rest_is_cancelled(site: Site) -> None:
    site.accept("ann")
    root = site.open("consortium", "Deep fields", "ann")
    sweep = queue(site, root, [{"x": number} for number in range(10)])
    ann = site.browser("ann")
    assert 'hx-get="' in ann.get(f"/sweeps/{sweep}").text
    end_all(site, sweep)
    assert ann.get(f"/sweeps/{sweep}/live").headers["hx-refresh"] == "true"
    again = ann.post(f"/sweeps/{sweep}/retry", {"key": "r1", "size": "standard", "minutes": "20"})
    assert again.status_code == 303
    counts = site.services.sweeps.get("ann", sweep).counts
    assert (counts[RunState.SUCCEEDED], counts[RunState.QUEUED]) == (8, 2)
    assert ann.post(f"/sweeps/{sweep}/retry", {"key": "r2"}).status_code == 409
    assert site.browser("bob").post(f"/sweeps/{sweep}/cancel").status_code == 404
    assert ann.post(f"/sweeps/{sweep}/cancel").status_code == 303
    assert site.services.sweeps.get("ann", sweep).counts[RunState.CANCELLED] == 2


@given(st.text(max_size=200))
def test_a_grid_or_a_table_of_any_text_is_read_or_refused(text: str) -> None:
    for read in (to_grid, to_rows):
        with contextlib.suppress(InvalidInputError):
            assert isinstance(read(text), list | dict)


def test_a_grid_is_what_was_meant() -> None:
    assert to_grid("a = 1..3\nb = F158, no_1\n# none\nc = [1.5]\nd = 0..90..45") == {
        "a": [1, 2, 3],
        "b": ["F158", "no_1"],
        "c": [1.5],
        "d": [0, 45, 90],
    }
    for bad in ("a = 3..1", "a = 1..99999999", "a = 1..2..0", "a", "a = 1\na = 2"):
        with pytest.raises(InvalidInputError):
            to_grid(bad)


@given(st.lists(st.tuples(st.integers() | st.floats() | st.text(max_size=3), st.floats() | st.integers()), max_size=40))
def test_every_point_of_a_plot_lies_in_its_frame(pairs: list[tuple[Any, Any]]) -> None:
    scatter = Scatter.of(pairs)
    if scatter is not None:
        assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in scatter.points)


def test_of_many_points_a_part_is_drawn() -> None:
    scatter = Scatter.of([(number, number**2) for number in range(10_000)])
    assert scatter is not None
    assert (scatter.count, len(scatter.points)) == (10_000, POINTS_MAX)


def test_a_sweep_takes_the_fields_of_a_run(site: Site) -> None:
    ann, entry = site.browser("ann"), site.accept("ann")
    site.services.secrets.put("ann", "TOKEN", "a value")
    first = queue(site, entry, [{"x": 1}])
    terms = {"retries": "2", "environment": "TOKEN", "output": "home:swept", "after": first, "even_if_failed": "1"}
    shown = ann.get("/sweeps/new").text
    assert f'name="after" value="{first}"' in shown
    assert 'name="environment" value="TOKEN"' in shown
    estimated = ann.post("/sweeps/estimate", form(site, entry, **terms)).text
    assert "with every retry" in estimated
    for kept in (f'value="{first}" checked', 'value="TOKEN" checked', 'value="home:swept"', 'value="1" checked'):
        assert kept in estimated
    answer = ann.post("/sweeps", form(site, entry, **terms))
    assert answer.status_code == 303, answer.text
    made = site.services.sweeps.get("ann", answer.headers["location"].split("/")[-1].partition("?")[0])
    assert (made.retries, made.environment, made.output, made.waits_for) == (2, ["TOKEN"], "home:swept", "ended")
    assert [one.sweep for one in made.after] == [first]
    assert made.source is not None
    assert made.source.kind == "example"
    page = ann.get(f"/sweeps/{made.id}").text
    for part in ("home:swept", "<code>TOKEN</code>", "one of the examples", f'id="after-{first}"'):
        assert part in page
    assert f'id="before-{made.id}"' in ann.get(f"/sweeps/{first}").text
    for wrong in ({"retries": "6"}, {"after_ids": "r-0"}, {"output": "nowhere"}, {"environment": "PATH"}):
        refused = ann.post("/sweeps", form(site, entry, key=f"k-{wrong}", **wrong))
        assert refused.status_code in {404, 422}, wrong
        assert 'role="alert"' in refused.text
    both = ann.post("/sweeps", form(site, entry, retries="x", minutes="0", at_once="none", choice="", grid="")).text
    assert all(f'href="#{field}"' in both for field in ("choice", "minutes", "retries", "grid", "at-once"))


def test_a_notebook_that_was_chosen_once_is_not_lost(site: Site) -> None:
    ann, entry = site.browser("ann"), site.accept("ann")
    notebook = ("mine.ipynb", json.dumps(taking("x")).encode(), "application/x-ipynb+json")
    fields = form(site, entry, notebook="upload", grid="x = 1..2")
    estimated = ann.post("/sweeps/estimate", fields, files={"file": notebook}).text
    [draft] = re.findall(r'name="draft" value="(n-[^"]+)"', estimated)
    assert 'value="kept" checked' in estimated
    kept = fields | {"notebook": "kept", "draft": draft}
    assert site.browser("bob").post("/sweeps", kept).status_code == 404, "another's is none"
    assert ann.post("/sweeps", kept).status_code == 303
    assert [(one.name, one.rows) for one in site.services.sweeps.list_of("ann")] == [("mine.ipynb", 2)]
    source = RunSource(kind=RunSourceKind.HOME, path="stacks/mine.ipynb")
    brought = site.services.drafts.keep("ann", "mine.ipynb", taking("x"), source)
    assert "from your home: <code>stacks/mine.ipynb</code>" in ann.get(f"/sweeps/new?draft={brought.id}").text
    assert f"/sweeps/new?draft={brought.id}" in ann.get(f"/runs/new?draft={brought.id}").text
    site.clock.at_ms += 1000
    assert ann.post("/sweeps", kept | {"key": "k2", "draft": brought.id}).status_code == 303
    assert site.services.sweeps.list_of("ann")[0].source == source
    assert 'value="kept"' not in ann.get("/sweeps/new?draft=n-gone").text


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_the_pages_of_sweeps_are_accessible_and_fit(site: Site, scheme: Literal["light", "dark"], width: int) -> None:
    site.accept("ann")
    root = site.open("consortium", "Deep fields", "ann")
    rows = [{"detector": number, "band": f"F{158 + number % 3}", LONG_NAME: 1.5} for number in range(120)]
    sweep = queue(site, root, rows)
    end_all(site, sweep)
    running = queue(site, root, rows, at_once=3)
    site.services.runs.claim("x", 2)
    for name in ("TOKEN", "AWS_ACCESS_KEY_ID"):
        site.services.secrets.put("ann", name, "a value")
    waiting = queue(site, root, rows, after=[sweep, running], waits_for=Condition.ENDED, retries=2, output="home:a/b")

    def picture(page: Page, path: str) -> None:
        name = path.strip("/").replace("/", "-").replace("?", "-")[:40]
        page.screenshot(path=site.run_store.parent / f"{name}-{scheme}.png", full_page=True)

    paths = ["/sweeps", "/sweeps/new", f"/sweeps/{sweep}?sort=r.depth", f"/sweeps/{running}", f"/sweeps/{waiting}"]
    paths.append("/runs/new?example=wfi-cutouts.ipynb")
    with serving(site.app) as url:
        assert faults_of(url, {"ann": paths}, scheme, width, picture) == {}
