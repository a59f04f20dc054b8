"""What runs inside a server asks the hub with the server's own token, and fails alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from jupyterlab_server.config import get_federated_extensions

import hub.lab
from hub.lab import _jupyter_server_extension_points, _load_jupyter_server_extension
from hub.lab.batch import BatchForm, BatchUnavailableError
from hub.lab.handlers import KEPT_SECONDS, HubSession, HubUnavailableError
from hub.spawner.local import LAB_CONFIG, LAB_SHARE

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "JUPYTERHUB_API_URL": "http://hub:8081/hub/api",
    "JUPYTERHUB_API_TOKEN": "own",
    "JUPYTERHUB_USER": "a b@x",
    "JUPYTERHUB_SERVER_NAME": "night",
}


class Hub:
    """Answers with what `answers` has, an exception or a response, and remembers who asked for what."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, str]] = []
        self.now = 0.0
        transport = httpx.MockTransport(self.answer)
        session = HubSession.from_environment(ENVIRONMENT, transport=transport, now_seconds=lambda: self.now)
        assert session is not None
        self.session = session

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        self.asked.append((request.method, path, request.headers["Authorization"]))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_it_asks_for_its_own_server_with_its_own_token():
    hub = Hub(httpx.Response(200, content=b"{}"))
    assert asyncio.run(hub.session.read()) == b"{}"
    assert hub.asked == [("GET", "/hub/api/meridian/sessions/a%20b%40x/night", "Bearer own")]


def test_several_windows_ask_the_hub_once_and_an_extension_is_never_kept_from_it():
    hub = Hub(*(httpx.Response(200, content=str(number).encode()) for number in range(3)))

    async def scenario():
        first, second = await hub.session.read(), await hub.session.read()
        extended, after = await hub.session.extend(), await hub.session.read()
        hub.now += KEPT_SECONDS + 1
        return first, second, extended, after, await hub.session.read()

    assert asyncio.run(scenario()) == (b"0", b"0", b"1", b"1", b"2")
    assert [method for method, _, _ in hub.asked] == ["GET", "POST", "GET"]


@pytest.mark.parametrize(
    ("answer", "status", "sentence"),
    [
        (httpx.ConnectError("refused"), 503, "The hub does not answer."),
        (httpx.ReadTimeout("late"), 503, "The hub does not answer."),
        (httpx.Response(409, json={"message": "The server\nhas ended."}), 409, "The server has ended."),
        (httpx.Response(502, content=b"<html>"), 502, "The hub answered with status 502."),
    ],
)
def test_what_the_hub_cannot_say_is_one_sentence(answer, status, sentence):
    with pytest.raises(HubUnavailableError) as caught:
        asyncio.run(Hub(answer).session.read())
    assert (caught.value.status, caught.value.sentence) == (status, sentence)


@pytest.mark.parametrize("missing", ["JUPYTERHUB_API_URL", "JUPYTERHUB_API_TOKEN", "JUPYTERHUB_USER"])
def test_without_a_hub_it_adds_nothing(monkeypatch, missing):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    added: list[tuple[Any, ...]] = []
    web_app = SimpleNamespace(add_handlers=lambda _host, handlers: added.extend(handlers))
    server: Any = SimpleNamespace(base_url="/user/ada/", web_app=web_app)
    assert _jupyter_server_extension_points() == [{"module": "hub.lab"}]
    _load_jupyter_server_extension(server)
    assert [handler[0] for handler in added] == ["/user/ada/meridian/session"]
    monkeypatch.setenv("MERIDIAN_URL", "http://proxy")
    _load_jupyter_server_extension(server)
    assert [handler[0] for handler in added[1:]] == ["/user/ada/meridian/session", "/user/ada/meridian/batch"]
    monkeypatch.delenv(missing)
    _load_jupyter_server_extension(server)
    assert len(added) == 3


class Files:
    """A notebook of this server."""

    def get(self, path: str, content: bool, type: str) -> Any:  # noqa: A002  # Jupyter Server's names
        assert (content, type) == (True, "notebook")
        return {"name": path.rpartition("/")[2], "content": {"nbformat": 4, "cells": []}}


def brought(*answers: httpx.Response | Exception) -> tuple[Any, list[httpx.Request]]:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = answers[len(asked) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    environment = {"MERIDIAN_URL": "http://proxy/", "JUPYTERHUB_API_TOKEN": "own"}
    form = BatchForm.from_environment(environment, transport=httpx.MockTransport(answer))
    assert form is not None
    return form.bring(Files(), "/deep/a b.ipynb"), asked


def test_a_notebook_is_brought_to_its_form_with_the_servers_own_token():
    bringing, asked = brought(httpx.Response(201, json={"page": "/services/allocations/runs/new?draft=n-1"}))
    assert asyncio.run(bringing) == "/services/allocations/runs/new?draft=n-1"
    [request] = asked
    assert str(request.url) == "http://proxy/services/allocations/api/v1/notebooks"
    assert request.headers["Authorization"] == "Bearer own"
    body = json.loads(request.content)
    assert (body["name"], body["source"]) == ("a b.ipynb", {"kind": "home", "path": "deep/a b.ipynb"})
    assert BatchForm.from_environment({"JUPYTERHUB_API_TOKEN": "own"}) is None


@pytest.mark.parametrize(
    ("answer", "status", "sentence"),
    [
        (httpx.ConnectError("refused"), 503, "The platform does not answer."),
        (httpx.Response(422, json={"detail": "Too\nlarge.", "remedy": "Clear it."}), 422, "Too large. Clear it."),
        (httpx.Response(401, json={"detail": "No token."}), 502, "No token."),
        (httpx.Response(502, content=b"<html>"), 502, "The platform answered with status 502."),
        (httpx.Response(200, json=[]), 502, "The platform answered with status 200."),
    ],
)
def test_what_the_platform_does_not_take_is_one_sentence(answer, status, sentence):
    bringing, _ = brought(answer)
    with pytest.raises(BatchUnavailableError) as caught:
        asyncio.run(bringing)
    assert (caught.value.status, caught.value.sentence) == (status, sentence)


def test_jupyter_finds_both_extensions_where_the_spawner_and_the_images_put_them():
    [found] = get_federated_extensions([str(LAB_SHARE / "labextensions")]).values()
    build = found["jupyterlab"]["_build"]
    script = (LAB_SHARE / "labextensions" / found["name"] / build["load"]).read_text()
    # JupyterLab looks the container up by the package's name.
    assert f'const NAME = "{found["name"]}";' in script
    enabled = json.loads((LAB_CONFIG / "jupyter_server_config.d" / "meridian.json").read_text())
    assert enabled["ServerApp"]["jpserver_extensions"] == {hub.lab.__name__: True}
    copied = (ROOT / "images" / "labs.Dockerfile").read_text()
    for folder, target in ((LAB_CONFIG, "etc"), (LAB_SHARE, "share")):
        assert copied.count(f"COPY {folder.relative_to(ROOT)}/ /opt/lab/{target}/jupyter/") == 3
