"""The pages of batch runs: live by cell and log, what an end means, the executed notebook, again, the list."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allocations.app import PREFIX
from allocations.clock import to_rfc3339
from allocations.lifecycle.authority import Actor
from allocations.runs.models import Outcome, RunError, RunSource, RunSourceKind, RunState
from allocations.runs.service import Finish
from allocations.web.formats import to_last_lines, without_ansi
from allocations.web.forms import to_parameter_lines, to_parameters
from allocations.web.notebook_contents import RICH_TEXTS_LENGTH_MAX, TEXT_LENGTH_MAX, TEXTS_LENGTH_MAX
from allocations.web.notebooks import NOTEBOOK_POLICY
from allocations.web.run_list import RUNS_PAGE
from tests.web.conftest import NOTEBOOK, START_MS, fields_in, taking

if TYPE_CHECKING:
    from tests.web.conftest import Site

HOSTILE = '"><script>alert(1)</script>'


def notebook(*sources: str) -> dict[str, Any]:
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for n, source in enumerate(sources)
    ]
    return NOTEBOOK | {"cells": cells}


def executed(*outputs: dict[str, Any], **cell: Any) -> dict[str, Any]:
    return NOTEBOOK | {"cells": [NOTEBOOK["cells"][0] | {"outputs": list(outputs)} | cell]}


def display(**data: Any) -> dict[str, Any]:
    kinds = {kind.replace("__", "/"): content for kind, content in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": kinds}


def rows(html: str) -> list[str]:
    """The rows of the table of cells, as text."""
    table = re.search(r'<table class="m-table p-cell-table">(.*?)</table>', html, re.DOTALL)
    assert table
    found = re.findall(r"<tr.*?</tr>", table[1], re.DOTALL)[1:]
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in found]


def finish(site: Site, run: str, outcome: Outcome, error: RunError | None = None, *, began: bool = True) -> None:
    site.services.runs.finish(run, Finish(1, outcome, START_MS if began else None, site.clock.at_ms, error))


def test_each_cell_shows_its_state_and_seconds_and_the_present_one_is_marked(site: Site) -> None:
    run = site.submit_run("ann", site.accept("ann"), notebook("# first", "\nx = 1\ny", "z = 2", "w"))
    browser = site.browser("ann")
    assert rows(browser.get(f"/runs/{run}").text) == [
        "1 # first waiting",
        "2 x = 1 waiting",
        "3 z = 2 waiting",
        "4 w waiting",
    ]
    site.start_run(run, cells=4)
    events = [("started", None, None), ("cell_started", 1, None), ("cell_finished", 1, 0.25)]
    site.write_events(run, *events, ("cell_started", 2, None))
    site.clock.at_ms = START_MS + 75_000
    page = browser.get(f"/runs/{run}").text
    assert rows(page) == ["1 # first done 0.2 s", "2 x = 1 running 1 min 12 s", "3 z = 2 waiting", "4 w waiting"]
    assert re.findall(r'<tr aria-current="step" data-present>\s*<td class="m-number">(\d)', page) == ["2"]
    site.clock.at_ms += 5_000
    finish(site, run, Outcome.FAILED, RunError(cell=2, name="ValueError", message="no"))
    ended = browser.get(f"/runs/{run}").text
    assert rows(ended) == [
        "1 # first done 0.2 s",
        "2 x = 1 failed 1 min 17 s",
        "3 z = 2 not reached",
        "4 w not reached",
    ]
    assert 'aria-current="step"' not in ended


def test_a_cell_that_was_running_when_the_run_was_cancelled_is_stopped(site: Site) -> None:
    run = site.submit_run("ann", site.accept("ann"), notebook("a", "b"))
    site.start_run(run, cells=2)
    site.write_events(run, ("started", None, None), ("cell_started", 1, None))
    site.services.runs.cancel("ann", run)
    finish(site, run, Outcome.CANCELLED)
    assert [row.split()[2] for row in rows(site.browser("ann").get(f"/runs/{run}").text)] == ["stopped", "not"]


def test_the_events_of_a_lost_attempt_are_not_those_of_the_next(site: Site) -> None:
    run = site.submit_run("ann", site.accept("ann"), notebook("a"))
    site.start_run(run, cells=1)
    site.write_events(run, ("started", None, None), ("cell_started", 1, None))
    finish(site, run, Outcome.LOST)
    page = site.browser("ann").get(f"/runs/{run}").text
    assert rows(page) == ["1 a waiting"]
    assert "queued again without a charge" in page


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"5",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"event": "cell_started", "cell": true}',
        b'{"event": "cell_started", "cell": 1, "at": 5}',
        b'{"event": "cell_started", "cell": 1, "at": "0001-01-01T00:00:00+23:59"}',
        b'{"event": "cell_finished", "cell": 1, "seconds": 1e999}',
        b'{"event": "cell_finished", "cell": 1, "seconds": -1' + b"0" * 400 + b"}",
        b'{"event": [], "cell": {}}',
        b'{"event": "cell_finished", "cell": -5, "seconds": "x"}',
    ],
)
def test_what_a_notebook_writes_over_its_events_breaks_no_page(site: Site, line: bytes) -> None:
    run = site.submit_run("ann", site.accept("ann"), notebook("a", "b"))
    site.start_run(run, cells=2)
    good = b'{"event": "cell_finished", "cell": 2, "seconds": 3}\n'
    (site.run_store / run / "events.jsonl").write_bytes(line + b"\n" + good + b'{"event": "cell_st')
    response = site.browser("ann").get(f"/runs/{run}")
    assert response.status_code == 200
    assert rows(response.text)[1] == "2 b done 3.0 s"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"cells": [5]}',
        b'{"cells": [{"cell_type": "code", "source": [1]}]}',
        b'{"cells": "ab"}',
        b"[" * 100_000,
    ],
)
def test_a_notebook_that_was_written_over_has_its_cells_by_number_alone(site: Site, content: bytes) -> None:
    run = site.submit_run("ann", site.accept("ann"), notebook("a", "b"))
    (site.run_store / run / "input.ipynb").write_bytes(content)
    response = site.browser("ann").get(f"/runs/{run}")
    assert (response.status_code, rows(response.text)) == (200, ["1 – waiting", "2 – waiting"])


def test_what_a_cell_begins_with_is_text(site: Site) -> None:
    run = site.submit_run("ann", site.accept("ann"), notebook(HOSTILE, "\ud800\x1b[31mred"))
    response = site.browser("ann").get(f"/runs/{run}")
    assert response.status_code == 200
    assert "<script>alert" not in response.text
    assert rows(response.text)[1] == "2 ?red waiting"


def test_of_very_many_cells_those_around_the_present_one_are_listed(site: Site) -> None:
    run = site.submit_run("ann", site.accept("ann"), notebook(*["x"] * 1000))
    site.start_run(run, cells=1000)
    site.write_events(run, ("started", None, None), ("cell_started", 700, None))
    page = site.browser("ann").get(f"/runs/{run}").text
    assert len(rows(page)) == 200
    assert "700 x running" in " ".join(rows(page))
    assert "Cells 601 to 800 of 1,000" in page


def test_progress_is_announced_by_tenths(site: Site) -> None:
    run = site.submit_run("ann", site.accept("ann"), notebook(*["x"] * 50))
    site.start_run(run, cells=50)
    said = []
    for done in (4, 5, 7, 50):
        site.services.runs.progress(
            run, attempt=1, started_at_ms=None, cells_done=done, cells_total=50, current_cell=None
        )
        said += re.findall(r'data-announce="([^"]*)"', site.browser("ann").get(f"/runs/{run}").text)
    assert said == [f"Run running, {done} of 50 cells done." for done in (0, 5, 5, 50)]


def test_the_log_is_shown_while_it_grows_as_text_without_what_is_meant_for_terminals(site: Site) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    browser = site.browser("ann")
    assert 'id="log"' not in browser.get(f"/runs/{run}").text
    site.start_run(run, cells=1)
    site.write_log(run, f"\x1b[1;31mred\x1b[0m {HOSTILE}\n 10%\r 50%\r100%\n\x1b]0;title\x07ok\x00\n")
    log = re.search(r'<pre class="p-log"[^>]*>(.*?)</pre>', browser.get(f"/runs/{run}/live").text, re.DOTALL)
    assert log
    assert unescape(log[1]) == f"red {HOSTILE}\n100%\nok\n"
    assert "<" not in log[1]
    site.write_log(run, "".join(f"line {number}\n" for number in range(100_000)))
    page = browser.get(f"/runs/{run}").text
    assert "line 99999\n</pre>" in page
    assert "line 99800\n" in page
    assert "line 99799\n" not in page
    assert len(page) < 60_000


def test_the_end_of_a_log_begins_with_a_whole_line() -> None:
    assert to_last_lines(b"ne\nwhole\n", 200, is_cut=True) == "whole\n"
    assert to_last_lines(b"\xa9one long line", 200, is_cut=True).endswith("one long line")
    assert to_last_lines(b"a\r\nb\r\n", 200, is_cut=False) == "a\nb\n"
    assert without_ansi("\x1b[38;2;1;2;3mx\x1b[?25l\x1b(B\x9by") == "xy"


def test_a_log_that_is_a_link_is_not_followed(site: Site) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    site.start_run(run, cells=1)
    secret = site.run_store / "secret"
    secret.write_text("secret")
    (site.run_store / run / "log.txt").symlink_to(secret)
    page = site.browser("ann").get(f"/runs/{run}")
    assert (page.status_code, "secret" in page.text) == (200, False)


@pytest.mark.parametrize(
    ("outcome", "error", "began", "title", "link"),
    [
        (Outcome.FAILED, ("MemoryError", 2), True, "The memory was not enough", "with a larger size"),
        (Outcome.FAILED, ("KernelDied", 2), True, "The notebook&#39;s kernel died", "with a larger size"),
        (Outcome.FAILED, ("KernelDidNotStart", None), True, "kernel did not start", "with a larger size"),
        (Outcome.FAILED, ("NoSuchKernel", None), True, "The image does not have", "Run it again"),
        (Outcome.FAILED, ("UnknownParameter", None), True, "A parameter does not fit", "with other parameters"),
        (Outcome.FAILED, ("ValueError", 2), True, "The notebook failed in cell 2", "with other parameters"),
        (Outcome.FAILED, ("ValueError", None), True, "failed in its cell of parameters", "with other parameters"),
        (Outcome.TIMED_OUT, ("DeadlineExceeded", 2), True, "The time was not enough", "with a longer maximum"),
        (Outcome.CANCELLED, None, True, "The run was cancelled", "Run it again"),
        (Outcome.CANCELLED, None, False, "The run was cancelled before it started", "Run it again"),
    ],
)
def test_an_end_says_what_it_means_and_what_to_do(
    site: Site, outcome: Outcome, error: tuple[str, int | None] | None, began: bool, title: str, link: str
) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    site.services.runs.claim("x", 1)
    found = RunError(cell=error[1], name=error[0], message="What it said.") if error else None
    finish(site, run, outcome, found, began=began)
    page = site.browser("ann").get(f"/runs/{run}").text
    assert title in page
    assert re.search(rf'href="{PREFIX}/runs/new\?again={run}">[^<]*{link}<', page)
    assert ("What it said." in page) is (error is not None)


def test_a_run_that_is_lost_for_good_says_that_it_was_not_charged(site: Site) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    for attempt in range(1, site.services.policy.runs.attempts + 1):
        site.services.runs.claim("x", 1)
        site.services.runs.finish(run, Finish(attempt, Outcome.LOST, START_MS, site.clock.at_ms))
    page = site.browser("ann").get(f"/runs/{run}").text
    assert "The platform lost the run" in page
    assert "nothing was charged" in page


def test_a_run_that_is_refused_when_its_turn_comes_says_so(site: Site) -> None:
    entry = site.accept("ann")
    run = site.queue_run("ann", entry)
    site.services.lifecycle.suspend(Actor("admin", admin=True), entry, "A question.")
    site.services.runs.claim("x", 1)
    page = site.browser("ann").get(f"/runs/{run}").text
    assert "The run was not admitted" in page


def test_a_run_is_submitted_again_as_it_was_with_other_parameters(site: Site) -> None:
    entry = site.accept("ann")
    parameters = {"n": 5, "label": "a = b # c", "when": "2026-01-01", "scale": 1e-7, "flags": ["x", 2.0, None]}
    source = RunSource(kind=RunSourceKind.HOME, path="n/mine.ipynb")
    run = site.submit_run(
        "ann", entry, taking(*parameters), parameters=parameters, max_seconds=1830, retries=2, source=source
    )
    browser = site.browser("ann")
    page = browser.get(f"/runs/new?again={run}").text
    assert re.search(rf'value="{entry}::small"[^>]* checked', page)
    assert 'value="31"' in page
    fields = fields_in(page)
    assert fields["p-n"] == "5"
    assert fields["retries"] == "2"
    site.clock.at_ms += 1
    sent = browser.post("/runs", fields | {"p-n": "6", "choice": f"{entry}::small"})
    assert sent.status_code == 303, sent.text
    newest = site.services.runs.list_of("ann")[0]
    assert (newest.name, newest.parameters, newest.max_seconds) == ("mine.ipynb", parameters | {"n": 6}, 1860)
    assert (newest.source, newest.retries) == (source, 2)
    assert site.services.runs.read_file("ann", newest.id, "input.ipynb") == site.services.runs.read_file(
        "ann", run, "input.ipynb"
    )


def test_a_mended_notebook_is_run_with_the_values_of_another_run(site: Site) -> None:
    run = site.queue_run("ann", site.accept("ann"), deep={"a": 1}, n=2)
    browser = site.browser("ann")
    page = browser.get(f"/runs/new?again={run}").text
    assert f'href="{PREFIX}/runs/notebook?again={run}"' in page
    assert f'name="again" value="{run}"' in browser.get(f"/runs/notebook?again={run}").text
    files = {"file": ("mended.ipynb", json.dumps(taking("n", "m")).encode(), "application/octet-stream")}
    brought = browser.post("/runs/notebook", {"notebook": "upload", "again": run}, files=files)
    page = browser.http.get(brought.headers["location"]).text
    assert "Run mended.ipynb" in page
    assert "cannot hold what the run had as deep" in page
    assert fields_in(page)["p-n"] == "2"


def test_parameters_of_another_language_are_asked_for_as_lines(site: Site) -> None:
    book = taking("n") | {"metadata": {"kernelspec": {"language": "R", "name": "ir"}}}
    run = site.submit_run("ann", site.accept("ann"), book, parameters={"n": 2, "deep": {"a": 1}})
    page = site.browser("ann").get(f"/runs/new?again={run}").text
    assert "cannot hold what the run had as deep" in page
    assert ">n = 2</textarea>" in page


def test_nobody_runs_the_notebook_of_another(site: Site) -> None:
    run, entry = site.queue_run("ann", site.accept("ann")), site.accept("bob")
    draft = site.services.drafts.keep("ann", "mine.ipynb", NOTEBOOK).id
    browser = site.browser("bob")
    assert browser.get(f"/runs/new?again={run}").status_code == 404
    assert browser.get(f"/runs/new?draft={draft}").status_code == 404
    form = {"choice": f"{entry}::small", "image": "", "minutes": "5", "retries": "0", "key": "k"}
    for field, value in (("again", run), ("draft", draft)):
        response = browser.post("/runs", form | {field: value})
        assert response.status_code == 404
        assert "mine.ipynb" not in response.text
        files = {"file": ("a.ipynb", json.dumps(NOTEBOOK).encode(), "text/plain")}
        if field == "again":
            assert browser.post("/runs/notebook", {"again": run, "notebook": "upload"}, files=files).status_code == 404
    assert site.services.runs.list_of("bob") == []


NAMES = st.sampled_from(["a", "b", "n_cutouts", "ü"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


# How fast a busy machine makes and tries examples says nothing of the rule.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=4)))
def test_parameters_written_as_lines_are_read_as_they_were(parameters: dict[str, Any]) -> None:
    text, left_out = to_parameter_lines(parameters)
    assert left_out == []
    read = to_parameters(text)
    assert json.dumps(read) == json.dumps(parameters)


def test_parameters_that_no_line_can_say_are_left_out_by_name() -> None:
    parameters = {"nested": [[1]], "dict": {"a": 1}, "long": "x" * 3000, "kept": 1}
    assert to_parameter_lines(parameters) == ("kept = 1", ["nested", "dict", "long"])
    many = {f"p{number}": "x" * 1000 for number in range(30)}
    text, left_out = to_parameter_lines(many)
    assert to_parameters(text) == {name: value for name, value in many.items() if name not in left_out}
    assert len(left_out) > 5


def test_the_list_is_filtered_and_stays_so_while_it_is_live(site: Site) -> None:
    entry, root = site.accept("ann"), site.open("consortium", "Deep fields", "lead")
    site.accept("lead")
    site.join(root, "ann")
    runs = []
    for name, allocation in [("flats.ipynb", entry), ("darks.ipynb", root), ("old.ipynb", entry)]:
        site.clock.at_ms += 1
        runs.append(site.submit_run("ann", allocation, NOTEBOOK, name=name))
    site.services.runs.cancel("ann", runs[2])
    browser = site.browser("ann")

    def shown(query: str) -> list[str]:
        response = browser.get(f"/runs{query}")
        assert response.status_code == 200
        return re.findall(r'id="run-[^"]*" href="[^"]*">([^<]*)<', response.text)

    assert shown("") == ["old.ipynb", "darks.ipynb", "flats.ipynb"]
    assert shown("?state=unended") == ["darks.ipynb", "flats.ipynb"]
    assert shown("?state=cancelled") == ["old.ipynb"]
    assert shown(f"?allocation={root}") == ["darks.ipynb"]
    assert shown("?name=FLAT&state=queued") == ["flats.ipynb"]
    page = browser.get(f"/runs?state=unended&name=s&allocation={entry}").text
    live = re.search(r'hx-get="([^"]*)"', page)
    assert live
    assert f"/runs/live?state=unended&amp;allocation={entry}&amp;name=s&amp;seen=" in live[1]
    assert browser.http.get(unescape(live[1])).status_code == 204
    assert "None of your runs is like that" in browser.get("/runs?state=failed").text
    assert browser.get("/runs?state=nonsense").status_code == 422
    assert browser.get(f"/runs?name={HOSTILE}%00").status_code == 200
    assert "<script>alert" not in browser.get(f"/runs?name={HOSTILE}").text


def test_the_list_is_read_page_by_page(site: Site) -> None:
    entry = site.accept("ann")
    runs = []
    for _ in range(RUNS_PAGE + 2):
        site.clock.at_ms += 1
        runs.append(site.queue_run("ann", entry))
    browser = site.browser("ann")
    first = browser.get("/runs?state=queued").text
    older = re.search(r'id="older" href="([^"]*)"', first)
    assert older
    second = browser.http.get(unescape(older[1])).text
    ids = [re.findall(r'id="run-(r-[0-9a-f]+)"', page) for page in (first, second)]
    assert ids == [runs[:1:-1], runs[1::-1]]
    assert 'id="older"' not in second
    assert f'id="newest" href="{PREFIX}/runs?state=queued"' in second
    assert site.browser("bob").get(f"/runs?before={runs[0]}").status_code == 404


def test_several_runs_are_cancelled_at_once(site: Site) -> None:
    entry = site.accept("ann")
    runs = [site.queue_run("ann", entry) for _ in range(3)]
    browser = site.browser("ann")
    page = browser.get("/runs").text
    assert sorted(re.findall(r'type="checkbox" name="run" value="([^"]*)"', page)) == sorted(runs)
    fields: dict[str, Any] = {"run": runs[:2], "state": "queued", "_csrf": browser.token()}
    sent = browser.http.post(f"{PREFIX}/runs/cancel", data=fields)
    assert sent.headers["location"] == f"{PREFIX}/runs?state=queued&done=several-cancelled"
    states = {run.id: run.state for run in site.services.runs.list_of("ann")}
    assert [states[run] for run in runs] == [RunState.CANCELLED, RunState.CANCELLED, RunState.QUEUED]
    assert "The chosen runs are being cancelled" in browser.http.get(sent.headers["location"]).text
    assert re.findall(r'name="run" value="([^"]*)"', browser.get("/runs").text) == runs[2:]


def test_a_cancellation_of_several_that_is_forged_or_empty_changes_nothing(site: Site) -> None:
    run, _ = site.queue_run("ann", site.accept("ann")), site.accept("bob")
    none = site.browser("ann").post("/runs/cancel")
    assert (none.status_code, "No run is chosen" in none.text) == (422, True)
    assert site.browser("bob").post("/runs/cancel", {"run": run}).status_code == 404
    assert site.browser("ann").http.post(f"{PREFIX}/runs/cancel", data={"run": run}).status_code == 403
    assert site.browser("nothing").http.post(f"{PREFIX}/runs/cancel", data={"run": run}).status_code == 403
    assert site.services.runs.get("ann", run).state is RunState.QUEUED


def shown_notebook(site: Site, content: dict[str, Any]) -> str:
    run = site.queue_run("ann", site.accept("ann"))
    site.write_output(run, content)
    response = site.browser("ann").get(f"/runs/{run}/notebook")
    assert response.status_code == 200, response.text
    assert response.headers["content-security-policy"] == NOTEBOOK_POLICY
    return response.text


@pytest.mark.parametrize(
    "output",
    [
        display(**{"text__vnd.mermaid": "<script>alert(1)</script><form action=https://evil.example>"}),
        display(**{"application__vnd.jupyter.widget-view+json": {"model_id": "</script><script>alert(1)//"}}),
        display(application__javascript="alert(1)"),
        display(image__png='"><script>alert(1)</script>'),
        display(**{"image__svg+xml": "<svg><script>alert(1)</script></svg>"}),
        display(text__latex="<script>alert(1)</script>"),
        display(text__markdown="<script>alert(1)</script> <base href='https://evil.example'>"),
        display(image__png="AA==") | {"metadata": {"filenames": {"image/png": "https://evil.example/x.png"}}},
        display(image__png="AA==") | {"metadata": {"image/png": {"width": "1 onload=alert(1)"}}},
        {"output_type": "stream", "name": "stdout", "text": "\x1b[31m<script>alert(1)</script>"},
        {"output_type": "error", "ename": "<script>", "evalue": HOSTILE, "traceback": [HOSTILE]},
    ],
)
def test_no_output_brings_a_script_an_address_or_an_attribute(site: Site, output: dict[str, Any]) -> None:
    html = shown_notebook(site, executed(output))
    assert not re.search(r"<(script|form|base|iframe|link|meta http)", html)
    assert "evil.example/x.png" not in html
    assert not re.search(r"<img[^>]*onload", html)


def test_what_a_notebook_says_of_itself_reaches_no_template(site: Site) -> None:
    odd = {"tags": [HOSTILE], "transient": "x", "raw_mimetype": 5}
    content = executed(metadata=odd) | {"metadata": {"language_info": {"name": HOSTILE}, "title": HOSTILE}}
    content["cells"].append({"cell_type": "raw", "id": "r", "metadata": {"raw_mimetype": 5}, "source": "<b>raw</b>"})
    assert "alert(1)" not in shown_notebook(site, content)


def test_the_size_that_a_figure_is_meant_to_have_is_kept(site: Site) -> None:
    figure = display(image__png="AA==") | {"metadata": {"image/png": {"width": 640, "height": 10**9}}}
    html = shown_notebook(site, executed(figure))
    image = re.search(r'<img[^>]*src="data:image/png;base64,AA=="[^>]*>', html)
    assert image
    assert 'width="640"' in image[0]
    assert "height" not in image[0]


def test_a_big_notebook_is_shown_in_part_and_says_what_is_left_out(site: Site) -> None:
    printed = {"output_type": "stream", "name": "stdout", "text": "y" * (TEXT_LENGTH_MAX + 1234)}
    table = display(text__html="<table>" + "<tr><td>1</td></tr>" * TEXT_LENGTH_MAX + "</table>", text__plain="a table")
    many = [printed] * (2 * TEXTS_LENGTH_MAX // TEXT_LENGTH_MAX)
    figure = display(image__png="A" * 7_500_000)
    html = shown_notebook(site, executed(printed, table, *many, figure, figure, figure))
    assert "[1,234 characters are left out here" in html
    assert "a table" in html
    assert html.count("<img") == 2
    assert html.count("y" * 1000) <= TEXTS_LENGTH_MAX / 1000
    assert len(html) < 25_000_000


def test_much_code_is_shown_in_part(site: Site) -> None:
    cells = [NOTEBOOK["cells"][0] | {"id": f"c{number}", "source": "#" * 90_000} for number in range(5)]
    html = shown_notebook(site, NOTEBOOK | {"cells": cells})
    assert "[60,000 characters are left out here" in html
    assert html.count("#" * 1000) == RICH_TEXTS_LENGTH_MAX / 1000


def test_a_notebook_of_an_older_minor_format_is_shown(site: Site) -> None:
    cell = {name: value for name, value in NOTEBOOK["cells"][0].items() if name != "id"}
    assert "In&nbsp;[1]" in shown_notebook(site, NOTEBOOK | {"nbformat_minor": 2, "cells": [cell]}).replace(
        "\xa0", "&nbsp;"
    )


def test_elements_that_lie_very_deep_in_each_other_are_not_parsed(site: Site) -> None:
    html = shown_notebook(site, executed(display(text__html="<div>" * 20_000, text__plain="deep")))
    assert ">deep<" in re.sub(r"\s", "", html)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"nbformat": 3, "worksheets": "x"}',
        b'{"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}',
        b'{"nbformat": "4", "cells": []}',
        b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}',
        b"[]",
        b"5",
    ],
)
def test_what_is_no_notebook_is_said_in_the_frame_itself(site: Site, content: bytes) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    (site.run_store / run / "output.ipynb").write_bytes(content)
    response = site.browser("ann").get(f"/runs/{run}/notebook")
    assert response.status_code == 422
    assert "The executed notebook cannot be shown" in response.text
    assert "Download it instead" in response.text
    # With the policy of a page, the page of the run could not show it.
    assert response.headers["content-security-policy"] == NOTEBOOK_POLICY


def test_half_of_a_surrogate_pair_is_shown_as_a_question_mark(site: Site) -> None:
    assert "<pre>a?" in shown_notebook(site, executed(display(text__plain="a\ud800")))


def test_pages_take_no_image_from_an_address_of_data(site: Site) -> None:
    site.accept("ann")
    policy = site.browser("ann").get("/runs").headers["content-security-policy"].split("; ")
    assert "img-src 'self'" in policy


def test_a_time_in_the_future_is_no_negative_duration(site: Site) -> None:
    run = site.submit_run("ann", site.accept("ann"), notebook("a"))
    site.start_run(run, cells=1)
    event = {"event": "cell_started", "cell": 1, "at": to_rfc3339(START_MS + 10**9)}
    (site.run_store / run / "events.jsonl").write_text(f"{json.dumps(event)}\n")
    assert rows(site.browser("ann").get(f"/runs/{run}").text) == ["1 a running 0.0 s"]


def recorded(site: Site, run: str, **changes: Any) -> None:
    """Let a run end with a record such as its runner writes."""
    cells = changes.pop("cells", ["a" * 16, "b" * 16])
    record: dict[str, Any] = {
        "attempt": 1,
        "notebook_sha256": "0" * 64,
        "interpreter": "3.12.3",
        "platform": "Linux-6.8",
        "packages": ["astropy==7.1.0"],
        "environment_sha256": sha256(b"3.12.3\nastropy==7.1.0").hexdigest(),
        "node": "here",
        "git_revision": None,
        "inputs": [{"path": HOSTILE, "bytes": 3, "sha256": "1" * 64}],
        "outputs": [],
        "output_sha256": sha256("".join(cells).encode()).hexdigest(),
        "cells": cells,
    }
    site.services.runs.claim("x", 100)
    (site.run_store / run / "provenance.json").write_text(json.dumps(record | changes))
    finish(site, run, Outcome.SUCCEEDED)


def test_the_record_of_a_run_is_shown_and_can_be_downloaded(site: Site) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    browser = site.browser("ann")
    assert "download-record" not in browser.get(f"/runs/{run}").text, "it has not ended"
    recorded(site, run)
    page = browser.get(f"/runs/{run}").text
    assert "astropy==7.1.0" in page
    assert HOSTILE not in page
    answer = browser.get(f"/runs/{run}/provenance.json")
    assert answer.headers["content-disposition"] == f'attachment; filename="{run}.json"'
    assert answer.json()["provenance"]["cells"] == ["a" * 16, "b" * 16]
    assert site.browser("bob").get(f"/runs/{run}/provenance.json").status_code == 404


def test_a_run_is_replayed_and_its_page_says_what_differs(site: Site) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    recorded(site, run)
    browser = site.browser("ann")
    page = browser.get(f"/runs/{run}").text
    (key,) = re.findall(r'name="key" value="([^"]*)"', page)
    first, second = (browser.post(f"/runs/{run}/replay", {"key": key}) for _ in range(2))
    assert first.headers["location"] == second.headers["location"], "sent twice, it is one replay"
    (replay,) = {one.id for one in site.services.runs.list_of("ann")} - {run}
    recorded(site, replay, cells=["a" * 16, "c" * 16])
    page = browser.get(f"/runs/{replay}").text
    assert "Another output: cell 2 put out something else." in page
    assert f'href="{PREFIX}/runs/{run}"' in page
    assert site.browser("bob").post(f"/runs/{run}/replay", {"key": "k"}).status_code == 404


def test_a_secret_is_set_and_never_shown(site: Site) -> None:
    browser = site.browser("ann")
    assert "You have none yet" in browser.get("/secrets").text
    answer = browser.post("/secrets", {"name": "GAIA_KEY", "value": "s3cret-value"})
    assert answer.status_code == 303
    page = browser.get("/secrets").text
    assert "GAIA_KEY" in page
    assert "s3cret-value" not in page
    refused = browser.post("/secrets", {"name": "PATH", "value": "s3cret-value"})
    assert (refused.status_code, "PATH is set by the platform" in refused.text) == (422, True)
    assert "s3cret-value" not in refused.text, "after an error it is typed again"
    assert "GAIA_KEY" not in site.browser("bob").get("/secrets").text
    assert browser.post("/secrets/remove", {"name": "GAIA_KEY"}).status_code == 303
    assert browser.post("/secrets/remove", {"name": "GAIA_KEY"}).status_code == 404


def test_the_form_gives_a_run_the_secrets_that_are_ticked(site: Site) -> None:
    entry, browser = site.accept("ann"), site.browser("ann")
    for name in ("FIRST", "SECOND"):
        site.services.secrets.put("ann", name, "s3cret")
    page = browser.get("/runs/new?example=wfi-cutouts.ipynb").text
    assert re.findall(r'name="environment" value="([^"]*)"( checked)?', page) == [("FIRST", ""), ("SECOND", "")]
    run = site.submit_run("ann", entry, NOTEBOOK, environment=["SECOND"])
    page = browser.get(f"/runs/new?again={run}").text
    assert re.findall(r'name="environment" value="([^"]*)"( checked)?', page) == [("FIRST", ""), ("SECOND", " checked")]
    fields = {"again": run, "choice": f"{entry}::small", "minutes": "1", "retries": "0", "key": "k"}
    assert browser.post("/runs", fields | {"environment": "FIRST"}).status_code == 303
    assert sorted(one.environment for one in site.services.runs.list_of("ann")) == [["FIRST"], ["SECOND"]]
    missing = browser.post("/runs", fields | {"environment": "GONE", "key": "l"})
    assert (missing.status_code, "You have no secret GONE" in missing.text) == (409, True)
