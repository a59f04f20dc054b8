"""Warns people of servers that cannot be renewed and so stop at the end of what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND
from allocations.leases.rules import may_run_until_ms
from allocations.notify.texts import to_date
from allocations.outbox import Notice, NoticeKind

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.models import Lease
    from allocations.leases.store import LeaseStore
    from allocations.lifecycle.models import Allocation
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.notify.store import NoticeStore
    from allocations.outbox import Outbox
    from allocations.policy.models import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWarningService:
    """Finds open leases that will not be renewed; each is told once, or once more when it was renewed since."""

    database: Database
    clock: Clock
    policy: Policy
    leases: LeaseStore
    allocations: AllocationStore
    notices: NoticeStore
    outbox: Outbox

    def warn(self) -> int:
        """Queue the warnings that are due; return how many there were."""
        with self.database.read() as connection:
            now_ms = self.clock.now_ms()
            last = [lease for lease in self.leases.last_quanta(connection) if lease.ends_at_ms > now_ms]
            told = self.notices.existing(connection, NoticeKind.SERVER_STOPS, [lease.id for lease in last])
            news = [lease for lease in last if (lease.person, lease.id, _threshold(lease)) not in told]
            warnings = self._warnings(connection, news)
        if warnings:
            with self.database.write() as connection:
                # A renewal after the look is seen when the mail is written.
                self.outbox.queue(connection, warnings, now_ms)
        return len(warnings)

    # ------------------------------------------------------------------ inside

    def _warnings(self, connection: Connection, leases: list[Lease]) -> list[Notice]:
        on = sorted({lease.allocation_id for lease in leases})
        nodes = self.allocations.with_ancestors(connection, on)
        people = sorted({lease.person for lease in leases})
        members = self.allocations.members_among(connection, on, people)
        return [
            Notice(
                lease.person,
                NoticeKind.SERVER_STOPS,
                lease.id,
                _threshold(lease),
                {
                    "name": nodes[lease.allocation_id].name,
                    "server": lease.server_name,
                    "ends_at_ms": lease.ends_at_ms,
                    "why": self._why(lease, _path(nodes, lease), (lease.allocation_id, lease.person) in members),
                },
            )
            for lease in leases
        ]

    def _why(self, lease: Lease, path: list[Allocation], is_member: bool) -> str:  # of one call
        """Return why a lease is not renewed, as the renewal decided it."""
        if not is_member:
            return "you are no longer a member there."
        until_ms = may_run_until_ms(path, self.policy.leases.allocation_end_grace_seconds)
        if until_ms == 0:
            return "it has been suspended, archived or closed."
        reached_ms = lease.ends_at_ms + MS_PER_SECOND
        if until_ms < reached_ms:
            return "the allocation ends."
        if lease.latest_end_at_ms < reached_ms:
            return "no server runs longer at a stretch; start a new one afterwards."
        return "the balance does not cover more."


def _path(nodes: dict[str, Allocation], lease: Lease) -> list[Allocation]:
    path = [nodes[lease.allocation_id]]
    while (parent := path[-1].parent_id) is not None:
        path.append(nodes[parent])
    return path


def _threshold(lease: Lease) -> str:
    """Return what tells warnings of one lease apart: what was renewed after all may stop on a later day."""
    return to_date(lease.ends_at_ms)
