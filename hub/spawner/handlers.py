"""The hub's own addresses for the time of running servers: for the server itself, and behind the servers page's button.

Both need `access:servers` on the very server: a server's own token has that for itself and for no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers.pages import HomeHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import url_path_join
from tornado.web import HTTPError, authenticated

from hub.client import AllocationDenied, AllocationsUnavailableError
from hub.spawner.sessions import Session, extend_session, session_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hub.spawner.mixin import AllocationSpawnerMixin

NO_ANSWER = "The allocations service does not answer. Try again in a minute; your server goes on meanwhile."
NOT_RUNNING = "This server does not run, so there is nothing to extend."


def _spawner(handler: Any, user_name: str, server_name: str) -> AllocationSpawnerMixin:
    """The server that runs under this name; HTTPError 404 when none does."""
    user = handler.find_user(user_name)
    spawner: AllocationSpawnerMixin | None = user.spawners.get(server_name) if user else None
    if spawner is None or not spawner.active:
        raise HTTPError(404, NOT_RUNNING)
    return spawner


class SessionAPIHandler(APIHandler):
    """`/hub/api/meridian/sessions/{user}/{server}`: how long the server can go on, and its extension, as JSON."""

    @needs_scope("access:servers")  # type: ignore[untyped-decorator]  # JupyterHub carries no types
    async def get(self, user_name: str, server_name: str) -> None:
        """Answer with the session."""
        await self._answer(session_of, user_name, server_name)

    @needs_scope("access:servers")  # type: ignore[untyped-decorator]  # JupyterHub carries no types
    async def post(self, user_name: str, server_name: str) -> None:
        """Extend the session and answer with it."""
        await self._answer(extend_session, user_name, server_name)

    async def _answer(
        self,
        ask: Callable[[AllocationSpawnerMixin], Awaitable[Session | None]],
        user_name: str,
        server_name: str,
    ) -> None:
        try:
            session = await ask(_spawner(self, user_name, server_name))
        except AllocationDenied as denial:
            raise HTTPError(denial.status, f"{denial.detail} {denial.remedy}") from denial
        except AllocationsUnavailableError as error:
            raise HTTPError(503, NO_ANSWER) from error
        if session is None:
            raise HTTPError(404, NOT_RUNNING)
        self.finish(session.model_dump_json())


class ExtendHandler(HomeHandler):
    """`/hub/meridian/extend/{user}/{server}`: extends a server and shows the servers page with what came of it."""

    _told: dict[str, Any] | None = None

    @authenticated
    async def get(self, _user_name: str, _server_name: str) -> None:
        """Show the servers page: this address is left in the browser after the form."""
        self.redirect(url_path_join(self.hub.base_url, "home"))

    @needs_scope("access:servers")  # type: ignore[untyped-decorator]  # JupyterHub carries no types
    async def post(self, user_name: str, server_name: str) -> None:
        """Extend, and show the page either way."""
        try:
            session = await extend_session(_spawner(self, user_name, server_name))
            self._told = {"session": session} if session else {"problem": NOT_RUNNING}
        except AllocationDenied as denial:
            self._told = {"problem": f"{denial.detail} {denial.remedy}"}
        except AllocationsUnavailableError:
            self._told = {"problem": NO_ANSWER}
        except HTTPError as error:
            self._told = {"problem": error.log_message}
        self._told["server"] = server_name
        await super().get()

    def render_template(self, name: str, sync: bool = False, **ns: Any) -> Any:
        """As JupyterHub's own, with what came of the extension."""
        return super().render_template(name, sync, meridian_told=self._told, **ns)


HANDLERS = [
    (r"/api/meridian/sessions/([^/]+)/([^/]*)", SessionAPIHandler),
    (r"/meridian/extend/([^/]+)/([^/]*)", ExtendHandler),
]
