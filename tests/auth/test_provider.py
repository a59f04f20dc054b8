"""What is believed of a provider, by a clock of the test's own: its configuration, its keys, its tokens."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hub.auth.provider import (
    KEYS_AGAIN_SECONDS,
    KEYS_SECONDS,
    METADATA_SECONDS,
    Provider,
    ProviderUnavailableError,
    TokenRefusedError,
    is_private_enough,
    metadata_from,
)
from tests.auth.faulty_provider import Key

ISSUER = "https://provider.example"
DOCUMENT = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/jwks",
    "id_token_signing_alg_values_supported": ["RS256", "ES256", "EdDSA", "HS256", "none"],
}
FIRST, SECOND = Key("first"), Key("second")


class Published:
    """What the provider publishes, and how often it was asked."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.document: Any = DOCUMENT
        self.keys: Any = [FIRST.public]
        self.asked: list[str] = []
        self.provider = Provider(ISSUER, "meridian", self.fetch, clock=lambda: self.now)

    async def fetch(self, url: str) -> Any:
        self.asked.append(url.removeprefix(ISSUER))
        answer = self.document if url.endswith("openid-configuration") else {"keys": self.keys}
        if isinstance(answer, Exception) or isinstance(self.keys, Exception):
            raise ProviderUnavailableError
        return answer

    def verify(self, token: str, **expected: Any) -> dict[str, Any]:
        return asyncio.run(self.provider.verify(token, **expected))


@pytest.fixture
def published() -> Published:
    return Published()


def token(key: Any = FIRST, algorithm: str = "RS256", kid: str | None = "first", **claims: Any) -> str:
    now = int(time.time())
    private = key.private if isinstance(key, Key) else key
    content = {"iss": ISSUER, "aud": "meridian", "sub": "ada", "iat": now, "exp": now + 60} | claims
    return jwt.encode(content, private, algorithm, {"kid": kid} if kid else {})


def test_a_token_of_the_provider_is_believed(published: Published) -> None:
    assert published.verify(token(nonce="n"), nonce="n", subject="ada")["sub"] == "ada"
    assert published.verify(token(aud=["meridian", "other"], azp="meridian"))["sub"] == "ada"


def test_it_is_asked_once_as_long_as_nothing_changes(published: Published) -> None:
    for _ in range(3):
        published.verify(token())
    assert published.asked == ["/.well-known/openid-configuration", "/jwks"]


def test_new_keys_are_looked_for_when_a_token_names_one_but_not_for_each_token(published: Published) -> None:
    published.verify(token())
    published.keys = [SECOND.public]
    published.now += KEYS_AGAIN_SECONDS + 1
    assert published.verify(token(SECOND, kid="second"))["sub"] == "ada"
    for _ in range(5):
        with pytest.raises(TokenRefusedError):
            published.verify(token(SECOND, kid="made-up"))
    assert published.asked.count("/jwks") == 2


def test_a_key_under_the_name_of_the_last_one_is_looked_for_too(published: Published) -> None:
    published.verify(token())
    published.keys = [SECOND.public | {"kid": "first"}]
    published.now += KEYS_AGAIN_SECONDS + 1
    assert published.verify(token(SECOND))["sub"] == "ada"


def test_a_withdrawn_key_is_not_believed_for_long(published: Published) -> None:
    published.verify(token())
    published.keys = [SECOND.public]
    published.now += KEYS_SECONDS + 1
    with pytest.raises(TokenRefusedError, match="no key 'first'"):
        published.verify(token())


def test_a_token_without_a_keys_name_is_checked_by_each(published: Published) -> None:
    published.keys = [SECOND.public, {"kty": "RSA", "n": "broken"}, FIRST.public]
    assert published.verify(token(kid=None))["sub"] == "ada"


@pytest.mark.parametrize(("algorithm", "private"), [("ES256", ec.SECP256R1()), ("EdDSA", None)])
def test_other_kinds_of_key_pairs_will_do(published: Published, algorithm: str, private: Any) -> None:
    key = ed25519.Ed25519PrivateKey.generate() if private is None else ec.generate_private_key(private)
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    published.keys = [public | {"kid": "other"}]
    assert published.verify(token(key, algorithm, "other"))["sub"] == "ada"


def test_a_key_for_encryption_or_for_another_algorithm_signs_nothing(published: Published) -> None:
    for change in ({"use": "enc"}, {"alg": "RS512"}):
        published.keys = [FIRST.public | change]
        published.now += KEYS_SECONDS + 1
        with pytest.raises(TokenRefusedError):
            published.verify(token())


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
def test_what_is_no_key_pair_is_refused_though_the_provider_publishes_it(published: Published, algorithm: str) -> None:
    secret = None if algorithm == "none" else "s" * 64
    published.keys = [{"kty": "oct", "kid": "first", "k": "c3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3M"}]
    with pytest.raises(TokenRefusedError, match="signed by"):
        published.verify(token(secret, algorithm))


def test_a_subject_that_has_changed_is_refused(published: Published) -> None:
    with pytest.raises(TokenRefusedError, match="another subject"):
        published.verify(token(), subject="bob")


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example"},
        {"issuer": f"{ISSUER}/"},
        {"token_endpoint": "http://provider.example/token"},
        {"jwks_uri": None},
        {"jwks_uri": "ftp://provider.example/jwks"},
        {"authorization_endpoint": ["https://provider.example"]},
        {"userinfo_endpoint": "http://provider.example/userinfo"},
        {"end_session_endpoint": "javascript:alert(1)"},
    ],
)
def test_a_configuration_that_is_anothers_or_not_private_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProviderUnavailableError):
        metadata_from(ISSUER, DOCUMENT | change)


@pytest.mark.parametrize("document", [None, [], "x"])
def test_a_configuration_that_is_none_is_refused(document: Any) -> None:
    with pytest.raises(ProviderUnavailableError):
        metadata_from(ISSUER, document)


def test_the_last_configuration_serves_while_the_provider_is_away(published: Published) -> None:
    published.verify(token())
    published.document = ValueError()
    published.now += METADATA_SECONDS + 1
    published.keys = [FIRST.public]
    assert published.verify(token())["sub"] == "ada"


def test_without_any_configuration_nothing_is_believed(published: Published) -> None:
    published.document = ValueError()
    with pytest.raises(ProviderUnavailableError):
        published.verify(token())


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://provider.example", True),
        ("http://127.0.0.1:9000", True),
        ("http://[::1]:9000", True),
        ("http://localhost", True),
        ("http://provider.example", False),
        ("http://127.0.0.1.example.org", False),
        ("http://localhost.example.org", False),
        ("https://", False),
        ("https://provider.example:port", False),
        ("file:///etc/passwd", False),
    ],
)
def test_only_https_or_this_machine_is_private_enough(url: str, private: bool) -> None:
    assert is_private_enough(url) is private
