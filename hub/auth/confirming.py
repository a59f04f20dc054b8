"""Asks the provider whether it still stands by somebody's sign-in; one that it does not stand by is ended."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from tornado.web import HTTPError

from hub.auth.provider import TokenRefusedError
from hub.auth.sessions import SignInEndedError, SignInUnconfirmedError, end_sessions

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from hub.auth.asking import Asking
    from hub.auth.openid import OpenIDConnectAuthenticator
    from hub.auth.telling import Telling


class Confirming:
    """Confirms people's sign-ins, each once at a time."""

    def __init__(
        self, authenticator: OpenIDConnectAuthenticator, asking: Asking, telling: Telling, db: Session
    ) -> None:
        self._authenticator = authenticator
        self._asking = asking
        self._telling = telling
        self._db = db
        self._refreshing: dict[str, asyncio.Task[dict[str, Any]]] = {}

    async def confirm(self, user: Any) -> dict[str, Any]:
        """The person as the provider knows them now, kept already.

        Raises SignInEndedError, after which no session is left, SignInUnconfirmedError or ProviderUnavailableError.
        Whoever asks at the same time gets the same answer: a refresh token is good for one use, and a provider that
        sees it twice takes it for stolen.
        """
        task = self._refreshing.get(user.name)
        if task is None:
            task = self._refreshing[user.name] = asyncio.ensure_future(self._confirm(user))
            task.add_done_callback(lambda _: self._refreshing.pop(user.name, None))
        # One who asked and went away does not end it for the others.
        model = await asyncio.shield(task)
        return dict(model)

    async def _confirm(self, user: Any) -> dict[str, Any]:
        state = await user.get_auth_state() or {}
        if not state.get("access_token"):
            msg = "there was none"
            raise SignInEndedError(msg)
        try:
            model = await self._model_again(state)
            await self._still_allowed(user.name, model)
        except (TokenRefusedError, SignInEndedError, HTTPError) as error:
            if state.get("signed_out"):
                raise SignInUnconfirmedError from error
            await self._end(user, state)
            raise SignInEndedError(str(error)) from error
        if state.get("signed_out"):
            model["auth_state"]["signed_out"] = True
        await user.save_auth_state(model["auth_state"])
        if model["auth_state"]["person"] != state.get("person"):
            self._telling.later(model)
        return model

    async def _model_again(self, state: dict[str, Any]) -> dict[str, Any]:
        """Ask with the refresh token, which tells most; without one with the access token, while it lasts."""
        subject = state["subject"]
        if state.get("issuer") != self._authenticator.issuer:
            msg = f"it was made at {state.get('issuer')}"
            raise SignInEndedError(msg)
        claims: dict[str, Any] = {"sub": subject}
        if state.get("refresh_token"):
            params = self._authenticator.build_refresh_token_request_params(state["refresh_token"])
            tokens = {"refresh_token": state["refresh_token"]} | await self._asking.tokens(params)
            if tokens.get("id_token"):
                claims = await self._asking.provider.verify(
                    tokens["id_token"], subject=subject, access_token=tokens["access_token"]
                )
            tokens.setdefault("id_token", state.get("id_token"))
        else:
            expires_at = state.get("expires_at")
            tokens = {name: state.get(name) for name in ("access_token", "id_token")}
            if expires_at is not None:
                tokens["expires_in"] = expires_at - int(time.time())
                if tokens["expires_in"] <= 0:
                    raise SignInUnconfirmedError
        return await self._authenticator.model_of(await self._asking.claims(claims, tokens), tokens)

    async def _still_allowed(self, name: str, model: dict[str, Any]) -> None:
        if model["name"] != name:
            msg = f"the account is that of {model['name']}"
            raise SignInEndedError(msg)
        self._authenticator.check_blocked_users(name, model)
        await self._authenticator.check_allowed(name, model)

    async def _end(self, user: Any, state: dict[str, Any]) -> None:
        end_sessions(self._db, user)
        kept = {name: state.get(name) for name in ("issuer", "subject", "groups", "person")}
        await user.save_auth_state(kept | {"ended_at": int(time.time())})
