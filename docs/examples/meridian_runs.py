"""A client of the platform's batch runs that needs nothing but Python: for schedulers such as Airflow and Prefect.

It asks again when an answer gets lost, and a key of the caller's makes what is submitted twice one run.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

API = "/services/allocations/api/v1"
ENDED = frozenset({"succeeded", "failed", "cancelled", "timed_out"})
TIMEOUT_SECONDS = 60
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500


class MeridianError(Exception):
    """The platform declined: `code` is stable, the text says what is wrong and what to do."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class RunFailedError(MeridianError):
    """A run ended otherwise than well; `run` is its record."""

    def __init__(self, run: dict[str, Any]) -> None:
        why = (run.get("error") or {}).get("message") or run["state"]
        super().__init__(run["state"], f"Run {run['id']} of {run['name']}: {why}")
        self.run = run


@dataclass(frozen=True)
class MeridianRuns:
    """A person's batch runs.

    url: the platform's address. token: made on its token page, with the scope custom:batch:run. patience_seconds: how
    long a platform that does not answer is asked again, e.g. while it is upgraded.
    """

    url: str
    token: str
    patience_seconds: float = 600.0
    sleep: Callable[[float], None] = time.sleep

    def submit(self, notebook: Path, *, key: str, allocation: str, size: str, **options: Any) -> dict[str, Any]:
        """Queue a notebook and return the run's record.

        key: submitted again under it, the same notebook with the same options is the same run. options: parameters (a
        mapping), image, max_seconds, retries, name, source; see the API's description.
        """
        body = {
            "allocation": allocation,
            "size": size,
            "name": notebook.name,
            "notebook": json.loads(notebook.read_text(encoding="utf-8")),
            **options,
        }
        return self._json("POST", "/runs", body, {"Idempotency-Key": key})

    def get(self, run: str) -> dict[str, Any]:
        """Return a run's record: state, cells_done, cells_total, error, charged_microcredits and more."""
        return self._json("GET", f"/runs/{quote(run, safe='')}")

    def cancel(self, run: str) -> dict[str, Any]:
        """Ask for a run to stop; what it has made so far is kept, and charged."""
        return self._json("POST", f"/runs/{quote(run, safe='')}/cancel")

    def output(self, run: str) -> bytes:
        """Return the executed notebook, as far as it has come."""
        return self._ask("GET", f"/runs/{quote(run, safe='')}/output")

    def wait(self, run: str, poll_seconds: float = 15.0) -> dict[str, Any]:
        """Wait until a run has ended and return its record; RunFailedError unless it succeeded."""
        while True:
            found = self.get(run)
            if found["state"] in ENDED:
                break
            self.sleep(poll_seconds)
        if found["state"] != "succeeded":
            raise RunFailedError(found)
        return found

    def _json(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
        return json.loads(self._ask(method, path, body, headers))

    def _ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> bytes:
        request = Request(  # noqa: S310  # the address is the operator's own setting
            f"{self.url.rstrip('/')}{API}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **(headers or {})},
            method=method,
        )
        pause, waited = 1.0, 0.0
        while True:
            try:
                with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  # as above
                    content: bytes = answer.read()
                    return content
            except HTTPError as error:
                if error.code != TOO_MANY_REQUESTS and error.code < SERVER_ERROR:
                    raise _declined(error) from error
                last: OSError = error
            except (URLError, TimeoutError, ConnectionError) as error:
                last = error
            if waited >= self.patience_seconds:
                raise MeridianError("unavailable", f"{self.url} does not answer: {last}") from last
            self.sleep(pause)
            waited += pause
            pause = min(60.0, 2 * pause)


def _declined(error: HTTPError) -> MeridianError:
    try:
        problem = json.loads(error.read())
        return MeridianError(problem["code"], f"{problem['detail']} {problem.get('remedy') or ''}".strip())
    except (ValueError, KeyError, TypeError):
        return MeridianError(f"http_{error.code}", f"The platform answered {error.code} {error.reason}.")
