"""Carries well-formed requests to their handler without FastAPI's general machinery, which costs more than they do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from inspect import iscoroutinefunction
from typing import Any, cast

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

JSON = "application/json"


class DirectRoute(APIRoute):
    """A route that is as FastAPI makes it, but for the way of a request that is as it should be.

    That is for asynchronous handlers which take a JSON body of one model, required headers that are texts, and
    dependencies that are asynchronous and take the request alone, and which return a model. Every dependency
    runs, as ever. A request that lacks a header, or whose body is not the model's, goes FastAPI's way, which says what
    is wrong with it.

    What an including router might add (dependencies of its own) is not looked at: none of ours does.
    """

    @property
    def is_direct(self) -> bool:
        """Whether the handler is of the kind that is told above."""
        return _is_direct(self.dependant)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        plain = super().get_route_handler()
        if not self.is_direct:
            return plain
        callees = [(one.name or "", _asynchronous(one)) for one in self.dependant.dependencies]
        headers = [(one.name, one.alias) for one in self.dependant.header_params]
        (body,) = self.dependant.body_params
        model = cast("type[BaseModel]", body.field_info.annotation)
        endpoint: Callable[..., Awaitable[BaseModel]] = self.endpoint
        status = self.status_code or 200

        async def answer(request: Request) -> Response:
            arguments: dict[str, Any] = {name: request.headers.get(alias) for name, alias in headers}
            if request.headers.get("content-type") != JSON or None in arguments.values():
                return await plain(request)
            try:
                arguments[body.name] = model.model_validate_json(await request.body())
            except ValidationError:
                return await plain(request)
            for name, call in callees:
                arguments[name] = await call(request)
            answered = await endpoint(**arguments)
            return Response(answered.model_dump_json(), status, media_type=JSON)

        return answer


def _is_direct(dependant: Dependant) -> bool:
    bodies = [one.field_info.annotation for one in dependant.body_params]
    return (
        len(bodies) == 1
        and isinstance(bodies[0], type)
        and issubclass(bodies[0], BaseModel)
        and iscoroutinefunction(dependant.call)
        and not (dependant.path_params or dependant.query_params or dependant.cookie_params)
        and all(one.field_info.annotation is str and one.field_info.is_required() for one in dependant.header_params)
        and all(_takes_request_alone(one) for one in dependant.dependencies)
    )


def _asynchronous(dependant: Dependant) -> Callable[[Request], Awaitable[Any]]:
    assert dependant.call is not None, "a dependency of a route is something to call"
    return dependant.call


def _takes_request_alone(dependant: Dependant) -> bool:
    return (
        iscoroutinefunction(dependant.call)
        and dependant.request_param_name == "request"
        and not dependant.dependencies
        and not (dependant.path_params or dependant.query_params or dependant.header_params)
        and not (dependant.cookie_params or dependant.body_params)
    )
