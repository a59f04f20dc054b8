"""The form of a run lets it wait for one's own runs and sweeps that have not ended, and its page shows the chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.web.test_web_pages import submission
from tests.web.test_web_sweeps import queue

if TYPE_CHECKING:
    from tests.web.conftest import Site

EXAMPLE = "wfi-cutouts.ipynb"


def test_a_run_waits_for_what_is_chosen_or_named_in_the_form(site: Site) -> None:
    ann, entry = site.browser("ann"), site.accept("ann")
    sweep, named = queue(site, entry, [{"x": 1}]), queue(site, entry, [{"x": 1}, {"x": 2}])
    ended = queue(site, entry, [{"y": 1}])
    site.services.sweeps.cancel("ann", ended)
    ann.post("/runs", submission(entry, example=EXAMPLE, key="first"))
    [first] = site.services.runs.list_of("ann")
    shown = ann.get(f"/runs/new?example={EXAMPLE}").text
    for offered in (sweep, named, first.id):
        assert f'name="after" value="{offered}"' in shown
    assert ended not in shown
    assert "Begin after" in site.browser("bob").get(f"/runs/new?example={EXAMPLE}").text
    assert sweep not in site.browser("bob").get(f"/runs/new?example={EXAMPLE}").text

    site.clock.at_ms += 1000
    chain = {"after": sweep, "after_ids": f" {named}, {first.id}\n{named}"}
    assert ann.post("/runs", submission(entry, example=EXAMPLE, key="second") | chain).status_code == 303
    made = site.services.runs.list_of("ann")[0]
    assert {one.id for one in made.after} == {sweep, named, first.id}
    assert made.waits_for == "succeeded"
    page = ann.get(f"/runs/{made.id}").text
    assert "Waits until these have succeeded" in page
    for awaited, path in ((sweep, f"/sweeps/{sweep}"), (first.id, f"/runs/{first.id}")):
        assert f'id="after-{awaited}" href="/services/allocations{path}"' in page
    assert f'id="before-{made.id}"' in ann.get(f"/runs/{first.id}").text


def test_what_cannot_be_waited_for_is_said_and_what_was_chosen_stays(site: Site) -> None:
    ann, entry = site.browser("ann"), site.accept("ann")
    sweep = queue(site, entry, [{"x": 1}])
    ended = queue(site, entry, [{"y": 1}])
    site.services.sweeps.cancel("ann", ended)
    form = submission(entry, example=EXAMPLE) | {"after": sweep}
    unknown = ann.post("/runs", form | {"after_ids": 'r-0"><b>', "even_if_failed": "1"})
    assert unknown.status_code == 404
    assert "There is no run or sweep" in unknown.text
    assert "r-0&#34;&gt;&lt;b&gt;" in unknown.text
    assert f'value="{sweep}" checked' in unknown.text
    assert 'name="even_if_failed" value="1" checked' in unknown.text
    in_vain = ann.post("/runs", form | {"after_ids": ended})
    assert (in_vain.status_code, "was cancelled" in in_vain.text) == (409, True)
    many = ann.post("/runs", form | {"after_ids": " ".join(f"r-{number}" for number in range(101))})
    assert (many.status_code, "100 others at most" in many.text) == (422, True)
    assert ann.post("/runs", form | {"after_ids": ended, "even_if_failed": "1"}).status_code == 303
    [made] = site.services.runs.list_of("ann")
    assert made.waits_for == "ended"
