"""Names and claims: nothing that a provider sends is taken as it comes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyterhub import orm
from tornado.web import HTTPError

from hub.auth import claims as read
from hub.auth.identities import Identity, IdentityStore, NameTakenError
from hub.auth.names import RESERVED, candidates, fingerprint, readable
from hub.auth.openid import OpenIDConnectAuthenticator
from hub.auth.presets import CILogonAuthenticator, MystAuthenticator, OrcidAuthenticator
from hub.spawner.homes import is_safe_name

ISSUER = "https://provider.example"


@pytest.mark.parametrize(
    ("claim", "name"),
    [
        ("Ada", "ada"),
        ("ada.lovelace@example.org", "ada-lovelace-example-org"),
        ("Ångström", "angstrom"),
        ("ǅ-STRAẞE", "dz-strasse"),
        ("ａｄａ", "ada"),
        ("аda", "da"),  # the first letter is Cyrillic
        ("李明", ""),
        ("--", ""),
        ("0000-0002-1825-0097", "0000-0002-1825-0097"),
        ("a" * 23 + "--b", "a" * 23),
        ("a\u0000\u202eb", "a-b"),
    ],
)
def test_what_can_be_read_of_a_claim(claim: str, name: str) -> None:
    assert readable(claim) == name


@given(st.text(), st.text(), st.text(min_size=1))
def test_every_candidate_is_a_safe_name_and_none_is_reserved(claim: str, issuer: str, subject: str) -> None:
    names = list(candidates(claim, issuer, subject))
    assert len(names) >= 3
    for name in names:
        assert is_safe_name(name)
        assert len(name) <= 63
        assert name not in RESERVED


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_two_people_never_share_a_fingerprint(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


@pytest.fixture
def store(tmp_path: Any) -> Any:
    db = orm.new_session_factory(url=f"sqlite:///{tmp_path / 'hub.sqlite'}")()
    store = IdentityStore(db)
    store.create()
    store.create()
    yield store
    db.close()


def test_a_name_is_given_once_and_each_person_has_one(store: IdentityStore) -> None:
    ada, bob = Identity(ISSUER, "ada"), Identity(ISSUER, "bob")
    store.give(ada, "ada", 1)
    store.give(ada, "ada", 2)
    for person, name in ((bob, "ada"), (ada, "ada2"), (Identity("https://other.example", "ada"), "ada")):
        with pytest.raises(NameTakenError):
            store.give(person, name, 3)
    assert store.name_of(ada) == "ada"
    assert store.name_of(bob) is None
    assert store.first_free(["ada", "bob", "b"], frozenset({"bob"})) == "b"


def test_a_user_of_the_hub_who_came_another_way_keeps_the_name(store: IdentityStore) -> None:
    store._db.add(orm.User(name="eve"))
    store._db.commit()
    assert not store.is_free("eve")
    with pytest.raises(NameTakenError):
        store.first_free(["eve"], frozenset())


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("Ada@Example.ORG", "Ada@example.org"),
        (" ada@example.org ", "ada@example.org"),
        ("ada+x@sub.example.org", "ada+x@sub.example.org"),
        ("ada@localhost", "ada@localhost"),
        ("ada", None),
        ("@example.org", None),
        ("ada@b@example.org", None),
        ("ada@example..org", None),
        ("ada@exa mple.org", None),
        ("ada@example.org, eve@example.org", None),
        ("Ada <ada@example.org>", None),
        ("ada@example.org\r\nBcc: eve@example.org", None),
        ("a" * 250 + "@example.org", None),
        (None, None),
        (["ada@example.org"], None),
    ],
)
def test_an_address_is_one_that_mail_can_go_to(value: Any, address: str | None) -> None:
    assert read.email({"email": value}, "email") == address


def test_texts_are_one_line_and_short() -> None:
    claims = {"a": 7, "b": " Johns\n Hopkins\u202e ", "c": {"d": "US"}, "e.f": "dotted", "long": "x" * 999}
    assert read.text(claims, ["a", "b"]) == "Johns Hopkins"
    assert read.text(claims, ["c.d"]) == "US"
    assert read.text(claims, ["e.f"]) == "dotted"
    assert read.text(claims, ["a", "c", "c.d.e", "missing"]) is None
    assert len(read.text(claims, ["long"]) or "") == 200


def test_groups_come_from_lists_and_texts_and_nothing_else_counts() -> None:
    claims = {"groups": ["panel", 7, "", None, "x" * 300, "a\nb"], "role": "chief", "other": {"panel": True}}
    assert read.groups(claims, ["groups", "role", "other", "missing"]) == {"panel", "chief"}


def make(cls: Any = OpenIDConnectAuthenticator, **traits: Any) -> Any:
    given = {"issuer": ISSUER, "client_id": "meridian", "oauth_callback_url": "https://hub.example/hub/oauth_callback"}
    if cls is not OpenIDConnectAuthenticator:
        given.pop("issuer")
    return cls(**given | traits)


@pytest.mark.parametrize(
    ("traits", "sentence"),
    [
        ({"issuer": ""}, "issuer is not set"),
        ({"client_id": ""}, "client_id is not set"),
        ({"oauth_callback_url": ""}, "oauth_callback_url is not set"),
        ({"scope": ["profile"]}, "must hold openid"),
        ({"enable_pkce": False}, "must stay on"),
    ],
)
def test_what_nobody_could_sign_in_without_is_asked_for(traits: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(**traits).require_settings()


@pytest.mark.parametrize("issuer", ["http://provider.example", "https://provider.example?x=1", "provider.example"])
def test_an_issuer_that_is_not_private_is_refused(issuer: str) -> None:
    with pytest.raises(Exception, match="must be an https address"):
        make(issuer=issuer)


def test_behind_https_every_cookie_is_for_https_only(store: IdentityStore) -> None:
    async def cookies(url: str) -> dict[str, Any]:
        settings: dict[str, Any] = {"cookie_options": {"samesite": "Lax"}}
        app = SimpleNamespace(db=store._db, tornado_settings=settings, users={}, log=None)
        authenticator = make(oauth_callback_url=url)
        authenticator.get_handlers(app)
        authenticator._watch.cancel()
        return settings

    by_https = asyncio.run(cookies("https://hub.example/hub/oauth_callback"))
    assert by_https["cookie_options"] == {"samesite": "Lax", "secure": True}
    assert by_https["xsrf_cookie_kwargs"]["secure"] is True
    assert "secure" not in asyncio.run(cookies("http://127.0.0.1:8000/hub/oauth_callback"))["cookie_options"]


def test_the_ready_made_settings() -> None:
    orcid, cilogon, myst = make(OrcidAuthenticator), make(CILogonAuthenticator), make(MystAuthenticator)
    assert (orcid.issuer, cilogon.issuer, myst.issuer) == ("https://orcid.org", "https://cilogon.org", "")
    assert [one.login_service for one in (orcid, cilogon, myst)] == ["ORCID", "CILogon", "MyST"]
    assert "org.cilogon.userinfo" in cilogon.scope
    assert not orcid.require_verified_email


def test_an_address_of_orcid_is_not_kept_without_being_verified() -> None:
    claims = {"sub": "0000-0002-1825-0097", "email": "ada@example.org", "name": "Ada"}
    person = make(OrcidAuthenticator)._person(claims)
    assert (person.email, person.full_name) == (None, "Ada")


@pytest.mark.parametrize(
    ("claims", "verified"),
    [
        ({"eppn": "ada@jhu.edu", "idp": "urn:mace:incommon:jhu.edu"}, True),
        ({"idp": "http://github.com/login/oauth/authorize", "oidc": "7"}, False),
        ({"eppn": "ada@jhu.edu", "idp": "http://github.com/login/oauth/authorize", "oidc": "7"}, False),
        ({"idp": "http://google.com/accounts/o8/id", "oidc": "8"}, True),
        ({}, False),
        ({"email_verified": True}, True),
    ],
)
def test_cilogon_vouches_for_addresses_of_universities_only(claims: dict[str, Any], verified: bool) -> None:
    cilogon = make(CILogonAuthenticator, vouching_idps=["http://google.com/accounts/o8/id"])
    assert cilogon.email_is_verified(claims | {"email": "ada@jhu.edu"}) is verified


def test_groups_that_are_not_the_providers_stay(store: IdentityStore) -> None:
    ada = orm.User(name="ada")
    ada.groups = [orm.Group(name=name) for name in ("by-hand", "of-the-provider", "left-there")]
    store._db.add(ada)
    store._db.commit()

    async def state() -> dict[str, Any]:
        return {"groups": ["of-the-provider", "left-there"]}

    authenticator = make()
    authenticator._hub = SimpleNamespace(db=store._db, users={ada: SimpleNamespace(get_auth_state=state)})
    claims = {"sub": "ada", "email": "ada@example.org", "email_verified": True, "groups": ["of-the-provider", "new"]}
    store.give(Identity(ISSUER, "ada"), "ada", 1)
    model = asyncio.run(authenticator.model_of(claims, {"access_token": "a"}))
    assert model["groups"] == ["by-hand", "new", "of-the-provider"]
    assert model["auth_state"]["groups"] == ["new", "of-the-provider"]


MODEL = {
    "name": "ada",
    "admin": False,
    "groups": ["panel"],
    "auth_state": {"subject": "7", "scope": [], "person": {"email": "Ada@example.org"}},
}


@pytest.mark.parametrize(
    "lists",
    [
        {"allow_all": True},
        {"allowed_users": {"ada"}},
        {"allowed_subjects": {"7"}},
        {"allowed_emails": {"ada@example.ORG"}},
        {"allowed_groups": {"panel"}},
    ],
)
def test_who_is_on_a_list_is_let_in(lists: dict[str, Any]) -> None:
    assert asyncio.run(make(**lists).check_allowed("ada", MODEL))


@pytest.mark.parametrize(
    "lists",
    [
        {},
        {"allowed_users": {"bob"}},
        {"allowed_subjects": {"ada"}},
        {"allowed_emails": {"example.org", "da@example.org"}},
        {"allowed_groups": {"others"}},
    ],
)
def test_who_is_on_none_reads_what_to_do(lists: dict[str, Any]) -> None:
    with pytest.raises(HTTPError) as refused:
        asyncio.run(make(**lists).check_allowed("ada", MODEL))
    assert refused.value.status_code == 403
    assert "Ask its operators to add you" in str(refused.value.log_message)


@pytest.mark.parametrize(
    "lists", [{"blocked_users": {"ada"}}, {"blocked_subjects": {"7"}}, {"blocked_emails": {"ADA@example.org"}}]
)
def test_the_block_list_comes_before_all_others(lists: dict[str, Any]) -> None:
    with pytest.raises(HTTPError, match="may not use this platform"):
        make(allow_all=True, **lists).check_blocked_users("ada", MODEL)
