"""Stores the audit log; decides nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from allocations.db import schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Row


class AuditStore:
    """The append-only record of who did what, when and why."""

    def add(
        self,
        connection: Connection,
        *,
        at_ms: int,
        actor: str,
        action: str,
        subject: str,
        policy_version: str,
        why: str = "",
        details: Mapping[str, object] | None = None,
    ) -> None:
        """Append an entry."""
        connection.execute(
            insert(schema.audit).values(
                at_ms=at_ms,
                actor=actor,
                action=action,
                subject=subject,
                why=why,
                details=json.dumps(details or {}, sort_keys=True),
                policy_version=policy_version,
            )
        )

    def entries(
        self, connection: Connection, *, limit: int, before_id: int | None = None, subject: str | None = None
    ) -> list[Row[Any]]:
        """Return entries, newest first: at most `limit`, older than `before_id` when given."""
        query = select(schema.audit).order_by(schema.audit.c.id.desc()).limit(limit)
        if before_id is not None:
            query = query.where(schema.audit.c.id < before_id)
        if subject is not None:
            query = query.where(schema.audit.c.subject == subject)
        return list(connection.execute(query))
