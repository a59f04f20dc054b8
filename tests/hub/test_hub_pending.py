"""An end that the service will never take does not stay for ever, and is never lost without a trace."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from hub.client import LeaseRequest
from hub.spawner.pending import LONGEST_PAUSE_SECONDS, PendingSettle
from tests.fresh import shipped_policy

REQUEST = LeaseRequest(allocation="a1", person="ada", size="small", image=None, server_name="")


def pending_void(lease_id):
    return PendingSettle(action="void", idempotency_key="k1", request=REQUEST, lease_id=lease_id)


def report(bench, pending, fault):
    action = "leases" if pending.lease_id is None else "void"
    bench.service.faults[action] = [fault]

    async def scenario():
        queue = bench.new_queue()
        queue.add(pending)
        taken = await queue.settle_now("ada", 1)
        await queue.close()
        return taken

    taken = asyncio.run(scenario())
    return taken, sorted(path.name for path in (bench.directory / "pending").iterdir())


def test_a_key_under_which_nothing_is_held_is_forgotten(bench):
    assert report(bench, pending_void(None), 403) == (True, [])


def test_a_lease_that_the_service_says_has_ended_is_forgotten(bench, monkeypatch):
    monkeypatch.setattr("tests.hub.fake_allocations.PROBLEM", {"code": "lease_ended", "detail": "It has ended."})
    assert report(bench, pending_void("k1"), 409) == (True, [])


@pytest.mark.parametrize("status", [404, 422])
def test_an_end_that_is_refused_for_good_is_kept_for_the_operator(bench, status):
    assert report(bench, pending_void("k1"), status) == (True, ["k1.refused"])


def test_a_refusal_that_an_operator_can_mend_is_tried_again(bench):
    bench.service.leases["k1"] = bench.service._lease("k1", REQUEST.model_dump())
    assert report(bench, pending_void("k1"), 403) == (True, [])
    assert bench.service.states() == ["voided"]


def test_the_first_end_recorded_for_a_lease_stands(bench):
    async def scenario():
        queue = bench.new_queue()
        queue.add(pending_void(None))
        queue.add(PendingSettle(action="settle", idempotency_key="k1", request=REQUEST, lease_id="k1"))
        assert await queue.settle_now("ada", 1)

    asyncio.run(scenario())
    assert bench.service.states() == ["voided"]
    assert bench.service.made("settle") == []


def test_a_start_that_was_never_reported_is_reported_before_the_settle(bench):
    bench.service.leases["k1"] = bench.service._lease("k1", REQUEST.model_dump())
    started_at = datetime(2026, 11, 21, 10, tzinfo=UTC)
    pending = PendingSettle(
        action="settle",
        idempotency_key="k1",
        request=REQUEST,
        lease_id="k1",
        unreported_start_at=started_at,
        ended_at=started_at + timedelta(seconds=90),
    )

    async def scenario():
        queue = bench.new_queue()
        queue.add(pending)
        assert await queue.settle_now("ada", 1)

    asyncio.run(scenario())
    assert [body for _, body in bench.service.calls] == [
        {"started_at": "2026-11-21T10:00:00.000Z"},
        {"ended_at": "2026-11-21T10:01:30.000Z"},
    ]


def test_a_file_that_can_not_be_read_is_left_and_holds_up_nothing(bench):
    directory = bench.directory / "pending"
    directory.mkdir()
    (directory / "broken.json").write_text("{")

    async def scenario():
        return bench.new_queue().replay()

    assert asyncio.run(scenario()) == 0
    assert (directory / "broken.json").exists()


def test_an_end_is_tried_again_before_the_worker_looks_twice():
    assert shipped_policy().leases.reconcile_seconds > LONGEST_PAUSE_SECONDS
