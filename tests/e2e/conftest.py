"""One platform for the module that asks for it, and a browser."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.e2e.platform import Platform
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext

# On a machine that does other things as well, a page takes its time to show, and to open by way of signing in.
expect.set_options(timeout=30_000)
OPENING_MS = 120_000
# Chromium must not reach for the network by itself, and as root it has no sandbox of its own.
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]


def new_context(browser: Browser, **options: Any) -> BrowserContext:
    """Open a browser of somebody's."""
    context = browser.new_context(**options)
    context.set_default_timeout(OPENING_MS)
    return context


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    made = Platform(tmp_path_factory.mktemp("meridian") / "state", free_port())
    made.start()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.interrupt()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()
