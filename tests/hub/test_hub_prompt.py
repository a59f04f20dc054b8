"""A server that answers is noticed soon, not at JupyterHub's next random look."""

from __future__ import annotations

import asyncio

import pytest
from jupyterhub import utils
from jupyterhub.objects import Server

from tests.ports import free_port

PORT_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture
def server(bench) -> Server:
    """The address of a spawner's server, where nothing listens yet; told after it was first read."""
    spawner = bench.new_spawner(bench.new_queue())
    made = Server(orm_server=spawner.server.orm_server)
    spawner.server = made
    assert spawner.server is made
    made.ip, made.port = "127.0.0.1", free_port()
    return spawner.server


def looks_made(monkeypatch) -> list[int]:
    """JupyterHub's own looks, counted; the second would come after a pause that nobody waits for."""
    looks: list[int] = []

    async def look_and_wait_for_ever(look, _message, **_settings):
        looks.append(1)
        answer = await look()
        if not answer:
            await asyncio.sleep(3600)
        return answer

    monkeypatch.setattr(utils, "exponential_backoff", look_and_wait_for_ever)
    return looks


def test_a_server_that_comes_up_is_found_at_jupyterhubs_first_look(server, monkeypatch):
    looks = looks_made(monkeypatch)

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(PORT_ANSWER)
        writer.close()

    async def come_up_late():
        waiting = asyncio.create_task(server.wait_up(http=True, timeout=30, extra_path="api"))
        await asyncio.sleep(0.5)
        assert not looks
        async with await asyncio.start_server(answer, server.ip, server.port):
            return await asyncio.wait_for(waiting, 20)

    assert asyncio.run(come_up_late()).status == 200
    assert looks == [1]


def test_a_server_that_never_comes_up_is_given_up_in_time(server):
    async def wait():
        await asyncio.wait_for(server.wait_up(http=True, timeout=1, extra_path="api"), 20)

    with pytest.raises(TimeoutError, match="didn't respond in"):
        asyncio.run(wait())
