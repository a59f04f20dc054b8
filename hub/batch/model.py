"""What a batch run is: the values exchanged with the allocations service and written by the runner."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast, get_args

Outcome = Literal["succeeded", "failed", "timed_out", "cancelled", "lost"]

ACTIVE_STATES = frozenset({"queued", "admitted", "running"})
SOURCE_LIMIT = 80
RECORDED_BYTES_MAX = 20_000


def now_utc() -> datetime:
    """The current time, in UTC: the default clock of everything here that takes one."""
    return datetime.now(UTC)


def to_text(time: datetime) -> str:
    """The time as the service writes it: RFC 3339, UTC, milliseconds."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """The time that `to_text` wrote; ValueError for anything else."""
    return datetime.fromisoformat(text)


def first_line(source: str) -> str:
    """The first line of a cell that is not blank, shortened."""
    line = next((line.strip() for line in source.splitlines() if line.strip()), "")
    return line if len(line) <= SOURCE_LIMIT else line[: SOURCE_LIMIT - 1] + "…"


def named_cell(cell: int | None, source: str) -> str:
    """The cell as the person knows it: number and first line."""
    line = first_line(source)
    where = "the cell of parameters" if cell is None else f"cell {cell}"
    return f"{where} “{line}”" if line else where


@dataclass(frozen=True)
class RunError:
    """Why a run failed. `cell` counts all cells of the submitted notebook, from 1; `code`: of `ends`, or empty."""

    cell: int | None
    name: str
    message: str
    traceback: str
    code: str = ""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunError:
        """What is not of this form is left out or made text: a notebook may have written it."""
        cell = data.get("cell")
        texts = (str(data.get(name) or "") for name in ("name", "message", "traceback", "code"))
        return cls(cell if isinstance(cell, int) else None, *texts)

    def to_json(self) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "name": self.name,
            "message": self.message,
            "traceback": self.traceback,
            "code": self.code,
        }


@dataclass(frozen=True)
class Resources:
    """What a run may use."""

    cores: float
    memory_gib: float
    gpus: int
    gpu_type: str | None

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gib * 2**30)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Resources:
        return cls(data["cores"], data["memory_gib"], data.get("gpus") or 0, data.get("gpu_type"))


@dataclass(frozen=True)
class ChainedRun:
    """A run or a sweep that is waited for, or that waits: one of the two ids, the other None."""

    run: str | None
    name: str
    state: str
    sweep: str | None = None

    @property
    def id(self) -> str:
        return self.run or self.sweep or ""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ChainedRun:
        return cls(data.get("run"), data.get("name") or "", data["state"], data.get("sweep"))

    def __str__(self) -> str:
        return f"{self.run or f'sweep {self.sweep}'} {self.name}: {self.state}"


@dataclass(frozen=True)
class Source:
    """Where a notebook was taken from: a path in the home, or a repository's address (no credentials) and revision."""

    kind: str
    address: str | None = None
    revision: str | None = None
    path: str | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Source:
        return cls(str(data.get("kind") or ""), data.get("address"), data.get("revision"), data.get("path"))

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        where = f"{self.address or ''}@{self.revision or ''}:" if self.kind == "repository" else ""
        return f"{self.kind} {where}{self.path or ''}".strip()


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook, as the service reads it from the cell tagged `parameters`.

    kind: bool, int, float, str, list, dict, or any where the cell does not say.
    """

    name: str
    kind: str
    nullable: bool
    has_default: bool
    default: Any
    source: str
    help: str

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Parameter:
        return cls(
            name=data["name"],
            kind=data["kind"],
            nullable=bool(data.get("nullable")),
            has_default=bool(data.get("has_default")),
            default=data.get("default"),
            source=data.get("source") or "",
            help=data.get("help") or "",
        )


@dataclass(frozen=True)
class Run:
    """A run as the allocations service tells it."""

    id: str
    person: str
    allocation: str
    allocation_name: str
    name: str
    size: str
    image: str | None
    resources: Resources
    parameters: dict[str, Any]
    max_seconds: int
    state: str
    waiting_reason: str | None
    cancel_requested: bool
    attempt: int
    lease: str | None
    cells_done: int
    cells_total: int | None
    current_cell: int | None
    error: RunError | None
    submitted_at: str | None
    started_at: str | None
    ended_at: str | None
    charged_microcredits: int
    held_microcredits: int
    end_code: str | None
    remedy: str | None
    waits_for: str | None = None
    after: tuple[ChainedRun, ...] = ()
    followed_by: tuple[ChainedRun, ...] = ()
    retries: int = 0
    retried: int = 0
    source: Source | None = None
    sweep: str | None = None
    sweep_row: int | None = None
    recorded: dict[str, Any] = field(default_factory=dict)
    environment: tuple[str, ...] = ()
    output: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether the run is given secrets: for its notebook, or to save its output with."""
        return bool(self.environment) or (self.output or "").startswith("s3://")

    @property
    def active(self) -> bool:
        """Whether the run is still to end."""
        return self.state in ACTIVE_STATES

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Run:
        """Fields that this version does not know are left out, so that the service may add some.

        Raises KeyError when a field that identifies or limits the run is absent.
        """
        return cls(
            id=data["id"],
            person=data["person"],
            allocation=data["allocation"],
            allocation_name=data.get("allocation_name") or "",
            name=data.get("name") or "",
            size=data["size"],
            image=data.get("image"),
            resources=Resources.from_json(data["resources"]),
            parameters=data.get("parameters") or {},
            max_seconds=data["max_seconds"],
            state=data["state"],
            waiting_reason=data.get("waiting_reason"),
            cancel_requested=bool(data.get("cancel_requested")),
            attempt=data.get("attempt") or 1,
            lease=data.get("lease"),
            cells_done=data.get("cells_done") or 0,
            cells_total=data.get("cells_total"),
            current_cell=data.get("current_cell"),
            error=RunError.from_json(data["error"]) if data.get("error") else None,
            submitted_at=data.get("submitted_at"),
            started_at=data.get("started_at"),
            ended_at=data.get("ended_at"),
            charged_microcredits=data.get("charged_microcredits") or 0,
            held_microcredits=data.get("held_microcredits") or 0,
            end_code=data.get("end_code"),
            remedy=data.get("remedy"),
            waits_for=data.get("waits_for"),
            after=tuple(ChainedRun.from_json(one) for one in data.get("after") or ()),
            followed_by=tuple(ChainedRun.from_json(one) for one in data.get("followed_by") or ()),
            retries=data.get("retries") or 0,
            retried=data.get("retried") or 0,
            source=Source.from_json(data["source"]) if data.get("source") else None,
            sweep=data.get("sweep"),
            sweep_row=data.get("sweep_row"),
            recorded=data.get("recorded") or {},
            environment=tuple(data.get("environment") or ()),
            output=data.get("output"),
        )


@dataclass(frozen=True)
class RunResult:
    """How one attempt ended, as the runner recorded it in `result.json`; `recorded` is what its notebook did."""

    attempt: int
    outcome: Outcome
    started_at: str | None
    ended_at: str
    error: RunError | None
    recorded: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunResult:
        """ValueError for an outcome that does not exist; KeyError or TypeError for what is not of this form."""
        if data["outcome"] not in get_args(Outcome):
            msg = f"{data['outcome']!r} is not the end of a run."
            raise ValueError(msg)
        for time in (data["started_at"] or data["ended_at"], data["ended_at"]):
            from_text(time)
        return cls(
            attempt=data["attempt"],
            outcome=cast("Outcome", data["outcome"]),
            started_at=data["started_at"],
            ended_at=data["ended_at"],
            error=RunError.from_json(data["error"]) if data["error"] else None,
            recorded=_recorded(data.get("recorded")),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "attempt": self.attempt,
            "outcome": self.outcome,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "error": self.error.to_json() if self.error else None,
            "recorded": self.recorded,
        }


def _recorded(data: object) -> dict[str, Any]:
    """What the runner read of a notebook; nothing where the notebook has written it itself, too large to report."""
    return data if isinstance(data, dict) and len(json.dumps(data)) <= RECORDED_BYTES_MAX else {}


@dataclass(frozen=True)
class Progress:
    """How far an attempt has come; cells are those of the submitted notebook, counted from 1."""

    started_at: str
    cells_done: int
    cells_total: int
    current_cell: int | None
