"""A real PostgreSQL for tests: Debian's server binaries, a data directory of its own, a Unix socket, no service."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import psutil
import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER_ACCOUNT = "postgres"


def server_binaries() -> Path:
    """Return the folder of the newest installed server; RuntimeError says how to install one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found:
        raise RuntimeError("PostgreSQL's server is missing: run scripts/install-test-tools postgresql")
    return found[-1].parent


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server in a directory of its own."""

    directory: Path
    binaries: Path
    user: str
    as_server: tuple[str, ...]

    @property
    def url(self) -> str:
        """The URL of its database `postgres`."""
        return f"postgresql+psycopg://{self.user}@/postgres?host={self.directory}"

    @property
    def data(self) -> Path:
        """Where its files are."""
        return self.directory / "data"

    @property
    def pid_file(self) -> Path:
        """Where the running server notes its process."""
        return self.data / "postmaster.pid"

    def call(self, *command: str | Path) -> None:
        """Run a command as the server's account."""
        subprocess.run([*self.as_server, *map(str, command)], check=True, cwd=self.directory, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Start it and wait until it answers; after a crash this replays its log."""
        options = f"-c listen_addresses= -c unix_socket_directories={self.directory} -c max_connections=100"
        self.call(self.binaries / "pg_ctl", "-D", self.data, "-w", "-l", self.directory / "log", "-o", options, "start")

    def stop(self) -> None:
        """Stop it without waiting for anybody."""
        self.call(self.binaries / "pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    def crash(self) -> None:
        """Kill every process of it at once, as a power cut would: nobody is told and nothing is written any more."""
        postmaster = psutil.Process(int(self.pid_file.read_text().split()[0]))
        postmaster.suspend()  # it would start new children in place of the killed
        processes = [*postmaster.children(recursive=True), postmaster]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        while any(_lives(process) for process in processes):
            time.sleep(0.01)
        # Where nobody collects the dead, the next start would take the old process for one that lives.
        for noted in (self.pid_file, *self.directory.glob(".s.PGSQL.*.lock")):
            noted.unlink()


@contextmanager
def postgres_of_its_own() -> Iterator[PostgresServer]:
    """Start a server that the test may crash and start again; remove it all at the end."""
    binaries = server_binaries()
    directory = Path(mkdtemp(prefix="meridian-postgres-", dir="/tmp"))
    # PostgreSQL refuses to run as root: then it runs as the account that its package made.
    as_server = ("runuser", "-u", SERVER_ACCOUNT, "--") if os.geteuid() == 0 else ()
    user = SERVER_ACCOUNT if as_server else Path("~").expanduser().name
    if as_server:
        shutil.chown(directory, SERVER_ACCOUNT)
    server = PostgresServer(directory, binaries, user, as_server)
    try:
        server.call(binaries / "initdb", "-D", server.data, "-A", "trust", "-U", user, "-E", "UTF8", "--locale=C.UTF-8")
        server.start()
        yield server
    finally:
        if server.pid_file.exists():
            server.stop()
        shutil.rmtree(directory)


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server, give the URL of its database `postgres`, and remove it all at the end."""
    with postgres_of_its_own() as server:
        yield server.url


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def fresh_database(server_url: str, name: str, template: str = "template1") -> Iterator[str]:
    """Make a database on the server, empty or like another, give its URL, and drop it at the end."""
    plain = server_url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield server_url.replace("/postgres?", f"/{name}?")
    finally:
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
