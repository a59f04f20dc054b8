"""A lean load client, a process of its own: `python -m benchmarks.load`, a Load on standard input, a Yield on output.

It speaks as much HTTP/1.1 as it needs, over connections that stay open, so that it takes little of the processors that
it shares with the service: what it took is told. Requests are made before the clock starts.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import uuid
from collections import deque
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CREATED = 201
END_OF_HEAD = b"\r\n\r\n"
LENGTH = b"content-length: "
SEED = 7


@dataclass(frozen=True, slots=True)
class Load:
    """Leases to ask for, as (allocation, person), over so many connections.

    `per_second` is None for a closed loop: each connection sends the next request when it has its answer. Otherwise
    requests are sent at random (Poisson) moments of that rate, whether others have been answered or not, and the
    latency counts from the moment when a request should have been sent.
    """

    host: str
    port: int
    path: str
    token: str
    connections: int
    asks: Sequence[tuple[str, str]]
    per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Yield:
    """What came of it. Seconds; `processor` is what this client itself took."""

    wall: float
    processor: float
    each: Sequence[float]


class _Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = b""
        self._from = 0.0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, request: bytes, since: float) -> None:
        self._from = since
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(END_OF_HEAD)
        if not end:
            return
        _, _, rest = head.lower().partition(LENGTH)
        if len(body) < int(rest.split(b"\r\n", 1)[0]):
            return
        self._received = b""
        if int(head[9:12]) != CREATED:
            self._run.fail(f"{head[:40]!r}: {body.decode()}")
            return
        self._run.answered(self, time.perf_counter() - self._from)

    def connection_lost(self, _error: Exception | None) -> None:
        self._run.fail("the service closed a connection")

    def close(self) -> None:
        self._transport.abort()


class _Run:
    """Sends everything, and waits for every answer."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._each: list[float] = []
        self._idle: deque[_Connection] = deque()
        self._late: deque[tuple[bytes, float]] = deque()
        self._requests: Iterator[bytes] = iter(())
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> Yield:
        loop = asyncio.get_running_loop()
        requests = [_request(self._load, *ask) for ask in self._load.asks]
        made = [
            (await loop.create_connection(lambda: _Connection(self), self._load.host, self._load.port))[1]
            for _ in range(self._load.connections)
        ]
        begin, processor = time.perf_counter(), time.process_time()
        if self._load.per_second is None:
            self._requests = iter(requests)
            for connection in made:
                self._next(connection)
        else:
            self._idle.extend(made)
            chance = random.Random(SEED)  # noqa: S311  # the same moments in each run
            pauses = [chance.expovariate(self._load.per_second) for _ in requests]
            offset = loop.time() - begin
            for request, after in zip(requests, accumulate(pauses), strict=True):
                loop.call_at(begin + after + offset, self._due, request, begin + after)
        await self._done
        ended = Yield(time.perf_counter() - begin, time.process_time() - processor, self._each)
        for connection in made:
            connection.close()
        return ended

    def answered(self, connection: _Connection, seconds: float) -> None:
        self._each.append(seconds)
        if len(self._each) == len(self._load.asks):
            self._done.set_result(None)
        elif self._late:
            connection.send(*self._late.popleft())
        elif self._load.per_second is None:
            self._next(connection)
        else:
            self._idle.append(connection)

    def fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(RuntimeError(why))

    def _next(self, connection: _Connection) -> None:
        request = next(self._requests, None)
        if request is not None:
            connection.send(request, time.perf_counter())

    def _due(self, request: bytes, since: float) -> None:
        if self._idle:
            self._idle.popleft().send(request, since)
        else:
            self._late.append((request, since))


def _request(load: Load, allocation: str, person: str) -> bytes:
    body = json.dumps({"allocation": allocation, "person": person, "kind": "interactive", "size": "small"})
    head = (
        f"POST {load.path} HTTP/1.1\r\nHost: {load.host}:{load.port}\r\nAuthorization: Bearer {load.token}\r\n"
        f"Idempotency-Key: {uuid.uuid4()}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


async def _main() -> None:
    load = Load(**json.load(sys.stdin))
    print(json.dumps(asdict(await _Run(load).run())))


if __name__ == "__main__":
    asyncio.run(_main())
