"""The files of runs and schedules: what was submitted, and what came out.

People's notebooks write here: nothing is followed.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from allocations.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INPUT, OUTPUT, LOG, EVENTS = "input.ipynb", "output.ipynb", "log.txt", "events.jsonl"
PROVENANCE = "provenance.json"
READ_BYTES_MAX = 200_000_000
# Of a run, of a sweep or schedule, which keeps the notebook of all its runs, or of one that waits to be submitted.
_ID = re.compile(r"(r|s|sc|n)-[0-9a-f]{20}")


class RunFiles:
    """A directory for each run, and for each schedule, under one root."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write_input(self, run_id: str, content: bytes) -> None:
        """Keep the submitted notebook, safely on disk when this returns."""
        directory = self._directory(run_id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = directory / f".{INPUT}.partial"
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(directory / INPUT)

    def remove_input(self, owner_id: str) -> None:
        """Remove the notebook of a draft or a schedule, all that its directory holds; whoever is first has done it."""
        directory = self._directory(owner_id)
        (directory / INPUT).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            directory.rmdir()

    def read(self, run_id: str, name: str, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """Return a file of a run.

        NotFoundError when it is not there; a link, a pipe or a file that is too large is refused, for the notebook
        could have put it in place of the real one.
        """
        with self._open(run_id, name) as (file, size):
            if size > bytes_max:
                raise InvalidInputError(
                    f"{name} is larger than {bytes_max // 1_000_000} MB.",
                    "Save large results as files from the notebook, not in its outputs.",
                )
            return file.read(bytes_max)

    def read_start(self, run_id: str, name: str, bytes_max: int) -> bytes:
        """Return the first bytes of a file of a run; errors as of `read`, but none is too large."""
        with self._open(run_id, name) as (file, _):
            return file.read(bytes_max)

    def read_end(self, run_id: str, name: str, bytes_max: int) -> tuple[bytes, int]:
        """Return the last bytes of a file of a run, and how many come before them; errors as of `read_start`."""
        with self._open(run_id, name) as (file, size):
            skipped = max(0, size - bytes_max)
            file.seek(skipped)
            return file.read(bytes_max), skipped

    @contextmanager
    def _open(self, run_id: str, name: str) -> Iterator[tuple[BinaryIO, int]]:
        """Open a plain file, with its size now: it may grow, and whoever reads says how much."""
        path = self._directory(run_id) / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise NotFoundError(f"The run has no {name} yet.", "Look again when it has begun.") from error
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise NotFoundError(f"{name} of the run is not a plain file.", "Run the notebook again.")
            yield file, status.st_size

    def _directory(self, run_id: str) -> Path:
        if not _ID.fullmatch(run_id):
            raise NotFoundError(f"There is no run {run_id!r}.", "Look it up in the list of runs.")
        return self._root / run_id
