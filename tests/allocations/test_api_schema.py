"""Whatever the published description lets anybody send, the answer is one that it describes."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from allocations.api.v1 import PARTS
from allocations.app import PREFIX
from tests.allocations.test_api import call, client, join  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from tests.allocations.conftest import Bench

pytestmark = pytest.mark.slow

ROLES = ("nobody", "ann", "rev", "admin", "spawner")
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
)
DOI = "10.3847/1538-4357/abcdef"
NOTEBOOK = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
PARAMETRIC = NOTEBOOK | {
    "cells": [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "x = 0", "outputs": []}]
}


def real_ids(client: TestClient, bench: Bench) -> dict[str, list[str]]:  # noqa: F811  # as above
    """Put something of everything there, and return ids by the name of the parameter or field that takes them."""
    entry = bench.accept("ann")
    root, anothers = bench.consortium("ann"), bench.consortium("lead")
    lease = bench.acquire(entry).id
    join(client, "ann", root, "member")

    def made(path: str, body: dict[str, Any], who: str = "ann") -> str:
        answer = call(client, who, "POST", path, body, key=(path + str(body))[:200]).json()
        return str((answer.get("allocation") if path.endswith("/suballocations") else answer)["id"])

    def divided(parent: str) -> str:
        share = {"name": "Group", "microcredits": 10_000_000, "lead": "ann", "gpu_hours": 2}
        return made(f"/allocations/{parent}/suballocations", share)

    child = divided(root)
    word = {"tier": "research", "title": "Dark stars", "justification": "We look for them."}
    more = {"kind": "supplement", "justification": "A second field.", "credits": 10}
    batch = {"allocation": root, "size": "small", "name": "a.ipynb", "notebook": PARAMETRIC}
    exception = {"subject_kind": "person", "subject": "ann", "limits": {"cores": 8}, "reason": "R", "days": 7}
    paper = {"identifier": DOI, "title": "Dark stars"}
    sibling = made(f"/allocations/{root}/suballocations", {"name": "Other", "microcredits": 10, "lead": "ann"})
    return {
        "allocation_id": [root, child, entry, divided(child)],
        "allocation": [entry, root],
        "to": [sibling],
        "lease_id": [lease],
        "request_id": [
            made("/requests", word),
            made("/requests", word | {"draft": True}),
            made(f"/allocations/{root}/requests", more),
        ],
        "run_id": [made("/runs", batch)],
        "sweep_id": [made("/sweeps", batch | {"rows": [{"x": 1}, {"x": 2}]})],
        "schedule_id": [made("/schedules", batch | {"title": "Nightly", "cron": "0 6 * * *"})],
        "invitation_id": [
            made(f"/allocations/{root}/invitations", {"person": "bob"}),
            made(f"/allocations/{anothers}/invitations", {"person": "ann"}, "lead"),
        ],
        "publication_id": [made(f"/allocations/{root}/publications", paper)],
        "override_id": [made("/overrides", exception, "admin")],
        "notice_id": [str(bench.services.inbox.inbox("ann").notices[0].id)],
        "identifier": [DOI, "2015arXiv150303757S"],
        "subject": ["ann", root],
        "person": ["ann", "bob", "member", "eve"],
        "lead": ["bob"],
        "tier": ["research", "consortium"],
        "size": ["small"],
    }


def aim(case: Any, ids: dict[str, list[str]], picks: list[int]) -> None:
    """Put real ids in the place of invented ones: what is only looked up in vain is hardly tried."""
    places = itertools.cycle(picks)
    for values in (case.path_parameters, case.query, case.body):
        if isinstance(values, dict):
            for name in sorted(values.keys() & ids.keys()):
                values[name] = ids[name][next(places) % len(ids[name])]


def drive(client: TestClient, bench: Bench, role: str, examples: int) -> int:  # noqa: F811  # as above
    """Send generated requests to every operation as somebody; return how many were sent."""
    ids = real_ids(client, bench)
    schema = schemathesis.openapi.from_asgi(f"{PREFIX}/api/openapi.json", client.app)
    sent = 0
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == len(list(schema.get_all_operations())), "the description can be read"
    # What takes away comes last: before, the others find something.
    for operation in sorted(operations, key=lambda operation: operation.method.upper() == "DELETE"):

        @given(
            case=operation.as_strategy(),
            is_aimed=st.integers(0, 3),
            picks=st.lists(st.integers(0, 3), min_size=4, max_size=4),
        )
        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        def conforms(case: Any, is_aimed: int, picks: list[int]) -> None:
            nonlocal sent
            if is_aimed:
                aim(case, ids, picks)
            headers = {} if role == "nobody" else {"Authorization": f"Bearer {role}"}
            case.call_and_validate(headers=headers, checks=CHECKS)
            sent += 1

        conforms()
    bench.assert_clean()
    return sent


@pytest.mark.parametrize("role", ROLES)
def test_every_answer_is_one_that_is_published(client: TestClient, bench: Bench, role: str) -> None:  # noqa: F811
    assert drive(client, bench, role, examples=2) > 100


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_every_answer_to_many_more_requests_is_published(client: TestClient, bench: Bench, role: str) -> None:  # noqa: F811
    assert drive(client, bench, role, examples=40) > 1000


def test_every_answer_has_an_example_of_its_shape(client: TestClient) -> None:  # noqa: F811
    paths = client.get(f"{PREFIX}/api/openapi.json").json()["paths"]
    shown = 0
    for route in (route for part in PARTS for route in part.router.routes if isinstance(route, APIRoute)):
        for method in route.methods or ():
            responses = paths[f"{PREFIX}/api/v1{route.path}"][method.lower()]["responses"]
            for status, response in responses.items():
                for media_type, content in response.get("content", {}).items():
                    if (route.path, status) == ("/health", "503"):
                        continue
                    assert "example" in content, f"{method} {route.path} {status} {media_type}"
                    if media_type == "application/problem+json":
                        assert content["example"]["status"] == int(status)
                    elif route.response_model is not None:
                        answer = route.response_model.model_validate(content["example"])
                        assert answer.model_dump(mode="json") == content["example"]
                    shown += 1
    assert shown > 400


def test_every_body_has_an_example_that_it_takes(client: TestClient) -> None:  # noqa: F811
    bodies: list[Any] = [
        route.body_field.field_info.annotation
        for part in PARTS
        for route in part.router.routes
        if isinstance(route, APIRoute) and route.body_field is not None
    ]
    published = client.get(f"{PREFIX}/api/openapi.json").json()["components"]["schemas"]
    assert len(bodies) >= 15
    for body in bodies:
        examples = body.model_json_schema()["examples"]
        assert examples, body.__name__
        for one in examples:
            body.model_validate_json(json.dumps(one))
    for name in ("AcquireBody", "DivideBody", "SubmitBody"):
        assert published[name]["examples"], name
