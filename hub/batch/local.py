"""Runs as processes of this machine: one session for each runner, found again after a restart."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hub
from hub.batch.backend import Exited, Gone, Running, StartError
from hub.batch.environment import memory_of
from hub.batch.files import RunDirectory, RunDirectoryError, notebook_of, spec_of
from hub.batch.processes import kill_marked, living_marked, read_stat, send
from hub.spawner.homes import InvalidHomeError, prepare_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from hub.batch.backend import Sight
    from hub.batch.environment import Given
    from hub.batch.model import Run

# Every process of a run inherits it; it finds them when their runner was killed.
MARK = "MERIDIAN_RUN_DIRECTORY"
PERSON = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,127}")
# What a notebook gets of the executor's environment: nothing in it may be secret.
PASSED_VARIABLES = (
    *("LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    "MERIDIAN_URL",
)


class LocalBackend:
    """Starts runners as local processes.

    store: the run store. homes: the directory of people's homes, made (0700) as they are needed.
    environment: the executor's own, of which PASSED_VARIABLES and `passed` reach the notebook.
    environment_of: the secrets of a run, from the service.
    """

    outlives = False

    def __init__(
        self,
        store: Path,
        homes: Path,
        environment: Mapping[str, str],
        passed: tuple[str, ...] = (),
        environment_of: Callable[[Run], Given] | None = None,
    ) -> None:
        self._store = store.absolute()
        self._homes = homes.absolute()
        self._environment = environment
        self._passed = (*PASSED_VARIABLES, *passed)
        self._environment_of = environment_of
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, run: Run) -> None:
        try:
            directory = RunDirectory.of(self._store, run.id)
            home = self._home(run.person)
            if directory.attempt() not in (None, run.attempt):
                # The service may take a run back while its process lives: it would keep this attempt out.
                kill_marked(MARK, str(directory.path))
                if child := self._children.pop(run.id, None):
                    child.wait()
            directory.prepare(spec_of(run, home), notebook_of(self._store, run))
        except (RunDirectoryError, OSError) as error:
            msg = f"Run {run.id} cannot be started: {error}"
            raise StartError(msg) from error
        # Killed here, the executor finds the run again as `admitted` with no process and starts it.
        # Killed after the next statement, it may start a second runner: the lock makes that one exit.
        with directory.log.open("ab") as log, self._input(run) as given:
            self._children[run.id] = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-P", "-m", "hub.batch.runner", str(directory.path)],
                cwd=directory.path,
                env=self._runner_environment(run, directory, home),
                stdin=given,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @contextmanager
    def _input(self, run: Run) -> Iterator[int]:
        """The standard input of the run's runner: its secrets, or nothing."""
        if not run.is_given or self._environment_of is None:
            yield subprocess.DEVNULL
            return
        descriptor = memory_of(self._environment_of(run))
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def look(self, run: Run) -> Sight:
        directory = RunDirectory.of(self._store, run.id)
        alive = self._alive(run.id, directory)
        # The result is read after the process was seen: one that ends between the two has written it.
        result = directory.read_result(run.attempt)
        if result:
            return Exited(result)
        if alive:
            process = directory.read_process(run.attempt)
            return Running(process.started_at if process else None)
        return Gone()

    def stop(self, run_id: str, *, kill: bool) -> None:
        directory = RunDirectory.of(self._store, run_id)
        if kill:
            kill_marked(MARK, str(directory.path))
            return
        process = directory.read_process()
        if process:
            # A process number is used again once its process has ended: the start time tells the two apart.
            stat = read_stat(process.pid)
            if stat and stat.start_ticks == process.start_ticks:
                send(process.pid, signal.SIGTERM)

    def release(self, run_id: str) -> None:
        """Nothing is left of a run but its files, which are its person's."""

    def running(self) -> set[str]:
        self._reap()
        paths = {Path(path) for path in living_marked(MARK).values()}
        return {path.name for path in paths if path.parent == self._store} | self._children.keys()

    def _alive(self, run_id: str, directory: RunDirectory) -> bool:
        """Whether a runner holds the run, or our child has not come so far yet."""
        self._reap()
        return run_id in self._children or directory.locked()

    def _reap(self) -> None:
        """Let our children that have ended go; a restarted executor's are the init process's."""
        self._children = {run: child for run, child in self._children.items() if child.poll() is None}

    def _home(self, person: str) -> Path:
        """The person's home, made if absent. RunDirectoryError for a name that could lead elsewhere."""
        if not PERSON.fullmatch(person):
            msg = f"the person's name {person!r} cannot be the name of a home directory."
            raise RunDirectoryError(msg)
        home = self._homes / person
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return home

    def _folders(self, run: Run) -> dict[str, str]:
        """The scratch space of the run's allocation, as a server has it."""
        root = self._environment.get("MERIDIAN_SCRATCH_FOLDERS")
        if not root:
            return {}
        try:
            return {"MERIDIAN_SCRATCH": str(prepare_folder(Path(root), run.allocation))}
        except (OSError, InvalidHomeError) as error:
            msg = f"Run {run.id} cannot be started: {error}"
            raise StartError(msg) from error

    def _runner_environment(self, run: Run, directory: RunDirectory, home: Path) -> dict[str, str]:
        """Built from nothing: what is not named here does not reach a notebook."""
        threads = str(max(1, int(run.resources.cores)))
        passed = {name: self._environment[name] for name in self._passed if name in self._environment}
        path = self._environment.get("PATH", os.defpath)
        return {
            **passed,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{path}",
            "HOME": str(home),
            "USER": run.person,
            "LOGNAME": run.person,
            "MERIDIAN_RUN_ID": run.id,
            MARK: str(directory.path),
            **self._folders(run),
            "OMP_NUM_THREADS": threads,
            # Each thread's own arena reserves 64 MiB of the address space, which is limited.
            "MALLOC_ARENA_MAX": "2",
            # The runner keeps these to itself: its packages, and the kernel's connection files.
            "PYTHONPATH": str(Path(hub.__path__[0]).parent),
            "JUPYTER_RUNTIME_DIR": str(directory.path / "runtime"),
        }
