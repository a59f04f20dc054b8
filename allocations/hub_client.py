"""The hub as the worker sees it: which servers are active, and how one is stopped so that the proxy knows."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from allocations.clock import from_datetime
from allocations.leases.watch import ServerKey, ServerStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 200
TIMEOUT_SECONDS = 10.0


class HubServers:
    """The servers of every person, by the hub's API; raises httpx.HTTPError when the hub does not answer."""

    def __init__(self, api_url: str, token: str) -> None:
        self._client = httpx.Client(
            base_url=api_url,
            headers={"Authorization": f"token {token}", "Accept": "application/jupyterhub-pagination+json"},
            timeout=TIMEOUT_SECONDS,
        )

    def active(self) -> dict[ServerKey, ServerStatus]:
        """Return the servers that run, or are on their way up or down."""
        return {
            (user["name"], name): ServerStatus(
                ready=bool(server["ready"]) and not server.get("pending"),
                last_activity_ms=_time(server.get("last_activity")),
            )
            for user in self._users()
            for name, server in user.get("servers", {}).items()
        }

    def stop(self, key: ServerKey) -> None:
        """Ask the hub to stop a server; one that is stopped already is no error."""
        person, name = key
        path = f"users/{quote(person, safe='')}/server"
        if name:
            path += f"s/{quote(name, safe='')}"
        response = self._client.delete(path)
        if response.status_code not in {httpx.codes.NOT_FOUND, httpx.codes.BAD_REQUEST}:
            response.raise_for_status()

    def _users(self) -> Iterator[dict[str, Any]]:
        offset: int | None = 0
        while offset is not None:
            response = self._client.get("users", params={"state": "active", "offset": offset, "limit": PAGE})
            response.raise_for_status()
            page = response.json()
            yield from page["items"]
            following = page["_pagination"]["next"]
            offset = following["offset"] if following else None


def _time(text: str | None) -> int | None:
    return None if text is None else from_datetime(datetime.fromisoformat(text))
