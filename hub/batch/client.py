"""Submit notebooks to run in batch, follow them and get what they made: for scripts and the command line."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from hub.batch.model import Run
from hub.batch.parameters import ParameterError, parse_parameter
from hub.batch.service import (
    NotAuthorizedError,
    ServiceError,
    ServiceRefusalError,
    ServiceUnavailableError,
    call,
    json_of,
)

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "BatchClient",
    "NotAuthorizedError",
    "NotebookError",
    "ParameterError",
    "ServiceError",
    "ServiceRefusalError",
    "ServiceUnavailableError",
    "SettingsError",
    "parse_parameter",
]

SERVICE = "/services/allocations"
TIMEOUT_SECONDS = 60.0
SUBMIT_TRIES = 3
RETRY_SECONDS = 1.0
POLL_SECONDS = 2.0
# How long `wait` goes on asking a service that does not answer, e.g. while it is upgraded.
PATIENCE_SECONDS = 300.0


class SettingsError(Exception):
    """The environment does not say where the platform is or who asks; the message says what to set."""


class NotebookError(Exception):
    """The file given is not a notebook; the message says why."""


class BatchClient:
    """A person's batch runs.

    url: the platform's address, e.g. http://127.0.0.1:8000. token: a JupyterHub token with the
    scope custom:batch:run. Every method raises ServiceRefusalError with the service's detail and
    remedy, NotAuthorizedError, or ServiceUnavailableError.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = httpx.Client(
            base_url=url.rstrip("/") + SERVICE,
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_SECONDS,
        )
        self._sleep = sleep
        self._monotonic = monotonic

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> BatchClient:
        """MERIDIAN_URL and MERIDIAN_TOKEN; within JupyterLab its own JUPYTERHUB_API_TOKEN will do."""
        url = environment.get("MERIDIAN_URL")
        token = environment.get("MERIDIAN_TOKEN") or environment.get("JUPYTERHUB_API_TOKEN")
        if not url:
            msg = "MERIDIAN_URL is not set: set it to the platform's address, e.g. http://127.0.0.1:8000."
            raise SettingsError(msg)
        if not token:
            msg = f"MERIDIAN_TOKEN is not set: make a token at {url.rstrip('/')}/hub/token and set it."
            raise SettingsError(msg)
        return cls(url, token)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> BatchClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def options(self) -> dict[str, Any]:
        """What the person may run on now: allocations, sizes with price and hours, and why not the rest."""
        options: dict[str, Any] = json_of(call(self._http, "GET", "/run-options"))
        return options

    def submit(
        self,
        notebook: Path | str,
        allocation: str,
        size: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        image: str | None = None,
        max_seconds: int | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
        environment: Iterable[str] = (),
        save_to: str | None = None,
    ) -> Run:
        """Queue the notebook file. An answer that gets lost is asked for again, and queues nothing twice.

        max_seconds: the longest it may run, the policy's default if None. name: the file's own if
        None. environment: names of your secrets, each of which is a variable of the notebook.
        save_to: where the output goes as well: home:FOLDER, scratch:FOLDER or s3://BUCKET/PREFIX.
        Raises NotebookError for a file that is not a notebook.
        """
        path = Path(notebook)
        body = {
            "allocation": allocation,
            "size": size,
            "image": image,
            "name": name or path.name,
            "notebook": read_notebook(path),
            "parameters": dict(parameters or {}),
            "max_seconds": max_seconds,
            "environment": list(environment),
            "output": save_to,
        }
        return self._post_once("/runs", body, {"Idempotency-Key": idempotency_key or str(uuid.uuid4())})

    def _post_once(self, path: str, body: object, headers: Mapping[str, str]) -> Run:
        """Post what may cost something; an answer that gets lost is asked for again under the same key."""
        for attempt in range(1, SUBMIT_TRIES + 1):
            try:
                return Run.from_json(json_of(call(self._http, "POST", path, json=body, headers=headers)))
            except ServiceUnavailableError:
                if attempt == SUBMIT_TRIES:
                    raise
                self._sleep(RETRY_SECONDS * attempt)
        raise AssertionError

    def list(self) -> list[Run]:
        """The person's runs, as the service orders them."""
        return [Run.from_json(run) for run in json_of(call(self._http, "GET", "/runs"))["runs"]]

    def get(self, run_id: str) -> Run:
        return self._run("GET", _path(run_id))

    def cancel(self, run_id: str) -> Run:
        """Ask for the run to stop; what it has made so far is kept."""
        return self._run("POST", _path(run_id, "cancel"))

    def output(self, run_id: str, path: Path | str) -> Path:
        """Save the executed notebook, as far as it has come, and return where.

        path: a file, or a directory, which gets a file of the run's name.
        """
        target = Path(path)
        if target.is_dir():
            target = target / Path(self.get(run_id).name).name
        response = call(self._http, "GET", _path(run_id, "output"))
        temporary = target.with_name(f".{target.name}.part")
        temporary.write_bytes(response.content)
        temporary.replace(target)
        return target

    def log(self, run_id: str) -> str:
        """What the run has printed so far."""
        return call(self._http, "GET", _path(run_id, "log")).text

    def provenance(self, run_id: str) -> dict[str, Any]:
        """The record of a run: `run`, `provenance`, `packages`, and for a replay `comparison`."""
        return json_of(call(self._http, "GET", _path(run_id, "provenance")))

    def replay(self, run_id: str, *, idempotency_key: str | None = None) -> Run:
        """Submit the run again as it was; when it has ended, its record says whether it made the same."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._post_once(_path(run_id, "replay"), None, headers)

    def secrets(self) -> builtins.list[dict[str, Any]]:
        """The person's secrets: name and times, never values."""
        found: builtins.list[dict[str, Any]] = json_of(call(self._http, "GET", "/secrets"))["secrets"]
        return found

    def set_secret(self, name: str, value: str) -> None:
        """Keep a secret, in the place of one of the same name."""
        call(self._http, "PUT", f"/secrets/{quote(name, safe='')}", json={"value": value})

    def remove_secret(self, name: str) -> None:
        call(self._http, "DELETE", f"/secrets/{quote(name, safe='')}")

    def wait(
        self,
        run_id: str,
        callback: Callable[[Run], None] | None = None,
        *,
        poll_seconds: float = POLL_SECONDS,
    ) -> Run:
        """Wait until the run has ended, however it ended, and return it.

        `callback` is told the run first and whenever it has changed. A service that does not answer
        is asked again for five minutes, then ServiceUnavailableError is raised; the run goes on.
        """
        last: Run | None = None
        heard_at = self._monotonic()
        while True:
            try:
                run = self.get(run_id)
            except ServiceUnavailableError:
                if self._monotonic() - heard_at > PATIENCE_SECONDS:
                    raise
            else:
                heard_at = self._monotonic()
                if callback and run != last:
                    callback(run)
                last = run
                if not run.active:
                    return run
            self._sleep(poll_seconds)

    def _run(self, method: str, path: str) -> Run:
        return Run.from_json(json_of(call(self._http, method, path)))


def _path(run_id: str, part: str = "") -> str:
    """The path of a run; an id with a slash cannot lead to another one."""
    quoted = run_id.replace("/", "%2F")
    return f"/runs/{quoted}/{part}" if part else f"/runs/{quoted}"


def read_notebook(path: Path) -> dict[str, Any]:
    """The notebook in the file as JSON. Raises NotebookError."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}."
        raise NotebookError(msg) from error
    except ValueError as error:
        msg = f"{path} is not a Jupyter notebook: it is not JSON."
        raise NotebookError(msg) from error
    if not isinstance(notebook, dict) or "cells" not in notebook:
        msg = f"{path} is not a Jupyter notebook of format 4: it has no cells. Open and save it in JupyterLab."
        raise NotebookError(msg)
    return notebook
