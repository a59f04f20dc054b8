"""The application: routes, pages, error handling and response headers, under the prefix that the hub gave."""

from __future__ import annotations

import gc
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from prometheus_client import start_http_server

from allocations import __version__
from allocations.api import problems
from allocations.api.identity import HubIdentities
from allocations.api.limits import BodyLimit
from allocations.api.metrics import RequestMetrics
from allocations.api.openapi import describe
from allocations.api.v1 import PARTS
from allocations.factory import Services, services_from
from allocations.logs import configure_logging
from allocations.settings import Settings, required
from allocations.web import pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PREFIX = "/services/allocations"


def create_app(services: Services, identities: HubIdentities, mode: str) -> FastAPI:
    """Make the application over wired services."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        services.database.dispose()

    app = FastAPI(
        title="Meridian allocations",
        version=__version__,
        description="Allocations, leases, requests and batch runs. Send a hub token as `Authorization: Bearer …`.",
        openapi_url=f"{PREFIX}/api/openapi.json",
        docs_url=None,  # the stock documentation page loads its scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.services = services
    app.state.identities = identities
    app.state.mode = mode
    # Each by itself: a router of them all would be one more to be looked through, on each request.
    for part in PARTS:
        app.include_router(part.router, prefix=f"{PREFIX}/api/v1")
    describe(app, f"{PREFIX}/api/v1")
    problems.install(app)
    pages.install(app, PREFIX)
    app.add_middleware(RequestMetrics)
    # A notebook grows when it is written as JSON within JSON, at most twofold.
    app.add_middleware(BodyLimit, bytes_max=2 * services.policy.runs.notebook_max_bytes)
    return app


def serve() -> None:
    """Serve as the environment says, on loopback where it says nothing, with metrics on a port of their own."""
    configure_logging()
    settings = Settings.from_environment()
    identities = HubIdentities(required("MERIDIAN_COOKIE_SECRET"), PREFIX)
    app = create_app(services_from(settings), identities, settings.mode)
    # What is there from the start stays: looking through it again and again for garbage would stop every request.
    gc.collect()
    gc.freeze()
    metrics_host = os.environ.get("MERIDIAN_ALLOCATIONS_METRICS_HOST", "127.0.0.1")
    start_http_server(int(required("MERIDIAN_ALLOCATIONS_METRICS_PORT")), addr=metrics_host)
    uvicorn.run(
        app,
        host=os.environ.get("MERIDIAN_ALLOCATIONS_HOST", "127.0.0.1"),
        port=int(required("MERIDIAN_ALLOCATIONS_PORT")),
        log_config=None,
        access_log=False,
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1",
        server_header=False,
    )
