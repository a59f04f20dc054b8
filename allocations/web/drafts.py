"""Forms that are kept while somebody writes: by a button, and with scripts a moment after each change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.responses import Response

from allocations.clock import to_rfc3339
from allocations.errors import AllocationsError
from allocations.web.render import fragment

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import Request

    from allocations.lifecycle.models import Request as Asked


def is_kept_meanwhile(request: Request) -> bool:
    """Say whether a form is sent by the page while somebody writes, and not by a button."""
    return request.headers.get("hx-request") == "true"


def keep(request: Request, save: Callable[[], Asked]) -> Response:
    """Save a form, and answer with the line that says so, or why not: the page stays as it is.

    The address becomes the request's own, so that a page that is loaded again shows what was kept.
    """
    try:
        found = save()
    except AllocationsError as error:
        return fragment(request, "saved.html", error=error, at="")
    response = fragment(request, "saved.html", error=None, at=to_rfc3339(found.updated_at_ms))
    response.headers["HX-Replace-Url"] = f"{request.app.state.prefix}/requests/{found.id}"
    return response
