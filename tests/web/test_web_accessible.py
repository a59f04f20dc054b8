"""The pages of people, trees and administration in a real browser: axe finds nothing, nothing scrolls sideways."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

import pytest

from allocations.db.idempotency import IdempotencyKey
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award, MemberRole, OverrideLimits, OverrideSubject, RequestKind
from allocations.notify.links import LinkStore, Purpose
from allocations.policy.models import Shape
from allocations.runs.models import Outcome, RunError
from allocations.runs.service import Finish
from tests.serving import serving
from tests.web.conftest import NOTEBOOK
from tests.web.looking import faults_of
from tests.web.test_web_reports import charge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.conftest import Site

CREDIT = 1_000_000
# The tree's levels, a name without a space in it, an invitation, caps and an override: all that is drawn.
LONG_NAME = "Photometric_redshifts_of_faint_galaxies_in_the_deep_fields_of_the_first_season"
# A period with a day that something is charged on, and days to come.
YEARS = "first=2027-01-01&last=2027-12-31"


def pages_of_runs(site: Site, allocation: str) -> list[str]:
    """A run that is under way with a log, one that failed with its notebook, and the pages that lead to them."""
    sources = [LONG_NAME, "x = 1", "for cutout in cutouts: measure(cutout, aperture=7, background='local')", "x"]
    cells = [NOTEBOOK["cells"][0] | {"id": f"c{number}", "source": source} for number, source in enumerate(sources)]
    cells[1] |= {"source": "n = 1", "metadata": {"tags": ["parameters"]}}
    runs = []
    for _ in range(2):
        site.clock.at_ms += 1
        content = NOTEBOOK | {"cells": cells}
        run = site.submit_run("ann", allocation, content, name=f"{LONG_NAME}.ipynb", parameters={"n": 1})
        site.start_run(run, len(cells))
        site.write_events(run, ("cell_started", 1, None), ("cell_finished", 1, 0.3), ("cell_started", 2, None))
        site.write_log(run, "".join(f"{number} {LONG_NAME * 3}\n" for number in range(100)))
        site.write_output(run, content)
        runs.append(run)
    error = RunError(cell=2, name="ValueError", message="No detector WFI19.", traceback=f"ValueError: {LONG_NAME * 3}")
    finish = Finish(1, Outcome.FAILED, site.clock.at_ms, site.clock.at_ms + 5000, error)
    site.clock.at_ms += 9000
    site.services.runs.finish(runs[1], finish)
    return ["/runs", "/runs?state=timed_out", *(f"/runs/{run}" for run in runs), f"/runs/new?again={runs[1]}"]


def pages_of_records(site: Site, allocation: str) -> list[str]:
    """A run with all that a record may have, a replay that made something else, secrets, and the form with them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "SURVEY_TOKEN"):
        site.services.secrets.put("ann", name, "s3cret")
    given = {"environment": ["SURVEY_TOKEN"], "output": f"s3://results/{LONG_NAME}"}
    run = site.submit_run("ann", allocation, NOTEBOOK, **given)
    file = {"path": f"catalogues/{LONG_NAME}.parquet", "bytes": 1_048_576, "sha256": "1" * 64}
    packages = [f"package-{number}==1.{number}" for number in range(100)]
    replay = ""
    for cells in (["a" * 16], ["b" * 16]):
        record = {
            "attempt": 1,
            "notebook_sha256": "0" * 64,
            "interpreter": "3.12.3",
            "platform": "Linux-6.8.0-x86_64-with-glibc2.39",
            "packages": packages,
            "environment_sha256": sha256("\n".join(["3.12.3", *packages]).encode()).hexdigest(),
            "node": "node-7",
            "git_revision": "9c" * 20,
            "inputs": [file, {"path": "s3://survey/m31", "bytes": None, "sha256": None}],
            "outputs": [file | {"sha256": cells[0] * 4}],
            "output_sha256": cells[0] * 4,
            "cells": cells,
        }
        one = replay or run
        site.services.runs.claim("x", 100)
        (site.run_store / one / "provenance.json").write_text(json.dumps(record))
        image = f"registry.example.org/base@sha256:{'7f' * 32}"
        now = site.clock.at_ms
        site.services.runs.finish(one, Finish(1, Outcome.SUCCEEDED, now, now, image_id=image))
        key = IdempotencyKey.for_request("ann", "replay", "replay", {})
        replay = replay or site.services.records.replay("ann", run, key).id
    return [f"/runs/{run}", f"/runs/{replay}", "/secrets", f"/runs/new?again={run}"]


@pytest.fixture
def served(site: Site) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The address of the pages, and the paths to look at by who looks."""
    for person in ("ann", "bob", "lead", "admin"):
        site.accept(person)
    whole = site.open("consortium", "Deep fields", "lead")
    part, lead = whole, Actor("lead")
    for level, name in enumerate((LONG_NAME, "Shear", "Simulations")):
        site.clock.at_ms += 1
        part = site.services.tree.divide(
            lead, part, name=name, microcredits=(900 - 200 * level) * CREDIT, guaranteed=True, lead="lead", gpu_hours=9
        )
        site.services.tree.divide(lead, whole, name=f"{name} 2", microcredits=CREDIT, guaranteed=False, lead="lead")
    site.join(whole, "ann")
    charge(site, whole, "ann", 600)
    site.clock.at_ms += 86_400_000
    site.services.members.invite(lead, whole, "bob", MemberRole.MANAGER, servers_max=1, cores_max=16, gpus_max=0)
    site.services.overrides.grant(
        Actor("admin", admin=True), OverrideSubject.ALLOCATION, whole, OverrideLimits(cores=1024), "A meeting.", 30
    )
    draft = site.services.requests.submit(Actor("ann"), tier="research", title="", justification="", draft=True)
    requests = [site.request("ann", tier=tier, title=LONG_NAME) for tier in ("research", "consortium")]
    more = Award(credits=5, largest=(Shape(cores=64, memory_gib=512, gpus=8),))
    requests.append(site.services.requests.ask(lead, whole, RequestKind.SUPPLEMENT, "More.", asked=more).id)
    # Charges, so that the burn-downs have something to draw; a request under way.
    key = IdempotencyKey.for_request("spawner", "k", "a", {})
    lease = site.services.leases.acquire(LeaseRequest(whole, "lead", LeaseKind.INTERACTIVE, "small", None, ""), key)
    site.services.leases.start(lease.id)
    for _renewal in range(12):
        site.clock.at_ms += 600_000
        site.services.leases.renew(lease.id)
    # Another's server, its time left and its button.
    key = IdempotencyKey.for_request("spawner", "l", "a", {})
    lease = site.services.leases.acquire(LeaseRequest(whole, "ann", LeaseKind.INTERACTIVE, "small", None, ""), key)
    site.services.leases.start(lease.id)
    site.request("lead", title=LONG_NAME)
    site.services.calendar.renew("ann")
    with site.services.database.write() as connection:
        token = LinkStore().make(connection, "ann", Purpose.UNSUBSCRIBE, 0)
    request = LeaseRequest(whole, "ann", LeaseKind.INTERACTIVE, "small", None, "second")
    lease = site.services.leases.acquire(request, IdempotencyKey.for_request("spawner", "m", "a", {}))
    site.services.leases.start(lease.id)
    site.clock.at_ms += 60_000
    site.services.leases.settle(lease.id)
    site.services.suspensions.suspend(Actor("admin", admin=True), "bob", "A token in a public place.", 900)
    paths = {
        "bob": ["/", "/help", "/quota", "/notices", "/notices/settings", f"/unsubscribe/{token}"],
        "rev": ["/review", "/review?find=none", *(f"/requests/{request}" for request in requests)],
        "ann": [
            "/",
            f"/allocations/{whole}/leave",
            "/requests/new",
            f"/requests/{draft.id}",
            "/notices/settings",
            *pages_of_runs(site, whole),
            *pages_of_records(site, whole),
        ],
        "lead": [
            "/",
            "/quota",
            f"/allocations/{whole}",
            f"/allocations/{whole}/ask",
            f"/allocations/{whole}/member?person=ann",
            f"/allocations/{whole}/use",
            f"/allocations/{whole}/use?by=part",
            f"/allocations/{part}/share",
            f"/allocations/{part}/close",
        ],
        "admin": [
            "/admin/allocations",
            f"/admin/allocations/{whole}",
            "/admin/overrides",
            "/admin/report",
            f"/admin/report?{YEARS}&by=allocation",
            "/admin/audit",
            "/admin/audit?words=Deep&person=lead",
            "/policy",
            "/software",
            "/admin/people",
            "/admin/people/person?name=ann",
            "/admin/people/person?name=bob",
        ],
    }
    with serving(site.app) as url:
        yield url, paths


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    served: tuple[str, dict[str, list[str]]], scheme: Literal["light", "dark"], width: int
) -> None:
    assert faults_of(*served, scheme, width) == {}
