"""People who start and stop servers and submit runs at random, patient with a platform that is being killed."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import nbformat

from tests.batch.batch_harness import notebook

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

API = "/services/allocations/api/v1"
PASSWORD = "a password that all share"
SERVER_NAMES = ("", "two")
PAUSE_SECONDS = (0.3, 4.0)
REPEAT_SECONDS = 1.0
ACTIVE_RUNS_MAX = 2
RUN_MAX_SECONDS = 300
CELL = "import time; time.sleep(seconds); print('product:', 3 * number)"
ENDED = frozenset({"succeeded", "failed", "cancelled", "timed_out"})


@dataclass
class Submitted:
    """A run as its person remembers it: asked for under a key until there was an answer."""

    key: str
    number: int
    id: str | None = None
    cancelled: bool = False


@dataclass
class Person(threading.Thread):
    """One person with a token, who goes on until told to stop."""

    person: str
    url: str
    dice: random.Random
    token: str = ""
    allocation: str = ""
    runs: list[Submitted] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    stopped: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        super().__init__(name=self.person, daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def sign_in(self) -> None:
        """Sign in, make a token, and accept the agreement, which opens an allocation."""
        with httpx.Client(base_url=self.url, follow_redirects=True, timeout=60) as session:
            session.get("/hub/login")
            form = {"username": self.person, "password": PASSWORD, "_xsrf": session.cookies["_xsrf"]}
            answer = session.post("/hub/login", data=form, params={"next": "/hub/home"})
            assert answer.status_code == 200, answer.text
            made = session.post(
                f"/hub/api/users/{self.person}/tokens",
                json={"note": "chaos"},
                headers={
                    "X-XSRFToken": session.cookies.get("_xsrf", path="/hub/") or "",
                    "Referer": f"{self.url}/hub/token",
                },
            )
            assert made.status_code == 201, made.text
        self.token = made.json()["token"]
        version = self._must("GET", f"{API}/agreement")["version"]
        accepted = self._must("POST", f"{API}/agreement", {"version": version})
        self.allocation = accepted["allocations"][0]["id"]

    def run(self) -> None:
        """Do something at random again and again."""
        acts: list[Callable[[], None]] = [self.start_server, self.stop_server, self.submit, self.cancel]
        try:
            while not self.stopped.wait(self.dice.uniform(*PAUSE_SECONDS)):
                self.dice.choices(acts, weights=[5, 4, 3, 0.5])[0]()
        except BaseException as error:
            self.failure = error
            raise

    def start_server(self) -> None:
        options = {"allocation": self.allocation, "size": "tiny", "image": "lab"}
        self._count("start", self.ask("POST", self._server(self.dice.choice(SERVER_NAMES)), options))

    def stop_server(self) -> None:
        self._count("stop", self.ask("DELETE", self._server(self.dice.choice(SERVER_NAMES))))

    def submit(self) -> None:
        """Submit a run, or ask again for the one whose answer got lost."""
        unanswered = [run for run in self.runs if run.id is None]
        if not unanswered:
            answer = self.ask("GET", f"{API}/runs")
            if answer is None or len([run for run in answer.json()["runs"] if run["state"] not in ENDED]) > 1:
                return
            self.runs.append(Submitted(uuid.UUID(int=self.dice.getrandbits(128)).hex, len(self.runs)))
        self._submit(next(run for run in self.runs if run.id is None))

    def cancel(self) -> None:
        """Cancel the newest run, which may have ended."""
        if self.runs and (run := self.runs[-1]).id is not None:
            answer = self.ask("POST", f"{API}/runs/{run.id}/cancel")
            run.cancelled = True
            self._count("cancel", answer)

    def finish(self) -> bool:
        """Ask again what is unanswered and stop all servers; whether nothing was left to do."""
        for run in self.runs:
            if run.id is None:
                self._submit(run)
        servers = self.servers()
        for name in servers or ():
            self.ask("DELETE", self._server(name))
        return servers == [] and all(run.id is not None for run in self.runs)

    def servers(self) -> list[str] | None:
        """The names of the servers that the hub shows; None when it does not answer."""
        answer = self.ask("GET", f"/hub/api/users/{self.person}")
        return None if answer is None else list(answer.json()["servers"])

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx.Response | None:
        """Ask once; None when there was no answer, or one that says `not now`."""
        headers = {"Authorization": f"Bearer {self.token}"} | (headers or {})
        try:
            answer = httpx.request(method, f"{self.url}{path}", json=body, headers=headers, timeout=30)
        except httpx.HTTPError as error:
            self.answers[type(error).__name__] += 1
            return None
        if answer.is_server_error:
            self.answers[f"{answer.status_code}"] += 1
            return None
        return answer

    def _submit(self, run: Submitted) -> None:
        parameters = {"number": run.number, "seconds": 1 + run.number % 5}
        book = notebook(CELL, defaults="number = 0; seconds = 0")
        body = {
            "allocation": self.allocation,
            "size": "tiny",
            "image": "lab",
            "name": "chaos.ipynb",
            # Cells have random ids: what is asked again must be the same.
            "notebook": json.loads(nbformat.writes(book)) | {"nbformat_minor": 4},
            "parameters": parameters,
            "max_seconds": RUN_MAX_SECONDS,
        }
        for cell in body["notebook"]["cells"]:
            del cell["id"]
        answer = self.ask("POST", f"{API}/runs", body, {"Idempotency-Key": run.key})
        self._count("submit", answer)
        if answer is not None:
            assert answer.status_code == 201, answer.text
            run.id = answer.json()["id"]

    def _must(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.ask(method, path, body)
        assert answer is not None, path
        assert answer.is_success, answer.text
        return answer.json()

    def _server(self, name: str) -> str:
        return f"/hub/api/users/{self.person}/" + (f"servers/{name}" if name else "server")

    def _count(self, act: str, answer: httpx.Response | None) -> None:
        if answer is not None:
            self.answers[f"{act} {answer.status_code}"] += 1
