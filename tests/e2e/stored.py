"""Files on a platform under test grow old, days pass, and the agent's duties are done at once.

A week passes by a clock that is set ahead, in a calendar beside the worker's; and files are old because the record of
arrivals says that they have long been there.
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

from sqlalchemy import update

from allocations.clock import MS_PER_DAY
from allocations.db.database import Database
from allocations.db.schema import purges
from allocations.factory import make_services
from allocations.storage.purge.models import PurgeState
from allocations.storage.purge.plan import plan
from allocations.storage.purge.rules import AreaRules
from tests.allocations.conftest import TestClock
from tests.e2e.platform import ROOT, wait_for
from tests.fresh import shipped_policy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.platform import Person, Platform

LONG_AGO_DAYS = 60
WEEK_AND_MORE_DAYS = 10
# The agent looks every 15 seconds for what there is to purge or to restore.
PATIENCE_SECONDS = 180.0


def scratch_of(person: Person, allocation: str, state: Path) -> tuple[str, Path]:
    """Return the area of an allocation's scratch and its folder, when the agent has made both."""

    def look() -> str:
        areas = person.call("GET", "/storage").json()["areas"]
        mine = [one["id"] for one in areas if (one["storage_class"], one["allocation"]) == ("scratch", allocation)]
        return mine[0] if mine else ""

    area = wait_for("the area", look, PATIENCE_SECONDS)
    folder = state / "scratch" / allocation
    wait_for("the folder", folder.is_dir, PATIENCE_SECONDS)
    return area, folder


def write_files(folder: Path, content: bytes, *names: str) -> None:
    """Write files of the same content into a folder, and the folders that they are in."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def make_old(platform: Platform, area: str, folder: Path, *names: str, tier: str = "entry") -> None:
    """Let files have been there, unused, for long: by their times, and by the record of arrivals."""
    then_ms = time.time_ns() // 1_000_000 - LONG_AGO_DAYS * MS_PER_DAY
    for name in names:
        os.utime(folder / name, (then_ms / 1000,) * 2)
    arrivals = platform.state / "storage" / "arrivals" / area
    rules = AreaRules(shipped_policy().storage, storage="scratch", tier=tier, state="active", as_of_ms=then_ms)
    output = platform.state.parent / "then.zst"
    plan(str(folder), rules, str(output), arrivals=str(arrivals), now_ms=then_ms, processes=1)


def measure_now(platform: Platform) -> None:
    """Do the agent's duties once beside it, or what of them it is not at just then."""
    environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "PYTHONPATH"}} | {
        "MERIDIAN_DATABASE_URL": f"sqlite:///{platform.state}/allocations.sqlite",
        "MERIDIAN_RUN_STORE": str(platform.state / "runs"),
        "MERIDIAN_STORAGE_CONFIG": str(platform.state / "storage.json"),
    }
    command = [str(ROOT / ".venv/bin/meridian"), "storage", "--once"]
    subprocess.run(command, env=environment, capture_output=True, check=False, timeout=PATIENCE_SECONDS)


def let_days_pass(platform: Platform) -> None:
    """Do what the calendar does on each of the days that come."""
    database = Database(f"sqlite:///{platform.state}/allocations.sqlite")
    now_ms = time.time_ns() // 1_000_000
    clock = TestClock(now_ms)
    services = make_services(database, shipped_policy(), platform.state / "runs", clock)
    for days in range(WEEK_AND_MORE_DAYS):
        clock.at_ms = now_ms + days * MS_PER_DAY
        services.purges.look()
    # To the platform, whose clock has not moved, the end that people were told is over as well.
    with database.write() as connection:
        connection.execute(update(purges).where(purges.c.state == PurgeState.DUE).values(window_ends_at_ms=now_ms))
    database.dispose()
