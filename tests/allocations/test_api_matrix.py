"""Every route of the API by every role, on one's own and on another's: a new route fails until it stands here."""

from __future__ import annotations

import itertools
import shutil
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import APIRoute

from allocations.api.identity import Identity, Scope
from allocations.api.v1 import PARTS
from allocations.api.v1.members import InvitationAnswer
from allocations.api.v1.transitions import AdminTransition
from allocations.lifecycle.models import ALLOCATION_TRANSITIONS, AllocationParty, RequestAction
from allocations.storage.models import Owner, StorageClass
from allocations.storage.purge.models import (
    ArchiveKind,
    ArchiveState,
    Restore,
    RestoreState,
    RestoreTarget,
    StoredArchive,
)
from allocations.storage.purge.store import ArchiveStore
from allocations.storage.store import StorageStore
from tests.allocations.conftest import make_bench
from tests.allocations.test_api import TOKENS, call, client_of, join
from tests.fresh import fresh_sqlite
from tests.postgres import fresh_database
from tests.web.test_web_session import scopes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi.testclient import TestClient

    from tests.allocations.conftest import Bench

pytestmark = pytest.mark.slow

NOTEBOOK = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
PARAMETRIC = NOTEBOOK | {
    "cells": [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "x = 0", "outputs": []}]
}
ANSWER = "POST /invitations/{invitation_id}/{answer}"
TRANSITION = "POST /allocations/{allocation_id}/{transition}"
FINISH = {"attempt": 1, "outcome": "succeeded", "ended_at": "2027-01-15T08:00:00Z"}
# What each may send to things of ann's, in this order: the member is one of ann's allocation, which bob, the reviewer
# and the administrator do not belong to. Nobody is 401 everywhere, a token without any scope 403.
ROLES = ("ann", "member", "bob", "rev", "admin", "spawner")
LEASES = (403, 403, 403, 403, 403, 200)
OWN_LIST = (200, 200, 200, 200, 200, 403)
OWN_ONLY = (200, 404, 404, 404, 404, 403)
SEEN = (200, 200, 404, 404, 200, 403)
MANAGED = (200, 403, 404, 404, 200, 403)
MADE = (201, 403, 404, 404, 201, 403)
ADMIN = (403, 403, 403, 403, 200, 403)
PERIOD = "?first=2027-01-01&last=2027-01-31"
PUBLIC = (200, 200, 200, 200, 200, 200)


@dataclass(frozen=True)
class Rule:
    """The statuses by role, and a body that is right; `{…}` in it and in the path stand for ids of ann's."""

    statuses: tuple[int, int, int, int, int, int]
    body: dict[str, Any] | None = None
    query: str = ""


RULES = {
    "GET /health": Rule(PUBLIC),
    "GET /start-options": Rule(LEASES, query="?person=ann"),
    "POST /leases": Rule(
        (403, 403, 403, 403, 403, 201), {"allocation": "{allocation_id}", "person": "ann", "size": "small"}
    ),
    "POST /leases/{lease_id}/start": Rule(LEASES, {}),
    "POST /leases/{lease_id}/renew": Rule(LEASES, {}),
    "POST /leases/{lease_id}/settle": Rule(LEASES, {}),
    "POST /leases/{lease_id}/void": Rule(LEASES),
    "GET /leases": Rule(OWN_LIST),
    "GET /leases/open": Rule(LEASES),
    "GET /leases/{lease_id}/outlook": Rule(LEASES),
    "POST /leases/{lease_id}/extend": Rule(LEASES),
    "GET /leases/{lease_id}": Rule((200, 404, 404, 404, 200, 403)),
    "GET /agreement": Rule(OWN_LIST),
    "POST /agreement": Rule(OWN_LIST, {"version": "{version}"}),
    "GET /allocations": Rule(OWN_LIST),
    "GET /allocations/{allocation_id}": Rule(SEEN),
    "POST /allocations/{allocation_id}/suballocations": Rule(
        MADE, {"name": "G", "microcredits": 9, "lead": "ann", "gpu_hours": 1}
    ),
    "PATCH /allocations/{child_id}": Rule(MANAGED, {"microcredits": 8}),
    "POST /allocations/{child_id}/move": Rule(MANAGED, {"to": "{sibling_id}", "microcredits": 1}),
    "DELETE /allocations/{child_id}": Rule(MANAGED, query="?why=over"),
    "POST /allocations/{allocation_id}/members": Rule(MADE, {"person": "guest"}),
    "POST /allocations/{allocation_id}/invitations": Rule(MADE, {"person": "guest", "role": "lead"}),
    "GET /allocations/{allocation_id}/invitations": Rule(MANAGED),
    "PATCH /allocations/{allocation_id}/members/{person}": Rule(MANAGED, {"cores_max": 8}),
    # The person is the member, who may leave.
    "DELETE /allocations/{allocation_id}/members/{person}": Rule((204, 204, 404, 404, 204, 403)),
    "GET /invitations": Rule(OWN_LIST),
    # The reviewer is invited.
    "POST /invitations/{invitation_id}/accept": Rule((404, 404, 404, 200, 404, 403)),
    "POST /invitations/{invitation_id}/decline": Rule((404, 404, 404, 200, 404, 403)),
    "POST /invitations/{invitation_id}/revoke": Rule((200, 404, 404, 404, 200, 403)),
    "GET /allocations/{allocation_id}/publications": Rule(SEEN),
    "POST /allocations/{allocation_id}/publications": Rule(
        (201, 201, 404, 404, 201, 403), {"identifier": "10.3847/1538-4357/abcdef", "title": "Dark stars"}
    ),
    "DELETE /allocations/{allocation_id}/publications/{publication_id}": Rule((204, 403, 404, 404, 204, 403)),
    "POST /allocations/{allocation_id}/suspend": Rule(ADMIN, {"why": "misuse"}),
    "POST /allocations/{allocation_id}/resume": Rule((403, 403, 403, 403, 409, 403), {"why": "a mistake"}),
    "POST /allocations/{allocation_id}/archive": Rule(ADMIN, {"why": "done"}),
    "POST /allocations/{allocation_id}/close": Rule(ADMIN, {"why": "done"}),
    "GET /overrides": Rule(ADMIN),
    "POST /overrides": Rule(
        (403, 403, 403, 403, 201, 403),
        {"subject_kind": "allocation", "subject": "{allocation_id}", "limits": {"cores": 8}, "reason": "R", "days": 7},
    ),
    "DELETE /overrides/{override_id}": Rule(ADMIN, query="?why=over"),
    "GET /images": Rule(OWN_LIST),
    "GET /quotas/ann": Rule((200, 404, 404, 404, 200, 403)),
    "PUT /people/{person}": Rule(LEASES, {"issuer": "https://sign-in.example.org", "subject": "7", "adopt": True}),
    "GET /people/with-runs": Rule(LEASES),
    "POST /people/{person}/end-runs": Rule(LEASES, {}),
    "POST /people/{person}/suspend": Rule(ADMIN, {"reason": "misuse"}),
    "POST /people/{person}/resume": Rule((403, 403, 403, 403, 409, 403), {"why": "a mistake"}),
    "GET /notices": Rule(OWN_LIST),
    "POST /notices/{notice_id}/read": Rule(OWN_ONLY),
    "GET /audit": Rule(ADMIN),
    "GET /audit/file": Rule(ADMIN, query="?lines=true"),
    "GET /reports/use": Rule(ADMIN, query=PERIOD),
    "GET /reports/use/file": Rule(ADMIN, query=PERIOD),
    "GET /reports/tiers": Rule(ADMIN),
    "POST /requests": Rule((201, 201, 201, 201, 201, 403), {"tier": "research", "title": "T", "justification": "J"}),
    # Only who leads the allocation asks for more of it, not even an administrator; it has a single instalment.
    "POST /allocations/{allocation_id}/progress": Rule((409, 403, 404, 404, 403, 403), {"report": "We went on."}),
    "POST /allocations/{allocation_id}/requests": Rule(
        (201, 403, 404, 404, 403, 403), {"kind": "supplement", "justification": "A second field.", "credits": 5}
    ),
    "GET /requests": Rule(OWN_LIST),
    "GET /requests/queue": Rule((403, 403, 403, 200, 200, 403)),
    "GET /requests/{request_id}": Rule((200, 404, 404, 200, 200, 403)),
    "PATCH /requests/{draft_id}": Rule((200, 404, 404, 404, 404, 403), {"title": "T", "justification": "J"}),
    "POST /requests/{request_id}/reviews": Rule((403, 403, 403, 201, 201, 403), {"comment": "Good"}),
    # Ann's own withdrawal; reviewers see the request, and may not.
    "POST /requests/{request_id}/withdraw": Rule((200, 404, 404, 403, 403, 403), {}),
    "POST /requests/{request_id}/approve": Rule(
        (403, 404, 404, 200, 200, 403), {"why": "less", "award": {"credits": 5}}
    ),
    "GET /run-options": Rule(OWN_LIST),
    "POST /notebook-parameters": Rule((200, 200, 200, 200, 200, 403), {"notebook": PARAMETRIC}),
    "POST /notebooks": Rule((201, 201, 201, 201, 201, 403), {"name": "a.ipynb", "notebook": PARAMETRIC}),
    "POST /runs": Rule(
        (201, 201, 404, 404, 404, 403),
        {"allocation": "{allocation_id}", "size": "small", "name": "a.ipynb", "notebook": PARAMETRIC},
    ),
    "GET /runs": Rule(OWN_LIST),
    "GET /runs/active": Rule(LEASES, query="?executor=e"),
    "GET /runs/{run_id}/environment": Rule((403, 403, 403, 403, 403, 404)),
    "GET /secrets": Rule(OWN_LIST),
    "PUT /secrets/TOKEN": Rule(OWN_LIST, {"value": "s3cret"}),
    "DELETE /secrets/TOKEN": Rule((204, 404, 404, 404, 404, 403)),
    "POST /runs/claim": Rule(LEASES, {"executor": "e", "limit": 1}),
    "GET /runs/{run_id}/lease": Rule((403, 403, 403, 403, 403, 404)),
    "POST /runs/{run_id}/progress": Rule(LEASES, {"attempt": 1, "cells_done": 0, "cells_total": 1}),
    "POST /runs/{run_id}/finish": Rule(LEASES, FINISH),
    "GET /runs/{run_id}": Rule(OWN_ONLY),
    "POST /runs/{run_id}/cancel": Rule(OWN_ONLY),
    "GET /runs/{run_id}/provenance": Rule(OWN_ONLY),
    "POST /runs/{run_id}/replay": Rule((201, 404, 404, 404, 404, 403), {}),
    # The run has not begun: there is no file yet, not even for its owner.
    "GET /runs/{run_id}/output": Rule((404, 404, 404, 404, 404, 403)),
    "GET /runs/{run_id}/log": Rule((404, 404, 404, 404, 404, 403)),
    "POST /sweeps/estimate": Rule(
        (200, 200, 404, 404, 404, 403), {"allocation": "{allocation_id}", "size": "small", "runs": 3}
    ),
    "POST /sweeps": Rule(
        (201, 201, 404, 404, 404, 403),
        {
            "allocation": "{allocation_id}",
            "size": "small",
            "name": "a.ipynb",
            "notebook": PARAMETRIC,
            "grid": {"x": [1, 2]},
        },
    ),
    "GET /sweeps": Rule(OWN_LIST),
    "GET /sweeps/{sweep_id}": Rule(OWN_ONLY),
    "GET /sweeps/{sweep_id}/results": Rule(OWN_ONLY),
    # Nothing of it has failed.
    "POST /sweeps/{sweep_id}/retry": Rule((409, 404, 404, 404, 404, 403), {}),
    "POST /sweeps/{sweep_id}/cancel": Rule(OWN_ONLY),
    "GET /schedules": Rule(OWN_LIST),
    "GET /schedules/preview": Rule(OWN_LIST, query="?cron=0%206%20*%20*%20*&zone=Europe/Berlin"),
    "POST /schedules": Rule(
        (201, 201, 404, 404, 404, 403),
        {
            "title": "Nightly",
            "allocation": "{allocation_id}",
            "size": "small",
            "name": "a.ipynb",
            "notebook": NOTEBOOK,
            "cron": "0 6 * * *",
        },
    ),
    "GET /schedules/{schedule_id}": Rule(OWN_ONLY),
    "PATCH /schedules/{schedule_id}": Rule(OWN_ONLY, {"title": "Weekly"}),
    "POST /schedules/{schedule_id}/pause": Rule(OWN_ONLY),
    "POST /schedules/{schedule_id}/resume": Rule(OWN_ONLY),
    "DELETE /schedules/{schedule_id}": Rule((204, 404, 404, 404, 404, 403)),
    "GET /storage": Rule(OWN_LIST),
    "GET /storage/{area_id}": Rule(SEEN),
    "GET /storage/{area_id}/days": Rule(SEEN),
    "GET /storage/{area_id}/purges": Rule(SEEN),
    "GET /storage/{area_id}/exemptions": Rule(SEEN),
    "POST /storage/{area_id}/exemptions": Rule(MADE, {"folder": "a/b", "days": 9, "reason": "A paper."}),
    "GET /storage/{area_id}/age": Rule(SEEN),
    "POST /storage/{area_id}/age": Rule(MADE, {"age_days": 60, "lasts_days": 9, "reason": "Late."}),
    "DELETE /storage/{area_id}/age": Rule(MANAGED, query="?why=over"),
    "DELETE /exemptions/{exemption_id}": Rule(MANAGED, query="?why=over"),
    "GET /storage/{area_id}/archives": Rule(SEEN),
    "GET /storage/{area_id}/restores": Rule(SEEN),
    # Where the archive should be there is none; who may not know of it does not learn that.
    "GET /archives/{archive_id}/files": Rule((503, 503, 404, 404, 503, 403)),
    "POST /archives/{archive_id}/restores": Rule(MADE, {"paths": ["a/b"], "target": "beside"}),
    "GET /restores/{restore_id}": Rule(SEEN),
    "GET /storage-areas": Rule(ADMIN),
    "GET /exemptions": Rule((403, 403, 403, 200, 200, 403)),
    "POST /exemptions/{exemption_id}/grant": Rule((403, 403, 403, 200, 200, 403), {"days": 9}),
    "POST /exemptions/{exemption_id}/refuse": Rule((403, 403, 403, 200, 200, 403), {"answer": "No."}),
    "GET /purge-runs": Rule(ADMIN),
    "POST /purge-runs": Rule((403, 403, 403, 403, 201, 403), {"storage_class": "scratch", "dry_run": True}),
    "GET /purge-runs/{purge_run_id}": Rule(ADMIN),
    # It is within the ceiling.
    "POST /purge-runs/{purge_run_id}/confirm": Rule(
        (403, 403, 403, 403, 409, 403), {"files": 0, "bytes": 0, "why": "W"}
    ),
    "POST /purge-runs/{purge_run_id}/stop": Rule(ADMIN, {"why": "To see."}),
    "GET /purge-stop": Rule(ADMIN),
    "PUT /purge-stop": Rule(ADMIN, {"why": "To see."}),
    "DELETE /purge-stop": Rule((403, 403, 403, 403, 409, 403), query="?why=over"),
}
# The same route under the name of what it takes here.
STANDS_FOR = {
    "GET /quotas/ann": "GET /quotas/{person}",
    "PUT /secrets/TOKEN": "PUT /secrets/{secret}",
    "DELETE /secrets/TOKEN": "DELETE /secrets/{secret}",
    "PATCH /allocations/{child_id}": "PATCH /allocations/{allocation_id}",
    "POST /allocations/{child_id}/move": "POST /allocations/{allocation_id}/move",
    "DELETE /allocations/{child_id}": "DELETE /allocations/{allocation_id}",
    "PATCH /requests/{draft_id}": "PATCH /requests/{request_id}",
    "POST /purge-runs/{purge_run_id}/stop": "POST /purge-runs/{purge_run_id}/{action}",
    **{f"POST /requests/{{request_id}}/{one}": "POST /requests/{request_id}/{action}" for one in RequestAction},
    **{f"POST /invitations/{{invitation_id}}/{one}": ANSWER for one in InvitationAnswer},
    **{f"POST /allocations/{{allocation_id}}/{one}": TRANSITION for one in AdminTransition},
}
MISSING = {
    "allocation_id": "a-0",
    "child_id": "a-0",
    "sibling_id": "a-0",
    "lease_id": "lease-0",
    "request_id": "q-0",
    "draft_id": "q-0",
    "run_id": "r-0",
    "sweep_id": "s-00",
    "schedule_id": "sc-0",
    "invitation_id": "i-0",
    "publication_id": "p-0",
    "override_id": "o-0",
    "notice_id": "900000",
    "area_id": "s-0",
    "exemption_id": "x-0",
    "archive_id": "ar-0",
    "restore_id": "b-0",
    "purge_run_id": "pr-0",
}


@dataclass
class World:
    """Things of ann's, new for every request that might change them."""

    client: TestClient
    bench: Bench
    prepared: dict[str, str] | None = None

    def things(self) -> dict[str, str]:
        """Return the ids of things, the first time of those that were there from the beginning."""
        if self.prepared is not None:
            first, self.prepared = self.prepared, None
            return first
        for lease in self.call("ann", "GET", "/leases?state=open")["leases"]:
            self.call("spawner", "POST", f"/leases/{lease['id']}/settle", {})
        root = self.bench.consortium("ann")
        at = f"/allocations/{root}"
        join(self.client, "ann", root, "member")
        divide = {"name": "Group", "microcredits": 10, "lead": "ann"}
        child, sibling = (self.call("ann", "POST", f"{at}/suballocations", divide) for _ in range(2))
        ask = {"tier": "research", "title": "Dark stars", "justification": "We look for them."}
        batch = {"allocation": root, "size": "small", "name": "a.ipynb", "notebook": PARAMETRIC}
        planned = batch | {"title": "Nightly", "cron": "0 6 * * *"}
        paper = {"identifier": "2015arXiv150303757S", "title": "Dark stars"}
        exception = {"subject_kind": "person", "subject": "ann", "limits": {"gpus": 1}, "reason": "R", "days": 7}
        return {
            "allocation_id": root,
            "child_id": child["allocation"]["id"],
            "sibling_id": sibling["allocation"]["id"],
            "lease_id": self.bench.acquire(root).id,
            "request_id": self.call("ann", "POST", "/requests", ask)["id"],
            "draft_id": self.call("ann", "POST", "/requests", ask | {"draft": True})["id"],
            "run_id": self.call("ann", "POST", "/runs", batch)["id"],
            "sweep_id": self.call("ann", "POST", "/sweeps", batch | {"rows": [{"x": 1}]})["id"],
            "schedule_id": self.call("ann", "POST", "/schedules", planned)["id"],
            "invitation_id": self.call("ann", "POST", f"{at}/members", {"person": "rev"})["id"],
            "publication_id": self.call("ann", "POST", f"{at}/publications", paper)["id"],
            "override_id": self.call("admin", "POST", "/overrides", exception)["id"],
            "notice_id": str(self.call("ann", "GET", "/notices")["notices"][0]["id"]),
            **self.storage(root),
            **self.secret(),
            "person": "member",
            "version": self.bench.services.policy.agreement.version,
        }

    def secret(self) -> dict[str, str]:
        """A secret of ann's, and of nobody else."""
        for who in ROLES[:-1]:
            call(self.client, who, "DELETE", "/secrets/TOKEN")
        self.call("ann", "PUT", "/secrets/TOKEN", {"value": "s3cret"})
        return {}

    def storage(self, allocation: str) -> dict[str, str]:
        """Scratch with what is asked about it, an archive that is not where it should be, and a run that only looks."""
        services, now_ms = self.bench.services, self.bench.clock.now_ms()
        number = next(KEYS)
        archive = StoredArchive(
            f"ar-{number}", f"s-{number}", ArchiveKind.PURGE, "/nowhere", ArchiveState.KEPT, 1, 1, None, now_ms, None
        )
        asked = Restore(
            f"b-{number}", archive.id, "ann", now_ms, ("a",), RestoreTarget.BESIDE, RestoreState.DONE, problem=None
        )
        with services.database.write() as connection:
            owner = Owner(allocation_id=allocation)
            StorageStore().add(connection, archive.area_id, StorageClass.SCRATCH, owner, archive.area_id, now_ms)
            ArchiveStore().add(connection, archive)
            ArchiveStore().ask(connection, asked)
        exemption = {"folder": "a", "days": 9, "reason": "A paper."}
        extended = {"age_days": 60, "lasts_days": 9, "reason": "It is late."}
        self.call("ann", "POST", f"/storage/{archive.area_id}/age", extended)
        run = {"storage_class": "scratch", "dry_run": True}
        return {
            "area_id": archive.area_id,
            "archive_id": archive.id,
            "restore_id": asked.id,
            "exemption_id": self.call("ann", "POST", f"/storage/{archive.area_id}/exemptions", exemption)["id"],
            "purge_run_id": self.call("admin", "POST", "/purge-runs", run)["id"],
        }

    def call(self, who: str, method: str, path: str, body: Any = None) -> Any:
        answer = call(self.client, who, method, path, body, key=f"t{next(KEYS)}")
        assert answer.is_success, answer.text
        return answer.json()

    def send(self, route: str, who: str, things: dict[str, str]) -> Any:
        method, path = route.split()
        rule = RULES[route]
        body = rule.body and {
            name: value.format(**things) if isinstance(value, str) else value for name, value in rule.body.items()
        }
        path = path.format(**things) + rule.query
        return call(self.client, who, method, path, {} if rule.body == {} else body, key=f"k{next(KEYS)}")


KEYS = itertools.count()


@dataclass(frozen=True)
class Prepared:
    """People, and things of ann's: ids, where the notebooks of runs are, and the database to copy or its name."""

    things: dict[str, str]
    runs: Path
    database: str


def prepare(url: str, folder: Path, database: str) -> Prepared:
    """Make the people and the things that every test begins with, once: that takes longer than most tests."""
    bench = make_bench(url, folder / "runs")
    with client_of(bench) as client:
        for person in ("bob", "rev", "admin", "member"):
            bench.accept(person)
        things = World(client, bench).things()
    bench.services.database.dispose()
    return Prepared(things, folder / "runs", database)


@pytest.fixture(scope="session")
def prepared_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    url = fresh_sqlite(folder)
    return prepare(url, folder, url.removeprefix("sqlite:///"))


@pytest.fixture(scope="session")
def prepared_postgresql(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    with fresh_database(postgres_server, "prepared", "migrated") as url:
        yield prepare(url, tmp_path_factory.mktemp("prepared"), "prepared")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    prepared: Prepared = request.getfixturevalue(f"prepared_{request.param}")
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{shutil.copy(prepared.database, tmp_path)}"
        else:
            server = request.getfixturevalue("postgres_server")
            url = stack.enter_context(fresh_database(server, f"t{uuid.uuid4().hex}", prepared.database))
        shutil.copytree(prepared.runs, tmp_path / "runs")
        bench = make_bench(url, tmp_path / "runs")
        stack.callback(bench.services.database.dispose)
        # Other keys than those with which the first things were made.
        bench._counter = itertools.count(len(prepared.things))
        yield World(stack.enter_context(client_of(bench)), bench, prepared.things)


def test_every_route_is_classified() -> None:
    routes = [route for part in PARTS for route in part.router.routes if isinstance(route, APIRoute)]
    known = {STANDS_FOR.get(rule, rule) for rule in RULES}
    assert sorted(f"{method} {route.path}" for route in routes for method in route.methods or ()) == sorted(known)


def test_administrators_have_a_route_for_each_of_their_transitions() -> None:
    theirs = {action.value for action, known in ALLOCATION_TRANSITIONS.items() if known.party is AllocationParty.ADMIN}
    assert {transition.value for transition in AdminTransition} == theirs


@pytest.mark.parametrize("route", RULES)
def test_who_may_do_what(world: World, route: str) -> None:
    is_public = RULES[route].statuses == PUBLIC
    things = world.things()
    assert world.send(route, "nobody", things).status_code == (200 if is_public else 401)
    assert world.send(route, "nothing", things).status_code == (200 if is_public else 403)
    for who, expected in zip(ROLES, RULES[route].statuses, strict=True):
        answer = world.send(route, who, things)
        assert answer.status_code == expected, f"{who}: {answer.text}"
        if answer.is_success and not route.startswith("GET"):
            things = world.things()
    world.bench.assert_clean()


@pytest.mark.parametrize("route", [route for route in RULES if "{allocation_id}" in route or "_id}" in route])
def test_anothers_things_look_like_those_that_do_not_exist(world: World, route: str) -> None:
    things = world.things()
    anothers = world.send(route, "bob", things)
    missing = world.send(route, "bob", things | MISSING)
    assert (anothers.status_code, anothers.json()["code"]) == (missing.status_code, missing.json()["code"])
    told = anothers.text
    for name, none in MISSING.items():
        if f"{{{name}}}" in route:
            told = told.replace(things[name], none)
    assert told == missing.text


def test_the_roles_are_those_of_the_tokens() -> None:
    assert {*ROLES, "nothing"} <= TOKENS.keys()


@pytest.mark.parametrize("route", [rule for rule in RULES if RULES[rule].statuses != PUBLIC])
def test_all_scopes_but_a_routes_own_are_not_enough(world: World, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = STANDS_FOR.get(route, route)
    (scope,) = (
        one
        for part in PARTS
        for found in part.router.routes
        if isinstance(found, APIRoute) and known in {f"{method} {found.path}" for method in found.methods or ()}
        for one in scopes_of(found.dependant)
    )
    narrow = Identity("ann", frozenset(Scope) - {Scope(scope)})
    monkeypatch.setitem(TOKENS, "narrow", narrow)
    answer = world.send(route, "narrow", dict.fromkeys(world.things(), "1"))
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
