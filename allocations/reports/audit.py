"""What is shown of the audit log: pages of it, and files of what is looked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from allocations.clock import to_rfc3339
from allocations.leases.views import View
from allocations.reports.exports import FileFormat, to_csv, to_json_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Row

    from allocations.db.database import Database
    from allocations.lifecycle.stores.audit import AuditFilter, AuditStore

AUDIT_PAGE = 100
# A page looks for words among so many entries, then says how far it came: it answers however long the log is.
SEARCHED_AT_ONCE = 20_000
EXPORTED_AT_ONCE = 1_000
FILE_COLUMNS = ("id", "at", "actor", "action", "subject", "why", "details", "policy_version")


class AuditEntryView(View):
    """An entry of the audit log."""

    id: int
    at: str
    actor: str
    action: str
    subject: str
    why: str
    details: dict[str, Any]
    policy_version: str

    @classmethod
    def from_row(cls, row: Row[Any]) -> AuditEntryView:
        """Show a row of the log."""
        return cls(
            id=row.id,
            at=to_rfc3339(row.at_ms),
            actor=row.actor,
            action=row.action,
            subject=row.subject,
            why=row.why,
            details=json.loads(row.details),
            policy_version=row.policy_version,
        )


class AuditPage(View):
    """Entries, newest first; `next_before` continues, None at the end.

    With words to look for, a page may hold few entries, or none, and be continued all the same.
    """

    entries: list[AuditEntryView]
    next_before: int | None


def read_audit(connection: Connection, log: AuditStore, wanted: AuditFilter, before_id: int | None = None) -> AuditPage:
    """Return a page of the log."""
    rows = log.entries(connection, limit=AUDIT_PAGE + 1, before_id=before_id, wanted=wanted, looked_at=SEARCHED_AT_ONCE)
    shown = rows[:AUDIT_PAGE]
    next_before = shown[-1].id if len(rows) > AUDIT_PAGE else None
    if next_before is None and wanted.words:
        next_before = log.after(connection, SEARCHED_AT_ONCE, before_id, wanted)
    return AuditPage(entries=[AuditEntryView.from_row(row) for row in shown], next_before=next_before)


def audit_file(database: Database, log: AuditStore, wanted: AuditFilter, written_as: FileFormat) -> Iterator[str]:
    """Yield a file of all entries that are wanted, newest first, as CSV or JSON lines."""
    entries = _entries(database, log, wanted)
    if written_as is FileFormat.JSON_LINES:
        return to_json_lines(entry.model_dump() for entry in entries)
    rows = (entry.model_dump() | {"details": json.dumps(entry.details, ensure_ascii=False)} for entry in entries)
    return to_csv(FILE_COLUMNS, rows)


def _entries(database: Database, log: AuditStore, wanted: AuditFilter) -> Iterator[AuditEntryView]:
    """Read the log in pieces, each in a transaction of its own: nothing of it changes, and what is new comes before."""
    before_id = None
    while True:
        with database.read() as connection:
            rows = log.entries(connection, limit=EXPORTED_AT_ONCE, before_id=before_id, wanted=wanted)
        yield from (AuditEntryView.from_row(row) for row in rows)
        if len(rows) < EXPORTED_AT_ONCE:
            return
        before_id = rows[-1].id
