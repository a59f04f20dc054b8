"""Files measured, purged, kept and brought back: a person, an administrator and a reviewer in real browsers.

The agent is the platform's own; how days pass and files grow old is in `stored.py`. Pictures: `test-results/storage`.
"""

from __future__ import annotations

import base64
import random
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import new_context
from tests.e2e.platform import ROOT, wait_for
from tests.e2e.stored import PATIENCE_SECONDS, let_days_pass, make_old, measure_now, scratch_of, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Locator, Page

    from tests.e2e.platform import Person, Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
HOME = "/services/allocations/"
PICTURES = ROOT / "test-results" / "storage"
FAR_DAYS = 90
CONTENT = random.Random(7).randbytes(3_000_000)
KEPT, GOING, YOUNG = "results/night-1/spectrum.fits", "cache/frames.dat", "notes.txt"


@dataclass
class Pages:
    """Browsers of everybody, whose consoles may complain of nothing."""

    platform: Platform
    browser: Browser
    complaints: list[str]

    def open_as(self, name: str, at: str) -> Page:
        """Sign somebody in, in a browser of their own, and open a page."""
        context = new_context(self.browser, base_url=self.platform.url, viewport={"width": 1200, "height": 900})
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(f"{name}: {error}"))
        page.goto("/")
        page.get_by_label("User name").fill(name)
        page.get_by_label("Password").fill(self.platform.password(name))
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(re.compile(re.escape(HOME)))
        page.goto(f"{HOME}{at}")
        return page


@pytest.fixture
def pages(platform: Platform, browser: Browser) -> Iterator[Pages]:
    opened = Pages(platform, browser, [])
    yield opened
    for context in browser.contexts:
        context.close()
    assert opened.complaints == []


@pytest.fixture(scope="module")
def researcher(platform: Platform) -> Person:
    shutil.rmtree(PICTURES, ignore_errors=True)
    for name in ("reviewer", "admin"):
        platform.person(name).accept_agreement()
    person = platform.person("researcher")
    person.accept_agreement()
    return person


def picture(page: Page, name: str) -> None:
    """Keep a page as a picture, wide and on a phone; it may not scroll sideways."""
    for form, width in (("narrow", 360), ("wide", 1200)):
        page.set_viewport_size({"width": width, "height": 900})
        page.screenshot(path=PICTURES / f"{name}-{form}.png", full_page=True)
        beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, f"{name} scrolls sideways at {width}"


def reloaded_until(page: Page, shown: Locator) -> None:
    """Load a page again until something is on it."""

    def look() -> bool:
        page.reload()
        return shown.count() > 0

    wait_for(str(shown), look, PATIENCE_SECONDS, pause=1.0)


def save(person: Person, name: str, content: bytes) -> None:
    """Save a file as JupyterLab's file browser does."""
    body = {"type": "file", "format": "base64", "content": base64.b64encode(content).decode()}
    saved = httpx.put(
        f"{person.platform.url}/user/{person.name}/api/contents/{name}",
        json=body,
        headers={"Authorization": f"Bearer {person.token}"},
        timeout=60.0,
    )
    assert saved.status_code == 201, saved.text


def plan_a_run(page: Page, how: str, as_of: str = "") -> None:
    """Plan a run of scratch, on the administrators' page."""
    page.goto(f"{HOME}admin/storage/purges")
    page.get_by_label("Of", exact=True).select_option("scratch")
    page.get_by_label("As of").fill(as_of)
    page.locator(f"input[name=how][value={how}]").check()
    page.get_by_role("button", name="Plan the run").click()
    expect(page.get_by_text("The run is planned")).to_be_visible()


def test_what_the_agent_measured_is_shown(platform: Platform, pages: Pages, researcher: Person) -> None:
    researcher.start_server(researcher.allocation("entry")["id"])
    save(researcher, "spectra.bin", CONTENT)
    researcher.stop_server()
    page = pages.open_as("researcher", "storage")
    card = page.get_by_role("article", name="Home")
    shown = card.get_by_text(re.compile(r"^3(\.\d+)? MB of \d+ GB"))

    def look() -> bool:
        measure_now(platform)
        page.reload()
        return shown.count() > 0

    wait_for("the measured home", look, PATIENCE_SECONDS)
    picture(page, "1-storage")
    card.get_by_role("link", name="Home").click()
    expect(page.get_by_role("heading", name="Largest folders")).to_be_visible()
    picture(page, "2-home")
    platform.audit()


def plan_far_and_now(admin: Page) -> None:
    """Plan what would go on a far day, the young file with the old, and what goes now."""
    far = datetime.now(UTC) + timedelta(days=FAR_DAYS)
    plan_a_run(admin, "dry", f"{far:%Y-%m-%d}")
    at_dry_run = admin.url
    plan_a_run(admin, "real")
    of_entry = admin.locator("tr", has_text="Entry allocation of researcher")
    reloaded_until(admin, of_entry.get_by_text("its owners are told"))
    expect(of_entry.locator("td").nth(1)).to_have_text("2")
    picture(admin, "3-run")
    admin.goto(at_dry_run)
    reloaded_until(admin, admin.locator("main").get_by_text("done", exact=True))
    expect(of_entry.locator("td").nth(1)).to_have_text("3")
    picture(admin, "4-dry-run")


def ask_to_keep(person: Page) -> None:
    """See what is going, and ask for a part of it to stay."""
    person.goto(f"{HOME}storage")
    expect(person.get_by_text(re.compile(r"2 files \(6(\.\d+)? MB\) are purged after"))).to_be_visible()
    person.get_by_role("link", name="What exactly, and how to keep it").click()
    person.get_by_text("The first 2 paths").click()
    for name in (KEPT, GOING):
        expect(person.get_by_role("rowheader", name=name)).to_be_visible()
    expect(person.locator("main")).not_to_contain_text(YOUNG)
    picture(person, "5-what-goes")
    person.get_by_role("link", name="keep it").filter(has_text="results").click()
    expect(person.get_by_label("Folder or file")).to_have_value(re.compile("^results"))
    person.get_by_label("Reason").fill("The paper is under review.")
    person.get_by_role("button", name="Ask for the exemption").click()
    expect(person.get_by_text("The exemption is asked for")).to_be_visible()


def grant(reviewer: Page) -> None:
    """Grant the exemption that waits."""
    expect(reviewer.locator("main")).to_contain_text("The paper is under review.")
    picture(reviewer, "6-exemption")
    reviewer.get_by_role("button", name="Grant").click()
    expect(reviewer.get_by_text("The exemption is granted")).to_be_visible()


def bring_back(person: Page) -> None:
    """Ask for the file that went, from its archive, and wait until it is there."""
    person.get_by_role("link", name="Look into it").click()
    expect(person.get_by_role("checkbox", name=f"Choose {KEPT}")).to_have_count(0)
    person.get_by_role("checkbox", name=f"Choose {GOING}").check()
    person.get_by_label("where it was").check()
    picture(person, "8-archive")
    person.get_by_role("button", name="Bring it back").click()
    restores = person.get_by_role("region", name="What was asked back")
    expect(restores).to_be_visible()
    reloaded_until(person, restores.get_by_text("done", exact=True))
    picture(person, "9-brought-back")


def test_what_is_purged_can_be_kept_before_and_brought_back_afterwards(
    platform: Platform, pages: Pages, researcher: Person
) -> None:
    area, scratch = scratch_of(researcher, researcher.allocation("entry")["id"], platform.state)
    person = pages.open_as("researcher", "storage")
    person.get_by_role("link", name="Scratch of “Entry").click()
    at_area = person.url
    write_files(scratch, CONTENT, KEPT, GOING, YOUNG)
    make_old(platform, area, scratch, KEPT, GOING)
    before = (scratch / GOING).stat()

    plan_far_and_now(pages.open_as("admin", "admin/storage/purges"))
    ask_to_keep(person)
    grant(pages.open_as("reviewer", "review/exemptions"))
    assert (scratch / GOING).exists(), "nothing goes before the week is over"
    let_days_pass(platform)
    person.goto(at_area)
    reloaded_until(person, person.get_by_role("heading", name="Earlier purges"))
    assert not (scratch / GOING).exists()
    assert (scratch / KEPT).read_bytes() == CONTENT
    assert (scratch / YOUNG).read_bytes() == CONTENT
    picture(person, "7-afterwards")

    bring_back(person)
    back = (scratch / GOING).stat()
    assert (scratch / GOING).read_bytes() == CONTENT
    assert (back.st_mtime_ns, back.st_mode, back.st_uid) == (before.st_mtime_ns, before.st_mode, before.st_uid)
    platform.audit()
