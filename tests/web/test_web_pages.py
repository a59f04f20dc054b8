"""The pages: what each person sees, and what the forms do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from typing import TYPE_CHECKING

import pytest

from allocations.app import PREFIX
from allocations.db.idempotency import IdempotencyKey
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.lifecycle.authority import Actor
from allocations.runs.models import Outcome, RunError, RunState
from allocations.runs.service import Finish
from tests.web.conftest import NOTEBOOK, START_MS, taking

if TYPE_CHECKING:
    from httpx2 import Response

    from tests.web.conftest import Browser, Site

HOSTILE = '"><script>alert(1)</script>'
CREDIT = 1_000_000


def fields_of(html: str, name: str) -> list[str]:
    return re.findall(rf'name="{name}" value="([^"]*)"', html)


def test_the_agreement_comes_first_is_accepted_once_and_opens_the_entry_allocation(site: Site) -> None:
    browser = site.browser("ann")
    assert browser.get("/").headers["location"] == f"{PREFIX}/agreement"
    page = browser.get("/agreement").text
    assert "<strong>Computing is counted.</strong>" in page
    (version,) = fields_of(page, "version")
    assert browser.post("/agreement", {"version": version}).headers["location"] == f"{PREFIX}/?done=accepted"
    assert "Entry allocation of ann" in browser.get("/").text
    assert not fields_of(browser.get("/agreement").text, "version")


def test_an_agreement_that_changed_meanwhile_is_shown_again_with_the_reason(site: Site) -> None:
    response = site.browser("ann").post("/agreement", {"version": "older"})
    assert response.status_code == 422
    assert "The agreement in force is" in response.text
    assert "Accept version" in response.text


def test_home_shows_balances_servers_runs_and_charges_with_units(site: Site) -> None:
    entry = site.accept("ann")
    request = LeaseRequest(entry, "ann", LeaseKind.INTERACTIVE, "small", None, "")
    leases = site.services.leases
    lease = leases.acquire(request, IdempotencyKey.for_request("spawner", "k", "a", {}))
    leases.start(lease.id)
    site.clock.at_ms += 600_000
    leases.renew(lease.id)
    run = site.queue_run("ann", entry)
    page = site.browser("ann").get("/").text
    assert "364 days left" in page
    assert re.search(r'class="p-bar-spent" width="0\.\d+"', page)
    assert "0.1667 core-hours, 0.6667 GiB-hours" in page
    assert "23 h 50 min at most" in page
    assert "renewed by itself in" in page
    assert f'href="{PREFIX}/runs/{run}"' in page
    assert 'href="/hub/home"' in page
    assert '<time datetime="2027-01-15T08:10:00.000Z">15 Jan 2027, 08:10 UTC</time>' in page
    assert "style=" not in page


def test_a_server_is_extended_by_its_person_only(site: Site) -> None:
    entry = site.accept("ann")
    site.accept("bob")
    request = LeaseRequest(entry, "ann", LeaseKind.INTERACTIVE, "small", None, "night")
    lease = site.services.leases.acquire(request, IdempotencyKey.for_request("spawner", "k", "a", {}))
    site.services.leases.start(lease.id)
    ann, path = site.browser("ann"), f"/servers/{lease.id}/extend"
    page = ann.get("/").text
    assert f'action="{PREFIX}{path}"' in page
    assert "Stopped earlier if it is not used for 1 h." in page
    site.clock.at_ms += 600_000
    assert site.browser("bob").post(path).status_code == 404
    assert ann.post(path, {"_csrf": "forged"}).status_code == 403
    [before] = site.services.sessions.outlooks_of("ann")
    answer = ann.post(path)
    assert answer.status_code == 303
    assert "The server is extended." in ann.http.get(answer.headers["Location"]).text
    [after] = site.services.sessions.outlooks_of("ann")
    assert (before.used_at, after.used_at) == ("2027-01-15T08:00:00.000Z", "2027-01-15T08:10:00.000Z")
    site.services.leases.settle(lease.id)
    assert "so there is nothing to extend" in ann.post(path).text


def test_a_server_that_has_not_started_costs_nothing_yet(site: Site) -> None:
    entry = site.accept("ann")
    request = LeaseRequest(entry, "ann", LeaseKind.INTERACTIVE, "small", None, "")
    site.services.leases.acquire(request, IdempotencyKey.for_request("spawner", "k", "a", {}))
    site.clock.at_ms += 60_000
    row = site.browser("ann").get("/").text.partition("<td>starting</td>")[2]
    assert '<td class="m-number">0.00</td>' in row[: row.index("</tr>")]


def test_the_agreement_is_markdown_in_which_html_is_text(site: Site) -> None:
    agreement = site.services.policy.agreement.model_copy(update={"text": f"**Bold** {HOSTILE}"})
    policy = site.services.policy.model_copy(update={"agreement": agreement})
    site.app.state.services = replace(site.services, policy=policy)
    page = site.browser("ann").get("/agreement").text
    assert "<strong>Bold</strong>" in page
    assert "<script>alert" not in page


def test_a_live_part_is_sent_only_when_it_has_changed(site: Site) -> None:
    entry = site.accept("ann")
    browser = site.browser("ann")
    url = re.search(r'hx-get="([^"]+)"', browser.get("/").text)
    assert url
    assert browser.http.get(url[1]).status_code == 204
    site.queue_run("ann", entry)
    changed = browser.http.get(url[1])
    assert changed.status_code == 200
    assert "mine.ipynb" in changed.text
    assert "<html" not in changed.text


def test_names_titles_and_parameters_of_others_are_text(site: Site) -> None:
    entry = site.accept("ann")
    consortium = site.open("consortium", "Deep fields", "lead")
    child = site.services.tree.divide(
        Actor("lead"), consortium, name=HOSTILE, microcredits=CREDIT, guaranteed=True, lead=HOSTILE
    )
    site.join(child, "ann")
    run = site.queue_run("ann", entry, label=HOSTILE, listed=[HOSTILE])
    request = site.request("ann", title=HOSTILE, justification=HOSTILE)
    site.services.lifecycle.suspend(Actor("admin", admin=True), child, HOSTILE)
    for person, path in [
        ("ann", "/"),
        ("ann", f"/allocations/{child}"),
        ("lead", f"/allocations/{consortium}"),
        ("ann", "/runs/new?example=wfi-cutouts.ipynb"),
        ("ann", f"/runs/new?again={run}"),
        ("ann", f"/runs/{run}"),
        ("ann", "/requests"),
        ("ann", f"/requests/{request}"),
        ("rev", "/review"),
        ("rev", f"/requests/{request}"),
        ("admin", "/admin/allocations"),
        ("admin", "/admin/audit"),
    ]:
        response = site.browser(person).get(path)
        assert response.status_code == 200, path
        assert "alert(1)" in response.text, path
        assert "<script>alert" not in response.text, path
    assert "<script>alert" not in site.browser("admin").get(f"/admin/audit?subject={HOSTILE}").text
    assert "<script>alert" not in site.browser("admin").get(f"/admin/allocations?find={HOSTILE}").text


def test_what_others_have_looks_like_what_does_not_exist(site: Site) -> None:
    entry = site.accept("ann")
    run, request = site.queue_run("ann", entry), site.request("ann")
    for path in [
        f"/allocations/{entry}",
        f"/runs/{run}",
        f"/runs/{run}/live",
        f"/runs/{run}/notebook",
        f"/runs/{run}/notebook.ipynb",
        f"/runs/{run}/log",
        f"/requests/{request}",
    ]:
        assert site.browser("bob").get(path).status_code == 404, path
        missing = re.sub(r"-[0-9a-f]{20}", "-" + "0" * 20, path)
        assert site.browser("bob").get(missing).status_code == 404, missing
    assert site.browser("bob").post(f"/runs/{run}/cancel").status_code == 404
    assert site.services.runs.get("ann", run).cancel_requested is False


def test_a_member_sees_no_forms_and_no_charges_of_others(site: Site) -> None:
    consortium = site.open("consortium", "Deep fields", "lead")
    site.join(consortium, "ann")
    assert "Add a sub-allocation" in site.browser("lead").get(f"/allocations/{consortium}").text
    page = site.browser("ann").get(f"/allocations/{consortium}").text
    assert "Deep fields" in page
    assert "Add a" not in page
    assert "Invite a person" not in page
    assert "Change" not in page
    response = site.browser("ann").post(f"/allocations/{consortium}/invitations", {"person": "bob", "role": "member"})
    assert response.status_code == 403
    assert "Only leads and managers" in response.text


def test_a_lead_divides_and_changes_a_share(site: Site) -> None:
    consortium = site.open("consortium", "Deep fields", "lead")
    browser, path = site.browser("lead"), f"/allocations/{consortium}"
    child = {"name": "Supernovae", "credits": "12.5", "kind": "guaranteed", "lead": "ann", "key": "form-1"}
    for _ in range(2):
        done = browser.post(f"{path}/suballocations", child)
        assert done.headers["location"] == f"{PREFIX}{path}?done=divided"
    (invited,) = site.services.members.invitations_of("ann")
    site.services.members.answer(Actor("ann"), invited.id, accept=True)
    (node,) = [one for one in site.services.reports.allocations_of("ann") if one.parent == consortium]
    assert node.limit_microcredits == 12_500_000
    assert browser.post(f"/allocations/{node.id}/share", {"credits": "20"}).status_code == 303
    assert site.services.reports.allocations_of("ann")[0].limit_microcredits == 20 * CREDIT


@pytest.mark.parametrize(
    ("credits", "says"),
    [
        ("abc", "Credits: is not a number"),
        ("5000", "Guaranteed shares must stay within"),
        ("0.0000001", "six decimals"),
    ],
)
def test_a_share_that_cannot_be_keeps_what_was_typed_and_says_why(site: Site, credits: str, says: str) -> None:  # noqa: A002
    consortium = site.open("consortium", "Deep fields", "lead")
    typed = {"name": "Supernovae & <friends>", "credits": credits, "kind": "guaranteed", "lead": "ann", "key": "f"}
    response = site.browser("lead").post(f"/allocations/{consortium}/suballocations", typed)
    assert response.status_code == 422
    assert says in response.text
    assert 'value="Supernovae &amp; &lt;friends&gt;"' in response.text
    assert f'value="{credits}"' in response.text


def test_a_progress_report_asks_for_the_next_instalment(site: Site) -> None:
    research = site.open("research", "Shear tests", "ann")
    browser = site.browser("ann")
    assert "Next instalment" in browser.get(f"/allocations/{research}").text
    assert browser.post(f"/allocations/{research}/progress", {"report": "Half done.", "key": "f"}).status_code == 303
    (request,) = site.services.reports.requests_of("ann")
    reviewer = site.browser("rev")
    assert "Half done." in reviewer.get(f"/requests/{request.id}").text
    reviewer.post(f"/requests/{request.id}/decide", {"decision": "approve", "why": ""})
    assert "2 of 2 released" in browser.get(f"/allocations/{research}").text
    assert "Next instalment" not in browser.get(f"/allocations/{research}").text


def test_a_request_goes_from_draft_over_a_revision_to_an_allocation(site: Site) -> None:
    site.accept("ann")
    ann, reviewer = site.browser("ann"), site.browser("rev")
    texts = {"tier": "research", "title": "Shear", "justification": "Science.", "credits": "", "key": "f"}
    draft = ann.post("/requests", texts | {"action": "draft"})
    path = draft.headers["location"].removeprefix(PREFIX).partition("?")[0]
    assert ann.post("/requests", texts | {"action": "draft"}).headers["location"] == draft.headers["location"]
    assert "Nothing waits" in reviewer.get("/review").text
    assert ann.post(f"{path}/revise", texts | {"title": "Shear tests", "action": "submit"}).status_code == 303
    assert "Shear tests" in reviewer.get("/review").text
    no_reason = reviewer.post(f"{path}/decide", {"decision": "request-revision", "why": " "})
    assert (no_reason.status_code, "needs to know why" in no_reason.text) == (422, True)
    reviewer.post(f"{path}/decide", {"decision": "request-revision", "why": "How many hours?"})
    assert "How many hours?" in ann.get(path).text
    assert ann.post(f"{path}/revise", texts | {"justification": "100 h.", "action": "submit"}).status_code == 303
    assert reviewer.post(f"{path}/decide", {"decision": "approve", "why": ""}).status_code == 303
    assert "Approved" in ann.get(path).text
    assert "500.00" in ann.get("/").text


def test_a_request_gone_back_to_and_changed_is_asked_about(site: Site) -> None:
    texts = {"tier": "research", "title": "Shear", "justification": "Science.", "credits": "", "key": "f"}
    browser = site.browser("ann")
    browser.post("/requests", texts)
    again = browser.post("/requests", texts | {"title": "Other"})
    assert (again.status_code, "was sent before" in again.text) == (409, True)
    assert "Idempotency" not in again.text
    assert len(site.services.reports.requests_of("ann")) == 1


def test_an_invalid_request_keeps_what_was_typed(site: Site) -> None:
    texts = {"tier": "consortium", "title": "x" * 81, "justification": "<b>why</b>", "credits": "1.5", "key": "f"}
    response = site.browser("ann").post("/requests", texts)
    assert response.status_code == 422
    assert "Credits: is not a whole number" in response.text
    assert "&lt;b&gt;why&lt;/b&gt;</textarea>" in response.text
    assert re.search(r'value="consortium"[^>]* checked', response.text)


def test_a_panel_scores_and_a_conflict_excludes(site: Site) -> None:
    path = f"/requests/{site.request('ann', tier='consortium')}"
    first, second = site.browser("rev"), site.browser("rav")
    assert first.post(f"{path}/review", {"comment": "Good.", "score": "5"}).status_code == 303
    early = first.post(f"{path}/decide", {"decision": "approve", "why": "Fine"})
    assert (early.status_code, "must score the proposal first" in early.text) == (409, True)
    assert "Fine</textarea>" in early.text
    assert second.post(f"{path}/review", {"comment": "Mine.", "conflict": "yes"}).status_code == 303
    assert "Reason for the applicant" not in second.get(path).text
    assert second.post(f"{path}/decide", {"decision": "approve", "why": ""}).status_code == 403


def test_an_applicant_reads_decisions_but_neither_reviewers_nor_scores(site: Site) -> None:
    path = f"/requests/{site.request('ann', tier='consortium')}"
    site.browser("rev").post(f"{path}/review", {"comment": "Secret doubts.", "score": "2"})
    site.browser("rav").post(f"{path}/review", {"comment": "Doubtful.", "score": "2"})
    site.browser("rev").post(f"{path}/decide", {"decision": "decline", "why": "Too little science."})
    page = site.browser("ann").get(path).text
    assert "Too little science." in page
    assert "a reviewer" in page
    assert "Secret doubts." not in page
    assert "by rev" not in page
    assert "Reviewed" not in page
    assert "Secret doubts." in site.browser("rav").get(path).text


def test_nobody_decides_on_their_own_request_or_withdraws_anothers(site: Site) -> None:
    path = f"/requests/{site.request('rev')}"
    assert "Reason for the applicant" not in site.browser("rev").get(path).text
    assert site.browser("rev").post(f"{path}/decide", {"decision": "approve", "why": ""}).status_code == 403
    assert site.browser("rav").post(f"{path}/withdraw").status_code == 403
    assert site.browser("rev").post(f"{path}/withdraw").status_code == 303


def submission(entry: str, **changes: str) -> dict[str, str]:
    return {"choice": f"{entry}::small", "image": "", "minutes": "30", "retries": "0", "key": "form-1"} | changes


def bring(browser: Browser, content: bytes | None = None, **fields: str) -> Response:
    """Choose a file of one's own, as the first page of the submission asks for it."""
    content = json.dumps(taking("n", "when", "flags", "deep")).encode() if content is None else content
    files = {"file": ("../../mine.ipynb", content, "application/octet-stream")}
    return browser.post("/runs/notebook", {"notebook": "upload"} | fields, files=files)


def draft_of(response: Response) -> str:
    found = re.fullmatch(rf"{PREFIX}/runs/new\?draft=(n-[0-9a-f]{{20}})", response.headers["location"])
    assert found, response.headers["location"]
    return found[1]


def test_a_submission_sent_twice_is_one_run(site: Site) -> None:
    entry = site.accept("ann")
    browser = site.browser("ann")
    brought = bring(browser)
    assert brought.status_code == 303
    draft = draft_of(brought)
    page = browser.get(f"/runs/new?draft={draft}").text
    assert "mine.ipynb" in page
    assert len(re.findall(r'name="p-(n|when|flags|deep)"', page)) == 4
    given = {"fields": "1", "p-n": "5", "p-when": "2026-01-01", "p-flags": '["a", 2]', "p-deep": "true"}
    first = browser.post("/runs", submission(entry, draft=draft) | given)
    second = browser.post("/runs", submission(entry, draft=draft) | given)
    assert first.status_code == 303
    assert first.headers["location"] == second.headers["location"]
    (run,) = site.services.runs.list_of("ann")
    assert (run.name, run.size, run.max_seconds) == ("mine.ipynb", "small", 1800)
    assert run.parameters == {"n": 5, "when": "2026-01-01", "flags": ["a", 2], "deep": True}
    page = browser.get(first.headers["location"].removeprefix(PREFIX)).text
    assert "The run is queued" in page
    assert "0 of 1 cells" in page


def test_a_form_gone_back_to_and_changed_is_sent_as_new_only_on_purpose(site: Site) -> None:
    entry = site.accept("ann")
    browser = site.browser("ann")
    draft = draft_of(bring(browser))
    browser.post("/runs", submission(entry, draft=draft))
    again = browser.post("/runs", submission(entry, draft=draft, minutes="40"))
    assert (again.status_code, "was sent before" in again.text) == (409, True)
    (key,) = fields_of(again.text, "key")
    assert key != "form-1"
    browser.post("/runs", submission(entry, draft=draft, minutes="40", key=key))
    assert len(site.services.runs.list_of("ann")) == 2


def test_every_form_rendered_has_a_key_of_its_own(site: Site) -> None:
    site.accept("ann")
    browser, path = site.browser("ann"), "/runs/new?example=wfi-cutouts.ipynb"
    assert fields_of(browser.get(path).text, "key") != fields_of(browser.get(path).text, "key")


def test_an_example_is_run_by_its_name(site: Site) -> None:
    entry = site.accept("ann")
    browser = site.browser("ann")
    assert 'value="wfi-cutouts.ipynb"' in browser.get("/runs/new").text
    chosen = browser.post("/runs/notebook", {"notebook": "wfi-cutouts.ipynb"})
    assert chosen.headers["location"] == f"{PREFIX}/runs/new?example=wfi-cutouts.ipynb"
    page = browser.get("/runs/new?example=wfi-cutouts.ipynb").text
    assert re.search(r'name="p-n_cutouts" type="number" step="1" value="1000"', page)
    assert browser.post("/runs", submission(entry, example="wfi-cutouts.ipynb")).status_code == 303
    (run,) = site.services.runs.list_of("ann")
    assert (run.name, run.source and run.source.kind) == ("wfi-cutouts.ipynb", "example")
    for response in (
        browser.post("/runs", submission(entry, example="../pyproject.toml", key="f2")),
        browser.post("/runs/notebook", {"notebook": "../pyproject.toml"}),
    ):
        assert (response.status_code, "There is no example" in response.text) == (422, True)
    assert "Go on to its parameters" in browser.get("/runs/new?example=nothing.ipynb").text


def test_sizes_that_cannot_be_had_are_disabled_with_their_reason(site: Site) -> None:
    entry = site.accept("ann")
    page = site.browser("ann").get("/runs/new?example=wfi-cutouts.ipynb").text
    large = page[page.index(f'value="{entry}::large"') :]
    assert " disabled" in large[: large.index(">")]
    assert "above the largest of the Entry tier" in large[: large.index("</div>")]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"choice": ""}, "No size is chosen"),
        ({"minutes": "0"}, "Maximum minutes: must be at least 1"),
        ({"minutes": "99999"}, "The maximum time must lie between"),
        ({"retries": "9"}, "Retries: must lie between 0 and 5"),
        ({"parameters": "x 5"}, "Parameters, line 1: is not of the form"),
        ({"parameters": "a = 1\na = 2"}, "Parameters, line 2: gives a again"),
        ({"parameters": "x = {a: 1}"}, "Parameters, line 1: has a value"),
        ({"parameters": "x = .inf"}, "not a finite number"),
        ({"parameters": "x = " + "[" * 1500}, "has a value that cannot be read"),
        ({"parameters": "x = !!python/object/apply:os.system [ls]"}, "has a value that cannot be read"),
        ({"parameters": "unknown = 5"}, "The notebook has no parameter unknown"),
        ({"choice": "a-00000000000000000000::small"}, "There is no allocation"),
    ],
)
def test_a_submission_that_cannot_be_says_why_and_keeps_the_form(
    site: Site, changes: dict[str, str], says: str
) -> None:
    entry = site.accept("ann")
    browser = site.browser("ann")
    fields = submission(entry, draft=draft_of(bring(browser)), **{"fields": "1", "p-n": "kept"} | changes)
    response = browser.post("/runs", fields)
    assert 400 <= response.status_code < 500
    assert says in unescape(response.text)
    assert re.search(r'name="p-n" value="kept"', response.text)
    assert f'value="{fields["minutes"]}"' in response.text
    assert site.services.runs.list_of("ann") == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not json", "Notebook: is not an .ipynb file"),
        (b"[1]", "Notebook: is not an .ipynb file"),
        (b"[" * 100_000, "Notebook: is not an .ipynb file"),
        (b'{"nbformat": 3}', "not a notebook of format 4"),
        (b"", "Notebook: is not an .ipynb file"),
    ],
)
def test_a_file_that_is_no_notebook_is_refused_at_once(site: Site, content: bytes, says: str) -> None:
    site.accept("ann")
    response = bring(site.browser("ann"), content)
    assert response.status_code == 422
    assert says in response.text
    assert "Choose the file again" in response.text


def test_no_file_chosen_is_said(site: Site) -> None:
    entry = site.accept("ann")
    browser = site.browser("ann")
    for response in (browser.post("/runs/notebook", {"notebook": "upload"}), browser.post("/runs", submission(entry))):
        assert (response.status_code, "No notebook is chosen" in response.text) == (422, True)


def start(site: Site, run: str) -> None:
    site.services.runs.claim("x", 1)
    site.services.runs.progress(
        run, attempt=1, started_at_ms=site.clock.at_ms, cells_done=0, cells_total=4, current_cell=1
    )


def finish(site: Site, run: str, outcome: Outcome, error: RunError | None = None) -> None:
    site.services.runs.finish(run, Finish(1, outcome, START_MS, site.clock.at_ms, error))


def test_a_run_shows_its_progress_and_cost_and_at_its_end_the_page_is_loaded_anew(site: Site) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    browser = site.browser("ann")
    start(site, run)
    site.clock.at_ms += 300_000
    site.services.runs.progress(run, attempt=1, started_at_ms=None, cells_done=1, cells_total=4, current_cell=2)
    page = browser.get(f"/runs/{run}").text
    assert "1 of 4 cells</span>, cell 2 is running" in page
    assert "5 min of at most 10 min" in page
    assert "0.0039 credits of 0.0078 held" in page
    assert "<iframe" not in page
    finish(site, run, Outcome.SUCCEEDED)
    assert browser.get(f"/runs/{run}/live").headers["hx-refresh"] == "true"
    ended = browser.get(f"/runs/{run}")
    assert "hx-get" not in ended.text
    assert '<iframe class="p-notebook" sandbox src=' in ended.text
    assert "frame-src 'self'" in ended.headers["content-security-policy"]


def test_a_failed_run_shows_the_cell_and_the_traceback_as_text(site: Site) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    start(site, run)
    error = RunError(cell=3, name="ValueError", message="<b>no</b>", traceback="\x1b[0;31mValueError\x1b[0m <i>")
    finish(site, run, Outcome.FAILED, error)
    page = site.browser("ann").get(f"/runs/{run}").text
    assert "ValueError in cell 3" in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert "ValueError &lt;i&gt;</pre>" in page


def test_a_run_is_cancelled_by_its_owner(site: Site) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    assert site.browser("ann").post(f"/runs/{run}/cancel").status_code == 303
    assert site.services.runs.get("ann", run).state is RunState.CANCELLED


def hostile_notebook() -> dict[str, object]:
    html = (
        f"<table style='background:url(https://evil.example/)'><tr><td>{HOSTILE}</td></tr></table>"
        "<img src='https://evil.example/x.png' onerror='alert(1)'><iframe src='https://evil.example/'></iframe>"
        "<link rel='stylesheet' href='https://evil.example/x.css'><form action='https://evil.example/'></form>"
        "<meta http-equiv='refresh' content='0;url=https://evil.example/'>"
    )
    data = {"text/html": html, "application/javascript": "alert(1)", "text/plain": "a table"}
    output = {"output_type": "display_data", "metadata": {}, "data": data}
    widgets = {"widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}, "x": "</script>"}}}
    return NOTEBOOK | {
        "metadata": widgets,
        "cells": [
            {"cell_type": "markdown", "id": "m", "metadata": {}, "source": f"# Title\n\n$x^2$ {html}"},
            NOTEBOOK["cells"][0] | {"outputs": [output]},
        ],
    }


def test_an_executed_notebook_is_sandboxed_and_refers_to_nothing_elsewhere(site: Site) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    site.write_output(run, hostile_notebook())
    response = site.browser("ann").get(f"/runs/{run}/notebook")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"].split("; ")
    assert policy[0] == "sandbox"
    assert {"default-src 'none'", "img-src data:", "frame-ancestors 'self'"} <= set(policy)
    assert not any("script-src" in part or "allow-" in part for part in policy)
    assert "Title" in response.text
    assert "<table" in response.text
    assert "<script" not in response.text
    assert not re.search(r"<(iframe|link|form|meta http|img [^>]*src=.https)", response.text)
    assert not re.search(r"(src|href|url\()\s*=?\s*['\"]?(https?:)?//", response.text)
    assert "evil.example" not in response.text


def test_a_notebook_that_is_not_one_is_a_page_that_offers_the_download(site: Site) -> None:
    run = site.queue_run("ann", site.accept("ann"))
    browser = site.browser("ann")
    assert "has no output.ipynb yet" in browser.get(f"/runs/{run}/notebook").text
    site.write_output(run, {"nbformat": 4, "cells": "no"})
    response = browser.get(f"/runs/{run}/notebook")
    assert (response.status_code, "Download it instead" in response.text) == (422, True)
    download = browser.get(f"/runs/{run}/notebook.ipynb")
    assert download.headers["content-disposition"] == "attachment; filename*=utf-8''mine.ipynb"
    assert download.headers["x-content-type-options"] == "nosniff"


def test_the_audit_log_is_paged_and_filtered(site: Site) -> None:
    for number in range(60):
        site.accept(f"person{number}")
    browser = site.browser("admin")
    first = browser.get("/admin/audit").text
    older = re.search(r'href="([^"]+before=\d+)"', first)
    assert older
    second = browser.http.get(older[1].replace("&amp;", "&")).text
    assert "person0<" in second
    assert "person0<" not in first
    assert "before=" not in second
    assert "Nothing is recorded of" in browser.get("/admin/audit?subject=nothing").text
    assert browser.get("/admin/audit?before=x").status_code == 422


def test_the_policy_is_for_everybody_to_read(site: Site) -> None:
    page = site.browser("bob").get("/policy").text
    assert "Research, Consortium" in page
    assert "0.12" in page
    assert site.services.policy.version in page


def test_only_local_mode_says_so(site: Site) -> None:
    assert "Local mode: for trying" in site.browser("bob").get("/policy").text
    site.app.state.mode = "cluster"
    assert "Local mode" not in site.browser("bob").get("/policy").text


def test_what_was_done_is_said_in_our_own_words_only(site: Site) -> None:
    browser = site.browser("bob")
    assert "The request is withdrawn." in browser.get("/policy?done=withdrawn").text
    assert "m-notice-ok" not in browser.get(f"/policy?done={HOSTILE}").text
