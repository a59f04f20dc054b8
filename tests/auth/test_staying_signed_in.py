"""After the sign-in: what follows when an account changes or ends at the provider, and when a person signs out."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.auth.conftest import REFRESH_SECONDS, Site, person
from tests.hub.test_hub_running import TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

pytestmark = pytest.mark.slow

# What one look and one stop may take beyond the refresh time, on a busy machine.
SLACK_SECONDS = 60.0
CROSS_SITE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}


def until(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def signed_in(site: Site, name: str, /, **claims: Any) -> httpx.Client:
    browser = site.browser()
    answer = site.sign_in(person(f"subject-of-{name}", preferred_username=name, **claims), browser)
    assert answer.status_code == 302, answer.text
    assert site.name(browser) == name
    return browser


def referer(site: Site) -> dict[str, str]:
    return {"Referer": f"{site.hub.url}/hub/home"}


def script_token(site: Site, browser: httpx.Client, name: str) -> str:
    """A token as the person makes one on the token page."""
    browser.get("/hub/token")
    headers = referer(site) | {"X-XSRFToken": browser.cookies.get("_xsrf", path="/hub/") or ""}
    made = browser.post(f"/hub/api/users/{name}/tokens", json={"note": "script"}, headers=headers)
    assert made.status_code == 201, made.text
    return str(made.json()["token"])


def token_works(site: Site, token: str) -> bool:
    return site.hub.api(token).get("/user").status_code == 200


def scopes(site: Site, browser: httpx.Client) -> set[str]:
    return set(browser.get("/hub/api/user", headers=referer(site)).json()["scopes"])


def server_is(site: Site, name: str) -> str:
    """`ready`, `stopped` or something between."""
    user = site.hub.api(TOKENS["WORKER"]).get(f"/users/{name}", params={"include_stopped_servers": "1"}).json()
    server = (user.get("servers") or {}).get("", {})
    return "ready" if server.get("ready") else "stopped" if server.get("stopped", True) else "between"


def start_server(site: Site, browser: httpx.Client, name: str) -> None:
    answer = browser.get("/hub/spawn", params={"opt-allocation": "a1", "opt-size": "small"}, follow_redirects=True)
    assert answer.status_code in {200, 503}, answer.text
    until(lambda: server_is(site, name) == "ready", 90)


def lease_of(site: Site) -> str:
    return site.hub.service.states()[-1]


def test_a_disabled_account_loses_its_session_and_its_tokens_until_it_is_enabled_again(site: Site) -> None:
    browser = signed_in(site, "dora")
    token = script_token(site, browser, "dora")
    assert token_works(site, token)
    site.provider.disabled.add("subject-of-dora")
    until(lambda: site.name(browser) is None, REFRESH_SECONDS + SLACK_SECONDS)
    assert not token_works(site, token)
    assert browser.get("/hub/home").headers["Location"].startswith("/hub/login")
    answer = site.sign_in(person("subject-of-dora", preferred_username="dora"))
    assert answer.status_code == 403
    site.provider.disabled.clear()
    # The old cookies are nobody's now.
    assert site.name(browser) is None
    again = signed_in(site, "dora")
    assert site.name(again) == "dora"
    assert token_works(site, token)


def test_a_disabled_accounts_server_is_stopped_and_settled_though_nobody_asks_for_it(site: Site) -> None:
    browser = signed_in(site, "emil")
    start_server(site, browser, "emil")
    site.provider.disabled.add("subject-of-emil")
    until(lambda: server_is(site, "emil") == "stopped", REFRESH_SECONDS + SLACK_SECONDS)
    assert lease_of(site) == "settled"
    # Not even by a request that was made before.
    assert browser.get("/hub/spawn").headers["Location"].startswith("/hub/login")


def test_while_the_provider_is_away_everything_goes_on(site: Site) -> None:
    browser = signed_in(site, "fred")
    token = script_token(site, browser, "fred")
    site.provider.statuses |= {"/token": 503, "/userinfo": 503}
    begun = time.monotonic()
    while time.monotonic() - begun < 2 * REFRESH_SECONDS:
        assert site.name(browser) == "fred"
        time.sleep(0.5)
    assert token_works(site, token)
    # Nor does a fault of our own, as a client secret that has changed, end anything.
    site.provider.statuses |= {"/token": 401}
    time.sleep(REFRESH_SECONDS + 1)
    assert site.name(browser) == "fred"


def test_many_requests_at_once_use_a_refresh_token_once(site: Site) -> None:
    browser = signed_in(site, "gita")
    token = script_token(site, browser, "gita")
    for _ in range(2):
        time.sleep(REFRESH_SECONDS + 0.5)
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda _: token_works(site, token), range(16)))
    assert site.name(browser) == "gita"


def test_tokens_of_somebody_else_end_the_session(site: Site) -> None:
    browser = signed_in(site, "hans")
    site.provider.id_claims = lambda claims: claims | {"sub": "subject-of-chief"}
    site.provider.userinfo = lambda claims: claims | {"sub": "subject-of-chief"}
    until(lambda: site.name(browser) is None, REFRESH_SECONDS + SLACK_SECONDS)


def test_an_address_that_is_verified_no_more_ends_the_session(site: Site) -> None:
    browser = signed_in(site, "ines")
    site.provider.userinfo = lambda claims: claims | {"email_verified": False}
    until(lambda: site.name(browser) is None, REFRESH_SECONDS + SLACK_SECONDS)


# ---------------------------------------------------------------- roles

# By which somebody could be anybody; for oneself they have a name behind them.
HUB_ADMINISTRATORS = {"access:servers", "admin:users", "start:servers", "tokens"}


@pytest.mark.parametrize(
    ("claims", "scope"),
    [
        ({"groups": ["panel"]}, "custom:allocations:review"),
        ({"groups": ["operators"]}, "custom:allocations:admin"),
        ({"realm_access": {"roles": ["operators"]}}, "admin-ui"),
    ],
)
def test_a_role_comes_with_a_group_and_goes_with_it(site: Site, claims: dict[str, Any], scope: str) -> None:
    browser = signed_in(site, "jana", **claims)
    assert scope in scopes(site, browser)
    assert HUB_ADMINISTRATORS.isdisjoint(scopes(site, browser))
    site.provider.userinfo = lambda claims: {
        name: claims[name] for name in claims if name not in {"groups", "realm_access"}
    }
    until(lambda: scope not in scopes(site, browser), REFRESH_SECONDS + SLACK_SECONDS)
    assert site.name(browser) == "jana"


def test_a_role_comes_by_policy_to_the_right_subject_only(site: Site) -> None:
    browser = site.browser()
    site.sign_in(person("subject-of-chief", preferred_username="someone"), browser)
    assert site.name(browser) == "chief"
    assert {"custom:allocations:admin", "admin-ui"} <= scopes(site, browser)
    assert HUB_ADMINISTRATORS.isdisjoint(scopes(site, browser))
    other = site.browser()
    site.sign_in(person("subject-of-nobody", preferred_username="chief"), other)
    assert not {"custom:allocations:admin", "custom:allocations:review", "admin-ui"} & scopes(site, other)


# ---------------------------------------------------------------- signing out


def test_signing_out_ends_it_here_in_every_browser_and_goes_on_to_the_provider(site: Site) -> None:
    browser, elsewhere = signed_in(site, "kurt"), signed_in(site, "kurt")
    stolen = dict(browser.cookies)
    page = browser.get("/hub/logout")
    [address] = re.findall(r'http-equiv="refresh" content="0; url=([^"]*)"', page.text)
    onward = urlsplit(address.replace("&amp;", "&"))
    query = parse_qs(onward.query)
    assert f"{onward.scheme}://{onward.netloc}{onward.path}" == f"{site.provider.url}/end"
    assert query["post_logout_redirect_uri"] == [f"{site.hub.url}/hub/logout"]
    assert query["id_token_hint"][0].count(".") == 2
    assert site.name(browser) is None
    assert site.name(elsewhere) is None
    thief = site.browser()
    for name, value in stolen.items():
        thief.cookies.set(name, value)
    assert site.name(thief) is None
    assert "You have signed out" in browser.get("/hub/logout", headers=CROSS_SITE).text


def test_another_site_signs_nobody_out_without_a_question(site: Site) -> None:
    browser = signed_in(site, "lena")
    page = browser.get("/hub/logout", headers=CROSS_SITE)
    assert "Another site has sent you here" in page.text
    assert site.name(browser) == "lena"
    assert browser.post("/hub/logout", data={"_xsrf": "forged"}).status_code == 403
    assert browser.post("/hub/logout").status_code == 403
    assert site.name(browser) == "lena"
    [xsrf] = re.findall(r'name="_xsrf" value="([^"]*)"', page.text)
    assert browser.post("/hub/logout", data={"_xsrf": xsrf}).status_code == 200
    assert site.name(browser) is None


def test_after_signing_out_servers_and_tokens_go_on_though_the_provider_has_ended_its_session(site: Site) -> None:
    browser = signed_in(site, "mia")
    token = script_token(site, browser, "mia")
    start_server(site, browser, "mia")
    browser.get("/hub/logout")
    site.provider.refreshes.clear()
    time.sleep(REFRESH_SECONDS + 2)
    assert server_is(site, "mia") == "ready"
    assert token_works(site, token)
    assert site.hub.api(token).delete("/users/mia/server").status_code in {202, 204}
    until(lambda: server_is(site, "mia") == "stopped", SLACK_SECONDS)


def test_without_refresh_tokens_browsers_sign_in_again_and_the_rest_goes_on_for_a_while(site: Site) -> None:
    site.provider.gives_refresh_tokens = False
    site.provider.expires_in = 10
    browser = signed_in(site, "nils")
    token = script_token(site, browser, "nils")
    until(lambda: site.name(browser) is None, REFRESH_SECONDS + SLACK_SECONDS)
    assert token_works(site, token)
    site.provider.expires_in = 3600
    again = signed_in(site, "nils")
    site.provider.disabled.add("subject-of-nils")
    until(lambda: site.name(again) is None, REFRESH_SECONDS + SLACK_SECONDS)
    assert not token_works(site, token)


def test_a_disabled_accounts_batch_runs_end_though_there_is_no_server_and_no_page(site: Site) -> None:
    signed_in(site, "gerd")
    signed_in(site, "hans")
    site.hub.service.runs |= {"gerd": 2, "hans": 1, "unknown-to-the-hub": 1}
    site.provider.disabled.add("subject-of-gerd")
    until(lambda: "gerd" not in site.hub.service.runs, REFRESH_SECONDS + SLACK_SECONDS)
    time.sleep(REFRESH_SECONDS)
    assert site.hub.service.runs == {"hans": 1, "unknown-to-the-hub": 1}
    site.hub.service.runs.clear()


def test_batch_runs_end_later_when_the_service_does_not_answer_at_first(site: Site) -> None:
    signed_in(site, "ines")
    site.hub.service.runs["ines"] = 1
    site.hub.service.faults["end-runs"] = [503] * 3
    site.provider.disabled.add("subject-of-ines")
    until(lambda: "ines" not in site.hub.service.runs, 2 * REFRESH_SECONDS + SLACK_SECONDS)
    assert site.hub.service.faults["end-runs"] == []
