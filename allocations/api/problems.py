"""Errors as problem details (RFC 9457), each with a stable code and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError

from allocations.errors import AllocationsError, InvalidInputError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

PROBLEM = "application/problem+json"


def to_problem(error: AllocationsError) -> dict[str, Any]:
    """Return the problem details of an error."""
    return {
        "type": f"about:blank#{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "remedy": error.remedy,
        "remedy_url": error.remedy_url,
    }


def to_response(error: AllocationsError) -> JSONResponse:
    """Return the response of an error."""
    return JSONResponse(to_problem(error), error.status, media_type=PROBLEM)


def from_validation(error: RequestValidationError) -> InvalidInputError:
    """Name every field that is wrong."""
    wrong = "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'] if part != 'body') or 'body'}: {problem['msg']}"
        for problem in error.errors()
    )
    return InvalidInputError(f"{wrong}.", "Mend the fields and send the request again.")


def install(app: FastAPI) -> None:
    """Answer every AllocationsError and invalid body with problem details."""

    async def on_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AllocationsError)
        return to_response(error)

    async def on_invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return to_response(from_validation(error))

    async def on_unstorable(_request: Request, _error: Exception) -> JSONResponse:
        # PostgreSQL takes no NUL in a text and no number beyond 64 bits, wherever in a request it stands.
        return to_response(
            InvalidInputError("A value cannot be stored: it holds a NUL, or a number is too large.", "Leave it out.")
        )

    app.add_exception_handler(AllocationsError, on_error)
    app.add_exception_handler(DataError, on_unstorable)
    app.add_exception_handler(RequestValidationError, on_invalid)
