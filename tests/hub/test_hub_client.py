"""The hub's way to the service, over a real connection."""

from __future__ import annotations

import asyncio
import time

import pytest

from hub.client import AllocationsClient
from tests.hub.fake_allocations import FakeAllocations

pytestmark = pytest.mark.slow


async def never(_seconds: float) -> None:
    raise AssertionError("the call was tried again")


def test_a_hub_that_stands_still_while_hundreds_start_does_not_take_the_service_for_away():
    service = FakeAllocations()

    async def scenario(port: int) -> str:
        client = AllocationsClient(f"http://127.0.0.1:{port}/services/allocations", "secret", sleep=never)
        call = asyncio.create_task(client.start_options("ada"))
        # Once while it connects, and once while it waits for the answer.
        for _ in range(2):
            await asyncio.sleep(0)
            time.sleep(2.5)  # noqa: ASYNC251  the loop itself is what is late
        try:
            return (await call).person
        finally:
            await client.close()

    with service.serving() as port:
        assert asyncio.run(scenario(port)) == "ada"
