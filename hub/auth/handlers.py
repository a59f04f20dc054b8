"""The pages of the sign-in by OpenID Connect: to the provider, back from it, and out again."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlencode, urlsplit

from jupyterhub.handlers import LogoutHandler
from jupyterhub.utils import url_path_join
from oauthenticator.oauth2 import (
    STATE_COOKIE_NAME,
    OAuthCallbackHandler,
    OAuthLoginHandler,
    _deserialize_state,
    _serialize_state,
)
from tornado.httputil import url_concat
from tornado.web import HTTPError

from hub.auth.provider import ProviderUnavailableError
from hub.auth.sessions import end_sessions

STATE_DAYS = 600 / 86_400
NEXT_LENGTH_MAX = 1500  # it travels in a cookie
UNAVAILABLE = "The sign-in service does not answer at the moment. Try again in a few minutes."
STALE = "This sign-in was begun elsewhere, or too long ago. Sign in again."
# What a provider may answer in place of a code, in words for people (RFC 6749, section 4.1.2.1).
ANSWERS = {
    "access_denied": "The sign-in was cancelled, or your account may not use this platform. You are not signed in.",
    "temporarily_unavailable": UNAVAILABLE,
    "server_error": UNAVAILABLE,
}
OTHER_ANSWER = "The sign-in service did not sign you in. Try again; if it goes on, tell the platform's operators."


def refused(status: int, sentence: str) -> HTTPError:
    """A refusal as a page: a sentence under the heading that nobody is signed in."""
    return HTTPError(status, sentence, reason="Not signed in")


def local_path(url: str) -> str:
    """The address when it is a path of this host and nothing else in any browser's eyes, otherwise nothing."""
    parts = urlsplit(url) if url.isascii() and url.isprintable() and len(url) <= NEXT_LENGTH_MAX else None
    is_ours = (
        parts is not None
        and not (parts.scheme or parts.netloc)
        and url.startswith("/")
        and not url.startswith("//")
        and "\\" not in url
    )
    return url if is_ours else ""


class LoginHandler(OAuthLoginHandler):
    """Sends the browser to the provider, and remembers in a cookie of its own what must come back."""

    async def get(self) -> None:
        """To the provider, with state, nonce and PKCE's challenge."""
        try:
            metadata = await self.authenticator.provider.metadata()
        except ProviderUnavailableError as error:
            self.log.error("Nobody can sign in: %s", error)  # noqa: TRY400  # the sentence is all
            raise refused(503, UNAVAILABLE) from error
        verifier, challenge = self._generate_pkce_params()
        state = {
            "state_id": secrets.token_urlsafe(32),
            "nonce": secrets.token_urlsafe(32),
            "code_verifier": verifier,
            "next_url": local_path(self.get_argument("next", "")),
        }
        self._set_cookie(
            STATE_COOKIE_NAME,
            _serialize_state(state),
            expires_days=STATE_DAYS,
            httponly=True,
            samesite="Lax",  # the way back is a navigation from another site
            path=self.hub.base_url,
        )
        parameters = self.authenticator.extra_authorize_params | {
            "response_type": "code",
            "client_id": self.authenticator.client_id,
            "redirect_uri": self.authenticator.get_callback_url(self),
            "scope": " ".join(self.authenticator.scope),
            "state": state["state_id"],
            "nonce": state["nonce"],
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        self.set_header("Cache-Control", "no-store")
        self.redirect(url_concat(metadata.authorization_endpoint, parameters))


class CallbackHandler(OAuthCallbackHandler):
    """Takes the browser back: only the one that was sent, only once, only from the provider that it was sent to."""

    _state_cookie: str | None = None
    _kept: dict[str, Any] | None = None

    @property
    def nonce(self) -> str:
        """That the ID token must have."""
        return str((self._kept or {}).get("nonce"))

    def get_state_cookie(self) -> str:
        """What was remembered; a cookie serves once."""
        if self._state_cookie is None:
            value = self.get_secure_cookie(STATE_COOKIE_NAME, max_age_days=STATE_DAYS) or b""
            self._state_cookie = value.decode("ascii", "replace")
            self.clear_cookie(STATE_COOKIE_NAME, path=self.hub.base_url)
        return str(self._state_cookie)

    def get_next_url(self, user: Any = None) -> str:
        """Where the person wanted to go; a page of ours in any case."""
        wanted = local_path(str((self._kept or {}).get("next_url") or ""))
        return wanted or super(OAuthCallbackHandler, self).get_next_url(user)

    async def get(self) -> None:
        """Sign in by the code that the provider gave to the browser."""
        self.set_header("Cache-Control", "no-store")
        cookie = self.get_state_cookie()
        kept = _deserialize_state(cookie) if cookie else {}
        given = self.get_argument("state", "")
        if not kept or not secrets.compare_digest(given.encode(), str(kept.get("state_id")).encode()):
            if self.current_user:
                # Two tabs that signed in at once: the other one's sign-in is done.
                self.redirect(url_path_join(self.hub.base_url, "home"))
                return
            raise refused(400, STALE)
        self._kept = kept
        await self._require_same_provider()
        if error := self.get_argument("error", ""):
            self.log.warning("The provider answers a sign-in with %r", error[:100])
            status = 503 if ANSWERS.get(error) == UNAVAILABLE else 403
            raise refused(status, ANSWERS.get(error, OTHER_ANSWER))
        if not self.get_argument("code", ""):
            raise refused(400, OTHER_ANSWER)
        user = await self.login_user()
        if user is None:
            raise refused(403, OTHER_ANSWER)
        self.redirect(self.get_next_url(user))

    async def _require_same_provider(self) -> None:
        """Refuse an answer of another provider, which would have our secrets sent to the wrong one (RFC 9207)."""
        try:
            metadata = await self.authenticator.provider.metadata()
        except ProviderUnavailableError as error:
            raise refused(503, UNAVAILABLE) from error
        issuer = self.get_argument("iss", None)
        if issuer != self.authenticator.issuer and (metadata.names_itself or issuer is not None):
            self.log.warning("An answer to a sign-in came from %r", (issuer or "")[:200])
            raise refused(403, STALE)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log a refusal without the address that was asked for, which holds the code and the state."""
        if isinstance(value, HTTPError):
            self.log.warning("%d %s: %s", value.status_code, self.request.path, value.log_message)
        else:
            super().log_exception(typ, value, tb)

    def append_query_parameters(self, url: str, exclude: Any = None) -> str:  # noqa: ARG002  # JupyterHub's signature
        """Nothing of the provider's answer goes on to the next page."""
        return url

    def set_login_cookie(self, user: Any) -> None:
        """Begin a session: under an id that nobody can have known before, and nothing left of another person's."""
        before = self.get_current_user_cookie()
        if before is None or before.id != user.id:
            if before is not None:
                self.clear_login_cookie()
            self.__dict__.pop("_session_id", None)
            self.set_session_cookie()
        super().set_login_cookie(user)


class SignOutHandler(LogoutHandler):
    """Signs out of the hub, its services and servers in every browser, and of the provider in this one."""

    _at_provider: str = ""

    async def get(self) -> None:
        """Sign out, unless another site sent the browser here: then ask first."""
        if self.current_user and self.request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            self.finish(await self.render_template("logout_confirm.html", xsrf=self.xsrf_token.decode("ascii")))
            return
        await super().get()

    async def post(self) -> None:
        """Sign out, by the form that asks."""
        await super().get()

    async def handle_logout(self) -> None:
        """End every session, and find out where the provider ends its own."""
        user = self.current_user
        self.clear_cookie(STATE_COOKIE_NAME, path=self.hub.base_url)
        if user is None:
            return
        state = await user.get_auth_state() or {}
        end_sessions(self.db, user)
        if not state.get("access_token"):
            return
        # The refresh token stays, for servers that go on: by it they end when the account does.
        await user.save_auth_state(state | {"id_token": None, "signed_out": True})
        try:
            metadata = await self.authenticator.provider.metadata()
        except ProviderUnavailableError as error:
            self.log.warning("%s is signed out here, but not at the provider: %s", user.name, error)
            return
        if metadata.end_session_endpoint:
            parameters = {
                "client_id": self.authenticator.client_id,
                "post_logout_redirect_uri": self.authenticator.post_logout_redirect_url,
            }
            if state.get("id_token"):
                parameters["id_token_hint"] = state["id_token"]
            separator = "&" if urlsplit(metadata.end_session_endpoint).query else "?"
            self._at_provider = f"{metadata.end_session_endpoint}{separator}{urlencode(parameters)}"

    async def render_logout_page(self) -> None:
        """On to the provider, which comes back here; then say that it is done."""
        self.set_header("Cache-Control", "no-store")
        self.finish(
            await self.render_template(
                "logout_onward.html" if self._at_provider else "logout.html",
                onward=self._at_provider,
                login_service=self.authenticator.login_service,
            )
        )
