"""Requests in a real browser: what is written is kept meanwhile, and several are decided on by keyboard."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

from allocations.api.identity import SESSION_COOKIE
from allocations.app import PREFIX
from tests.e2e.conftest import CHROMIUM, CHROMIUM_ARGUMENTS
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from tests.web.conftest import Site

pytestmark = pytest.mark.slow
TIMEOUT_MS = 30_000


@contextmanager
def pages_of(site: Site, person: str) -> Iterator[Page]:
    """A browser of a person's on the served pages, in which nothing may go wrong unseen."""
    with serving(site.app) as url, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        context = chromium.new_context(base_url=url)
        context.add_cookies([{"name": SESSION_COOKIE, "value": person, "url": url}])
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        yield page
        chromium.close()
        # That a session has ended is told by the browser, too.
        assert [fault for fault in faults if "401" not in fault] == []


def test_what_is_written_is_kept_and_is_there_when_the_page_is_loaded_again(site: Site) -> None:
    with pages_of(site, "ann") as page:
        page.goto(f"{PREFIX}/requests/new")
        page.get_by_role("textbox", name="Title").fill("Shear of faint galaxies")
        expect(page.locator("[data-saving]")).to_contain_text("Saved, ")
        expect(page).to_have_url(re.compile(r"/requests/q-[0-9a-f]+$"))
        page.get_by_role("textbox", name="Justification").fill("Science.")
        page.get_by_text("Larger servers and runs").click()
        page.locator("#asked-at-once-cores").fill("x")
        expect(page.locator("[data-saving]")).to_contain_text("Not saved yet. At once, Cores: is not a whole number.")
        page.locator("#asked-at-once-cores").fill("96")
        expect(page.locator("[data-saving]")).to_contain_text("Saved, ")
        page.reload()
        expect(page.get_by_role("textbox", name="Title")).to_have_value("Shear of faint galaxies")
        expect(page.get_by_role("textbox", name="Justification")).to_have_value("Science.")
        expect(page.locator("#asked-at-once-cores")).to_have_value("96")
        assert len(site.services.reports.requests_of("ann")) == 1
        page.context.clear_cookies()
        page.get_by_role("textbox", name="Justification").fill("More science.")
        expect(page.locator("[data-saving]")).to_contain_text("Not saved: ")
        expect(page.get_by_role("textbox", name="Justification")).to_have_value("More science.")
    assert [found.justification for found in site.services.reports.requests_of("ann")] == ["Science."]


def test_a_form_that_was_kept_is_submitted_as_that_draft(site: Site) -> None:
    with pages_of(site, "ann") as page:
        page.goto(f"{PREFIX}/requests/new")
        page.get_by_role("textbox", name="Title").fill("Shear")
        expect(page.locator("[data-saving]")).to_contain_text("Saved, ")
        page.get_by_role("textbox", name="Justification").fill("Science.")
        page.get_by_role("button", name="Submit the request").click()
        expect(page.get_by_text("The request is submitted")).to_be_visible()
    (found,) = site.services.reports.requests_of("ann")
    assert (found.state, found.title, found.justification) == ("submitted", "Shear", "Science.")


def test_several_requests_are_approved_by_keyboard(site: Site) -> None:
    for number in range(3):
        site.clock.at_ms += 1
        site.request("ann", title=f"Pro forma {number}")
    with pages_of(site, "rev") as page:
        page.goto(f"{PREFIX}/review")
        for number in (0, 2):
            page.get_by_label(f"Choose “Pro forma {number}”").press("Space")
        page.get_by_role("button", name="Approve as asked").press("Enter")
        expect(page.get_by_role("heading", name="2 of 2 approved")).to_be_visible()
        page.get_by_role("link", name="Requests to review").click()
        expect(page.get_by_role("link", name="Pro forma 1")).to_be_visible()
    assert [found.title for found in site.services.reports.request_queue()] == ["Pro forma 1"]
