"""The start page in a browser: what is chosen is summed up at once, and without script nothing is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import sync_playwright

from hub.client import StartOptions
from hub.spawner.choice import Choice
from hub.spawner.pages import render_start_form
from tests.e2e.conftest import CHROMIUM, CHROMIUM_ARGUMENTS
from tests.hub.fake_allocations import allocation, size, start_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "hub" / "static"
# The heading and the landmarks are the spawn page's, around the form.
AXE_OPTIONS = {"rules": {name: {"enabled": False} for name in ("region", "page-has-heading-one", "landmark-one-main")}}
IMAGES: list[dict[str, Any]] = [
    {"name": "lab", "title": "Lab", "description": "For most", "default": True},
    {"name": "gpu", "title": "GPU lab"},
]
ALLOCATIONS = [
    allocation(
        ends_at="2036-03-01T04:00:00.000Z",
        sizes=[
            size(hours_available=2.0),
            size("standard", microcredits_per_hour=1_500_000, hours_available=900_000.0),
            size("large", usable=False, reason="Your tier ends at 2 cores."),
        ],
    ),
    allocation("a2", name="Deep fields", sizes=[size(microcredits_per_hour=240_000, hours_available=0.5)]),
]
VERSIONS: dict[str, Any] = {
    "images": [
        IMAGES[0]
        | {
            "versions": [
                {"choice": "lab", "recorded": "lab:2", "title": "Lab 2"},
                {
                    "choice": "lab:1",
                    "recorded": "lab:1",
                    "title": "Lab 1",
                    "channel": "pinned",
                    "ends": "2036-02-11",
                    "ends_soon": True,
                },
            ]
        },
        IMAGES[1] | {"default_for": ["standard"]},
    ],
    "custom_images": {"registries": ["registry.example.org/team"]},
    "allocations": [one | {"custom_images": True} for one in ALLOCATIONS],
}
RESCUE = size("rescue", microcredits_per_hour=0, hours_available=1.0)
FULL: dict[str, Any] = {
    "allocations": [allocation(rescue=RESCUE, sizes=[size(hours_available=2.0)])],
    "home": {
        "state": "over limit",
        "full": True,
        "used_bytes": 10_900_000_000,
        "limit_bytes": 10_000_000_000,
        "locks_at": "2036-02-10T12:00:00.000Z",
    },
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


def open_form(chromium: Browser, *, script: bool = True, **changes: Any) -> Page:
    """The form as the spawn page holds it, for a reader in Baltimore at noon (UTC) of 1 February 2036."""
    options = StartOptions.model_validate(start_options(allocations=ALLOCATIONS, images=IMAGES) | changes)
    context = chromium.new_context(
        java_script_enabled=script, timezone_id="America/New_York", locale="en-US", color_scheme="dark"
    )
    page = context.new_page()
    html = f"""<!doctype html><html lang="en"><head><title>Start</title>
        <link rel="stylesheet" href="/meridian.css"><script src="/start.js" defer></script></head>
        <body><form id="spawn_form">{render_start_form(options, Choice())}
        <button id="start-server">Start server</button></form></body></html>"""

    def answer(route: Any) -> None:
        name = route.request.url.rpartition("/")[2]
        if name:
            route.fulfill(path=STATIC / name)
        else:
            route.fulfill(body=html, content_type="text/html; charset=utf-8")

    page.route("http://start/**", answer)
    if script:
        page.clock.set_fixed_time("2036-02-01T12:00:00Z")
    page.goto("http://start/")
    return page


def test_what_is_chosen_is_summed_up_at_once(chromium: Browser) -> None:
    page = open_form(chromium)
    summary = page.locator("#start-summary")
    assert summary.inner_text().replace("\u202f", " ") == (
        "Small with Lab on Entry of ada: 0.12 credits an hour. The balance buys 2 h 00 min, "
        "without a break until Feb 1, 2036, 9:00 AM."
    )
    page.locator("label", has_text="Standard").click()
    assert "1.50 credits an hour. The balance buys 900,000 h" in summary.inner_text()
    assert "more than are left until the allocation ends on Feb 29, 2036." in summary.inner_text()
    page.locator("#image").select_option("gpu")
    assert summary.inner_text().startswith("Standard with GPU lab on Entry of ada")
    page.locator(".m-start-allocation").nth(1).locator("label", has_text="Small").click()
    assert summary.inner_text().startswith("Small with GPU lab on Deep fields: 0.24 credits an hour.")
    page.context.close()


def test_the_summary_names_the_version_or_the_image_of_ones_own(chromium: Browser) -> None:
    page = open_form(chromium, **VERSIONS)
    summary = page.locator("#start-summary")
    assert summary.inner_text().startswith("Small with the image recommended for it on Entry of ada")
    page.locator("#image").select_option("lab:1")
    assert summary.inner_text().startswith("Small with Lab 1 on Entry of ada")
    page.locator("summary", has_text="of your own").click()
    page.get_by_label("Its whole name").fill("registry.example.org/team/lab:1.2")
    page.keyboard.press("Tab")
    assert summary.inner_text().startswith("Small with registry.example.org/team/lab:1.2 on Entry of ada")
    page.context.close()


def test_the_end_of_an_allocation_is_a_day_of_the_readers_zone(chromium: Browser) -> None:
    page = open_form(chromium)
    assert "credits left until Feb 29, 2036." in page.locator(".m-start-allocation").first.inner_text()
    page.context.close()


def test_a_full_home_has_a_rescue_server_chosen_at_no_price(chromium: Browser) -> None:
    page = open_form(chromium, **FULL)
    assert "Your home is full: it holds 10.9 GB of 10 GB." in page.locator("[role=alert]").inner_text()
    assert page.locator("input[value='a1::rescue']").is_checked()
    summary = page.locator("#start-summary")
    assert summary.inner_text() == "Rescue with Lab on Entry of ada: free of charge, for 1 h 00 min."
    page.locator("label", has_text="Small").click()
    assert "0.12 credits an hour" in summary.inner_text()
    page.context.close()


@pytest.mark.parametrize("changes", [{}, FULL, VERSIONS], ids=["ordinary", "full", "versions"])
def test_axe_finds_nothing(chromium: Browser, changes: dict[str, Any]) -> None:
    page = open_form(chromium, **changes)
    page.evaluate((ROOT / "node_modules/axe-core/axe.min.js").read_text())
    found = page.evaluate(
        "options => axe.run(options).then(found => found.violations.map(one => [one.id, one.nodes[0].html]))",
        AXE_OPTIONS,
    )
    assert found == []
    page.context.close()


def test_without_script_each_row_says_it_and_no_empty_summary_is_shown(chromium: Browser) -> None:
    page = open_form(chromium, script=False)
    first = page.locator(".m-start-allocation").first
    assert "until 1 Mar 2036" in first.inner_text()
    assert "1.50 credits an hour" in first.inner_text()
    assert "Your tier ends at 2 cores." in first.inner_text()
    assert page.locator("input[value='a1::large']").is_disabled()
    assert not page.locator("#start-summary").is_visible()
    page.context.close()
