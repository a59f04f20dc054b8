"""Errors as problem details (RFC 9457), each with a stable code and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from allocations.errors import AllocationsError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

PROBLEM = "application/problem+json"
NOT_FOUND = 404


class Problem(BaseModel):
    """What is wrong (RFC 9457), with a code that stays the same and what to do next."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(description="A name of the kind of problem", examples=["about:blank#unknown_allocation"])
    title: str = Field(examples=["No such allocation"])
    status: int = Field(ge=400, le=599, examples=[404])
    detail: str = Field(examples=["There is no allocation 'a-12345678'."])
    code: str = Field(description="For programs: stable for ever", examples=["unknown_allocation"])
    remedy: str = Field(description="What to do next", examples=["Choose one of your own allocations."])
    remedy_url: str | None = Field(description="Where to do it: a path of the platform", examples=[None])


class NotUnderstoodError(AllocationsError):
    """The request is none that the API takes: its method, or a body that cannot be read."""

    code = "bad_request"
    title = "The request was not understood"

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail, "Compare the request with the API's description.")
        self.status = status  # type: ignore[misc]  # each of these errors has the status that the framework found


def to_problem(error: AllocationsError) -> dict[str, Any]:
    """Return the problem details of an error."""
    return Problem(
        type=f"about:blank#{error.code}",
        title=error.title,
        status=error.status,
        detail=_sendable(error.detail),
        code=error.code,
        remedy=error.remedy,
        remedy_url=error.remedy_url,
    ).model_dump()


def to_response(error: AllocationsError) -> JSONResponse:
    """Return the response of an error."""
    return JSONResponse(to_problem(error), error.status, media_type=PROBLEM)


def _sendable(text: str) -> str:
    """Escape what UTF-8 cannot carry: JSON may spell half of a surrogate pair, and a sentence may quote it."""
    return text.encode("utf-8", "backslashreplace").decode()


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

    async def on_http(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        problem = (
            NotFoundError("There is nothing at this address.", "Compare it with the API's description.")
            if error.status_code == NOT_FOUND
            else NotUnderstoodError(error.status_code, f"{error.detail}.")
        )
        response = to_response(problem)
        response.headers.update(error.headers or {})  # such as the methods that are allowed
        return response

    async def on_unstorable(_request: Request, _error: Exception) -> JSONResponse:
        # PostgreSQL takes no NUL in a text and no number beyond 64 bits, wherever in a request it stands.
        return to_response(
            InvalidInputError("A value cannot be stored: it holds a NUL, or a number is too large.", "Leave it out.")
        )

    app.add_exception_handler(AllocationsError, on_error)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(DataError, on_unstorable)
    app.add_exception_handler(OverflowError, on_unstorable)  # as SQLite says it
    app.add_exception_handler(RequestValidationError, on_invalid)
