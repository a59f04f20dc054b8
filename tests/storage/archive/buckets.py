"""A real S3 server (moto's), and a proxy before it that fails as networks and services do."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUCKET = "archives"


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's server, in a process of its own: tests fork, which threads beside do not bear; yields its address."""
    command = [sys.executable, "-m", "tests.storage.archive.buckets"]
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, "moto's server has not begun"
            yield address
        finally:
            process.kill()


@dataclass
class Faults:
    """What the proxy does: `choose` is given number, method and path of each request, and names a fault."""

    choose: Callable[[int, str, str], str] = lambda _number, _method, _path: ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    stall_seconds: float = 3.0


SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
FAULTS = ("throttle", "error", "drop", "lose answer", "cut", "stall", "corrupt")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: str
    faults: Faults

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.faults.requests.append((self.command, self.path))
        fault = self.faults.choose(len(self.faults.requests), self.command, self.path)
        if fault:
            self.faults.done.append(fault)
        if fault == "throttle":
            self.answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
        elif fault == "error":
            self.answer(500, {}, b"")
        elif fault == "drop":
            self.close_connection = True
        else:
            if fault == "stall":
                time.sleep(self.faults.stall_seconds)
            self.pass_on(fault, body)

    def pass_on(self, fault: str, body: bytes) -> None:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            sent = _changed(body) if fault == "corrupt" else body
            connection.request(self.command, self.path, sent, dict(self.headers))
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if fault == "lose answer":
            self.close_connection = True
            return
        if fault == "corrupt" and self.command == "GET":
            data = _changed(data)
        self.answer(response.status, dict(response.headers), data, len(data) // 2 if fault == "cut" else None)

    def answer(self, status: int, headers: dict[str, str], data: bytes, sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", len(data)) if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data if sent is None else data[:sent])
        if sent is not None:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815


def _changed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data


@contextmanager
def proxy(address: str) -> Iterator[tuple[str, Faults]]:
    """Run a proxy before a server; yields its address and its faults, none to begin with."""
    faults = Faults()
    handler = type("Handler", (_Handler,), {"upstream": address.removeprefix("http://"), "faults": faults})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", faults
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    """Serve until standard input is closed."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415  # the tests themselves start faster without it

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
