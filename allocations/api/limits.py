"""Refuses request bodies that are larger than anything the API takes, before they fill the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.api.problems import to_response
from allocations.errors import AllocationsError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyTooLargeError(AllocationsError):
    """A body is larger than any that is taken."""

    code = "body_too_large"
    status = 413
    title = "Too large"


class BodyLimit:
    """ASGI middleware: a body that says that it is too large is refused, one that does not say so is cut off."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._bytes_max:
            await to_response(self._refusal())(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._bytes_max:
                raise self._refusal()
            return message

        await self._app(scope, counted, send)

    def _refusal(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"The request is larger than {self._bytes_max // 1_000_000} MB.",
            "Clear the notebook's outputs, save it and send it again.",
        )
