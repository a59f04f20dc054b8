"""The application, made once in a process: apart, for importing it takes longer than what some processes are for."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, cast

from starlette.datastructures import State

from allocations.app import create_app
from allocations.db.database import Database
from allocations.factory import make_services
from tests.fresh import shipped_policy

if TYPE_CHECKING:
    from fastapi import FastAPI

    from allocations.api.identity import HubIdentities
    from allocations.factory import Services


def fresh_app(services: Services, identities: HubIdentities) -> FastAPI:
    """Return the application over the services, as `create_app` makes it: one at a time, for its routes are shared."""
    app, state = _app_and_its_state()
    app.state = State(state | {"services": services, "identities": identities})
    return app


@cache
def _app_and_its_state() -> tuple[FastAPI, dict[str, Any]]:
    services = make_services(Database("sqlite://"), shipped_policy(), Path(gettempdir()))
    app = create_app(services, cast("HubIdentities", None), "local")  # each test gives its own of both
    return app, {name: app.state[name] for name in app.state}
