"""Kernels of people's servers, driven as JupyterLab drives them: over the server's own addresses, through the proxy."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

if TYPE_CHECKING:
    from tests.e2e.platform import Person

ANSWER_SECONDS = 300.0


def execute(person: Person, *sources: str) -> list[dict[str, Any]]:
    """Execute cells in a new kernel of the person's server; return the outputs that came."""
    started = person.server("POST", "/api/kernels", {"name": "python3", "path": ""})
    assert started.status_code == 201, started.text
    kernel = started.json()["id"]
    try:
        # In a thread of its own: where a browser has been used, one loop runs in this one already.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, _execute(person, kernel, sources)).result()
    finally:
        person.server("DELETE", f"/api/kernels/{kernel}")


def printed(messages: list[dict[str, Any]]) -> str:
    """What cells printed, and the errors that they ended with."""
    texts = {"stream": "text", "error": "evalue"}
    return "".join(one["content"][texts[one["msg_type"]]] for one in messages if one["msg_type"] in texts)


async def _execute(person: Person, kernel: str, sources: tuple[str, ...]) -> list[dict[str, Any]]:
    address = f"{person.platform.url}/user/{person.name}/api/kernels/{kernel}/channels".replace("http", "ws", 1)
    upgrade = HTTPRequest(address, headers={"Authorization": f"Bearer {person.token}"}, request_timeout=ANSWER_SECONDS)
    connection = await websocket_connect(upgrade)
    messages: list[dict[str, Any]] = []
    try:
        for source in sources:
            request = _request(source)
            await connection.write_message(json.dumps(request))
            async with asyncio.timeout(ANSWER_SECONDS):
                messages += await _answers(connection, request["header"]["msg_id"])
    finally:
        connection.close()
    return messages


async def _answers(connection: Any, request: str) -> list[dict[str, Any]]:
    """All that comes of a request: its reply and its last output take different ways, and either may be first."""
    answers: list[dict[str, Any]] = []
    replied = idle = False
    while not (replied and idle):
        message = json.loads(await connection.read_message())
        if message["parent_header"].get("msg_id") != request:
            continue
        replied |= message["msg_type"] == "execute_reply"
        idle |= message["content"].get("execution_state") == "idle"
        if message["channel"] == "iopub" and message["msg_type"] != "status":
            answers.append(message)
    return answers


def _request(source: str) -> dict[str, Any]:
    header = {"msg_id": uuid4().hex, "msg_type": "execute_request", "username": "", "session": uuid4().hex}
    content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
    header |= {"version": "5.3", "date": ""}
    return {
        "channel": "shell",
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "buffers": [],
    }
