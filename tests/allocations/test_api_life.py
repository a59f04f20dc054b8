"""The life of allocations over HTTP: people join and leave, parts are divided and closed, more is asked and awarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.allocations.test_api import call, client, join  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
DAY = 86_400
DOI = "10.3847/1538-4357/abcdef"


@pytest.fixture
def research(client: TestClient, bench: Bench) -> str:  # noqa: F811  # as above
    """An allocation of ann's, awarded as the tier says."""
    bench.accept("ann")
    body = {"tier": "research", "title": "Dark stars", "justification": "We look for them."}
    request = call(client, "ann", "POST", "/requests", body).json()["id"]
    approved = call(client, "rev", "POST", f"/requests/{request}/approve", {"why": "sound"}).json()
    return str(approved["allocation"])


def divide(client: TestClient, parent: str, credits: int, lead: str = "lead") -> str:  # noqa: A002, F811  # the unit's name
    body = {"name": f"Part of {credits}", "microcredits": credits * CREDIT, "lead": lead}
    made = call(client, "lead", "POST", f"/allocations/{parent}/suballocations", body)
    assert made.status_code == 201, made.text
    return str(made.json()["allocation"]["id"])


def acquire(client: TestClient, bench: Bench, allocation: str, person: str, size: str = "small") -> Any:  # noqa: F811
    body = {"allocation": allocation, "person": person, "size": size}
    return call(client, "spawner", "POST", "/leases", body, key=bench.key().key)


def limit(client: TestClient, who: str, allocation: str, unit: str = "credits") -> int:  # noqa: F811
    balances = call(client, who, "GET", f"/allocations/{allocation}").json()["balances"]
    return next(int(balance["limit"]) for balance in balances if balance["unit"] == unit)


def test_who_is_invited_joins_spends_within_the_caps_and_leaves(client: TestClient, bench: Bench) -> None:  # noqa: F811
    root = bench.consortium()
    bench.accept("ann")
    invite = {"person": "ann"}
    invited = call(client, "lead", "POST", f"/allocations/{root}/members", invite).json()
    assert call(client, "lead", "POST", f"/allocations/{root}/invitations", invite).json() == invited, "the same again"
    assert acquire(client, bench, root, "ann").json()["code"] == "not_a_member", "an invitation alone is no place"
    assert call(client, "ann", "GET", f"/allocations/{root}").status_code == 404
    [seen] = call(client, "ann", "GET", "/invitations").json()["invitations"]
    assert (seen["allocation_name"], seen["invited_by"], seen["state"]) == ("Deep fields", "lead", "pending")
    assert call(client, "lead", "GET", f"/allocations/{root}/invitations").json()["invitations"] == [seen]
    assert call(client, "ann", "POST", f"/invitations/{seen['id']}/accept").json()["state"] == "accepted"
    again = call(client, "ann", "POST", f"/invitations/{seen['id']}/accept")
    assert (again.status_code, again.json()["code"]) == (409, "transition_not_allowed")

    member = f"/allocations/{root}/members/ann"
    capped = call(client, "lead", "PATCH", member, {"servers_max": 1, "cores_max": 2}).json()
    assert (capped["role"], capped["servers_max"], capped["cores_max"]) == ("member", 1, 2)
    assert acquire(client, bench, root, "ann", "compute").json()["code"] == "at_once_limit"
    uncapped = call(client, "lead", "PATCH", member, {"cores_max": None}).json()
    assert (uncapped["servers_max"], uncapped["cores_max"]) == (1, None), "what is left out stays"
    assert uncapped in call(client, "ann", "GET", f"/allocations/{root}").json()["members"]
    assert acquire(client, bench, root, "ann", "compute").status_code == 201

    assert call(client, "ann", "DELETE", member).status_code == 204
    assert call(client, "ann", "GET", f"/allocations/{root}").status_code == 404
    assert acquire(client, bench, root, "ann").json()["code"] == "not_a_member"
    assert call(client, "lead", "DELETE", f"/allocations/{root}/members/lead").json()["code"] == "not_allowed"
    bench.assert_clean()


def test_an_invitation_is_declined_or_revoked(client: TestClient, bench: Bench) -> None:  # noqa: F811
    root = bench.consortium()
    for who, answer, state in (("ann", "decline", "refused"), ("lead", "revoke", "revoked")):
        body = {"person": "ann", "role": "manager"}
        invitation = call(client, "lead", "POST", f"/allocations/{root}/invitations", body).json()["id"]
        answered = call(client, who, "POST", f"/invitations/{invitation}/{answer}").json()
        assert (answered["state"], answered["answered_at"]) == (state, "2027-01-15T08:00:00.000Z")
    assert call(client, "ann", "GET", "/invitations").json() == {"invitations": []}


def test_a_supplement_is_asked_for_and_a_smaller_one_awarded(client: TestClient, bench: Bench, research: str) -> None:  # noqa: F811
    before = limit(client, "ann", research)
    ask = {"kind": "supplement", "justification": "A second field.", "credits": 200, "gpu_hours": 50}
    path = f"/allocations/{research}/requests"
    asked = call(client, "ann", "POST", path, ask, key="s").json()
    assert call(client, "ann", "POST", path, ask, key="s").json()["id"] == asked["id"]
    assert call(client, "ann", "POST", path, ask | {"credits": 300}, key="s").json()["code"] == "idempotency_conflict"
    assert (asked["asked"]["credits"], asked["asked"]["gpu_hours"], asked["awarded"]) == (200, 50, None)
    given = {"why": "half", "award": {"credits": 100, "gpu_hours": 20}}
    act = f"/requests/{asked['id']}"
    assert call(client, "rev", "POST", f"{act}/decline", given).json()["code"] == "invalid_input"
    approved = call(client, "rev", "POST", f"{act}/approve", given).json()
    assert (approved["awarded"]["credits"], approved["awarded"]["gpu_hours"]) == (100, 20)
    assert call(client, "rev", "POST", f"{act}/approve", given).json()["code"] == "transition_not_allowed"
    assert call(client, "ann", "GET", act).json()["awarded"] == approved["awarded"]
    assert limit(client, "ann", research) == before + 100 * CREDIT
    assert limit(client, "ann", research, "gpu_seconds") == 20 * 3600
    bench.assert_clean()


def test_an_extension_and_a_renewal(client: TestClient, bench: Bench, research: str) -> None:  # noqa: F811
    path = f"/allocations/{research}/requests"

    def ends_at() -> str:
        return str(call(client, "ann", "GET", f"/allocations/{research}").json()["allocation"]["ends_at"])

    assert ends_at() == "2028-01-15T08:00:00.000Z"
    early = call(client, "ann", "POST", path, {"kind": "renewal", "justification": "We go on."})
    assert (early.status_code, early.json()["code"]) == (409, "transition_not_allowed")
    more = {"kind": "extension", "justification": "The data came late.", "term_days": 30}
    asked = call(client, "ann", "POST", path, more).json()["id"]
    call(client, "rev", "POST", f"/requests/{asked}/approve", {"why": "fewer", "award": {"term_days": 10}})
    assert ends_at() == "2028-01-25T08:00:00.000Z"
    bench.clock.pass_seconds(370 * DAY)
    renewal = call(client, "ann", "POST", path, {"kind": "renewal", "justification": "We go on."}).json()["id"]
    call(
        client,
        "rev",
        "POST",
        f"/requests/{renewal}/approve",
        {"why": "once", "award": {"credits": 300, "renewable": False}},
    )
    bench.clock.pass_seconds(10 * DAY)
    bench.services.lifecycle.advance()
    assert ends_at() == "2029-01-24T08:00:00.000Z"
    assert limit(client, "ann", research) == 150 * CREDIT, "the first half of what was awarded"
    bench.assert_clean()


def test_a_draft_is_revised_and_what_is_asked_beside_credits_is_kept(client: TestClient) -> None:  # noqa: F811
    body = {"tier": "research", "title": "T", "justification": "J", "draft": True}
    larger = {"gpu_hours": 5, "largest": [{"cores": 32, "memory_gib": 128}], "term_days": 100}
    draft = call(client, "ann", "POST", "/requests", body | larger).json()
    assert (draft["state"], draft["asked"]["largest"]) == ("draft", [{"cores": 32, "memory_gib": 128, "gpus": 0}])
    path = f"/requests/{draft['id']}"
    assert call(client, "ann", "PATCH", path, {"title": "T 2", "justification": "J 2"}).json()["title"] == "T 2"
    less = {"title": "T 2", "justification": "J 2", "asked": larger | {"credits": 70, "gpu_hours": 3}}
    revised = call(client, "ann", "PATCH", path, less).json()
    assert (revised["credits"], revised["asked"]["gpu_hours"]) == (70, 3)
    assert call(client, "ann", "POST", f"{path}/submit", {}).json()["state"] == "submitted"
    late = call(client, "ann", "PATCH", path, {"title": "T 3", "justification": "J 3"})
    assert (late.status_code, late.json()["code"]) == (409, "transition_not_allowed")
    approved = call(client, "rev", "POST", f"{path}/approve", {}).json()
    assert limit(client, "ann", approved["allocation"], "gpu_seconds") == 3 * 3600


def test_budget_moves_once_under_one_key(client: TestClient, bench: Bench) -> None:  # noqa: F811
    root = bench.consortium(credits=100)
    first, second = divide(client, root, 60), divide(client, root, 40)
    body = {"to": second, "microcredits": 10 * CREDIT}
    for _ in range(2):
        assert call(client, "lead", "POST", f"/allocations/{first}/move", body, key="m").status_code == 200
    assert (limit(client, "lead", first), limit(client, "lead", second)) == (50 * CREDIT, 50 * CREDIT)
    other = call(client, "lead", "POST", f"/allocations/{first}/move", body | {"microcredits": 1}, key="m")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    bench.assert_clean()


def test_closing_a_subtree_ends_its_leases_and_frees_the_rest(client: TestClient, bench: Bench) -> None:  # noqa: F811
    root = bench.consortium(credits=100)
    child = divide(client, root, 60)
    below = divide(client, child, 20)
    bench.accept("ann")
    join(client, "lead", below, "ann")
    lease = acquire(client, bench, below, "ann").json()
    call(client, "spawner", "POST", f"/leases/{lease['id']}/start", {})
    assert call(client, "ann", "DELETE", f"/allocations/{below}?why=over").json()["code"] == "not_allowed"
    assert call(client, "lead", "DELETE", f"/allocations/{child}").status_code == 422, "a reason is needed"
    for _ in range(2):
        closed = call(client, "lead", "DELETE", f"/allocations/{child}?why=over", key="c").json()
        assert {node["state"] for node in closed["tree"]} == {"closed"}
    assert acquire(client, bench, below, "ann").json()["code"] == "allocation_not_active"
    bench.clock.pass_seconds(60)
    renewed = call(client, "spawner", "POST", f"/leases/{lease['id']}/renew", {}).json()
    assert (renewed["final"], renewed["ends_at"]) == (True, lease["ends_at"])
    bench.clock.pass_seconds(15 * 60)
    bench.services.leases.expire(lease["id"])
    ended = call(client, "ann", "GET", f"/leases/{lease['id']}").json()
    assert (ended["state"], ended["held_microcredits"]) == ("expired", 0)
    rest = 100 * CREDIT - ended["charged_microcredits"]
    anew = {"name": "New", "microcredits": rest, "lead": "lead"}
    assert call(client, "lead", "POST", f"/allocations/{root}/suballocations", anew).status_code == 201
    whole = call(client, "lead", "DELETE", f"/allocations/{root}?why=over")
    assert (whole.status_code, whole.json()["code"]) == (403, "not_allowed"), "a whole one is an administrator's"
    bench.assert_clean()


def test_an_administrator_suspends_resumes_and_closes(client: TestClient, bench: Bench) -> None:  # noqa: F811
    root = bench.consortium()
    child = divide(client, root, 60)
    at, why = f"/allocations/{root}", {"why": "an inquiry"}
    assert call(client, "admin", "POST", f"{at}/suspend", {"why": " "}).json()["code"] == "invalid_input"
    assert call(client, "admin", "POST", f"{at}/suspend", why).json()["allocation"]["state"] == "suspended"
    assert acquire(client, bench, root, "lead").json()["code"] == "allocation_not_active"
    assert call(client, "admin", "POST", f"{at}/resume", why).json()["allocation"]["state"] == "active"
    closed = call(client, "admin", "POST", f"/allocations/{child}/close", why).json()
    assert (closed["allocation"]["state"], closed["allocation"]["limit_microcredits"]) == ("closed", 0)
    assert {node["state"] for node in call(client, "admin", "POST", f"{at}/close", why).json()["tree"]} == {"closed"}
    assert call(client, "admin", "POST", f"{at}/resume", why).json()["code"] == "transition_not_allowed"
    bench.assert_clean()


def test_an_override_is_granted_once_explained_and_revoked(client: TestClient, bench: Bench) -> None:  # noqa: F811
    bench.accept("ann")
    body = {"subject_kind": "person", "subject": "ann", "limits": {"cores": 64}, "reason": "A workshop", "days": 7}
    made = call(client, "admin", "POST", "/overrides", body, key="o").json()
    assert call(client, "admin", "POST", "/overrides", body, key="o").json() == made
    other = call(client, "admin", "POST", "/overrides", body | {"days": 8}, key="o")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert call(client, "admin", "GET", "/overrides").json() == {"overrides": [made]}
    assert (made["author"], made["ends_at"], made["limits"]["cores"]) == ("admin", "2027-01-22T08:00:00.000Z", 64)

    def cores() -> Any:
        [quotas] = call(client, "ann", "GET", "/quotas/ann").json()["allocations"]
        return next((one["value"], one["source"]) for one in quotas["limits"] if one["name"] == "cores")

    assert cores() == (64, "override")
    revoked = call(client, "admin", "DELETE", f"/overrides/{made['id']}?why=cancelled").json()
    assert (revoked["revoked_by"], revoked["revoked_at"]) == ("admin", "2027-01-15T08:00:00.000Z")
    assert call(client, "admin", "GET", "/overrides").json() == {"overrides": []}
    assert cores()[1] != "override"
    again = call(client, "admin", "DELETE", f"/overrides/{made['id']}?why=cancelled")
    assert (again.status_code, again.json()["code"]) == (409, "transition_not_allowed")


def test_who_links_a_publication_does_not_learn_who_else_did(client: TestClient, bench: Bench) -> None:  # noqa: F811
    mine, theirs = bench.consortium("ann"), bench.consortium("lead")
    body = {"identifier": f"https://doi.org/{DOI}", "title": "Dark stars"}
    made = call(client, "lead", "POST", f"/allocations/{theirs}/publications", body)
    assert made.status_code == 201
    linked = call(client, "ann", "POST", f"/allocations/{mine}/publications", body)
    assert linked.json() == made.json() == {"id": made.json()["id"], "doi": DOI, "bibcode": None, "title": "Dark stars"}
    at = f"/allocations/{mine}/publications"
    assert call(client, "ann", "GET", at).json() == {"publications": [linked.json()]}
    assert call(client, "ann", "DELETE", f"{at}/{made.json()['id']}").status_code == 204
    assert call(client, "ann", "GET", at).json() == {"publications": []}
    assert call(client, "lead", "GET", f"/allocations/{theirs}/publications").json()["publications"] == [made.json()]
    bad = call(client, "ann", "POST", at, body | {"identifier": "a book"})
    assert (bad.status_code, bad.json()["code"]) == (422, "invalid_input")


def test_asking_again_under_one_key_is_one_request_even_when_it_was_decided(
    client: TestClient,  # noqa: F811  # as above
    bench: Bench,
    research: str,
) -> None:
    report = {"report": "Half of the fields are reduced."}
    more = {"kind": "supplement", "justification": "A second field.", "credits": 10}
    for path, body in (("progress", report), ("requests", more)):
        path = f"/allocations/{research}/{path}"  # noqa: PLW2901  # the whole of it
        first = call(client, "ann", "POST", path, body, key=path)
        assert call(client, "rev", "POST", f"/requests/{first.json()['id']}/approve", {}).status_code == 200
        again = call(client, "ann", "POST", path, body, key=path)
        assert (again.status_code, again.json()["id"], again.json()["state"]) == (201, first.json()["id"], "approved")
    bench.assert_clean()
