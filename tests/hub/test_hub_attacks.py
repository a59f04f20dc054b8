"""Every handler of the hub before a hostile site: derived from JupyterHub's own lists, so that none is forgotten."""

from __future__ import annotations

import re
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from jupyterhub.apihandlers import default_handlers as api_handlers
from jupyterhub.handlers import default_handlers as page_handlers
from tornado.web import RequestHandler

from tests.hub.test_hub_running import hub  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hub.test_hub_running import RunningHub

pytestmark = pytest.mark.slow
METHODS = ("post", "put", "patch", "delete")
# Asked by services with their own secret, by nobody's cookie; and what JupyterHub has taken away, with 404 or a fault.
NOT_BY_COOKIE = {"/api/oauth2/token", "/api/authorizations/token", "/api/authorizations/token/nobody"}


def addresses(handlers: list[Any]) -> Iterator[tuple[str, Any]]:
    """Every handler with an address that it answers; names in it are those of nobody."""
    for pattern, handler, *_ in handlers:
        path = pattern.removesuffix("$").replace(r"(\d+)", "404").replace("?", "")
        yield re.sub(r"\([^)]*\)", "nobody", path).replace("\\", ""), handler


WRITES = [
    (method, path)
    for path, handler in addresses([*page_handlers, *api_handlers])
    for method in METHODS
    if getattr(handler, method) is not getattr(RequestHandler, method)
]
PAGES = [path for path, handler in addresses(page_handlers) if handler.get is not RequestHandler.get]


def test_the_lists_are_those_of_a_whole_hub() -> None:
    assert len(WRITES) > 25
    assert len(PAGES) > 10


def test_nothing_is_changed_by_a_cookie_without_the_forms_token(hub: RunningHub) -> None:  # noqa: F811
    chief = hub.browser("chief")
    chief.follow_redirects = False
    wrong = {}
    for method, path in WRITES:
        if path in NOT_BY_COOKIE:
            continue
        for headers in ({}, {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}):
            answer = chief.request(method, f"/hub{path}", headers=headers)
            if answer.status_code != 403:
                wrong[f"{method} {path}"] = answer.status_code
    assert wrong == {}
    assert chief.get("/hub/home").status_code == 200


def test_no_page_of_the_hub_can_be_framed(hub: RunningHub) -> None:  # noqa: F811
    for browser in (httpx.Client(base_url=hub.url), hub.browser("chief")):
        browser.follow_redirects = False
        for path in ["/nothing-here", *PAGES]:
            if path == "/logout":
                continue
            answer = browser.get(f"/hub{path}")
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], path
            assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        browser.close()


def test_cookies_of_the_sign_in_are_kept_from_scripts_and_other_sites(hub: RunningHub) -> None:  # noqa: F811
    with httpx.Client(base_url=hub.url) as browser:
        page = browser.get("/hub/login")
        [xsrf] = re.findall(r'name="_xsrf" value="([^"]*)"', page.text)
        form = {"username": "ada", "password": "ada-password", "_xsrf": xsrf}
        answer = browser.post("/hub/login", data=form)
        cookies: SimpleCookie = SimpleCookie()
        for header in [*page.headers.get_list("set-cookie"), *answer.headers.get_list("set-cookie")]:
            cookies.load(header)
    assert cookies["jupyterhub-hub-login"]["path"] == "/hub/"
    for name in ("jupyterhub-hub-login", "jupyterhub-session-id"):
        assert (cookies[name]["samesite"], cookies[name]["httponly"]) == ("Lax", True), name
    assert cookies["_xsrf"]["samesite"] == "Lax"


@pytest.mark.parametrize("next_url", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:0"])
def test_nobody_is_sent_elsewhere_after_the_sign_in(hub: RunningHub, next_url: str) -> None:  # noqa: F811
    with httpx.Client(base_url=hub.url) as browser:
        [xsrf] = re.findall(r'name="_xsrf" value="([^"]*)"', browser.get("/hub/login").text)
        form = {"username": "ada", "password": "ada-password", "_xsrf": xsrf}
        answer = browser.post("/hub/login", params={"next": next_url}, data=form)
        assert answer.status_code == 302
        there = httpx.URL(hub.url).join(answer.headers["Location"])
        assert str(there).startswith(f"{hub.url}/")


def test_a_code_of_the_pages_sign_in_serves_once(hub: RunningHub) -> None:  # noqa: F811
    browser = hub.browser("ada")
    browser.follow_redirects = False
    redirect = "/services/allocations/oauth_callback"
    client = {"client_id": "service-allocations", "redirect_uri": redirect}
    answer = browser.get("/hub/api/oauth2/authorize", params=client | {"response_type": "code", "state": "s"})
    code = httpx.URL(answer.headers["Location"]).params["code"]
    exchange = client | {"client_secret": "ALLOCATIONS-token-0123456789", "grant_type": "authorization_code"}
    statuses = [
        httpx.post(f"{hub.url}/hub/api/oauth2/token", data=exchange | {"code": code}, timeout=60).status_code
        for _ in range(2)
    ]
    assert statuses == [200, 400]


def test_another_address_gets_no_code(hub: RunningHub) -> None:  # noqa: F811
    browser = hub.browser("ada")
    browser.follow_redirects = False
    query = {"client_id": "service-allocations", "response_type": "code", "state": "s"}
    for redirect in ("https://evil.example/", "/services/allocations/../evil", "//evil.example"):
        answer = browser.get("/hub/api/oauth2/authorize", params=query | {"redirect_uri": redirect})
        assert answer.status_code == 400, redirect


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/hub/nothing-here", 404, "There is nothing at this address"),
        ("/hub/admin", 403, "does not have the role"),
        ("/hub/error/503", 200, "your servers are listed with their state"),
        ("/hub/spawn/chief", 404, "There is nothing at this address"),
    ],
)
def test_a_page_that_says_no_says_what_to_do(hub: RunningHub, path: str, status: int, words: str) -> None:  # noqa: F811
    answer = hub.browser("ada").get(path)
    assert answer.status_code == status
    assert words in answer.text
    assert "requires any of" not in answer.text
    assert 'href="/services/allocations/help"' in answer.text
