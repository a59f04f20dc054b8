"""The table of the API's routes with the scope that each needs, as published in `docs/reference/api.md`."""

from __future__ import annotations

from fastapi.routing import APIRoute

from allocations.api.v1 import PARTS

HEADING = """# API

Under `/services/allocations/api/v1`, with `Authorization: Bearer TOKEN`. The full description with every field is the
OpenAPI document at `/services/allocations/api/openapi.json`. This table is written by `make published` from the code.

| method | path | scope | what it does |
|---|---|---|---|
"""


def api_reference() -> str:
    """Return the table as Markdown."""
    rows = [_row(route) for part in PARTS for route in part.router.routes if isinstance(route, APIRoute)]
    return HEADING + "".join(rows)


def scope_of(route: APIRoute) -> str | None:
    """Return the scope that a route needs, None for a public one."""
    scopes = [
        scope
        for dependency in route.dependant.dependencies
        if (scope := getattr(dependency.call, "scope", None)) is not None
    ]
    assert len(scopes) <= 1, f"{route.path} names more than one scope"
    return str(scopes[0]) if scopes else None


def _row(route: APIRoute) -> str:
    scope = scope_of(route)
    what = (route.endpoint.__doc__ or "").strip().splitlines()[0]
    methods = ", ".join(sorted(route.methods or ()))
    return f"| {methods} | `{route.path}` | {f'`{scope}`' if scope else 'public'} | {what} |\n"
