"""The files of a run: one directory in the run store, shared by the service, the executor and the runner."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub.batch.model import Progress, Run, RunResult, from_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
READ_BYTES_MAX = 50_000_000
LOCK_RETRIES = 20
LOCK_RETRY_SECONDS = 0.05


class RunDirectoryError(Exception):
    """A run's directory cannot be used; the message says why."""


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace the file in one step, so that a reader sees the old text or the new, never a part.

    `durable`: it also survives a crash of the machine.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # Never through a link that a notebook may have put there: an exclusive creation follows none.
    temporary.unlink(missing_ok=True)
    with temporary.open("x", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _read_text(path: Path) -> str | None:
    """The text of a plain file; None for any other, which a notebook may put there: a pipe would never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:
            return None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > READ_BYTES_MAX:
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        return file.read()


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file, or None when there is none or it is not whole."""
    try:
        data = json.loads(_read_text(path) or "")
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


@dataclass(frozen=True)
class RunSpec:
    """What the executor tells the runner, in `run.json`. is_given: whether there are secrets to wait for.

    name, output: what the notebook is called, and where it is saved as well.
    """

    id: str
    attempt: int
    person: str
    home: str
    parameters: Mapping[str, Any]
    max_seconds: int
    memory_bytes: int
    is_given: bool = False
    name: str = "output.ipynb"
    output: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "attempt": self.attempt,
            "person": self.person,
            "home": self.home,
            "parameters": dict(self.parameters),
            "max_seconds": self.max_seconds,
            "memory_bytes": self.memory_bytes,
            "is_given": self.is_given,
            "name": self.name,
            "output": self.output,
        }


@dataclass(frozen=True)
class RunProcess:
    """The runner of an attempt, in `process.json`.

    `start_ticks` (field 22 of /proc/PID/stat) tells it from a later process with the same number.
    """

    attempt: int
    pid: int
    start_ticks: int
    started_at: str


class RunDirectory:
    """The directory of one run: `input.ipynb` in; log, events, notebook and result out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.input = path / "input.ipynb"
        self.output = path / "output.ipynb"
        self.log = path / "log.txt"
        self.events = path / "events.jsonl"
        self.provenance = path / "provenance.json"
        self.wanted = path / "environment.wanted"
        self.given = path / "environment.json"
        self.spec = path / "run.json"
        self._process = path / "process.json"
        self._result = path / "result.json"
        self._lock = path / "runner.lock"

    @classmethod
    def of(cls, store: Path, run_id: str) -> RunDirectory:
        """The directory of the run. RunDirectoryError when the id could lead out of the store."""
        if not RUN_ID.fullmatch(run_id):
            msg = f"The run's id {run_id!r} is not made of letters, digits, '-' and '_'."
            raise RunDirectoryError(msg)
        return cls(store / run_id)

    def prepare(self, spec: RunSpec, notebook: Path | None = None) -> None:
        """Make the directory ready for the attempt; what an earlier attempt left is removed.

        notebook: where it is taken from, as the runs of a sweep share one; each attempt has it as it was submitted. The
        log is kept: it tells why the earlier attempt was lost.
        """
        if notebook is not None and not (self.input.exists() and self.attempt() == spec.attempt):
            self.path.mkdir(mode=0o700, exist_ok=True)
            partial = self.input.with_name(f".{self.input.name}.{os.getpid()}")
            partial.unlink(missing_ok=True)
            # Its own copy, not a link: what the notebook does to its file must not reach the other runs'.
            shutil.copyfile(notebook, partial)
            partial.replace(self.input)
        if not self.input.is_file():
            msg = f"The run's notebook {self.input} is missing from the run store."
            raise RunDirectoryError(msg)
        if self.attempt() not in (None, spec.attempt):
            left = (self._result, self._process, self.events, self.output, self.provenance, self.wanted, self.given)
            for path in left:
                path.unlink(missing_ok=True)
        write_atomically(self.spec, json.dumps(spec.to_json()))

    def drop_notebook(self) -> None:
        """Remove the copy of a notebook that is kept elsewhere, once the attempt has ended."""
        self.input.unlink(missing_ok=True)

    def attempt(self) -> int | None:
        """The attempt that the directory was last made ready for."""
        spec = read_json(self.spec)
        return spec.get("attempt") if spec else None

    def read_spec(self) -> RunSpec:
        """RunDirectoryError when the executor has not written one."""
        data = read_json(self.spec)
        if data is None:
            msg = f"{self.spec} is missing or is not JSON: the executor writes it before it starts a runner."
            raise RunDirectoryError(msg)
        return RunSpec(**data)

    def read_result(self, attempt: int) -> RunResult | None:
        """The attempt's result, or None; that of an earlier attempt does not count."""
        data = read_json(self._result)
        if data is None or data.get("attempt") != attempt:
            return None
        try:
            return RunResult.from_json(data)
        except (ValueError, KeyError, TypeError, AttributeError):
            # The notebook has written over it: what it says is then no result.
            return None

    def write_result(self, result: RunResult) -> None:
        write_atomically(self._result, json.dumps(result.to_json()))

    def read_process(self, attempt: int | None = None) -> RunProcess | None:
        """The runner of the attempt, or of whichever attempt was last."""
        data = read_json(self._process)
        return RunProcess(**data) if data is not None and attempt in (None, data["attempt"]) else None

    def write_process(self, process: RunProcess) -> None:
        write_atomically(self._process, json.dumps(vars(process)))

    def claim(self, attempt: int, pod: str) -> bool:
        """Take the attempt for one pod, for good; False when another has it, however long ago that one ended.

        A Job may replace a pod that was deleted under it: the second must not run the notebook again.
        """
        mine = self.path / f".claim-{pod}"
        write_atomically(mine, pod)
        try:
            # Of all ways to make a file only where there is none, this one makes it with its content.
            os.link(mine, self._claim(attempt))
        except FileExistsError:
            return False
        finally:
            mine.unlink()
        return True

    def claimed_by(self, attempt: int) -> str | None:
        """The pod that has taken the attempt; None before one has."""
        return _read_text(self._claim(attempt))

    def _claim(self, attempt: int) -> Path:
        return self.path / f"claim-{attempt}"

    def read_wanted(self) -> str | None:
        """The attempt whose runner waits for its secrets."""
        return _read_text(self.wanted)

    def read_progress(self) -> Progress | None:
        """How far the events say the attempt has come; None before its first event, and where they are spoilt."""
        try:
            # The last line may be half written: only what ends in a newline counts.
            events = [json.loads(line) for line in (_read_text(self.events) or "").split("\n")[:-1]]
            return _progress(events) if events else None
        except (ValueError, KeyError, TypeError):
            return None

    def lock(self) -> int | None:
        """Take the run for this process: the descriptor that holds it, or None when another runner has it.

        The kernel gives it back when the process ends, however it ends. `locked` holds it for an
        instant to look, which is why a runner tries for a second before it gives way.
        """
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(LOCK_RETRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOCK_RETRY_SECONDS)
            else:
                return descriptor
        os.close(descriptor)
        return None

    def locked(self) -> bool:
        """Whether a runner lives that holds this run."""
        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)


def _progress(events: list[dict[str, Any]]) -> Progress:
    from_text(events[0]["at"])
    finished = {event["cell"] for event in events if event["event"] == "cell_finished"}
    started = [event["cell"] for event in events if event["event"] == "cell_started"]
    return Progress(
        started_at=events[0]["at"],
        cells_done=len(finished),
        cells_total=events[0]["cells_total"],
        current_cell=started[-1] if started and started[-1] not in finished else None,
    )


def notebook_of(store: Path, run: Run) -> Path | None:
    """Where the notebook of a run's sweep is kept; None for a single run, which has its own."""
    return None if run.sweep is None else RunDirectory.of(store, run.sweep).input


def spec_of(run: Run, home: Path) -> RunSpec:
    """What a runner needs to know of the run."""
    return RunSpec(
        id=run.id,
        attempt=run.attempt,
        person=run.person,
        home=str(home),
        parameters=run.parameters,
        max_seconds=run.max_seconds,
        memory_bytes=run.resources.memory_bytes,
        is_given=run.is_given,
        name=run.name or "output.ipynb",
        output=run.output,
    )
