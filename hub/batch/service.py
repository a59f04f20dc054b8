"""HTTP with the allocations service: its problems as errors, and the executor's part of its API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import httpx

from hub.batch import ends
from hub.batch.backend import StartRefusedError
from hub.batch.environment import Given
from hub.batch.model import Run, RunError
from hub.client import Lease

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hub.batch.model import Outcome, Progress

API = "/api/v1"
TIMEOUT_SECONDS = 10.0
# Why the service has no secrets for a run, and what that makes of the run.
WITHOUT_SECRETS = {"secret_missing": ends.SECRET_MISSING, "secrets_unavailable": ends.START_FAILED}


class ServiceError(Exception):
    """The service refused or did not answer.

    detail: what is wrong. remedy: what to do next ("" when the service did not say).
    code: stable; "unavailable" when there was no answer. status: the HTTP status, None without one.
    """

    def __init__(self, detail: str, remedy: str, code: str, status: int | None) -> None:
        super().__init__(f"{detail} {remedy}".strip())
        self.detail = detail
        self.remedy = remedy
        self.code = code
        self.status = status


class ServiceUnavailableError(ServiceError):
    """There was no answer, or one (429, 5xx) that says to ask again later."""


class ServiceRefusalError(ServiceError):
    """The service understood the request and declines it; the same request would be declined again."""


class NotAuthorizedError(ServiceRefusalError):
    """The token is unknown, expired, or lacks the scope."""


def call(
    http: httpx.Client,
    method: str,
    path: str,
    *,
    json: object = None,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """One request below the API's prefix. Raises ServiceError for anything but success."""
    try:
        response = http.request(method, f"{API}{path}", json=json, headers=headers)
    except httpx.TransportError as error:
        detail = f"The allocations service at {http.base_url} does not answer ({type(error).__name__})."
        raise ServiceUnavailableError(detail, "Try again in a moment.", "unavailable", None) from error
    if response.is_success:
        return response
    raise problem_of(response)


def problem_of(response: httpx.Response) -> ServiceError:
    """The problem details (RFC 9457) of an answer; a proxy's own error page has none."""
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    status = response.status_code
    detail = str(problem.get("detail") or f"The allocations service answered {status} {response.reason_phrase}.")
    code = str(problem.get("code") or f"http_{status}")
    remedy = str(problem.get("remedy") or "")
    if status == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
        return ServiceUnavailableError(detail, remedy or "Try again in a moment.", code, status)
    if status == httpx.codes.UNAUTHORIZED:
        return NotAuthorizedError(detail, remedy or "Make a new token on the hub's token page.", code, status)
    return ServiceRefusalError(detail, remedy, code, status)


def json_of(response: httpx.Response) -> dict[str, Any]:
    """The answer's object; ServiceUnavailableError when something else than the service answered."""
    try:
        data = response.json()
    except ValueError as error:
        detail = f"{response.url.host} did not answer with JSON: it may not be the allocations service."
        raise ServiceUnavailableError(detail, "Check the URL.", "not_the_service", response.status_code) from error
    return cast("dict[str, Any]", data)


class ExecutorService:
    """What an executor asks of the service. Every method raises ServiceError."""

    def __init__(self, http: httpx.Client, executor: str) -> None:
        self._http = http
        self._executor = executor

    @classmethod
    def connect(cls, url: str, token: str, executor: str) -> ExecutorService:
        """url: the service's base, e.g. http://127.0.0.1:8000/services/allocations."""
        headers = {"Authorization": f"Bearer {token}"}
        return cls(httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT_SECONDS), executor)

    def active_runs(self) -> list[Run]:
        """The runs that this executor has claimed and not finished."""
        query = httpx.QueryParams(executor=self._executor)
        return [Run.from_json(run) for run in json_of(call(self._http, "GET", f"/runs/active?{query}"))["runs"]]

    def claim(self, limit: int) -> list[Run]:
        """Take up to `limit` queued runs. Runs of an answer that gets lost are active the next time."""
        body = {"executor": self._executor, "limit": limit}
        answer = json_of(call(self._http, "POST", "/runs/claim", json=body))
        return [Run.from_json(run) for run in answer["runs"]]

    def lease(self, run: Run) -> Lease:
        """The lease under which the run was admitted."""
        return Lease.model_validate(json_of(call(self._http, "GET", f"/runs/{run.id}/lease")))

    def environment(self, run: Run) -> Given:
        """The secrets that the run is given. StartRefusedError when one is gone, or cannot be opened."""
        try:
            return Given.from_json(json_of(call(self._http, "GET", f"/runs/{run.id}/environment")))
        except ServiceError as error:
            code = WITHOUT_SECRETS.get(error.code)
            if code is None:
                raise
            raise StartRefusedError(RunError(None, "SecretMissing", str(error), "", code)) from error

    def progress(self, run: Run, progress: Progress) -> None:
        body = {"attempt": run.attempt, **vars(progress)}
        call(self._http, "POST", f"/runs/{run.id}/progress", json=body)

    def finish(
        self,
        run: Run,
        outcome: Outcome,
        started_at: str | None,
        ended_at: str,
        error: RunError | None,
        recorded: Mapping[str, Any],
        *,
        node: str | None = None,
        image_id: str | None = None,
    ) -> None:
        """Report the end of the attempt; the service answers a repetition the same way."""
        told = error.to_json() if error else None
        code = told.pop("code") if told else ""
        body = {
            "attempt": run.attempt,
            "outcome": outcome,
            "started_at": started_at,
            "ended_at": ended_at,
            "error": told,
            "end_code": code or None,
            "node": node,
            "image_id": image_id,
            "recorded": dict(recorded),
        }
        call(self._http, "POST", f"/runs/{run.id}/finish", json=body)
