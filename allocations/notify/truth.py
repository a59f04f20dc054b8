"""Decides whether what a notice says still holds: a worker that slept tells that, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY
from allocations.lifecycle.models import (
    MANAGING_ROLES,
    USABLE_STATES,
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
    NoticeKind.REVISION_REQUESTED: frozenset({RequestState.REVISION_REQUESTED}),
    NoticeKind.REQUEST_APPROVED: frozenset({RequestState.APPROVED}),
    NoticeKind.REQUEST_DECLINED: frozenset({RequestState.DECLINED}),
}


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
        if notice.read_at_ms is not None:
            return False
        if notice.kind not in PERISHABLE and now_ms - notice.created_at_ms > STALE_MS:
            return False
        if notice.kind in _STATES_OF_ALLOCATION:
            return self._of_allocation(connection, notice, now_ms)
        if notice.kind in _STATES_OF_REQUEST:
            request = self.notices.request(connection, notice.subject)
            return request is not None and request["state"] in _STATES_OF_REQUEST[notice.kind]
        if notice.kind is NoticeKind.MEMBER_REMOVED:
            return self.notices.role(connection, notice.subject, notice.person) is None
        return self._is_open(connection, notice, now_ms)

    def _is_open(self, connection: Connection, notice: StoredNotice, now_ms: int) -> bool:
        """Return whether an invitation waits for its answer or an override is in force; True for other kinds."""
        if notice.kind is NoticeKind.INVITED:
            found = self.notices.invitation(connection, notice.subject)
            return found is not None and found["state"] == InvitationState.PENDING and found["ends_at_ms"] > now_ms
        if notice.kind is NoticeKind.OVERRIDE_GRANTED:
            found = self.notices.override(connection, notice.subject)
            return found is not None and found["revoked_at_ms"] is None and found["ends_at_ms"] > now_ms
        return True

    def _of_allocation(self, connection: Connection, notice: StoredNotice, now_ms: int) -> bool:
        """Return whether the allocation is as the notice says, and its reader still belongs to it."""
        allocation = self.notices.allocation(connection, notice.subject)
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
