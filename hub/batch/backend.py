"""Where runs execute: the narrow interface between the executor and a place (local processes, Jobs)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hub.batch.ends import LOST

if TYPE_CHECKING:
    from hub.batch.model import Run, RunError, RunResult


class StartError(Exception):
    """The run cannot be started here; the message says why and what to do."""


class StartRefusedError(Exception):
    """The run cannot be started as it was submitted, here or elsewhere: trying again would not help."""

    def __init__(self, error: RunError) -> None:
        super().__init__(error.message)
        self.error = error


class BackendUnavailableError(Exception):
    """The place does not answer now, or is not ready yet: nothing can be said of its runs, and nothing is lost."""


@dataclass(frozen=True)
class Running:
    """The runner lives. `started_at` (RFC 3339) is unknown in its first moments."""

    started_at: str | None


@dataclass(frozen=True)
class Exited:
    """The runner has recorded how the attempt ended; the node and the image's digest, where the place knows them."""

    result: RunResult
    node: str | None = None
    image_id: str | None = None


@dataclass(frozen=True)
class Gone:
    """There is no runner and no result: it never started, or it died; `why`, where the place knows, and its code."""

    why: str = ""
    code: str = LOST


Sight = Running | Exited | Gone


class Backend(Protocol):
    """A place that executes runs and remembers them itself: the executor may die at any moment.

    Every method may be called again for the same attempt with no further effect, and raises BackendUnavailableError
    when the place does not answer. `outlives`: runs go on when their executor is stopped, and the next one finds them.
    """

    outlives: bool

    def start(self, run: Run) -> None:
        """Start the run's current attempt. Raises StartError, StartRefusedError."""

    def look(self, run: Run) -> Sight:
        """What has become of the run's current attempt. The result counts first, the process second."""

    def stop(self, run_id: str, *, kill: bool) -> None:
        """Ask the run to stop and record its result, or (`kill`) end all of its processes now."""

    def release(self, run_id: str) -> None:
        """Remove what is left here of a run that has ended, or that nobody pays for, whatever it still does."""

    def running(self) -> set[str]:
        """The ids of all runs that have a process here, whoever started them."""
