"""Looks after people who have servers or batch runs and no open page: when their account ends, so do these.

The hub itself asks the provider only when a request comes in somebody's name.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from jupyterhub import orm
from jupyterhub.handlers import BaseHandler
from tornado.httputil import HTTPConnection, HTTPServerRequest

from hub.auth.provider import ProviderUnavailableError
from hub.auth.sessions import SignInEndedError, SignInUnconfirmedError
from hub.client import AllocationDenied, AllocationsUnavailableError

if TYPE_CHECKING:
    from hub.auth.openid import OpenIDConnectAuthenticator

PERIOD_SECONDS_MAX = 60.0
# Looks for each refresh time: who was last confirmed just after one look is confirmed again before the time is over.
LOOKS = 4
AT_ONCE = 10


class AccountWatch:
    """Confirms everybody who has a server or a run, within each refresh time, and stops what is nobody's any more."""

    def __init__(self, hub: Any, authenticator: OpenIDConnectAuthenticator) -> None:
        self._hub = hub
        self._authenticator = authenticator
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Look for ever; a fault of one look is logged, and the next look comes."""
        refresh_seconds = self._authenticator.auth_refresh_age
        period = min(PERIOD_SECONDS_MAX, refresh_seconds / LOOKS)
        while True:
            await asyncio.sleep(period)
            # Those who would be due before the look after this one.
            try:
                await self.look(older_than_seconds=refresh_seconds - 2 * period)
            except Exception:  # whatever it is, the next look comes
                self._hub.log.exception("Nobody's account could be looked at")

    async def look(self, older_than_seconds: float) -> None:
        """Confirm everybody with a server or batch runs whose last confirmation is older."""
        with_runs = await self._with_runs()
        people = [user for user in list(self._hub.users.values()) if user.active or user.name in with_runs]
        loaded = {user.name for user in people}
        # Whom the hub does not know has no account that could have ended: it may have lost its database.
        people += [
            self._hub.users[found]
            for name in sorted(with_runs - loaded)
            if (found := orm.User.find(self._hub.db, name)) is not None
        ]
        results = await asyncio.gather(
            *(self._look_at(user, older_than_seconds, has_runs=user.name in with_runs) for user in people),
            return_exceptions=True,
        )
        for user, result in zip(people, results, strict=True):
            if isinstance(result, Exception):
                self._hub.log.error("The account of %s could not be looked at", user.name, exc_info=result)

    async def _with_runs(self) -> set[str]:
        """Who has batch runs; nobody while the service does not answer: the next look asks again."""
        try:
            return set(await self._authenticator.people_with_runs())
        except (AllocationDenied, AllocationsUnavailableError) as error:
            self._hub.log.warning("Nobody's batch runs are looked at: %s", error)
            return set()

    async def _look_at(self, user: Any, older_than_seconds: float, *, has_runs: bool) -> None:
        async with self._slots:
            confirmed = user._auth_refreshed  # noqa: SLF001  # where the hub keeps it
            if confirmed and time.monotonic() - confirmed < older_than_seconds:
                return
            if await self._stands(user):
                return
            if has_runs:
                await self._end_runs(user)
            handler = _handler(self._hub)
            for name, spawner in list(user.spawners.items()):
                # What is on its way up or down is met at the next look.
                if spawner.active and not spawner.pending:
                    self._hub.log.warning("Stopping the server %r of %s, whose account has ended", name, user.name)
                    await handler.stop_single_user(user, name)

    async def _end_runs(self, user: Any) -> None:
        try:
            await self._authenticator.end_runs(user.name)
        except (AllocationDenied, AllocationsUnavailableError) as error:
            self._hub.log.warning("The batch runs of %s, whose account has ended, go on: %s", user.name, error)

    async def _stands(self, user: Any) -> bool:
        """Whether servers and runs may go on; what changed at the provider is taken over."""
        try:
            model = await self._authenticator.confirm(user)
        except SignInEndedError:
            return False
        except SignInUnconfirmedError:
            return not await self._authenticator.is_long_unconfirmed(user)
        except ProviderUnavailableError as error:
            self._hub.log.warning("%s keeps the servers unconfirmed: %s", user.name, error)
            return True
        await _handler(self._hub).auth_to_user(model, user)
        user._auth_refreshed = time.monotonic()  # noqa: SLF001  # as the hub does after each confirmation
        return True


class _NoConnection(HTTPConnection):
    """Stands for a browser that there is not."""

    def set_close_callback(self, _callback: Any) -> None:
        """Nothing will ever be closed."""


def _handler(hub: Any) -> Any:
    """The hub's way to stop servers and to take over what a provider says, which it has for requests only."""
    return BaseHandler(hub.tornado_application, HTTPServerRequest("GET", "/", connection=_NoConnection()))
