"""The runner: one process that executes one run's notebook and records how it ended.

`python -m hub.batch.runner RUN_DIRECTORY` needs nobody: it keeps the run's deadline, ends every
process that the notebook started, and writes `result.json` last, when nothing of the run is left.
It exits with 0 when there is a result, and with 75 when another runner has the run. In a pod, further
arguments name the attempt and the pod, and the environment is the image's own and all for the notebook.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hub.batch import ends
from hub.batch.environment import Given, NotGivenError, SecretMissingError, ask, read_from_input
from hub.batch.files import RunDirectory, RunDirectoryError, RunProcess, RunSpec, write_atomically
from hub.batch.model import RunError, RunResult, named_cell, now_utc, to_text
from hub.batch.outputs import Made, NotSavedError, save
from hub.batch.processes import adopt_orphans, kill_descendants, living_descendants, read_stat, send
from hub.batch.provenance import declared, make_record
from hub.batch.record import read_recorded_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from hub.batch.model import Outcome

EXIT_TAKEN = 75
# A cell that is asked to stop may close its files; what is left afterwards is killed.
INTERRUPT_SECONDS = 3.0
# papermill notices the dead kernel within a second and saves; after this the result is written anyway.
SAVE_SECONDS = 5.0
LOG_LIMIT_BYTES = 20 * 2**20
# Set by whoever started the runner, for the runner alone.
RUNNER_VARIABLES = ("PYTHONPATH", "JUPYTER_RUNTIME_DIR")

Stop = Literal["cancelled", "timed_out"]


class RunRecord:
    """What the runner tells the others while it works: log, events and the one result."""

    def __init__(self, directory: RunDirectory, spec: RunSpec, clock: Callable[[], datetime]) -> None:
        self._directory = directory
        self._spec = spec
        self._clock = clock
        self._events = directory.events.open("w", encoding="utf-8")
        self._log = directory.log.open("a", encoding="utf-8", errors="replace")
        self._written = 0
        self._ended = threading.Lock()
        self._cell_started = 0.0
        self.started_at = to_text(clock())
        self.current: tuple[int, str] | None = None
        self.stop: Stop | None = None

    def started(self, cells: int) -> None:
        self._event("started", None, cells, at=self.started_at)

    def cell_started(self, cell: int, total: int, source: str) -> None:
        self.current = (cell, source)
        self._cell_started = time.monotonic()
        self.wrote(f"[{to_text(self._clock())}] cell {cell} of {total}\n")
        self._event("cell_started", cell, total)

    def cell_finished(self, cell: int, total: int) -> None:
        self._event("cell_finished", cell, total, round(time.monotonic() - self._cell_started, 3))

    def stopping(self) -> bool:
        return self.stop is not None

    def wrote(self, text: str) -> None:
        """Append to the log, up to its limit."""
        if self._written > LOG_LIMIT_BYTES:
            return
        self._written += len(text)
        if self._written > LOG_LIMIT_BYTES:
            text = f"\nThe log stops at {LOG_LIMIT_BYTES // 2**20} MiB. The notebook has all output.\n"
        self._log.write(text)
        self._log.flush()

    def finish(self, outcome: Outcome, error: RunError | None) -> bool:
        """Write the result. False: it is left to the other thread.

        The main thread and the guard may both come here: the first one writes and ends the process.
        """
        if not self._ended.acquire(blocking=False):
            return False
        kill_descendants(os.getpid())
        if error:
            self.wrote(f"{error.message}\n")
        self.wrote(f"[{to_text(self._clock())}] {outcome}\n")
        self._directory.write_result(
            RunResult(
                self._spec.attempt,
                outcome,
                self.started_at,
                to_text(self._clock()),
                error,
                read_recorded_file(self._directory.output),
            )
        )
        return True

    def stop_error(self) -> RunError | None:
        """What the person is told about the stop: nothing about their own."""
        if self.stop != "timed_out":
            return None
        cell, source = self.current or (None, "")
        where = f" in {named_cell(cell, source)}" if cell else ""
        message = (
            f"The run reached its limit of {self._spec.max_seconds} seconds{where}. "
            "What it had done is kept. Submit it with a longer limit, or divide it."
        )
        return RunError(cell, "DeadlineExceeded", message, "", ends.TIMED_OUT)

    def _event(
        self, event: str, cell: int | None, total: int, seconds: float | None = None, at: str | None = None
    ) -> None:
        line = {
            "at": at or to_text(self._clock()),
            "event": event,
            "cell": cell,
            "cells_total": total,
            "seconds": seconds,
        }
        self._events.write(json.dumps(line) + "\n")
        self._events.flush()


class Guard(threading.Thread):
    """Ends the run at its deadline or on a signal, however busy or stuck the main thread is.

    The notebook's processes are interrupted, then killed; papermill then sees its kernel dead and
    saves what there is. Should it not, the guard writes the result and ends the process.
    """

    def __init__(self, record: RunRecord, max_seconds: float) -> None:
        super().__init__(name="guard", daemon=True)
        self._record = record
        self._deadline = time.monotonic() + max_seconds
        self._wake, self._signal = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def catch_signals(self) -> None:
        """SIGTERM and SIGINT stop the run. The handler only writes to a pipe: it may interrupt anything."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        try:
            os.write(self._signal, b"x")
        except BlockingIOError:
            return

    def run(self) -> None:
        signalled, _, _ = select.select([self._wake], [], [], max(0.0, self._deadline - time.monotonic()))
        self._record.stop = "cancelled" if signalled else "timed_out"
        self._interrupt()
        # The kernel may be started between the stop and the kill: kill until the main thread has ended.
        ends_at = time.monotonic() + SAVE_SECONDS
        while time.monotonic() < ends_at:
            kill_descendants(os.getpid())
            time.sleep(0.2)
        if self._record.finish(self._record.stop, self._record.stop_error()):
            os._exit(0)

    def _interrupt(self) -> None:
        for stat in living_descendants(os.getpid()):
            send(stat.pid, signal.SIGINT)
        ends_at = time.monotonic() + INTERRUPT_SECONDS
        while time.monotonic() < ends_at and living_descendants(os.getpid()):
            time.sleep(0.1)


def receive(directory: RunDirectory, spec: RunSpec, *, in_pod: bool) -> Given | RunError:
    """What the run is given, or why it cannot begin."""
    if not spec.is_given:
        return Given()
    try:
        return ask(directory, spec.attempt) if in_pod else read_from_input()
    except SecretMissingError as missing:
        return RunError(None, "SecretMissing", str(missing), "", ends.SECRET_MISSING)
    except NotGivenError:
        message = "Nobody came to give the run its secrets. The platform failed, not the notebook. Run it again."
        return RunError(None, "StartFailed", message, "", ends.START_FAILED)


def execute(
    directory: RunDirectory, spec: RunSpec, record: RunRecord, given: Given, private: tuple[str, ...]
) -> tuple[Outcome, RunError | None]:
    """Run the notebook, without the `private` variables; what it says about its end holds, unless it was stopped."""
    # jsonschema's check of URIs, which no notebook's schema has, takes a second of every run to import.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    # papermill takes half a second; the lock, the signals and the deadline come first.
    from hub.batch.notebook import (  # noqa: PLC0415
        KernelLimits,
        NotebookFailedError,
        NotebookStoppedError,
        check_parameters,
        load_notebook,
        run_notebook,
    )

    environment = {name: value for name, value in os.environ.items() if name not in private} | dict(given.values)
    try:
        notebook = load_notebook(directory.input)
        record.started(len(notebook.cells))
        check_parameters(notebook, spec.parameters)
        limits = KernelLimits(spec.home, environment, spec.memory_bytes)
        run_notebook(notebook, directory.output, spec.parameters, limits, record)
    except NotebookStoppedError:
        pass
    except NotebookFailedError as failure:
        if not record.stop:
            return "failed", failure.error
    else:
        return "succeeded", None
    assert record.stop, "only a stop ends a notebook between two cells"
    return record.stop, record.stop_error()


def keep_provenance(directory: RunDirectory, spec: RunSpec, record: RunRecord) -> None:
    """Write down what the run was made of and what it made. What stands against it costs no run its result."""
    from hub.batch.notebook import kernel_python, load_notebook  # noqa: PLC0415  # as in `execute`

    try:
        notebook = load_notebook(directory.input)
        python = kernel_python(notebook)
        executed = json.loads(directory.output.read_bytes()) if directory.output.is_file() else None
        made = make_record(spec.attempt, directory.input.read_bytes(), executed, Path(spec.home), python)
        write_atomically(directory.provenance, json.dumps(made))
    except Exception as fault:  # noqa: BLE001  a notebook may leave anything behind
        record.wrote(f"The run's provenance could not be recorded: {type(fault).__name__}: {fault}\n")


def declared_files(notebook: Path, home: Path) -> Iterator[Path]:
    """The files that an executed notebook says it made, as far as they can be had. Raises NotSavedError.

    It may say anything, and may have written over its own output: a fault here would make the run a lost one.
    """
    try:
        paths = [one["path"] for one in declared(json.loads(notebook.read_bytes()), "outputs")]
    except (OSError, ValueError, RecursionError, AttributeError, TypeError) as fault:
        msg = f"The executed notebook cannot be read: {fault}."
        raise NotSavedError(msg) from fault
    for path in paths:
        # A name may be too long to be asked for, or in a folder that was closed since.
        with suppress(OSError):
            if "://" not in path and (home / path).is_file():
                yield home / path


def save_output(
    directory: RunDirectory, spec: RunSpec, record: RunRecord, given: Given, end: tuple[Outcome, RunError | None]
) -> tuple[Outcome, RunError | None]:
    """Save what a run made that came to its end where its person wants it, and return that end or a new one.

    That it can't be saved fails a run that would have succeeded; one that has failed keeps its own reason.
    """
    if spec.output is None or end[0] not in {"succeeded", "failed"} or not directory.output.is_file():
        return end
    home = Path(spec.home)
    roots = {"home": home}
    if scratch := os.environ.get("MERIDIAN_SCRATCH"):
        roots["scratch"] = Path(scratch)
    try:
        made = Made(spec.id, spec.name, directory.output, tuple(declared_files(directory.output, home)))
        record.wrote(f"Saved to {save(spec.output, made, roots, given.output)}\n")
    except NotSavedError as failure:
        if end[0] == "succeeded":
            return "failed", RunError(None, "OutputNotSaved", str(failure), "", ends.OUTPUT_NOT_SAVED)
        record.wrote(f"{failure}\n")
    return end


def main(arguments: list[str], clock: Callable[[], datetime] = now_utc) -> int:
    """Execute the run in the directory of the first argument, as ATTEMPT in POD if these follow: the exit status."""
    directory = RunDirectory(Path(arguments[0]).absolute())
    # Two runners of one run could start when an executor dies between starting one and seeing it.
    # The lock lets one through, is held until its process ends, and makes the other exit here.
    lock = directory.lock()
    if lock is None:
        return EXIT_TAKEN
    try:
        spec = directory.read_spec()
    except RunDirectoryError as fault:
        sys.stderr.write(f"{fault}\n")
        return 1
    if directory.read_result(spec.attempt):
        return 0
    in_pod = len(arguments) > 1
    if in_pod and not (int(arguments[1]) == spec.attempt and directory.claim(spec.attempt, arguments[2])):
        return EXIT_TAKEN
    log = os.open(directory.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    record = RunRecord(directory, spec, clock)
    guard = Guard(record, spec.max_seconds)
    guard.catch_signals()
    adopt_orphans()
    stat = read_stat(os.getpid())
    assert stat, "this process exists"
    directory.write_process(RunProcess(spec.attempt, stat.pid, stat.start_ticks, record.started_at))
    guard.start()
    try:
        given = receive(directory, spec, in_pod=in_pod)
        outcome: Outcome
        error: RunError | None
        if isinstance(given, RunError):
            outcome, error = "failed", given
        else:
            outcome, error = execute(directory, spec, record, given, () if in_pod else RUNNER_VARIABLES)
            keep_provenance(directory, spec, record)
            outcome, error = save_output(directory, spec, record, given, (outcome, error))
        if not record.finish(outcome, error):
            guard.join()
    finally:
        # A fault of the runner itself leaves no result, and the run counts as lost; but no process either.
        kill_descendants(os.getpid())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
