"""The parts that chaos kills: processes of the platform, of the cluster's control plane, and a PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.postgres import PostgresServer

CONTROL_PLANE = ("apiserver", "etcd", "kubelet", "containerd")


class Part(Protocol):
    """Something that runs, is killed without a warning, and runs again."""

    @property
    def name(self) -> str: ...

    def lives(self) -> bool: ...

    def kill(self) -> None:
        """kill -9; returns when it is dead."""

    def start(self) -> None:
        """Start what is dead, as it was."""


@dataclass
class Child:
    """A process of the platform."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=dict(self.environment), stdout=log, stderr=log, cwd=self.folder
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass
class OfCluster:
    """A part of the test cluster, known by the process id that its script wrote; started anew just as it was."""

    name: str
    state: Path
    command: list[str] = field(init=False)
    folder: str = field(init=False)
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        found = psutil.Process(self._pid)
        self.command, self.folder, self.environment = found.cmdline(), found.cwd(), found.environ()

    def lives(self) -> bool:
        return is_alive(self._pid)

    def kill(self) -> None:
        pid = self._pid
        os.kill(pid, signal.SIGKILL)
        while is_alive(pid):
            time.sleep(0.01)

    def start(self) -> None:
        self._pid_file.unlink()
        # A session of its own, as the script makes: it outlives the tests.
        noted = ["setsid", "--fork", "bash", "-c", 'echo $$ >"$0.new" && mv "$0.new" "$0" && exec "$@"']
        with (self.state / "log" / f"{self.name}.log").open("ab") as log:
            subprocess.run(
                [*noted, self._pid_file, *self.command],
                check=True,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while not self._pid_file.exists():
            time.sleep(0.01)

    @property
    def _pid_file(self) -> Path:
        return self.state / "run" / f"{self.name}.pid"

    @property
    def _pid(self) -> int:
        return int(self._pid_file.read_text())


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and that nobody has collected does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclass
class PostgresPart:
    """A PostgreSQL with all its processes."""

    server: PostgresServer
    name: str = "postgresql"
    _alive: bool = True

    def lives(self) -> bool:
        return self._alive

    def kill(self) -> None:
        self.server.crash()
        self._alive = False

    def start(self) -> None:
        self.server.start()
        self._alive = True


def control_plane(state: Path) -> list[Part]:
    """The parts of the test cluster in a folder, as they run now."""
    return [OfCluster(name, state) for name in CONTROL_PLANE]
