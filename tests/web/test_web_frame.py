"""The frame of every page in a real browser: menus by mouse, keyboard and without script, wide and narrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

from allocations.api.identity import SESSION_COOKIE
from allocations.app import PREFIX
from tests.e2e.conftest import CHROMIUM, CHROMIUM_ARGUMENTS
from tests.web.test_web_accessible import served  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield chromium
        chromium.close()


def page_of(browser: Browser, url: str, person: str = "admin", width: int = 1200, *, script: bool = True) -> Page:
    context = browser.new_context(viewport={"width": width, "height": 740}, java_script_enabled=script)
    context.add_cookies([{"name": SESSION_COOKIE, "value": person, "url": url}])
    page = context.new_page()
    page.goto(f"{url}{PREFIX}/policy")
    return page


def test_menus_open_and_close_by_keyboard_and_one_at_a_time(browser: Browser, served) -> None:  # noqa: F811
    page = page_of(browser, served[0])
    audit, tokens = page.get_by_role("link", name="Audit log"), page.get_by_role("link", name="Tokens")
    summary = page.locator("summary", has_text="Administration")
    expect(audit).to_be_hidden()
    summary.focus()
    page.keyboard.press("Enter")
    expect(audit).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Allocations", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(audit).to_be_hidden()
    expect(summary).to_be_focused()
    summary.click()
    page.locator(".m-menu-end > summary").click()
    expect(tokens).to_be_visible()
    expect(audit).to_be_hidden()
    page.locator("main").click()
    expect(tokens).to_be_hidden()


def test_menus_work_without_script(browser: Browser, served) -> None:  # noqa: F811
    page = page_of(browser, served[0], script=False)
    page.locator("summary", has_text="Administration").click()
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_role("heading", name="Audit log")).to_be_visible()


def test_the_menu_of_the_page_shown_is_marked(browser: Browser, served) -> None:  # noqa: F811
    page = page_of(browser, served[0])
    more = page.locator("summary", has_text="More")
    assert more.evaluate("one => getComputedStyle(one).fontWeight") == "600"
    more.click()
    expect(page.locator(".m-nav a[aria-current=page]")).to_have_text("Policy")


@pytest.mark.parametrize("menu", ["More", "Administration", "Account"])
def test_an_open_menu_stays_within_a_narrow_window(browser: Browser, served, menu: str) -> None:  # noqa: F811
    page = page_of(browser, served[0], width=360)
    page.locator("summary", has_text=menu).click()
    box = page.locator("details[open] > ul").bounding_box()
    assert box is not None
    assert 0 <= box["x"] < box["x"] + box["width"] <= 360
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_navigation_of_an_administrator_is_one_line(browser: Browser, served) -> None:  # noqa: F811
    page = page_of(browser, served[0])
    box = page.locator(".m-nav").bounding_box()
    assert box is not None
    assert box["height"] < 70
