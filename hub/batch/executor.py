"""The executor: takes queued runs to a backend and brings what became of them back to the service.

It keeps nothing that it cannot lose. Each loop compares what the service says (which runs are this
executor's), what the backend shows (which live, which have a result) and acts on the difference, so
a loop that was cut short anywhere, by a crash or by a service that is away, is simply done again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from prometheus_client import start_http_server

from hub.batch import ends
from hub.batch.backend import BackendUnavailableError, Exited, Gone, Running, StartError, StartRefusedError
from hub.batch.files import RunDirectory
from hub.batch.local import LocalBackend
from hub.batch.model import RunError, from_text, now_utc, to_text
from hub.batch.observe import FIELDS, Metrics, log_to_stdout, run_fields
from hub.batch.service import ExecutorService, ServiceError, ServiceRefusalError, ServiceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from hub.batch.backend import Backend
    from hub.batch.model import Outcome, Progress, Run

LOOP_SECONDS = 1.0
LOOK_SECONDS = 0.1
KILL_AFTER_SECONDS = 10.0
# The runner keeps its own deadline and needs up to 8 seconds to end; this is for one that cannot.
OVERDUE_SECONDS = 20.0
LOOKS_BEFORE_LOST = 2
STRAY_CHECK_SECONDS = 10.0
BACKOFF_LIMIT_SECONDS = 30.0
DRAIN_SECONDS = 25.0

logger = logging.getLogger("meridian.batch")


@dataclass
class Attempt:
    """What this process remembers of one attempt of a run; a restarted executor does without."""

    ended: bool = False
    started: bool = False
    looks_gone: int = 0
    stopped_at: float | None = None
    reported: Progress | None = None


class Executor:
    """One loop over the runs of one executor. `monotonic` and `clock` are injected; times in seconds."""

    def __init__(
        self,
        service: ExecutorService,
        backend: Backend,
        store: Path,
        metrics: Metrics,
        *,
        slots: int,
        clock: Callable[[], datetime] = now_utc,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._backend = backend
        self._store = store
        self._metrics = metrics
        self._slots = slots
        self._clock = clock
        self._monotonic = monotonic
        self._runs: dict[str, Run] = {}
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._strays: dict[str, float] = {}
        self._strays_checked_at: float | None = None
        self._failures = 0
        self._ask_again_at = 0.0
        self._draining = False
        metrics.slots.set(slots)

    def run(self, stop: threading.Event) -> None:
        """Loop until `stop` is set, then stop the runs in hand and give them back as lost, unless they go on alone."""
        while not stop.is_set():
            self.tick()
            self._rest(stop)
        if self._backend.outlives:
            logger.info("The executor has stopped; %d runs go on", len(self._runs))
            return
        self._draining = True
        ends_at = self._monotonic() + DRAIN_SECONDS
        while self._runs and self._monotonic() < ends_at:
            self.tick()
            time.sleep(LOOP_SECONDS / 4)
        logger.info("The executor has stopped; runs still in hand: %d", len(self._runs))

    def _rest(self, stop: threading.Event) -> None:
        """Wait for the next loop; not when a run has ended, whose slot and whose hold can be free at once."""
        ends_at = self._monotonic() + LOOP_SECONDS
        while self._monotonic() < ends_at and not stop.wait(LOOK_SECONDS):
            if not self._away() and any(map(self._has_just_ended, self._runs.values())):
                return

    def _has_just_ended(self, run: Run) -> bool:
        try:
            return not self._attempts[run.id, run.attempt].ended and isinstance(self._backend.look(run), Exited)
        except BackendUnavailableError:
            return False

    def tick(self) -> None:
        """One loop. The local part (stopping, starting) goes on while the service does not answer."""
        with self._metrics.loop_seconds.time():
            ours = self._refresh()
            for run in list(self._runs.values()):
                self._guarded(run)
            if not self._draining:
                if ours is not None:
                    self._clear_strays(ours)
                self._claim()
            self._metrics.running.set(len(self._runs))

    def _refresh(self) -> set[str] | None:
        """Ask which runs are ours. Without an answer (None) the last one holds, and nothing is a stray."""
        if self._away():
            return None
        try:
            runs = self._service.active_runs()
        except ServiceError as error:
            self._failed(error, away=True)
            return None
        if self._failures:
            logger.info("The allocations service answers again")
        self._failures = 0
        ours = {run.id for run in runs}
        if self._runs.keys() - ours:
            self._strays_checked_at = None
        self._runs = {run.id: run for run in runs}
        self._attempts = {(run.id, run.attempt): self._attempts.get((run.id, run.attempt), Attempt()) for run in runs}
        return ours

    def _away(self) -> bool:
        return self._monotonic() < self._ask_again_at

    def _failed(self, error: ServiceError, *, away: bool) -> None:
        """Count the error; when the service is away ask less and less often, up to every 30 seconds."""
        self._metrics.service_errors.labels(error.code).inc()
        if away:
            self._failures += 1
            wait = min(BACKOFF_LIMIT_SECONDS, 2.0 ** (self._failures - 1))
            self._ask_again_at = self._monotonic() + wait
        logger.warning("%s", error, extra={FIELDS: {"code": error.code, "failures": self._failures}})

    def _guarded(self, run: Run) -> None:
        """Attend to the run; what the service did not take is reported again in the next loop."""
        try:
            self._attend(run)
        except ServiceError as error:
            self._failed(error, away=isinstance(error, ServiceUnavailableError))
        except BackendUnavailableError as error:
            logger.warning("%s", error, extra=run_fields(run))
        except (OSError, ValueError, KeyError, TypeError):
            # The files of one run may be damaged (a full disk): the other runs must not wait for it.
            logger.exception("The files of the run cannot be read", extra=run_fields(run))

    def _attend(self, run: Run) -> None:
        attempt = self._attempts[run.id, run.attempt]
        sight = self._backend.look(run)
        match sight:
            case Exited(result, node, image_id):
                attempt.ended = True
                self._report_progress(run, attempt, result.started_at)
                outcome = result.outcome
                if outcome == "cancelled":
                    outcome = self._stop_reason(run, result.started_at, from_text(result.ended_at)) or "lost"
                error = None if outcome == "cancelled" else result.error
                self._finish(run, outcome, result.started_at, result.ended_at, error, result.recorded, node, image_id)
            case Running(started_at):
                attempt.looks_gone = 0
                if self._stop_reason(run, started_at, self._clock()):
                    self._stop(run, attempt)
                self._report_progress(run, attempt, started_at)
            case Gone(why, code):
                self._attend_gone(run, attempt, why, code)
            case _:
                assert_never(sight)

    def _attend_gone(self, run: Run, attempt: Attempt, why: str, code: str) -> None:
        """No process and no result: never started, or died. Two looks, since a result may be arriving."""
        progress = RunDirectory.of(self._store, run.id).read_progress()
        started_at = run.started_at or (progress.started_at if progress else None)
        # A run that died by itself, however long ago, has not timed out; one that was stopped here may have.
        reason = self._stop_reason(run, started_at if attempt.stopped_at is not None else None, self._clock())
        if run.state == "admitted" and not attempt.started:
            # Claimed, and nothing reported yet: an executor died, or an answer was lost, before the start.
            if reason:
                self._finish(run, reason, None, to_text(self._clock()), None)
            else:
                self._start(run, attempt)
            return
        attempt.looks_gone += 1
        if attempt.looks_gone < LOOKS_BEFORE_LOST:
            return
        self._backend.stop(run.id, kill=True)
        error = None
        if reason is None:
            message = f"The run's process ended without a result. The platform failed, not the notebook. {why}".strip()
            error = RunError(progress.current_cell if progress else None, "Lost", message, "", code)
        self._finish(run, reason or "lost", started_at, to_text(self._clock()), error)

    def _stop_reason(self, run: Run, started_at: str | None, until: datetime) -> Outcome | None:
        """Why this executor has to end (or ended) a run that lived until then; None when it may go on."""
        if run.cancel_requested:
            return "cancelled"
        if started_at:
            elapsed_seconds = (until - from_text(started_at)).total_seconds()
            if elapsed_seconds > run.max_seconds + OVERDUE_SECONDS:
                return "timed_out"
        return "lost" if self._draining else None

    def _stop(self, run: Run, attempt: Attempt) -> None:
        """Ask the run to stop, and kill it when it has not within 10 seconds."""
        if attempt.stopped_at is None:
            attempt.stopped_at = self._monotonic()
            logger.info("Stopping the run", extra=run_fields(run))
        self._backend.stop(run.id, kill=self._monotonic() - attempt.stopped_at >= KILL_AFTER_SECONDS)

    def _report_progress(self, run: Run, attempt: Attempt, started_at: str | None) -> None:
        """Say how far the run is, once its place has said when it began: the first time that is told is charged from.

        The runner's own is later, and may be there before a busy node has shown its container as running.
        """
        progress = RunDirectory.of(self._store, run.id).read_progress()
        if progress is None or started_at is None:
            return
        progress = replace(progress, started_at=started_at)
        if progress == attempt.reported or self._away():
            return
        try:
            self._service.progress(run, progress)
        except ServiceRefusalError as error:
            # Its lease may have ended. The end of the run must still be reported, so this is no obstacle.
            self._failed(error, away=False)
        attempt.reported = progress

    def _finish(
        self,
        run: Run,
        outcome: Outcome,
        started_at: str | None,
        ended_at: str,
        error: RunError | None,
        recorded: Mapping[str, Any] | None = None,
        node: str | None = None,
        image_id: str | None = None,
    ) -> None:
        """Tell the service, with the recorded times however late; a crash after it repeats the same call."""
        if self._away():
            return
        if run.sweep is not None:
            # First: nobody comes back to a run whose end was told, and what is told again needs no notebook.
            RunDirectory.of(self._store, run.id).drop_notebook()
        self._service.finish(run, outcome, started_at, ended_at, error, recorded or {}, node=node, image_id=image_id)
        del self._runs[run.id]
        del self._attempts[run.id, run.attempt]
        self._metrics.runs.labels(outcome).inc()
        code = ends.end_code(outcome, error)
        self._metrics.ends.labels(code).inc()
        logger.info("The run has ended", extra=run_fields(run, outcome=outcome, end_code=code))
        self._backend.release(run.id)

    def _clear_strays(self, ours: set[str]) -> None:
        try:
            self._stop_strays(ours)
        except BackendUnavailableError as error:
            logger.warning("%s", error)

    def _stop_strays(self, ours: set[str]) -> None:
        """End what runs without being ours: it has no lease, or an executor that died long ago left it."""
        now = self._monotonic()
        checked_at = self._strays_checked_at
        if not self._strays and checked_at is not None and now - checked_at < STRAY_CHECK_SECONDS:
            return
        self._strays_checked_at = now
        strays = self._backend.running() - ours
        self._strays = {run_id: self._strays.get(run_id, now) for run_id in strays}
        for run_id, since in self._strays.items():
            kill = now - since >= KILL_AFTER_SECONDS
            logger.warning("Stopping a run without a lease", extra={FIELDS: {"run": run_id, "kill": kill}})
            self._backend.stop(run_id, kill=kill)
            if kill:
                self._backend.release(run_id)

    def _claim(self) -> None:
        free = self._slots - len(self._runs)
        if free <= 0 or self._away():
            return
        try:
            runs = self._service.claim(free)
        except ServiceError as error:
            self._failed(error, away=True)
            return
        for run in runs:
            logger.info("Claimed a run", extra=run_fields(run))
            self._runs[run.id] = run
            self._attempts[run.id, run.attempt] = attempt = Attempt()
            try:
                self._start(run, attempt)
            except ServiceError as error:
                self._failed(error, away=isinstance(error, ServiceUnavailableError))
            except BackendUnavailableError as error:
                logger.warning("%s", error, extra=run_fields(run))

    def _start(self, run: Run, attempt: Attempt) -> None:
        attempt.started = True
        try:
            self._backend.start(run)
        except (BackendUnavailableError, ServiceUnavailableError):
            attempt.started = False
            raise
        except StartRefusedError as refused:
            self._finish(run, "failed", None, to_text(self._clock()), refused.error)
        except StartError as start_error:
            logger.exception("The run could not be started", extra=run_fields(run))
            error = RunError(None, "StartFailed", str(start_error), "", ends.START_FAILED)
            self._finish(run, "lost", None, to_text(self._clock()), error)
        else:
            logger.info("Started the run", extra=run_fields(run))


@dataclass(frozen=True)
class Settings:
    """The executor's settings, from its environment."""

    url: str
    token: str
    store: Path
    homes: Path | None
    kubernetes: Path | None
    name: str
    slots: int
    metrics_host: str
    metrics_port: int
    passed_variables: tuple[str, ...]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """KeyError: a required variable is absent. ValueError: one is not a number."""
        kubernetes = environment.get("MERIDIAN_BATCH_KUBERNETES")
        return cls(
            url=environment["MERIDIAN_ALLOCATIONS_URL"],
            token=environment["MERIDIAN_TOKEN_BATCH"],
            store=Path(environment["MERIDIAN_RUN_STORE"]),
            homes=None if kubernetes else Path(environment["MERIDIAN_HOMES"]),
            kubernetes=Path(kubernetes) if kubernetes else None,
            name=environment.get("MERIDIAN_BATCH_EXECUTOR", "batch"),
            slots=int(environment.get("MERIDIAN_BATCH_SLOTS") or os.cpu_count() or 1),
            metrics_host=environment.get("MERIDIAN_BATCH_METRICS_HOST", "127.0.0.1"),
            metrics_port=int(environment.get("MERIDIAN_BATCH_METRICS_PORT", "9471")),
            passed_variables=tuple(environment.get("MERIDIAN_BATCH_PASS", "").split()),
        )


def only_executor(store: Path, name: str) -> int | None:
    """Hold the executor's name on this run store until the process ends; None when another process has it.

    Two executors of one name would both start and both report the same runs.
    """
    descriptor = os.open(store / f".executor-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def make_backend(settings: Settings, service: ExecutorService) -> Backend:
    """Jobs where the configuration names a cluster's settings, else processes of this machine."""
    if settings.kubernetes is None:
        assert settings.homes is not None
        return LocalBackend(
            settings.store, settings.homes, os.environ, settings.passed_variables, environment_of=service.environment
        )
    # Whoever runs notebooks as processes needs none of it.
    from hub.batch.cluster import Cluster  # noqa: PLC0415
    from hub.batch.jobs import JobSettings  # noqa: PLC0415
    from hub.batch.kube import KubeBackend  # noqa: PLC0415

    terms = JobSettings.model_validate_json(settings.kubernetes.read_text(encoding="utf-8"))
    return KubeBackend(Cluster.connect(), terms, settings.store, settings.name, service.lease, service.environment)


def main() -> int:
    """Run the executor until SIGTERM or SIGINT. Returns the exit status."""
    log_to_stdout()
    try:
        settings = Settings.from_environment(os.environ)
    except (KeyError, ValueError) as error:
        logger.error("The environment variable %s is missing or not usable", error)  # noqa: TRY400
        return 2
    settings.store.mkdir(parents=True, exist_ok=True)
    held = only_executor(settings.store, settings.name)
    if held is None:
        logger.error(
            "Another executor named '%s' has the run store %s: set MERIDIAN_BATCH_EXECUTOR to another name",
            settings.name,
            settings.store,
        )
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    metrics = Metrics()
    start_http_server(settings.metrics_port, settings.metrics_host, metrics.registry)
    service = ExecutorService.connect(settings.url, settings.token, settings.name)
    executor = Executor(
        service,
        make_backend(settings, service),
        settings.store,
        metrics,
        slots=settings.slots,
    )
    logger.info("The executor '%s' takes up to %d runs at once", settings.name, settings.slots)
    executor.run(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
