"""Tiny notebooks, runs of them, and a stand-in for the service for faults that the real one cannot be made to have."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nbformat
import pytest

from hub.batch.local import MARK
from hub.batch.processes import living_marked

if TYPE_CHECKING:
    from collections.abc import Callable

    from hub.batch.files import RunDirectory

ROOT = Path(__file__).parents[2]
GIB = 2**30


def notebook(*sources: str, defaults: str | None = None) -> nbformat.NotebookNode:
    """A notebook of these code cells, after a cell of parameters if `defaults` are given."""
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book: nbformat.NotebookNode = nbformat.v4.new_notebook(metadata={"kernelspec": kernelspec})
    if defaults is not None:
        cell = nbformat.v4.new_code_cell(defaults)
        cell.metadata["tags"] = ["parameters"]
        book.cells.append(cell)
    book.cells.extend(nbformat.v4.new_code_cell(source) for source in sources)
    return book


def wait_for(what: Callable[[], Any], seconds: float = 120) -> Any:
    """The first true value of `what()`; the test fails when there is none in time."""
    ends_at = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() >= ends_at
        value = what()
        if value:
            return value
        if is_last:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.05)


@dataclass
class RunnerOfTest:
    """One run's directory, its runner's process and what it wrote."""

    directory: RunDirectory
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hub.batch.runner", str(self.directory.path)],
            env=self.environment,
            start_new_session=True,
        )
        return self.process

    def finish(self, seconds: float = 120) -> dict[str, Any]:
        """Wait for the end and return result.json."""
        assert self.process is not None
        assert self.process.wait(seconds) == 0, self.log
        result: dict[str, Any] = json.loads((self.directory.path / "result.json").read_text())
        return result

    def wait_for_cell(self, cell: int) -> None:
        """Wait until the cell runs."""
        wait_for(lambda: (p := self.directory.read_progress()) and p.current_cell == cell)

    @property
    def log(self) -> str:
        return self.directory.log.read_text()

    @property
    def output(self) -> nbformat.NotebookNode:
        book: nbformat.NotebookNode = nbformat.read(self.directory.output, 4)
        return book

    def living(self) -> dict[int, str]:
        return living_marked(MARK, str(self.directory.path))


class FakeService:
    """The runs part of the service's API over HTTP, which can be taken away and brought back."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.queued: list[str] = []
        self.calls: list[tuple[str, str, dict[str, Any], dict[str, str]]] = []
        self.failures: list[tuple[int, dict[str, Any]]] = []
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{self.base}/services/allocations"

    def up(self) -> None:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("GET")

            def do_POST(self) -> None:
                self._answer("POST")

            def do_PUT(self) -> None:
                self._answer("PUT")

            def do_DELETE(self) -> None:
                self._answer("DELETE")

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, method: str) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                path = urlsplit(self.path).path.removeprefix("/services/allocations/api/v1")
                service.calls.append((method, path, body, dict(self.headers)))
                status, answer = service.failures.pop(0) if service.failures else service.answer(method, path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        parts = path.strip("/").split("/")
        if path == "/runs/active":
            active = [run for run in self.runs.values() if run["state"] in ("admitted", "running")]
            return 200, {"runs": active}
        if path == "/runs":
            return 201, self.runs[next(iter(self.runs))]
        if path == "/runs/claim":
            claimed, self.queued = self.queued[: body["limit"]], self.queued[body["limit"] :]
            for run_id in claimed:
                self.runs[run_id]["state"] = "admitted"
            return 200, {"runs": [self.runs[run_id] for run_id in claimed]}
        run = self.runs[parts[1]]
        if parts[2:] == ["progress"]:
            run.update(body, state="running")
        if parts[2:] == ["finish"]:
            run.update(state=body["outcome"])
        return 200, run

    def finishes(self, run_id: str) -> list[dict[str, Any]]:
        """Every report of the run's end that arrived."""
        return [body for _, path, body, _ in self.calls if path == f"/runs/{run_id}/finish"]
