"""The published description of the API: each route with the scope that it needs and the problems that it answers."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from allocations.api.examples import ANSWERS, PROBLEMS
from allocations.api.problems import PROBLEM, Problem, to_problem
from allocations.api.reference import scope_of
from allocations.api.v1 import PARTS

if TYPE_CHECKING:
    from fastapi import FastAPI

    from allocations.errors import AllocationsError

# FastAPI's own shapes of an invalid request: our handlers answer with a problem instead.
_UNUSED_SHAPES = ("HTTPValidationError", "ValidationError")
_TOKEN = "token"  # noqa: S105  # the name of a scheme, not a secret


def describe(app: FastAPI, prefix: str) -> None:
    """Make the application publish its description, built from the API's routes when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _description(app, prefix)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to change it


def _description(app: FastAPI, prefix: str) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _UNUSED_SHAPES:
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components["securitySchemes"] = {
        _TOKEN: {"type": "http", "scheme": "bearer", "description": "A token of the hub, from its token page"}
    }
    problems = {str(int(status)): _problem(status, error) for status, error in PROBLEMS.items()}
    for route in (route for part in PARTS for route in part.router.routes if isinstance(route, APIRoute)):
        for method in route.methods or ():
            operation = schema["paths"][f"{prefix}{route.path}"][method.lower()]
            if route.response_model is not None:
                success = operation["responses"][str(route.status_code or int(HTTPStatus.OK))]
                success["content"]["application/json"]["example"] = ANSWERS[route.response_model].model_dump(
                    mode="json"
                )
            if scope := scope_of(route):
                operation["security"] = [{_TOKEN: []}]
                operation["description"] = f"{operation.get('description', '')}\n\nNeeds the scope `{scope}`.".strip()
                operation["responses"] |= problems
    return schema


def _problem(status: HTTPStatus, error: AllocationsError) -> dict[str, Any]:
    return {
        "description": status.phrase,
        "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": to_problem(error)}},
    }
