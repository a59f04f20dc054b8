"""Every route of the API by every role, on one's own and on another's: a new route fails until it stands here."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import APIRoute

from allocations.api.v1 import PARTS
from tests.allocations.test_api import TOKENS, call, client  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from tests.allocations.conftest import Bench

NOTEBOOK = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
FINISH = {"attempt": 1, "outcome": "succeeded", "ended_at": "2027-01-15T08:00:00Z"}
# What each may send to things of ann's, in this order. Nobody is 401 everywhere, a token without any scope 403.
ROLES = ("ann", "bob", "rev", "admin", "spawner")
LEASES = (403, 403, 403, 403, 200)
OWN_LIST = (200, 200, 200, 200, 403)
OWN_ONLY = (200, 404, 404, 404, 403)
MANAGED = (201, 404, 404, 201, 403)
PUBLIC = (200, 200, 200, 200, 200)


@dataclass(frozen=True)
class Rule:
    """The statuses by role, and a body that is right; `{…}` in it and in the path stand for ids of ann's."""

    statuses: tuple[int, int, int, int, int]
    body: dict[str, Any] | None = None
    query: str = ""


RULES = {
    "GET /health": Rule(PUBLIC),
    "GET /start-options": Rule(LEASES, query="?person=ann"),
    "POST /leases": Rule(
        (403, 403, 403, 403, 201), {"allocation": "{allocation_id}", "person": "ann", "size": "small"}
    ),
    "POST /leases/{lease_id}/start": Rule(LEASES, {}),
    "POST /leases/{lease_id}/renew": Rule(LEASES, {}),
    "POST /leases/{lease_id}/settle": Rule(LEASES, {}),
    "POST /leases/{lease_id}/void": Rule(LEASES),
    "GET /leases": Rule(OWN_LIST),
    "GET /leases/{lease_id}": Rule((200, 404, 404, 200, 403)),
    "GET /agreement": Rule(OWN_LIST),
    "POST /agreement": Rule(OWN_LIST, {"version": "{version}"}),
    "GET /allocations": Rule(OWN_LIST),
    "GET /allocations/{allocation_id}": Rule((200, 404, 404, 200, 403)),
    "POST /allocations/{allocation_id}/suballocations": Rule(MANAGED, {"name": "G", "microcredits": 9, "lead": "ann"}),
    "PATCH /allocations/{child_id}": Rule((200, 404, 404, 200, 403), {"microcredits": 8}),
    "POST /allocations/{allocation_id}/members": Rule(MANAGED, {"person": "guest"}),
    "DELETE /allocations/{allocation_id}/members/{person}": Rule((200, 404, 404, 200, 403)),
    "GET /quotas/ann": Rule((200, 404, 404, 200, 403)),
    "GET /audit": Rule((403, 403, 403, 200, 403)),
    "POST /requests": Rule((201, 201, 201, 201, 403), {"tier": "research", "title": "T", "justification": "J"}),
    # Only who leads the allocation reports on it; this one has a single instalment.
    "POST /allocations/{allocation_id}/progress": Rule((409, 404, 404, 403, 403), {"report": "We went on."}),
    "GET /requests": Rule(OWN_LIST),
    "GET /requests/queue": Rule((403, 403, 200, 200, 403)),
    "GET /requests/{request_id}": Rule((200, 404, 200, 200, 403)),
    "POST /requests/{request_id}/reviews": Rule((403, 403, 201, 201, 403), {"comment": "Good"}),
    # Ann's own withdrawal; reviewers see the request, and may not.
    "POST /requests/{request_id}/withdraw": Rule((200, 404, 403, 403, 403), {}),
    "GET /run-options": Rule(OWN_LIST),
    "POST /runs": Rule(
        (201, 404, 404, 404, 403),
        {"allocation": "{allocation_id}", "size": "small", "name": "a.ipynb", "notebook": NOTEBOOK},
    ),
    "GET /runs": Rule(OWN_LIST),
    "GET /runs/active": Rule(LEASES, query="?executor=e"),
    "POST /runs/claim": Rule(LEASES, {"executor": "e", "limit": 1}),
    "POST /runs/{run_id}/progress": Rule(LEASES, {"attempt": 1, "cells_done": 0, "cells_total": 1}),
    "POST /runs/{run_id}/finish": Rule(LEASES, FINISH),
    "GET /runs/{run_id}": Rule(OWN_ONLY),
    "POST /runs/{run_id}/cancel": Rule(OWN_ONLY),
    # The run has not begun: there is no file yet, not even for its owner.
    "GET /runs/{run_id}/output": Rule((404, 404, 404, 404, 403)),
    "GET /runs/{run_id}/log": Rule((404, 404, 404, 404, 403)),
}
# The same route under the name of what it takes here.
STANDS_FOR = {
    "GET /quotas/ann": "GET /quotas/{person}",
    "PATCH /allocations/{child_id}": "PATCH /allocations/{allocation_id}",
    "POST /requests/{request_id}/withdraw": "POST /requests/{request_id}/{action}",
}
MISSING = {"allocation_id": "a-0", "child_id": "a-0", "lease_id": "lease-0", "request_id": "q-0", "run_id": "r-0"}


@dataclass
class World:
    """Things of ann's, new for every request that might change them."""

    client: TestClient
    bench: Bench
    root: str

    def things(self) -> dict[str, str]:
        divide = {"name": "Group", "microcredits": 10, "lead": "ann"}
        ask = {"tier": "research", "title": "Dark stars", "justification": "We look for them."}
        batch = {"allocation": self.root, "size": "small", "name": "a.ipynb", "notebook": NOTEBOOK}
        call(self.client, "ann", "POST", f"/allocations/{self.root}/members", {"person": "member"})
        for lease in call(self.client, "ann", "GET", "/leases").json()["leases"]:
            call(self.client, "spawner", "POST", f"/leases/{lease['id']}/settle", {})
        child = call(self.client, "ann", "POST", f"/allocations/{self.root}/suballocations", divide).json()
        return {
            "allocation_id": self.root,
            "child_id": child["allocation"]["id"],
            "lease_id": self.bench.acquire(self.root).id,
            "request_id": call(self.client, "ann", "POST", "/requests", ask).json()["id"],
            "run_id": call(self.client, "ann", "POST", "/runs", batch, key=f"r{next(KEYS)}").json()["id"],
            "person": "member",
            "version": self.bench.services.policy.agreement.version,
        }

    def send(self, route: str, who: str, things: dict[str, str]) -> Any:
        method, path = route.split()
        rule = RULES[route]
        body = rule.body and {
            name: value.format(**things) if isinstance(value, str) else value for name, value in rule.body.items()
        }
        path = path.format(**things) + rule.query
        return call(self.client, who, method, path, {} if rule.body == {} else body, key=f"k{next(KEYS)}")


KEYS = itertools.count()


@pytest.fixture
def world(client: TestClient, bench: Bench) -> World:  # noqa: F811  # as above
    root = bench.consortium("ann")
    for person in ("bob", "rev", "admin"):
        bench.accept(person)
    return World(client, bench, root)


def test_every_route_is_classified() -> None:
    routes = [route for part in PARTS for route in part.router.routes if isinstance(route, APIRoute)]
    known = [STANDS_FOR.get(rule, rule) for rule in RULES]
    assert sorted(f"{method} {route.path}" for route in routes for method in route.methods or ()) == sorted(known)


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
        told = told.replace(things[name], none)
    assert told == missing.text


def test_the_roles_are_those_of_the_tokens() -> None:
    assert {*ROLES, "nothing"} <= TOKENS.keys()
