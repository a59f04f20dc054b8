"""Adds the pages to the application: their routes, static files, error pages and response headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI


def install(app: FastAPI, prefix: str) -> None:
    """Serve the pages under the prefix that the hub gave to the service."""
