"""What most tests begin with, made once in a process: a migrated SQLite database, the policy, the application."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any, cast

from starlette.datastructures import State

from allocations.app import create_app
from allocations.db.database import Database
from allocations.db.migrate import upgrade
from allocations.factory import make_services
from allocations.policy.loader import load_policy

if TYPE_CHECKING:
    from fastapi import FastAPI

    from allocations.api.identity import HubIdentities
    from allocations.factory import Services
    from allocations.policy.models import Policy

POLICIES = Path(__file__).parents[1] / "policies"


def fresh_sqlite(directory: Path) -> str:
    """Return the URL of a new database in the directory, migrated and without content."""
    path = directory / "allocations.sqlite"
    path.write_bytes(_migrated_sqlite())
    return f"sqlite:///{path}"


@cache
def shipped_policy() -> Policy:
    """Return the policy of this checkout, which nothing can change."""
    return load_policy(POLICIES)


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


@cache
def _migrated_sqlite() -> bytes:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "allocations.sqlite"
        database = Database(f"sqlite:///{path}")
        upgrade(database)
        database.dispose()  # which puts the whole journal into the one file
        return path.read_bytes()
