"""Requests that are kept as drafts: by a button, and by the page while somebody writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.app import PREFIX
from tests.web.test_web_requests import HOSTILE

if TYPE_CHECKING:
    from httpx2 import Response

    from tests.web.conftest import Browser, Site

META = {"hx-request": "true"}
TEXTS = {"tier": "research", "title": "Shear", "justification": "Science.", "key": "f"}


def saved(browser: Browser, path: str, fields: dict[str, str]) -> Response:
    """What the page sends while somebody writes."""
    answer = browser.post(path, fields, headers=META)
    assert answer.status_code == 200
    return answer


def drafts(site: Site, person: str = "ann") -> list[str]:
    return [f"/requests/{found.id}" for found in site.services.reports.requests_of(person)]


def test_what_is_written_is_one_draft_that_grows_and_is_submitted_as_one_request(site: Site) -> None:
    ann = site.browser("ann")
    first = saved(ann, "/requests", TEXTS | {"title": "", "justification": "", "action": "draft"})
    assert "Saved, <time" in first.text
    assert "<html" not in first.text
    (path,) = drafts(site)
    assert first.headers["hx-replace-url"] == f"{PREFIX}{path}"
    for title in ("S", "Sh", "Shear"):
        saved(ann, "/requests", TEXTS | {"title": title, "action": "draft", "credits": "70"})
    assert drafts(site) == [path]
    page = ann.get(path).text
    assert 'name="title" required maxlength="80" value="Shear"' in page
    assert "Nobody else reads it" in page
    log = site.services.reports.audit_log(subject=path.rpartition("/")[2])
    assert [entry.action for entry in log] == ["request.draft"]
    sent = ann.post("/requests", TEXTS | {"credits": "80", "action": "submit"})
    assert sent.headers["location"] == f"{PREFIX}{path}?done=submitted"
    assert drafts(site) == [path]
    (found,) = site.services.reports.request_queue()
    assert (found.title, found.credits) == ("Shear", 80)
    # The same form again is that request; another text in it is asked about.
    assert ann.post("/requests", TEXTS | {"action": "submit"}).headers["location"] == sent.headers["location"]
    other = ann.post("/requests", TEXTS | {"justification": "More.", "action": "submit"})
    assert (other.status_code, "was sent before" in other.text) == (409, True)
    late = saved(ann, "/requests", TEXTS | {"title": "Too late", "action": "draft"})
    assert "Not saved yet. The request is submitted." in late.text
    assert [one.title for one in site.services.reports.request_queue()] == ["Shear"]


def test_what_cannot_be_kept_yet_says_why_and_is_lost_nowhere(site: Site) -> None:
    ann = site.browser("ann")
    answer = saved(ann, "/requests", TEXTS | {"credits": HOSTILE, "action": "draft"})
    assert "Not saved yet. Credits: is not a whole number." in answer.text
    assert drafts(site) == []
    assert "hx-replace-url" not in answer.headers
    unknown = saved(ann, "/requests", TEXTS | {"tier": "x", "action": "draft"})
    assert "cannot be requested. Choose one of: research, consortium." in unknown.text
