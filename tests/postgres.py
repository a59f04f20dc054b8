"""A real PostgreSQL for tests: Debian's server binaries, a data directory of its own, a Unix socket, no service."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

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


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server, give the URL of its database `postgres`, and remove it all at the end."""
    binaries = server_binaries()
    directory = Path(mkdtemp(prefix="meridian-postgres-", dir="/tmp"))
    data = directory / "data"
    # PostgreSQL refuses to run as root: then it runs as the account that its package made.
    as_server = ["runuser", "-u", SERVER_ACCOUNT, "--"] if os.geteuid() == 0 else []
    user = SERVER_ACCOUNT if as_server else Path("~").expanduser().name
    if as_server:
        shutil.chown(directory, SERVER_ACCOUNT)

    def call(*command: str | Path) -> None:
        subprocess.run([*as_server, *map(str, command)], check=True, cwd=directory, stdout=subprocess.DEVNULL)

    try:
        call(binaries / "initdb", "-D", data, "-A", "trust", "-U", user, "-E", "UTF8", "--locale=C.UTF-8")
        options = f"-c listen_addresses= -c unix_socket_directories={directory} -c max_connections=100"
        call(binaries / "pg_ctl", "-D", data, "-w", "-l", directory / "log", "-o", options, "start")
        yield f"postgresql+psycopg://{user}@/postgres?host={directory}"
    finally:
        if (data / "postmaster.pid").exists():
            call(binaries / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(directory)


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
