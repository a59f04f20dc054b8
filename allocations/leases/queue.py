"""The queues in front of admission and of the ends of leases: what comes together is decided together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

from allocations.errors import AllocationsError
from allocations.leases.batching import Batching

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from allocations.db.database import Database
    from allocations.leases.accounting import Accounting
    from allocations.leases.admission import Admission, Answer, Asked
    from allocations.leases.models import Ending
    from allocations.leases.showing import LeaseViews
    from allocations.leases.views import LeaseView

# Each lane uses a connection, of which the pool has more.
LANES = 3


class LeaseQueue:
    """Decides together what is asked for together, in transactions that lock their trees in one order."""

    def __init__(
        self,
        database: Database,
        admission: Admission,
        accounting: Accounting,
        shown: LeaseViews,
    ) -> None:
        self._database = database
        self._admission = admission
        self._accounting = accounting
        self._shown = shown
        # SQLite has one writer.
        lanes = 1 if database.is_sqlite else LANES
        self._admitting: Batching[Asked, LeaseView] = Batching("admission", self._decide, lanes)
        self._ending: Batching[Ending, LeaseView] = Batching("ending", self._end, lanes)

    def admit(self, asked: Asked) -> Future[LeaseView]:
        """Queue a request for a lease."""
        return self._admitting.submit(asked)

    def end(self, ending: Ending) -> Future[LeaseView]:
        """Queue the end of a lease."""
        return self._ending.submit(ending)

    def _decide(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        try:
            return self._once(asked)
        except IntegrityError:
            # Another process may have answered one of the keys meanwhile: look again.
            return self._once(asked)

    def _once(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        with self._database.write() as connection:
            return self._admission.decide(connection, asked)

    def _end(self, endings: Sequence[Ending]) -> Sequence[Answer]:
        with self._database.write() as connection:
            outcomes = self._accounting.end(connection, endings)
            ended = [one for one in outcomes if not isinstance(one, AllocationsError)]
            views = iter(self._shown.of(connection, ended))
            return [one if isinstance(one, AllocationsError) else next(views) for one in outcomes]
