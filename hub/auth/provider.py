"""An OpenID Connect provider as seen from here: what it publishes about itself, its keys, and tokens that are its own.

Everything by OpenID Connect Core 1.0 (section 3.1.3.7), Discovery 1.0 and RFC 9207 (against mix-up of providers).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jwt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Signatures by a key pair only. `none`, and HMAC, whose key is no more secret than the client's, are refused.
ALGORITHMS = frozenset(["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"])
METADATA_SECONDS = 3600
# A key that the provider withdraws is believed for so long at most.
KEYS_SECONDS = 300
# How soon keys are asked for again when a token names one that is not known.
KEYS_AGAIN_SECONDS = 5
LEEWAY_SECONDS = 60
SUBJECT_LENGTH_MAX = 255


class ProviderUnavailableError(Exception):
    """The provider can't be asked, or what it publishes can't be used; the message says what, for the log."""


class TokenRefusedError(Exception):
    """An ID token is not what it should be; the message says why, for the log."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is used of a provider's published configuration."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    end_session_endpoint: str | None
    algorithms: frozenset[str]
    names_itself: bool


def is_private_enough(url: str) -> bool:
    """Whether nobody on the way can read or change what goes there: https, or this machine itself."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.scheme == "https":
        return bool(host)
    return parts.scheme == "http" and _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def metadata_from(issuer: str, document: Any) -> Metadata:
    """Read what a provider publishes. Raises ProviderUnavailableError if it is another's, or can't be used."""
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        msg = f"{issuer} does not publish itself as the issuer {issuer!r}"
        raise ProviderUnavailableError(msg)

    def endpoint(name: str, *, required: bool = True) -> Any:
        url = document.get(name)
        if url is None and not required:
            return None
        if not isinstance(url, str) or not is_private_enough(url):
            msg = f"{issuer} publishes no {name} by https"
            raise ProviderUnavailableError(msg)
        return url

    published = document.get("id_token_signing_alg_values_supported")
    return Metadata(
        authorization_endpoint=endpoint("authorization_endpoint"),
        token_endpoint=endpoint("token_endpoint"),
        jwks_uri=endpoint("jwks_uri"),
        userinfo_endpoint=endpoint("userinfo_endpoint", required=False),
        end_session_endpoint=endpoint("end_session_endpoint", required=False),
        algorithms=ALGORITHMS.intersection(published if isinstance(published, list) else ["RS256"]),
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
    )


class Provider:
    """One issuer, for one client. `fetch` gives the JSON at a URL, or raises ProviderUnavailableError."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        fetch: Callable[[str], Awaitable[Any]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.issuer = issuer
        self.client_id = client_id
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._metadata: Metadata | None = None
        self._metadata_at = 0.0
        self._keys: list[dict[str, Any]] = []
        self._keys_at: float | None = None

    async def metadata(self) -> Metadata:
        """What the provider publishes, asked for anew each hour; the last known while it does not answer."""
        async with self._lock:
            if self._metadata is None or self._clock() - self._metadata_at > METADATA_SECONDS:
                try:
                    document = await self._fetch(self.issuer.rstrip("/") + "/.well-known/openid-configuration")
                    self._metadata = metadata_from(self.issuer, document)
                except ProviderUnavailableError:
                    if self._metadata is None:
                        raise
                self._metadata_at = self._clock()
            return self._metadata

    async def verify(
        self, id_token: Any, *, nonce: str | None = None, subject: str | None = None, access_token: str | None = None
    ) -> dict[str, Any]:
        """The claims of an ID token of this provider for this client, now.

        `nonce` and `subject` are those that it must have, `access_token` that which came with it. Raises
        TokenRefusedError, or ProviderUnavailableError when the keys can't be had.
        """
        metadata = await self.metadata()
        header = _header(id_token)
        algorithm = header.get("alg")
        if algorithm not in metadata.algorithms:
            msg = f"signed by {algorithm!r}, which is not one of {sorted(metadata.algorithms)}"
            raise TokenRefusedError(msg)
        claims = await self._decode(metadata, id_token, str(algorithm), header.get("kid"))
        self._check_parties(claims)
        if nonce is not None and not _same(claims.get("nonce"), nonce):
            msg = "another nonce: made for another sign-in"
            raise TokenRefusedError(msg)
        if subject is not None and claims["sub"] != subject:
            msg = "another subject than the one who signed in"
            raise TokenRefusedError(msg)
        if "at_hash" in claims and access_token is not None:
            digest = jwt.get_algorithm_by_name(str(algorithm)).compute_hash_digest(access_token.encode())
            expected = urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
            if not _same(claims["at_hash"], expected):
                msg = "made for another access token"
                raise TokenRefusedError(msg)
        return claims

    async def _decode(self, metadata: Metadata, id_token: str, algorithm: str, kid: Any) -> dict[str, Any]:
        fault = f"no key {kid!r} of the provider"
        # A provider that changes its keys signs by one that is not known here yet: look again, but not for each token.
        for seconds in (KEYS_SECONDS, KEYS_AGAIN_SECONDS):
            for jwk in await self._keys_for(metadata, kid, algorithm, seconds):
                try:
                    return jwt.decode(
                        id_token,
                        key=jwt.PyJWK(jwk, algorithm),
                        algorithms=[algorithm],
                        audience=self.client_id,
                        issuer=self.issuer,
                        leeway=LEEWAY_SECONDS,
                        options={"require": ["iss", "sub", "aud", "exp", "iat"]},
                    )
                except (jwt.InvalidSignatureError, jwt.InvalidKeyError, jwt.PyJWKError) as error:
                    fault = f"{type(error).__name__}: {error}"
                except jwt.PyJWTError as error:
                    msg = f"{type(error).__name__}: {error}"
                    raise TokenRefusedError(msg) from error
        raise TokenRefusedError(fault)

    def _check_parties(self, claims: dict[str, Any]) -> None:
        audience = claims["aud"]
        several = isinstance(audience, list) and len(audience) > 1
        if claims.get("azp", None if several else self.client_id) != self.client_id:
            msg = "made for another client"
            raise TokenRefusedError(msg)
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_LENGTH_MAX or not subject.isprintable():
            msg = "no usable subject"
            raise TokenRefusedError(msg)

    async def _keys_for(self, metadata: Metadata, kid: Any, algorithm: str, seconds: float) -> list[dict[str, Any]]:
        """The keys that may have signed, from a look at the provider that is at most so old."""
        async with self._lock:
            if self._keys_at is None or self._clock() - self._keys_at > seconds:
                document = await self._fetch(metadata.jwks_uri)
                found = document.get("keys") if isinstance(document, dict) else None
                if not isinstance(found, list):
                    msg = f"{metadata.jwks_uri} holds no keys"
                    raise ProviderUnavailableError(msg)
                self._keys = [key for key in found if isinstance(key, dict) and key.get("use", "sig") == "sig"]
                self._keys_at = self._clock()
            return [
                key
                for key in self._keys
                if (kid is None or key.get("kid") == kid) and key.get("alg", algorithm) == algorithm
            ]


def _header(id_token: Any) -> dict[str, Any]:
    if not isinstance(id_token, str):
        msg = "no ID token came"
        raise TokenRefusedError(msg)
    try:
        return jwt.get_unverified_header(id_token)
    except jwt.PyJWTError as error:
        msg = f"no token at all: {error}"
        raise TokenRefusedError(msg) from error


def _same(given: Any, expected: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), expected.encode())
