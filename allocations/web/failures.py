"""Answers what goes wrong on a page with a page: what is wrong, what to do next. The API keeps its JSON."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException

from allocations.api import problems
from allocations.errors import AllocationsError, NotFoundError
from allocations.web.headers import PAGE_HEADERS
from allocations.web.render import page
from allocations.web.session import SignInNeededError, send_to_sign_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import FastAPI, Request
    from fastapi.responses import Response

log = logging.getLogger(__name__)
NOT_FOUND = 404


class UnexpectedError(AllocationsError):
    """Something failed that no rule foresees, such as a database that does not answer."""

    code = "unexpected"
    status = 500
    title = "Something went wrong here"


class NoSuchRequestError(AllocationsError):
    """The request is none that a page takes: the method, or its form."""

    code = "bad_request"
    title = "The request was not understood"

    def __init__(self, status: int) -> None:
        super().__init__("The page does not take such a request.", "Go on from the home page.")
        self.status = status  # type: ignore[misc]  # each of these errors has the status that the framework found


def install(app: FastAPI, prefix: str) -> None:
    """Answer errors under the prefix with pages, except under its `/api/`."""

    def is_page(request: Request) -> bool:
        path = request.url.path
        return path.startswith(prefix) and not path.startswith(f"{prefix}/api/")

    def show(request: Request, error: AllocationsError) -> Response:
        return page(request, "failure.html", error=error)

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, AllocationsError)
        return show(request, error) if is_page(request) else await _call(api_error, request, error)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if is_page(request):
            return show(request, problems.from_validation(error))
        return await _call(api_invalid, request, error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if not is_page(request):
            return await _call(api_http, request, error)
        if error.status_code == NOT_FOUND:
            return show(request, NotFoundError("There is nothing at this address.", "Go on from the home page."))
        return show(request, NoSuchRequestError(error.status_code))

    async def on_unexpected(request: Request, _error: Exception) -> Response:
        if not is_page(request):
            return PlainTextResponse("Internal Server Error", 500)
        response = show(
            request,
            UnexpectedError(
                "The platform could not answer. What runs goes on; what you sent may not have been carried out.",
                "Try again in a minute. If it happens again, tell the operators when it happened.",
            ),
        )
        # This answer is made outside of every middleware, the one that sets the headers included.
        response.headers.update(PAGE_HEADERS)
        return response

    api_error = app.exception_handlers[AllocationsError]
    api_invalid = app.exception_handlers[RequestValidationError]
    api_http = app.exception_handlers[HTTPException]
    app.add_exception_handler(AllocationsError, on_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_unexpected)
    app.add_exception_handler(SignInNeededError, send_to_sign_in)


async def _call(handler: Callable[..., Awaitable[Any]], request: Request, error: Exception) -> Response:
    response: Response = await handler(request, error)
    return response
