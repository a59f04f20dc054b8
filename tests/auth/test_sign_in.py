"""Sign-in by OpenID Connect at a real hub: who gets in, under which name, and what an attacker gets."""

from __future__ import annotations

import re
import time
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest

from tests.auth.conftest import Site, person
from tests.auth.faulty_provider import CLIENT_ID, CLIENT_SECRET, Key

if TYPE_CHECKING:
    import httpx

pytestmark = pytest.mark.slow

ADA = person("subject-of-ada", preferred_username="Ada", name="Ada Lovelace")


def test_who_the_provider_vouches_for_is_signed_in(site: Site) -> None:
    browser = site.browser()
    answer = site.sign_in(ADA, browser)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/services/allocations/")
    assert site.name(browser) == "ada"


def refuse(site: Site, claims=None, status: int = 403) -> str:
    """Nobody is signed in, and the page says so without saying why to an attacker."""
    browser = site.browser()
    answer = site.sign_in(claims, browser)
    assert answer.status_code == status, answer.text
    assert site.name(browser) is None
    assert "Traceback" not in answer.text
    return " ".join(answer.text.split())


def hmac_by_public_key(site: Site):
    """The provider's public key, which everybody has, taken for a shared secret."""

    def sign(claims):
        secret = site.provider.keys[-1].public["n"]
        return jwt.encode(claims, secret, "HS256", {"kid": "first"})

    return sign


LATER = 3600
ID_TOKEN_FAULTS = {
    "another issuer": lambda claims: claims | {"iss": "https://evil.example"},
    "another audience": lambda claims: claims | {"aud": "another-client"},
    "several audiences and no authorised party": lambda claims: claims | {"aud": [CLIENT_ID, "other"]},
    "another authorised party": lambda claims: claims | {"azp": "other"},
    "another nonce": lambda claims: claims | {"nonce": "of another sign-in"},
    "no nonce": lambda claims: {name: claims[name] for name in claims if name != "nonce"},
    "expired": lambda claims: claims | {"exp": int(time.time()) - LATER, "iat": int(time.time()) - 2 * LATER},
    "not yet": lambda claims: claims | {"iat": int(time.time()) + LATER},
    "no expiry": lambda claims: {name: claims[name] for name in claims if name != "exp"},
    "no subject": lambda claims: {name: claims[name] for name in claims if name != "sub"},
    "an empty subject": lambda claims: claims | {"sub": ""},
    "a subject that is no text": lambda claims: claims | {"sub": ["subject-of-ada"]},
    "a subject of two lines": lambda claims: claims | {"sub": "subject\nof-ada"},
    "another access token": lambda claims: claims | {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
}


@pytest.mark.parametrize("fault", ID_TOKEN_FAULTS)
def test_an_id_token_that_is_not_for_this_sign_in_is_refused(site: Site, fault: str) -> None:
    site.provider.id_claims = ID_TOKEN_FAULTS[fault]
    assert "could not be verified" in refuse(site)


SIGNATURES = {
    "none": lambda _site: lambda claims: jwt.encode(claims, "", "none"),
    "the client's secret": lambda _site: lambda claims: jwt.encode(claims, CLIENT_SECRET, "HS256"),
    "the public key as a secret": hmac_by_public_key,
    "a key of the attacker's": lambda _site: (
        lambda claims: jwt.encode(claims, Key("first").private, "RS256", {"kid": "first"})
    ),
    "a key that is not published": lambda _site: (
        lambda claims: jwt.encode(claims, Key("withdrawn").private, "RS256", {"kid": "withdrawn"})
    ),
    "a key that the token brings along": lambda _site: (
        lambda claims: jwt.encode(claims, (key := Key("mine")).private, "RS256", {"kid": "mine", "jwk": key.public})
    ),
    "nothing at all": lambda _site: lambda _claims: "eyJhbGciOiJSUzI1NiJ9..",
    "no token": lambda _site: lambda _claims: "",
}


@pytest.mark.parametrize("signature", SIGNATURES)
def test_an_id_token_that_the_provider_did_not_sign_is_refused(site: Site, signature: str) -> None:
    site.provider.sign = SIGNATURES[signature](site)
    assert "could not be verified" in refuse(site)


def test_a_provider_may_change_its_keys(site: Site) -> None:
    assert site.sign_in(ADA).status_code == 302
    time.sleep(5.5)  # unknown keys are looked for again, but not for every token
    site.provider.keys = [Key("second")]
    assert site.sign_in(ADA).status_code == 302


def test_user_information_about_somebody_else_is_refused(site: Site) -> None:
    site.provider.userinfo = lambda claims: claims | {"sub": "subject-of-chief"}
    assert "could not be verified" in refuse(site)


def test_user_information_can_not_change_what_the_id_token_says(site: Site) -> None:
    site.provider.userinfo = lambda claims: claims | {"iss": "https://evil.example", "preferred_username": "Ada"}
    browser = site.browser()
    assert site.sign_in(ADA, browser).status_code == 302
    assert site.name(browser) == "ada"


@pytest.mark.parametrize("path", ["/token", "/userinfo"])
def test_while_the_provider_has_a_fault_people_are_asked_to_wait(site: Site, path: str) -> None:
    site.provider.statuses[path] = 500
    assert "Try again in a few minutes" in refuse(site, status=503)


# ---------------------------------------------------------------- the way there and back


def test_the_way_to_the_provider_has_state_nonce_and_a_challenge_and_keeps_their_secrets(site: Site) -> None:
    browser = site.browser()
    query = parse_qs(urlsplit(site.begin(browser)).query)
    assert query["response_type"] == ["code"]
    assert query["redirect_uri"] == [f"{site.hub.url}/hub/oauth_callback"]
    assert query["code_challenge_method"] == ["S256"]
    assert len(query["state"][0]) >= 43
    assert len(query["nonce"][0]) >= 43
    again = parse_qs(urlsplit(site.begin(browser)).query)
    for name in ("state", "nonce", "code_challenge"):
        assert query[name] != again[name]
    assert "code_verifier" not in query


def test_the_host_that_a_request_names_changes_nothing(site: Site) -> None:
    answer = site.browser().get(
        "/hub/oauth_login", headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    )
    assert "evil.example" not in answer.headers["Location"]


def set_cookies(answer: httpx.Response) -> SimpleCookie:
    cookies: SimpleCookie = SimpleCookie()
    for header in answer.headers.get_list("set-cookie"):
        cookies.load(header)
    return cookies


def test_cookies_are_kept_from_scripts_and_from_other_sites(site: Site) -> None:
    site.provider.person = ADA
    browser = site.browser()
    begun = browser.get("/hub/oauth_login")
    state = set_cookies(begun)["oauthenticator-state"]
    assert (state["path"], state["samesite"], state["httponly"]) == ("/hub/", "Lax", True)
    cookies = set_cookies(browser.get(site.come_back(browser, begun.headers["Location"])))
    for name in ("jupyterhub-hub-login", "jupyterhub-session-id"):
        assert (cookies[name]["samesite"], cookies[name]["httponly"]) == ("Lax", True)
    assert cookies["oauthenticator-state"].value == ""


@pytest.mark.parametrize("page", ["/hub/login", "/hub/oauth_callback", "/hub/logout"])
def test_no_other_site_can_frame_the_sign_in(site: Site, page: str) -> None:
    answer = site.browser().get(page)
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def stale(answer: httpx.Response) -> bool:
    return answer.status_code == 400 and "begun elsewhere" in answer.text


@pytest.mark.parametrize("state", ["", "forged", "é", "x" * 5000])
def test_a_forged_state_is_refused(site: Site, state: str) -> None:
    browser = site.browser()
    site.begin(browser)
    assert stale(browser.get("/hub/oauth_callback", params={"code": "c", "state": state, "iss": site.provider.url}))
    assert site.name(browser) is None


def test_a_forged_cookie_is_refused(site: Site) -> None:
    browser = site.browser()
    site.provider.person = ADA
    back = site.come_back(browser, site.begin(browser))
    value = browser.cookies["oauthenticator-state"]
    browser.cookies.clear()
    for forged in (value[:-2] + "AA", "e30=", ""):
        browser.cookies.set("oauthenticator-state", forged, path="/hub/")
        assert stale(browser.get(back))


def test_what_one_browser_began_no_other_can_finish(site: Site) -> None:
    """An attacker who sends a victim their own way back would have the victim work under the attacker's name."""
    site.provider.person = person("subject-of-eve", preferred_username="eve")
    attacker, victim = site.browser(), site.browser()
    back = site.come_back(attacker, site.begin(attacker))
    assert stale(victim.get(back))
    site.begin(victim)
    assert stale(victim.get(back))
    assert site.name(victim) is None


def test_a_way_back_serves_once(site: Site) -> None:
    site.provider.person = ADA
    browser = site.browser()
    begun = site.begin(browser)
    state = browser.cookies["oauthenticator-state"]
    back = site.come_back(browser, begun)
    assert browser.get(back).status_code == 302
    # The same browser without its session, as somebody who finds the address in its history.
    browser.cookies.clear()
    assert stale(browser.get(back))
    # Even with the cookie, the code was used up.
    answer = browser.get(back, headers={"Cookie": f"oauthenticator-state={state}"})
    assert answer.status_code == 403
    assert site.name(browser) is None


def test_codes_tokens_and_secrets_stay_out_of_the_log(site: Site) -> None:
    site.provider.person = ADA
    site.provider.statuses["/userinfo"] = 500
    browser = site.browser()
    back = site.come_back(browser, site.begin(browser))
    code = parse_qs(urlsplit(back).query)["code"][0]
    assert browser.get(back).status_code == 503
    site.provider.statuses.clear()
    assert site.sign_in(ADA).status_code == 302
    log = site.hub.log.read_text()
    assert "oauth_callback" in log
    for secret in (code, CLIENT_SECRET, *site.provider.accesses, *site.provider.refreshes):
        assert secret not in log


def test_a_code_of_another_sign_in_is_refused_for_its_challenge(site: Site) -> None:
    site.provider.person = person("subject-of-eve", preferred_username="eve")
    attacker, victim = site.browser(), site.browser()
    stolen = parse_qs(urlsplit(site.come_back(attacker, site.begin(attacker))).query)["code"][0]
    own = urlsplit(site.come_back(victim, site.begin(victim)))
    query = {name: values[0] for name, values in parse_qs(own.query).items()} | {"code": stolen}
    answer = victim.get(f"{own.path}?{urlencode(query)}")
    assert answer.status_code == 403
    assert site.name(victim) is None


@pytest.mark.parametrize("issuer", ["https://evil.example", None])
def test_an_answer_of_another_provider_is_refused_before_anything_is_sent_to_ours(site: Site, issuer) -> None:
    site.provider.person = ADA
    browser = site.browser()
    back = urlsplit(site.come_back(browser, site.begin(browser)))
    query = {name: values[0] for name, values in parse_qs(back.query).items()}
    query.pop("iss")
    if issuer is not None:
        query["iss"] = issuer
    site.provider.requests.clear()
    assert browser.get(f"{back.path}?{urlencode(query)}").status_code == 403
    assert not [path for path, _ in site.provider.requests if path == "/token"]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        ("access_denied", 403, "was cancelled"),
        ("temporarily_unavailable", 503, "Try again in a few minutes"),
        ("<script>alert(1)</script>", 403, "did not sign you in"),
    ],
)
def test_what_the_provider_answers_in_place_of_a_code_is_said_in_our_words(site: Site, error, status, words) -> None:
    browser = site.browser()
    state = parse_qs(urlsplit(site.begin(browser)).query)["state"][0]
    query = {"error": error, "error_description": "Call 555-0100", "state": state, "iss": site.provider.url}
    answer = browser.get("/hub/oauth_callback", params=query)
    assert answer.status_code == status
    assert words in answer.text
    assert "<script>alert" not in answer.text
    assert "555" not in answer.text


def test_an_answer_that_nobody_asked_for_says_nothing_of_the_attackers(site: Site) -> None:
    answer = site.browser().get("/hub/oauth_callback", params={"error": "x", "error_description": "Call 555-0100"})
    assert stale(answer)
    assert "555" not in answer.text


@pytest.mark.parametrize("forged", [True, False])
def test_the_form_for_passwords_signs_nobody_in(site: Site, forged: bool) -> None:
    browser = site.browser()
    site.begin(browser)
    browser.get("/hub/login")
    xsrf = "forged" if forged else browser.cookies.get("_xsrf", path="/hub/")
    form = {"username": "chief", "password": "x", "code": "c", "_xsrf": xsrf}
    assert browser.post("/hub/login", data=form).status_code == 403
    assert site.name(browser) is None


ELSEWHERE = [
    "https://evil.example/",
    "//evil.example/",
    "///evil.example/",
    "////evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "http:evil.example",
    "https:/evil.example",
    "javascript:alert(1)",
    "evil.example",
    "/é",
    "/" + "x" * 2000,
]


@pytest.mark.parametrize("address", ELSEWHERE)
def test_nobody_is_sent_elsewhere_after_the_sign_in(site: Site, address: str) -> None:
    site.provider.person = ADA
    browser = site.browser()
    answer = browser.get(site.come_back(browser, site.begin(browser, next=address)))
    assert (answer.status_code, answer.headers["Location"]) == (302, "/services/allocations/")


def test_people_come_to_the_page_that_they_asked_for(site: Site) -> None:
    site.provider.person = ADA
    browser = site.browser()
    answer = browser.get(site.come_back(browser, site.begin(browser, next="/hub/spawn?opt-size=small")))
    assert answer.headers["Location"] == "/hub/spawn?opt-size=small"


def test_a_session_that_an_attacker_has_planted_is_not_gone_on_with(site: Site) -> None:
    browser = site.browser()
    browser.cookies.set("jupyterhub-session-id", "planted", domain="127.0.0.1")
    answer = site.sign_in(ADA, browser)
    assert set_cookies(answer)["jupyterhub-session-id"].value not in {"", "planted"}


def test_the_next_person_in_a_browser_finds_nothing_of_the_last(site: Site) -> None:
    browser = site.browser()
    first = set_cookies(site.sign_in(ADA, browser))["jupyterhub-session-id"].value
    second = set_cookies(site.sign_in(person("subject-of-bob", preferred_username="bob"), browser))
    assert second["jupyterhub-session-id"].value != first
    assert site.name(browser) == "bob"


# ---------------------------------------------------------------- names


def name_for(site: Site, subject: str, **claims) -> str | None:
    browser = site.browser()
    answer = site.sign_in(person(subject, **claims), browser)
    assert answer.status_code == 302, answer.text
    return site.name(browser)


def test_a_name_stays_with_its_person_and_with_nobody_else(site: Site) -> None:
    assert name_for(site, "subject-of-grace", preferred_username="Grace") == "grace"
    # Renamed at the provider, and with another address.
    assert name_for(site, "subject-of-grace", preferred_username="Hopper", email="h@example.org") == "grace"
    for lookalike in ("grace", "GRACE", "Grâce", "ｇｒａｃｅ", " grace ", "grace!", "𝐠𝐫𝐚𝐜𝐞"):
        other = name_for(site, f"subject-like-{lookalike.strip()}", preferred_username=lookalike)
        assert other is not None
        assert re.fullmatch("grace-[a-z2-7]{6}", other), other


@pytest.mark.parametrize("claim", ["chief", "Chief", "admin", "root", "hub", "spawner"])
def test_nobody_gets_the_name_of_somebody_with_a_role_or_of_the_platform_by_asking(site: Site, claim: str) -> None:
    name = name_for(site, f"subject-that-wants-{claim}", preferred_username=claim)
    assert name is not None
    assert name.startswith(f"{claim.lower()}-")


def test_a_name_that_is_given_in_advance_goes_to_its_subject_only(site: Site) -> None:
    assert name_for(site, "subject-of-chief", preferred_username="whatever") == "chief"


@pytest.mark.parametrize("claim", ["李明", "", "../../etc/passwd", "a" * 500, "<script>", "ada/../bob"])
def test_any_claim_gives_a_plain_name(site: Site, claim: str) -> None:
    name = name_for(site, f"subject-of-{len(claim)}-letters", preferred_username=claim)
    assert name is not None
    assert re.fullmatch("[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", name)


# ---------------------------------------------------------------- addresses and lists


@pytest.mark.parametrize("verified", [False, "false", None, 1, "yes"])
def test_an_address_that_is_not_verified_is_refused_with_a_sentence(site: Site, verified) -> None:
    page = refuse(site, person("subject-unverified", email_verified=verified))
    assert "subject-unverified@example.org is not verified" in page
    assert "Verify it there, then sign in again." in page


@pytest.mark.parametrize("address", [None, "", "ada", "ada@", "a b@example.org", "ada@example.org\nBcc: all", 7])
def test_no_address_is_refused_with_a_sentence(site: Site, address) -> None:
    assert "gave no e-mail address" in refuse(site, person("subject-without-address", email=address))


def test_the_block_list_knows_subjects_and_addresses(site: Site) -> None:
    assert "may not use this platform" in refuse(site, person("subject-of-mallory", preferred_username="mallory"))
    assert "may not use this platform" in refuse(site, person("another", email="spam@EXAMPLE.org"))


def test_who_is_refused_takes_no_name_from_anybody(site: Site) -> None:
    refuse(site, person("subject-of-mallory", preferred_username="quiet"))
    assert name_for(site, "subject-of-quiet", preferred_username="quiet") == "quiet"
