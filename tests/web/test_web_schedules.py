"""The pages of schedules and of chains, as people use them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from allocations.lifecycle.authority import Actor
from allocations.runs.models import Outcome, RunSource, RunSourceKind
from allocations.runs.service import Finish
from tests.serving import serving
from tests.web.conftest import NOTEBOOK, taking
from tests.web.looking import faults_of

if TYPE_CHECKING:
    from typing import Literal

    from tests.web.conftest import Browser, Site

ADMIN = Actor("admin", admin=True)
HOUR_MS = 3_600_000


def fields(allocation: str, **changes: str) -> dict[str, str]:
    return {
        "title": "Nightly stack",
        "notebook": "upload",
        "choice": f"{allocation}::small",
        "image": "",
        "parameters": "n = 3",
        "minutes": "10",
        "cron": "30 2 * * *",
        "zone": "Europe/Berlin",
        "missed": "once",
        "overlap": "queue",
        "key": "k1",
    } | changes


def file() -> dict[str, Any]:
    return {"file": ("night.ipynb", json.dumps(taking("n")).encode(), "application/x-ipynb+json")}


def made(ann: Browser, allocation: str, **changes: str) -> str:
    """Make a schedule in the form and return its path."""
    answer = ann.post("/schedules", fields(allocation, **changes), files=file())
    assert answer.status_code == 303, answer.text
    found = re.search(r"(/schedules/sc-[0-9a-f]+)\?done=scheduled", answer.headers["location"])
    assert found
    return found[1]


def test_a_schedule_is_made_shown_changed_paused_resumed_and_removed(site: Site) -> None:
    entry, ann = site.accept("ann"), site.browser("ann")
    assert "You have no schedule." in ann.get("/schedules").text
    assert "At 06:00 every day (UTC). It comes next" in re.sub(r"\s+", " ", ann.get("/schedules/new").text)
    path = made(ann, entry)
    assert made(ann, entry) == path, "sent twice, it is one"
    shown = ann.get(path).text
    assert "Saturday 16 January 2027, 02:30 (CET, UTC+01:00)" in shown
    assert "let the new one wait for it" in shown
    assert "Nightly stack" in ann.get("/schedules").text
    form = ann.get(f"{path}/edit").text
    assert 'value="kept" checked' in form
    assert "n = 3" in form
    kept = fields(entry, notebook="kept", title="Weekly <stack>", cron="0 9 * * MON", zone="Asia/Tokyo")
    assert ann.post(path, kept).headers["location"].endswith("done=schedule-changed")
    shown = ann.get(path).text
    assert "Monday 18 January 2027, 09:00 (JST, UTC+09:00)" in shown
    assert "Weekly &lt;stack&gt;" in shown
    assert "night.ipynb" in shown
    assert ann.post(f"{path}/pause").status_code == 303
    assert "Times, once it is resumed" in ann.get(path).text
    assert ann.post(f"{path}/resume").status_code == 303
    bob = site.browser("bob")
    for other in (path, f"{path}/edit"):
        assert bob.get(other).status_code == 404
    for act in ("", "/pause", "/resume", "/remove"):
        assert bob.post(f"{path}{act}", kept).status_code == 404
    assert ann.post(f"{path}/remove").headers["location"].endswith("/schedules?done=schedule-removed")
    assert ann.get(path).status_code == 404


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cron": "every day"}, "is not a cron expression of five fields"),
        ({"cron": "0 0 30 2 *"}, "bad day-of-month"),
        ({"zone": "Berlin"}, "There is no time zone"),
        ({"title": " "}, "The title of a schedule"),
        ({"choice": ""}, "No size is chosen"),
        ({"choice": "a-0::small"}, "allocation"),
        ({"missed": "never"}, "What is to happen otherwise"),
        ({"minutes": "x"}, "is not a whole number"),
        ({"notebook": "run", "run": "r-0"}, "There is no run"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_lost(site: Site, changes: dict[str, str], says: str) -> None:
    entry, ann = site.accept("ann"), site.browser("ann")
    answer = ann.post("/schedules", fields(entry, parameters="n = 42", **changes), files=file())
    assert answer.status_code in {403, 404, 422}
    assert says in answer.text
    assert "n = 42" in answer.text
    assert site.services.schedules.list_of("ann") == []


def test_each_run_gets_what_the_form_says(site: Site) -> None:
    entry, ann = site.accept("ann"), site.browser("ann")
    for name in ("TOKEN", "OTHER"):
        site.services.secrets.put("ann", name, f"value of {name}")
    new = ann.get("/schedules/new").text
    assert 'name="environment" value="TOKEN">' in new
    assert "Begin after" not in new
    assert "value of" not in new
    path = made(ann, entry, retries="2", output="home:nights", environment="TOKEN", cron="0 * * * *")
    shown = ann.get(path).text
    for part in (
        "<dt>Retries of each run</dt><dd>2</dd>",
        "<code>home:nights</code>",
        "<code>TOKEN</code>",
        "uploaded",
    ):
        assert part in shown
    form = ann.get(f"{path}/edit").text
    assert 'value="TOKEN" checked' in form
    assert 'value="OTHER">' in form
    assert re.search(r'name="retries"[^>]* value="2"', form)
    assert re.search(r'name="output"[^>]* value="home:nights"', form)
    site.clock.at_ms += HOUR_MS
    site.services.schedule_duty.submit_due()
    [run] = site.services.runs.list_of("ann")
    assert (run.retries, run.output, run.environment) == (2, "home:nights", ["TOKEN"])
    kept = fields(entry, notebook="kept", retries="0", output="", environment="OTHER")
    assert ann.post(path, kept).status_code == 303
    changed = site.services.schedules.get("ann", path.rpartition("/")[2])
    assert (changed.retries, changed.output, changed.environment) == (0, None, ["OTHER"])
    assert changed.source is not None
    assert changed.source.kind == "upload"


def test_a_secret_that_is_gone_is_not_left_out_unseen(site: Site) -> None:
    entry, ann = site.accept("ann"), site.browser("ann")
    site.services.secrets.put("ann", "TOKEN", "a")
    path = made(ann, entry, environment="TOKEN", cron="0 * * * *")
    site.services.secrets.remove("ann", "TOKEN")
    form = re.sub(r"\s+", " ", ann.get(f"{path}/edit").text)
    assert 'value="TOKEN" checked> <code>TOKEN</code> <span class="m-reason">you have no such secret any more' in form
    kept = fields(entry, notebook="kept", title="Other")
    refused = ann.post(path, kept | {"environment": "TOKEN"})
    assert (refused.status_code, "You have no secret TOKEN." in refused.text) == (409, True)
    assert 'value="TOKEN" checked' in refused.text
    site.clock.at_ms += HOUR_MS
    site.services.schedule_duty.submit_due()
    assert "You have no secret TOKEN. Set it first" in ann.get(path).text
    assert ann.post(path, kept).status_code == 303
    assert site.services.schedules.get("ann", path.rpartition("/")[2]).environment == []


def test_a_schedule_of_a_run_begins_with_what_the_run_had(site: Site) -> None:
    entry, ann = site.accept("ann"), site.browser("ann")
    site.services.secrets.put("ann", "TOKEN", "a")
    source = RunSource(kind=RunSourceKind.HOME, path="nights/mine.ipynb")
    run = site.submit_run("ann", entry, NOTEBOOK, environment=["TOKEN"], output="scratch:out", retries=1, source=source)
    form = ann.get(f"/schedules/new?run={run}").text
    assert 'value="TOKEN" checked' in form
    assert re.search(r'name="retries"[^>]* value="1"', form)
    assert re.search(r'name="output"[^>]* value="scratch:out"', form)
    path = made(ann, entry, notebook="run", run=run, parameters="")
    assert site.services.schedules.get("ann", path.rpartition("/")[2]).source == source
    assert "from your home: <code>nights/mine.ipynb</code>" in ann.get(path).text


def test_all_that_is_wrong_is_said_beside_its_field(site: Site) -> None:
    entry, ann = site.accept("ann"), site.browser("ann")
    site.services.secrets.put("ann", "TOKEN", "a")
    wrong = fields(entry, retries="6", minutes="0", parameters="n", overlap="no", environment="TOKEN", output="home:x")
    answer = ann.post("/schedules", wrong, files=file())
    assert answer.status_code == 422
    assert "4 fields need other values" in answer.text
    for id_ in ("retries", "minutes", "parameters", "overlap"):
        assert f'<a href="#{id_}">' in answer.text
    assert 'value="TOKEN" checked' in answer.text
    assert 'value="home:x"' in answer.text
    kept = ann.post("/schedules", fields(entry, notebook="kept"))
    assert (kept.status_code, "No notebook is chosen" in kept.text) == (422, True)


def test_the_next_times_are_shown_while_one_types(site: Site) -> None:
    site.accept("ann")
    ann = site.browser("ann")
    shown = ann.get("/schedules/preview?cron=30%202%20*%20*%20SUN&zone=Europe/Berlin").text
    assert shown.count("<li>") == 5
    assert "Sunday 17 January 2027, 02:30 (CET, UTC+01:00)" in shown
    skipped = ann.get("/schedules/preview?cron=30%202%2028%203%20*&zone=Europe/Berlin").text
    assert "Sunday 28 March 2027, 03:00 (CEST, UTC+02:00)" in skipped
    assert "The clock skips 02:30 on that day: this is the first moment after." in skipped
    wrong = ann.get("/schedules/preview?cron=%00%ff&zone=%3Cb%3E")
    assert wrong.status_code == 200
    assert "<b>" not in wrong.text


def test_a_run_leads_to_a_schedule_and_back(site: Site) -> None:
    entry, ann = site.accept("ann"), site.browser("ann")
    run = site.queue_run("ann", entry, n=7)
    assert f"/schedules/new?run={run}" in ann.get(f"/runs/{run}").text
    form = ann.get(f"/schedules/new?run={run}").text
    assert 'value="run" checked' in form
    assert "n = 7" in form
    assert site.browser("bob").get(f"/schedules/new?run={run}").status_code == 404
    path = made(ann, entry, notebook="run", run=run, cron="0 * * * *")
    site.clock.at_ms += HOUR_MS
    assert site.services.schedule_duty.submit_due() == 1
    [time] = site.services.schedules.get("ann", path.rpartition("/")[2]).times
    assert time.run is not None
    assert f'Submitted by the schedule <a href="/services/allocations{path}">Nightly stack</a>' in (
        ann.get(f"/runs/{time.run}").text
    )
    assert time.run in ann.get(path).text


def test_a_run_shows_what_it_waits_for_and_what_waits_for_it(site: Site) -> None:
    entry, ann = site.accept("ann"), site.browser("ann")
    first = site.queue_run("ann", entry)
    site.clock.at_ms += 1
    second = site.submit_run("ann", entry, NOTEBOOK, name="second.ipynb", after=[first])
    shown = ann.get(f"/runs/{second}").text
    assert "<h2>It waits for</h2>" in shown
    assert f"Waits until this run has succeeded: {first} (mine.ipynb)." in shown
    assert "<h2>What waits for it</h2>" in ann.get(f"/runs/{first}").text
    site.start_run(first, 1)
    finish = Finish(1, Outcome.FAILED, site.clock.at_ms, site.clock.at_ms)
    site.services.runs.finish(first, finish)
    site.services.chains.cancel_hopeless()
    ended = ann.get(f"/runs/{second}").text
    assert "The run waited in vain" in ended
    assert f"The run {first} (mine.ipynb), for whose success this one waited, failed." in ended
    assert "<h2>It waited for</h2>" in ended


def paths_of(site: Site) -> dict[str, list[str]]:
    entry, ann = site.accept("ann"), site.browser("ann")
    going, refused = made(ann, entry), made(ann, entry, key="k2", cron="0 * * * *", title="Hourly_" * 12)
    for name in ("TOKEN", "GONE"):
        site.services.secrets.put("ann", name, "a")
    terms = {"retries": "1", "output": "home:nights/of/the/survey", "environment": "GONE"}
    with_terms = made(ann, entry, key="k4", **terms)
    site.services.secrets.remove("ann", "GONE")
    first = site.queue_run("ann", entry)
    second = site.submit_run("ann", entry, NOTEBOOK, name="second.ipynb", after=[first])
    site.services.suspensions.suspend(ADMIN, "ann", "A token in a public place.", 0)
    for _ in range(6):
        site.clock.at_ms += HOUR_MS
        site.services.schedule_duty.submit_due()
    site.services.suspensions.lift(ADMIN, "ann", "It is revoked.")
    third = made(ann, entry, key="k3", cron="*/30 1-3 28 3 *")
    paths = ["/schedules", going, refused, third, f"{going}/edit", f"/schedules/new?run={first}", f"/runs/{second}"]
    paths += [with_terms, f"{with_terms}/edit"]
    return {"ann": paths, "bob": ["/schedules", "/schedules/new"]}


@pytest.mark.e2e
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_the_pages_of_schedules_are_accessible(site: Site, scheme: Literal["light", "dark"], width: int) -> None:
    site.accept("bob")
    paths = paths_of(site)
    with serving(site.app) as url:
        assert faults_of(url, paths, scheme, width) == {}
