"""Asks the hub about this very server, with the server's own token, and passes the answer on to JupyterLab."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx
from jupyter_server.base.handlers import APIHandler
from tornado.web import HTTPError, authenticated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SESSION_PATH = "meridian/session"
# Several windows ask about one server.
KEPT_SECONDS = 20.0
TIMEOUT = httpx.Timeout(10.0)


class HubUnavailableError(Exception):
    """The hub gave no usable answer; `status` is HTTP's for whoever asked, the text is for people."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class HubSession:
    """The session of this server as the hub tells it; an answer counts for some seconds."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        now_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """`url`: the hub's address for the session of this very server; `token`: the server's own."""
        self._now_seconds = now_seconds
        self._kept: tuple[float, bytes] | None = None
        # The hub is a neighbour: an outbound proxy from the environment must never see the token.
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT, transport=transport, trust_env=False
        )
        self._url = url

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **options: Any) -> Self | None:
        """From what JupyterHub gives to each server; None when no hub has started this one."""
        api_url, token = environment.get("JUPYTERHUB_API_URL"), environment.get("JUPYTERHUB_API_TOKEN")
        user = environment.get("JUPYTERHUB_USER")
        if not (api_url and token and user):
            return None
        server = environment.get("JUPYTERHUB_SERVER_NAME", "")
        path = f"meridian/sessions/{quote(user, safe='')}/{quote(server, safe='')}"
        return cls(f"{api_url.rstrip('/')}/{path}", token, **options)

    async def read(self) -> bytes:
        """Return the session as JSON. Raises HubUnavailableError."""
        if self._kept is None or self._now_seconds() - self._kept[0] > KEPT_SECONDS:
            return await self._ask("GET")
        return self._kept[1]

    async def extend(self) -> bytes:
        """Extend the session and return it as JSON. Raises HubUnavailableError."""
        return await self._ask("POST")

    async def _ask(self, method: str) -> bytes:
        try:
            response = await self._http.request(method, self._url)
        except httpx.HTTPError as error:
            raise HubUnavailableError(503, "The hub does not answer.") from error
        if not response.is_success:
            raise HubUnavailableError(response.status_code, _message(response))
        self._kept = (self._now_seconds(), response.content)
        return response.content


class SessionHandler(APIHandler):
    """`meridian/session` of the server: how long it can go on (GET), and its extension (POST)."""

    # A window that only looks at the clock is no use of the server.
    _track_activity = False

    def initialize(self, session: HubSession) -> None:
        """Take the session."""
        super().initialize()
        self._session = session

    @authenticated
    async def get(self) -> None:
        """Answer with the session."""
        await self._answer(extend=False)

    @authenticated
    async def post(self) -> None:
        """Extend the session and answer with it."""
        await self._answer(extend=True)

    async def _answer(self, *, extend: bool) -> None:
        try:
            answer = await (self._session.extend() if extend else self._session.read())
        except HubUnavailableError as error:
            raise HTTPError(error.status, error.sentence, reason=error.sentence) from error
        self.finish(answer)


def _message(response: httpx.Response) -> str:
    """What the hub says to a person, in one line."""
    try:
        message = str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        message = ""
    return " ".join(message.split()) or f"The hub answered with status {response.status_code}."
