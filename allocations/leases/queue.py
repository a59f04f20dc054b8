"""The queue in front of admission: simultaneous requests gather in a few lanes, each tree always in the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from sqlalchemy.exc import IntegrityError

from allocations.leases.batching import Batching

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from allocations.db.database import Database
    from allocations.leases.admission import Admission, Answer, Asked
    from allocations.leases.views import LeaseView
    from allocations.lifecycle.stores.allocations import AllocationStore

# Each lane uses a connection, of which the pool has more. More lanes would mean smaller batches: measured, a few carry
# most, on one hot tree as on many cold ones.
LANES = 3
ROOTS_MAX = 100_000


class AdmissionQueue:
    """Decides together what is asked for together; a tree that must be waited for holds up its own lane alone."""

    def __init__(self, database: Database, admission: Admission, allocations: AllocationStore) -> None:
        self._database = database
        self._admission = admission
        self._allocations = allocations
        self._roots: dict[str, str] = {}
        # SQLite has one writer, whatever the tree.
        self._batching: Batching[Asked, LeaseView] = Batching(self._decide, 1 if database.is_sqlite else LANES)

    def submit(self, asked: Asked) -> Future[LeaseView]:
        """Queue a request, in the lane of its root where that is known: a root never changes.

        The first request of each allocation is decided in the lane of its own id, and teaches the root.
        """
        allocation_id = asked.request.allocation
        root = self._roots.get(allocation_id, allocation_id)
        return self._batching.submit("" if self._database.is_sqlite else str(crc32(root.encode()) % LANES), asked)

    def _decide(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        try:
            return self._once(asked)
        except IntegrityError:
            # Another process may have answered one of the keys meanwhile: look again.
            return self._once(asked)

    def _once(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        with self._database.write() as connection:
            answers = self._admission.decide(connection, asked)
            for allocation_id in {one.request.allocation for one in asked} - self._roots.keys():
                allocation = self._allocations.get(connection, allocation_id)
                if allocation is not None:
                    self._roots[allocation_id] = allocation.root_id
        if len(self._roots) > ROOTS_MAX:
            self._roots.clear()
        return answers
