"""The HTTP API: every route names its scope, errors are problem details, answers repeat under one key."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import generate_latest

from allocations.api.identity import HubIdentities, Identity, Scope
from allocations.api.reference import api_reference
from allocations.app import PREFIX
from allocations.settings import ROOT
from tests.fresh_app import fresh_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.allocations.conftest import Bench

API = f"{PREFIX}/api/v1"
PUBLIC = {f"{API}/health"}
PERSON = {Scope.READ, Scope.REQUEST, Scope.RUN}
TOKENS = {
    "ann": Identity("ann", frozenset(PERSON)),
    "bob": Identity("bob", frozenset(PERSON)),
    "lead": Identity("lead", frozenset(PERSON)),
    "member": Identity("member", frozenset(PERSON)),
    "rev": Identity("rev", frozenset({*PERSON, Scope.REVIEW})),
    "admin": Identity("admin", frozenset({*PERSON, Scope.ADMIN, Scope.REVIEW})),
    "spawner": Identity("spawner", frozenset({Scope.LEASE, Scope.PEOPLE})),
    "batch": Identity("batch", frozenset({Scope.LEASE})),
    "nothing": Identity("nothing", frozenset()),
}


class StubIdentities(HubIdentities):
    """Knows tokens without asking a hub; the real one is asked in the end-to-end tests."""

    async def from_token(self, token: str, session_id: str = "") -> Identity | None:
        del session_id
        return TOKENS.get(token)


@contextmanager
def client_of(bench: Bench) -> Iterator[TestClient]:
    """Send requests to the application over some services."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JUPYTERHUB_API_TOKEN", "x")
        environment.setenv("JUPYTERHUB_CLIENT_ID", "service-allocations")
        environment.setenv("JUPYTERHUB_OAUTH_CALLBACK_URL", f"{PREFIX}/oauth_callback")
        # Entered, it keeps one event loop and its threads for all requests of the test.
        with TestClient(fresh_app(bench.services, StubIdentities("secret", PREFIX))) as client:
            yield client


@pytest.fixture
def client(bench: Bench) -> Iterator[TestClient]:
    with client_of(bench) as client:
        yield client


def call(client: TestClient, who: str, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {who}"} | ({"Idempotency-Key": key} if key else {})
    return client.request(method, f"{API}{path}", json=body, headers=headers)


def join(client: TestClient, lead: str, allocation: str, person: str, role: str = "member") -> None:
    """Invite a person, who accepts."""
    invitation = call(client, lead, "POST", f"/allocations/{allocation}/members", {"person": person, "role": role})
    assert invitation.status_code == 201, invitation.text
    assert call(client, person, "POST", f"/invitations/{invitation.json()['id']}/accept").json()["state"] == "accepted"


def test_every_api_route_is_refused_without_a_token_and_without_its_scope(client: TestClient) -> None:
    paths = client.get(f"{PREFIX}/api/openapi.json").json()["paths"]
    checked = 0
    for path, operations in paths.items():
        for method in operations:
            if path in PUBLIC:
                continue
            assert client.request(method, path).status_code == 401, path
            refused = client.request(method, path, headers={"Authorization": "Bearer nothing"}, params={"person": "x"})
            assert refused.status_code == 403, path
            assert refused.json()["code"] == "missing_scope", path
            checked += 1
    assert checked >= 30


def test_errors_are_problem_details_with_a_code_and_a_remedy(client: TestClient) -> None:
    body = {"allocation": "a-x", "person": "ann", "size": "small"}
    response = call(client, "spawner", "POST", "/leases", body, key="k")
    assert response.status_code == 403
    assert response.headers["content-type"].startswith("application/problem+json")
    problem = response.json()
    assert (problem["code"], problem["status"]) == ("agreement_required", 403)
    assert problem["detail"]
    assert problem["remedy"]
    assert problem["remedy_url"].endswith("/agreement")
    invalid = call(client, "spawner", "POST", "/leases", body | {"cores": 64}, key="k2")
    assert (invalid.status_code, invalid.json()["code"]) == (422, "invalid_input")
    assert "cores" in invalid.json()["detail"]
    assert call(client, "spawner", "POST", "/leases", body).status_code == 422


def test_a_lease_from_first_to_last(client: TestClient, bench: Bench) -> None:
    accepted = call(client, "ann", "POST", "/agreement", {"version": bench.services.policy.agreement.version})
    allocation = accepted.json()["allocations"][0]["id"]
    options = call(client, "spawner", "GET", "/start-options?person=ann").json()
    assert options["default"] == {"allocation": allocation, "size": "small", "image": "base"}
    body = {"allocation": allocation, "person": "ann", "size": "small"}
    first = call(client, "spawner", "POST", "/leases", body, key="k")
    assert first.status_code == 201
    assert call(client, "spawner", "POST", "/leases", body, key="k").json() == first.json()
    conflict = call(client, "spawner", "POST", "/leases", body | {"size": "standard"}, key="k")
    assert (conflict.status_code, conflict.json()["code"]) == (409, "idempotency_conflict")
    lease = first.json()["id"]
    call(client, "spawner", "POST", f"/leases/{lease}/start", {})
    bench.clock.pass_seconds(10)
    settled = call(client, "spawner", "POST", f"/leases/{lease}/settle", {}).json()
    assert settled["charged_microcredits"] == 130
    assert call(client, "ann", "GET", "/leases").json()["leases"][0]["id"] == lease
    assert call(client, "ann", "GET", f"/leases/{lease}").json() == settled
    assert call(client, "bob", "GET", f"/leases/{lease}").status_code == 404


def test_what_is_done_to_a_lease_under_a_key_is_answered_the_same_and_once(client: TestClient, bench: Bench) -> None:
    body = {"allocation": bench.accept("ann"), "person": "ann", "size": "small"}
    lease = call(client, "spawner", "POST", "/leases", body, key="k").json()["id"]
    answers = {}
    for step in ("start", "renew", "settle"):
        answers[step] = call(client, "spawner", "POST", f"/leases/{lease}/{step}", {}, key=step).json()
        bench.clock.pass_seconds(100)
    assert [answer["charged_microcredits"] for answer in answers.values()] == [0, 1300, 2600]
    for step, answer in answers.items():
        # A renewal that is repeated when the lease has ended is still answered as it was.
        assert call(client, "spawner", "POST", f"/leases/{lease}/{step}", {}, key=step).json() == answer
    other = call(
        client, "spawner", "POST", f"/leases/{lease}/settle", {"ended_at": "2027-01-15T09:30:00Z"}, key="settle"
    )
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    second = call(client, "spawner", "POST", "/leases", body, key="k2").json()["id"]
    voided = call(client, "spawner", "POST", f"/leases/{second}/void", key="void").json()
    assert call(client, "spawner", "POST", f"/leases/{second}/void", key="void").json() == voided
    assert call(client, "spawner", "POST", f"/leases/{lease}/void", key="void").status_code == 409
    bench.assert_clean()


def test_a_member_manages_nothing_and_a_stranger_sees_nothing(client: TestClient, bench: Bench) -> None:
    root = bench.consortium()
    join(client, "lead", root, "ann")
    divide = {"name": "Group", "microcredits": 1, "lead": "ann"}
    assert call(client, "ann", "POST", f"/allocations/{root}/suballocations", divide).json()["code"] == "not_allowed"
    assert call(client, "bob", "GET", f"/allocations/{root}").json()["code"] == "unknown_allocation"
    made = call(client, "lead", "POST", f"/allocations/{root}/suballocations", divide, key="d")
    again = call(client, "lead", "POST", f"/allocations/{root}/suballocations", divide, key="d")
    assert made.status_code == 201
    assert made.json()["allocation"]["id"] == again.json()["allocation"]["id"]
    assert len(call(client, "lead", "GET", f"/allocations/{root}").json()["tree"]) == 2


def test_a_request_from_submission_to_award_and_the_audit_log(client: TestClient) -> None:
    body = {"tier": "research", "title": "Dark stars", "justification": "We look for them."}
    request = call(client, "ann", "POST", "/requests", body, key="r").json()
    assert call(client, "ann", "GET", "/requests/queue").status_code == 403
    assert call(client, "ann", "POST", f"/requests/{request['id']}/approve", {}).json()["code"] == "not_allowed"
    assert [one["id"] for one in call(client, "rev", "GET", "/requests/queue").json()["requests"]] == [request["id"]]
    word = {"comment": "I doubt it", "score": 2}
    assert call(client, "rev", "POST", f"/requests/{request['id']}/reviews", word).status_code == 201
    assert call(client, "ann", "GET", f"/requests/{request['id']}").json()["reviews"] == [], "review is single-blind"
    assert call(client, "rev", "GET", f"/requests/{request['id']}").json()["reviews"][0]["score"] == 2
    approved = call(client, "rev", "POST", f"/requests/{request['id']}/approve", {"why": "sound"}).json()
    assert approved["state"] == "approved"
    assert call(client, "rev", "GET", "/audit").status_code == 403
    entries = call(client, "admin", "GET", f"/audit?subject={request['id']}").json()["entries"]
    assert [entry["action"] for entry in entries] == ["request.approve", "request.review", "request.submit"]
    assert entries[0]["why"] == "sound"


def test_health_tells_version_database_and_worker_lag(client: TestClient) -> None:
    health = client.get(f"{API}/health").json()
    assert (health["status"], health["database"], health["worker_lag_seconds"]) == ("degraded", "ok", None)
    newest = max(path.name for path in (ROOT / "allocations/db/migrations/versions").glob("0*.py"))
    assert health["database_revision"] == newest.partition("_")[0]


def test_metrics_are_labelled_by_route_not_by_id(client: TestClient) -> None:
    call(client, "ann", "GET", "/allocations/a-secret-id")
    text = generate_latest().decode()
    assert f'route="{API}/allocations/{{allocation_id}}"' in text
    assert "a-secret-id" not in text


def test_the_published_table_of_the_api_is_current() -> None:
    published = Path(__file__).parents[2] / "docs/reference/api.md"
    assert published.read_text() == api_reference(), "run `make published`"


def test_what_no_database_can_store_is_a_problem_not_a_failure(client: TestClient) -> None:
    body = {"tier": "research", "title": "Dark\0stars", "justification": "We look."}
    assert call(client, "ann", "POST", "/requests", body).status_code in {201, 422}
    assert call(client, "ann", "GET", "/allocations/a%00b").status_code in {404, 422}
    huge = {"name": "Group", "microcredits": 10**30, "lead": "ann"}
    assert call(client, "ann", "POST", "/allocations/a-x/suballocations", huge).status_code in {404, 422}
    assert call(client, "admin", "GET", f"/audit?before={10**30}").status_code in {200, 422}


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client: TestClient, bench: Bench) -> None:
    most = 2 * bench.services.policy.runs.notebook_max_bytes
    headers = {"Authorization": "Bearer ann", "Idempotency-Key": "k", "Content-Type": "application/json"}
    said = client.post(f"{API}/runs", headers=headers | {"Content-Length": str(most + 1)}, content=b"{}")
    assert (said.status_code, said.json()["code"]) == (413, "body_too_large")

    def unsaid() -> Iterator[bytes]:
        for _ in range(most // 1_000_000 + 2):
            yield b" " * 1_000_000

    cut_off = client.post(f"{API}/runs", headers=headers, content=unsaid())
    assert cut_off.status_code in {400, 413}


def test_a_job_is_held_by_resources_and_its_maximum_time(client: TestClient, bench: Bench) -> None:
    entry = bench.accept("ann")
    body: dict[str, Any] = {
        "allocation": entry,
        "person": "ann",
        "kind": "batch",
        "resources": {"cores": 1, "memory_gib": 3},
        "max_seconds": 100,
    }
    lease = call(client, "spawner", "POST", "/leases", body, key="k").json()
    assert lease["held_microcredits"] == (9 + 3) * 100
    assert call(client, "spawner", "POST", "/leases", body | {"size": "small"}, key="k2").status_code == 422
    assert call(client, "spawner", "POST", "/leases", body | {"max_seconds": None}, key="k3").status_code == 422
    gpu = body | {"resources": {"cores": 1, "memory_gib": 3, "gpus": 1}}
    assert call(client, "spawner", "POST", "/leases", gpu, key="k4").status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        rb'{"\ud800": 1}',
        rb'{"parameters": {"a": NaN}, REST}',
        rb'{"parameters": {"a": 1e999}, REST}',
        rb'{"parameters": {"a": "\ud800"}, REST}',
        b'{"a": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_what_json_can_spell_and_nothing_can_answer_is_refused(client: TestClient, bench: Bench, body: bytes) -> None:
    rest = '"allocation": "%s", "size": "small", "name": "a.ipynb", "notebook": {"nbformat": 4, "cells": []}'
    body = body.replace(b"REST", (rest % bench.accept("ann")).encode())
    headers = {"Authorization": "Bearer ann", "Idempotency-Key": "k", "Content-Type": "application/json"}
    response = client.post(f"{API}/runs", headers=headers, content=body)
    assert response.status_code in {400, 422}, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert client.get(f"{API}/runs", headers=headers).json() == {"runs": []}


def test_leases_are_filtered_paged_and_seen_by_those_who_manage(client: TestClient, bench: Bench) -> None:
    root = bench.consortium()
    entry = bench.accept("ann")
    join(client, "lead", root, "ann")
    made = []
    for allocation in (entry, root, root):
        made.append(bench.acquire(allocation).id)
        bench.services.leases.void(made[-1])
    made.append(bench.acquire(root).id)

    def ids(query: str) -> tuple[list[str], str | None]:
        page = call(client, "ann", "GET", f"/leases?{query}").json()
        return [lease["id"] for lease in page["leases"]], page["next_before"]

    newest_first = sorted(made, reverse=True)  # all at one time: the ids decide
    first, following = ids("limit=3")
    assert (first, following) == (newest_first[:3], newest_first[2])
    assert ids(f"limit=3&before={following}") == (newest_first[3:], None)
    assert ids("state=open") == (made[3:], None)
    assert ids(f"allocation={entry}") == (made[:1], None)
    assert ids("kind=batch") == ([], None)
    assert call(client, "lead", "GET", f"/leases/{made[3]}").status_code == 200
    assert call(client, "lead", "GET", f"/leases/{made[0]}").status_code == 404, "it is of ann's own allocation"
    assert call(client, "bob", "GET", f"/leases?before={made[0]}").status_code == 404


def test_open_leases_are_paged_without_losing_any(client: TestClient, bench: Bench) -> None:
    body = {"allocation": bench.accept("ann"), "person": "ann", "size": "small"}
    ended = call(client, "spawner", "POST", "/leases", body | {"server_name": "a"}, key="ended").json()["id"]
    bench.clock.pass_seconds(1)
    call(client, "spawner", "POST", f"/leases/{ended}/void")
    kinds: dict[str, Any] = {"server": {"server_name": "a"}, "run": {"kind": "batch", "max_seconds": 60}}
    made = {
        name: call(client, "spawner", "POST", "/leases", body | what, key=name).json() for name, what in kinds.items()
    }
    call(client, "spawner", "POST", f"/leases/{made['server']['id']}/start", {})
    found, after = [], ""
    while True:
        page = call(client, "spawner", "GET", f"/leases/open?limit=1&after={after}").json()
        found += page["leases"]
        if page["next_after"] is None:
            break
        after = page["next_after"]
    assert [one["id"] for one in found] == sorted(one["id"] for one in made.values())
    (server,) = call(client, "spawner", "GET", "/leases/open?kind=interactive").json()["leases"]
    assert (server["person"], server["server_name"]) == ("ann", "a")
    assert server["replaced_at"] is None
    assert server["started_at"] == server["seen_at"] == server["acquired_at"] == made["server"]["acquired_at"]


def test_an_allocation_tells_its_balances_in_every_unit_and_how_fast_it_burns(client: TestClient, bench: Bench) -> None:
    root = bench.consortium(credits=2)
    divide = {"name": "Group", "microcredits": 1_000_000, "lead": "lead"}
    child = call(client, "lead", "POST", f"/allocations/{root}/suballocations", divide).json()["allocation"]["id"]
    lease = bench.acquire(child, "lead").id
    bench.services.leases.start(lease, None)
    bench.clock.pass_seconds(600)
    charged = bench.services.leases.settle(lease, None).charged_microcredits
    bench.clock.pass_seconds(86_400)
    seen = call(client, "lead", "GET", f"/allocations/{root}").json()
    left = 2_000_000 - charged
    assert seen["balances"] == [
        {"unit": "credits", "limit": 2_000_000, "held": 0, "posted": charged, "available": left}
    ]
    assert seen["burn_down"]["days"] == [
        {"day": "2027-01-15", "charged_microcredits": charged, "left_microcredits": left},
        {"day": "2027-01-16", "charged_microcredits": 0, "left_microcredits": left},
    ]
    ahead = date.fromisoformat(seen["burn_down"]["projected_end"]) - date(2027, 1, 16)
    assert ahead.days == left * 2 // charged
