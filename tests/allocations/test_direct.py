"""The short way of well-formed requests: whatever is sent, the answer is the one that FastAPI would have given."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field, model_validator

from allocations.api import problems
from allocations.api.direct import DirectRoute
from allocations.api.v1 import PARTS
from allocations.api.v1.leases import router as leases
from allocations.errors import AllocationsError

JSON = "application/json"
WELL = {"authorization": "good", "idempotency-key": "k", "content-type": JSON}


class RefusedError(AllocationsError):
    code = "refused"
    status = 401
    title = "Refused"


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    count: Annotated[int, Field(gt=0)] = 1

    @model_validator(mode="after")
    def _is_whole(self) -> Asked:
        if self.name == "bad":
            raise ValueError("a bad name")
        return self


class Told(BaseModel):
    name: str
    count: int
    key: str
    caller: str


async def caller(request: Request) -> str:
    name = request.headers.get("authorization", "")
    if name != "good":
        raise RefusedError(f"Not {name}.", "Be good.")
    return name


def client(route_class: type[APIRoute]) -> TestClient:
    """A server with one route of a class."""
    router = APIRouter(route_class=route_class)

    @router.post("/things", status_code=201)
    async def make(
        body: Asked,
        who: Annotated[str, Depends(caller)],
        idempotency_key: Annotated[str, Header(alias="Idempotency-Key")],
    ) -> Told:
        if body.name == "refused":
            raise RefusedError("Not this one.", "Choose another.")
        return Told(name=body.name, count=body.count, key=idempotency_key, caller=who)

    app = FastAPI()
    app.include_router(router)
    problems.install(app)
    return TestClient(app, raise_server_exceptions=False)


def told(response: Any) -> tuple[int, bytes, str | None]:
    return response.status_code, response.content, response.headers.get("content-type")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (WELL, b'{"name": "a", "count": 2}'),
        (WELL, '{"name": "ß 𝔸 \\u0000"}'.encode()),
        (WELL, b'{"name": "\\ud800"}'),
        (WELL, b'\xef\xbb\xbf{"name": "a"}'),
        (WELL, b'{"name": "a", "count": 2.0}'),
        (WELL, b'{"name": "a", "count": "2"}'),
        (WELL, b'{"name": "a", "count": NaN}'),
        (WELL, b'{"name": "a", "count": 0}'),
        (WELL, b'{"name": "a", "name": "b"}'),
        (WELL, b'{"name": "a", "other": 1}'),
        (WELL, b'{"name": "bad"}'),
        (WELL, b'{"name": "refused"}'),
        (WELL, b'{"name": "a"'),
        (WELL, b"[]"),
        (WELL, b"null"),
        (WELL, b""),
        (WELL, b"\xff"),
        (WELL | {"content-type": "application/json; charset=utf-8"}, b'{"name": "a"}'),
        (WELL | {"content-type": "application/problem+json"}, b'{"name": "a"}'),
        (WELL | {"content-type": "text/plain"}, b'{"name": "a"}'),
        (WELL | {"idempotency-key": ""}, b'{"name": "a"}'),
        (WELL | {"authorization": "bad"}, b'{"name": "a"}'),
        (WELL | {"authorization": "bad"}, b'{"name": "bad"}'),
        (WELL | {"authorization": "bad"}, b'{"name": '),
        ({"authorization": "good", "content-type": JSON}, b'{"name": "a"}'),
        ({"idempotency-key": "k", "content-type": JSON}, b"{}"),
        ({}, b'{"name": "a"}'),
    ],
)
def test_the_answer_is_fastapis(headers: dict[str, str], body: bytes) -> None:
    direct, plain = (
        told(client(kind).post("/things", content=body, headers=headers)) for kind in (DirectRoute, APIRoute)
    )
    assert direct == plain


def test_an_admission_goes_the_short_way() -> None:
    route = next(one for one in leases.routes if isinstance(one, APIRoute) and one.endpoint.__name__ == "acquire")
    assert isinstance(route, DirectRoute)
    assert route.is_direct


def test_no_router_adds_dependencies_that_the_short_way_would_leave_out() -> None:
    assert not any(part.router.dependencies for part in PARTS)
