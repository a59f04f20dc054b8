"""Prometheus metrics of the service, served on a port of their own that is never proxied to people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ADMISSIONS = Counter(
    "meridian_admissions_total", "Admissions by outcome: admitted, or the code of the denial", ["outcome"]
)
_ENDS = Counter("meridian_run_ends_total", "Ends of batch runs that were reported, by code", ["code"])
_REQUESTS = Histogram(
    "meridian_http_request_seconds", "Time to answer, by route and status", ["route", "method", "status"]
)


def count_admission(outcome: str) -> None:
    """Count an admission or a denial."""
    _ADMISSIONS.labels(outcome).inc()


def count_end(code: str) -> None:
    """Count the end of a batch run."""
    _ENDS.labels(code).inc()


class RequestMetrics:
    """ASGI middleware that times requests by their route's template (never by the path: ids would be labels)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            _REQUESTS.labels(_template(scope), scope["method"], status).observe(time.perf_counter() - begin)


def _template(scope: Scope) -> str:
    """Return the path with the names of its parameters in place of their values."""
    if "route" not in scope:
        return "unknown"
    values = {str(value): name for name, value in scope.get("path_params", {}).items()}
    parts = scope["path"].split("/")
    return "/".join(f"{{{values[part]}}}" if part in values else part for part in parts)
