"""Submit notebooks to run in batch, follow them and get what they made: for scripts and the command line.

In a notebook, the functions of this module say whose server it is by themselves, and show how far runs are:

    from hub.batch import client

    run = client.submit("reduce.ipynb", detector="WFI07", retries=1)
    gathered = client.submit("gather.ipynb", after=run, environment=["SURVEY_TOKEN"], save_to="home:gathered")
    run, gathered = client.wait(run, gathered)
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import quote

import httpx

from hub.batch.model import Parameter, Run
from hub.batch.parameters import ParameterError, parse_parameter
from hub.batch.schedules import Schedules
from hub.batch.service import (
    NotAuthorizedError,
    ServiceError,
    ServiceRefusalError,
    ServiceUnavailableError,
    call,
    json_of,
)
from hub.batch.showing import Display
from hub.batch.sources import NotebookError, notebook_at, read_notebook
from hub.batch.submissions import Terms, to_body
from hub.batch.sweeps import Sweep, SweepClient
from hub.batch.tables import TableError

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
    "Sweep",
    "SweepClient",
    "TableError",
    "Terms",
    "cancel",
    "options",
    "output",
    "parameters",
    "parse_parameter",
    "read_notebook",
    "runs",
    "submit",
    "wait",
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
        self.sweeps = SweepClient(self._http, self._send, sleep, monotonic)

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

    @property
    def schedules(self) -> Schedules:
        """The person's schedules: notebooks that are submitted at planned times."""
        return Schedules(self._call_json)

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
        idempotency_key: str | None = None,
        **terms: Unpack[Terms],
    ) -> Run:
        """Queue a notebook. An answer that gets lost is asked for again, and queues nothing twice.

        notebook: a file, or one in a repository as git+https://host/repo@revision#path/to.ipynb. terms: as `Terms` has
        them. Raises NotebookError for what is not a notebook, or cannot be had; ServiceRefusalError also for parameters
        that the notebook does not take.
        """
        body = to_body(notebook, allocation, size, terms)
        return Run.from_json(self._send("/runs", body, idempotency_key))

    def parameters(self, notebook: Path | str) -> list[Parameter] | None:
        """The parameters that a notebook takes, or None where only the run can tell (another language than Python).

        notebook: as for `submit`, and raises the same.
        """
        content, _ = notebook_at(notebook)
        answer = json_of(call(self._http, "POST", "/notebook-parameters", json={"notebook": content}))
        return [Parameter.from_json(one) for one in answer["parameters"]] if answer["known"] else None

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
        return Run.from_json(self._send(_path(run_id, "replay"), None, idempotency_key))

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

    def _send(self, path: str, body: Mapping[str, Any] | None, idempotency_key: str | None) -> dict[str, Any]:
        """Send what is to be done once; an answer that gets lost is asked for again under the same key."""
        return self._call_json("POST", path, body, idempotency_key or str(uuid.uuid4()))

    def _call_json(
        self, method: str, path: str, body: object = None, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """The answer's object, {} without one. With a key, an answer that gets lost is asked for again."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        tries = SUBMIT_TRIES if idempotency_key else 1
        for attempt in range(1, tries + 1):
            try:
                response = call(self._http, method, path, json=body, headers=headers)
                return json_of(response) if response.content else {}
            except ServiceUnavailableError:
                if attempt == tries:
                    raise
                self._sleep(RETRY_SECONDS * attempt)
        raise AssertionError

    def _run(self, method: str, path: str) -> Run:
        return Run.from_json(json_of(call(self._http, method, path)))


def _path(run_id: str, part: str = "") -> str:
    """The path of a run; an id with a slash cannot lead to another one."""
    quoted = run_id.replace("/", "%2F")
    return f"/runs/{quoted}/{part}" if part else f"/runs/{quoted}"


def submit(
    notebook: Path | str,
    *,
    allocation: str | None = None,
    size: str | None = None,
    image: str | None = None,
    max_minutes: int | None = None,
    after: Run | Sweep | str | Iterable[Run | Sweep | str] = (),
    even_if_failed: bool = False,
    retries: int = 0,
    environment: str | Iterable[str] = (),
    save_to: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    **more_parameters: Any,
) -> Run:
    """Queue a notebook with parameters by their names, on the allocation and size that the start page would propose.

    after, even_if_failed, retries, environment, save_to: as `Terms` has them; after also takes runs and sweeps, and
    one alone. parameters: those whose names are taken here, such as `size`. Raises as `BatchClient.submit`.
    """
    awaited = [after] if isinstance(after, Run | Sweep | str) else after
    with BatchClient.from_environment() as client:
        if allocation is None or size is None:
            allocation, size = _proposed(client.options(), allocation, size)
        return client.submit(
            notebook,
            allocation,
            size,
            parameters={**(parameters or {}), **more_parameters},
            image=image,
            max_seconds=None if max_minutes is None else 60 * max_minutes,
            after=[one if isinstance(one, str) else one.id for one in awaited],
            even_if_failed=even_if_failed,
            retries=retries,
            environment=[environment] if isinstance(environment, str) else environment,
            save_to=save_to,
        )


def wait(run: Run | str, *more: Run | str) -> Run | list[Run]:
    """Wait until runs have ended, showing how far they are; return what became of the one, or of each in a list."""
    names = [one if isinstance(one, str) else one.id for one in (run, *more)]
    display = Display()
    with BatchClient.from_environment() as client:
        found = [client.get(name) for name in names]
        display.show(found)
        for number, name in enumerate(names):

            def show(seen: Run, number: int = number) -> None:
                found[number] = seen
                display.show(found)

            found[number] = client.wait(name, show)
    return found if more else found[0]


def runs() -> list[Run]:
    """The person's runs, newest first."""
    with BatchClient.from_environment() as client:
        return client.list()


def parameters(notebook: Path | str) -> list[Parameter] | None:
    """The parameters that a notebook takes, or None where only the run can tell."""
    with BatchClient.from_environment() as client:
        return client.parameters(notebook)


def options() -> dict[str, Any]:
    """What the person may run on now: allocations, sizes with price and hours, and why not the rest."""
    with BatchClient.from_environment() as client:
        return client.options()


def output(run: Run | str, path: Path | str = ".") -> Path:
    """Save the executed notebook, as far as it has come, and return where; path: a file or a directory."""
    with BatchClient.from_environment() as client:
        return client.output(run if isinstance(run, str) else run.id, path)


def cancel(run: Run | str) -> Run:
    """Ask for a run to stop; what it has made so far is kept."""
    with BatchClient.from_environment() as client:
        return client.cancel(run if isinstance(run, str) else run.id)


def _proposed(options: Mapping[str, Any], allocation: str | None, size: str | None) -> tuple[str, str]:
    """The allocation and size that are left out: the proposed ones, or the first size that the allocation has free."""
    proposed = options.get("default") or {}
    allocation = allocation or proposed.get("allocation")
    if size is None and allocation == proposed.get("allocation"):
        size = proposed.get("size")
    for offer in options.get("allocations", []):
        if size is None and offer["id"] == allocation:
            size = next((one["name"] for one in offer["sizes"] if one["usable"]), None)
    if not allocation or not size:
        msg = "Nothing can be run now on any of your allocations: client.options() says why."
        raise SettingsError(msg)
    return allocation, size
