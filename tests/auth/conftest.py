"""A real hub that signs people in at a provider which lies as it is told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.auth.faulty_provider import CLIENT_ID, CLIENT_SECRET, FaultyProvider
from tests.e2e import conftest as end_to_end
from tests.hub.test_hub_running import RunningHub, running_hub

if TYPE_CHECKING:
    from collections.abc import Iterator

# A real browser, for those who sign in by one.
browser = end_to_end.browser
REFRESH_SECONDS = 4
SETTINGS: dict[str, Any] = {
    "JupyterHub": {"log_level": "DEBUG"},
    "Authenticator": {"auth_refresh_age": REFRESH_SECONDS, "admin_users": ["chief"]},
    "OpenIDConnectAuthenticator": {
        "groups_claims": ["groups", "realm_access.roles"],
        "unconfirmed_seconds": 600,
        "names": {"subject-of-chief": "chief"},
        "blocked_subjects": ["subject-of-mallory"],
        "blocked_emails": ["Spam@example.org"],
    },
}


def person(subject: str, **claims: Any) -> dict[str, Any]:
    """The claims of somebody with all that is needed."""
    return {"sub": subject, "email": f"{subject}@example.org", "email_verified": True} | claims


@dataclass
class Site:
    """A hub, and the provider at which its people sign in."""

    hub: RunningHub
    provider: FaultyProvider
    browsers: list[httpx.Client] = field(default_factory=list)

    def browser(self) -> httpx.Client:
        """A browser that goes where it is told, one step at a time."""
        made = httpx.Client(base_url=self.hub.url, timeout=30)
        self.browsers.append(made)
        return made

    def begin(self, browser: httpx.Client, **query: str) -> str:
        """Set out for the provider; return the address there."""
        answer = browser.get("/hub/oauth_login", params=query)
        assert answer.status_code == 302, answer.text
        return str(answer.headers["Location"])

    def come_back(self, browser: httpx.Client, address: str) -> str:
        """Sign in at the provider; return the address to which it sends the browser."""
        answer = browser.get(address)
        assert answer.status_code == 302, answer.text
        return str(answer.headers["Location"])

    def sign_in(self, claims: dict[str, Any] | None = None, browser: httpx.Client | None = None) -> httpx.Response:
        """All of it; the hub's answer to the browser that came back."""
        self.provider.person = claims or person("subject-of-ada", preferred_username="Ada")
        browser = browser or self.browser()
        return browser.get(self.come_back(browser, self.begin(browser)))

    def name(self, browser: httpx.Client) -> str | None:
        """Who the hub takes the browser for."""
        answer = browser.get("/hub/api/user", headers={"Referer": f"{self.hub.url}/hub/home"})
        return answer.json()["name"] if answer.status_code == 200 else None


@pytest.fixture(scope="module")
def running_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    settings = directory / "settings.json"
    settings.write_text(json.dumps(SETTINGS))
    with (
        FaultyProvider().serving() as provider,
        running_hub(
            directory,
            MERIDIAN_SIGN_IN="openid",
            MERIDIAN_OIDC_ISSUER=provider.url,
            OAUTH_CLIENT_ID=CLIENT_ID,
            OAUTH_CLIENT_SECRET=CLIENT_SECRET,
            MERIDIAN_HUB_CONFIG=str(settings),
            MERIDIAN_REVIEWER_GROUPS='["panel"]',
            MERIDIAN_ADMIN_GROUPS='["operators"]',
            JUPYTERHUB_CRYPT_KEY="0" * 64,
        ) as hub,
    ):
        yield Site(hub, provider)


@pytest.fixture
def site(running_site: Site) -> Iterator[Site]:
    running_site.provider.reset()
    yield running_site
    for browser in running_site.browsers:
        browser.close()
    running_site.browsers.clear()
