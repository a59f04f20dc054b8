"""Sign-in, scopes, forms of our own only, and headers: what keeps a page its reader's."""

from __future__ import annotations

import re
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from allocations.api.identity import SESSION_COOKIE, STATE_COOKIE, HubUnavailableError, Scope
from allocations.app import PREFIX
from allocations.web.session import local_path
from tests.web.conftest import SCOPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastapi.dependencies.models import Dependant

    from tests.web.conftest import Site

# The last two ask for a secret in their address instead.
PUBLIC = {
    f"{PREFIX}/oauth_callback",
    f"{PREFIX}/static/{{name:path}}",
    f"{PREFIX}/help",
    f"{PREFIX}/calendar/{{token}}.ics",
    f"{PREFIX}/unsubscribe/{{token}}",
}


def scopes_of(dependant: Dependant) -> set[str]:
    scope = getattr(dependant.call, "scope", None)
    return ({scope} if scope else set()).union(*(scopes_of(part) for part in dependant.dependencies))


def routes(parts: Iterable[Any]) -> list[Any]:
    """Every route with its path: an included router is a route that holds others."""
    found = []
    for part in parts:
        context = getattr(part, "effective_route_contexts", None)
        found += list(context()) if context else [part]
    return found


def page_routes(site: Site) -> list[Any]:
    return [
        route
        for route in routes(site.app.routes)
        if route.path.startswith(PREFIX) and not route.path.startswith(f"{PREFIX}/api")
    ]


def test_every_page_names_its_scope_or_is_public(site: Site) -> None:
    found = page_routes(site)
    assert len(found) > 30
    for route in found:
        assert (route.path in PUBLIC) != bool(scopes_of(route.dependant)), route.path


def test_no_page_is_in_the_published_api(site: Site) -> None:
    paths = site.browser().get("/api/openapi.json").json()["paths"]
    assert all(path.startswith(f"{PREFIX}/api/") for path in paths)


def test_every_page_and_form_is_refused_without_its_scope(site: Site) -> None:
    browser = site.browser("nothing")
    for route in page_routes(site):
        if route.path in PUBLIC:
            continue
        for method in route.methods:
            response = browser.http.request(method, route.path)
            assert response.status_code == 403, route.path
            assert "does not have the role" in response.text


def test_all_scopes_but_a_pages_own_are_not_enough(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = site.browser("narrow")
    for route in page_routes(site):
        for scope in scopes_of(route.dependant):
            monkeypatch.setitem(SCOPES, "narrow", frozenset(Scope) - {Scope(scope)})
            for method in route.methods:
                response = browser.http.request(method, route.path)
                assert (response.status_code, "does not have the role" in response.text) == (403, True), route.path


@pytest.mark.parametrize("path", ["/review", "/admin/audit", "/admin/allocations"])
def test_a_person_is_denied_on_a_page_that_says_what_to_do(site: Site, path: str) -> None:
    response = site.browser("ann").get(path)
    assert response.status_code == 403
    assert "ask an administrator" in response.text
    assert "Traceback" not in response.text


def test_navigation_shows_only_what_the_person_may_use(site: Site) -> None:
    person, admin = site.browser("ann").get("/policy").text, site.browser("admin").get("/policy").text
    for path in ("/review", "/admin/allocations", "/admin/audit"):
        assert f'href="{PREFIX}{path}"' not in person
        assert f'href="{PREFIX}{path}"' in admin


def test_a_page_that_is_not_there_has_the_navigation_of_whoever_asks(site: Site) -> None:
    assert f'href="{PREFIX}/runs"' in site.browser("ann").get("/nothing-here").text
    assert f'href="{PREFIX}/runs"' not in site.browser().get("/nothing-here").text


def test_help_is_for_everybody_and_needs_no_hub(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(_identities, _request):
        raise HubUnavailableError("The hub does not answer.")

    assert f'href="{PREFIX}/runs"' in site.browser("ann").get("/help").text
    monkeypatch.setattr(type(site.identities), "from_session", away)
    response = site.browser("ann").get("/help")
    assert response.status_code == 200
    assert "What to do when" in response.text


def test_every_link_of_the_navigation_is_a_page_of_those_who_see_it(site: Site) -> None:
    shown = set(re.findall(rf'href="({PREFIX}/[a-z/]*)"', site.browser("admin").get("/help").text))
    assert len(shown) > 10
    for person in ("ann", "rev", "admin"):
        browser = site.browser(person)
        own = set(re.findall(rf'href="({PREFIX}/[a-z/]*)"', browser.get("/help").text))
        for address in own:
            assert browser.http.get(address).status_code in {200, 303}, (person, address)
        for address in shown - own:
            assert browser.http.get(address).status_code == 403, (person, address)


def test_whoever_is_not_signed_in_goes_to_the_hub_and_the_state_stays_in_this_browser(site: Site) -> None:
    response = site.browser().get("/runs?x=1")
    assert response.status_code == 303
    query = parse_qs(urlsplit(response.headers["location"]).query)
    assert "/hub/api/oauth2/authorize" in response.headers["location"]
    assert query["redirect_uri"] == [f"{PREFIX}/oauth_callback"]
    cookie = SimpleCookie(response.headers["set-cookie"])[STATE_COOKIE]
    assert cookie.value not in response.headers["location"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "lax"
    assert cookie["path"] == PREFIX
    assert site.identities._states.loads(cookie.value)["next"] == f"{PREFIX}/runs?x=1"


def sign_in(site: Site, next_url: str, monkeypatch, base="http://testserver", forwarded=None):
    """Come back from a hub that gives a token for the code."""

    async def token_for_code(_code, **_options):
        return "token"

    monkeypatch.setattr(site.identities._auth, "token_for_code", token_for_code)
    url, state = site.identities.begin_login(next_url)
    browser = site.browser()
    browser.http.base_url = base
    browser.http.cookies.set(STATE_COOKIE, state)
    if forwarded is not None:
        browser.http.headers["x-forwarded-proto"] = forwarded
    digest = parse_qs(urlsplit(url).query)["state"][0]
    return browser.http.get(f"{PREFIX}/oauth_callback", params={"code": "c", "state": digest})


@pytest.mark.parametrize(
    ("base", "forwarded", "secure"),
    [
        ("http://testserver", None, False),
        ("https://testserver", None, True),
        ("http://testserver", "http", False),
        # By an ingress that ends TLS, and the hub's proxy behind it.
        ("http://testserver", "https,http", True),
    ],
)
def test_the_session_cookie_is_kept_from_scripts_other_sites_and_plain_http(
    site, monkeypatch, base, forwarded, secure
) -> None:
    response = sign_in(site, f"{PREFIX}/runs", monkeypatch, base, forwarded)
    assert response.status_code == 303
    assert response.headers["location"] == f"{PREFIX}/runs"
    cookies = SimpleCookie()
    for header in response.headers.get_list("set-cookie"):
        cookies.load(header)
    cookie = cookies[SESSION_COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "lax", PREFIX)
    assert bool(cookie["secure"]) is secure
    assert cookies[STATE_COOKIE]["max-age"] == "0"


ELSEWHERE = [
    "https://evil.example/",
    "//evil.example/",
    f"//evil.example{PREFIX}/",
    f"{PREFIX}/../../hub/logout",
    f"{PREFIX}/\\evil.example",
    f"{PREFIX}.evil.example/",
    "/hub/logout",
    f"{PREFIX}/\r\nSet-Cookie: x=y",
    f"{PREFIX}/{'x' * 2000}",
    "javascript:alert(1)",
    "",
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_nobody_is_sent_elsewhere_after_sign_in(site: Site, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert local_path(url, PREFIX) == f"{PREFIX}/"
    assert sign_in(site, url, monkeypatch).headers["location"] == f"{PREFIX}/"


@pytest.mark.parametrize("query", ["", "?error=access_denied", "?code=c&state=forged", "?code=c&state=%C3%A9"])
def test_a_sign_in_that_was_not_completed_ends_on_a_page(site: Site, query: str) -> None:
    response = site.browser().get(f"/oauth_callback{query}")
    assert response.status_code == 401
    assert "Not signed in" in response.text
    assert SESSION_COOKIE not in response.headers.get("set-cookie", "")


def test_the_second_of_two_tabs_that_sign_in_together_finds_the_session_of_the_first(site: Site) -> None:
    response = site.browser("ann").get("/oauth_callback?code=c&state=of-the-other-tab")
    assert (response.status_code, response.headers["location"]) == (303, f"{PREFIX}/")


def test_a_live_part_reloads_the_page_when_the_session_has_ended(site: Site) -> None:
    response = site.browser().get("/live", **{"HX-Request": "true"})
    assert (response.status_code, response.headers["hx-refresh"]) == (401, "true")


def test_a_form_of_an_ended_session_changes_nothing_and_says_so(site: Site) -> None:
    response = site.browser().http.post(f"{PREFIX}/agreement", data={"version": "x"})
    assert response.status_code == 401
    assert "nothing was changed" in response.text


def accept(site: Site, browser, fields: dict[str, str], **headers: str):
    fields = {"version": site.services.policy.agreement.version} | fields
    return browser.http.post(f"{PREFIX}/agreement", data=fields, headers=headers)


@pytest.mark.parametrize("token", [None, "", "0" * 64, "é", "of another session"])
def test_a_form_without_this_sessions_token_is_refused(site: Site, token: str | None) -> None:
    if token == "of another session":
        token = site.browser("bob").token()
    response = accept(site, site.browser("ann"), {} if token is None else {"_csrf": token})
    assert response.status_code == 403
    assert "did not come from a page of your present session" in response.text
    assert not site.services.offers.start_options("ann").agreement.accepted


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_form_that_another_site_sends_is_refused_even_with_the_token(site: Site, headers: dict[str, str]) -> None:
    browser = site.browser("ann")
    assert accept(site, browser, {"_csrf": browser.token()}, **headers).status_code == 403
    assert not site.services.offers.start_options("ann").agreement.accepted


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://testserver"}])
def test_a_form_of_our_own_is_taken(site: Site, headers: dict[str, str]) -> None:
    browser = site.browser("ann")
    assert accept(site, browser, {"_csrf": browser.token()}, **headers).status_code == 303
    assert site.services.offers.start_options("ann").agreement.accepted


def test_every_form_post_checks_the_token(site: Site) -> None:
    browser = site.browser("admin")
    posts = [route for route in page_routes(site) if "POST" in route.methods and route.path not in PUBLIC]
    assert len(posts) > 10
    for route in posts:
        response = browser.http.post(route.path, data={"x": "y"})
        assert (response.status_code, "form was not accepted" in response.text) == (403, True), route.path


def test_every_form_of_another_site_is_refused_though_it_has_the_token(site: Site) -> None:
    browser = site.browser("admin")
    token = browser.token()
    posts = [route for route in page_routes(site) if route.methods - {"GET", "HEAD"} and route.path not in PUBLIC]
    assert len(posts) > 10
    for route in posts:
        assert route.methods == {"POST"}, route.path
        response = browser.http.post(route.path, data={"_csrf": token}, headers={"Sec-Fetch-Site": "cross-site"})
        assert (response.status_code, "form was not accepted" in response.text) == (403, True), route.path


def test_a_form_that_is_too_large_is_refused_before_it_is_read(site: Site) -> None:
    headers = {"Content-Length": "100000000"}
    response = site.browser("ann").http.post(f"{PREFIX}/runs", content=b"x", headers=headers)
    assert response.status_code == 413
    assert "larger than" in response.text


def test_signing_out_forgets_the_session_and_goes_on_to_the_hub(site: Site) -> None:
    response = site.browser("ann").post("/sign-out")
    assert (response.status_code, response.headers["location"]) == (303, "/hub/logout")
    assert SimpleCookie(response.headers["set-cookie"])[SESSION_COOKIE]["max-age"] == "0"


@pytest.mark.parametrize("path", ["/policy", "/nothing-here", "/admin/audit", "/runs/live"])
def test_pages_load_nothing_from_elsewhere_and_are_not_kept(site: Site, path: str) -> None:
    headers = site.browser("ann").get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("person", [None, "ann", "admin"])
def test_no_answer_of_any_page_can_be_framed_or_is_kept(site: Site, person: str | None) -> None:
    browser = site.browser(person)
    for route in page_routes(site):
        for method in route.methods:
            headers = browser.http.request(method, route.path).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"], route.path
            assert headers["x-content-type-options"] == "nosniff", route.path
            assert headers["referrer-policy"] == "same-origin", route.path
            assert headers["cache-control"] == "no-store", route.path


def test_a_fault_is_a_page_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(site.services.reports), "requests_of", lambda *_: 1 / 0)
    response = site.browser("ann").get("/requests")
    assert response.status_code == 500
    assert "Try again in a minute" in response.text
    assert "ZeroDivisionError" not in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_the_api_keeps_its_json(site: Site) -> None:
    response = site.browser("ann").get("/api/v1/allocations")
    assert response.headers["content-type"] == "application/problem+json"
    assert "content-security-policy" not in response.headers


def test_static_files_are_kept_for_ever_under_their_version_only(site: Site) -> None:
    browser = site.browser()
    url = site.app.state.assets.url("pages.css")
    assert "immutable" in browser.http.get(url).headers["cache-control"]
    assert browser.get("/static/pages.css?v=old").headers["cache-control"] == "no-cache"
    assert browser.get("/static/pages.css").headers["content-type"].startswith("text/css")
    for path in ("/static/../pages.py", "/static/..%2fpages.py", "/static/nothing.css"):
        assert browser.get(path).status_code == 404
