"""What is shown of the audit log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from allocations.clock import to_rfc3339
from allocations.leases.views import View

if TYPE_CHECKING:
    from sqlalchemy import Row

AUDIT_PAGE = 100


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
