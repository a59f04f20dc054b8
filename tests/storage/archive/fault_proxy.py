"""A process before an S3 server that does to requests and answers what networks, proxies and services do.

    python -m tests.storage.archive.fault_proxy http://127.0.0.1:5000

prints its address. `PUT /-/faults` sets what it does: a JSON list of rules, of which the first that fits a request is
followed; `GET /-/faults` tells how often each fault was done, and how many requests there were. A rule: `fault`;
`method` and `path`, patterns that must be found; `share` of the requests that fit, by a `seed`; at most so many
`times`.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import random
import re
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTROL = "/-/faults"
STALL_SECONDS = 10.0
DRIP_SECONDS = 0.25
LOST = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
ERRORS = {
    "throttle": (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"),
    "error": (500, b""),
    "stale absent": (404, LOST),
    "portal": (200, b"<html><body>Please sign in to the network.</body></html>"),
}
# What an answer that was got is made into, by faults of its body and of its headers.
FAULTS = (
    *ERRORS,
    "drop",
    "lose answer",
    "stall",
    "drip",
    "cut",
    "shorten",
    "flip up",
    "flip up noticed",
    "flip down",
    "wrong etag",
    "vanish",
)


class Rules:
    """What is done to which request, and how often it was."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.set([])

    def set(self, rules: list[dict[str, Any]]) -> None:
        with self._guard:
            self._rules = rules
            self._chances = [random.Random(rule.get("seed", 0)) for rule in rules]
            self._times: Counter[int] = Counter()
            self.done: Counter[str] = Counter()
            self.requests = 0

    def choose(self, method: str, path: str) -> str:
        with self._guard:
            self.requests += 1
            for number, (rule, chance) in enumerate(zip(self._rules, self._chances, strict=True)):
                fits = re.search(rule.get("method", ""), method) and re.search(rule.get("path", ""), path)
                if not fits or self._times[number] >= rule.get("times", sys.maxsize):
                    continue
                if chance.random() < rule.get("share", 1):
                    self._times[number] += 1
                    self.done[rule["fault"]] += 1
                    return str(rule["fault"])
            return ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: str
    rules: Rules
    chance: random.Random

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == CONTROL:
            if self.command == "PUT":
                self.rules.set(json.loads(body))
            told = {"done": self.rules.done, "requests": self.rules.requests}
            self.answer(200, {}, json.dumps(told).encode())
            return
        fault = self.rules.choose(self.command, self.path)
        if fault in ERRORS:
            status, data = ERRORS[fault]
            self.answer(status, {"Content-Type": "application/xml"}, b"" if self.command == "HEAD" else data)
        elif fault == "drop":
            self.close_connection = True
        elif fault == "flip up noticed" and self.flipped(body) != body:
            self.answer_to_checksum(self.flipped(body))
        else:
            self.pass_on(fault, body)

    def pass_on(self, fault: str, body: bytes) -> None:
        if fault == "stall":
            time.sleep(STALL_SECONDS)
        if fault == "vanish":
            self.ask("DELETE", self.path.partition("?")[0], b"")
        status, headers, data = self.ask(self.command, self.path, self.flipped(body) if fault == "flip up" else body)
        if fault == "lose answer":
            self.close_connection = True
            return
        if fault == "wrong etag" and "ETag" in headers:
            headers["ETag"] = '"00000000000000000000000000000000"'
        if fault == "flip down":
            data = self.flipped(data)
        if fault == "shorten":
            data = data[: len(data) // 2]
        self.answer(status, headers, data, fault)

    def ask(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            connection.request(method, path, body, dict(self.headers))
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()
        finally:
            connection.close()

    def answer_to_checksum(self, body: bytes) -> None:
        """Answer as S3 does, which the server of the tests does not, to a body that has another sum than is told."""
        told = self.headers.get("x-amz-checksum-sha256")
        ours = base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert told != ours
        self.answer(400, {}, b"<Error><Code>BadDigest</Code><Message>The sums differ.</Message></Error>")

    def flipped(self, data: bytes) -> bytes:
        """Change a bit of some data: another one each time."""
        if not data:
            return data
        at = self.chance.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self.chance.randrange(8))]) + data[at + 1 :]

    def answer(self, status: int, headers: dict[str, str], data: bytes, fault: str = "") -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", len(data)) if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault == "cut":
            data = data[: len(data) // 2]
            self.close_connection = True
        with suppress(ConnectionError):
            if fault == "drip":
                for at in range(len(data)):
                    self.wfile.write(data[at : at + 1])
                    self.wfile.flush()
                    time.sleep(DRIP_SECONDS)
            else:
                self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815


class FaultProxy:
    """A running proxy, as the tests have it."""

    def __init__(self, address: str) -> None:
        self.address = address

    def set(self, *rules: dict[str, Any]) -> None:
        """Do this from now on."""
        self._ask("PUT", json.dumps(rules).encode())

    def told(self) -> tuple[Counter[str], int]:
        """How often each fault was done, and how many requests there were, since `set`."""
        found = self._ask("GET", b"")
        return Counter(found["done"]), found["requests"]

    def _ask(self, method: str, body: bytes) -> Any:
        connection = http.client.HTTPConnection(self.address.removeprefix("http://"), timeout=300)
        try:
            connection.request(method, CONTROL, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Run the proxy in a process of its own before a server."""
    import subprocess  # noqa: PLC0415  # the process itself starts faster without it

    command = [sys.executable, "-m", "tests.storage.archive.fault_proxy", upstream]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            yield FaultProxy(process.stdout.readline().strip())
        finally:
            process.kill()


def main() -> None:
    """Serve until killed."""
    attributes = {"upstream": sys.argv[1].removeprefix("http://"), "rules": Rules(), "chance": random.Random(5)}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), attributes))
    server.daemon_threads = True
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
