"""The submission in a real browser, with scripts and without: filled in by keyboard, mended, looked at by axe."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from playwright.sync_api import expect, sync_playwright

from allocations.api.identity import SESSION_COOKIE
from allocations.app import PREFIX
from tests.e2e.conftest import CHROMIUM, CHROMIUM_ARGUMENTS
from tests.serving import serving
from tests.web.conftest import ROOT
from tests.web.test_web_parameters import CELL, book

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.web.conftest import Site

pytestmark = pytest.mark.slow
TIMEOUT_MS = 60_000
# Where to put pictures of the pages, for whoever wants to look at them.
PICTURES = os.environ.get("MERIDIAN_TEST_PICTURES")


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"), full_page=True)


def faults_of(page: Page) -> list[str]:
    """What axe finds on the page as it stands, and whether it scrolls sideways."""
    page.evaluate((ROOT / "node_modules/axe-core/axe.min.js").read_text())
    found: list[str] = page.evaluate(
        "axe.run().then(found => found.violations.map(one => `${one.id}: ${one.nodes[0].html}`))"
    )
    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        found.append("scrolls sideways")
    return found


@pytest.mark.parametrize(
    ("scheme", "width", "scripts"), [("light", 1200, True), ("dark", 360, True), ("light", 360, False)]
)
def test_a_notebook_is_chosen_its_form_filled_in_mended_and_sent(
    site: Site, tmp_path: Path, scheme: Literal["light", "dark"], width: int, scripts: bool
) -> None:
    entry = site.accept("ann")
    path = tmp_path / "a_notebook_with_quite_a_long_name_for_a_narrow_screen.ipynb"
    path.write_text(json.dumps(book(CELL)))
    with serving(site.app) as url, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=scripts, bypass_csp=True
        )
        context.set_default_timeout(TIMEOUT_MS)
        context.add_cookies([{"name": SESSION_COOKIE, "value": "ann", "url": url}])
        page = context.new_page()
        faults: dict[str, list[str]] = {}

        def look(name: str) -> None:
            picture(page, f"{name}-{scheme}-{width}{'' if scripts else '-without-scripts'}")
            if scripts and (found := faults_of(page)):
                faults[name] = found

        page.goto(f"{url}{PREFIX}/runs/new")
        look("choose")
        page.set_input_files("input[type=file]", path)
        if not scripts:
            page.get_by_label("A notebook of your own").check()
        page.get_by_role("button", name="Go on to its parameters").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Run a_notebook", timeout=TIMEOUT_MS)
        look("form")

        # By keyboard alone: from the first field on, each is reached by the tabulator.
        page.get_by_label("n_cutouts").focus()
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type("7")
        for _ in range(4):
            page.keyboard.press("Tab")
        page.keyboard.press("Space")
        expect(page.get_by_label("deep")).not_to_be_checked()
        page.get_by_label("bands").fill("[1")
        page.get_by_label("Retries").fill("2")
        if scripts:
            expect(page.locator("#maximum-cost")).to_have_text("0.15 credits")
        page.get_by_role("button", name="Submit the run").click()
        bands = page.get_by_label("bands")
        expect(bands).to_have_attribute("aria-invalid", "true", timeout=TIMEOUT_MS)
        look("mended")
        page.get_by_role("link", name="bands").click()
        if scripts:
            expect(bands).to_be_focused()
        expect(page.get_by_label("n_cutouts")).to_have_value("7")
        expect(page.get_by_label("deep")).not_to_be_checked()
        bands.fill('["F158"]')
        page.get_by_role("button", name="Submit the run").click()
        expect(page.get_by_text("The run is queued.")).to_be_visible(timeout=TIMEOUT_MS)
        look("queued")
        chromium.close()
    assert faults == {}
    [run] = site.services.runs.list_of("ann")
    assert (run.allocation, run.retries) == (entry, 2)
    assert run.parameters == {"n_cutouts": 7, "deep": False, "bands": ["F158"]}
