"""Keeps an area to one worker, and asks before each destructive step whether it is still to go on.

The lock is a duty with a lease (see `allocations.duties`), renewed beside the work, which may take hours, by a thread
that ends with the process. A worker that slept past its lease finds out when it asks: nothing is removed without asking
again. Between the answer and the end of a batch another might begin: what both would remove is the same, each entry
compared with the plan at the moment of its removal.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from sqlalchemy.exc import SQLAlchemyError

from allocations.storage.purge.models import RunState

if TYPE_CHECKING:
    from allocations.db.database import Database
    from allocations.duties import Duties
    from allocations.storage.purge.store import PurgeStore

LOCK_SECONDS = 120
RENEWED_SECONDS = 20


class HaltError(Exception):
    """The work is not to go on now: it is stopped, or another worker has the area."""


def area_duty(area_id: str) -> str:
    """Return the duty (see `allocations.duties`) that whoever changes files of an area holds meanwhile."""
    return f"storage {area_id}"


@dataclass(kw_only=True)
class Held:
    """The lock of an area, which is taken already and let go at the end; a context manager."""

    database: Database
    purges: PurgeStore
    duties: Duties
    area_id: str
    run_id: str
    holder: str
    _over: threading.Event = field(default_factory=threading.Event)
    _lost: bool = False
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin to renew it."""
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Let it go."""
        self._over.set()
        assert self._thread is not None
        self._thread.join()
        self.duties.lay_down(area_duty(self.area_id), self.holder)

    def check(self) -> None:
        """Raise HaltError unless the area is still ours, and neither the run nor every purge is stopped."""
        if self._lost or not self.duties.take(area_duty(self.area_id), self.holder, LOCK_SECONDS):
            self._lost = True
            raise HaltError("another worker has the area")
        with self.database.read() as connection:
            run = self.purges.run(connection, self.run_id)
            if self.purges.stop(connection) is not None or run is None or run.state is not RunState.OPEN:
                raise HaltError("it is stopped")

    def _renew(self) -> None:
        while not self._over.wait(RENEWED_SECONDS):
            # A database that is away for a moment does not end the work: once it is back, the lock is renewed.
            with suppress(SQLAlchemyError):
                if not self.duties.take(area_duty(self.area_id), self.holder, LOCK_SECONDS):
                    self._lost = True
