"""Tells whoever's files may be in an area what a purge does there: before, in between, and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.outbox import Notice, NoticeKind
from allocations.storage.purge.models import PurgeState
from allocations.storage.purge.rules import ENDED_RULE

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.lifecycle.authority import Authority
    from allocations.storage.access import AreaAccess
    from allocations.storage.models import StoredArea
    from allocations.storage.purge.models import Purge

TOO_OLD = "are older than its rules allow"
NOTHING_REMOVED = "Nothing was removed."
COULD_NOT = "It could not be carried out, and nothing was removed."
# Nothing is counted before the end of the first batch.
BROKE_OFF_AT_ONCE = "It broke off at its very beginning. Should anything be gone all the same, it is in the archive."
NOBODYS = "belong to nobody who has an allocation that goes on"
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
_STEP = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeNotices:
    """Leaves the notices of purges in the outbox, each once whatever is done again."""

    access: AreaAccess
    authority: Authority

    def planned(self, connection: Connection, purge: Purge, area: StoredArea, ends_at_ms: int, place: str) -> None:
        """Tell what is planned, until when there is time, and where in the area the list is."""
        details: dict[str, str | int] = {
            "files": purge.files,
            "size": told_bytes(purge.bytes),
            "ends_at_ms": ends_at_ms,
            "list": place,
        }
        self._tell(connection, NoticeKind.PURGE_PLANNED, purge, area, "", details)

    def reminder(
        self, connection: Connection, purge: Purge, area: StoredArea, *, days: int, ends_at_ms: int, place: str
    ) -> None:
        """Tell it once more; `days` before the end tell one reminder from another."""
        details: dict[str, str | int] = {
            "files": purge.files,
            "size": told_bytes(purge.bytes),
            "ends_at_ms": ends_at_ms,
            "list": place,
        }
        self._tell(connection, NoticeKind.PURGE_REMINDER, purge, area, str(days), details)

    def done(self, connection: Connection, purge: Purge, area: StoredArea, keep_until_ms: int, place: str) -> None:
        """Tell what was deleted, what was left, and until when it can be restored."""
        details: dict[str, str | int] = {
            "files": purge.deleted_files,
            "size": told_bytes(purge.deleted_bytes),
            "left": purge.left_files,
            "ends_at_ms": keep_until_ms,
            "list": place,
        }
        self._tell(connection, NoticeKind.PURGE_DONE, purge, area, "", details)

    def called_off(self, connection: Connection, purge: Purge, to: PurgeState) -> None:
        """Tell those who were told of a purge that it is cancelled or has failed, and whether anything was removed.

        Why is not said: that is for administrators. `purge` is as it was before: files of the batch that it was at may
        be gone beyond those that it counts. Of one that nobody was told of, nothing is told.
        """
        if purge.window_ends_at_ms is None:
            return
        area = self.access.areas.find(connection, purge.area_id)
        assert area is not None, "a purge is of an area"
        kind = NoticeKind.PURGE_CALLED_OFF
        details: dict[str, str | int] = {"files": purge.files, "size": told_bytes(purge.bytes)}
        if purge.position:
            kind = NoticeKind.PURGE_BROKE_OFF
            details["gone"] = purge.deleted_files
        elif purge.state is PurgeState.DELETING:
            details["why"] = BROKE_OFF_AT_ONCE
        else:
            details["why"] = NOTHING_REMOVED if to is PurgeState.CANCELLED else COULD_NOT
        self._leave(connection, kind, purge, area, "", details)

    def _tell(
        self,
        connection: Connection,
        kind: NoticeKind,
        purge: Purge,
        area: StoredArea,
        threshold: str,
        details: dict[str, str | int],
    ) -> None:
        is_whole = any(one.name == ENDED_RULE for one in purge.summary.by_rule)
        details["why"] = NOBODYS if is_whole else TOO_OLD
        self._leave(connection, kind, purge, area, threshold, details)

    def _leave(
        self,
        connection: Connection,
        kind: NoticeKind,
        purge: Purge,
        area: StoredArea,
        threshold: str,
        details: dict[str, str | int],
    ) -> None:
        details["area"] = self.access.name(connection, area)
        people = self.access.concerned(connection, area)
        self.authority.tell(connection, *(Notice(person, kind, purge.id, threshold, details) for person in people))


def told_bytes(count: int) -> str:
    """Return a number of bytes as people read it: 1.5 GB of 1,500,000,000."""
    value, unit = float(count), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value /= _STEP
        unit += 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{count} {_UNITS[0]}"
