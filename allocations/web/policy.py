"""The policy in force, for everybody to read: tiers, sizes and prices, rules of leases and runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.clock import MS_PER_SECOND
from allocations.web.formats import SECONDS_PER_HOUR
from allocations.web.render import page
from allocations.web.session import page_needs

router = APIRouter()


@router.get("/policy")
def show_policy(
    request: Request, services: Wired, _reader: Annotated[Identity, Depends(page_needs(Scope.READ))]
) -> Response:
    """Show what each tier gives, what each size costs, and the rules that hold for everybody."""
    now = datetime.fromtimestamp(services.clock.now_ms() / MS_PER_SECOND, tz=UTC)
    prices = services.policy.prices_at(now)
    per_hour = {size.name: prices.microcredits_per_second(size) * SECONDS_PER_HOUR for size in services.policy.sizes}
    return page(
        request,
        "policy.html",
        prices=prices,
        per_hour=per_hour,
        seconds_per_hour=SECONDS_PER_HOUR,
        effective=prices.effective.isoformat(),
        later=[one for one in services.policy.prices if one.effective > now],
    )
