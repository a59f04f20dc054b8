"""Images: the catalogue that people choose from."""

from __future__ import annotations

from fastapi import APIRouter

from allocations.api.v1.common import Reader, Wired
from allocations.leases.views import Catalogue

router = APIRouter(tags=["images"])


@router.get("/images")
def images(services: Wired, _caller: Reader) -> Catalogue:
    """Every image with its versions, those that cannot be started any more too; what to ask for is `choice`."""
    return services.offers.catalogue()
