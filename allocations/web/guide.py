"""Help: what the words mean, and what to do when something does not go on. Anybody may read it, signed in or not."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.web.render import page
from allocations.web.session import anybody

router = APIRouter()


@router.get("/help", dependencies=[Depends(anybody)])
def show_help(request: Request) -> Response:
    """Show it, in the frame of whoever reads it."""
    return page(request, "help.html")
