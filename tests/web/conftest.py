"""Pages over a real SQLite database; who is signed in is what the session cookie says."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anyio.from_thread import start_blocking_portal
from fastapi.testclient import TestClient

from allocations.api.identity import SESSION_COOKIE, HubIdentities, Identity, Scope
from allocations.app import PREFIX
from allocations.clock import to_rfc3339
from allocations.db.database import Database
from allocations.db.idempotency import IdempotencyKey
from allocations.factory import Services, make_services
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.runs.service import Submission
from tests.fresh import fresh_sqlite, shipped_policy
from tests.fresh_app import fresh_app
from tests.places import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio.from_thread import BlockingPortal
    from fastapi import FastAPI
    from httpx2 import Response

ROOT = Path(__file__).parents[2]
START_MS = 1_800_000_000_000
PERSON = frozenset({Scope.READ, Scope.REQUEST, Scope.RUN})
SCOPES: dict[str, frozenset[str]] = {
    "ann": PERSON,
    "bob": PERSON,
    "lead": PERSON,
    "rev": PERSON | {Scope.REVIEW},
    "rav": PERSON | {Scope.REVIEW},
    "admin": PERSON | {Scope.REVIEW, Scope.ADMIN},
    "nothing": frozenset(),
}
NOTEBOOK: dict[str, Any] = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [
        {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1, "source": "1 + 1", "outputs": []},
    ],
}


def taking(*names: str) -> dict[str, Any]:
    """The small notebook, whose one cell has parameters that take anything."""
    source = "\n".join(f"{name} = None" for name in names)
    cell = NOTEBOOK["cells"][0] | {"source": source, "metadata": {"tags": ["parameters"]}}
    return NOTEBOOK | {"cells": [cell]}


class _Fields(HTMLParser):
    """What a browser would send of the forms of a page, boxes and choices as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._text: tuple[str, list[str]] | None = None
        self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = dict(attrs)
        name, value = has.get("name") or "", has.get("value") or ""
        is_off = has.get("type") in ("checkbox", "radio") and "checked" not in has
        if tag == "textarea":
            self._text = (name, [])
        elif tag == "select":
            self._select = name
        elif tag == "option" and ("selected" in has or self._select not in self.found):
            self.found[self._select] = value
        elif tag == "input" and name and not is_off and has.get("type") != "file":
            self.found[name] = value

    def handle_data(self, data: str) -> None:
        if self._text:
            self._text[1].append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self._text:
            # A browser leaves out a line break that comes first.
            self.found[self._text[0]] = "".join(self._text[1]).removeprefix("\n")
            self._text = None


def fields_in(page: str) -> dict[str, str]:
    """What the fields of a page's forms hold, by name."""
    parser = _Fields()
    parser.feed(page[page.index("<main") :])
    return parser.found


class StubIdentities(HubIdentities):
    """Takes the session cookie's value for the person's name; the real hub is asked in the end-to-end tests."""

    async def from_session(self, request: Any) -> Identity | None:
        name = request.cookies.get(SESSION_COOKIE)
        return Identity(name, SCOPES[name]) if name in SCOPES else None


class StoppedClock:
    """A clock that moves when the test says so."""

    at_ms = START_MS

    def now_ms(self) -> int:
        return self.at_ms


@dataclass
class Site:
    """The application, and what people do on its pages."""

    app: FastAPI
    services: Services
    identities: StubIdentities
    clock: StoppedClock
    run_store: Path
    loop: BlockingPortal
    _counter: Iterator[int] = field(default_factory=itertools.count)

    def browser(self, person: str | None = None) -> Browser:
        """A browser in which somebody is signed in, or nobody."""
        return Browser(self, person)

    def accept(self, person: str) -> str:
        """Accept the agreement and return the entry allocation's id."""
        self.services.agreements.accept(person, self.services.policy.agreement.version)
        return next(one.id for one in self.services.reports.allocations_of(person) if one.tier == "entry")

    def open(self, tier: str, name: str, lead: str) -> str:
        """Open an allocation and return its id."""
        with self.services.database.write() as connection:
            found = self.services.policy.tier(tier)
            return self.services.lifecycle.open(connection, found, name, lead=lead, actor="t").id

    def join(self, allocation: str, person: str, role: MemberRole = MemberRole.MEMBER, by: str = "lead") -> None:
        """Invite a person and let them accept."""
        join(self.services.members, Actor(by), allocation, person, role)

    def queue_run(self, person: str, allocation: str, **parameters: Any) -> str:
        """Queue a run of the small notebook and return its id."""
        return self.submit_run(
            person, allocation, taking(*parameters) if parameters else NOTEBOOK, parameters=parameters
        )

    def submit_run(self, person: str, allocation: str, notebook: dict[str, Any], **changes: Any) -> str:
        """Queue a run of a notebook and return its id."""
        values: dict[str, Any] = {"size": "small", "name": "mine.ipynb", "parameters": {}, "max_seconds": 600} | changes
        key = IdempotencyKey.for_request(person, f"key-{next(self._counter)}", "run", {})
        submission = Submission(person=person, allocation=allocation, notebook=notebook, **values)
        return self.services.runs.submit(submission, key).id

    def request(self, person: str, tier: str = "research", title: str = "Galaxies", justification: str = "Yes.") -> str:
        """Submit a request and return its id."""
        return self.services.requests.submit(Actor(person), tier=tier, title=title, justification=justification).id

    def start_run(self, run: str, cells: int) -> None:
        """Let the batch process take the queued run and report that its first cell runs."""
        self.services.runs.claim("x", 100)
        self.services.runs.progress(
            run, attempt=1, started_at_ms=self.clock.at_ms, cells_done=0, cells_total=cells, current_cell=1
        )

    def write_events(self, run: str, *events: tuple[str, int | None, float | None]) -> None:
        """Note what the run's runner would have: kinds of events with their cell and its seconds, one second apart."""
        lines = [
            {"at": to_rfc3339(START_MS + 1000 * number), "event": kind, "cell": cell, "cells_total": 9, "seconds": took}
            for number, (kind, cell, took) in enumerate(events)
        ]
        (self.run_store / run / "events.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    def write_log(self, run: str, text: str) -> None:
        """Put a log where the run would have written it."""
        (self.run_store / run / "log.txt").write_text(text)

    def write_output(self, run: str, notebook: dict[str, Any]) -> None:
        """Put an executed notebook where the run would have written it."""
        (self.run_store / run / "output.ipynb").write_text(json.dumps(notebook))


class Browser:
    """A browser: keeps cookies, follows no redirect, fills in forms as the page shows them."""

    def __init__(self, site: Site, person: str | None) -> None:
        # A fault of the application is looked at as a browser would see it.
        self.http = TestClient(site.app, follow_redirects=False, raise_server_exceptions=False)
        # One event loop and its threads for all requests of the test.
        self.http.portal = site.loop
        self.person = person
        if person is not None:
            self.http.cookies.set(SESSION_COOKIE, person)

    def get(self, path: str, **headers: str) -> Response:
        response: Response = self.http.get(f"{PREFIX}{path}", headers=headers)
        return response

    def token(self, path: str = "/policy") -> str:
        """The token of this session's forms, read from a page."""
        found = re.search(r'name="_csrf" value="([0-9a-f]+)"', self.get(path).text)
        assert found, path
        return found[1]

    def post(self, path: str, fields: dict[str, str] | None = None, **options: Any) -> Response:
        """Send a form of the session, as the page that has it would."""
        fields = {"_csrf": self.token()} | (fields or {})
        response: Response = self.http.post(f"{PREFIX}{path}", data=fields, **options)
        return response


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "x")
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:1/hub/api")
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-allocations")
    monkeypatch.setenv("JUPYTERHUB_OAUTH_CALLBACK_URL", f"{PREFIX}/oauth_callback")
    monkeypatch.delenv("MERIDIAN_EXAMPLES", raising=False)
    database = Database(fresh_sqlite(tmp_path))
    clock, run_store = StoppedClock(), tmp_path / "runs"
    services = make_services(database, shipped_policy(), run_store, clock, secret_keys=["5e" * 32])
    identities = StubIdentities("secret", PREFIX)
    with start_blocking_portal() as loop:
        yield Site(fresh_app(services, identities), services, identities, clock, run_store, loop)
    database.dispose()
