"""Decides whether what a notice says still holds: a worker that slept tells that, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, to_rfc3339
from allocations.leases.models import LeaseState
from allocations.lifecycle.models import (
    MANAGING_ROLES,
    USABLE_STATES,
    WAITING_STATES,
    AllocationState,
    InvitationState,
    RequestState,
)
from allocations.notify.models import PERISHABLE
from allocations.notify.reminders import threshold
from allocations.outbox import NoticeKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, RowMapping

    from allocations.notify.models import StoredNotice
    from allocations.notify.store import NoticeStore

STALE_MS = 14 * MS_PER_DAY
# What a change of an allocation's state told, and the states in which it is still so.
_STATES_OF_ALLOCATION = {
    NoticeKind.ENDS_SOON: USABLE_STATES,
    NoticeKind.ENDED: frozenset({AllocationState.GRACE}),
    NoticeKind.ARCHIVED: frozenset({AllocationState.ARCHIVED}),
    NoticeKind.SUSPENDED: frozenset({AllocationState.SUSPENDED}),
    NoticeKind.RESUMED: USABLE_STATES,
    NoticeKind.RENEWED: frozenset(AllocationState) - {AllocationState.ARCHIVED, AllocationState.CLOSED},
    NoticeKind.CLOSED: frozenset({AllocationState.CLOSED}),
}
_STATES_OF_REQUEST = {
    NoticeKind.REQUEST_SUBMITTED: frozenset({RequestState.SUBMITTED, RequestState.IN_REVIEW}),
    NoticeKind.REQUEST_WAITS: WAITING_STATES,
    NoticeKind.REVISION_REQUESTED: frozenset({RequestState.REVISION_REQUESTED}),
    NoticeKind.REQUEST_APPROVED: frozenset({RequestState.APPROVED}),
    NoticeKind.REQUEST_DECLINED: frozenset({RequestState.DECLINED}),
}
_OF_AN_END = frozenset({NoticeKind.STORAGE_ENDED, NoticeKind.STORAGE_ARCHIVED_SOON, NoticeKind.STORAGE_RETURNED})
_OF_PURGE = frozenset({NoticeKind.PURGE_PLANNED, NoticeKind.PURGE_REMINDER})
# What storage calls purges that are over.
_ENDED_PURGES = frozenset({"done", "cancelled", "failed"})
_OF_SCHEDULE = frozenset({NoticeKind.SCHEDULE_REFUSED, NoticeKind.SCHEDULE_PAUSED})
_OF_STORAGE = _OF_AN_END | {NoticeKind.STORAGE_NEARING, NoticeKind.STORAGE_OVER, NoticeKind.STORAGE_LOCKED}


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthService:
    """What may still be told by mail."""

    notices: NoticeStore

    def still_true(self, connection: Connection, pending: Sequence[StoredNotice], now_ms: int) -> list[StoredNotice]:
        """Return the notices that hold and were not read on the page; of an allocation's reminders the last one."""
        last_reminder = {notice.subject: notice.id for notice in pending if notice.kind is NoticeKind.ENDS_SOON}
        return [
            notice
            for notice in pending
            if last_reminder.get(notice.subject, notice.id) == notice.id or notice.kind is not NoticeKind.ENDS_SOON
            if self._holds(connection, notice, now_ms)
        ]

    def _holds(self, connection: Connection, notice: StoredNotice, now_ms: int) -> bool:
        is_stale = notice.kind not in PERISHABLE and now_ms - notice.created_at_ms > STALE_MS
        if is_stale or notice.read_at_ms is not None:
            return False
        if notice.kind in _STATES_OF_ALLOCATION:
            return self._of_allocation(connection, notice, now_ms)
        if notice.kind in _STATES_OF_REQUEST:
            request = self.notices.requests(connection, [notice.subject]).get(notice.subject)
            return request is not None and request["state"] in _STATES_OF_REQUEST[notice.kind]
        if notice.kind is NoticeKind.MEMBER_REMOVED:
            return self.notices.role(connection, notice.subject, notice.person) is None
        if notice.kind in _OF_SCHEDULE:
            return self._of_schedule(connection, notice)
        return self._is_open(connection, notice, now_ms)

    def _is_open(self, connection: Connection, notice: StoredNotice, now_ms: int) -> bool:
        """Return whether an invitation waits, a server runs out, an override or suspension is in force, a purge
        goes on, or an area of storage has too much in it, has ended or has come back.

        True for other kinds.
        """
        if notice.kind is NoticeKind.INVITED:
            found = self.notices.invitations(connection, [notice.subject]).get(notice.subject)
            return found is not None and found["state"] == InvitationState.PENDING and found["ends_at_ms"] > now_ms
        if notice.kind is NoticeKind.SERVER_STOPS:
            found = self.notices.lease(connection, notice.subject)
            if found is None or found["state"] != LeaseState.OPEN:
                return False
            return bool(found["final"]) and found["ends_at_ms"] > now_ms
        if notice.kind is NoticeKind.OVERRIDE_GRANTED:
            found = self.notices.overrides(connection, [notice.subject]).get(notice.subject)
            return found is not None and found["revoked_at_ms"] is None and found["ends_at_ms"] > now_ms
        if notice.kind is NoticeKind.PERSON_SUSPENDED:
            found = self.notices.suspension(connection, notice.subject)
            return found is not None and found["lifted_at_ms"] is None
        return notice.kind not in _OF_STORAGE | _OF_PURGE or self._of_storage(connection, notice)

    def _of_schedule(self, connection: Connection, notice: StoredNotice) -> bool:
        """Return whether a schedule goes on being refused, or is paused for it."""
        schedule = self.notices.schedule(connection, notice.subject)
        if schedule is None:
            return False
        if notice.kind is NoticeKind.SCHEDULE_PAUSED:
            return schedule["pause_reason"] is not None
        return schedule["refusals"] > 0 and schedule["next_at_ms"] is not None

    def _of_storage(self, connection: Connection, notice: StoredNotice) -> bool:
        """Return whether a purge goes on, or an area nears its limit still, or is over it or has ended since it was
        told."""
        if notice.kind in _OF_PURGE:
            purge = self.notices.purge(connection, notice.subject)
            return purge is not None and purge["state"] not in _ENDED_PURGES
        return self._of_an_end(connection, notice) if notice.kind in _OF_AN_END else self._of_use(connection, notice)

    def _of_an_end(self, connection: Connection, notice: StoredNotice) -> bool:
        """Return whether an area has ended still as it was told, or has come back and not ended again."""
        end = self.notices.storage_end(connection, notice.subject)
        if end is None or notice.kind is NoticeKind.STORAGE_RETURNED:
            return end is None and notice.kind is NoticeKind.STORAGE_RETURNED
        return str(end["seen_at_ms"]) == notice.threshold.partition(" ")[0]

    def _of_use(self, connection: Connection, notice: StoredNotice) -> bool:
        """Return whether an area takes as much as it was told."""
        area = self.notices.storage_area(connection, notice.subject)
        if area is None:
            return False
        if notice.kind is NoticeKind.STORAGE_NEARING:
            return area["over_since_ms"] is None and (area["bytes"] or 0) >= int(notice.details["at_least_bytes"])
        return area["over_since_ms"] is not None and to_rfc3339(area["over_since_ms"]) == notice.threshold

    def _of_allocation(self, connection: Connection, notice: StoredNotice, now_ms: int) -> bool:
        """Return whether the allocation is as the notice says, and its reader still belongs to it."""
        allocation = self.notices.allocations(connection, [notice.subject]).get(notice.subject)
        role = self.notices.role(connection, notice.subject, notice.person)
        if allocation is None or role is None:
            return False
        if allocation["state"] not in _STATES_OF_ALLOCATION[notice.kind]:
            return False
        if notice.kind is NoticeKind.ENDS_SOON:
            return role in MANAGING_ROLES and _ends_soon(notice, allocation, now_ms)
        if notice.kind is NoticeKind.RENEWED:
            return bool(notice.details.get("ends_at_ms", allocation["ends_at_ms"]) == allocation["ends_at_ms"])
        return True


def _ends_soon(notice: StoredNotice, allocation: RowMapping, now_ms: int) -> bool:
    """Return whether the allocation still ends on the day that the reminder was queued for, without a renewal."""
    ends_at_ms = allocation["ends_at_ms"]
    days = int(notice.threshold.rpartition("/")[2])
    same_end = threshold(ends_at_ms, days) == notice.threshold
    return bool(same_end and allocation["renewal"] is None and ends_at_ms > now_ms)
