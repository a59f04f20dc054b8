"""An administrator before a real hub: may look after everybody's servers, and be nobody but themselves."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e import conftest as end_to_end
from tests.hub.test_hub_running import TOKENS, RunningHub, running_hub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow
# A real browser, for a page that is made by scripts.
browser = end_to_end.browser
# JupyterHub says 404 where the asker may not know whether there is something.
REFUSED = {403, 404}
IMPERSONATION: dict[str, tuple[str, str, object]] = {
    "a token of theirs": ("POST", "/users/ada/tokens", {}),
    "their tokens' list": ("GET", "/users/ada/tokens", None),
    "a server in their name": ("POST", "/users/ada/servers/another", {}),
    "settings of a server of theirs": ("PATCH", "/users/ada/server", {"user_options": {}}),
    "a grant of their server": ("POST", "/shares/ada/", {"user": "chief"}),
    "a code for their server": ("POST", "/share-codes/ada/", {}),
    "the hub's own flag": ("PATCH", "/users/ada", {"admin": True}),
    "the hub's own flag for oneself": ("PATCH", "/users/chief", {"admin": True}),
    "another name": ("PATCH", "/users/ada", {"name": "eve"}),
    "their sign-in's secrets": ("PATCH", "/users/ada", {"auth_state": {}}),
    "their account": ("DELETE", "/users/ada", None),
    "a new account": ("POST", "/users/eve", {}),
    "a group that has a role": ("POST", "/groups/operators/users", {"users": ["ada"]}),
    "where the proxy leads": ("GET", "/proxy", None),
    "the hub's end": ("POST", "/shutdown", {}),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def hub(running: RunningHub) -> RunningHub:
    """A hub on which ada has a server, whichever test came before."""
    if not server_of_ada(running).get("ready"):
        running.browser("ada").get("/hub/spawn", params={"opt-allocation": "a1", "opt-size": "small"})
        running.until(lambda: server_of_ada(running).get("ready"), 90)
    return running


def server_of_ada(hub: RunningHub) -> dict[str, object]:
    worker = hub.api(TOKENS["WORKER"])
    servers = worker.get("/users/ada", params={"include_stopped_servers": "1"}).json().get("servers") or {}
    server: dict[str, object] = servers.get("", {})
    return server


def api(hub: RunningHub, name: str) -> httpx.Client:
    """The hub's API by a token that a person has made on the token page, with all that they may do."""
    browser = hub.browser(name)
    browser.get("/hub/token")
    headers = {"Referer": f"{hub.url}/hub/token", "X-XSRFToken": browser.cookies.get("_xsrf", path="/hub/") or ""}
    made = browser.post(f"/hub/api/users/{name}/tokens", json={"note": "script"}, headers=headers)
    assert made.status_code == 201, made.text
    return hub.api(made.json()["token"])


@pytest.mark.parametrize("what", IMPERSONATION)
def test_an_administrator_gets_nothing_by_which_to_be_another(hub: RunningHub, what: str) -> None:
    method, path, body = IMPERSONATION[what]
    answer = api(hub, "chief").request(method, path, json=body)
    assert answer.status_code in REFUSED, answer.text


@pytest.mark.parametrize(("name", "opens"), [("ada", {200}), ("chief", REFUSED)])
@pytest.mark.parametrize("page", ["/user/ada/lab", "/user/ada/api/contents", "/hub/user/ada/lab"])
def test_a_server_opens_for_its_person_and_no_administrator(
    hub: RunningHub, page: str, name: str, opens: set[int]
) -> None:
    if "/api/" not in page:  # which sends no browser to sign in
        assert hub.browser(name).get(page).status_code in opens
    token = api(hub, name).headers["Authorization"]
    if not page.startswith("/hub/"):  # where no token counts
        answer = httpx.get(f"{hub.url}{page}", headers={"Authorization": token}, timeout=30)
        assert answer.status_code in opens


@pytest.mark.parametrize("page", ["/hub/spawn/ada", "/hub/spawn/ada/another", "/hub/spawn-pending/ada"])
def test_an_administrator_starts_nothing_in_anothers_name(hub: RunningHub, page: str) -> None:
    leases = len(hub.service.leases)
    assert hub.browser("chief").get(page).status_code in REFUSED
    assert len(hub.service.leases) == leases


def test_nobody_is_the_hubs_own_administrator(hub: RunningHub) -> None:
    for person in api(hub, "chief").get("/users").json():
        assert not person["admin"], person["name"]
    scopes = set(api(hub, "chief").get("/user").json()["scopes"])
    beyond = {scope for scope in scopes if "!" not in scope and not scope.startswith("custom:")}
    assert beyond == {
        "admin-ui",
        "list:users",
        "read:users:name",
        "read:users:activity",
        "read:servers",
        "delete:servers",
    }


def test_the_hubs_page_offers_what_an_administrator_may_do(hub: RunningHub, browser: Browser) -> None:
    with closing(browser.new_context(base_url=hub.url)) as context:
        page = context.new_page()
        page.goto("/hub/login?next=/hub/admin")
        page.fill("#username_input", "chief")
        page.fill("#password_input", "chief-password")
        page.click("#login_submit")
        row = page.locator(".user-row", has_text="ada").first
        row.wait_for()
        shown = page.locator("#react-admin-hook :is(a, button):visible")
        offered = {text.strip() for text in shown.all_inner_texts()} - {""}
        assert offered == {"Stop Server", "Stop All", "Next", "Previous"}


def test_an_administrator_sees_who_has_a_server_and_stops_it(hub: RunningHub) -> None:
    page = hub.browser("chief").get("/hub/admin")
    assert page.status_code == 200
    assert re.search(r'aria-current="page"[^>]*>Hub<', page.text)
    chief = api(hub, "chief")
    assert chief.get("/users/ada").status_code == 200
    assert chief.delete("/users/ada/server").status_code in {202, 204}
    hub.until(lambda: server_of_ada(hub).get("stopped", True))


def test_an_earlier_versions_administrator_is_none_after_the_next_start(hub: RunningHub) -> None:
    token = api(hub, "chief")
    hub.stop_hub()
    database = Path(hub.environment["MERIDIAN_STATE"]) / "hub.sqlite"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE users SET admin = 1 WHERE name IN ('ada', 'chief')")
        connection.execute(
            "INSERT INTO user_role_map (user_id, role_id, managed_by_auth)"
            " SELECT users.id, roles.id, 0 FROM users, roles"
            " WHERE users.name IN ('ada', 'chief') AND roles.name = 'admin'"
        )
    hub.start_hub()
    assert token.post("/users/ada/tokens", json={}).status_code in REFUSED
    assert not any(person["admin"] for person in token.get("/users").json())
    hub.browser("chief")
    assert not any(person["admin"] for person in token.get("/users").json())
