"""What people can start: every image with its versions, what is in them, until when, and for whom."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.web.render import page
from allocations.web.session import page_needs

router = APIRouter()


@router.get("/software")
def show_software(
    request: Request, services: Wired, _reader: Annotated[Identity, Depends(page_needs(Scope.READ))]
) -> Response:
    """Show the catalogue of images."""
    policy = services.policy
    titles = {size.name: size.title for size in policy.sizes} | {tier.name: tier.title for tier in policy.tiers}
    return page(request, "software.html", catalogue=services.offers.catalogue(), titles=titles)
