"""The hub's way to the allocations service: typed calls over HTTP, and two kinds of failure.

A refusal is `AllocationDenied` and is the person's to act on; anything else that keeps an answer from
arriving is `AllocationsUnavailableError` and is the platform's. Money is in integer microcredits, times are
aware and in UTC.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

API_PREFIX = "/api/v1"
RETRY_PAUSES_SECONDS = (0.2, 0.6)
# The gateway's and the service's own way to say "not now"; a plain 500 is a fault that a repeat would not
# mend.
RETRIED_STATUSES = frozenset({502, 503, 504})
# Longer than a hub stands still when hundreds start at once: an answer that has come by then would count for none.
TIMEOUT = httpx.Timeout(10.0)


class AllocationDenied(Exception):  # noqa: N818 - a denial is an answer, not an error of the platform
    """The service refused: a stable `code`, what is wrong, what to do about it, and HTTP's `status`."""

    def __init__(self, *, code: str, detail: str, remedy: str, remedy_url: str | None, status: int) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.remedy_url = remedy_url
        self.status = status


class AllocationsUnavailableError(Exception):
    """No usable answer. `maybe_applied`: the service may have carried the request out all the same."""

    def __init__(self, message: str, *, maybe_applied: bool) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied


class _Answer(BaseModel):
    """A part of an answer; fields that a newer service adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Resources(_Answer):
    """What a lease gives: cores (may be fractional), GiB of memory, GPUs of one type."""

    cores: float
    memory_gib: float
    gpus: int = 0
    gpu_type: str | None = None


class Lease(_Answer):
    """A hold that lets one server run; see the service's API reference for each field."""

    id: str
    allocation: str
    allocation_name: str
    person: str
    kind: str = "interactive"
    size: str
    image: str | None = None
    image_reference: str | None = None
    tier: str = ""
    server_name: str = ""
    resources: Resources
    state: str
    microcredits_per_hour: int
    acquired_at: datetime | None = None
    started_at: datetime | None = None
    ends_at: datetime | None = None
    latest_end_at: datetime | None = None
    ended_at: datetime | None = None
    charged_microcredits: int = 0
    held_microcredits: int = 0
    home_state: str | None = None


class OpenLease(_Answer):
    """A lease that has not ended, as it is compared with what runs; `replaced_at`: when its server got the next."""

    id: str
    person: str
    server_name: str
    acquired_at: datetime
    started_at: datetime | None = None
    seen_at: datetime | None = None
    replaced_at: datetime | None = None


class OpenLeases(_Answer):
    """A page of open leases; `next_after` continues, None at the end."""

    leases: tuple[OpenLease, ...]
    next_after: str | None = None


class Outlook(_Answer):
    """How long a running server can go on, why no longer, and what to do; see the service's API reference."""

    lease: str
    allocation: str
    allocation_name: str
    microcredits_per_hour: int
    renews_at: datetime | None = None
    stops_at: datetime
    reason: str
    detail: str
    remedy: str
    remedy_url: str
    idle_seconds: int
    used_at: datetime
    longest_session_seconds: int
    may_last_longer: bool = False
    warn_before_stop_seconds: tuple[int, ...] = ()


class Agreement(_Answer):
    """The user agreement in force, and whether the person has accepted this version."""

    version: str
    title: str
    accepted: bool
    url: str


class SizeOption(_Answer):
    """A size on one allocation: what it gives, what it costs, and why it can't be had."""

    name: str
    title: str
    cores: float
    memory_gib: float
    gpus: int = 0
    gpu_type: str | None = None
    microcredits_per_hour: int
    hours_available: float
    usable: bool
    reason: str | None = None


class HomeOption(_Answer):
    """How the person's home stands to its limit; `full` where an ordinary server may not be able to write."""

    state: str
    full: bool
    used_bytes: int
    limit_bytes: int
    locks_at: datetime | None = None

    @property
    def is_locked(self) -> bool:
        """Whether nothing but a rescue server starts."""
        return self.state == "locked"

    @property
    def is_over(self) -> bool:
        """Whether it will be locked unless files are deleted."""
        return self.state == "over limit"


class AllocationOption(_Answer):
    """An allocation that the person is a member of, with the sizes that its tier lists, and its rescue server."""

    id: str
    name: str
    tier: str
    tier_title: str
    state: str
    limit_microcredits: int
    available_microcredits: int
    ends_at: datetime | None = None
    usable: bool
    reason: str | None = None
    sizes: tuple[SizeOption, ...] = ()
    rescue: SizeOption | None = None
    custom_images: bool = False


class ImageVersion(_Answer):
    """A version of an image: `choice` is what to ask for, and `recorded` how a lease names it."""

    choice: str
    recorded: str
    title: str
    channel: str = "recommended"
    released: date | None = None
    ends: date | None = None
    ends_soon: bool = False


class ImageOption(_Answer):
    """An image that a server may run, in its versions, the recommended one first."""

    name: str
    title: str
    description: str = ""
    default: bool = False
    default_for: tuple[str, ...] = ()
    versions: tuple[ImageVersion, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _has_a_version(cls, answer: Any) -> Any:
        """Give an image without versions its only one, so that nobody has to ask."""
        if not isinstance(answer, dict) or answer.get("versions") or not {"name", "title"} <= answer.keys():
            return answer
        only = {"choice": answer["name"], "recorded": answer["name"], "title": answer["title"]}
        return answer | {"versions": (only,)}


class CustomImages(_Answer):
    """From where container images of one's own may come."""

    registries: tuple[str, ...]


class DefaultChoice(_Answer):
    """The first choice that the person could start now."""

    allocation: str
    size: str
    image: str | None = None


class StartOptions(_Answer):
    """All that the start page shows; `default` is absent when nothing can be started."""

    person: str
    agreement: Agreement
    allocations: tuple[AllocationOption, ...] = ()
    images: tuple[ImageOption, ...] = ()
    default: DefaultChoice | None = None
    home: HomeOption | None = None
    custom_images: CustomImages | None = None


class PersonName(_Answer):
    """The name that a person has at the service."""

    name: str


class PeopleWithRuns(_Answer):
    """A page of the names of people with batch runs; `next_after` continues, None at the end."""

    people: tuple[str, ...]
    next_after: str | None = None


class EndedRuns(_Answer):
    """How many batch runs are cancelled."""

    runs: int


class LeaseRequest(_Answer):
    """What is asked for; kept beside its idempotency key so that the very same request can be sent again."""

    allocation: str
    person: str
    size: str
    image: str | None
    server_name: str
    kind: str = "interactive"


AnswerT = TypeVar("AnswerT", bound=BaseModel)


def to_timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with milliseconds, the service's only form of time."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AllocationsClient:
    """Calls the lease API as one of the platform's own services.

    Every call made here is safe to repeat: reads, calls that the contract makes idempotent, and `acquire`,
    which carries an idempotency key. Each is therefore tried up to three times within a few seconds.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`base_url` has no `/api/v1`; `token` is a JupyterHub token with the lease scope."""
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + API_PREFIX,
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT,
            transport=transport,
            # The service is a neighbour: an outbound proxy from the environment must never see its token.
            trust_env=False,
        )

    @classmethod
    def from_environment(cls, base_url: str, variable: str = "MERIDIAN_TOKEN_SPAWNER") -> Self:
        """Take the token from the environment; KeyError when the variable is not set."""
        return cls(base_url, os.environ[variable])

    async def close(self) -> None:
        """Close the connections; the client can't be used afterwards."""
        await self._http.aclose()

    async def start_options(self, person: str) -> StartOptions:
        """What `person` may start now, and why the rest can't be had."""
        return await self._call(StartOptions, "GET", "/start-options", params={"person": person})

    async def acquire(self, request: LeaseRequest, idempotency_key: str) -> Lease:
        """Hold one quantum for a server; raises AllocationDenied with the reason when it can't be had."""
        headers = {"Idempotency-Key": idempotency_key}
        return await self._call(Lease, "POST", "/leases", json=request.model_dump(), headers=headers)

    async def report_start(self, lease_id: str, started_at: datetime | None) -> Lease:
        """Tell that the server runs since `started_at`: charging starts."""
        body = {"started_at": to_timestamp(started_at)}
        return await self._call(Lease, "POST", f"/leases/{lease_id}/start", json=body)

    async def settle(self, lease_id: str, ended_at: datetime | None) -> Lease:
        """Charge to the second up to `ended_at` and release the rest."""
        body = {"ended_at": to_timestamp(ended_at)}
        return await self._call(Lease, "POST", f"/leases/{lease_id}/settle", json=body)

    async def void(self, lease_id: str) -> Lease:
        """Release the whole hold of a server that never ran: nothing is charged."""
        return await self._call(Lease, "POST", f"/leases/{lease_id}/void", json={})

    async def register_person(self, name: str, person: Mapping[str, Any]) -> str:
        """Tell who a person is; their name there, another if they have one. AllocationDenied if it is taken."""
        return (await self._call(PersonName, "PUT", f"/people/{quote(name, safe='')}", json=person)).name

    async def people_with_runs(self) -> list[str]:
        """Everybody who has batch runs that wait or go on."""
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = await self._call(PeopleWithRuns, "GET", "/people/with-runs", params={"after": after})
            found += page.people
            after = page.next_after
        return found

    async def end_runs(self, person: str) -> int:
        """Cancel every batch run of a person whose account has ended; how many were."""
        path = f"/people/{quote(person, safe='')}/end-runs"
        return (await self._call(EndedRuns, "POST", path, json={})).runs

    async def lease(self, lease_id: str) -> Lease:
        """The lease as the service sees it now."""
        return await self._call(Lease, "GET", f"/leases/{lease_id}")

    async def outlook(self, lease_id: str) -> Outlook:
        """How long the lease's server can go on; AllocationDenied when it has ended."""
        return await self._call(Outlook, "GET", f"/leases/{lease_id}/outlook")

    async def extend(self, lease_id: str) -> Outlook:
        """Let the lease's server count as used now, and last as long as one that starts now."""
        return await self._call(Outlook, "POST", f"/leases/{lease_id}/extend", json={})

    async def open_leases(self) -> list[OpenLease]:
        """All leases of servers that are open; one that opens or ends meanwhile may be among them or not."""
        found: list[OpenLease] = []
        after: str | None = ""
        while after is not None:
            params = {"kind": "interactive", "after": after}
            page = await self._call(OpenLeases, "GET", "/leases/open", params=params)
            found += page.leases
            after = page.next_after
        return found

    async def _call(self, model: type[AnswerT], method: str, path: str, **request: Any) -> AnswerT:
        maybe_applied = False
        failure = ""
        for pause_seconds in (*RETRY_PAUSES_SECONDS, None):
            try:
                response = await self._http.request(method, path, **request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = type(error).__name__
            except httpx.HTTPError as error:
                # Sent, but no answer came back: it may have been carried out.
                maybe_applied, failure = True, type(error).__name__
            else:
                if response.status_code not in RETRIED_STATUSES:
                    return _to_answer(model, response)
                maybe_applied, failure = True, f"status {response.status_code}"
            if pause_seconds is not None:
                await self._sleep(pause_seconds)
        message = f"the allocations service did not answer {method} {path} ({failure})"
        raise AllocationsUnavailableError(message, maybe_applied=maybe_applied)


def _to_answer(model: type[AnswerT], response: httpx.Response) -> AnswerT:
    request = f"{response.request.method} {response.request.url.path}"
    if response.status_code == httpx.codes.UNAUTHORIZED:
        # The hub's own token was refused: nothing that the person at the browser could mend.
        message = f"the allocations service does not accept the hub's token on {request}"
        raise AllocationsUnavailableError(message, maybe_applied=False)
    if response.is_client_error:
        raise _to_denial(response)
    if not response.is_success:
        message = f"the allocations service answered {request} with status {response.status_code}"
        raise AllocationsUnavailableError(message, maybe_applied=True)
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        message = f"the allocations service answered {request} with something unexpected"
        raise AllocationsUnavailableError(message, maybe_applied=True) from error


def _to_denial(response: httpx.Response) -> AllocationDenied:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}

    def text(field: str, default: str) -> str:
        value = problem.get(field)
        return value if isinstance(value, str) and value else default

    return AllocationDenied(
        code=text("code", f"http_{response.status_code}"),
        detail=text("detail", "The allocations service refused the request."),
        remedy=text("remedy", ""),
        remedy_url=text("remedy_url", "") or None,
        status=response.status_code,
    )
