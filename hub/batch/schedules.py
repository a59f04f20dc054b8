"""Schedules as scripts and the command line see them: notebooks that are submitted at planned times."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from hub.batch.model import Source
from hub.batch.sources import notebook_at
from hub.batch.submissions import RunTerms, to_changes, to_schedule_body

if TYPE_CHECKING:
    import builtins


class Call(Protocol):
    """One request to the service, whose errors are the client's."""

    def __call__(
        self, method: str, path: str, body: object = None, idempotency_key: str | None = None
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Planned:
    """A planned time: RFC 3339 in UTC, and in words by the clock of its zone; `note` when that is moved then."""

    at: str
    shown: str
    note: str

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Planned:
        return cls(data["at"], data["shown"], data.get("note") or "")


@dataclass(frozen=True)
class PastTime:
    """What became of a planned time: submitted, refused, skipped or missed; `detail` says why."""

    planned_at: str
    shown: str
    outcome: str
    run: str | None
    run_state: str | None
    detail: str | None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PastTime:
        optional = (data.get(name) for name in ("run", "run_state", "detail"))
        return cls(data["planned_at"], data["shown"], data["outcome"], *optional)


@dataclass(frozen=True)
class Schedule:
    """A schedule as the service tells it; `coming` and `times` are empty in a list of schedules."""

    id: str
    title: str
    allocation: str
    allocation_name: str
    name: str
    size: str
    image: str | None
    parameters: dict[str, Any]
    max_seconds: int | None
    cron: str
    zone: str
    words: str
    missed: str
    overlap: str
    state: str
    pause_reason: str | None
    refusals: int
    next: Planned | None
    last: PastTime | None
    coming: tuple[Planned, ...]
    times: tuple[PastTime, ...]
    retries: int
    source: Source | None
    environment: tuple[str, ...]
    output: str | None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Schedule:
        """Fields that this version does not know are left out."""
        known: dict[str, Any] = {name: data.get(name) for name in cls.__dataclass_fields__}
        known |= {
            "next": Planned.from_json(data["next"]) if data.get("next") else None,
            "last": PastTime.from_json(data["last"]) if data.get("last") else None,
            "coming": tuple(Planned.from_json(one) for one in data.get("coming") or ()),
            "times": tuple(PastTime.from_json(one) for one in data.get("times") or ()),
            "retries": data.get("retries") or 0,
            "source": Source.from_json(data["source"]) if data.get("source") else None,
            "environment": tuple(data.get("environment") or ()),
        }
        return cls(**known)


class Changes(RunTerms, total=False):
    """What `Schedules.edit` takes, beside the notebook: what `Schedules.add` does; what is left out stays."""

    title: str
    allocation: str
    size: str
    cron: str
    zone: str
    missed: str
    overlap: str


class Schedules:
    """A person's schedules. Every method raises the errors of the client that it belongs to."""

    def __init__(self, ask: Call) -> None:
        self._ask = ask

    def add(
        self,
        notebook: Path | str,
        allocation: str,
        size: str,
        *,
        cron: str,
        zone: str = "UTC",
        title: str | None = None,
        missed: str = "skip",
        overlap: str = "skip",
        idempotency_key: str | None = None,
        **terms: Unpack[RunTerms],
    ) -> Schedule:
        """Submit the notebook as it is now at each time of a cron expression, by the clock of a zone.

        notebook: as for `BatchClient.submit`. title: the file's name if None. missed: skip, once or all. overlap: skip
        or queue. terms: what each run gets, as `RunTerms` has them; a secret that is missing at a time refuses that.
        """
        body = to_schedule_body(notebook, allocation, size, terms)
        body |= {
            "title": title or Path(body["name"]).stem,
            "cron": cron,
            "zone": zone,
            "missed": missed,
            "overlap": overlap,
        }
        return Schedule.from_json(self._ask("POST", "/schedules", body, idempotency_key or str(uuid.uuid4())))

    def list(self) -> builtins.list[Schedule]:
        """The person's schedules, newest first."""
        return [Schedule.from_json(one) for one in self._ask("GET", "/schedules")["schedules"]]

    def get(self, schedule_id: str) -> Schedule:
        """A schedule with its next times and what became of the last ones."""
        return Schedule.from_json(self._ask("GET", _path(schedule_id)))

    def edit(self, schedule_id: str, *, notebook: Path | str | None = None, **changes: Unpack[Changes]) -> Schedule:
        """Change what is given, by the names that `add` has; the notebook is replaced, and its parameters stay."""
        body = to_changes(changes)
        if notebook is not None:
            content, source = notebook_at(notebook)
            body = {"name": Path(source.path or "").name, **body, "notebook": content, "source": source.to_json()}
        return Schedule.from_json(self._ask("PATCH", _path(schedule_id), body))

    def pause(self, schedule_id: str) -> Schedule:
        """Submit nothing until it is resumed."""
        return Schedule.from_json(self._ask("POST", _path(schedule_id, "pause")))

    def resume(self, schedule_id: str) -> Schedule:
        """Submit again, from the next time on."""
        return Schedule.from_json(self._ask("POST", _path(schedule_id, "resume")))

    def remove(self, schedule_id: str) -> None:
        """Remove a schedule; its runs stay."""
        self._ask("DELETE", _path(schedule_id))


def _path(schedule_id: str, part: str = "") -> str:
    """The path of a schedule; an id with a slash cannot lead to another one."""
    quoted = schedule_id.replace("/", "%2F")
    return f"/schedules/{quoted}/{part}" if part else f"/schedules/{quoted}"
