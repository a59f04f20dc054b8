#!/usr/bin/env python3
"""The command of the hub that KubeSpawner's tests put beside their servers: without a proxy, for nobody comes by it."""

import sys
from typing import Any

from jupyterhub.app import JupyterHub
from jupyterhub.proxy import Proxy
from traitlets import Bool


class NoProxy(Proxy):
    """Remembers its routes, and that is all."""

    should_start = Bool(False)

    def __init__(self, **traits: Any) -> None:
        """Begin without routes."""
        super().__init__(**traits)
        self._routes: dict[str, dict[str, Any]] = {}

    async def add_route(self, routespec: str, target: str, data: dict[str, Any]) -> None:
        """Remember a route."""
        self._routes[routespec] = {"routespec": routespec, "target": target, "data": data}

    async def delete_route(self, routespec: str) -> None:
        """Forget a route."""
        self._routes.pop(routespec, None)

    async def get_all_routes(self) -> dict[str, dict[str, Any]]:
        """All routes."""
        return self._routes


if __name__ == "__main__":
    JupyterHub.launch_instance([*sys.argv[1:], "--JupyterHub.proxy_class=__main__.NoProxy"])
