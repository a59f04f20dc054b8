"""Asks the provider: for tokens, for what it says of a person, and for what it publishes of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.web import HTTPError

from hub.auth.provider import Provider, ProviderUnavailableError, TokenRefusedError
from hub.auth.sessions import SignInEndedError

if TYPE_CHECKING:
    from hub.auth.settings import OpenIDConnectSettings

OK = 200
# What a token endpoint says when the account, or what it had agreed to, is no more (RFC 6749, section 5.2). Some call
# the request of a locked account invalid, though the same request is right for everybody else.
NO_MORE = frozenset({"invalid_grant", "invalid_request", "access_denied", "account_disabled"})
REFUSALS = frozenset({401, 403})


class Asking:
    """What is asked of a provider, by an authenticator's settings."""

    def __init__(self, authenticator: OpenIDConnectSettings) -> None:
        self._authenticator = authenticator
        self._provider: Provider | None = None

    @property
    def provider(self) -> Provider:
        """The provider, with what is known of it."""
        if self._provider is None:
            self._provider = Provider(self._authenticator.issuer, self._authenticator.client_id, self._fetch_json)
        return self._provider

    async def tokens(self, params: dict[str, Any]) -> dict[str, Any]:
        """Tokens for a code or a refresh token. Raises SignInEndedError when the provider refuses, for good."""
        metadata = await self.provider.metadata()
        tokens = await self._ask(
            metadata.token_endpoint,
            faults=NO_MORE,
            method="POST",
            headers=self._authenticator.build_token_info_request_headers(),
            body=urlencode(params),
        )
        if not isinstance(tokens.get("access_token"), str):
            msg = "the provider gave no access token"
            raise SignInEndedError(msg)
        return tokens

    async def claims(self, token_claims: dict[str, Any], tokens: dict[str, Any]) -> dict[str, Any]:
        """Those of the ID token, with what the provider tells beside it about the same person."""
        metadata = await self.provider.metadata()
        if metadata.userinfo_endpoint is None:
            return token_claims
        beside = await self._userinfo(metadata.userinfo_endpoint, tokens["access_token"])
        if beside.get("sub") != token_claims["sub"]:
            msg = "the provider's user information is about somebody else"
            raise TokenRefusedError(msg)
        return beside | token_claims

    async def _userinfo(self, url: str, access_token: str) -> dict[str, Any]:
        headers = self._authenticator.build_userdata_request_headers(access_token, "bearer")
        return await self._ask(url, statuses=REFUSALS, headers=headers)

    async def _fetch_json(self, url: str) -> Any:
        return await self._ask(url, headers={"Accept": "application/json"})

    async def _ask(
        self,
        url: str,
        *,
        faults: frozenset[str] = frozenset(),
        statuses: frozenset[int] = frozenset(),
        **options: Any,
    ) -> dict[str, Any]:
        """An object of JSON. Raises SignInEndedError for an answer that speaks of the person, by fault or status.

        All else that is no such object, a wrong client secret too, is ProviderUnavailableError. What an answer holds
        stays out of the log.
        """
        request = HTTPRequest(
            url,
            follow_redirects=False,
            validate_cert=self._authenticator.validate_server_cert,
            **({"connect_timeout": 5.0, "request_timeout": 15.0} | self._authenticator.http_request_kwargs | options),
        )
        try:
            response = await self._authenticator.http_client.fetch(request, raise_error=False)
        except (OSError, HTTPError, HTTPClientError) as error:
            msg = f"{url} can't be reached: {type(error).__name__}"
            raise ProviderUnavailableError(msg) from error
        try:
            answer = json.loads(response.body or b"")
        except ValueError:
            answer = None
        if response.code == OK and isinstance(answer, dict):
            return answer
        fault = str(answer.get("error") or "")[:100] if isinstance(answer, dict) else ""
        msg = f"{url} answers {response.code} {fault}".rstrip()
        if fault in faults or response.code in statuses:
            raise SignInEndedError(msg)
        raise ProviderUnavailableError(msg)
