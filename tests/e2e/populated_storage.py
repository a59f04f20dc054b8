"""Storage of a populated platform: what was purged and came back, what is about to be, and who asked to keep what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.e2e.platform import wait_for
from tests.e2e.stored import PATIENCE_SECONDS, let_days_pass, make_old, measure_now, scratch_of, write_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.e2e.platform import Person, Platform

CONTENT = bytes(range(256)) * 400
# More than one page of an archive shows.
FRAMES = tuple(f"cache/frame-{number:02}.dat" for number in range(45))
KEPT, YOUNG = "results/night-1/spectrum.fits", "notes.txt"
FIELDS = tuple(f"deep-field/{number}/image.fits" for number in range(3))
FAR_DAYS = 90


def populate_storage(platform: Platform, people: Mapping[str, Person]) -> None:
    """Let the running agent purge, bring back and plan; what it has measured are the files of all."""
    member, lead = people["researcher"], people["lead"]
    for name in ("researcher", "lead"):
        write_files(platform.state / "homes" / name, CONTENT, "notebooks/spectra.bin", ".cache/pip/wheel")
    _purge_and_bring_back(platform, people, *scratch_of(member, member.allocation("entry")["id"], platform.state))
    consortium = lead.allocation("consortium")["id"]
    _plan_and_keep(platform, people, *scratch_of(lead, consortium, platform.state))
    measure_now(platform)


def _purge_and_bring_back(platform: Platform, people: Mapping[str, Person], area: str, folder: Path) -> None:
    """Old files of an allocation go when their owner's time is over, but for those that are to stay; one comes back."""
    member, reviewer = people["researcher"], people["reviewer"]
    write_files(folder, CONTENT, *FRAMES, KEPT, YOUNG)
    make_old(platform, area, folder, *FRAMES, KEPT)
    people["admin"].send("/purge-runs", {"storage_class": "scratch"})
    _wait_for_purge(member, area, "noticed")
    wanted = {"folder": "results", "days": 60, "reason": "The paper is under review."}
    asked = member.send(f"/storage/{area}/exemptions", wanted)
    reviewer.send(f"/exemptions/{asked['id']}/grant", {"days": 60, "answer": "Until it is out."})
    let_days_pass(platform)
    _wait_for_purge(member, area, "done")
    [archive] = member.call("GET", f"/storage/{area}/archives").json()["archives"]
    asked_back = member.send(f"/archives/{archive['id']}/restores", {"paths": [FRAMES[0]], "target": "beside"})

    def is_back() -> bool:
        return bool(member.call("GET", f"/restores/{asked_back['id']}").json()["state"] == "done")

    wait_for("the file from the archive", is_back, PATIENCE_SECONDS)


def _plan_and_keep(platform: Platform, people: Mapping[str, Person], area: str, folder: Path) -> None:
    """Old files of a consortium are about to go; its lead asks for an exemption, and lets other files become older."""
    lead, admin = people["lead"], people["admin"]
    write_files(folder, CONTENT, *FIELDS)
    make_old(platform, area, folder, *FIELDS, tier="consortium")
    admin.send("/purge-runs", {"storage_class": "scratch"})
    _wait_for_purge(lead, area, "noticed")
    lead.send(f"/storage/{area}/exemptions", {"folder": "deep-field/1", "days": 30, "reason": "The paper is late."})
    lead.send(f"/storage/{area}/age", {"age_days": 60, "lasts_days": 30, "reason": "The last night is late."})
    far = datetime.now(UTC) + timedelta(days=FAR_DAYS)
    admin.send("/purge-runs", {"storage_class": "scratch", "dry_run": True, "as_of": far.isoformat()})


def _wait_for_purge(person: Person, area: str, state: str) -> None:
    """Wait until an area's purge has come so far."""

    def is_there() -> bool:
        purges = person.call("GET", f"/storage/{area}/purges").json()["purges"]
        return any(one["state"] == state and one["files"] for one in purges)

    wait_for(f"the purge that is {state}", is_there, PATIENCE_SECONDS)
