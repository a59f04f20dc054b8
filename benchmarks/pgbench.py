"""Runs the bare transaction with pgbench, PostgreSQL's own load generator, and reads every transaction's latency."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from benchmarks.drive import Timing
from tests.postgres import server_binaries

if TYPE_CHECKING:
    from collections.abc import Mapping

SCRIPT = Path(__file__).with_name("bare.sql")
RATE = re.compile(r"^tps = ([0-9.]+) \(without initial connection time\)", re.MULTILINE)
THREADS = 2
LATENCY_COLUMN = 2
MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Pgbench:
    """The bare transaction on a database, by so many clients; its statements are prepared once on each connection."""

    url: str
    clients: int
    variables: Mapping[str, int]

    def run(self, count: int, roots: int, first_root: int, *, per_second: float | None = None) -> Timing:
        """Commit about `count` transactions on `roots` allocations.

        With a rate, transactions begin at random (Poisson) moments, and latencies count from the intended one.
        """
        url = make_url(self.url)
        variables = {**self.variables, "roots": roots, "first_root": first_root}
        with TemporaryDirectory(prefix="meridian-bench-") as directory:
            done = subprocess.run(
                [
                    server_binaries() / "pgbench",
                    f"--host={url.query['host']}",
                    f"--username={url.username}",
                    "--no-vacuum",
                    "--protocol=prepared",
                    f"--client={self.clients}",
                    f"--jobs={THREADS}",
                    f"--transactions={-(-count // self.clients)}",
                    *([f"--rate={per_second}"] if per_second else []),
                    *(f"--define={name}={value}" for name, value in variables.items()),
                    "--log",
                    f"--file={SCRIPT}",
                    str(url.database),
                ],
                check=False,
                capture_output=True,
                text=True,
                cwd=directory,
            )
            logs = [log.read_text() for log in Path(directory).glob("pgbench_log.*")]
        if done.returncode:
            raise RuntimeError(f"pgbench failed: {done.stderr}")
        each = [int(line.split()[LATENCY_COLUMN]) / MICROSECONDS for log in logs for line in log.splitlines()]
        found = RATE.search(done.stdout)
        assert found is not None, done.stdout
        return Timing(len(each) / float(found[1]), each)
