"""Duties that one process at a time has, such as the worker's; kept in the database, so that replicas can agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from allocations.clock import MS_PER_SECOND
from allocations.db.schema import duties

if TYPE_CHECKING:
    from allocations.clock import Clock
    from allocations.db.database import Database

WORKER_DUTY = "worker"
NEVER_MS = 0


class Duties:
    """Who leads, and when they last did their work."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def take(self, name: str, holder: str, seconds: int) -> bool:
        """Take or keep a duty for some seconds; False while another holds it. It is done only when `done` says so.

        Two that take it at once update one row under its lock: the second sees the first as the holder.
        """
        now_ms = self._clock.now_ms()
        values = {"holder": holder, "until_ms": now_ms + seconds * MS_PER_SECOND}
        try:
            with self._database.write() as connection:
                if connection.execute(select(duties.c.name).where(duties.c.name == name)).one_or_none() is None:
                    connection.execute(insert(duties).values(name=name, beat_at_ms=NEVER_MS, **values))
                    return True
                free = or_(duties.c.holder == holder, duties.c.until_ms < now_ms)
                return (
                    connection.execute(update(duties).where(duties.c.name == name, free).values(**values)).rowcount == 1
                )
        except IntegrityError:
            return False

    def done(self, name: str, holder: str, begun_ms: int) -> None:
        """Note that the holder has done all that was due when it began, at `begun_ms`."""
        with self._database.write() as connection:
            connection.execute(
                update(duties).where(duties.c.name == name, duties.c.holder == holder).values(beat_at_ms=begun_ms)
            )

    def lay_down(self, name: str, holder: str) -> None:
        """Give a duty up, so that another may take it at once."""
        with self._database.write() as connection:
            connection.execute(
                update(duties).where(duties.c.name == name, duties.c.holder == holder).values(until_ms=0)
            )

    def lag_seconds(self, name: str) -> float | None:
        """Return the seconds since the duty was last begun and then done, None when never."""
        with self._database.read() as connection:
            beat = connection.execute(select(duties.c.beat_at_ms).where(duties.c.name == name)).scalar_one_or_none()
        return None if beat in {None, NEVER_MS} else max(0, self._clock.now_ms() - beat) / MS_PER_SECOND
