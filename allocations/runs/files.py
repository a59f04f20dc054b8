"""The files of runs: what was submitted, and what came out. People's notebooks write here: nothing is followed."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from allocations.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

INPUT, OUTPUT, LOG = "input.ipynb", "output.ipynb", "log.txt"
READ_BYTES_MAX = 200_000_000
_RUN_ID = re.compile(r"r-[0-9a-f]{20}")


class RunFiles:
    """A directory for each run under one root."""

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

    def read(self, run_id: str, name: str) -> bytes:
        """Return a file of a run.

        NotFoundError when it is not there; a link, a pipe or a file that is too large is refused, for the notebook
        could have put it in place of the real one.
        """
        path = self._directory(run_id) / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise NotFoundError(f"The run has no {name} yet.", "Look again when it has begun.") from error
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise NotFoundError(f"{name} of the run is not a plain file.", "Run the notebook again.")
            if status.st_size > READ_BYTES_MAX:
                raise InvalidInputError(
                    f"{name} is larger than {READ_BYTES_MAX // 1_000_000} MB.",
                    "Save large results as files from the notebook, not in its outputs.",
                )
            return file.read()

    def _directory(self, run_id: str) -> Path:
        if not _RUN_ID.fullmatch(run_id):
            raise NotFoundError(f"There is no run {run_id!r}.", "Look it up in the list of runs.")
        return self._root / run_id
