"""Nothing runs without a lease, and each lease ends exactly once: settled, or voided if there was no process."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta

import pytest
from jupyterhub.spawner import SpawnException

from tests.hub.fake_allocations import allocation, start_options


def started(bench, queue=None, **traits):
    return bench.new_spawner(queue or bench.new_queue(), **traits)


def test_a_server_starts_on_the_default_choice_and_settles_when_it_is_stopped(bench):
    async def scenario():
        spawner = started(bench)
        address = await spawner.start()
        state = bench.stored_state()
        assert await spawner.poll() is None
        await bench.user.stop()
        return address, state

    address, state = asyncio.run(scenario())
    assert address[0] == "127.0.0.1"
    assert state["meridian_lease"]["lease_id"] in bench.service.leases
    assert state["pid"]
    assert [path.rpartition("/")[2] for path, _ in bench.service.calls] == [
        "start-options",
        "leases",
        "start",
        "settle",
    ]
    assert bench.service.made("leases")[0]["size"] == "small"
    assert bench.service.states() == ["settled"]
    assert "meridian_lease" not in bench.stored_state()


def test_each_attempt_has_its_own_idempotency_key(bench):
    async def scenario():
        spawner = started(bench)
        for _ in range(2):
            await spawner.start()
            await bench.user.stop()
            bench.new_spawner(spawner.pending_settles)
            spawner = bench.user.spawners[""]

    asyncio.run(scenario())
    assert bench.service.states() == ["settled", "settled"]


@pytest.mark.parametrize("forged", [{"allocation": ["a1"], "size": "small"}, {"cores": 64}])
def test_forged_options_reach_no_service(bench, forged):
    async def scenario():
        spawner = started(bench, user_options=forged)
        with pytest.raises(SpawnException) as refused:
            await spawner.start()
        return refused.value

    refused = asyncio.run(scenario())
    assert (refused.status_code, refused.reason) == (400, "invalid_choice")
    assert bench.service.calls == []


def test_a_denial_says_what_is_wrong_and_what_to_do_in_escaped_html(bench, monkeypatch):
    problem = {
        "code": "insufficient_balance",
        "detail": "Only <b>0</b> credits are left.",
        "remedy": "Ask your lead.",
        "remedy_url": "/services/allocations/a1?x=1&y=2",
    }
    monkeypatch.setattr("tests.hub.fake_allocations.PROBLEM", problem)
    bench.service.faults["leases"] = [403]

    async def scenario():
        spawner = started(bench)
        with pytest.raises(SpawnException) as refused:
            await spawner.start()
        await bench.user.stop()
        return refused.value

    refused = asyncio.run(scenario())
    assert (refused.status_code, refused.reason) == (403, "insufficient_balance")
    assert refused.message == "Only <b>0</b> credits are left. Ask your lead."
    assert "&lt;b&gt;0&lt;/b&gt;" in refused.message_html
    assert 'href="/services/allocations/a1?x=1&amp;y=2"' in refused.message_html
    assert refused.jupyterhub_html_message == refused.message_html
    assert bench.service.made("void") == []


@pytest.mark.parametrize("url", ["javascript:alert(1)", "//evil.example/", "/\\evil.example"])
def test_a_remedy_never_links_to_a_script_or_another_site_in_disguise(bench, monkeypatch, url):
    problem = {"code": "x", "detail": "No.", "remedy": "Do.", "remedy_url": url}
    monkeypatch.setattr("tests.hub.fake_allocations.PROBLEM", problem)
    bench.service.faults["leases"] = [403]
    with pytest.raises(SpawnException) as refused:
        asyncio.run(start_only(bench))
    assert "href" not in refused.value.message_html


async def start_only(bench):
    await started(bench).start()


def test_an_unaccepted_agreement_is_the_first_reason_given(bench):
    agreement = {"version": "2", "title": "Terms", "accepted": False, "url": "/services/allocations/agreement"}
    bench.service.options = start_options(agreement=agreement, allocations=[allocation()], default=None)
    with pytest.raises(SpawnException) as refused:
        asyncio.run(start_only(bench))
    assert refused.value.reason == "agreement_required"
    assert "/services/allocations/agreement" in refused.value.message_html


@pytest.mark.parametrize("fault", ["unreachable", 503, "no answer"])
def test_an_unavailable_service_refuses_the_start_and_leaves_no_hold(bench, fault):
    bench.service.faults["leases"] = [fault] * 3

    async def scenario():
        spawner = started(bench)
        with pytest.raises(SpawnException) as refused:
            await spawner.start()
        assert await spawner.pending_settles.settle_now("ada", 2)
        return refused.value

    refused = asyncio.run(scenario())
    assert refused.status_code == 503
    assert "Try again in a minute; nothing was charged." in refused.message
    assert set(bench.service.states()) <= {"voided"}
    assert bench.service.states() == ([] if fault == "unreachable" else ["voided"])


def test_an_answer_lost_once_is_asked_for_again_under_the_same_key(bench):
    bench.service.faults["leases"] = ["no answer"]

    async def scenario():
        await started(bench).start()
        await bench.user.stop()

    asyncio.run(scenario())
    assert bench.service.states() == ["settled"]
    assert len(bench.service.made("leases")) == 2


def test_a_start_that_fails_after_the_lease_was_held_voids_it(bench):
    async def scenario():
        spawner = started(bench, cmd=["/nonexistent/program"])
        with pytest.raises(FileNotFoundError):
            await spawner.start()
        assert await spawner.pending_settles.settle_now("ada", 2)

    asyncio.run(scenario())
    assert bench.service.states() == ["voided"]
    assert bench.service.made("settle") == []


def test_a_stop_that_overtakes_the_start_voids_the_lease_and_starts_nothing(bench):
    async def scenario():
        spawner = started(bench)
        bench.service.on_acquire = bench.user.stop
        with pytest.raises(SpawnException) as refused:
            await spawner.start()
        assert await spawner.pending_settles.settle_now("ada", 2)
        return refused.value, spawner.proc

    refused, process = asyncio.run(asyncio.wait_for(scenario(), 20))
    assert refused.reason == "stopped"
    assert process is None
    assert set(bench.service.states()) == {"voided"}


def test_a_cancelled_start_leaves_a_key_by_which_its_hold_is_voided(bench):
    async def scenario():
        spawner = started(bench)
        asked = asyncio.Event()

        async def never_answer():
            asked.set()
            await asyncio.sleep(60)

        bench.service.on_acquire = never_answer
        start = asyncio.create_task(spawner.start())
        await asked.wait()
        start.cancel()
        await asyncio.wait([start])
        assert bench.stored_state()["meridian_lease"]["idempotency_key"] in bench.service.leases
        await bench.user.stop()

    asyncio.run(scenario())
    assert bench.service.states() == ["voided"]


def test_a_server_that_ended_by_itself_is_settled_at_the_first_look_that_showed_it(bench):
    async def scenario():
        spawner = started(bench)
        bench.service.faults["settle"] = ["unreachable"] * 3
        await spawner.start()
        os.killpg(spawner.pid, signal.SIGKILL)
        assert await spawner.wait_for_death(30)
        seen_by = datetime.now(UTC)
        await asyncio.sleep(0.2)
        # JupyterHub's callback: it polls, finds the server dead, and never calls spawner.stop().
        await bench.user.stop()
        return seen_by

    seen_by = asyncio.run(scenario())
    (settle,) = bench.service.made("settle")
    assert datetime.fromisoformat(settle["ended_at"]) <= seen_by
    assert bench.service.states() == ["settled"]


def test_the_hooks_that_people_configure_still_run_after_a_stop(bench):
    seen = []

    async def scenario():
        spawner = started(bench, post_stop_hook=lambda spawner: seen.append(spawner.user.name))
        await spawner.start()
        await bench.user.stop()

    asyncio.run(scenario())
    assert seen == ["ada"]


def test_a_stop_does_not_wait_long_for_the_service_and_a_later_hub_settles_with_the_time_recorded(bench):
    async def first_hub():
        queue = bench.new_queue()
        spawner = started(bench, queue, settle_wait_seconds=0.1)
        await spawner.start()
        bench.service.faults["settle"] = ["unreachable"] * 10_000
        # Times are reported to the millisecond, rounded down.
        before = datetime.now(UTC) - timedelta(milliseconds=1)
        await asyncio.wait_for(bench.user.stop(), 5)
        ended_by = datetime.now(UTC)
        await queue.close()
        return before, ended_by

    async def second_hub():
        queue = bench.new_queue()
        assert queue.replay() == 1
        assert await queue.settle_now("ada", 2)

    before, ended_by = asyncio.run(first_hub())
    (pending,) = (bench.directory / "pending").iterdir()
    assert pending.stat().st_mode & 0o077 == 0
    assert bench.service.states() == ["open"]
    bench.service.faults.clear()
    asyncio.run(second_hub())
    (settle,) = bench.service.made("settle")
    assert before <= datetime.fromisoformat(settle["ended_at"]) <= ended_by
    assert bench.service.states() == ["settled"]
    assert list((bench.directory / "pending").iterdir()) == []


def test_a_hub_killed_while_a_server_runs_keeps_it_running_and_reports_a_start_that_was_not_acknowledged(bench):
    async def first_hub():
        spawner = started(bench)
        bench.service.faults["start"] = ["unreachable"] * 3
        await spawner.start()
        return spawner.proc

    async def second_hub():
        spawner = started(bench)
        assert await spawner.poll() is None
        await spawner._start_report
        assert bench.stored_state()["meridian_lease"]["start_acknowledged"] is True
        await bench.user.stop()

    process = asyncio.run(first_hub())
    assert process.poll() is None
    (begun,) = bench.service.leases.values()
    assert begun["started_at"] is None
    asyncio.run(second_hub())
    (lease,) = bench.service.leases.values()
    assert lease["state"] == "settled"
    assert lease["started_at"] < lease["ended_at"]
    assert process.wait(5) == -signal.SIGINT


def test_a_server_whose_start_was_cut_off_is_charged_from_the_first_look_that_showed_it(bench):
    async def first_hub():
        spawner = started(bench)
        await spawner.start()
        return spawner.proc

    async def second_hub():
        spawner = started(bench)
        assert await spawner.poll() is None
        await spawner._start_report
        await bench.user.stop()

    process = asyncio.run(first_hub())
    state = bench.stored_state()
    state["meridian_lease"] |= {"process_started_at": None, "start_acknowledged": False}
    bench.user.orm_user.orm_spawners[""].state = state
    bench.user.db.commit()
    asyncio.run(second_hub())
    first, second = bench.service.made("start")
    assert first["started_at"] < second["started_at"]
    assert bench.service.states() == ["settled"]
    assert process.wait(5) == -signal.SIGINT


def test_a_lease_that_ended_while_the_server_was_starting_stops_it(bench):
    async def scenario():
        spawner = started(bench)
        bench.service.faults["start"] = [409]
        with pytest.raises(SpawnException):
            await spawner.start()
        await bench.user.stop()
        return await spawner.poll()

    assert asyncio.run(scenario()) is not None


def test_a_process_number_that_belongs_to_another_process_is_not_our_server(bench):
    async def scenario():
        spawner = started(bench)
        spawner.load_state({"pid": os.getpid(), "process_identity": "1"})
        return await spawner.poll()

    assert asyncio.run(scenario()) == 0


def test_the_progress_says_who_pays_for_what_and_how_much(bench):
    async def scenario():
        spawner = started(bench)
        await spawner.start()
        messages = [event["message"] async for event in spawner.progress()]
        await bench.user.stop()
        return messages

    assert "Allocation Entry of ada: size small (2 CPU, 8 GiB), 0.12 credits an hour" in asyncio.run(scenario())


def test_the_token_is_in_no_message(bench):
    bench.service.faults["start-options"] = [401]
    with pytest.raises(SpawnException) as refused:
        asyncio.run(start_only(bench))
    assert refused.value.status_code == 503
    assert "secret" not in repr(refused.value) + repr(bench.client) + repr(refused.value.__cause__)
