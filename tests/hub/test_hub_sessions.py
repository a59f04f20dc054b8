"""How long a server can go on: the hub tells the server by its own token, and its person on the servers page."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import httpx
import psutil
import pytest

from hub.client import Outlook
from hub.spawner.pages import to_duration
from hub.spawner.sessions import to_session
from tests.hub.fake_allocations import outlook
from tests.hub.test_hub_running import TOKENS, running_hub

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)


def session(last_activity: datetime | None, **changes):
    facts = {"used_at": NOW - timedelta(minutes=30), "stops_at": NOW + timedelta(hours=9)} | changes
    return to_session(Outlook.model_validate(outlook(**facts)), last_activity, NOW)


@pytest.mark.parametrize(
    ("last_activity", "minutes_left"),
    [
        (None, 30),
        (datetime(2027, 1, 15, 7, 50), 50),  # noqa: DTZ001  # as the hub's database has it
        # Somebody asked to keep it after it was last used.
        (datetime(2027, 1, 15, 7, 10), 30),  # noqa: DTZ001  # as above
    ],
)
def test_an_idle_stop_counts_from_the_latest_use(last_activity, minutes_left):
    assert session(last_activity).idle_seconds_left == minutes_left * 60


def test_idleness_never_promises_more_than_the_lease():
    found = session(None, stops_at=NOW + timedelta(minutes=5))
    assert found.seconds_left == found.idle_seconds_left == 300


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3660, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert to_duration(seconds) == text


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def server_token(hub):
    """Ada's default server runs; its own token, as it stands in its environment."""
    worker = hub.api(TOKENS["WORKER"])
    hub.browser("ada").get("/hub/spawn", params={"opt-allocation": "a1", "opt-size": "small"})
    hub.until(lambda: worker.get("/users/ada").json()["servers"].get("", {}).get("ready"), 120)
    state = hub.environment["MERIDIAN_STATE"]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("HOME", "").startswith(state) and "JUPYTERHUB_API_TOKEN" in process.environ():
                return process.environ()["JUPYTERHUB_API_TOKEN"]
    raise AssertionError("no server's process")


@pytest.fixture(autouse=True)
def no_faults(request):
    if "hub" in request.fixturenames:
        service = request.getfixturevalue("hub").service
        service.faults.clear()
        service.outlook.clear()


@pytest.mark.slow
def test_a_server_reads_and_extends_its_own_session_and_no_other(hub, server_token):
    api = hub.api(server_token)
    found = api.get("/meridian/sessions/ada/").json()
    assert found["detail"] == "The balance of “Entry of ada” is spent then."
    assert found["now"] < found["idle_stops_at"] < found["stops_at"]
    before = hub.service.made("extend")
    assert api.post("/meridian/sessions/ada/").status_code == 200
    assert hub.service.made("extend") == [*before, {}]
    assert api.get("/meridian/sessions/ada/other").status_code == 404
    assert api.get("/meridian/sessions/chief/").status_code == 404
    assert api.post("/meridian/sessions/chief/").status_code == 404


@pytest.mark.slow
def test_others_read_and_extend_nothing(hub, server_token):
    browser = hub.browser("rev")
    [xsrf] = re.findall(r'xsrf_token: "([^"]*)"', browser.get("/hub/token").text)
    body = json.dumps({"scopes": ["access:servers!user"]})
    of_own_servers = browser.post(f"/hub/api/users/rev/tokens?_xsrf={xsrf}", content=body).json()["token"]
    for token in (of_own_servers, TOKENS["WORKER"], TOKENS["ALLOCATIONS"], "no-token"):
        api = hub.api(token)
        assert api.get("/meridian/sessions/ada/").status_code in {403, 404}
        assert api.post("/meridian/sessions/ada/").status_code in {403, 404}
    assert httpx.get(f"{hub.url}/hub/api/meridian/sessions/ada/", timeout=60).status_code == 403


@pytest.mark.slow
def test_without_the_service_the_server_goes_on_and_the_answer_says_so(hub, server_token):
    api = hub.api(server_token)
    hub.service.faults["outlook"] = [503] * 100
    assert api.get("/meridian/sessions/ada/").status_code == 503
    headers = {"Authorization": f"token {server_token}"}
    answer = httpx.get(f"{hub.url}/user/ada/meridian/session", headers=headers, timeout=30)
    assert answer.status_code == 503, answer.text
    assert "does not answer" in answer.json()["message"]
    assert httpx.get(f"{hub.url}/user/ada/api/status", headers=headers, timeout=60).status_code == 200
    page = hub.browser("ada").get("/hub/home").text
    assert "How long it can go on is not known now" in page
    assert "Extend<" not in page


@pytest.mark.slow
def test_the_server_passes_on_what_the_hub_says_and_that_is_no_use_of_it(hub, server_token):
    assert httpx.get(f"{hub.url}/user/ada/meridian/session", timeout=60).status_code == 403
    headers = {"Authorization": f"token {server_token}"}
    before = httpx.get(f"{hub.url}/user/ada/api/status?no_track_activity=1", headers=headers, timeout=60).json()[
        "last_activity"
    ]
    told = httpx.get(f"{hub.url}/user/ada/meridian/session", headers=headers, timeout=30)
    assert told.json()["remedy_url"] == "/services/allocations/requests/new"
    after = httpx.get(f"{hub.url}/user/ada/api/status?no_track_activity=1", headers=headers, timeout=60).json()[
        "last_activity"
    ]
    assert after == before
    assert httpx.post(f"{hub.url}/user/ada/meridian/session", headers=headers, timeout=30).status_code == 200
    assert hub.service.made("extend")


@pytest.mark.slow
def test_a_refusal_reaches_whoever_asked_in_words(hub, server_token):
    hub.service.faults["outlook"] = [409]
    answer = hub.api(server_token).get("/meridian/sessions/ada/")
    assert (answer.status_code, answer.json()["message"]) == (409, "The allocation is spent. Ask for more.")


@pytest.mark.slow
def test_the_servers_page_shows_the_time_left_and_extends_without_a_script(hub, server_token):
    browser = hub.browser("ada")
    page = browser.get("/hub/home").text
    assert "2 h at most" in page
    assert "0.12 credits an hour, from Entry of ada" in page
    assert "The balance of “Entry of ada” is spent then." in page
    [action] = re.findall(r'action="(/hub/meridian/extend/[^"]*)"', page)
    before = len(hub.service.made("extend"))
    assert browser.post(action, data={"_xsrf": "forged"}).status_code == 403
    assert len(hub.service.made("extend")) == before
    [xsrf] = set(re.findall(r'name="_xsrf" value="([^"]*)"', page))
    extended = browser.post(action, data={"_xsrf": xsrf})
    assert len(hub.service.made("extend")) == before + 1
    assert "Your default server is extended." in extended.text
    assert str(browser.get(action).url).endswith("/hub/home")


@pytest.mark.slow
def test_what_may_not_be_extended_says_why(hub, server_token):
    browser = hub.browser("ada")
    page = browser.get("/hub/home").text
    [xsrf] = set(re.findall(r'name="_xsrf" value="([^"]*)"', page))
    hub.service.faults["extend"] = [409]
    refused = browser.post("/hub/meridian/extend/ada/", data={"_xsrf": xsrf}).text
    assert "Your default server is not extended." in refused
    assert "The allocation is spent. Ask for more." in refused
    assert "does not run" in browser.post("/hub/meridian/extend/ada/gone", data={"_xsrf": xsrf}).text
    assert browser.post("/hub/meridian/extend/chief/", data={"_xsrf": xsrf}).status_code == 404


@pytest.mark.slow
def test_the_token_page_explains_scopes_and_a_narrow_token_can_what_it_says(hub):
    browser = hub.browser("ada")
    page = browser.get("/hub/token").text
    assert "custom:batch:run" in page
    assert "custom:allocations:review" not in page
    assert "custom:allocations:lease" not in page
    [xsrf] = re.findall(r'xsrf_token: "([^"]*)"', page)
    body = json.dumps({"note": "nightly", "scopes": ["custom:batch:run"], "expires_in": 3600})
    made = browser.post(f"/hub/api/users/ada/tokens?_xsrf={xsrf}", content=body)
    scopes = set(hub.api(made.json()["token"]).get("/user").json()["scopes"])
    assert "custom:batch:run" in scopes
    assert "custom:allocations:read" not in scopes
    shown = browser.get("/hub/token").text
    assert "nightly" in shown
    assert f'data-revoke="{made.json()["id"]}"' in shown
