"""Answers what goes wrong on a page with a page: what is wrong, what to do next. The API keeps its JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException

from allocations.api import problems
from allocations.errors import AllocationsError, NotFoundError
from allocations.web.headers import PAGE_HEADERS
from allocations.web.render import INTERNAL_ERROR, page
from allocations.web.session import SignInNeededError, anybody, send_to_sign_in

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.responses import Response

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


class PageFailures:
    """Handlers of errors: under the prefix they answer with pages, elsewhere as the API's own do."""

    def __init__(self, app: FastAPI, prefix: str) -> None:
        self._prefix = prefix
        self._others = dict(app.exception_handlers)

    def install(self, app: FastAPI) -> None:
        """Stand before the handlers that the application has."""
        app.add_exception_handler(AllocationsError, self._on_error)
        app.add_exception_handler(RequestValidationError, self._on_invalid)
        app.add_exception_handler(HTTPException, self._on_http)
        app.add_exception_handler(Exception, self._on_unexpected)
        app.add_exception_handler(SignInNeededError, send_to_sign_in)

    def _is_page(self, request: Request) -> bool:
        path = request.url.path
        return path.startswith(self._prefix) and not path.startswith(f"{self._prefix}/api/")

    async def _answer_other(self, kind: type[Exception], request: Request, error: Exception) -> Response:
        response: Response = await self._others[kind](request, error)
        return response

    async def _on_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, AllocationsError)
        if not self._is_page(request):
            return await self._answer_other(AllocationsError, request, error)
        return _show(request, error)

    async def _on_invalid(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if not self._is_page(request):
            return await self._answer_other(RequestValidationError, request, error)
        return _show(request, problems.from_validation(error))

    async def _on_http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if not self._is_page(request):
            return await self._answer_other(HTTPException, request, error)
        # No page was found that would have asked who it is.
        await anybody(request)
        if error.status_code == NOT_FOUND:
            return _show(request, NotFoundError("There is nothing at this address.", "Go on from the home page."))
        return _show(request, NoSuchRequestError(error.status_code))

    async def _on_unexpected(self, request: Request, _error: Exception) -> Response:
        if not self._is_page(request):
            return PlainTextResponse("Internal Server Error", 500)
        response = _show(
            request,
            UnexpectedError(
                "The platform could not answer. What runs goes on; what you sent may not have been carried out.",
                "Try again in a minute. If it happens again, tell the operators when it happened.",
            ),
        )
        # This answer is made outside of every middleware, the one that sets the headers included.
        response.headers.update(PAGE_HEADERS)
        return response


def _show(request: Request, error: AllocationsError) -> Response:
    # Only what changes nothing can be asked for again by a link.
    may_try_again = error.status >= INTERNAL_ERROR and request.method == "GET"
    return page(request, "failure.html", error=error, may_try_again=may_try_again)
