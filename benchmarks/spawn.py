"""From asking for a server to its being ready, against a plain JupyterHub."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from benchmarks.platforms import HubClient, our_platform, plain_hub
from benchmarks.report import Comparison, Report, Section, Share
from tests.e2e.platform import wait_for

if TYPE_CHECKING:
    from benchmarks.report import Step
    from tests.e2e.platform import Person

PAIRS, PAIRS_QUICK = 5, 1
COMPARES = (
    "POST /hub/api/users/NAME/server until the server is ready: our whole platform with its lease, against "
    "JupyterHub with SimpleLocalProcessSpawner; the same proxy, program, settings and person's home on both sides."
)


def steps(*, quick: bool) -> int:
    """Return how many steps of the progress bar `run` makes."""
    return 2 + 2 * (1 + (PAIRS_QUICK if quick else PAIRS))


def run(step: Step, *, quick: bool) -> Report:
    """Measure pairs of starts; the first pair, on fresh homes, only warms up."""
    step("starting the platform")
    with our_platform() as platform:
        step("starting the plain hub")
        with plain_hub() as plain:
            person = platform.person("researcher")
            allocation = person.accept_agreement()["id"]
            with closing(HubClient.of(person)) as hub:
                options = {"allocation": allocation, "size": "small"}
                ours: list[tuple[float, float, float]] = []
                theirs: list[float] = []
                for pair in range(1 + (PAIRS_QUICK if quick else PAIRS)):
                    step("a server of ours")
                    begin = datetime.now(UTC)
                    total = hub.start(options)
                    to_lease, to_start = _parts(person, begin)
                    ours.append((total, to_lease, to_start))
                    hub.stop()
                    wait_for("the settled lease", lambda: person.leases()[0]["state"] != "open")
                    step("a server of the plain hub")
                    theirs.append(plain.start({}))
                    plain.stop()
                    if pair == 0:
                        ours.clear()
                        theirs.clear()
        platform.audit()
    section = Section("One server")
    section.comparisons.append(Comparison("request to ready", "s", [one[0] for one in ours], theirs))
    section.shares += [
        Share("request to held lease", "s", [one[1] for one in ours]),
        Share("held lease to started process", "s", [one[2] for one in ours]),
        Share("started process to ready", "s", [total - held - started for total, held, started in ours]),
    ]
    differences = [our[0] - their for our, their in zip(ours, theirs, strict=True)]
    return Report("spawn", COMPARES, "plain JupyterHub", [section], [_difference(differences)])


def _parts(person: Person, begin: datetime) -> tuple[float, float]:
    """Return the seconds from the request to the lease, and from there to the process's reported start."""
    lease = person.leases()[0]
    acquired, started = (datetime.fromisoformat(lease[name]) for name in ("acquired_at", "started_at"))
    return (acquired - begin).total_seconds(), (started - acquired).total_seconds()


def _difference(seconds: list[float]) -> str:
    return (
        f"Ours minus theirs, pair by pair: {', '.join(f'{one:+.2f}' for one in seconds)} s. The ledger audit is clean."
    )
