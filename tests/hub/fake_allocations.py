"""A small allocations service for faults that the real one can't be made to show on demand."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "/services/allocations/api/v1"
PROBLEM = {
    "detail": "The allocation is spent.",
    "code": "insufficient_balance",
    "remedy": "Ask for more.",
    "remedy_url": None,
}


def size(name: str = "small", **changes: Any) -> dict[str, Any]:
    """One size of the start options."""
    return {
        "name": name,
        "title": name.title(),
        "cores": 2,
        "memory_gib": 8,
        "gpus": 0,
        "gpu_type": None,
        "microcredits_per_hour": 120_000,
        "hours_available": 250.5,
        "usable": True,
        "reason": None,
    } | changes


def allocation(identity: str = "a1", **changes: Any) -> dict[str, Any]:
    """One allocation of the start options."""
    return {
        "id": identity,
        "name": "Entry of ada",
        "tier": "entry",
        "tier_title": "Entry",
        "state": "active",
        "limit_microcredits": 30_000_000,
        "held_microcredits": 0,
        "posted_microcredits": 0,
        "available_microcredits": 30_000_000,
        "ends_at": None,
        "usable": True,
        "reason": None,
        "sizes": [size(), size("large", usable=False, reason="Your tier ends at 2 cores.")],
    } | changes


def start_options(**changes: Any) -> dict[str, Any]:
    """What `GET /start-options` answers."""
    return {
        "person": "ada",
        "agreement": {"version": "1", "title": "Terms", "accepted": True, "url": "/services/allocations/agreement"},
        "allocations": [allocation()],
        "images": [{"name": "lab", "title": "Lab", "description": "", "default": True}],
        "default": {"allocation": "a1", "size": "small", "image": "lab"},
    } | changes


def outlook(lease: str = "l1", **changes: Any) -> dict[str, Any]:
    """What `GET /leases/{lease}/outlook` answers: two hours left, idle after one."""
    now = datetime.now(UTC)
    return {
        "lease": lease,
        "allocation": "a1",
        "allocation_name": "Entry of ada",
        "server_name": "",
        "microcredits_per_hour": 120_000,
        "held_until": (now + timedelta(minutes=15)).isoformat(),
        "renews_at": (now + timedelta(minutes=10)).isoformat(),
        "stops_at": (now + timedelta(hours=2, seconds=30)).isoformat(),
        "reason": "balance",
        "detail": "The balance of “Entry of ada” is spent then.",
        "remedy": "Stop what you do not need, or ask for more.",
        "remedy_url": "/services/allocations/requests/new",
        "idle_seconds": 3600,
        "used_at": now.isoformat(),
        "longest_session_seconds": 86_400,
        "may_last_longer": False,
        "warn_before_stop_seconds": [900, 300, 60],
    } | changes


class FakeAllocations:
    """Keeps leases in memory, remembers each call, and does what `faults` says instead of answering.

    `faults` maps the last part of a path to a list of faults for its next calls: a status, "no answer" (carried
    out, then the answer is lost) or "unreachable".
    """

    def __init__(self) -> None:
        """Begin without leases and without faults."""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.leases: dict[str, dict[str, Any]] = {}
        self.faults: dict[str, list[Any]] = {}
        self.people: dict[str, dict[str, Any]] = {}
        # Who has batch runs, and how many.
        self.runs: dict[str, int] = {}
        self.options = start_options()
        self.outlook: dict[str, Any] = {}
        # What happens, once, between an acquire and its answer.
        self.on_acquire: Any = None

    def made(self, name: str) -> list[dict[str, Any]]:
        """Bodies of the calls whose path ended in `name`."""
        return [body for path, body in self.calls if path.endswith(name)]

    def states(self) -> list[str]:
        """The state of every lease, in the order in which they were acquired."""
        return [lease["state"] for lease in self.leases.values()]

    def answer(self, method: str, path: str, key: str | None, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Carry one call out."""
        action = path.rpartition("/")[2]
        self.calls.append((path, body))
        simple = {
            "outlook": lambda: outlook(path.split("/")[-2], **self.outlook),
            "extend": lambda: outlook(path.split("/")[-2], **self.outlook),
            "with-runs": lambda: {
                "people": sorted(name for name, runs in self.runs.items() if runs),
                "next_after": None,
            },
            "end-runs": lambda: {"runs": self.runs.pop(path.split("/")[-2], 0)},
        }
        if method == "GET" or action in simple:
            return 200, simple.get(action, lambda: self.options)()
        if method == "PUT":
            return self._person(action, body)
        if action == "leases":
            lease = self.leases.setdefault(str(key), self._lease(str(key), body))
            return 201, lease
        lease = self.leases[path.split("/")[-2]]
        if action == "start":
            lease["started_at"] = body["started_at"]
        elif lease["state"] == "open":
            lease["state"] = {"settle": "settled", "void": "voided"}[action]
            lease["ended_at"] = body.get("ended_at")
        return 200, lease

    def _person(self, name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """As the service does: one name for each person, one person for each name."""
        who = (body["issuer"], body["subject"])
        for known, person in self.people.items():
            if (person["issuer"], person["subject"]) == who:
                name = known
        owner = self.people.get(name)
        if owner is not None and (owner["issuer"], owner["subject"]) != who:
            return 409, PROBLEM | {"code": "name_taken", "detail": f"The name {name} belongs to somebody else."}
        self.people[name] = body
        return 200, {"name": name}

    def fault(self, path: str) -> Any:
        """The fault set for this call, used up by it."""
        faults = self.faults.get(path.rpartition("/")[2], [])
        return faults.pop(0) if faults else None

    async def transport(self, request: httpx.Request) -> httpx.Response:
        """As `httpx.MockTransport` takes it."""
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        fault = self.fault(path)
        if fault == "unreachable":
            raise httpx.ConnectError("refused")
        if isinstance(fault, int):
            self.calls.append((path, body))
            return httpx.Response(fault, json=PROBLEM | {"status": fault})
        status, answer = self.answer(request.method, path, request.headers.get("Idempotency-Key"), body)
        if self.on_acquire and path.endswith("/leases"):
            meanwhile, self.on_acquire = self.on_acquire, None
            await meanwhile()
        if fault == "no answer":
            raise httpx.ReadTimeout("lost")
        return httpx.Response(status, json=answer)

    @contextmanager
    def serving(self) -> Iterator[int]:
        """Serve over HTTP on a free port of the loopback interface."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def _handle(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                path = self.path.partition("?")[0]
                fault = fake.fault(path)
                status, answer = 200, {}
                if fault is not None:
                    fake.calls.append((path, body))
                    status, answer = int(fault), PROBLEM | {"status": fault}
                elif path.startswith(PREFIX):
                    status, answer = fake.answer(self.command, path, self.headers.get("Idempotency-Key"), body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_HEAD = _handle  # noqa: N815 - the names that http.server looks for

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _lease(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": key,
            "allocation": body["allocation"],
            "allocation_name": "Entry of ada",
            "person": body["person"],
            "kind": body["kind"],
            "size": body["size"],
            "image": body["image"],
            "server_name": body["server_name"],
            "resources": {"cores": 2, "memory_gib": 8, "gpus": 0, "gpu_type": None},
            "state": "open",
            "microcredits_per_hour": 120_000,
            "microcredits_per_second": 34,
            "started_at": None,
            "ends_at": None,
            "ended_at": None,
            "charged_microcredits": 0,
            "held_microcredits": 30_000,
        }
