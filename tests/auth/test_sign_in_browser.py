"""Sign-in in a browser, by the whole platform, at a real provider in a process of its own."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from tests.auth.provider import CLIENT_ID, CLIENT_SECRET, Provider, password_of
from tests.e2e.conftest import new_context
from tests.e2e.platform import ROOT, Platform, wait_for
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

HOME = "/services/allocations/"
AT_HOME = re.compile(re.escape(HOME) + r"(\?.*)?$")
REFRESH_SECONDS = 8
SETTINGS = {
    "Authenticator": {"auth_refresh_age": REFRESH_SECONDS},
    "OpenIDConnectAuthenticator": {
        "login_service": "Example Observatory",
        "scope": ["openid", "profile", "email", "groups"],
    },
}


class World:
    """The platform, the provider, and browsers of people."""

    def __init__(self, platform: Platform, provider: Provider, browser: Browser) -> None:
        self.platform = platform
        self.provider = provider
        self.browser = browser
        self.contexts: list[BrowserContext] = []

    def page(self, **options: object) -> Page:
        """A browser in which nobody is signed in; it keeps what went wrong on pages of ours in `faults`."""
        context = new_context(self.browser, base_url=self.platform.url, **options)
        self.contexts.append(context)
        return context.new_page()

    def sign_in(self, page: Page, name: str) -> None:
        """As a person does, from the first page on to their home."""
        page.goto("/")
        page.get_by_role("link", name="Sign in with Example Observatory").click()
        self.at_provider(page, name)
        page.wait_for_url(re.compile(re.escape(f"{self.platform.url}{HOME}")))
        if "/agreement" in page.url:
            page.get_by_role("button", name="Accept").click()
            page.wait_for_url(AT_HOME)

    def at_provider(self, page: Page, name: str) -> None:
        """Say who one is, and agree."""
        page.locator("input[name=login]").fill(name)
        page.locator("form button[type=submit]").first.click()
        page.locator("input[name=password]").fill(password_of(name))
        page.locator("form button[type=submit]").first.click()
        page.wait_for_url(re.compile("/oauth/authorize|" + re.escape(self.platform.url)))
        if page.url.startswith(self.provider.url):
            page.locator("#accept").click()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("sign-in")
    port = free_port()
    settings = directory / "settings.json"
    settings.write_text(json.dumps(SETTINGS))
    back = f"http://127.0.0.1:{port}/hub/oauth_callback"
    with Provider.serving(back, directory / "provider.log") as provider:
        platform = Platform(
            directory / "state",
            port,
            environment={
                "MERIDIAN_SIGN_IN": "openid",
                "MERIDIAN_OIDC_ISSUER": provider.url,
                "OAUTH_CLIENT_ID": CLIENT_ID,
                "OAUTH_CLIENT_SECRET": CLIENT_SECRET,
                "MERIDIAN_HUB_CONFIG": str(settings),
                "MERIDIAN_REVIEWER_GROUPS": '["panel"]',
                "MERIDIAN_ADMIN_GROUPS": '["operators"]',
            },
        )
        platform.start()
        world = World(platform, provider, browser)
        yield world
        for context in world.contexts:
            context.close()
        if platform.process is not None and platform.process.poll() is None:
            platform.interrupt()


def test_1_who_says_no_at_the_provider_reads_so_and_may_try_again(world: World) -> None:
    # First of all: the provider asks for consent once.
    page = world.page()
    page.goto("/hub/login")
    page.get_by_role("link", name="Sign in with Example Observatory").click()
    page.locator("input[name=login]").fill("rita")
    page.locator("form button[type=submit]").first.click()
    page.locator("input[name=password]").fill(password_of("rita"))
    page.locator("form button[type=submit]").first.click()
    page.wait_for_url(re.compile("/oauth/authorize"))
    page.locator("#deny").click()
    expect(page.get_by_text("The sign-in was cancelled")).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="Sign in").click()
    expect(page.get_by_role("heading", name="Sign in to Meridian")).to_be_visible()


def test_2_the_way_to_the_provider_and_back_home(world: World) -> None:
    page = world.page()
    faults: list[str] = []
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    world.sign_in(page, "ada")
    expect(page.get_by_role("link", name="Entry allocation of ada")).to_be_visible()
    (asked,) = [url for url in sent if url.startswith(f"{world.provider.url}/oauth/authorize?response_type")][:1]
    query = parse_qs(urlsplit(asked).query)
    assert query["code_challenge_method"] == ["S256"]
    assert {"state", "nonce", "code_challenge"} <= query.keys()
    assert not [fault for fault in faults if world.provider.url not in fault], faults
    cookies = {cookie["name"]: cookie for cookie in page.context.cookies(world.platform.url)}
    assert "oauthenticator-state" not in cookies
    for name in ("jupyterhub-hub-login", "jupyterhub-session-id", "meridian-session"):
        found = next(cookie for cookie in page.context.cookies() if cookie["name"] == name)
        assert (found["httpOnly"], found["sameSite"]) == (True, "Lax")


def test_3_a_page_that_was_asked_for_comes_after_the_sign_in(world: World) -> None:
    page = world.page()
    page.goto("/hub/spawn")
    page.get_by_role("link", name="Sign in with Example Observatory").click()
    world.at_provider(page, "bob")
    page.wait_for_url(f"{world.platform.url}/hub/spawn")


def test_4_roles_come_from_the_providers_groups(world: World) -> None:
    reviewer, administrator = world.page(), world.page()
    world.sign_in(reviewer, "rita")
    expect(reviewer.get_by_role("link", name="Review")).to_be_visible()
    expect(reviewer.get_by_role("link", name="Audit log")).to_have_count(0)
    world.sign_in(administrator, "olga")
    administrator.locator("summary", has_text="Administration").click()
    expect(administrator.get_by_role("link", name="Audit log")).to_be_visible()


def test_5_signing_out_ends_it_here_and_at_the_provider(world: World) -> None:
    page = world.page()
    world.sign_in(page, "bob")
    page.locator("summary", has_text="bob").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(re.compile(re.escape(world.provider.url) + "|/hub/logout$"))
    if page.url.startswith(world.provider.url):
        page.locator("button[value=logout], #logout").first.click()
    page.wait_for_url(f"{world.platform.url}/hub/logout*")
    expect(page.get_by_role("heading", name="You have signed out")).to_be_visible()
    page.goto(HOME)
    page.get_by_role("link", name="Sign in with Example Observatory").click()
    expect(page.locator("input[name=login]")).to_be_visible()


def test_6_a_locked_account_loses_session_and_server_within_the_refresh_time(world: World) -> None:
    page = world.page()
    world.sign_in(page, "ada")
    page.goto("/hub/spawn")
    page.get_by_role("button", name="Start").first.click()
    page.wait_for_url(re.compile("/user/ada/lab"), timeout=180_000)
    page.goto(HOME)
    expect(page.get_by_text("running").first).to_be_visible(timeout=30_000)
    world.provider.tell("lock", "ada")
    locked_at = time.monotonic()
    log = world.platform.state / "logs" / "hub.log"
    wait_for("the end of the server", lambda: "ada server took" in log.read_text(), 90)
    assert time.monotonic() - locked_at < REFRESH_SECONDS + 60

    def signed_out() -> bool:
        page.goto(HOME)
        return page.get_by_role("heading", name="Sign in to Meridian").is_visible()

    # The service keeps the hub's answers for a minute.
    wait_for("the end of the session", signed_out, 60 + REFRESH_SECONDS + 30, pause=2)
    page.get_by_role("link", name="Sign in with Example Observatory").click()
    page.wait_for_load_state()
    assert signed_out()
    world.provider.tell("unlock", "ada")
    again = world.page()
    world.sign_in(again, "ada")
    expect(again.get_by_role("link", name="Entry allocation of ada").first).to_be_visible()
    world.platform.audit()


PAGES = {"sign-in": "/hub/login", "refused": "/hub/oauth_callback?code=c&state=s", "signed-out": "/hub/logout"}


@pytest.mark.parametrize("name", PAGES)
def test_7_the_pages_of_the_sign_in_are_accessible_light_dark_and_on_a_phone(world: World, name: str) -> None:
    axe = (ROOT / "node_modules/axe-core/axe.min.js").read_text()
    for scheme in ("light", "dark"):
        for width in (1200, 360):
            page = world.page(
                color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True, reduced_motion="reduce"
            )
            page.goto(PAGES[name])
            if folder := os.environ.get("MERIDIAN_TEST_PICTURES"):
                page.screenshot(path=Path(folder) / f"{name}-{scheme}-{width}.png")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.evaluate(axe)
            found = page.evaluate("axe.run().then(found => found.violations.map(one => [one.id, one.nodes[0].html]))")
            assert found == [], f"{scheme}, {width}: {found}"
