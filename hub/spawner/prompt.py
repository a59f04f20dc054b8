"""Notices soon that a server answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jupyterhub.objects import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable

LOOK_SECONDS = 0.2


class PromptServer(Server):
    """JupyterHub looks at random moments, up to five seconds apart, whether a server is up: a person waits for that.

    This one first tries to connect, five times a second, until something listens; then JupyterHub looks at once. Where
    something else listens first, such as a mesh's sidecar, nothing is lost.
    """

    def wait_up(
        self, timeout: float = 10, http: bool = False, ssl_context: Any = None, extra_path: str = ""
    ) -> Awaitable[Any]:
        """See `Server.wait_up`; raises TimeoutError after so many seconds."""
        return self._wait_up(asyncio.get_running_loop().time() + timeout, http, ssl_context, extra_path)

    async def _wait_up(self, give_up_at: float, *request: Any) -> Any:
        loop = asyncio.get_running_loop()
        # Over a URL of its own, or a Unix socket, only JupyterHub knows how to look.
        while not (self.connect_url or self._unix_socket) and loop.time() + LOOK_SECONDS < give_up_at:
            try:
                _reader, writer = await asyncio.wait_for(
                    asyncio.open_connection(self._connect_ip, self._connect_port), give_up_at - loop.time()
                )
            except OSError:
                await asyncio.sleep(LOOK_SECONDS)
            else:
                writer.close()
                break
        return await super().wait_up(max(0.0, give_up_at - loop.time()), *request)
