"""The start page's offers: what a balance buys, in every unit that it is limited in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.errors import InsufficientBalanceError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import OverrideLimits, OverrideSubject
from allocations.policy.models import Shape

if TYPE_CHECKING:
    from allocations.leases.views import SizeOffer
    from tests.allocations.conftest import Bench


def offered(bench: Bench, allocation: str, size: str) -> SizeOffer:
    (offer,) = (one for one in bench.services.offers.start_options("lead").allocations if one.id == allocation)
    (found,) = (one for one in offer.sizes if one.name == size)
    return found


def test_hours_are_those_that_every_unit_buys_and_what_does_not_buy_a_start_is_not_offered(bench: Bench) -> None:
    root = bench.consortium()
    part = bench.services.tree.divide(
        Actor("lead"), root, name="Part", microcredits=1_000_000_000, guaranteed=True, lead="lead", gpu_hours=1
    )
    limits = OverrideLimits(gpus=1, largest=(Shape(cores=8, memory_gib=32, gpus=1),))
    bench.services.overrides.grant(Actor("admin", admin=True), OverrideSubject.ALLOCATION, root, limits, "A test.", 9)
    assert offered(bench, part, "gpu").hours_available == 1.0, "an hour of the GPU, though credits for more"
    assert offered(bench, part, "small").hours_available > 1000
    lease = bench.acquire(part, "lead", "gpu").id
    bench.services.leases.start(lease, None)
    for _renewal in range(5):
        bench.clock.pass_seconds(600)
        bench.services.leases.renew(lease)
    bench.services.leases.settle(lease, None)
    gpu = offered(bench, part, "gpu")
    assert (gpu.hours_available, gpu.usable) == (0.16, False), "600 s, rounded down"
    assert gpu.reason == "The GPU-hours left are not enough for the first 15 minutes."
    assert offered(bench, part, "small").usable
    with pytest.raises(InsufficientBalanceError):
        bench.acquire(part, "lead", "gpu")
