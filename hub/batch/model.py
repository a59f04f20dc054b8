"""What a batch run is: the values exchanged with the allocations service and written by the runner."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast, get_args

Outcome = Literal["succeeded", "failed", "timed_out", "cancelled", "lost"]

ACTIVE_STATES = frozenset({"queued", "admitted", "running"})
SOURCE_LIMIT = 80


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
            environment=tuple(data.get("environment") or ()),
            output=data.get("output"),
        )


@dataclass(frozen=True)
class RunResult:
    """How one attempt ended, as the runner recorded it in `result.json`."""

    attempt: int
    outcome: Outcome
    started_at: str | None
    ended_at: str
    error: RunError | None

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
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "attempt": self.attempt,
            "outcome": self.outcome,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "error": self.error.to_json() if self.error else None,
        }


@dataclass(frozen=True)
class Progress:
    """How far an attempt has come; cells are those of the submitted notebook, counted from 1."""

    started_at: str
    cells_done: int
    cells_total: int
    current_cell: int | None
