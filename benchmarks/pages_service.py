"""The service with its pages over a database, in a process of its own: `python -m benchmarks.pages_service URL PORT`.

Who looks is who the session cookie or the token names, with the scopes of that person's role. The hub, which would be
asked once a minute, is left out.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

import uvicorn

from allocations.api.identity import SESSION_COOKIE, HubIdentities, Identity, Scope
from allocations.app import PREFIX, create_app
from allocations.db.database import Database
from allocations.factory import make_services
from allocations.policy.loader import load_policy
from allocations.settings import ROOT

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

ENVIRONMENT = {
    "JUPYTERHUB_API_TOKEN": "unused",
    "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api",
    "JUPYTERHUB_CLIENT_ID": "service-allocations",
    "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{PREFIX}/oauth_callback",
}


ADMIN, REVIEWER, SPAWNER = "admin", "reviewer-0", "spawner"
_EVERYBODY = frozenset({Scope.READ, Scope.REQUEST, Scope.RUN})
_SCOPES = {
    ADMIN: _EVERYBODY | {Scope.REVIEW, Scope.ADMIN},
    REVIEWER: _EVERYBODY | {Scope.REVIEW},
    SPAWNER: frozenset({Scope.LEASE}),
}


class NamedByCookie(HubIdentities):
    """Takes the session cookie or the token for somebody's name, which says the role."""

    async def from_session(self, request: Request) -> Identity | None:
        """Return whom the cookie names."""
        name = request.cookies.get(SESSION_COOKIE)
        return _named(name) if name else None

    async def from_token(self, token: str, session_id: str = "") -> Identity | None:  # noqa: ARG002  # as it is called
        """Return whom the token names."""
        return _named(token)


def _named(name: str) -> Identity:
    return Identity(name, frozenset(_SCOPES.get(name, _EVERYBODY)))


def application(url: str) -> FastAPI:
    """Return the application over a database."""
    os.environ.update(ENVIRONMENT)
    services = make_services(Database(url), load_policy(ROOT / "policies"), Path(gettempdir()))
    return create_app(services, NamedByCookie("secret", PREFIX), "local")


if __name__ == "__main__":
    app = application(sys.argv[1])
    # As `serve` does.
    gc.collect()
    gc.freeze()
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
