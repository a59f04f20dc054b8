"""Who calls: JupyterHub tokens for the API, a signed session for the pages, scopes for both."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import Request
from itsdangerous import BadSignature, URLSafeTimedSerializer
from jupyterhub.services.auth import HubOAuth
from tornado.web import HTTPError as TornadoHTTPError

from allocations.errors import AllocationsError
from allocations.lifecycle.authority import Actor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SESSION_COOKIE = "meridian-session"
STATE_COOKIE = "meridian-oauth-state"
SESSION_SECONDS = 14 * 86_400
STATE_SECONDS = 600


class Scope(StrEnum):
    """What a token or session may do; the hub's configuration says who has which."""

    READ = "custom:allocations:read"
    REQUEST = "custom:allocations:request"
    REVIEW = "custom:allocations:review"
    ADMIN = "custom:allocations:admin"
    LEASE = "custom:allocations:lease"
    PEOPLE = "custom:allocations:people"
    RUN = "custom:batch:run"


class NotSignedInError(AllocationsError):
    """No valid token or session came with the request."""

    code = "not_signed_in"
    status = 401
    title = "Not signed in"


class MissingScopeError(AllocationsError):
    """The token or session does not carry the scope."""

    code = "missing_scope"
    status = 403
    title = "Not allowed"


class HubUnavailableError(AllocationsError):
    """The hub could not be asked who the caller is."""

    code = "hub_unavailable"
    status = 503
    title = "The hub does not answer"


@dataclass(frozen=True, slots=True)
class Identity:
    """A person or a service of the hub, with scopes."""

    name: str
    scopes: frozenset[str]

    def has(self, scope: Scope) -> bool:
        """Say whether the scope is carried."""
        return scope in self.scopes

    @property
    def actor(self) -> Actor:
        """The same, as the lifecycle knows people."""
        return Actor(self.name, reviewer=self.has(Scope.REVIEW), admin=self.has(Scope.ADMIN))


class HubIdentities:
    """Asks the hub who a token belongs to (answers are kept for `cache_seconds`), and keeps the pages' sessions."""

    def __init__(self, cookie_secret: str, prefix: str, cache_seconds: int = 60) -> None:
        self.prefix = prefix
        self._auth = HubOAuth(cache_max_age=cache_seconds)
        self._sessions = URLSafeTimedSerializer(cookie_secret, salt="session")
        self._states = URLSafeTimedSerializer(cookie_secret, salt="oauth-state")
        self._csrf_key = sha256(b"csrf\0" + cookie_secret.encode()).digest()

    async def from_token(self, token: str, session_id: str = "") -> Identity | None:
        """Return whose token it is, or None; HubUnavailableError when the hub does not answer."""
        try:
            model = await self._auth.user_for_token(token, session_id=session_id, sync=False)
        except TornadoHTTPError as error:
            raise HubUnavailableError("The hub does not answer.", "Try again in a moment.") from error
        if model is None:
            return None
        return Identity(model["name"], frozenset(model.get("scopes", [])))

    async def from_header(self, request: Request) -> Identity:
        """Return the caller of an API request by its Authorization header."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        identity = None
        if scheme.lower() in {"bearer", "token"} and token:
            identity = await self.from_token(token.strip())
        if identity is None:
            raise NotSignedInError(
                "The request carries no valid token.",
                "Make a token on the hub's token page and send it as `Authorization: Bearer …`.",
                "/hub/token",
            )
        return identity

    async def from_session(self, request: Request) -> Identity | None:
        """Return the person of a page's session, or None; signing out at the hub ends the session here too."""
        cookie = request.cookies.get(SESSION_COOKIE)
        if not cookie:
            return None
        try:
            token = self._sessions.loads(cookie, max_age=SESSION_SECONDS)
        except BadSignature:
            return None
        return await self.from_token(token, request.cookies.get("jupyterhub-session-id", ""))

    def csrf_token(self, request: Request) -> str:
        """Return the token that forms of this session carry."""
        session = request.cookies.get(SESSION_COOKIE, "")
        return hmac.new(self._csrf_key, session.encode(), sha256).hexdigest()

    def is_csrf_token(self, request: Request, token: str) -> bool:
        """Say whether the token is this session's."""
        return hmac.compare_digest(self.csrf_token(request).encode(), token.encode())

    def begin_login(self, next_url: str) -> tuple[str, str]:
        """Return (where to send the browser, what to keep in the state cookie)."""
        verifier, challenge, method = self._auth.generate_pkce_code_challenge()
        state = self._states.dumps({"next": next_url, "verifier": verifier})
        query = urlencode(
            {
                "client_id": self._auth.oauth_client_id,
                "redirect_uri": self._auth.oauth_redirect_uri,
                "response_type": "code",
                # The state that travels is a digest: the verifier stays in this browser's cookie.
                "state": sha256(state.encode()).hexdigest(),
                "code_challenge": challenge,
                "code_challenge_method": method,
            }
        )
        return f"{self._auth.oauth_authorization_url}?{query}", state

    async def finish_login(self, code: str, state: str, state_cookie: str) -> tuple[str, str]:
        """Return (session cookie, next URL); NotSignedInError when the state or the code is bad."""
        refused = NotSignedInError("Signing in was not completed.", "Open the page again to sign in.")
        if not hmac.compare_digest(sha256(state_cookie.encode()).hexdigest().encode(), state.encode()):
            raise refused
        try:
            kept: dict[str, Any] = self._states.loads(state_cookie, max_age=STATE_SECONDS)
            token = await self._auth.token_for_code(code, code_verifier=kept["verifier"], sync=False)
        except (BadSignature, TornadoHTTPError) as error:
            raise refused from error
        return self._sessions.dumps(token), str(kept["next"])


def needs(scope: Scope) -> Callable[[Request], Awaitable[Identity]]:
    """Return the dependency that lets in callers whose token carries the scope."""

    async def caller(request: Request) -> Identity:
        identities: HubIdentities = request.app.state.identities
        identity = await identities.from_header(request)
        if not identity.has(scope):
            raise MissingScopeError(
                f"The token of {identity.name} does not carry the scope {scope}.",
                "Use a token with that scope, or ask an administrator for the role that has it.",
            )
        return identity

    caller.scope = scope  # type: ignore[attr-defined]  # read by the test that every route names its scope
    return caller
