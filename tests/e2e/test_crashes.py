"""Denials and crashes on the real platform: nothing lost, nothing charged twice, the ledger clean afterwards."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from allocations.storage.purge.planfile import PlanReader
from tests.e2e.platform import wait_for
from tests.e2e.stored import scratch_of

if TYPE_CHECKING:
    from tests.e2e.platform import Person, Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SMALL = 13  # microcredits a second
FILES = 20_000


@pytest.fixture(scope="module")
def researcher(platform: Platform) -> Person:
    person = platform.person("researcher")
    person.accept_agreement()
    return person


def charged_to_the_second(lease: dict[str, Any]) -> bool:
    ran = datetime.fromisoformat(lease["ended_at"]) - datetime.fromisoformat(lease["started_at"])
    return bool(lease["charged_microcredits"] == int(ran.total_seconds()) * lease["microcredits_per_second"])


def test_forged_spawns_are_denied_by_the_same_rules(platform: Platform, researcher: Person) -> None:
    lead = platform.person("lead")
    theirs = lead.accept_agreement()["id"]
    entry = researcher.allocation("entry")["id"]
    forged: list[tuple[dict[str, Any], str]] = [
        ({"allocation": theirs, "size": "small"}, "not a member"),
        ({"allocation": entry, "size": "compute"}, "above the largest"),
        ({"allocation": entry, "size": "gpu"}, "above the largest"),
        ({"allocation": entry, "size": "free"}, "no size"),
        ({"allocation": "a-1' OR '1'='1", "size": "small"}, "no allocation"),
        ({"allocation": {"$ne": None}, "size": "small"}, ""),
        ({"allocation": entry, "size": ["small"]}, ""),
        ({"allocation": entry, "size": "small", "image": "root"}, "no image"),
    ]
    for options, reason in forged:
        response = researcher.hub("POST", "/users/researcher/server", options)
        assert response.status_code in {400, 403}, (options, response.status_code, response.text)
        assert reason in response.text, response.text
    assert not researcher.server_is_ready()
    assert [lease for lease in researcher.leases() if lease["state"] == "open"] == []
    # A denial is not a failure: more of them than the hub's limit of consecutive failures, and it still starts.
    platform.audit()


def test_a_person_cannot_lease_for_themselves(researcher: Person) -> None:
    body = {"allocation": researcher.allocation("entry")["id"], "person": "researcher", "size": "small"}
    assert researcher.call("POST", "/leases", body, key="mine").json()["code"] == "missing_scope"


def test_a_second_server_is_denied_with_a_sentence_and_a_remedy(platform: Platform, researcher: Person) -> None:
    entry = researcher.allocation("entry")["id"]
    researcher.start_server(entry)
    response = researcher.hub("POST", "/users/researcher/servers/second", {"allocation": entry, "size": "small"})
    assert response.status_code == 403
    assert "one server at once" in response.text
    assert "Stop a server first" in response.text
    researcher.stop_server()
    assert charged_to_the_second(researcher.leases()[0])
    platform.audit()


def test_killing_the_service_while_a_server_runs_loses_nothing(platform: Platform, researcher: Person) -> None:
    researcher.start_server(researcher.allocation("entry")["id"])
    platform.kill("allocations")
    wait_for("the service", lambda: researcher.call("GET", "/leases").status_code == 200)
    assert researcher.server_is_ready()
    assert researcher.leases()[0]["state"] == "open"
    researcher.stop_server()
    assert charged_to_the_second(researcher.leases()[0])
    platform.audit()


def test_a_stop_while_the_service_is_down_is_settled_at_its_time(platform: Platform, researcher: Person) -> None:
    researcher.start_server(researcher.allocation("entry")["id"])
    time.sleep(5)
    platform_service = psutil.Process(platform.pid_of("allocations"))
    platform_service.suspend()
    pending = platform.state / "pending-settles"
    researcher.hub("DELETE", "/users/researcher/server")
    wait_for("a charge to report", lambda: pending.is_dir() and any(pending.iterdir()), 60)
    noted = time.time()
    time.sleep(5)
    platform_service.resume()
    wait_for("the settled lease", lambda: researcher.leases()[0]["state"] == "settled", 90)
    lease = researcher.leases()[0]
    assert charged_to_the_second(lease)
    assert datetime.fromisoformat(lease["ended_at"]).timestamp() <= noted
    platform.audit()


def test_killing_the_hub_keeps_servers_and_leases(platform: Platform, researcher: Person) -> None:
    researcher.start_server(researcher.allocation("entry")["id"])
    lease = researcher.leases()[0]
    [server] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "jupyterhub-singleuser" in " ".join(process.info["cmdline"] or [])
        and process.environ().get("JUPYTERHUB_SERVICE_PREFIX") == "/user/researcher/"
        and f":{platform.port}" in process.environ().get("MERIDIAN_URL", "")
    ]
    platform.kill("hub")

    def carries_on() -> bool:
        response = researcher.hub("GET", "/users/researcher")
        return response.status_code == 200 and researcher.server_is_ready()

    wait_for("the hub", carries_on, 90)
    assert server.is_running()
    [open_lease] = [one for one in researcher.leases() if one["state"] == "open"]
    assert open_lease["id"] == lease["id"]
    researcher.stop_server()
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert charged_to_the_second(researcher.leases()[0])
    platform.audit()


def test_killing_the_worker_charges_once(platform: Platform, researcher: Person) -> None:
    researcher.start_server(researcher.allocation("entry")["id"])
    platform.kill("worker")
    wait_for("the worker", lambda: researcher.call("GET", "/health").json()["status"] == "ok")
    researcher.stop_server()
    assert charged_to_the_second(researcher.leases()[0])
    platform.audit()


def test_killing_storage_in_a_plan_leaves_a_whole_one_to_the_next(platform: Platform, researcher: Person) -> None:
    """A dry run over many files, killed while the agent looks through them: what it says at the end is all of them."""
    area, scratch = scratch_of(researcher, researcher.allocation("entry")["id"], platform.state)
    for number in range(FILES):
        (scratch / str(number)).touch()
    at = ("--state", platform.state, "--json")
    far = f"{datetime.now(UTC) + timedelta(days=90):%Y-%m-%d}"
    run = json.loads(platform.meridian("purge", "plan", "scratch", "--dry-run", "--as-of", far, *at).stdout)["id"]

    def purge_of_area() -> dict[str, Any]:
        shown = json.loads(platform.meridian("purge", "show", run, *at).stdout)
        found: dict[str, Any] = next(one for one in shown["purges"] if one["area_id"] == area)
        return found | {"of_run": shown["state"]}

    agent = psutil.Process(platform.pid_of("storage"))
    wait_for("the plan's beginning", lambda: is_planned_now(platform, area), 90, pause=0.001)
    agent.kill()
    assert purge_of_area()["state"] == "planning"
    # What the dead process held is free again when its hold is over.
    wait_for("the end of the run", lambda: purge_of_area()["of_run"] == "done", 240, pause=2)
    purge = purge_of_area()
    assert (purge["state"], purge["files"], purge["problem"]) == ("planned", FILES, None)
    plan = PlanReader(str(platform.state / "storage" / "plans" / f"{purge['id']}.jsonl.zst"))
    assert sorted(one.path for one in plan) == sorted(str(number) for number in range(FILES))
    assert len(list(scratch.iterdir())) == FILES
    assert platform.pid_of("storage") != agent.pid
    assert researcher.call("GET", "/health").json()["status"] == "ok"
    platform.audit()


def is_planned_now(platform: Platform, area: str) -> bool:
    """Whether the agent has the lock of an area, and parts of a plan are there already: of this one, for it plans the
    areas of a class one after another."""
    with closing(sqlite3.connect(f"file:{platform.state}/allocations.sqlite?mode=ro", uri=True)) as database:
        held = "SELECT 1 FROM duties WHERE name = ? AND until_ms > 0"
        if database.execute(held, [f"storage {area}"]).fetchone() is None:
            return False
    plans = str(platform.state / "storage" / "plans")
    # Other than pathlib, it does not mind what vanishes meanwhile.
    return any({*parts} - {"lock"} for folder, _folders, parts in os.walk(plans) if folder != plans)


def test_a_server_that_dies_by_itself_is_settled(platform: Platform, researcher: Person) -> None:
    researcher.start_server(researcher.allocation("entry")["id"])
    [server] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "jupyterhub-singleuser" in " ".join(process.info["cmdline"] or [])
        and f":{platform.port}" in process.environ().get("MERIDIAN_URL", "")
    ]
    server.kill()
    wait_for("the settled lease", lambda: researcher.leases()[0]["state"] == "settled", 90)
    assert charged_to_the_second(researcher.leases()[0])
    platform.audit()


def test_an_exhausted_allocation_is_denied(platform: Platform, researcher: Person) -> None:
    """It buys one quantum; a few seconds of it are spent, and the rest no longer buys another."""
    lead = platform.person("lead")
    root = lead.allocation("consortium")["id"]
    body = {"name": "Almost spent", "microcredits": SMALL * 900, "lead": "researcher"}
    divided = lead.call("POST", f"/allocations/{root}/suballocations", body, key="almost-spent")
    allocation = divided.json()["allocation"]["id"]
    researcher.start_server(allocation)
    time.sleep(2)
    researcher.stop_server()
    assert researcher.leases()[0]["charged_microcredits"] > 0
    response = researcher.hub("POST", "/users/researcher/server", {"allocation": allocation, "size": "small"})
    assert response.status_code == 403
    message = response.json()["message"]
    assert re.search(r"“Almost spent” has 0\.011\d+ credits left; this needs 0\.0117 credits\.", message)
    assert "request more" in message
    platform.audit()
