"""What the hub tells of a running server's time: to the server itself and on the servers page.

The service knows the lease, the hub knows when the server was last used.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from hub.client import AllocationDenied, AllocationsUnavailableError, Outlook
from hub.spawner.record import utc_now

if TYPE_CHECKING:
    from hub.spawner.mixin import AllocationSpawnerMixin

# A page does not wait longer for what is only good to know.
PAGE_WAIT_SECONDS = 2.0


class Session(Outlook):
    """An outlook at a moment by the hub's clock; unused from now on, the server is stopped at `idle_stops_at`."""

    now: datetime
    idle_stops_at: datetime

    @property
    def seconds_left(self) -> float:
        """How long a server that is used can go on."""
        return (self.stops_at - self.now).total_seconds()

    @property
    def idle_seconds_left(self) -> float:
        """How long it goes on if nobody uses it."""
        return min(self.seconds_left, (self.idle_stops_at - self.now).total_seconds())


def to_session(outlook: Outlook, last_activity: datetime | None, now: datetime) -> Session:
    """Add what the hub knows; `last_activity` as its database has it, in UTC without saying so."""
    used_at = max(outlook.used_at, last_activity.replace(tzinfo=UTC)) if last_activity else outlook.used_at
    idle_stops_at = used_at + timedelta(seconds=outlook.idle_seconds)
    return Session(**outlook.model_dump(), now=now, idle_stops_at=idle_stops_at)


async def session_of(spawner: AllocationSpawnerMixin) -> Session | None:
    """The session of a server, None without a lease. Raises AllocationDenied and AllocationsUnavailableError."""
    if spawner.lease_id is None:
        return None
    outlook = await spawner.allocations_client.outlook(spawner.lease_id)
    return to_session(outlook, spawner.last_activity, utc_now())


async def extend_session(spawner: AllocationSpawnerMixin) -> Session | None:
    """Extend the session of a server and return it; otherwise as `session_of`."""
    if spawner.lease_id is None:
        return None
    outlook = await spawner.allocations_client.extend(spawner.lease_id)
    return to_session(outlook, spawner.last_activity, utc_now())


async def session_for_page(spawner: AllocationSpawnerMixin) -> Session | None:
    """As `session_of`; None also when the service does not answer soon, for the page stands without it."""
    try:
        return await asyncio.wait_for(session_of(spawner), PAGE_WAIT_SECONDS)
    except (AllocationDenied, AllocationsUnavailableError, TimeoutError):
        return None
