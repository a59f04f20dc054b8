"""A platform with people of every role, and something of everything that pages show."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.e2e.platform import Person, Platform, wait_for
from tests.e2e.populated_storage import populate_storage

if TYPE_CHECKING:
    from pathlib import Path

ROLES = {
    "stranger": ["researcher"],  # has not accepted the agreement
    "newcomer": ["researcher"],  # is invited, and leads an allocation of instalments
    "researcher": ["researcher"],  # whom a new installation takes into its consortium: a member
    "manager": ["researcher"],
    "lead": ["researcher", "lead"],
    "paused": ["researcher"],  # leads an allocation that is suspended
    "barred": ["researcher"],  # is suspended
    "reviewer": ["researcher", "reviewer"],
    "admin": ["researcher", "admin"],
}
PASSWORD = "a password for tests"


def write_accounts(state: Path) -> None:
    """Give everybody an account before the platform makes its own."""
    state.mkdir(mode=0o700, parents=True)
    path = state / "accounts.json"
    accounts = [{"name": name, "password": PASSWORD, "roles": roles} for name, roles in ROLES.items()]
    path.write_text(json.dumps({"accounts": accounts}))
    path.chmod(0o600)


def notebook(*sources: str) -> dict[str, Any]:
    """A notebook of code cells."""
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for n, source in enumerate(sources)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells}


def populate(platform: Platform) -> None:
    """Let everybody do what people do, by the API and with files."""
    people = {name: platform.person(name) for name in ROLES if name != "stranger"}
    for person in people.values():
        person.accept_agreement()
    lead, admin, reviewer = people["lead"], people["admin"], people["reviewer"]
    newcomer, paused, member = people["newcomer"], people["paused"], people["researcher"]
    runs = [
        _run(member, "1 + 1"),
        _run(member, "raise ValueError('bad')"),
        _run(member, "import time; time.sleep(3000)"),
    ]

    consortium = lead.allocation("consortium")["id"]
    at = f"/allocations/{consortium}"
    for name, microcredits in (("Photometric redshifts", 900_000_000), ("Shear", 300_000_000)):
        lead.send(f"{at}/suballocations", {"name": name, "microcredits": microcredits, "lead": "lead"})
    asked = lead.send(f"{at}/members", {"person": "manager", "role": "manager"})
    people["manager"].send(f"/invitations/{asked['id']}/accept", {})
    for invited in ("newcomer", "stranger"):
        lead.send(f"{at}/members", {"person": invited, "role": "member"})
    paper = {"identifier": "10.3847/1538-4357/abcdef", "title": "Dark stars"}
    lead.send(f"{at}/publications", paper)
    lead.send(f"{at}/requests", {"kind": "supplement", "justification": "A second field.", "credits": 5})

    ask = {"tier": "research", "title": "Dark stars", "justification": "We look for them."}
    pilot = newcomer.send("/requests", ask | {"title": "A pilot"})
    reviewer.send(f"/requests/{pilot['id']}/approve", {"why": "The reason."})
    # The crawl opens the newest two of what is alike.
    newcomer.send("/requests", ask | {"title": "A draft", "draft": True})
    newcomer.send("/requests", ask)
    for decision in ("decline", "approve", "request-revision"):
        made = paused.send("/requests", ask | {"title": f"To {decision}"})
        reviewer.send(f"/requests/{made['id']}/{decision}", {"why": "The reason."})
    suspended = next(one for one in paused.call("GET", "/allocations").json()["allocations"] if one["tier"] != "entry")
    admin.send(f"/allocations/{suspended['id']}/suspend", {"why": "The hardware moves."})
    admin.send("/people/barred/suspend", {"reason": "A token in a public place."})
    exception = {"subject_kind": "person", "subject": "newcomer", "limits": {"cores": 64}, "reason": "A meeting."}
    admin.send("/overrides", exception | {"days": 7})

    sweep = _sweep(lead, consortium)
    yearly = _submission(consortium, "1 + 1") | {"title": "Each year", "cron": "0 6 1 1 *"}
    lead.send("/schedules", yearly)
    paused_schedule = lead.send("/schedules", yearly | {"title": "Not this year"})
    lead.send(f"/schedules/{paused_schedule['id']}/pause", {})
    lead.call("PUT", "/secrets/SURVEY_TOKEN", {"value": "for nobody else"})

    # The runs go on beside it.
    populate_storage(platform, people)

    def ended() -> bool:
        states = [member.call("GET", f"/runs/{run}").json()["state"] for run in runs]
        return states == ["succeeded", "failed", "running"]

    wait_for("the ends of the runs", ended, 180)

    def swept() -> bool:
        counts = lead.call("GET", f"/sweeps/{sweep}").json()["counts"]
        return (counts["succeeded"], counts["failed"], counts["running"]) == (1, 1, 1)

    wait_for("the runs of the sweep", swept, 180)


def _run(person: Person, source: str) -> str:
    allocation = person.allocation("entry")["id"]
    run: str = person.send("/runs", _submission(allocation, source))["id"]
    return run


def _sweep(person: Person, allocation: str) -> str:
    """Submit a run that succeeds, one that fails, and one that goes on."""
    made = _submission(allocation, "x = 0", "import time\nfrom hub.batch import record\nrecord('y', x)\n1 / (1 - x)")
    defaults, cell = made["notebook"]["cells"]
    defaults["metadata"] = {"tags": ["parameters"]}
    cell["source"] += "\nif x > 1:\n    time.sleep(3000)"
    sweep: str = person.send("/sweeps", made | {"rows": [{"x": number} for number in range(3)]})["id"]
    return sweep


def _submission(allocation: str, *sources: str) -> dict[str, Any]:
    about = {"allocation": allocation, "size": "small", "name": "made.ipynb", "max_seconds": 3600}
    return about | {"notebook": notebook(*sources)}
